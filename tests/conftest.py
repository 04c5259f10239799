"""Fixtures that several test files share: above all one S3 stand-in for the whole session."""

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

from mrfast import storage

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


@pytest.fixture
def s3_server(_s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The endpoint URL of an S3 over real HTTP; the environment points botocore, here and in child processes, to it."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", _s3_endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    return _s3_endpoint


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


@pytest.fixture(params=["memory", "folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> storage.Store:
    """An empty store of each kind in turn."""
    if request.param == "memory":
        return storage.open_store(f"memory://test-{next(_numbers)}")
    if request.param == "folder":
        return storage.open_store(str(tmp_path / "store"))
    return storage.open_store(f"s3://{request.getfixturevalue('s3_bucket')}/some/prefix")
