"""What the cluster's tests share: an AWS of moto in this process, its inventory, and a count of the calls to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import boto3
from botocore.exceptions import ClientError, EndpointConnectionError
from moto import mock_aws
from moto.ssm.models import Parameter, ssm_backends

from mrfast.cluster.aws import Aws
from mrfast.cluster.plan import DEBIAN

ACCOUNT, REGION = "123456789012", "eu-central-1"
ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": REGION}
ENVIRONMENT["AWS_DEFAULT_REGION"] = REGION  # what boto3's own clients look at
SERVICES = ("ec2", "iam", "ssm", "s3", "sts")
IMAGE = "ami-12c6146b"  # one that moto has
READING = ("Describe", "Get", "List", "Head")


def add_debian(region: str = REGION) -> None:
    """The public parameters with Debian's images, which moto lacks."""
    backend = ssm_backends[ACCOUNT][region]
    for architecture in ("amd64", "arm64"):
        name = DEBIAN + architecture
        backend._parameters[name].append(Parameter(ACCOUNT, name, IMAGE, "String", None, None, None, 0, 1, "text"))


@contextmanager
def aws_of_moto(region: str = REGION) -> Iterator[None]:
    """An empty AWS with a default VPC."""
    with mock_aws():
        add_debian(region)
        yield


class Calls:
    """Counts the calls of every Aws; the one numbered `fail` raises, before it is made or after it has taken effect.

    `errors` are those of named calls: each call takes one, as long as there are some.
    """

    now: Calls | None = None

    def __init__(
        self, *, fail: int | None = None, late: bool = False, errors: dict[str, list[tuple[str, str]]] | None = None
    ) -> None:
        self.seen: list[str] = []
        self._fail, self._late, self._errors = fail, late, errors or {}
        Calls.now = self

    def mutating(self) -> list[str]:
        """The calls that change something."""
        return [name for name in self.seen if not name.startswith(READING)]

    @staticmethod
    def before(model: Any, **_: Any) -> None:
        """A call is about to be made."""
        if Calls.now is not None:
            Calls.now.seen.append(model.name)
            Calls.now._fail_if(late=False)
            if waiting := Calls.now._errors.get(model.name):
                code, message = waiting.pop(0)
                raise ClientError({"Error": {"Code": code, "Message": message}}, model.name)

    @staticmethod
    def after(**_: Any) -> None:
        """A call was answered."""
        if Calls.now is not None:
            Calls.now._fail_if(late=True)

    def _fail_if(self, *, late: bool) -> None:
        if self._late == late and len(self.seen) - 1 == self._fail:
            raise EndpointConnectionError(endpoint_url="https://cut.example")


@cache
def clients() -> dict[str, Any]:
    """The clients of every Aws: to make them takes longer than all that they do in moto."""
    made = Aws(REGION)
    for service in SERVICES:
        events = made.client(service).meta.events
        events.register_first("before-call", Calls.before)
        events.register_last("after-call", Calls.after)
    return made._clients


@cache
def others() -> tuple[Any, ...]:
    """Clients that no call is counted of."""
    return tuple(boto3.client(service, region_name=REGION) for service in SERVICES[:4])


def inventory() -> dict[str, list[str]]:
    """All that an account has of what a cluster is made of, in every service.

    No volumes and interfaces: EC2 removes them with their machine, moto does so only without a launch template.
    """
    ec2, iam, ssm, s3 = others()

    def names(answer: dict[str, Any], key: str, name: str) -> list[str]:
        return sorted(one[name] for one in answer[key])

    instances = [one for each in ec2.describe_instances()["Reservations"] for one in each["Instances"]]
    buckets = names(s3.list_buckets(), "Buckets", "Name")
    return {
        "instances": sorted(one["InstanceId"] for one in instances if one["State"]["Name"] != "terminated"),
        "groups": names(ec2.describe_security_groups(), "SecurityGroups", "GroupName"),
        "templates": names(ec2.describe_launch_templates(), "LaunchTemplates", "LaunchTemplateName"),
        "spot": names(ec2.describe_spot_instance_requests(), "SpotInstanceRequests", "SpotInstanceRequestId"),
        "roles": names(iam.list_roles(), "Roles", "RoleName"),
        "profiles": names(iam.list_instance_profiles(), "InstanceProfiles", "InstanceProfileName"),
        "parameters": names(ssm.describe_parameters(), "Parameters", "Name"),
        "buckets": buckets,
        "objects": [
            f"{bucket}/{one['Key']}"
            for bucket in buckets
            for one in s3.list_objects_v2(Bucket=bucket).get("Contents", [])
        ],
    }


def no_sleep(seconds: float) -> None:
    """A wait that is none."""


def new_aws(sleep: Callable[[float], None] = no_sleep) -> Aws:
    """An Aws that does not sleep, and whose calls are not counted yet."""
    Calls.now = None
    aws = Aws(REGION, sleep=sleep)
    aws._clients = clients()
    return aws
