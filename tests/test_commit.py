"""How a job takes its output, commits and publishes: races, crashes between two steps, and what is refused."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from mrfast.control import commit
from mrfast.control.wire import dumps
from mrfast.errors import NameInUse, NotFound, OutputExists, StoreError, UnknownJob, UsageError
from mrfast.model import JobSpec, inter_key, job_key, out_key
from mrfast.storage import Store, base, open_store

ONE, TWO, THREE = "1" * 32, "2" * 32, "3" * 32
NAMES = itertools.count()


class Cut(Exception):  # noqa: N818 - a power cut, not an error that code handles
    """The process ends here."""


class Watched:
    """A store that notes what is written to it, and stops at a step of the test's choice."""

    def __init__(self, inner: Store, at: Callable[[str, str], None] = lambda verb, key: None):
        self.inner = inner
        self.steps: list[tuple[str, str]] = []
        self._at = at

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def _step(self, verb: str, key: str) -> None:
        self._at(verb, key)
        self.steps.append((verb, key))

    def put(self, key: str, chunks: Any, *, durable: bool = False) -> Any:
        self._step("put", key)
        return self.inner.put(key, chunks, durable=durable)

    def put_if_absent(self, key: str, data: Any) -> Any:
        self._step("put_if_absent", key)
        return self.inner.put_if_absent(key, data)

    def replace(self, key: str, data: Any, etag: str) -> Any:
        self._step("replace", key)
        return self.inner.replace(key, data, etag)

    def delete(self, key: str) -> None:
        self._step("delete", key)
        self.inner.delete(key)


def make_spec(store: Store, job: str = ONE, **changes: Any) -> JobSpec:
    spec = JobSpec(job, None, store.url, base.object_url(store, "out"), 2, 1 << 20, 1 << 20, 4, False, ())
    return replace(spec, **changes)


def fresh() -> tuple[Store, Store]:
    """A store, and the store of the output in it."""
    store = open_store(f"memory://commit-{next(NAMES)}")
    return store, open_store(f"{store.url}/out")


def finished(spec: JobSpec, store: Store, parts: int = 2) -> dict[str, Any]:
    """The manifest of a job whose reduces have run."""
    attempts = [f"r-{partition:05d}.e1.1" for partition in range(parts)]
    for partition, attempt in enumerate(attempts):
        store.put(out_key(spec.job, attempt), f"{spec.job} {partition}".encode())
    return {
        "job": spec.job,
        "parts": [{"partition": partition, "attempt": attempt} for partition, attempt in enumerate(attempts)],
    }


def run(spec: JobSpec, store: Store, output: Store, parts: int = 2) -> dict[str, Any]:
    """The whole of a job, as far as the store sees it; gives its manifest."""
    commit.begin(spec, store, output)
    manifest = commit.write_manifest(spec.job, finished(spec, store, parts), store)
    commit.publish(spec, manifest, store, output)
    return manifest


def contents(store: Store) -> dict[str, bytes]:
    return {info.key: base.read(store, info.key) for info in store.list()}


def test_a_job_on_every_store(store: Store) -> None:
    output = open_store(base.object_url(store, "out"))
    manifest = run(make_spec(store), store, output)
    assert list(contents(output)) == ["_SUCCESS", "_mrfast.json", "mr-out-0", "mr-out-1"]
    assert base.read(output, "mr-out-1") == f"{ONE} 1".encode()
    success = base.read_json(output, "_SUCCESS")
    assert manifest.items() <= success.items()
    assert manifest == commit.read_manifest(ONE, store)
    assert sorted(success.keys() - manifest.keys()) == ["cost_usd", "requests"]
    with pytest.raises(OutputExists, match="belongs to job 1111"):
        run(make_spec(store, TWO), store, output)
    run(make_spec(store, THREE, overwrite=True), store, output, parts=1)
    assert list(contents(output)) == ["_SUCCESS", "_mrfast.json", "mr-out-0"]
    assert commit.claimed_by(output) == THREE


def test_ids_of_jobs_are_32_digits_and_never_the_same() -> None:
    ids = {commit.new_job_id() for _ in range(100)}
    assert len(ids) == 100
    for job in ids:
        store, output = fresh()
        commit.begin(make_spec(store, job), store, output)
        assert commit.find_job(job, store).job == job


# Begin


def test_begin_again_changes_nothing() -> None:
    store, output = fresh()
    spec = make_spec(store, name="nightly")
    commit.begin(spec, store, output)
    before = contents(store)
    commit.begin(spec, store, output)
    assert contents(store) == before


@pytest.mark.parametrize("job", ["", "1" * 31, "1" * 33, "G" * 32, "A" * 32, "../" + "1" * 29, "1" * 31 + "\n"])
def test_what_is_no_job_id(job: str) -> None:
    store, output = fresh()
    with pytest.raises(UsageError, match="job id"):
        commit.begin(make_spec(store, job), store, output)
    assert contents(store) == {}


@pytest.mark.parametrize("name", ["", "a/b", "..", ".a", "-a", "a b", "a\n", "ä", "a" * 65])
def test_what_is_no_name(name: str) -> None:
    store, output = fresh()
    with pytest.raises(UsageError, match="--job"):
        commit.begin(make_spec(store, name=name), store, output)
    assert contents(store) == {}


def test_two_jobs_of_one_id_are_refused() -> None:
    store, output = fresh()
    commit.begin(make_spec(store), store, output)
    before = contents(store)
    with pytest.raises(NameInUse, match=ONE):
        commit.begin(make_spec(store, reduces=3), store, output)
    assert contents(store) == before


def test_a_name_in_use_is_refused_and_nothing_is_left() -> None:
    store, output = fresh()
    commit.begin(make_spec(store, name="nightly"), store, output)
    before = contents(store)
    other = open_store(f"{store.url}/other")
    with pytest.raises(NameInUse, match="--job nightly"):
        commit.begin(make_spec(store, TWO, name="nightly", output_url=other.url), store, other)
    assert contents(store) == before


def test_the_name_of_a_failed_job_is_free() -> None:
    store, output = fresh()
    failed = make_spec(store, name="nightly")
    commit.begin(failed, store, output)
    assert commit.write_failure(failed, {"error": "no"}, store, output)
    commit.begin(make_spec(store, TWO, name="nightly"), store, output)
    assert commit.find_job("nightly", store).job == TWO


def test_an_output_in_use_gives_the_name_back() -> None:
    store, output = fresh()
    commit.begin(make_spec(store), store, output)
    before = contents(store)
    with pytest.raises(OutputExists, match="--overwrite"):
        commit.begin(make_spec(store, TWO, name="nightly"), store, output)
    assert contents(store) == before
    with pytest.raises(UnknownJob):
        commit.find_job("nightly", store)


@pytest.mark.parametrize("found", ["_SUCCESS", "mr-out-0", "mr-out-17"])
def test_a_result_that_nobody_claims_is_refused_and_left_alone(found: str) -> None:
    store, output = fresh()
    output.put(found, b"precious")
    with pytest.raises(OutputExists, match=found):
        commit.begin(make_spec(store), store, output)
    assert contents(store) == {f"out/{found}": b"precious"}


@pytest.mark.parametrize("found", ["notes.txt", "mr-out-", "mr-out-01", "mr-out-0.bak", "mr-out-x", "sub/_SUCCESS"])
def test_other_files_in_the_folder_are_nobodys_result(found: str) -> None:
    store, output = fresh()
    output.put(found, b"precious")
    run(make_spec(store), store, output)
    run(make_spec(store, TWO, overwrite=True), store, output)
    assert base.read(output, found) == b"precious"


@pytest.mark.parametrize("claim", [b"not JSON", b"[]", b"{}"])
def test_a_claim_that_cannot_be_read_is_somebodys(claim: bytes) -> None:
    store, output = fresh()
    output.put(commit.CLAIM_KEY, claim)
    with pytest.raises(OutputExists, match="is taken"):
        commit.begin(make_spec(store), store, output)
    assert contents(store) == {f"out/{commit.CLAIM_KEY}": claim}
    run(make_spec(store, TWO, overwrite=True), store, output)
    assert commit.claimed_by(output) == TWO


def test_a_store_that_breaks_behind_the_claim_keeps_no_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    store, output = fresh()

    def broken(prefix: str = "") -> Any:
        raise StoreError("the store is down")

    monkeypatch.setattr(output, "list", broken)
    with pytest.raises(StoreError, match="down"):
        commit.begin(make_spec(store), store, output)
    assert contents(store) == {}


def test_of_two_jobs_that_overwrite_at_once_one_has_the_output() -> None:
    store, output = fresh()
    run(make_spec(store), store, output)

    def meanwhile(verb: str, key: str) -> None:
        if verb == "replace" and commit.claimed_by(output) == ONE:
            commit.begin(make_spec(store, TWO, overwrite=True), store, output)

    commit.begin(make_spec(store, THREE, overwrite=True), store, Watched(output, meanwhile))
    assert commit.claimed_by(output) == THREE  # the later one: what it replaced is what it had seen
    with pytest.raises(OutputExists, match=f"taken over by job {THREE}"):
        commit.publish(make_spec(store, TWO), finished(make_spec(store, TWO), store), store, output)
    assert base.read_json(output, "_SUCCESS")["job"] == ONE


def test_a_claim_that_comes_and_goes_is_not_tried_for_ever() -> None:
    store, output = fresh()
    claim = base.dump_json({"job": ONE})

    def flicker(verb: str, key: str) -> None:
        if verb == "put_if_absent":
            output.put(commit.CLAIM_KEY, claim)
        elif verb == "replace":
            output.put(commit.CLAIM_KEY, claim)  # another etag than the one just seen

    with pytest.raises(OutputExists, match="at this moment"):
        commit.claim(make_spec(store, TWO, overwrite=True), store, Watched(output, flicker))
    assert commit.claimed_by(output) == ONE


# Find


def test_a_job_is_found_by_id_and_by_name() -> None:
    store, output = fresh()
    spec = make_spec(store, name="nightly")
    commit.begin(spec, store, output)
    assert commit.find_job("nightly", store) == commit.find_job(ONE, store) == spec


@pytest.mark.parametrize("unknown", ["nightly", TWO, "", "../x", "a/b", "\0"])
def test_a_job_that_is_not_there(unknown: str) -> None:
    store, output = fresh()
    commit.begin(make_spec(store), store, output)
    with pytest.raises(UnknownJob, match="has no job"):
        commit.find_job(unknown, store)


@pytest.mark.parametrize("text", [b"{", b"{}", b"[]", dumps({"job": ONE})])
def test_a_damaged_spec_is_named(text: bytes) -> None:
    store, _ = fresh()
    store.put(job_key(ONE, "spec.json"), text)
    with pytest.raises(StoreError, match=r"spec\.json is damaged"):
        commit.find_job(ONE, store)


# Commit and publish


def test_the_first_manifest_wins_and_both_publish_it() -> None:
    store, output = fresh()
    spec = make_spec(store)
    commit.begin(spec, store, output)
    first = finished(spec, store)
    second = {"job": ONE, "parts": [{"partition": 0, "attempt": "r-00000.e2.1"}]}
    store.put(out_key(ONE, "r-00000.e2.1"), b"another coordinator's")
    assert commit.write_manifest(ONE, first, store) == first
    assert commit.write_manifest(ONE, second, store) == first
    commit.publish(spec, first, store, output)
    before = contents(output)
    commit.publish(spec, commit.read_manifest(ONE, store), store, output)
    assert contents(output) == before
    assert before["mr-out-0"] == f"{ONE} 0".encode()


@pytest.mark.parametrize("text", [b"[]", b"{}", b'{"job": "x", "parts": []}', b'{"job": "%s"}' % ONE.encode(), b"{"])
def test_a_damaged_manifest_is_not_published(text: bytes) -> None:
    store, _ = fresh()
    store.put(job_key(ONE, "manifest.json"), text)
    with pytest.raises(StoreError, match=r"manifest\.json"):
        commit.write_manifest(ONE, {"job": ONE, "parts": []}, store)


def test_a_job_that_is_not_committed_has_no_manifest() -> None:
    store, _ = fresh()
    with pytest.raises(NotFound):
        commit.read_manifest(ONE, store)


def copying(inner: Store, steps: list[tuple[str, str]]) -> Any:
    """A store whose copies go through the other one's `put`, so that it can watch them."""
    watched = Watched(inner)
    watched.steps = steps
    watched.__dict__["copy_to"] = lambda key, other, name: other.put(name, base.read(inner, key), durable=True)
    return watched


def test_the_order_of_publishing() -> None:
    store, output = fresh()
    run(make_spec(store), store, output, parts=4)
    second = make_spec(store, TWO, overwrite=True)
    commit.begin(second, store, output)
    watched = Watched(output)
    commit.publish(second, finished(second, store), copying(store, []), watched)
    assert watched.steps == [
        ("delete", "_SUCCESS"),
        ("delete", "mr-out-2"),
        ("delete", "mr-out-3"),
        ("put", "mr-out-0"),
        ("put", "mr-out-1"),
        ("put", "_SUCCESS"),
    ]


@pytest.mark.parametrize("steps", range(6))
def test_a_crash_at_any_step_of_publishing_is_mended_by_publishing_again(steps: int) -> None:
    store, output = fresh()
    run(make_spec(store), store, output, parts=4)
    second = make_spec(store, TWO, overwrite=True)
    commit.begin(second, store, output)
    manifest = commit.write_manifest(TWO, finished(second, store), store)
    left = itertools.count(steps, -1)

    def cut(verb: str, key: str) -> None:
        if next(left) == 0:
            raise Cut

    with pytest.raises(Cut):
        commit.publish(second, manifest, copying(store, []), Watched(output, cut))
    between = contents(output)
    if steps:  # a mixture never looks whole
        assert "_SUCCESS" not in between
    commit.publish(second, commit.read_manifest(TWO, store), store, output)
    after = contents(output)
    assert sorted(after) == ["_SUCCESS", "_mrfast.json", "mr-out-0", "mr-out-1"]
    assert after["mr-out-0"] == f"{TWO} 0".encode()
    assert manifest.items() <= base.read_json(output, "_SUCCESS").items()


def test_a_publisher_that_lost_the_output_meanwhile_writes_no_success() -> None:
    store, output = fresh()
    first = make_spec(store)
    commit.begin(first, store, output)
    manifest = finished(first, store)

    def taken(verb: str, key: str) -> None:
        if key == "mr-out-1":
            commit.claim(make_spec(store, TWO, overwrite=True), store, output)

    with pytest.raises(OutputExists, match=f"taken over by job {TWO}") as caught:
        commit.publish(first, manifest, copying(store, []), Watched(output, taken))
    assert f"jobs/{ONE}/out/" in str(caught.value)
    assert "_SUCCESS" not in contents(output)


def test_an_output_without_a_claim_is_not_published_to() -> None:
    store, output = fresh()
    spec = make_spec(store)
    commit.begin(spec, store, output)
    commit.release(spec, output)
    with pytest.raises(OutputExists, match="not claimed any more"):
        commit.publish(spec, finished(spec, store), store, output)
    assert contents(output) == {}


# The end


def test_a_failed_job_frees_its_output_and_keeps_its_first_reason() -> None:
    store, output = fresh()
    spec = make_spec(store)
    commit.begin(spec, store, output)
    assert commit.write_failure(spec, {"error": "first"}, store, output)
    assert commit.write_failure(spec, {"error": "second"}, store, output)
    assert base.read_json(store, job_key(ONE, "failed.json")) == {"error": "first"}
    assert contents(output) == {}


def test_a_job_that_fails_of_a_full_disk_leaves_room() -> None:
    inner, output = fresh()

    def full(verb: str, key: str) -> None:
        if (
            verb == "put_if_absent"
            and key.endswith("failed.json")
            and inter_key(ONE, "m-000000.e1.1") in contents(inner)
        ):
            raise StoreError("no space left") from OSError(errno.ENOSPC, "No space left on device")

    store = Watched(inner, full)
    spec = make_spec(inner)
    commit.begin(spec, inner, output)
    inner.put(inter_key(ONE, "m-000000.e1.1"), b"x")
    assert commit.write_failure(spec, {"error": "full"}, store, output)
    assert sorted(contents(inner)) == [job_key(ONE, "failed.json"), job_key(ONE, "spec.json")]
    assert contents(output) == {}


def test_another_jobs_claim_is_never_released() -> None:
    store, output = fresh()
    commit.begin(make_spec(store), store, output)
    commit.release(make_spec(store, TWO), output)
    assert commit.claimed_by(output) == ONE


def test_a_committed_job_cannot_fail() -> None:
    store, output = fresh()
    spec = make_spec(store)
    run(spec, store, output)
    before = contents(store)
    assert not commit.write_failure(spec, {"error": "too late"}, store, output)
    assert contents(store) == before


def test_cleaning_keeps_what_the_manifest_names() -> None:
    store, output = fresh()
    spec = make_spec(store)
    manifest = run(spec, store, output)
    loser = out_key(ONE, "r-00000.e1.2")
    for key in (inter_key(ONE, "m-000000.e1.1"), loser, inter_key(TWO, "m-000000.e1.1")):
        store.put(key, b"x")
    assert commit.clean(ONE, manifest, store) == (2, 0)
    keys = list(contents(store))
    assert loser not in keys
    assert inter_key(ONE, "m-000000.e1.1") not in keys
    assert inter_key(TWO, "m-000000.e1.1") in keys
    assert {job_key(ONE, "spec.json"), job_key(ONE, "manifest.json"), out_key(ONE, "r-00000.e1.1")} < set(keys)


def test_cleaning_goes_on_where_something_cannot_be_removed() -> None:
    store, _ = fresh()
    first, second = (inter_key(ONE, f"m-00000{number}.e1.1") for number in range(2))
    for key in (first, second):
        store.put(key, b"x")

    def stuck(verb: str, key: str) -> None:
        if key == first:
            raise StoreError("access denied")

    assert commit.clean(ONE, {"parts": []}, Watched(store, stuck)) == (1, 1)
    assert list(contents(store)) == [first]
