"""`mrfast cluster status` and `logs`: what EC2 says of the machines, and what they have written."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from mrfast.cluster import machines, record
from mrfast.cluster.aws import Aws
from mrfast.cluster.board import Board
from mrfast.cluster.names import COORDINATOR, ROLES, Names
from mrfast.cluster.plan import Cluster, price_per_hour
from mrfast.errors import UsageError
from mrfast.storage import Store, open_store

HELLO_S = 5.0


def status(aws: Aws, name: str, *, open: Callable[[str], Store] = open_store) -> dict[str, Any]:
    """The cluster as one document: machines, who has said hello, jobs, price."""
    names = record.names_of(aws, name)
    cluster = record.get(aws, names)
    instances = machines.find_instances(aws, names)
    running = machines.live(instances)
    at = board(aws, names, cluster, open)
    said, queue = (at.hellos(), at.queue()) if running else ({}, [])
    return {
        "name": name,
        "region": names.region,
        "bucket": cluster.bucket,
        "store": names.store(cluster.bucket),
        "wanted": {role: cluster.count_of(role) for role in ROLES},
        "price_per_hour": price_per_hour(cluster),
        "queue": queue,
        "progress": at.progress_of(queue[0]) if queue else [],
        "machines": [
            {
                "instance": one["InstanceId"],
                "role": machines.role_of(one),
                "type": one["InstanceType"],
                "state": one["State"]["Name"],
                "zone": one.get("Placement", {}).get("AvailabilityZone", ""),
                "address": one.get("PrivateIpAddress", ""),
                "launched": one["LaunchTime"].isoformat(),
                "why": one.get("StateReason", {}).get("Message", ""),
                "hello": said.get(one["InstanceId"]),
            }
            for one in instances
        ],
    }


def lines(document: dict[str, Any]) -> Iterator[str]:
    """The document as people read it."""
    price = document["price_per_hour"]
    cost = f", up to ${price:.2f} an hour" if price is not None else ""
    yield f"cluster {document['name']} in {document['region']}{cost}; jobs write to {document['store']}"
    for one in document["machines"]:
        hello = one["hello"]
        said = f"mrfast {hello['version']} on {hello['cpus']} cores" if hello else "has not said hello"
        said = said if one["state"] in machines.LIVE else one["why"]
        words = f"{one['role']:<11} {one['instance']}  {one['type']:<12} {one['state']:<13} {one['address']:<15} {said}"
        yield words.rstrip()
    for job in document["queue"]:
        yield f"job {job}"
        if job == document["queue"][0]:
            yield from (f"    {line}" for line in document["progress"][-1:])
    for role, wanted in document["wanted"].items():
        there = sum(one["role"] == role and one["state"] in machines.LIVE for one in document["machines"])
        if there < wanted:
            yield f"{wanted - there} x {role} lacking: mrfast cluster up {document['name']} starts them"


def board(aws: Aws, names: Names, cluster: Cluster, open: Callable[[str], Store] = open_store) -> Board:
    """The cluster's board, in the region of these credentials."""
    return Board(open(names.board(cluster.bucket)))


def wait_for_hellos(
    aws: Aws,
    name: str,
    *,
    patience_s: float,
    say: Callable[[str], None],
    open: Callable[[str], Store] = open_store,
    clock: Callable[[], float] = time.monotonic,
) -> bool:
    """Whether every machine has said hello within `patience_s`: mrfast is installed there, and looks for jobs."""
    until, last = clock() + patience_s, -1
    while True:
        document = status(aws, name, open=open)
        running = [one for one in document["machines"] if one["state"] in machines.LIVE]
        ready = sum(one["hello"] is not None for one in running)
        if ready != last:
            say(f"{ready} of {len(running)} machines have said hello")
            last = ready
        if running and ready == len(running):
            return True
        if clock() >= until or not running:
            return False
        aws.sleep(HELLO_S)


def logs(aws: Aws, name: str, *, instance: str | None = None, role: str = COORDINATOR) -> Iterator[tuple[str, str]]:
    """The console of the named instance, or of all live ones of the role: (instance, text). The agent needs none."""
    names = record.names_of(aws, name)
    record.get(aws, names)
    found = machines.find_instances(aws, names)
    chosen = [one for one in found if one["InstanceId"] == instance] if instance else machines.live(found, role)
    if not chosen:
        what = f"instance {instance}" if instance else f"running {role}"
        raise UsageError(f"cluster {name} has no {what}; see: mrfast cluster status {name}")
    for one in chosen:
        answer = _console(aws, one["InstanceId"])
        yield one["InstanceId"], answer


def _console(aws: Aws, instance: str) -> str:
    """The last 64 KiB; machines of the older kind, not Nitro, have no latest console, only one of a while ago."""
    answer = aws.call("ec2", "get_console_output", missing=("UnsupportedOperation",), InstanceId=instance, Latest=True)
    if answer is None:
        answer = aws.call("ec2", "get_console_output", InstanceId=instance)
    return str(answer.get("Output", ""))
