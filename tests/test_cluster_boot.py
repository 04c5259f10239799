"""The user data: a sound script, and for real, in a bare Debian: what it installs works for a coordinator."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from fake_imds import metadata_service
from test_cluster_host import APP, TEXT, Machines, followed, machines

from mrfast import __version__
from mrfast.cluster import run
from mrfast.cluster.names import ROLES, WORKER, Names
from mrfast.cluster.package import ROOT, Package, package, source_archive
from mrfast.cluster.plan import Cluster
from mrfast.cluster.user_data import BYTES_MAX, script

__all__ = ["machines"]

CLUSTER = Cluster("id", "bucket", False, spot=True)
BOOT = ROOT / "mrfast" / "cluster" / "boot.sh"


@pytest.mark.parametrize("role", ROLES)
def test_the_script_is_sound(role: str, tmp_path: Path):
    text = script(Names("logs", "eu-central-1", "1"), CLUSTER, role, Package("mrfast==1.0; rm -rf '/'"))
    assert text.startswith("#!/bin/bash\n") and len(text) < BYTES_MAX
    path = tmp_path / "user-data"
    path.write_text(text)
    subprocess.run(["bash", "-n", str(path)], check=True)
    settings = text[: text.index("# The rest of an instance's")]
    said = subprocess.check_output(["bash", "-c", f'{settings}echo "$package|$role|$spot"'], text=True)
    assert said == f"mrfast==1.0; rm -rf '/'|{role}|{'yes' if role == WORKER else ''}\n"


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_finds_nothing():
    subprocess.run(["shellcheck", "-s", "bash", str(BOOT)], check=True)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize("role", ROLES)
def test_systemd_takes_the_units(role: str, tmp_path: Path):
    text = script(Names("logs", "eu-central-1", "1"), CLUSTER, role, Package("mrfast"))
    functions = text[: text.index('say "$role of $name"')].replace("/etc/systemd/system", str(tmp_path))
    for path in ("/etc/mrfast.env", "/opt/mrfast", "/var/lib/mrfast", "/run/mrfast"):
        functions = functions.replace(path, str(tmp_path / path.rpartition("/")[2]) + path.count("/") * "_")
    (tmp_path / "mrfast__" / "bin").mkdir(parents=True)
    (tmp_path / "mrfast__" / "bin" / "python").symlink_to("/bin/true")
    stubs = "systemctl() { :; }; useradd() { :; }; chown() { :; }; install_idle_timer; install_units"
    subprocess.run(["bash", "-c", functions + stubs], check=True)
    units = sorted(str(path) for path in tmp_path.glob("mrfast*.*") if path.suffix in (".service", ".timer"))
    assert len(units) == 4
    command = ["systemd-analyze", "verify", "--man=no", *units]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    # Of other units of this machine it may have something to say, too.
    assert not [line for line in done.stderr.splitlines() if "mrfast" in line], done.stderr


def test_the_archive_of_a_checkout_is_the_same_for_the_same_files(tmp_path: Path):
    import io
    import tarfile

    data = source_archive("1.0")
    assert data == source_archive("1.0")
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        names = set(archive.getnames())
    assert {"mrfast-1.0/setup.py", "mrfast-1.0/mrfast/_core.pyx", "mrfast-1.0/mrfast/cluster/boot.sh"} <= names
    assert not [name for name in names if name.endswith((".so", ".pyc", "_core.c", "unicode_tables.h"))]
    (tmp_path / "m.whl").write_bytes(b"wheel")
    assert package(str(tmp_path / "m.whl"), "1", "p/").key.endswith("/m.whl")
    assert package("mrfast>=1", "1", "p/") == Package("mrfast>=1")


# Everything below runs in a Debian 12 of its own, made by debootstrap: minutes, root, and the network.

FAKE_SYSTEMCTL = """#!/bin/sh
echo "$*" >>/systemctl.log
"""
ADMIN = os.geteuid() == 0 and shutil.which("debootstrap") is not None and shutil.which("unshare") is not None


class Root:
    """A bare Debian in a folder. MRFAST_TEST_DEBIAN names one that is there already, to copy."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder / "root"
        ready = os.environ.get("MRFAST_TEST_DEBIAN")
        made = ["cp", "-a", ready] if ready else ["debootstrap", "--variant=minbase", "bookworm"]
        subprocess.run([*made, str(self.folder)], check=True, stdout=subprocess.DEVNULL)
        shutil.copy("/etc/resolv.conf", self.folder / "etc/resolv.conf")
        shutil.copy("/etc/hosts", self.folder / "etc/hosts")
        systemctl = self.folder / "usr/local/sbin/systemctl"
        systemctl.write_text(FAKE_SYSTEMCTL)
        systemctl.chmod(0o755)
        self.environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", **environment}
        for name in ("PIP_INDEX_URL", "http_proxy", "https_proxy", "no_proxy"):
            if name in os.environ:
                self.environment[name] = os.environ[name]
        if certificates := os.environ.get("PIP_CERT"):  # those of a proxy, which Debian does not know
            shutil.copy(certificates, self.folder / "etc/certificates-of-the-test.crt")
            self.environment["PIP_CERT"] = "/etc/certificates-of-the-test.crt"

    def command(self, words: list[str], user: str = "root") -> list[str]:
        """The command with which this one runs in there; its mounts end with it."""
        inside = shlex.join(["chroot", f"--userspec={user}", str(self.folder), *words])
        return [
            "unshare",
            "-m",
            "sh",
            "-c",
            f"mount -t proc proc {shlex.quote(str(self.folder))}/proc && exec {inside}",
        ]

    def unit(self, name: str) -> dict[str, str]:
        """The settings of a systemd unit."""
        lines = (self.folder / "etc/systemd/system" / name).read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)


@pytest.fixture
def root(tmp_path: Path, machines: Machines) -> Iterator[Root]:
    with ExitStack() as stack:
        imds = stack.enter_context(metadata_service({"instance-id": "i-debian"}))
        environment = {name: os.environ[name] for name in os.environ if name.startswith("AWS_")}
        environment["AWS_ENDPOINT_URL"] = machines.environment["AWS_ENDPOINT_URL"]
        environment["AWS_EC2_METADATA_SERVICE_ENDPOINT"] = imds
        made = Root(tmp_path, environment)
        yield made
        shutil.rmtree(made.folder, ignore_errors=True)


@pytest.mark.depth
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not ADMIN, reason="needs root, debootstrap and unshare")
def test_the_user_data_makes_a_worker_of_a_bare_debian(root: Root, machines: Machines, s3_client: Any):
    names = Names(machines.name, "us-east-1", "123456789012")
    cluster = Cluster("id", machines.bucket, False, spot=True)
    shipped = package(None, __version__, names.prefix)
    s3_client.put_object(Bucket=machines.bucket, Key=shipped.key, Body=shipped.data)
    text = script(names, cluster, WORKER, shipped).replace("ssm_agent=yes\n", "ssm_agent=''\n")  # it is on AWS only
    (root.folder / "user-data").write_text(text)
    for _ in range(2):  # a second run, as after a failure, does no harm
        subprocess.run(root.command(["bash", "/user-data"]), env=root.environment, check=True, timeout=1500)
    started = (root.folder / "systemctl.log").read_text()
    assert "enable --now mrfast-idle.timer" in started and "enable --now mrfast.service" in started
    assert "enable --now mrfast-spot.service" in started

    s3_client.put_object(Bucket=machines.bucket, Key="books/a.txt", Body=TEXT)
    machines.start("coordinator")
    unit = root.unit("mrfast.service")
    assert unit["Restart"] == "always" and unit["User"] == "mrfast"
    settings = dict(line.split("=", 1) for line in (root.folder / "etc/mrfast.env").read_text().splitlines())
    worker = subprocess.Popen(
        root.command(shlex.split(unit["ExecStart"]), user="mrfast"),
        env={**root.environment, **settings, "HOME": unit["WorkingDirectory"]},
        start_new_session=True,
    )
    try:
        arguments = ["-r", "1", f"s3://{machines.bucket}/books/"]
        job = run.submit(machines.board, APP.read_bytes(), "wc.py", arguments, {}, None)
        ended = followed(machines.board, job.id)
        assert ended["code"] == 0, ended["lines"]
        key = ended["result"]["output_url"].removeprefix(f"s3://{machines.bucket}/") + "/mr-out-0"
        assert s3_client.get_object(Bucket=machines.bucket, Key=key)["Body"].read() == b"a 3\nb 1\nc 1\n"
        hello = machines.board.hellos()["i-debian"]
        assert hello["role"] == WORKER and hello["version"] == __version__
    finally:
        os.killpg(worker.pid, 15)
        worker.wait(60)
    # What the idle timer runs: systemctl poweroff, if nothing was done for so long, and not before.
    check = ["sh", "-c", root.unit("mrfast-idle.service")["ExecStart"].removeprefix("/bin/sh -c ").strip("'")]
    subprocess.run(root.command(check), env=root.environment, check=True)
    assert "poweroff" not in (root.folder / "systemctl.log").read_text()
    os.utime(root.folder / "var/lib/mrfast/busy", (0, 0))
    subprocess.run(root.command(check), env=root.environment, check=True)
    assert "poweroff" in (root.folder / "systemctl.log").read_text()
