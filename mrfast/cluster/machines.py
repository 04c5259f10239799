"""Launch templates and instances: found by the cluster's tag, else made."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from mrfast.cluster.aws import Aws, code_of
from mrfast.cluster.names import ROLE_TAG, Names
from mrfast.cluster.network import Place, tagged
from mrfast.cluster.plan import Cluster, image_parameter
from mrfast.errors import CloudError, UsageError

LIVE = ("pending", "running")
_GONE = ("InvalidLaunchTemplateName.NotFoundException", "InvalidLaunchTemplateId.NotFound")


def tag_of(resource: dict[str, Any], key: str) -> str:
    """The value of a resource's tag, or nothing."""
    return next((tag["Value"] for tag in resource.get("Tags", ()) if tag["Key"] == key), "")


def role_of(instance: dict[str, Any]) -> str:
    """coordinator or worker."""
    return tag_of(instance, ROLE_TAG)


def find_instances(aws: Aws, names: Names) -> list[dict[str, Any]]:
    """All instances of the cluster that EC2 still lists, ended ones too, the oldest first."""
    found = aws.pages("ec2", "describe_instances", "Reservations", Filters=tagged(names))
    instances = [instance for reservation in found for instance in reservation["Instances"]]
    return sorted(instances, key=lambda one: (role_of(one), one["LaunchTime"], one["InstanceId"]))


def live(instances: Iterable[dict[str, Any]], role: str | None = None) -> list[dict[str, Any]]:
    """Those that run or are about to."""
    return [one for one in instances if one["State"]["Name"] in LIVE and role in (None, role_of(one))]


def find_image(aws: Aws, cluster: Cluster, role: str) -> tuple[str, str]:
    """The image of a role's machines, and its root device."""
    image = cluster.ami
    if image is None:
        type = cluster.type_of(role)
        found = aws.call("ec2", "describe_instance_types", missing=("InvalidInstanceType",), InstanceTypes=[type])
        if found is None or not found["InstanceTypes"]:
            raise UsageError(f"--type {type}: {aws.region} has no such machine type; check its name, or take another")
        parameter = image_parameter(found["InstanceTypes"][0]["ProcessorInfo"]["SupportedArchitectures"], type)
        value = aws.call("ssm", "get_parameter", missing=("ParameterNotFound",), Name=parameter)
        if value is None:
            raise CloudError(f"{aws.region} has no SSM parameter {parameter}: name a Debian 12 image with --ami")
        image = value["Parameter"]["Value"]
    images = aws.call("ec2", "describe_images", ImageIds=[image])["Images"]
    if not images:
        raise UsageError(f"no image {image} in {aws.region}; check --ami: each region has ids of its own")
    return image, images[0].get("RootDeviceName") or "/dev/xvda"


def find_templates(aws: Aws, names: Names) -> set[str]:
    """The names of the cluster's launch templates."""
    found = aws.pages("ec2", "describe_launch_templates", "LaunchTemplates", Filters=tagged(names))
    return {template["LaunchTemplateName"] for template in found}


def create_template(aws: Aws, names: Names, role: str, data: dict[str, Any]) -> None:
    """Makes a role's launch template."""
    aws.call(
        "ec2", "create_launch_template", missing=("InvalidLaunchTemplateName.AlreadyExistsException",),
        LaunchTemplateName=names.of(role), LaunchTemplateData=data,
        TagSpecifications=[{"ResourceType": "launch-template", "Tags": names.tags(role)}],
    )  # fmt: skip


def start(aws: Aws, names: Names, cluster: Cluster, role: str, place: Place, there: list[dict[str, Any]]) -> list[str]:
    """The ids of the machines that were started: as many as the role lacks, in one call, all or none."""
    lacking = cluster.count_of(role) - len(live(there, role))
    if lacking <= 0:
        return []
    known = {one["InstanceId"] for one in there if role_of(one) == role}
    while True:
        started = aws.call(
            "ec2", "run_instances", again=_profile_unseen, MinCount=lacking, MaxCount=lacking, SubnetId=place.subnet,
            LaunchTemplate={"LaunchTemplateName": names.of(role), "Version": "$Default"},
            ClientToken=client_token(cluster, role, lacking, known),
        )["Instances"]  # fmt: skip
        ids = [str(one["InstanceId"]) for one in started]
        if known.issuperset(ids) or len(live(started)) == len(started):
            return ids
        known.update(ids)  # an earlier start had this token, and its machines have ended since


def _profile_unseen(error: Exception) -> bool:
    """EC2 hears of a new instance profile some seconds after IAM has made it."""
    return code_of(error) in ("InvalidParameterValue", "InvalidLaunchTemplateId.NotFound", *_GONE) and (
        "profile" in str(error).lower() or code_of(error) in _GONE
    )


def client_token(cluster: Cluster, role: str, lacking: int, known: set[str]) -> str:
    """The same for the same start: a repeated one, whose answer was lost, gets the machines that it has started."""
    return hashlib.sha256("\n".join([cluster.id, role, str(lacking), *sorted(known)]).encode()).hexdigest()


def terminate(aws: Aws, instances: list[dict[str, Any]]) -> list[str]:
    """What has ended: returns when EC2 says so."""
    ids = [one["InstanceId"] for one in instances if one["State"]["Name"] != "terminated"]
    if not ids:
        return []
    aws.call("ec2", "terminate_instances", missing=("InvalidInstanceID.NotFound",), InstanceIds=ids)
    aws.wait("ec2", "instance_terminated", InstanceIds=ids, WaiterConfig={"Delay": 5, "MaxAttempts": 120})
    return [f"{role_of(one)} {one['InstanceId']}" for one in instances if one["InstanceId"] in ids]


def remove_templates(aws: Aws, names: Names) -> list[str]:
    """What was removed."""
    removed = []
    for name in sorted(find_templates(aws, names)):
        aws.call("ec2", "delete_launch_template", missing=_GONE, LaunchTemplateName=name)
        removed.append(f"launch template {name}")
    return removed
