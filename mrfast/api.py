"""`mrfast.run`: a job from Python, on this machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .errors import AppError, UsageError
from .model import REDUCES_MAX, InputObject, JobSpec
from .result import JobResult as JobResult

if TYPE_CHECKING:
    from .app import App
    from .engines.remote import Cluster
    from .verification import Verified
    from .watch.progress import ProgressView

STORE = "./mrfast-store"
REDUCES = 10
SPLIT_BYTES = 64 << 20
MEMORY_BYTES = 1 << 30
ATTEMPTS_MAX = 4
STALL_S = 600.0
READ_BLOCK_BYTES = 1 << 20

COMPRESSIONS = ("zst", "gz")

JOB_DEFAULTS: dict[str, Any] = {
    "reduces": REDUCES,
    "split_bytes": SPLIT_BYTES,
    "memory": MEMORY_BYTES,
    "attempts_max": ATTEMPTS_MAX,
    "stall_s": STALL_S,
    "bad_records_max": 0,
    "keep_intermediate": False,
    "job": None,
    "overwrite": False,
    "reuse": False,
    "compress_segments": None,
    "compress": None,
    "params": None,
}

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


def run(
    app: str | os.PathLike[str] | ModuleType | App | None = None,
    inputs: Paths = (),
    *,
    map: Any = None,
    reduce: Any = None,
    combine: Any = None,
    input: str | None = None,
    output: str | None = None,
    store: str | os.PathLike[str] = STORE,
    output_url: str | os.PathLike[str] | None = None,
    reduces: int = REDUCES,
    workers: int | None = None,
    split_bytes: int = SPLIT_BYTES,
    memory: int = MEMORY_BYTES,
    attempts_max: int = ATTEMPTS_MAX,
    stall_s: float = STALL_S,
    bad_records_max: int = 0,
    keep_intermediate: bool = False,
    job: str | None = None,
    overwrite: bool = False,
    reuse: bool = False,
    compress_segments: bool | None = None,
    compress: str | None = None,
    params: Mapping[str, str] | None = None,
    prices: Mapping[str, float] | None = None,
    engine: Any = "local",
    quiet: bool | None = None,
    http: str | None = None,
) -> JobResult:
    """The result of the job, when it is done: `app` (a file, a module) or `map` and `reduce` over all `inputs`.

    The functions need not be picklable: the processes that run them are forked. They ask for `params` with
    mrfast.param(), an application file also while it loads. `prices` are dollars for 1,000 requests of a verb, where
    they are not S3's. What the application prints is shown, with `quiet=False` and in a notebook also how far the job
    is, with `quiet=True` neither. What goes wrong is raised as one of the classes of mrfast.errors; after Ctrl-C
    nothing of the job is left.

    `engine` "dask" or "ray" runs the tasks on a new cluster of that kind of `workers` processes on this machine; a Dask
    Client, or "ray" where Ray is initialised, on that one. Functions go there by cloudpickle. `http`, an address as
    "127.0.0.1:8080", has a live page of the job while it runs.
    """
    from .watch.notebook import view_for

    load = _loader(app, map, reduce, combine, input, output)
    given = [inputs] if isinstance(inputs, (str, os.PathLike)) else list(inputs)
    if reuse and not isinstance(app, (str, os.PathLike)):
        raise UsageError(
            "reuse=True needs an application file: nobody can tell whether functions are those of an earlier job"
        )
    return run_job(
        load,
        [os.fspath(item) for item in given],
        store=os.fspath(store),
        output_url=None if output_url is None else os.fspath(output_url),
        reduces=reduces,
        workers=workers,
        split_bytes=split_bytes,
        memory=memory,
        attempts_max=attempts_max,
        stall_s=stall_s,
        bad_records_max=bad_records_max,
        keep_intermediate=keep_intermediate,
        job=job,
        overwrite=overwrite,
        reuse=reuse,
        compress_segments=compress_segments,
        compress=compress,
        params=params,
        prices=prices,
        app_path=os.fspath(app) if isinstance(app, (str, os.PathLike)) else "",
        view=view_for(quiet, http),
        engine=engine,
    )


def run_job(
    load: Callable[[], App],
    inputs: Sequence[str],
    *,
    workers: int | None,
    view: ProgressView | None,
    prices: Mapping[str, float] | None = None,
    engine: Any = "local",
    **options: Any,
) -> JobResult:
    """The result of the job of the app that `load` gives; `options` are those of `make_spec`."""
    from .storage import ledger

    ledger.use(ledger.Ledger())
    workers = default_workers() if workers is None else workers
    if workers < 1:
        raise UsageError(f"{workers} workers: at least one is needed")
    preload()
    with _connected(engine, workers) as cluster, ledger.at_prices(prices):
        spec = make_spec(inputs, slots=workers if cluster is None else cluster.slots(), **options)
        document = _document(load, spec, workers, view, cluster)
    return JobResult(spec.job, spec.output_url, document)


def plan(
    app: str | os.PathLike[str] | App,
    inputs: Paths,
    *,
    store: str | os.PathLike[str] = STORE,
    output_url: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    prices: Mapping[str, float] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """What a job would do, without doing it: its tasks, its requests by verb and phase, and dollars.

    `options` are those of `run`.
    """
    from . import parameters
    from .app import load_app
    from .control import reuse, splits
    from .control.plan import plan as planned
    from .storage import ledger, open_store

    params = parameters.checked(options.get("params"))
    before = parameters.use({})
    try:
        loaded = with_params(lambda: load_app(os.fspath(app)) if isinstance(app, (str, os.PathLike)) else app, params)()
    finally:
        parameters.use(before)
    given = [inputs] if isinstance(inputs, (str, os.PathLike)) else list(inputs)
    ledger.use(ledger.Ledger())
    missing: list[InputObject] = []
    spec = make_spec(
        [os.fspath(item) for item in given],
        store=os.fspath(store),
        output_url=None if output_url is None else os.fspath(output_url),
        missing=missing,
        slots=default_workers() if workers is None else workers,
        **JOB_DEFAULTS | options,
    )
    reused: Collection[int] = ()
    if spec.reuse:
        tasks = splits.plan(spec.inputs, loaded.cut, spec.split_bytes)
        reused = reuse.look(open_store(spec.store_url), loaded.info(), spec.reduces, tasks)
    with ledger.at_prices(prices):
        return planned(spec, loaded.cut, ledger.current().counts(), missing, reused).document()


def verify(url: str | os.PathLike[str]) -> Verified:
    """What is wrong with a finished output, read again: `faults` is empty if it is as its job wrote it."""
    from .verification import verify as verified

    return verified(os.fspath(url))


def find_job(name_or_id: str, store: str) -> JobSpec:
    """The description of a job that the store has; UnknownJob."""
    from .control import commit
    from .storage import open_store

    return commit.find_job(name_or_id, open_store(store))


def resume_job(
    name_or_id: str,
    app: str | None,
    *,
    store: str,
    workers: int | None = None,
    view: ProgressView | None = None,
    engine: Any = "local",
) -> JobResult:
    """The result of a job that was killed or has failed before; what it had done is not done again."""
    from .storage import ledger

    ledger.use(ledger.Ledger())
    spec = find_job(name_or_id, store)
    path = app or spec.app_path
    if not path:
        raise UsageError(
            f"job {name_or_id} was not started by `mrfast run`: go on with mrfast-coordinator --resume, "
            f"or name its application: mrfast run APP --resume {name_or_id}"
        )
    workers = workers or default_workers()
    with _connected(engine, workers) as cluster:
        document = _document(app_file(path), spec, workers, view, cluster, path=path, resume=True)
    return JobResult(spec.job, spec.output_url, document)


def clean_job(name_or_id: str, *, store: str, force: bool = False) -> int:
    """How many objects of the job were removed: all but a finished job's result."""
    from .control import commit
    from .control.journal_files import JournalFiles, state_folder
    from .storage import open_store

    spec = find_job(name_or_id, store)
    opened = open_store(spec.store_url)
    if not force and not commit.has_ended(spec.job, opened):
        raise UsageError(
            f"job {name_or_id} has not ended: it may be running. If it is not, go on with --resume {name_or_id}, "
            "or remove it with --force"
        )
    removed = commit.remove(spec, opened, open_store(spec.output_url))
    JournalFiles(opened, spec.job, state_folder(os.environ)).forget()
    return removed


def clean_reuse(*, store: str) -> int:
    """How many objects were removed: the map outputs that --reuse kept in the store, and their names."""
    from .control import reuse
    from .storage import open_store

    return reuse.forget(open_store(store))


def _connected(engine: Any, workers: int) -> AbstractContextManager[Cluster | None]:
    engine, address = engine if isinstance(engine, tuple) else (engine, None)
    if engine == "local":
        return nullcontext()
    from .engines.choice import for_one_job

    return for_one_job(engine, workers, address)


def _document(
    load: Callable[[], App],
    spec: JobSpec,
    workers: int,
    view: ProgressView | None,
    cluster: Cluster | None,
    *,
    path: str = "",
    resume: bool = False,
) -> dict[str, Any]:
    """The `_SUCCESS` document of the job, run here or on the cluster."""
    from .storage import open_store

    store, loaded = open_store(spec.store_url), with_params(load, spec.params)
    if cluster is None:
        from .engines.local import run_local

        return run_local(loaded, spec, store, workers, view=view, resume=resume)
    from .engines import orders
    from .engines.remote import run_remote

    path = path or spec.app_path
    shipped = orders.app_of_file(path, spec.params) if path else orders.app_of_functions(load(), spec.params)
    return run_remote(cluster, loaded, shipped, spec, store, view=view, resume=resume)


def preload() -> None:
    """Imports what a local run needs: once, here, and not in each slot after its fork."""
    from . import core  # noqa: F401
    from .engines import local  # noqa: F401
    from .storage import inputs  # noqa: F401
    from .storage import local as folder  # noqa: F401
    from .tasks import mapper, reducer, slot  # noqa: F401


def make_spec(
    inputs: Sequence[str],
    *,
    store: str,
    output_url: str | None,
    reduces: int,
    split_bytes: int,
    memory: int,
    attempts_max: int,
    stall_s: float,
    bad_records_max: int,
    keep_intermediate: bool,
    job: str | None,
    overwrite: bool,
    reuse: bool,
    compress_segments: bool | None,
    compress: str | None,
    params: Mapping[str, str] | None = None,
    app_path: str = "",
    missing: list[InputObject] | None = None,
    slots: int | None = None,
) -> JobSpec:
    """The checked description of a new job, its inputs found; local ones that an S3 store lacks go into `missing`.

    `slots`: how many tasks will run at once, if that is known. `compress_segments` None: where bytes take long.
    """
    from .control import groups
    from .control.commit import new_job_id
    from .parameters import checked
    from .storage import is_near, is_remote, open_store
    from .storage.inputs import resolve

    if not inputs:
        raise UsageError("no input: name at least one file, folder, glob or s3:// URL")
    numbers = {"reduces": reduces, "split_bytes": split_bytes, "memory": memory, "attempts_max": attempts_max}
    for name, value in numbers.items():
        if not isinstance(value, int):
            raise UsageError(f"{name} = {value!r}: an int is needed, as in 64 << 20 for 64 MiB")
        if value < 1:
            raise UsageError(f"{name} = {value}: at least 1 is needed")
    if not stall_s > 0 or bad_records_max < 0:
        raise UsageError(f"stall_s = {stall_s}, bad_records_max = {bad_records_max}: seconds over 0, and 0 or more")
    if reduces > REDUCES_MAX:
        raise UsageError(f"{reduces:,} reduces: 1 to {REDUCES_MAX:,} are possible")
    if compress not in (None, *COMPRESSIONS):
        raise UsageError(f"compress = {compress!r}: choose one of {', '.join(COMPRESSIONS)}")
    opened = open_store(store)
    job_id = new_job_id()
    found = tuple(resolve(inputs, opened, missing))
    slots = groups.SLOTS if slots is None else slots
    remote = is_remote(opened.url)
    target = open_store(output_url).url if output_url else f"{opened.url.rstrip('/')}/out/{job_id}"
    return JobSpec(
        job=job_id,
        name=job,
        store_url=opened.url,
        output_url=target,
        reduces=reduces,
        split_bytes=split_bytes,
        memory_bytes=memory,
        attempts_max=attempts_max,
        overwrite=overwrite,
        reuse=reuse,
        compress=compress or "",
        compress_segments=not is_near(opened.url) if compress_segments is None else compress_segments,
        inputs=found,
        stall_s=float(stall_s),
        bad_records_max=bad_records_max,
        keep_intermediate=keep_intermediate,
        params=checked(params),
        app_path=os.path.abspath(app_path) if app_path else "",
        partitions_per_reduce=groups.partitions_per_reduce(found, reduces, split_bytes, memory, slots, remote=remote),
    )


def app_file(path: str) -> Callable[[], App]:
    """What loads the application file in each slot; AppError here and now if there is no such file."""
    from .app import load_app

    if not os.path.isfile(path):
        why = "is a folder" if os.path.isdir(path) else "no such application file"
        raise AppError(f"{path}: {why}; name a Python file with `map` and `reduce`")
    return lambda: load_app(path)


def with_params(load: Callable[[], App], params: Mapping[str, str]) -> Callable[[], App]:
    """Loads the app where these are the parameters; see `mrfast.app.with_params`."""
    from .app import with_params

    return with_params(load, params)


def default_workers() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def _loader(app: Any, map: Any, reduce: Any, combine: Any, input: str | None, output: str | None) -> Callable[[], App]:
    """What gives the App in each slot; an App of functions is checked here and now."""
    from .app import App

    functions = (map, reduce, combine, input, output)
    if app is None:
        if map is None or reduce is None:
            raise UsageError("mrfast.run needs an application: a file's path, a module, or map= and reduce=")
        made = App.from_functions(map=map, reduce=reduce, combine=combine, input=input, output=output)
        return lambda: made
    if any(part is not None for part in functions):
        raise UsageError("mrfast.run takes an application, or map=, reduce=, combine=, input= and output=, not both")
    if isinstance(app, App):
        return lambda: app
    if isinstance(app, ModuleType):
        names: dict[str, Any] = vars(app)
        made = App.from_functions(
            map=_named(names, "map"),
            reduce=_named(names, "reduce"),
            combine=names.get("combine"),
            input=names.get("input"),
            output=names.get("output"),
            name=getattr(app, "__file__", None) or app.__name__,
        )
        return lambda: made
    return app_file(os.fspath(app))


def load_now(app: Any, params: Mapping[str, str]) -> App:
    """The App of anything with `map` and `reduce`, in this process."""
    from .app import App

    if isinstance(app, (str, os.PathLike, ModuleType, App)):
        return with_params(_loader(app, None, None, None, None, None), params)()
    parts = {name: getattr(app, name, None) for name in ("map", "reduce", "combine", "input", "output")}
    return with_params(_loader(None, **parts), params)()


def _named(names: dict[str, Any], name: str) -> Any:
    for spelling in (name, name.capitalize()):
        if spelling in names:
            return names[spelling]
    raise AppError(f"the module {names['__name__']} has no `{name}`")
