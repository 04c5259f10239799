"""A cluster's record and its token: two SSM parameters. The record is made first and removed last."""

from __future__ import annotations

import secrets

from mrfast.cluster.aws import Aws
from mrfast.cluster.names import Names
from mrfast.cluster.plan import Cluster
from mrfast.errors import UnknownCluster

_GONE = ("ParameterNotFound",)


def names_of(aws: Aws, name: str) -> Names:
    """The cluster's names in the account and region of these credentials."""
    Names(name, aws.region, "")  # refuses a bad name before anything is called
    arn: str = aws.call("sts", "get_caller_identity")["Arn"]
    parts = arn.split(":")
    return Names(name, aws.region, parts[4], parts[1])


def find(aws: Aws, names: Names) -> Cluster | None:
    """The cluster as its record has it; None if there is none."""
    found = aws.call("ssm", "get_parameter", missing=_GONE, Name=names.record)
    return None if found is None else Cluster.from_json(found["Parameter"]["Value"])


def get(aws: Aws, names: Names) -> Cluster:
    """The cluster; UnknownCluster."""
    cluster = find(aws, names)
    if cluster is None:
        raise UnknownCluster(
            f"no cluster {names.name} in {names.region} of account {names.account}; check the name and --region, "
            f"or make it: mrfast cluster up {names.name}"
        )
    return cluster


def create(aws: Aws, names: Names, cluster: Cluster) -> None:
    """Writes the record of a new cluster; two `up` at once are one too many."""
    aws.call(
        "ssm", "put_parameter", Name=names.record, Type="String", Value=cluster.to_json(), Tags=names.tags(),
        Description="mrfast cluster up",
    )  # fmt: skip


def update(aws: Aws, names: Names, cluster: Cluster) -> None:
    """Writes what has changed."""
    aws.call("ssm", "put_parameter", Name=names.record, Type="String", Value=cluster.to_json(), Overwrite=True)


def ensure_token(aws: Aws, names: Names) -> bool:
    """Whether a token was made; it goes from here into SSM, and nowhere else."""
    found = aws.call("ssm", "describe_parameters", ParameterFilters=[{"Key": "Name", "Values": [names.token]}])
    if found["Parameters"]:
        return False
    aws.call(
        "ssm", "put_parameter", missing=("ParameterAlreadyExists",), Name=names.token, Type="SecureString",
        Value=secrets.token_hex(32), Tags=names.tags(), Description="token of the coordinator and its workers",
    )  # fmt: skip
    return True


def remove_token(aws: Aws, names: Names) -> bool:
    """Whether there was one."""
    return aws.call("ssm", "delete_parameter", missing=_GONE, Name=names.token) is not None


def remove(aws: Aws, names: Names) -> None:
    """The last step of `down`."""
    aws.call("ssm", "delete_parameter", missing=_GONE, Name=names.record)
