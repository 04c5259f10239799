"""Which native op may do what a Python function does: a guess by the names and constants in its code, for advice.

It looks at nothing but the compiled function, so that it costs microseconds and can say the same on every worker.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import CodeType
from typing import Any

# Who wrote more than this had more in mind than an op does.
CODE_BYTES_MAX = 600
LETTERS = ("unicode", "ascii", "space")
# The first whose names are all in the function, in order.
REDUCES = (
    (("sorted", "join"), "ops.index()"),
    (("fmean",), "ops.mean()"),
    (("mean",), "ops.mean()"),
    (("sum", "len"), "ops.mean()"),
    (("sum",), "ops.sum()"),
    (("fsum",), "ops.sum()"),
    (("nlargest",), "ops.top(n)"),
    (("join",), "ops.concat(sep)"),
    (("min",), "ops.min()"),
    (("max",), "ops.max()"),
    (("len",), "ops.count()"),
    (("next",), "ops.first()"),
)


def native_op(role: str, function: Any) -> str:
    """The op that may do what `function` does as a map, combine or reduce, as one writes it; empty if none is known.

    It is a guess: the function may do more.
    """
    code = getattr(function, "__code__", None)
    if not isinstance(code, CodeType) or sum(len(part.co_code) for part in _codes(code)) > CODE_BYTES_MAX:
        return ""
    names = {name for part in _codes(code) for name in part.co_names}
    if role == "map":
        return _map_op(names, [const for part in _codes(code) for const in part.co_consts])
    return next((op for wanted, op in REDUCES if names.issuperset(wanted)), "")


def _map_op(names: set[str], consts: list[Any]) -> str:
    seps = [const for const in consts if isinstance(const, (str, bytes)) and len(const) == 1]
    if "tokens" in names or names & {"findall", "finditer", "isalpha"}:
        letters = next((const for const in consts if const in LETTERS), "unicode")
        rest = ', value="filename", distinct=True' if "set" in names else ""
        return f'ops.words(letters="{letters}"{rest})'
    if "split" in names and seps:
        sep = seps[0] if isinstance(seps[0], str) else seps[0].decode("latin-1")
        return f"ops.fields(sep={sep!r}, key=...)"
    if "split" in names:
        return 'ops.words(letters="space")'
    return "ops.grep(pattern)" if names & {"search", "match", "fullmatch"} else ""


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for const in code.co_consts:
        if isinstance(const, CodeType):
            yield from _codes(const)
