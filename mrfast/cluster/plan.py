"""What `up` would create, as values, and what it costs an hour. Pure: no call, no clock."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any

from mrfast.cluster.names import COORDINATOR, PORT, ROLES, STORE, WORKER, Names
from mrfast.errors import UsageError

HOURS_A_MONTH = 730
# How the architecture of a machine type is called by Debian, in the SSM parameter of its image.
ARCHITECTURES = {"arm64": "arm64", "x86_64": "amd64"}
DEBIAN = "/aws/service/debian/release/12/latest/"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the user asked for. None: as it was before, else the default."""

    workers: int | None = None
    type: str | None = None
    coordinator_type: str | None = None
    spot: bool | None = None
    bucket: str | None = None
    read: tuple[str, ...] | None = None
    subnet: str | None = None
    ami: str | None = None
    volume_gib: int | None = None
    idle_minutes: int | None = None


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster as its record in SSM describes it: what `up` was asked for, with every default filled in."""

    id: str
    bucket: str
    own_bucket: bool
    workers: int = 2
    type: str = "c7g.xlarge"
    coordinator_type: str = "c7g.large"
    spot: bool = False
    read: tuple[str, ...] = ()
    subnet: str | None = None
    ami: str | None = None
    volume_gib: int = 30
    idle_minutes: int = 30

    def type_of(self, role: str) -> str:
        """The machine type of a role."""
        return self.type if role == WORKER else self.coordinator_type

    def count_of(self, role: str) -> int:
        """How many machines a role has."""
        return self.workers if role == WORKER else 1

    def to_json(self) -> str:
        """The record."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Cluster:
        """The cluster of a record."""
        document = json.loads(text)
        return cls(**{**document, "read": tuple(document["read"])})


def new_cluster(wanted: Wanted, names: Names, id: str) -> Cluster:
    """The cluster that a first `up` makes."""
    given = {name: value for name, value in asdict(wanted).items() if value is not None}
    if "type" in given and "coordinator_type" not in given and wanted.ami is not None:
        given["coordinator_type"] = given["type"]  # an image is of one architecture
    own = "bucket" not in given
    return Cluster(**{"id": id, "own_bucket": own, "bucket": names.bucket, **given})


def again(cluster: Cluster, wanted: Wanted, name: str) -> Cluster:
    """The cluster that a repeated `up` works on: the number of workers may be another one, nothing else."""
    for field, value in asdict(wanted).items():
        there = getattr(cluster, field)
        if value is None or value == there or field == "workers":
            continue
        option = "--" + field.replace("_", "-")
        raise UsageError(
            f"cluster {name} was made with {option} {_text(there)}; to have {_text(value)}, take another name, "
            f"or first: mrfast cluster down {name}"
        )
    return cluster if wanted.workers is None else replace(cluster, workers=wanted.workers)


def _text(value: Any) -> str:
    return " ".join(value) if isinstance(value, tuple) else str(value)


def image_parameter(architectures: Iterable[str], type: str) -> str:
    """The public SSM parameter that holds the id of Debian 12's image for a machine type."""
    for name in architectures:
        if name in ARCHITECTURES:
            return DEBIAN + ARCHITECTURES[name]
    raise UsageError(f"--type {type}: Debian has no image for its architecture; take another type, or give --ami")


def policy(names: Names, cluster: Cluster) -> dict[str, Any]:
    """What the instances may do: policy.json, filled in."""
    arn = f"arn:{names.partition}:s3:::"
    buckets = sorted({cluster.bucket, *cluster.read})
    lists = {
        "${readable-buckets}": [arn + bucket for bucket in buckets],
        "${readable-objects}": [f"{arn}{bucket}/*" for bucket in buckets],
    }
    words = {
        "${partition}": names.partition,
        "${region}": names.region,
        "${account}": names.account,
        "${bucket}": cluster.bucket,
        "${store}": STORE,
        "${prefix}": names.prefix,
        "${token}": names.token,
    }
    document: dict[str, Any] = json.loads(_file("policy.json"))
    for statement in document["Statement"]:
        resources = []
        for resource in statement["Resource"]:
            for word, value in words.items():
                resource = resource.replace(word, value)
            resources += lists.get(resource, [resource])
        statement["Resource"] = resources
    return document


TRUST = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}],
}


def template(
    names: Names, cluster: Cluster, role: str, *, image: str, device: str, group: str, user_data: str
) -> dict[str, Any]:
    """The data of a role's launch template; `user_data` is in base64."""
    data: dict[str, Any] = {
        "ImageId": image,
        "InstanceType": cluster.type_of(role),
        "IamInstanceProfile": {"Name": names.iam},
        "SecurityGroupIds": [group],
        "UserData": user_data,
        "InstanceInitiatedShutdownBehavior": "terminate",
        "MetadataOptions": {"HttpEndpoint": "enabled", "HttpTokens": "required", "HttpPutResponseHopLimit": 1},
        "BlockDeviceMappings": [
            {
                "DeviceName": device,
                "Ebs": {
                    "VolumeSize": cluster.volume_gib,
                    "VolumeType": "gp3",
                    "Encrypted": True,
                    "DeleteOnTermination": True,
                },
            }
        ],
        "TagSpecifications": [
            {"ResourceType": kind, "Tags": names.tags(role)} for kind in ("instance", "volume", "network-interface")
        ],
    }
    if role == WORKER and cluster.spot:
        options = {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"}
        data["InstanceMarketOptions"] = {"MarketType": "spot", "SpotOptions": options}
    return data


@cache
def prices() -> dict[str, Any]:
    """prices.json."""
    document: dict[str, Any] = json.loads(_file("prices.json"))
    return document


def price_per_hour(cluster: Cluster) -> float | None:
    """Dollars an hour of the machines, their volumes and addresses; None for a type that prices.json lacks."""
    table = prices()
    total = 0.0
    for role in ROLES:
        hour = table["hour"].get(cluster.type_of(role))
        if hour is None:
            return None
        volume = cluster.volume_gib * table["gp3_gib_month"] / HOURS_A_MONTH
        total += cluster.count_of(role) * (hour + volume + table["public_ipv4_hour"])
    return total


def price_text(cluster: Cluster) -> str:
    """The price as people read it, with where it comes from."""
    table, price = prices(), price_per_hour(cluster)
    if price is None:
        lacking = sorted({cluster.type_of(role) for role in ROLES} - set(table["hour"]))
        return f"price unknown: no {' and no '.join(lacking)} in the table of {table['date']}; see {table['source']}"
    spot = ", less for --spot" if cluster.spot else ""
    return f"${price:.2f} an hour{spot} (on demand in us-east-1, {table['date']}; other regions differ)"


def lines(names: Names, cluster: Cluster, *, image: dict[str, str], subnet: str, package: str) -> list[str]:
    """What `up` creates, a line each."""
    made = "new" if cluster.own_bucket else "there already"
    spot = ", spot" if cluster.spot else ""
    found = [
        f"record      SSM parameter {names.record}",
        f"token       SSM parameter {names.token} (SecureString)",
        f"bucket      {cluster.bucket} ({made}); jobs write to {names.store(cluster.bucket)}",
        f"package     {package}",
        f"role        {names.iam}, and an instance profile of the same name (policy.json)",
        f"network     {subnet}; {names.of(WORKER)}: nothing comes in; "
        f"{names.of(COORDINATOR)}: port {PORT} from workers only",
    ]
    for role in ROLES:
        count, market = cluster.count_of(role), spot if role == WORKER else ""
        found.append(
            f"{role:<11} {count} x {cluster.type_of(role)}{market}, {image[role]}, {cluster.volume_gib} GiB encrypted, "
            f"ends after {cluster.idle_minutes} idle minutes"
        )
    return [*found, f"price       {price_text(cluster)}"]


def _file(name: str) -> str:
    return files("mrfast.cluster").joinpath(name).read_text()
