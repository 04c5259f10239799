"""Whole jobs against the slow twin: the same parts, byte for byte, however they are run."""

from __future__ import annotations

import gzip
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from depth import examples
from hypothesis import given
from hypothesis import strategies as st
from reference import run_reference

import mrfast
from mrfast import ops
from mrfast.control.schema import decode
from mrfast.model import SkippedRecord

APPS = Path(__file__).parent.parent / "apps"
LIBRARY = Path(os.__file__).parent


def parts_of(result: mrfast.JobResult) -> list[bytes]:
    folder = Path(result.output_url)
    return [(folder / f"mr-out-{i}").read_bytes() for i in range(len(result.parts))]


def write(folder: Path, files: dict[str, bytes]) -> list[tuple[str, bytes]]:
    """Writes the files; gives (path, contents) in the order of an expansion of the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return [(f"{folder}/{name}", files[name]) for name in sorted(files, key=os.fsencode)]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, bytes]]:
    """Real text that every machine has."""
    files = {path.name: path.read_bytes() for path in sorted(LIBRARY.glob("[a-z]*.py"))[:24]}
    return write(tmp_path_factory.mktemp("library") / "in", files)


WORDS = {"map": ops.words(letters="unicode"), "reduce": ops.sum()}


@pytest.mark.parametrize(
    "options",
    [{"workers": 1}, {"workers": 4}, {"workers": 2, "split_bytes": 10_000}, {"workers": 1, "split_bytes": 777}],
    ids=str,
)
def test_word_count_is_the_same_however_it_is_run(
    library: list[tuple[str, bytes]], tmp_path: Path, options: dict[str, Any]
) -> None:
    expected = run_reference(WORDS["map"], WORDS["reduce"], library, 7)
    folder = os.path.dirname(library[0][0])
    result = mrfast.run(**WORDS, inputs=[folder], store=tmp_path / "store", reduces=7, **options)
    assert parts_of(result) == expected


def test_word_count_in_python_is_the_same(library: list[tuple[str, bytes]], tmp_path: Path) -> None:
    expected = run_reference(WORDS["map"], WORDS["reduce"], library, 10)
    folder = os.path.dirname(library[0][0])
    for app in ("wc.py", "wc_python.py"):
        assert parts_of(mrfast.run(APPS / app, folder, store=tmp_path / app, split_bytes=50_000)) == expected


def indexer_map(filename: str, contents: bytes) -> Any:
    from reference import tokens

    return [(word, filename) for word in set(tokens(contents, letters="unicode"))]


def indexer_reduce(word: str, filenames: Any) -> str:
    names = sorted(filenames)
    return f"{len(names)} {','.join(names)}"


def test_index_in_python_and_natively(library: list[tuple[str, bytes]], tmp_path: Path) -> None:
    expected = run_reference(indexer_map, indexer_reduce, library, 3)
    folder = os.path.dirname(library[0][0])
    native = {"map": ops.words(letters="unicode", value="filename", distinct=True), "reduce": ops.index()}
    assert parts_of(mrfast.run(APPS / "indexer.py", folder, store=tmp_path / "python", reduces=3)) == expected
    assert parts_of(mrfast.run(**native, inputs=folder, store=tmp_path / "native", reduces=3, workers=3)) == expected


@pytest.mark.parametrize("split_bytes", [1, 2, 3, 5, 17, 100, 10_000])
@pytest.mark.parametrize(
    "job",
    [
        {"map": ops.words(letters="unicode", lower=True), "reduce": ops.count()},
        {"map": ops.lines(), "reduce": ops.identity(), "output": "raw"},
        {"map": ops.grep(b"[aeiou] ", by="line"), "reduce": ops.identity()},
        {"map": ops.fields(sep=" ", key=0, bad="skip"), "reduce": ops.sum()},
        {"map": ops.records(size=4, key=(0, 2)), "reduce": ops.identity(), "output": "raw"},
    ],
    ids=lambda job: job["map"].kind,
)
def test_every_split_size_gives_the_same_parts(tmp_path: Path, job: dict[str, Any], split_bytes: int) -> None:
    text = "der Fluß läuft\n\nà la une, à la deux\nüber  all\n".encode() * 2 + b"no newline at the en"
    inputs = write(tmp_path / "in", {"a.txt": text + b"." * (-len(text) % 4), "empty.txt": b""})
    size = 4 if job["map"].kind == "records" else 0
    expected = run_reference(job["map"], job["reduce"], inputs, 3, output=job.get("output", "text"), record_bytes=size)
    result = mrfast.run(
        **job, inputs=tmp_path / "in", store=tmp_path / "store", reduces=3, workers=1, split_bytes=split_bytes
    )
    assert parts_of(result) == expected


def test_twenty_thousand_files(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(20_000):
        (folder / f"{i:05d}.txt").write_bytes(b"word w%d" % (i % 100))
    result = mrfast.run(**WORDS, inputs=folder, store=tmp_path / "store", workers=2, reduces=2)
    counts = dict(result.records())
    assert counts["word"] == "20000"
    assert counts["w"] == "20000"
    assert result.totals["maps"] < 200  # packed: a task for each file would be 20,000


def test_names_of_any_kind(tmp_path: Path) -> None:
    names = ["a b.txt", "100%.txt", "line\nend.txt", "日本.txt", os.fsdecode(b"\xff\xfe.txt"), "plain.txt"]
    inputs = write(tmp_path / "in", dict.fromkeys(names, b"x y"))
    for job in (
        {"map": ops.words(letters="ascii", value="filename"), "reduce": ops.index()},
        {"map": ops.grep(b"x", by="line"), "reduce": ops.identity()},
    ):
        expected = run_reference(job["map"], job["reduce"], inputs, 2)
        result = mrfast.run(**job, inputs=tmp_path / "in", store=tmp_path / "store", reduces=2)
        assert parts_of(result) == expected


def test_a_line_of_a_hundred_megabytes(tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_bytes(b"start\n" + b"ab " * 35_000_000 + b"\nend")
    result = mrfast.run(
        **WORDS, inputs=tmp_path / "long.txt", store=tmp_path / "store", reduces=2, split_bytes=16 << 20
    )
    assert dict(result.records()) == {"start": "1", "ab": "35000000", "end": "1"}


@pytest.mark.parametrize("reduces", [1, 1000])
def test_most_partitions_empty(tmp_path: Path, reduces: int) -> None:
    inputs = write(tmp_path / "in", {"a.txt": b"one two two"})
    expected = run_reference(WORDS["map"], WORDS["reduce"], inputs, reduces)
    result = mrfast.run(**WORDS, inputs=tmp_path / "in", store=tmp_path / "store", reduces=reduces)
    assert parts_of(result) == expected
    assert len(expected) == reduces


def test_only_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    result = mrfast.run(**WORDS, inputs=tmp_path / "empty", store=tmp_path / "store", reduces=2)
    assert parts_of(result) == [b"", b""]


def test_compressed_input_is_read_transparently(tmp_path: Path) -> None:
    text = b"to be or not to be\n" * 1000
    write(tmp_path / "plain", {"a": text})
    write(tmp_path / "packed", {"a.gz": gzip.compress(text[:7000]) + gzip.compress(text[7000:])})
    plain, packed = (
        mrfast.run(**WORDS, inputs=tmp_path / name, store=tmp_path / "store", split_bytes=100)
        for name in ("plain", "packed")
    )
    assert parts_of(plain) == parts_of(packed)


@pytest.fixture
def copies(any_s3_url: str, library: list[tuple[str, bytes]]) -> Callable[[], str]:
    """Puts the library into the bucket; gives its prefix."""
    from mrfast.storage import open_store

    def upload() -> str:
        store = open_store(f"{any_s3_url}/books")
        for path, data in library:
            store.put(os.path.basename(path), data)
        return f"{any_s3_url}/books/"

    return upload


def test_s3_gives_the_same_bytes_as_the_folder(
    copies: Callable[[], str], any_s3_url: str, library: list[tuple[str, bytes]], tmp_path: Path
) -> None:
    from mrfast.storage import base, open_store

    expected = run_reference(WORDS["map"], WORDS["reduce"], library, 3)
    prefix = copies()
    for inputs in (prefix, os.path.dirname(library[0][0])):
        result = mrfast.run(**WORDS, inputs=inputs, store=f"{any_s3_url}/store", reduces=3, split_bytes=100_000)
        output = open_store(result.output_url)
        assert [base.read(output, f"mr-out-{i}") for i in range(3)] == expected


def deadly_map(filename: str, line: bytes) -> Any:
    """A pair before the record turns out to be bad: it must not count."""
    yield line.decode(), 1
    if line == b"raises":
        raise ValueError("not this one")
    if line == b"kills":
        os._exit(9)


def total(key: str, values: Any) -> int:
    return sum(values)


@pytest.mark.parametrize("split_bytes", [1 << 20, 6], ids=["one map", "several maps"])
@pytest.mark.parametrize("combine", [None, total], ids=["plain", "combine"])
def test_bad_records_are_left_out_and_listed(tmp_path: Path, split_bytes: int, combine: Any) -> None:
    [(path, contents)] = write(tmp_path / "in", {"f": b"good\nraises\ngood\nkills\nother\n"})
    good = contents.replace(b"raises\n", b"").replace(b"kills\n", b"")
    functions: dict[str, Any] = {"map": deadly_map, "reduce": total, "combine": combine, "input": "lines"}
    options: dict[str, Any] = {"inputs": path, "store": tmp_path / "store", "reduces": 2, "split_bytes": split_bytes}

    result = mrfast.run(**functions, **options, bad_records_max=2)
    assert parts_of(result) == run_reference(deadly_map, total, [(path, good)], 2, input="lines")
    listed = (tmp_path / "store" / "jobs" / result.job / "bad-records.jsonl").read_bytes()
    assert [decode(SkippedRecord, json.loads(line)) for line in listed.splitlines()] == [
        SkippedRecord(path, path, 5, 6, b"raises", "ValueError: not this one"),
        SkippedRecord(path, path, 17, 5, b"kills", "killed the process twice"),
    ]

    with pytest.raises(mrfast.JobFailed, match="2 bad records, and --max-bad-records allows 1; ") as caught:
        mrfast.run(**functions, **options, bad_records_max=1)
    named = f"{path}, at byte 5: ValueError: not this one" if split_bytes == 6 else f"{path}, at byte 17\n"
    assert named in str(caught.value)


@examples(15)
@given(seed=st.integers(0, 2**32), reduces=st.integers(1, 5), workers=st.integers(1, 3), data=st.data())
def test_random_jobs_equal_the_twin(
    tmp_path_factory: pytest.TempPathFactory, seed: int, reduces: int, workers: int, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("job")
    random_ = random.Random(seed)
    alphabet = "ab é日\n\n  ,;"
    files = {
        f"f{i}": "".join(random_.choices(alphabet, k=random_.randrange(200))).encode()
        for i in range(random_.randrange(1, 5))
    }
    inputs = write(folder / "in", files)
    map_op = data.draw(
        st.sampled_from(
            [
                ops.words(letters="unicode"),
                ops.words(letters="space", value="filename"),
                ops.words(letters="ascii", value="filename", distinct=True),
                ops.lines(),
            ]
        )
    )
    strings = map_op.kind == "words" and map_op.value == "filename"
    choices = [ops.count(), ops.first(), ops.identity(), ops.min(), ops.max(), ops.top(2)]
    choices += [ops.index(), ops.concat("|")] if strings else [ops.sum(), ops.mean()] if map_op.kind == "words" else []
    reduce_op = data.draw(st.sampled_from(choices))
    output = data.draw(st.sampled_from(["text", "tsv", "jsonl", "raw"]))
    expected = run_reference(map_op, reduce_op, inputs, reduces, output=output)
    result = mrfast.run(
        map=map_op,
        reduce=reduce_op,
        output=output,
        inputs=folder / "in",
        store=folder / "store",
        reduces=reduces,
        workers=workers,
        split_bytes=data.draw(st.sampled_from([1, 7, 50, 1000])),
    )
    assert parts_of(result) == expected
