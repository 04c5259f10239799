"""`mrfast cluster up`: each step finds what is there, else makes it, so that it can be repeated after any failure."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass

from mrfast.cluster import bucket, identity, machines, network, record
from mrfast.cluster.aws import Aws
from mrfast.cluster.names import ROLES, Names
from mrfast.cluster.package import Package, package
from mrfast.cluster.plan import Cluster, Wanted, again, lines, new_cluster, template
from mrfast.cluster.user_data import user_data
from mrfast.errors import UsageError

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Prepared:
    """All that a cluster is made of, before anything of it is made."""

    names: Names
    cluster: Cluster
    recorded: Cluster | None
    place: network.Place
    images: dict[str, tuple[str, str]]
    package: Package

    def lines(self) -> list[str]:
        """The plan, a line each."""
        images = {role: image for role, (image, _) in self.images.items()}
        return lines(self.names, self.cluster, image=images, subnet=self.place.text, package=self.package.text)


def prepare(aws: Aws, name: str, wanted: Wanted, given: str | None, version: str) -> Prepared:
    """Looks everything up, and changes nothing."""
    names = record.names_of(aws, name)
    recorded = record.find(aws, names)
    cluster = again(recorded, wanted, name) if recorded else new_cluster(wanted, names, secrets.token_hex(8))
    images = {role: machines.find_image(aws, cluster, role) for role in ROLES}
    place = network.find_place(aws, cluster)
    return Prepared(names, cluster, recorded, place, images, package(given, version, names.prefix))


def up(aws: Aws, prepared: Prepared, *, package_given: bool, say: Say) -> None:
    """The cluster runs when this returns: EC2 says so of each machine."""
    names, cluster = prepared.names, prepared.cluster
    if prepared.recorded is None:
        record.create(aws, names, cluster)
    elif cluster != prepared.recorded:
        record.update(aws, names, cluster)
    if record.ensure_token(aws, names):
        say(f"made token {names.token}")
    if bucket.ensure(aws, names, cluster):
        say(f"made bucket {cluster.bucket}")
    bucket.tag(aws, names, cluster)
    there = machines.find_templates(aws, names)
    shipped = _ship(aws, prepared, given=package_given, say=say, fixed=len(there) == len(ROLES))
    identity.ensure(aws, names, cluster, say)
    groups = network.ensure_groups(aws, names, prepared.place, say)
    for role in ROLES:
        if names.of(role) not in there:
            image, device = prepared.images[role]
            script = user_data(names, cluster, role, shipped)
            data = template(
                names, cluster, role, image=image, device=device, group=groups[role], user_data=script
            )  # fmt: skip
            machines.create_template(aws, names, role, data)
            say(f"made launch template {names.of(role)}")
    instances = machines.find_instances(aws, names)
    ids = {one["InstanceId"] for one in machines.live(instances)}
    for role in ROLES:
        if started := machines.start(aws, names, cluster, role, prepared.place, instances):
            say(f"started {len(started)} x {role} ({cluster.type_of(role)})")
            ids.update(started)
        elif (more := len(machines.live(instances, role))) > cluster.count_of(role):
            say(f"{more} x {role} run, more than {cluster.count_of(role)}: they end when they are idle, or by down")
    aws.wait("ec2", "instance_running", InstanceIds=sorted(ids), WaiterConfig={"Delay": 5, "MaxAttempts": 60})


def _ship(aws: Aws, prepared: Prepared, *, given: bool, say: Say, fixed: bool) -> Package:
    """The package that the machines install: what an earlier `up` has shipped, or this one's."""
    names, cluster, wanted = prepared.names, prepared.cluster, prepared.package
    there = bucket.find_package(aws, names, cluster)
    if given and fixed and (there or Package()).key != wanted.key:
        raise UsageError(
            f"cluster {names.name} was made with another package; to have this one, take another name, or first: "
            f"mrfast cluster down {names.name}"
        )
    if fixed or (there is not None and not given):
        return there or wanted
    if wanted.key and (there is None or there.key != wanted.key):
        bucket.put_package(aws, cluster, wanted)
        say(f"put {wanted.text} into {cluster.bucket}")
    return wanted
