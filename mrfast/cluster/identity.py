"""What the machines may do: a role with policy.json, and the instance profile that hands it to them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from mrfast.cluster.aws import Aws, code_of
from mrfast.cluster.names import TAG, Names
from mrfast.cluster.plan import TRUST, Cluster, policy
from mrfast.errors import CloudError

_GONE = ("NoSuchEntity", "NoSuchEntityException")
_POLICY = "mrfast"


def ensure(aws: Aws, names: Names, cluster: Cluster, say: Callable[[str], None]) -> None:
    """The role, its policy and the profile are there afterwards."""
    role = _role(aws, names)
    if role is not None:
        _check_own(role, names, "role")
    else:
        aws.call(
            "iam", "create_role", RoleName=names.iam, AssumeRolePolicyDocument=json.dumps(TRUST), Tags=names.tags(),
            Description=f"instances of the mrfast cluster {names.name}",
        )  # fmt: skip
        say(f"made role {names.iam}")
    aws.call(
        "iam", "put_role_policy", again=lambda error: code_of(error) in _GONE,
        RoleName=names.iam, PolicyName=_POLICY, PolicyDocument=json.dumps(policy(names, cluster)),
    )  # fmt: skip
    profile = _profile(aws, names)
    if profile is not None:
        _check_own(profile, names, "instance profile")
    else:
        profile = aws.call("iam", "create_instance_profile", InstanceProfileName=names.iam, Tags=names.tags())
        profile = profile["InstanceProfile"]
        say(f"made instance profile {names.iam}")
    if not profile["Roles"]:
        aws.call(
            "iam", "add_role_to_instance_profile", again=lambda error: code_of(error) in _GONE,
            InstanceProfileName=names.iam, RoleName=names.iam,
        )  # fmt: skip
        aws.wait("iam", "instance_profile_exists", InstanceProfileName=names.iam)


def remove(aws: Aws, names: Names) -> list[str]:
    """What was removed; what lacks our tag is somebody's, and stays."""
    removed = []
    profile = _profile(aws, names)
    if profile is not None and _is_own(profile, names):
        for role in profile["Roles"]:
            aws.call(
                "iam", "remove_role_from_instance_profile", missing=_GONE,
                InstanceProfileName=names.iam, RoleName=role["RoleName"],
            )  # fmt: skip
        aws.call("iam", "delete_instance_profile", missing=_GONE, again=_conflict, InstanceProfileName=names.iam)
        removed.append(f"instance profile {names.iam}")
    role = _role(aws, names)
    if role is not None and _is_own(role, names):
        aws.call("iam", "delete_role_policy", missing=_GONE, RoleName=names.iam, PolicyName=_POLICY)
        aws.call("iam", "delete_role", missing=_GONE, again=_conflict, RoleName=names.iam)
        removed.append(f"role {names.iam}")
    return removed


def _conflict(error: Exception) -> bool:
    return code_of(error) in ("DeleteConflict", "DeleteConflictException")


def _role(aws: Aws, names: Names) -> dict[str, Any] | None:
    found = aws.call("iam", "get_role", missing=_GONE, RoleName=names.iam)
    return None if found is None else dict(found["Role"])


def _profile(aws: Aws, names: Names) -> dict[str, Any] | None:
    found = aws.call("iam", "get_instance_profile", missing=_GONE, InstanceProfileName=names.iam)
    return None if found is None else dict(found["InstanceProfile"])


def _is_own(found: dict[str, Any], names: Names) -> bool:
    return {"Key": TAG, "Value": names.name} in found.get("Tags", [])


def _check_own(found: dict[str, Any], names: Names, what: str) -> None:
    """What is named like ours and lacks our tag is somebody's: nothing is done to it."""
    if not _is_own(found, names):
        raise CloudError(
            f"the {what} {names.iam} lacks the tag {TAG}={names.name}: it is not this cluster's; take another name"
        )
