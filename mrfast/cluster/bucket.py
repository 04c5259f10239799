"""The cluster's bucket: made if it was not there, and what the cluster itself has in it."""

from __future__ import annotations

from typing import Any

from mrfast.cluster.aws import Aws, code_of
from mrfast.cluster.names import Names
from mrfast.cluster.package import Package
from mrfast.cluster.plan import Cluster
from mrfast.errors import UsageError

_GONE = ("NoSuchBucket", "404")


def ensure(aws: Aws, names: Names, cluster: Cluster) -> bool:
    """Whether the bucket was made; UsageError for one of the user's that is not there."""
    if aws.call("s3", "head_bucket", missing=_GONE, Bucket=cluster.bucket) is not None:
        return False
    if not cluster.own_bucket:
        raise UsageError(f"--bucket {cluster.bucket}: no such bucket; check its name, or leave --bucket out")
    where: dict[str, Any] = (
        {} if aws.region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": aws.region}}
    )
    aws.call("s3", "create_bucket", missing=("BucketAlreadyOwnedByYou",), Bucket=cluster.bucket, **where)
    aws.wait("s3", "bucket_exists", Bucket=cluster.bucket)
    return True


def tag(aws: Aws, names: Names, cluster: Cluster) -> None:
    """Gives a bucket of the cluster's own its tags."""
    if cluster.own_bucket:
        aws.call("s3", "put_bucket_tagging", Bucket=cluster.bucket, Tagging={"TagSet": names.tags()})


def find_package(aws: Aws, names: Names, cluster: Cluster) -> Package | None:
    """The package that an earlier `up` has put into the bucket."""
    for found in aws.pages(
        "s3", "list_objects_v2", "Contents", Bucket=cluster.bucket, Prefix=f"{names.prefix}package/"
    ):
        return Package(key=found["Key"])
    return None


def put_package(aws: Aws, cluster: Cluster, package: Package) -> None:
    """Puts the package where the machines fetch it."""
    aws.call("s3", "put_object", Bucket=cluster.bucket, Key=package.key, Body=package.data, ChecksumAlgorithm="SHA256")


def remove(aws: Aws, names: Names, cluster: Cluster) -> tuple[list[str], bool]:
    """What was removed, and whether the bucket is still there: the cluster's objects go, the user's stay.

    A bucket that `up` has made goes, too, if nothing is left in it.
    """
    if aws.call("s3", "head_bucket", missing=_GONE, Bucket=cluster.bucket) is None:
        return [], False
    removed = []
    keys = [
        {"Key": found["Key"]}
        for found in aws.pages("s3", "list_objects_v2", "Contents", Bucket=cluster.bucket, Prefix=names.prefix)
    ]
    for start in range(0, len(keys), 1000):
        some = keys[start : start + 1000]
        answer = aws.call("s3", "delete_objects", Bucket=cluster.bucket, Delete={"Objects": some, "Quiet": True})
        for error in answer.get("Errors", ())[:1]:
            raise UsageError(f"s3://{cluster.bucket}/{error['Key']} cannot be removed: {error.get('Message')}")
        removed.append(f"{len(some)} objects under s3://{cluster.bucket}/{names.prefix}")
    if cluster.own_bucket:
        left = aws.call("s3", "list_objects_v2", Bucket=cluster.bucket, MaxKeys=1)
        if not left.get("KeyCount"):
            aws.call("s3", "delete_bucket", missing=_GONE, again=_not_empty_yet, Bucket=cluster.bucket)
            return [*removed, f"bucket {cluster.bucket}"], False
    return removed, True


def _not_empty_yet(error: Exception) -> bool:
    return code_of(error) in ("OperationAborted",)
