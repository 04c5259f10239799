"""Compiles benches/limit.cpp."""


def program():
    return None
