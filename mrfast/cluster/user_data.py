"""The user data of an instance: its settings, quoted for the shell, and boot.sh behind them. Pure."""

from __future__ import annotations

import base64
from importlib.resources import files
from shlex import quote

from mrfast.cluster.names import WORKER, Names
from mrfast.cluster.package import Package
from mrfast.cluster.plan import Cluster

BYTES_MAX = 16 << 10  # what EC2 takes, before base64


def script(names: Names, cluster: Cluster, role: str, package: Package) -> str:
    """The shell script that makes a machine one of the cluster's."""
    settings = {
        "name": names.name,
        "role": role,
        "region": names.region,
        "bucket": cluster.bucket,
        "package": package.requirement,
        "package_key": package.key,
        "idle_minutes": str(cluster.idle_minutes),
        "spot": "yes" if cluster.spot and role == WORKER else "",
        "ssm_agent": "yes",
    }
    head = "".join(f"{name}={quote(value)}\n" for name, value in settings.items())
    return f"#!/bin/bash\n{head}{files('mrfast.cluster').joinpath('boot.sh').read_text()}"


def user_data(names: Names, cluster: Cluster, role: str, package: Package) -> str:
    """The script as a launch template takes it."""
    text = script(names, cluster, role, package).encode()
    assert len(text) <= BYTES_MAX
    return base64.b64encode(text).decode()
