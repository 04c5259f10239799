"""`mrfast cluster down`: removes all that carries the cluster's tag, whatever `up` got to; the user's data stay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from mrfast.cluster import bucket, identity, machines, network, record
from mrfast.cluster.aws import Aws


@dataclass(frozen=True, slots=True)
class Removed:
    """What `down` has removed, and the store that it has left."""

    what: list[str] = field(default_factory=list)
    store: str = ""


def down(aws: Aws, name: str, *, say: Callable[[str], None] = lambda text: None) -> Removed:
    """Nothing of the cluster is left when this returns; it can be repeated after any failure."""
    names = record.names_of(aws, name)
    cluster = record.find(aws, names)
    removed = Removed()
    left = False

    def told(what: list[str]) -> None:
        removed.what.extend(what)
        for one in what:
            say(f"removed {one}")

    told(machines.terminate(aws, machines.find_instances(aws, names)))
    told(machines.remove_templates(aws, names))
    told(network.remove_groups(aws, names))
    told(identity.remove(aws, names))
    if cluster is not None:
        what, left = bucket.remove(aws, names, cluster)
        told(what)
    if record.remove_token(aws, names):
        told([f"token {names.token}"])
    if cluster is not None:
        record.remove(aws, names)  # last: it is what names the bucket
        told([f"record {names.record}"])
    return Removed(removed.what, names.store(cluster.bucket) if cluster is not None and left else "")
