"""Waits for EC2's notice that it takes this spot machine back, two minutes before it does, and runs a command then.

python -m mrfast.cluster.spot -- systemctl stop mrfast.service
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from urllib.error import HTTPError, URLError

POLL_S = 5.0
TIMEOUT_S = 2.0
# What botocore takes for the same, so that both ask the same service.
ENDPOINT_VARIABLE, ENDPOINT = "AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://169.254.169.254"


def metadata(path: str) -> str | None:
    """What the instance's metadata service (IMDSv2) has at this path; None if it has nothing there, or is not there."""
    base = os.environ.get(ENDPOINT_VARIABLE, ENDPOINT).rstrip("/")
    asked = urllib.request.Request(
        f"{base}/latest/api/token", method="PUT", headers={"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never by way of a proxy
    try:
        with opener.open(asked, timeout=TIMEOUT_S) as answer:
            token = answer.read().decode()
        request = urllib.request.Request(f"{base}/latest/meta-data/{path}", headers={"X-aws-ec2-metadata-token": token})
        with opener.open(request, timeout=TIMEOUT_S) as answer:
            return str(answer.read().decode())
    except (HTTPError, URLError, OSError):
        return None


def instance_id() -> str | None:
    """This machine's id; None if it is none of EC2's."""
    return metadata("instance-id")


def wait_for_notice(sleep: Callable[[float], None] = time.sleep) -> str:
    """What the notice says, once it is there."""
    while (notice := metadata("spot/instance-action")) is None:
        sleep(POLL_S)
    return notice


def main(arguments: list[str]) -> int:
    """The exit code of the command, which was run when the notice came."""
    command = arguments[arguments.index("--") + 1 :] if "--" in arguments else arguments
    if not command:
        print(__doc__, file=sys.stderr)
        return 2
    notice = wait_for_notice()
    print(f"mrfast-spot: EC2 takes this machine back: {notice}; {' '.join(command)}", file=sys.stderr, flush=True)
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
