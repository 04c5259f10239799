"""The role's policy is enough for a job, and for no more: a stand-in for AWS that enforces it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import boto3
import pytest
from botocore.exceptions import ClientError
from test_cluster_host import APP, TEXT, Machines, followed

from mrfast.cluster import run
from mrfast.cluster.names import Names
from mrfast.cluster.plan import Cluster, policy

REGION, ACCOUNT = "us-east-1", "123456789012"
BUCKET, OTHER, FOREIGN = "cluster-bucket", "read-bucket", "foreign-bucket"


@pytest.fixture
def endpoint() -> Iterator[str]:
    script = Path(__file__).with_name("s3_server.py")
    with subprocess.Popen(
        [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        yield f"http://127.0.0.1:{server.stdout.readline().strip()}"
        server.kill()


def keys_of(endpoint: str, user: str, document: dict[str, Any]) -> dict[str, str]:
    """The credentials of a new user who may do what the policy says."""
    iam = boto3.Session().client("iam", endpoint_url=endpoint, region_name=REGION)
    iam.create_user(UserName=user)
    iam.put_user_policy(UserName=user, PolicyName="p", PolicyDocument=json.dumps(document))
    key = iam.create_access_key(UserName=user)["AccessKey"]
    return {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}


def test_the_policy_is_enough_for_a_job_and_for_no_more(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name, value in {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": REGION}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    names, cluster = Names("logs", REGION, ACCOUNT), Cluster("id", BUCKET, False, read=(OTHER,))
    s3, ssm = (boto3.Session().client(service) for service in ("s3", "ssm"))
    for bucket in (BUCKET, OTHER, FOREIGN):
        s3.create_bucket(Bucket=bucket)
        s3.put_object(Bucket=bucket, Key="books/a.txt", Body=TEXT)
    ssm.put_parameter(Name=names.token, Type="SecureString", Value="ab" * 32)
    allowed = {one["Sid"]: one for one in policy(names, cluster)["Statement"]}
    allowed["ListBuckets"]["Action"].append("s3:HeadBucket")  # AWS asks for s3:ListBucket there, moto for this name
    allowed["ReadToken"]["Resource"] = "*"  # moto looks at resources in S3 only
    role = keys_of(endpoint, "role", {"Version": "2012-10-17", "Statement": list(allowed.values())})
    with urlopen(Request(f"{endpoint}/moto-api/reset-auth", b"0", {"Content-Type": "text/plain"})):
        pass  # from here on moto looks at who calls

    for name, value in role.items():
        monkeypatch.setenv(name, value)
    s3, ssm, ec2 = (boto3.Session().client(service) for service in ("s3", "ssm", "ec2"))
    for call in (
        lambda: s3.put_object(Bucket=BUCKET, Key="books/a.txt", Body=b"x"),
        lambda: s3.delete_object(Bucket=BUCKET, Key="books/a.txt"),
        lambda: s3.put_object(Bucket=BUCKET, Key="mrfast-cluster/other/queue/1", Body=b"x"),
        lambda: s3.put_object(Bucket=OTHER, Key="mrfast/x", Body=b"x"),
        lambda: s3.get_object(Bucket=FOREIGN, Key="books/a.txt"),
        lambda: ssm.delete_parameter(Name=names.token),
        lambda: ec2.run_instances(ImageId="ami-1", MinCount=1, MaxCount=1),
    ):
        with pytest.raises(ClientError, match=r"AccessDenied|not authorized|UnauthorizedOperation"):
            call()

    with ExitStack() as stack:
        machines = Machines("logs", BUCKET, endpoint, tmp_path, stack)
        machines.start("coordinator")
        machines.start("worker")
        inputs = [f"s3://{bucket}/books/" for bucket in (BUCKET, OTHER)]
        job = run.submit(machines.board, APP.read_bytes(), "wc.py", ["-r", "2", *inputs], {}, None)
        ended = followed(machines.board, job.id)
        assert ended["code"] == 0, ended["lines"]
        refused = run.submit(machines.board, APP.read_bytes(), "wc.py", [f"s3://{FOREIGN}/books/"], {}, None)
        ended = followed(machines.board, refused.id)
        assert ended["code"] == 4 and "access denied" in "\n".join(ended["lines"]), ended["lines"]
