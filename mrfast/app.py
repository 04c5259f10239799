"""Loading and checking an application: a Python file with `map` and `reduce`, or two functions."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from types import CodeType, FunctionType, ModuleType
from typing import Any

import xxhash

from mrfast import ops, parameters, zstd
from mrfast.errors import AppError
from mrfast.model import AppInfo, InputCut
from mrfast.natively import native_op

INPUTS = ("file", "blocks", "lines", "jsonl", "csv")
OUTPUTS = ("text", "tsv", "raw", "jsonl")

# What combines the same however often it runs, and then looks to a Python reduce like the values themselves.
_COMBINES_FOR_PYTHON = ("sum", "min", "max", "first")
# What gains nothing from a combiner: it keeps every value.
_KEEPS_ALL = ("concat", "identity")

_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_OURS = (_PACKAGE, "mrfast/_core", "<frozen importlib")  # Cython names its sources as they were at the build
_CO_VARARGS, _CO_ASYNC = 0x04, 0x80 | 0x200

MapFunction = Callable[[str, Any], Iterable[tuple[Any, Any]] | None]
ReduceFunction = Callable[[Any, Iterable[Any]], Any]


@dataclass(frozen=True, slots=True)
class App:
    """A checked application: functions or native ops, how its input is cut, what its parts look like."""

    map: ops.MapOp | MapFunction
    reduce: ops.ReduceOp | ReduceFunction
    combine: ops.ReduceOp | ReduceFunction | None
    cut: InputCut
    output: str
    name: str
    fingerprint: str

    @classmethod
    def from_functions(
        cls,
        *,
        map: ops.MapOp | MapFunction,
        reduce: ops.ReduceOp | ReduceFunction,
        combine: ops.ReduceOp | ReduceFunction | None = None,
        input: str | None = None,
        output: str | None = None,
        name: str | None = None,
    ) -> App:
        """An App of functions and ops that are at hand, for mrfast.run()."""
        name = name or str(getattr(map, "__module__", "") or "app")
        digest = xxhash.xxh3_128()
        for part in (map, reduce, combine, input, output):
            digest.update(_identity(part) + b"\0")
        return _checked(name, digest.hexdigest(), map, reduce, combine, input, output)

    @property
    def native_map(self) -> ops.MapOp | None:
        """`map`, if it is a native op."""
        return self.map if ops.is_map_op(self.map) else None  # type: ignore[return-value]

    @property
    def native_reduce(self) -> ops.ReduceOp | None:
        """`reduce`, if it is a native op."""
        return self.reduce if ops.is_reduce_op(self.reduce) else None  # type: ignore[return-value]

    @property
    def native_combine(self) -> ops.ReduceOp | None:
        """The op that combines map output natively: `combine` if it is one, else a native `reduce` that shrinks it."""
        if self.combine is not None:
            return self.combine if ops.is_reduce_op(self.combine) else None  # type: ignore[return-value]
        op = self.native_reduce
        return None if op is None or op.kind in _KEEPS_ALL else op

    @property
    def python_combine(self) -> ReduceFunction | None:
        """`combine`, if it is a Python function."""
        if self.combine is None or ops.is_reduce_op(self.combine):
            return None
        return self.combine  # type: ignore[return-value]

    def info(self) -> AppInfo:
        """What a worker says of this app in its `hello`."""
        from mrfast import __version__

        python = f"{sys.version_info.major}.{sys.version_info.minor}"
        # Workers may have the same file in different folders.
        name, has_zstd = os.path.basename(self.name), zstd.is_available()
        functions = {"map": self.map, "combine": self.python_combine, "reduce": self.reduce}
        slow = {
            role: native_op(role, part)
            for role, part in functions.items()
            if part is not None and not ops.is_map_op(part) and not ops.is_reduce_op(part)
        }
        return AppInfo(name, self.fingerprint, self.cut, self.output, __version__, python, has_zstd, slow)


def load_app(path: str) -> App:
    """The checked App of the Python file at `path`; AppError says what is wrong, where, and the cure."""
    try:
        with open(path, "rb") as file:
            source = file.read()
    except FileNotFoundError:
        raise AppError(f"{path}: no such application file") from None
    except OSError as error:
        raise AppError(f"{path}: cannot read the application: {error.strerror or error}") from None
    return load_source(path, source)


def with_params(load: Callable[[], App], params: Mapping[str, str]) -> Callable[[], App]:
    """Loads the app where these are the parameters; with other ones it is another app."""
    import orjson

    def loaded() -> App:
        parameters.use(params)
        app = load()
        if not params:
            return app
        made_of = orjson.dumps([app.fingerprint, sorted(params.items())])
        return replace(app, fingerprint=xxhash.xxh3_128_hexdigest(made_of))

    return loaded


def load_source(path: str, source: bytes) -> App:
    """The checked App of the source of the Python file at `path`, which need not be there."""
    module = _execute(path, source)
    names = vars(module)
    map, reduce = (_named(path, names, name) for name in ("map", "reduce"))
    combine, input, output = (names.get(name) for name in ("combine", "input", "output"))
    digest = xxhash.xxh3_128(source)
    for part in (map, reduce, combine, input, output):
        # An op may come from the environment (a pattern, say): two such workers would run two different jobs.
        if ops.is_map_op(part) or ops.is_reduce_op(part) or isinstance(part, str):
            digest.update(_identity(part) + b"\0")
    return _checked(path, digest.hexdigest(), map, reduce, combine, input, output)


def user_traceback(error: BaseException) -> str:
    """The traceback of `error` as text, without the frames of mrfast and of the import machinery."""
    import traceback

    formatted = traceback.TracebackException.from_exception(error, compact=True)
    seen: set[int] = set()
    waiting = [formatted]
    while waiting:
        link = waiting.pop()
        if id(link) in seen:
            continue
        seen.add(id(link))
        kept = [frame for frame in link.stack if not _is_ours(frame.filename)]
        if kept:  # else the fault is not the user's, and only the whole of it helps
            link.stack = traceback.StackSummary.from_list(kept)
        waiting += [other for other in (link.__cause__, link.__context__, *(link.exceptions or ())) if other]
    return "".join(formatted.format()).rstrip("\n")


# -- loading ----------------------------------------------------------------------------------------------------------


def _is_ours(filename: str) -> bool:
    return filename.startswith(_OURS)


def _execute(path: str, source: bytes) -> ModuleType:
    """The module of the application's source, run once with its own folder importable."""
    full = os.path.abspath(path)
    stem = re.sub(r"\W", "_", os.path.splitext(os.path.basename(full))[0])
    module = ModuleType(f"mrfast_app_{stem}")
    module.__file__ = full
    try:
        code: CodeType = compile(source, path, "exec", dont_inherit=True)
    except SyntaxError as error:
        where = f"{path}:{error.lineno}" if error.lineno else path
        text = f"\n    {error.text.strip()}" if error.text else ""
        raise AppError(f"{where}: {error.msg}{text}") from None
    except ValueError as error:
        raise AppError(f"{path}: not Python source: {error}") from None
    folder = os.path.dirname(full)
    sys.modules[module.__name__] = module  # dataclasses, pickle and typing look a class's module up there
    sys.path.insert(0, folder)
    try:
        exec(code, vars(module))
    except AppError as error:
        raise type(error)(f"{path}:{_line_of(error, path)}: {error}") from None
    except SystemExit as error:
        raise AppError(f"{path}: the application called sys.exit({error.code!r}) while it was loaded") from None
    except Exception as error:  # noqa: BLE001 (whatever the user's file raises)
        raise AppError(f"{path}: the application does not load:\n{user_traceback(error)}") from None
    finally:
        # Last from now on: its neighbours stay importable in functions, and shadow nothing that is imported later.
        if folder in sys.path:
            sys.path.remove(folder)
        sys.path.append(folder)
    return module


def _line_of(error: BaseException, path: str) -> int:
    """The last line of the file at `path` that the traceback of `error` passes."""
    line, entry = 0, error.__traceback__
    while entry is not None:
        if entry.tb_frame.f_code.co_filename == path:
            line = entry.tb_lineno
        entry = entry.tb_next
    return line


def _named(path: str, names: dict[str, Any], name: str) -> Any:
    """The module's `map`/`Map` or `reduce`/`Reduce`."""
    for spelling in (name, name.capitalize()):
        if spelling in names:
            return names[spelling]
    example = "map(filename, contents)" if name == "map" else "reduce(key, values)"
    op = "ops.words(...)" if name == "map" else "ops.sum()"
    raise AppError(f"{path}: the application has no `{name}`: define {example}, or set {name} = {op}")


def _identity(part: Any) -> bytes:
    """Bytes that are the same in two processes where `part` is the same."""
    if isinstance(part, FunctionType):
        import marshal

        return f"{part.__module__}.{part.__qualname__}:".encode() + marshal.dumps(part.__code__)
    if part is None or isinstance(part, str) or ops.is_map_op(part) or ops.is_reduce_op(part):
        return repr(part).encode("utf-8", "backslashreplace")
    return f"{type(part).__module__}.{type(part).__qualname__}".encode()


# -- checking ---------------------------------------------------------------------------------------------------------


def _checked(name: str, fingerprint: str, map: Any, reduce: Any, combine: Any, input: Any, output: Any) -> App:
    """The App, or AppError for the first thing about it that cannot work."""
    if ops.is_reduce_op(map):
        raise AppError(f"{name}: map = ops.{map.kind}() is a reduce op: use it as `reduce`")
    if ops.is_map_op(reduce) or ops.is_map_op(combine):
        role, op = ("reduce", reduce) if ops.is_map_op(reduce) else ("combine", combine)
        raise AppError(f"{name}: {role} = ops.{op.kind}() is a map op: use it as `map`")
    if not ops.is_map_op(map):
        _check_function(name, "map", map, "map(filename, contents)")
    if not ops.is_reduce_op(reduce):
        _check_function(name, "reduce", reduce, "reduce(key, values)")
    if combine is not None and not ops.is_reduce_op(combine):
        _check_function(name, "combine", combine, "combine(key, values)")
    if ops.is_reduce_op(combine) and combine != reduce and not _combines_for(reduce, combine):
        raise AppError(
            f"{name}: combine = ops.{combine.kind}() does not fit this `reduce`: a native reduce combines by itself, "
            f"and with a Python reduce an op that combines is one of {', '.join(_COMBINES_FOR_PYTHON)}"
        )
    cut = _cut(name, map, input)
    if output is None:
        output = "raw" if ops.is_map_op(map) and map.kind in ("lines", "records") else "text"
    if output not in OUTPUTS:
        raise AppError(f"{name}: output = {output!r} is none of {', '.join(OUTPUTS)}")
    return App(map, reduce, combine, cut, output, name, fingerprint)


def _combines_for(reduce: Any, combine: Any) -> bool:
    return not ops.is_reduce_op(reduce) and combine.kind in _COMBINES_FOR_PYTHON


def _cut(name: str, map: Any, input: Any) -> InputCut:
    """How the input is cut for `map`."""
    if not ops.is_map_op(map):
        if input is None:
            input = "file"
        if input not in INPUTS:
            raise AppError(f"{name}: input = {input!r} is none of {', '.join(INPUTS)}")
        return InputCut(input, input != "file")
    if input is not None:
        raise AppError(f"{name}: map = ops.{map.kind}() brings its own cut of the input: remove input = {input!r}")
    if map.kind == "records":
        return InputCut("records", True, map.size)
    return InputCut("blocks", not (map.kind == "words" and map.distinct))


def _check_function(name: str, role: str, function: Any, signature: str) -> None:
    """AppError unless `function` can be called as `signature`."""
    if not callable(function):
        raise AppError(f"{name}: `{role}` is {function!r}: neither a function nor a native op")
    if getattr(function, "__module__", "") == ops.__name__:
        raise AppError(f"{name}: `{role}` is ops.{function.__name__} itself: call it, ops.{function.__name__}(...)")
    code = getattr(function, "__code__", None)
    if code is None:
        return
    if code.co_flags & _CO_ASYNC:
        raise AppError(f"{name}: `{role}` is an async function: define a plain one, def {signature}")
    required = code.co_argcount - len(function.__defaults__ or ())
    if required > 2 or (code.co_argcount < 2 and not code.co_flags & _CO_VARARGS):
        raise AppError(f"{name}: `{role}` takes {code.co_argcount} arguments: it is called as {signature}")
