"""MapReduce over text and logs, in S3 or in a folder: Python on top, native code below.

import mrfast
result = mrfast.run("apps/wc.py", ["books/"])
for word, count in result.records(): ...

from mrfast import ops       what an application may name
from mrfast import core      the native kernels by themselves
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import ops
    from .api import JobResult, plan, run, verify
    from .counting import count
    from .errors import (
        AlreadyExists,
        AppError,
        AppRefused,
        BadInput,
        BadRecord,
        BoundPassed,
        CoordinatorLost,
        CorruptSegment,
        InputMissing,
        JobFailed,
        MrfastError,
        NameInUse,
        NotFound,
        OutputExists,
        PortInUse,
        PreconditionFailed,
        StoreError,
        UnknownJob,
        UsageError,
    )
    from .parameters import param

__version__ = "0.1.0"

__all__ = [
    "AlreadyExists",
    "AppError",
    "AppRefused",
    "BadInput",
    "BadRecord",
    "BoundPassed",
    "CoordinatorLost",
    "CorruptSegment",
    "InputMissing",
    "JobFailed",
    "JobResult",
    "MrfastError",
    "NameInUse",
    "NotFound",
    "OutputExists",
    "PortInUse",
    "PreconditionFailed",
    "StoreError",
    "UnknownJob",
    "UsageError",
    "__version__",
    "count",
    "ops",
    "param",
    "plan",
    "run",
    "verify",
]

_MODULES = {"core", "ops"}
_HOMES = {"plan": "api", "run": "api", "verify": "api", "JobResult": "api", "count": "counting", "param": "parameters"}


def __getattr__(name: str) -> Any:
    """Loads what is asked for: `import mrfast` alone costs next to nothing."""
    if name in _MODULES:
        return import_module(f"mrfast.{name}")
    if name not in __all__:
        raise AttributeError(f"module 'mrfast' has no attribute {name!r}")
    found = getattr(import_module(f"mrfast.{_HOMES.get(name, 'errors')}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
