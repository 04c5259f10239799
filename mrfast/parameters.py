"""`mrfast.param`: what the one who starts a job tells its application, known from the application's first line on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mrfast.errors import ParamMissing, UsageError

_REQUIRED: Any = object()
_current: dict[str, str] = {}


def param(name: str, default: Any = _REQUIRED) -> Any:
    """The job's parameter `name`, as text: what `--param name=...` or `params=` says; else `default`.

    While the application loads, and in its functions. ParamMissing if it is not given and has no default.
    """
    if name in _current:
        return _current[name]
    if default is _REQUIRED:
        raise ParamMissing(f"the parameter {name!r} is not given: add --param {name}=... or params={{{name!r}: ...}}")
    return default


def use(params: Mapping[str, str]) -> dict[str, str]:
    """From now on these are the parameters of this process; gives those before."""
    global _current
    before, _current = _current, dict(params)
    return before


def checked(params: Mapping[str, str] | None) -> dict[str, str]:
    """The parameters by name; UsageError for what is no text."""
    found = dict(params or {})
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, str) or not name:
            raise UsageError(f"params: {name!r}: {value!r:.60}: names and values are text")
    return found


def parsed(texts: Iterable[str]) -> dict[str, str]:
    """The parameters that `k=v` texts name; UsageError for what is none, or comes twice."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise UsageError(f"--param {text}: write it as --param name=value")
        if name in found:
            raise UsageError(f"--param {name} is given twice")
        found[name] = value
    return found
