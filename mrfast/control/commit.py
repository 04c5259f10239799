"""How a job takes its output, commits, and gives its parts their names: synchronous steps over a Store, all repeatable.

    begin     spec, then name, then the claim <output>/_mrfast.json: each by put-if-absent
    commit    jobs/<id>/manifest.json by put-if-absent: the one write that commits; the first writer wins
    publish   the parts under their stable names, from the manifest alone; _SUCCESS last

A step that is made again, by the same process or by a frozen one that thaws, writes the same bytes again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from contextlib import suppress
from errno import EDQUOT, ENOSPC
from typing import Any

from mrfast.control.wire import BadFrame, dumps, loads
from mrfast.errors import (
    AlreadyExists,
    MrfastError,
    NameInUse,
    NotFound,
    OutputExists,
    PreconditionFailed,
    StoreError,
    UnknownJob,
    UsageError,
)
from mrfast.model import JobSpec, job_key, out_key, part_name
from mrfast.storage import ledger
from mrfast.storage.abreast import each_of
from mrfast.storage.base import Store, dump_json, object_url, put_json, read, read_json, shown

CLAIM_KEY = "_mrfast.json"
SUCCESS_KEY = "_SUCCESS"
SPEC, MANIFEST, FAILED, BAD_RECORDS = "spec.json", "manifest.json", "failed.json", "bad-records.jsonl"
TRIES_MAX = 5  # of a conditional write whose object comes and goes

_JOB = re.compile(r"[0-9a-f]{32}", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_PART = re.compile(r"mr-out-(0|[1-9][0-9]*)(\.zst|\.gz)?", re.ASCII)


def new_job_id() -> str:
    """A fresh job id: 128 random bits as 32 hexadecimal digits."""
    import os

    return os.urandom(16).hex()


def begin(spec: JobSpec, store: Store, output: Store) -> None:
    """The job's spec, name and output are its own, durably; NameInUse or OutputExists, and nothing is left behind."""
    if not _JOB.fullmatch(spec.job):
        raise UsageError(f"{spec.job!r} is no job id: 32 hexadecimal digits")
    if spec.name is not None and not _NAME.fullmatch(spec.name):
        raise UsageError(
            f"--job {spec.name!r}: a name has up to 64 letters, digits, '.', '_' and '-', a letter or digit first"
        )
    fresh = _put_spec(spec, store)
    named = False
    try:
        named = _take_name(spec, store)
        claim(spec, store, output)
    except MrfastError:
        if named:
            store.delete(name_key(str(spec.name)))
        if fresh:
            store.delete(job_key(spec.job, SPEC))
        raise


def name_key(name: str) -> str:
    """The key of a job's alias."""
    return f"names/{name}"


def is_job_name(text: str) -> bool:
    """Whether a job can have this id or name."""
    return _NAME.fullmatch(text) is not None


def find_job(name_or_id: str, store: Store) -> JobSpec:
    """The spec of the job with this id or name; UnknownJob."""
    job = name_or_id
    if _NAME.fullmatch(name_or_id):
        with suppress(NotFound):
            job = str(read_json(store, name_key(name_or_id))["job"])
    try:
        if not _JOB.fullmatch(job):
            raise NotFound(job)
        return loads(JobSpec, read(store, job_key(job, SPEC)))
    except NotFound:
        raise UnknownJob(f"{store.url} has no job {name_or_id!r}; mrfast jobs --store URL lists them") from None
    except BadFrame as error:
        raise StoreError(f"{object_url(store, job_key(job, SPEC))} is damaged: {error}") from error


def _put_spec(spec: JobSpec, store: Store) -> bool:
    key, data = job_key(spec.job, SPEC), dumps(spec)
    try:
        store.put_if_absent(key, data)
    except AlreadyExists:
        if read(store, key) != data:
            raise NameInUse(f"{store.url} has another job with the id {spec.job}") from None
        return False
    return True


def _take_name(spec: JobSpec, store: Store) -> bool:
    """Whether the name was taken just now; the name of a job that failed is free again."""
    if spec.name is None:
        return False
    key, data = name_key(spec.name), dump_json({"job": spec.job})
    for _ in range(TRIES_MAX):
        try:
            store.put_if_absent(key, data)
            return True
        except AlreadyExists:
            pass
        with suppress(NotFound, PreconditionFailed):
            etag = store.stat(key).etag
            holder = str(read_json(store, key)["job"])
            if holder == spec.job:
                return False
            if not _exists(store, job_key(holder, FAILED)):
                break
            store.replace(key, data, etag)
            return True
    raise NameInUse(f"--job {spec.name}: {store.url} has a job of that name already; give this one another name")


# The output


def claim(spec: JobSpec, store: Store, output: Store) -> None:
    """The output belongs to this job from here on; OutputExists if it is another's and `overwrite` is not set."""
    data = dump_json({"job": spec.job, "name": spec.name, "store": store.url})
    for _ in range(TRIES_MAX):
        try:
            output.put_if_absent(CLAIM_KEY, data)
        except AlreadyExists:
            pass
        else:
            _refuse_foreign_parts(spec, output)
            return
        with suppress(NotFound, PreconditionFailed):
            etag = output.stat(CLAIM_KEY).etag
            holder = claimed_by(output)
            if holder == spec.job:
                return
            if not spec.overwrite:
                raise OutputExists(_exists_message(output, f"belongs to job {holder}" if holder else "is taken"))
            output.replace(CLAIM_KEY, data, etag)
            return
    raise OutputExists(
        f"the output {output.url} is being claimed by other jobs at this moment; give another one with -o"
    )


def claimed_by(output: Store) -> str | None:
    """The job that has claimed the output, or None."""
    try:
        document = read_json(output, CLAIM_KEY)
    except NotFound:
        return None
    except StoreError as error:
        if isinstance(error.__cause__, ValueError):  # not JSON, so not ours: somebody's nevertheless
            return ""
        raise
    return str(document.get("job", "")) if isinstance(document, dict) else ""


def release(spec: JobSpec, output: Store) -> None:
    """The output is free again, if it was this job's; for a job that failed or was given up."""
    if claimed_by(output) == spec.job:
        output.delete(CLAIM_KEY)


def _refuse_foreign_parts(spec: JobSpec, output: Store) -> None:
    if spec.overwrite:
        return
    try:
        found = SUCCESS_KEY if _exists(output, SUCCESS_KEY) else next(_parts(output), "")
        if found:
            raise OutputExists(_exists_message(output, f"holds a result already ({found})"))
    except MrfastError:
        output.delete(CLAIM_KEY)
        raise


def _exists_message(output: Store, why: str) -> str:
    return f"the output {output.url} {why}; replace it with --overwrite, or give another one with -o"


def _parts(output: Store) -> Any:
    return (info.key for info in output.list("mr-out-") if _PART.fullmatch(info.key))


def _exists(store: Store, key: str) -> bool:
    try:
        store.stat(key)
    except NotFound:
        return False
    return True


# The commit


def write_manifest(job: str, manifest: dict[str, Any], store: Store) -> dict[str, Any]:
    """The job's one manifest: this one, or the one that another coordinator had written before."""
    key = job_key(job, MANIFEST)
    try:
        store.put_if_absent(key, dump_json(manifest))
    except AlreadyExists:
        return read_manifest(job, store)
    return manifest


def read_manifest(job: str, store: Store) -> dict[str, Any]:
    """The manifest of a committed job; NotFound if it is not committed."""
    found = read_json(store, job_key(job, MANIFEST))
    if not isinstance(found, dict) or found.get("job") != job or not isinstance(found.get("parts"), list):
        raise StoreError(f"{object_url(store, job_key(job, MANIFEST))} is not the manifest of job {job}")
    return found


def publish(
    spec: JobSpec,
    manifest: dict[str, Any],
    store: Store,
    output: Store,
    requests: Callable[[], ledger.Counts] = dict,
    beside: Callable[[], None] = lambda: None,
) -> None:
    """The parts stand under their stable names, then `_SUCCESS`; OutputExists if another job took the output over.

    `_SUCCESS` says which `requests` there were, its own PUT included. Who sees it sees what `beside` writes.
    """
    _check_claim(spec, output)
    if spec.overwrite:
        _remove_former(spec, manifest, output)

    def copy(part: dict[str, Any]) -> None:
        store.copy_to(out_key(spec.job, part["attempt"]), output, _name(manifest, part))

    each_of(output if output.remote else store, copy, manifest["parts"])
    beside()
    _check_claim(spec, output)
    own: ledger.Counts = {"commit": {"PUT": {"ok": 1}}} if output.url.startswith("s3:") else {}
    put_json(output, SUCCESS_KEY, manifest | ledger.document(ledger.total([requests(), own])))


def _check_claim(spec: JobSpec, output: Store) -> None:
    holder = claimed_by(output)
    if holder != spec.job:
        raise OutputExists(
            f"job {spec.job} is committed, but its output {output.url} "
            + (f"was taken over by job {holder}" if holder else "is not claimed any more")
            + f"; its parts are {spec.store_url}/{out_key(spec.job, '')}*, as its manifest names them"
        )


def _remove_former(spec: JobSpec, manifest: dict[str, Any], output: Store) -> None:
    """The former result goes from its _SUCCESS on: nobody may take a mixture for a whole result."""
    with suppress(NotFound):
        found = read_json(output, SUCCESS_KEY)
        if not isinstance(found, dict) or found.get("job") != spec.job:
            output.delete(SUCCESS_KEY)
    own = {_name(manifest, part) for part in manifest["parts"]}
    for name in [name for name in _parts(output) if name not in own]:
        output.delete(name)


def _name(manifest: dict[str, Any], part: dict[str, Any]) -> str:
    return part_name(part["partition"], manifest.get("compress", ""))


# The end


def write_failure(spec: JobSpec, document: dict[str, Any], store: Store, output: Store) -> bool:
    """`failed.json` says why the job failed, and its output is free; False if another coordinator has committed it."""
    if _exists(store, job_key(spec.job, MANIFEST)):
        return False
    key, data = job_key(spec.job, FAILED), dump_json(document)
    with suppress(AlreadyExists):
        try:
            store.put_if_absent(key, data)
        except StoreError as error:
            if getattr(error.__cause__, "errno", 0) not in (ENOSPC, EDQUOT):
                raise
            clean(spec.job, {"parts": []}, store)  # makes room
            store.put_if_absent(key, data)
    release(spec, output)
    return True


def write_bad_records(job: str, lines: bytes, store: Store) -> None:
    """`jobs/<id>/bad-records.jsonl`: what was skipped, with its address."""
    store.put(job_key(job, BAD_RECORDS), lines, durable=True)


def with_cure(error: MrfastError, spec: JobSpec, kept: int) -> MrfastError:
    """The error of a failed job, of its own class and exit code, with what the job left and what to do about it."""
    if not kept:
        return error
    where = f"{spec.job} --store {shown(spec.store_url)}"
    command = "mrfast run" if spec.app_path else "mrfast-coordinator"
    error.args = (
        f"{error}\n  what was done is kept ({kept} objects): {command} --resume {where}\n"
        f"  goes on from there, and removes it:  mrfast clean {where}",
    )
    return error


def clean(job: str, manifest: dict[str, Any], store: Store, keep: Collection[str] = ()) -> tuple[int, int]:
    """(removed, could not be removed) objects: map outputs, and parts that lost; spec, manifest and parts stay."""
    with ledger.working("clean"):
        return _clean(job, {*keep, *(out_key(job, part["attempt"]) for part in manifest["parts"])}, store)


def _clean(job: str, keep: Collection[str], store: Store) -> tuple[int, int]:
    removed = failed = 0
    for prefix in (job_key(job, "inter", ""), job_key(job, "out", "")):
        try:
            keys = [info.key for info in store.list(prefix) if info.key not in keep]
        except StoreError:
            failed += 1
            continue
        gone = each_of(store, lambda key: _is_removed(store.delete, key), keys)
        removed += sum(gone)
        failed += len(gone) - sum(gone) + (not _is_removed(store.sweep, prefix))
    return removed, failed


def _is_removed(remove: Callable[[str], None], name: str) -> bool:
    try:
        remove(name)
    except StoreError:
        return False
    return True


def has_ended(job: str, store: Store) -> bool:
    """Whether the job is committed or has failed, as far as the store knows."""
    return any(_exists(store, job_key(job, name)) for name in (MANIFEST, FAILED))


def remove(spec: JobSpec, store: Store, output: Store) -> int:
    """How many objects of the job were removed: all but its result, if it has one; its name and output are free."""
    with ledger.working("clean"):
        return _remove(spec, store, output)


def _remove(spec: JobSpec, store: Store, output: Store) -> int:
    keep: set[str] = set()
    try:
        manifest = read_manifest(spec.job, store)
    except NotFound:
        release(spec, output)
        if spec.name is not None:
            with suppress(NotFound):
                if read_json(store, name_key(spec.name)).get("job") == spec.job:
                    store.delete(name_key(spec.name))
    else:
        keep = {out_key(spec.job, part["attempt"]) for part in manifest["parts"]}
        keep |= {job_key(spec.job, name) for name in (SPEC, MANIFEST, BAD_RECORDS)}
    keys = [info.key for info in store.list(job_key(spec.job, "")) if info.key not in keep]
    keys.sort(key=lambda key: key == job_key(spec.job, SPEC))  # the spec goes last: until then this can be repeated
    each_of(store, store.delete, keys[:-1])
    for folder in ("inter", "out", "journal", "epoch"):
        store.sweep(job_key(spec.job, folder, ""))
    if keys:
        store.delete(keys[-1])
    store.sweep(job_key(spec.job, ""))
    output.sweep("")
    return len(keys)
