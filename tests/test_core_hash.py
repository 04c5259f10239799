"""The hash contract: XXH3-64 bit for bit as PyPI's xxhash gives it, and the partition made of it; CRC-32C."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
import reference
from depth import examples
from hypothesis import given
from hypothesis import strategies as st

from mrfast import core


def test_every_length_to_1024() -> None:
    data = random.Random(1).randbytes(1024)
    for length in range(1025):
        assert core.xxh3_64(data[:length]) == reference.xxh3_64(data[:length]), length
        assert core.xxh3_64(bytes(length)) == reference.xxh3_64(bytes(length)), length


@pytest.mark.parametrize("length", [1025, 1087, 1088, 1089, 2047, 2048, 2049, 4096, 65_537, 1 << 20, (1 << 20) + 63])
def test_long_lengths(length: int) -> None:
    data = random.Random(length).randbytes(length)
    assert core.xxh3_64(data) == reference.xxh3_64(data)


@examples(50)
@given(st.integers(0, 200_000), st.integers(0, 7), st.randoms(use_true_random=False))
def test_random_longer_ones_at_any_alignment(length: int, skip: int, rng: random.Random) -> None:
    data = rng.randbytes(length + skip)
    assert core.xxh3_64(memoryview(data)[skip:]) == reference.xxh3_64(data[skip:])


def test_published_vectors() -> None:
    assert core.xxh3_64(b"") == 0x2D06800538D394C2
    assert core.xxh3_64(b"a") == 0xE6C632B61E964E1F
    assert core.xxh3_64(b"abc") == 0x78AF5F94892F3950


@examples(200)
@given(st.text() | st.binary(), st.integers(1, 65_535))
def test_partition_is_the_hash_modulo(key: str | bytes, partitions: int) -> None:
    assert core.partition(key, partitions) == reference.partition(key, partitions)


def test_a_key_has_one_partition_as_str_and_as_bytes() -> None:
    assert core.partition("Grüße", 1000) == core.partition("Grüße".encode(), 1000)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_bytes_like(kind: type) -> None:
    assert core.xxh3_64(kind(b"some bytes")) == reference.xxh3_64(b"some bytes")


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(TypeError):
        core.xxh3_64(7)  # type: ignore[arg-type]
    with pytest.raises(BufferError):
        core.xxh3_64(memoryview(b"abcdef")[::2])
    for partitions in (0, -1, 65_536):
        with pytest.raises(ValueError, match="1 to 65535"):
            core.partition("key", partitions)


@pytest.fixture(params=core.SIMD_LEVELS)
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    core.use_simd(request.param)
    yield request.param
    core.use_simd(core.SIMD)


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 15, 16, 17, 24_575, 24_576, 24_577, 49_152, 73_729])
def test_crc32c_around_its_blocks(level: str, length: int) -> None:
    data = random.Random(length).randbytes(length)
    assert core.crc32c(data) == reference.crc32c(data)


def test_crc32c_of_pieces_is_that_of_the_whole(level: str) -> None:
    assert core.crc32c(b"123456789") == 0xE3069283  # the published check value
    data = random.Random(3).randbytes(60_000)
    whole = core.crc32c(data)
    for cut in (0, 1, 8, 24_576, 30_001, 60_000):
        assert core.crc32c(memoryview(data)[cut:], core.crc32c(data[:cut])) == whole
