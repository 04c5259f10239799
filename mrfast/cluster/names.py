"""What everything of a cluster is called: its tags, its AWS resources, its places in the bucket. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mrfast.errors import UsageError

TAG = "mrfast-cluster"
ROLE_TAG = "mrfast-role"
COORDINATOR, WORKER = "coordinator", "worker"
ROLES = (COORDINATOR, WORKER)
PORT = 8000
PAGE_PORT = 8080  # on the coordinator's loopback only: a port forward brings it to one's own machine
STORE = "mrfast"  # under the bucket: what jobs write, the user's own, which `down` leaves alone
NAME = re.compile(r"[a-z][a-z0-9-]{0,22}[a-z0-9]|[a-z]")


@dataclass(frozen=True, slots=True)
class Names:
    """The names of one cluster's resources; the same for the same cluster, so that each is found again."""

    name: str
    region: str
    account: str
    partition: str = "aws"

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise UsageError(
                f"{self.name!r} cannot be the name of a cluster; use up to 24 lower-case letters, digits and hyphens, "
                "a letter first, as in: logs-2"
            )

    @property
    def bucket(self) -> str:
        """The bucket that `up` makes where none is named."""
        return f"mrfast-{self.name}-{self.account}-{self.region}"

    @property
    def prefix(self) -> str:
        """Where the cluster's own objects are in its bucket; nothing else is."""
        return f"mrfast-cluster/{self.name}/"

    @property
    def iam(self) -> str:
        """The role and the instance profile: IAM has no regions, so that the region is part of the name."""
        return f"mrfast-{self.name}-{self.region}"

    @property
    def record(self) -> str:
        """The SSM parameter that says what `up` was asked for: made first, removed last."""
        return f"/mrfast/{self.name}/cluster"

    @property
    def token(self) -> str:
        """The SSM parameter with the token."""
        return f"/mrfast/{self.name}/token"

    def of(self, role: str) -> str:
        """The security group and the launch template of a role."""
        return f"mrfast-{self.name}-{role}"

    def tags(self, role: str | None = None, **more: str) -> list[dict[str, str]]:
        """What each resource is tagged with."""
        named = {"Name": self.of(role) if role else f"mrfast-{self.name}", TAG: self.name}
        if role:
            named[ROLE_TAG] = role
        return [{"Key": key, "Value": value} for key, value in {**named, **more}.items()]

    def store(self, bucket: str) -> str:
        """Where jobs of the cluster write."""
        return f"s3://{bucket}/{STORE}"

    def board(self, bucket: str) -> str:
        """Where this side and the instances write to each other."""
        return f"s3://{bucket}/{self.prefix.rstrip('/')}"
