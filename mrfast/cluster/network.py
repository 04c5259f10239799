"""Where the machines are: a subnet that has their types, and a security group for each role."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mrfast.cluster.aws import Aws, code_of
from mrfast.cluster.names import COORDINATOR, PORT, ROLES, TAG, WORKER, Names
from mrfast.cluster.plan import Cluster
from mrfast.errors import CloudError, UsageError

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Place:
    """A subnet: all machines of a cluster are in one zone, between zones traffic costs."""

    subnet: str
    vpc: str
    zone: str

    @property
    def text(self) -> str:
        """The place as a plan names it."""
        return f"{self.subnet} in {self.zone}"


def filters(**values: str | list[str]) -> list[dict[str, Any]]:
    """EC2's form of a filter; `tag__x` is the tag x."""
    return [
        {"Name": name.replace("__", ":").replace("_", "-"), "Values": [value] if isinstance(value, str) else value}
        for name, value in values.items()
    ]


def tagged(names: Names, **more: str | list[str]) -> list[dict[str, Any]]:
    """The filter that finds what is of this cluster."""
    return [{"Name": f"tag:{TAG}", "Values": [names.name]}, *filters(**more)]


def find_place(aws: Aws, cluster: Cluster) -> Place:
    """The subnet of --subnet, or the default VPC's first subnet in a zone that offers the machine types."""
    if cluster.subnet is not None:
        found = aws.call("ec2", "describe_subnets", SubnetIds=[cluster.subnet])["Subnets"][0]
        return Place(cluster.subnet, found["VpcId"], found["AvailabilityZone"])
    vpcs = aws.call("ec2", "describe_vpcs", Filters=filters(is_default="true"))["Vpcs"]
    if not vpcs:
        raise CloudError(
            f"{aws.region} has no default VPC; name one of your subnets with --subnet, or make a default VPC: "
            f"aws ec2 create-default-vpc --region {aws.region}"
        )
    subnets = aws.call("ec2", "describe_subnets", Filters=filters(vpc_id=vpcs[0]["VpcId"], default_for_az="true"))
    places = sorted(
        (Place(one["SubnetId"], one["VpcId"], one["AvailabilityZone"]) for one in subnets["Subnets"]),
        key=lambda place: place.zone,
    )
    zones = {type: _zones_of(aws, type) for type in {cluster.type_of(role) for role in ROLES}}
    for place in places:
        if all(place.zone in offered for offered in zones.values()):
            return place
    offers = "; ".join(f"{type}: {', '.join(sorted(offered)) or 'nowhere'}" for type, offered in zones.items())
    raise UsageError(
        f"no zone of {aws.region} with a default subnet offers all machine types ({offers}); take another --type or "
        "--coordinator-type, another --region, or name a subnet with --subnet"
    )


def _zones_of(aws: Aws, type: str) -> set[str]:
    found = aws.call(
        "ec2", "describe_instance_type_offerings", LocationType="availability-zone", Filters=filters(instance_type=type)
    )
    return {one["Location"] for one in found["InstanceTypeOfferings"]}


def find_groups(aws: Aws, names: Names) -> dict[str, dict[str, Any]]:
    """The cluster's security groups by name."""
    found = aws.pages("ec2", "describe_security_groups", "SecurityGroups", Filters=tagged(names))
    return {group["GroupName"]: group for group in found}


def ensure_groups(aws: Aws, names: Names, place: Place, say: Say) -> dict[str, str]:
    """The id of each role's group. Nothing reaches a worker; only workers reach the coordinator, at its port."""
    there, ids = find_groups(aws, names), {}
    for role in ROLES:
        name = names.of(role)
        if name in there:
            ids[role] = there[name]["GroupId"]
            continue
        made = aws.call(
            "ec2", "create_security_group", GroupName=name, VpcId=place.vpc, Description=f"mrfast {role}",
            TagSpecifications=[{"ResourceType": "security-group", "Tags": names.tags(role)}],
        )  # fmt: skip
        ids[role] = made["GroupId"]
        say(f"made security group {name}")
    if not there.get(names.of(COORDINATOR), {}).get("IpPermissions"):
        permission = {
            "IpProtocol": "tcp",
            "FromPort": PORT,
            "ToPort": PORT,
            "UserIdGroupPairs": [{"GroupId": ids[WORKER]}],
        }
        aws.call(
            "ec2", "authorize_security_group_ingress", missing=("InvalidPermission.Duplicate",),
            again=lambda error: code_of(error) == "InvalidGroup.NotFound",
            GroupId=ids[COORDINATOR], IpPermissions=[permission],
        )  # fmt: skip
    return ids


def remove_groups(aws: Aws, names: Names) -> list[str]:
    """The names of the groups that were removed. The coordinator's names the workers', so that it goes first."""
    removed = []
    for name, group in sorted(find_groups(aws, names).items()):
        aws.call(
            "ec2", "delete_security_group", missing=("InvalidGroup.NotFound",),
            # The interfaces of machines that have just ended hold on to their groups for some seconds.
            again=lambda error: code_of(error) == "DependencyViolation",
            GroupId=group["GroupId"],
        )  # fmt: skip
        removed.append(f"security group {name}")
    return removed
