"""Our signatures are botocore's, for any key, query and token."""

from __future__ import annotations

import datetime as dt
from typing import Any
from unittest.mock import patch

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials as BotoCredentials
from hypothesis import given
from hypothesis import strategies as st

from mrfast.storage.sigv4 import Credentials, Signer, encode_path, encode_query

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
ODD = st.one_of(
    TEXT, st.sampled_from(["a b", "100%", "%20", "a+b", "ä/€/𝄞", "x\ny", "~-._", "a=b&c", "", "a;b,c:d@e!$'()*"])
)
SECOND = st.integers(0, 4_000_000_000)


def by_botocore(
    method: str, url: str, headers: dict[str, str], credentials: Credentials, region: str, now: int
) -> dict[str, str]:
    request: Any = AWSRequest(method, url, headers=dict(headers))
    request.context = {"client_config": Config(s3={"payload_signing_enabled": False})}
    when = dt.datetime.fromtimestamp(now, dt.UTC)
    with patch("botocore.auth.get_current_datetime", lambda *_: when):
        S3SigV4Auth(BotoCredentials(*credentials), "s3", region).add_auth(request)
    return {name.lower(): value for name, value in request.headers.items()}


@given(
    method=st.sampled_from(["GET", "PUT", "HEAD", "DELETE", "POST"]),
    key=ODD,
    query=st.lists(st.tuples(ODD, ODD), max_size=3, unique_by=lambda pair: pair[0]),
    token=st.one_of(st.none(), st.text("abcXYZ019+/=", min_size=1, max_size=40)),
    region=st.sampled_from(["us-east-1", "eu-central-1"]),
    seconds=st.lists(SECOND, min_size=1, max_size=3),
    extra=st.dictionaries(
        st.sampled_from(["range", "if-match", "x-amz-acl"]), st.text('ab \t"=0-', max_size=9), max_size=3
    ),
)
def test_signatures_are_those_of_botocore(
    method: str,
    key: str,
    query: list[tuple[str, str]],
    token: str | None,
    region: str,
    seconds: list[int],
    extra: dict[str, str],
) -> None:
    credentials = Credentials("AKID", "secret/+", token)
    signer = Signer(region)
    path, asked = "/bucket/" + encode_path(key), encode_query(query)
    for now in seconds:  # one after the other: what is cached must not outlive its day
        ours = signer.signed(method, path, asked, {"host": "h.example:9000", **extra}, credentials, now + 0.75)
        url = f"http://h.example:9000{path}" + (f"?{asked}" if asked else "")
        theirs = by_botocore(method, url, extra, credentials, region, now)
        assert ours == {"host": "h.example:9000", **theirs}


def test_credentials_that_change_change_the_signing_key() -> None:
    signer = Signer("us-east-1")
    ask = ("GET", "/b/k", "", {"host": "h"})
    first, second = Credentials("a", "one"), Credentials("a", "two")
    wanted = signer.signed(*ask, first, 0)
    assert signer.signed(*ask, second, 0) != wanted
    assert signer.signed(*ask, first, 0) == wanted


def test_the_example_of_the_documentation() -> None:
    """ "GET Object" of https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html."""
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    signed = Signer("us-east-1").signed(
        "GET",
        "/test.txt",
        "",
        {"host": "examplebucket.s3.amazonaws.com", "range": "bytes=0-9"},
        Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
        dt.datetime(2013, 5, 24, tzinfo=dt.UTC).timestamp(),
        empty,
    )
    assert signed["authorization"].endswith("f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41")
