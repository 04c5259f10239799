"""Fixtures that several test files share: above all one S3 stand-in, and one real S3 server, for the whole session."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import seaweedfs
from depth import ALL
from hypothesis import settings
from stores import SEAWEEDFS

from mrfast import storage

# slow_s3, the stand-in of the benches, serves tests too.
sys.path.append(str(Path(__file__).parent.parent / "benches"))

# The same code gets the same verdict every time; --all looks elsewhere each time.
settings.register_profile("mrfast", derandomize=not ALL)
settings.load_profile("mrfast")

_numbers = itertools.count()


@pytest.fixture(autouse=True, scope="session")
def _no_real_aws() -> Iterator[None]:
    """Keeps every test, and all processes that it starts, from the developer's own AWS account."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_CONFIG_FILE", os.devnull)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        yield


@pytest.fixture(scope="session")
def _s3_endpoint() -> Iterator[str]:
    script = Path(__file__).with_name("s3_server.py")
    with subprocess.Popen(
        [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        port = server.stdout.readline().strip()
        assert port, f"{script} did not start"
        yield f"http://127.0.0.1:{port}"
        server.kill()


@pytest.fixture(scope="session")
def _seaweedfs_endpoint() -> Iterator[str]:
    weed = seaweedfs.binary()
    if weed is None:
        pytest.skip("SeaweedFS is not installed: scripts/serve_s3 --install, or MRFAST_TEST_SEAWEEDFS=1 scripts/test")
    command = [sys.executable, seaweedfs.__file__, "--bucket", "seaweedfs"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None and server.stdin is not None
        first = server.stdout.readline().strip()
        assert "=" in first, "SeaweedFS did not start"
        yield first.partition("=")[2]
        server.stdin.close()


def _use_s3(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return environment["AWS_ENDPOINT_URL_S3"]


@pytest.fixture
def s3_server(_s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The endpoint URL of an S3 over real HTTP; the environment points botocore, here and in child processes, to it."""
    return _use_s3(seaweedfs.environment(_s3_endpoint), monkeypatch)


@pytest.fixture
def s3_client(s3_server: str) -> Any:
    """A boto3 client of the stand-in, to look at the bucket behind mrfast's back."""
    import boto3

    return boto3.client("s3", endpoint_url=s3_server)


@pytest.fixture
def s3_bucket(s3_client: Any) -> str:
    """The name of a new, empty bucket."""
    name = f"bucket-{os.getpid()}-{next(_numbers)}"
    s3_client.create_bucket(Bucket=name)
    return name


@pytest.fixture
def access_log(s3_server: str) -> Callable[[str], dict[str, int]]:
    """What a bucket was asked for so far, by verb, as the server itself has counted it."""
    from urllib.request import urlopen

    def read(bucket: str) -> dict[str, int]:
        with urlopen(f"{s3_server}/_requests/{bucket}") as answer:
            return dict(json.load(answer))

    return read


@pytest.fixture
def s3_url(s3_bucket: str) -> str:
    """An empty place of the stand-in."""
    return f"s3://{s3_bucket}"


@pytest.fixture
def seaweedfs_url(_seaweedfs_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty place of a real S3 server, to which the environment points."""
    _use_s3(seaweedfs.environment(_seaweedfs_endpoint), monkeypatch)
    return f"{SEAWEEDFS}{next(_numbers)}"


@pytest.fixture(params=["s3", "seaweedfs"])
def any_s3_url(request: pytest.FixtureRequest) -> str:
    """An empty place of the stand-in and of the real server in turn."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture(params=["memory", "folder", "s3", "seaweedfs"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> storage.Store:
    """An empty store of each kind in turn."""
    if request.param == "memory":
        return storage.open_store(f"memory://test-{next(_numbers)}")
    if request.param == "folder":
        return storage.open_store(str(tmp_path / "store"))
    return storage.open_store(request.getfixturevalue(f"{request.param}_url") + "/some/prefix")
