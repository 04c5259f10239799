"""What deploy/ and the Dockerfile say: against published schemas where there are any, for real where that can be."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from mrfast.cat import cat

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
FLEET = DEPLOY / "fleet.py"
APP = ROOT / "apps" / "wc.py"


# Kubernetes


def resources() -> dict[tuple[str, str], dict[str, Any]]:
    """(kind, name) -> every resource of deploy/k8s."""
    found = [each for file in sorted((DEPLOY / "k8s").glob("*.yaml")) for each in yaml.safe_load_all(file.read_text())]
    return {(each["kind"], each["metadata"]["name"]): each for each in found}


@pytest.mark.parametrize("version", ["1.31", "1.37"])
def test_the_resources_are_as_the_published_schemas_say(version: str) -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    for each in resources().values():
        kubernetes_validate.validate(each, version, strict=True)


@pytest.mark.parametrize("role", ["coordinator", "worker"])
def test_pods_may_do_no_more_than_they_must(role: str) -> None:
    pod = resources()["Job", f"mrfast-{role}"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] and pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    # TMPDIR, HOME and the journal are there: the one place that can be written
    assert {"name": "work", "mountPath": "/work"} in container["volumeMounts"]
    assert any(each["name"] == "work" and "emptyDir" in each for each in pod["volumes"])
    user = re.search(r"^USER (\d+):(\d+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert user is not None
    assert [pod["securityContext"][key] for key in ("runAsUser", "runAsGroup")] == [int(user[1]), int(user[2])]


def test_a_worker_has_time_to_drain() -> None:
    pod = resources()["Job", "mrfast-worker"]["spec"]["template"]["spec"]
    arguments = pod["containers"][0]["args"]
    assert pod["terminationGracePeriodSeconds"] > float(arguments[arguments.index("--drain-s") + 1])


def test_names_of_the_resources_meet() -> None:
    found = resources()
    names = {
        "configMap": {name for kind, name in found if kind == "ConfigMap"} | {"mrfast-app"},
        "secret": {"mrfast-token"},
    }
    service = found["Service", "mrfast-coordinator"]
    for role in ("coordinator", "worker"):
        job = found["Job", f"mrfast-{role}"]
        pod, labels = job["spec"]["template"]["spec"], job["spec"]["template"]["metadata"]["labels"]
        container = pod["containers"][0]
        assert ("ServiceAccount", pod["serviceAccountName"]) in found
        assert (service["spec"]["selector"].items() <= labels.items()) == (role == "coordinator")
        for rule in job["spec"]["podFailurePolicy"]["rules"]:
            assert rule.get("onExitCodes", {"containerName": role})["containerName"] == role
        sources = [each["valueFrom"]["secretKeyRef"]["name"] for each in container["env"] if "valueFrom" in each]
        assert set(sources) <= names["secret"]
        assert {each["configMapRef"]["name"] for each in container["envFrom"]} <= names["configMap"]
        known = set(found["ConfigMap", "mrfast-job"]["data"]) | {each["name"] for each in container["env"]}
        assert set(re.findall(r"\$\((\w+)\)", " ".join(container["args"]))) <= known
    ports = {each["name"]: each["containerPort"] for each in
             found["Job", "mrfast-coordinator"]["spec"]["template"]["spec"]["containers"][0]["ports"]}  # fmt: skip
    assert service["spec"]["ports"][0]["targetPort"] in ports and ports["calls"] == 8000


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kubectl_makes_the_app_and_the_token(tmp_path: Path) -> None:
    def made(*arguments: str) -> Any:
        command = ["kubectl", "create", *arguments, "--dry-run=client", "-o", "yaml"]
        environment = os.environ | {"HOME": str(tmp_path)}
        return yaml.safe_load(subprocess.run(command, env=environment, check=True, capture_output=True).stdout)

    assert made("configmap", "mrfast-app", f"--from-file=app.py={APP}")["data"] == {"app.py": APP.read_text()}
    assert list(made("secret", "generic", "mrfast-token", "--from-literal=token=abc")["data"]) == ["token"]


# The image


def instructions() -> list[tuple[str, str]]:
    """(instruction, its text) of the Dockerfile."""
    text = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE))
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]  # type: ignore[misc]


def test_the_image_is_built_in_one_stage_and_runs_in_another() -> None:
    found = instructions()
    starts = [at for at, (word, _) in enumerate(found) if word == "FROM"]
    assert len(starts) == 2
    for at in starts:
        assert re.match(r"\S+:\d+\.\d+-slim", found[at][1])  # pinned, and small
    last = found[starts[1] :]
    assert not any("apt-get" in text or "gcc" in text for word, text in last if word == "RUN")
    assert [text for word, text in last if word == "USER"] == ["10001:10001"]
    for word, text in found:
        assert word in ("FROM", "RUN", "WORKDIR", "COPY", "ENV", "USER", "CMD")
        if "apt-get install" in text:
            assert "--no-install-recommends" in text and "rm -rf /var/lib/apt/lists/*" in text
        if "pip " in text:
            assert "--no-cache-dir" in text


def test_what_is_sent_to_the_build_is_there() -> None:
    sent = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert all((ROOT / each).exists() for each in sent)
    assert {"mrfast", "setup.py", "pyproject.toml", "README.md", "LICENSE", "deploy/fleet.py"} <= set(sent)


# fleet.py, with a folder as the store


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Any]:
    """Starts fleet.py in `tmp_path`; what still runs at the end is killed."""
    (tmp_path / "in.txt").write_text("b a\na c a\n")
    with socket.create_server(("127.0.0.1", 0)) as found:
        address = f"127.0.0.1:{found.getsockname()[1]}"
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: object, **environment: str) -> subprocess.Popen[str]:
        common = {
            "PYTHONPATH": str(ROOT), "MRFAST_STORE": str(tmp_path / "store"), "MRFAST_LISTEN": address,
            "MRFAST_ADVERTISE": address, "MRFAST_LINGER_S": "0", "FLEET_WAIT_S": "30", "FLEET_LOOK_S": "0.2",
        }  # fmt: skip
        process = subprocess.Popen(
            [sys.executable, str(FLEET), *map(str, arguments)], cwd=tmp_path, text=True,
            env=os.environ | common | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def result(folder: Path) -> bytes:
    (output,) = (folder / "store" / "out").iterdir()
    return b"".join(cat(str(output)))


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    said = process.communicate(timeout=60)[0]
    return process.returncode, said


def test_a_worker_finds_the_coordinator_by_the_store(fleet: Any, tmp_path: Path) -> None:
    worker = fleet("work", "words", APP, "--slots", 1)
    coordinator = fleet("coordinate", "words", "in.txt", "-r", 1)
    assert ended(coordinator)[0] == 0 and ended(worker)[0] == 0
    assert result(tmp_path) == b"a 3\nb 1\nc 1\n"
    assert ended(fleet("work", "words", APP)) == (0, "fleet: job words is committed\n")  # one that comes late
    code, said = ended(fleet("coordinate", "words", "in.txt", "-r", 1))  # a pod that is started once more
    assert code == 0 and "--resume words" in said


def test_a_coordinator_that_died_goes_on(fleet: Any, tmp_path: Path) -> None:
    first = fleet("coordinate", "words", "in.txt", "-r", 1)
    for line in first.stdout:
        if "listening on" in line:
            break
    first.kill()
    worker = fleet("work", "words", APP, "--slots", 1)
    code, said = ended(fleet("coordinate", "words", "in.txt", "-r", 1))
    assert code == 0 and "--resume words" in said and ended(worker)[0] == 0
    assert result(tmp_path) == b"a 3\nb 1\nc 1\n"


def test_a_worker_that_is_told_to_go_has_not_succeeded(fleet: Any, tmp_path: Path) -> None:
    coordinator = fleet("coordinate", "words", "in.txt", "-r", 1)
    (tmp_path / "slow.py").write_text(
        "import time\ndef map(f, c):\n    time.sleep(600)\n    yield 'a', 1\ndef reduce(k, v):\n    return 1\n"
    )
    worker = fleet("work", "words", "slow.py", "--slots", 1, "--drain-s", "0.1")
    for line in worker.stdout:
        if "joined" in line:
            break
    worker.send_signal(signal.SIGTERM)
    assert ended(worker)[0] == 143
    coordinator.terminate()
    assert ended(coordinator)[0] == 143


def test_a_worker_without_a_coordinator_gives_up(fleet: Any) -> None:
    assert ended(fleet("work", "words", APP, FLEET_WAIT_S="0.1"))[0] == 5
    assert ended(fleet("work", "words", APP, MRFAST_STORE="s3://"))[0] != 0
    assert ended(fleet("dance", "words", APP))[0] == 2


def test_a_failed_job_is_over_for_its_workers(fleet: Any, tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("def map(f, c):\n    raise ValueError\ndef reduce(k, v):\n    return 1\n")
    coordinator = fleet("coordinate", "words", "in.txt", "-r", 1)
    worker = fleet("work", "words", "bad.py", "--slots", 1)
    assert ended(coordinator)[0] == 1 and ended(worker)[0] == 1
    assert ended(fleet("work", "words", "bad.py")) == (1, "fleet: job words is failed\n")


# Slurm: its scripts with its variables, without Slurm


SCRIPTS = sorted((DEPLOY / "slurm").glob("*.sbatch"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_a_slurm_script_is_sound(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)
    if shutil.which("shellcheck") is not None:
        subprocess.run(["shellcheck", str(script)], check=True)
    text = script.read_text()
    assert text.index("#SBATCH --signal=B:TERM") < text.index("set -euo")  # sbatch reads no further than a command
    assert text.rstrip().rpartition("\n")[2].startswith("exec ")  # else bash would get the signal, and do nothing


def test_a_slurm_array_does_a_job(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("b a\na c a\n")
    with socket.create_server(("127.0.0.1", 0)) as found:
        number = found.getsockname()[1] - 20000  # as many as the port that the script makes of it, or another one
    common = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT),
        "MRFAST_STORE": str(tmp_path / "store"), "MRFAST_TOKEN": "secret", "JOB": "words", "LISTEN_HOST": "127.0.0.1",
        "FLEET_LOOK_S": "0.2", "MRFAST_LINGER_S": "0", "SLURM_SUBMIT_DIR": str(ROOT), "SLURMD_NODENAME": "127.0.0.1",
        "SLURM_CPUS_PER_TASK": "1",
    }  # fmt: skip

    def start(script: str, job: int, *arguments: object) -> subprocess.Popen[bytes]:
        command = ["bash", str(DEPLOY / "slurm" / script), *map(str, arguments)]
        return subprocess.Popen(command, cwd=tmp_path, env=common | {"SLURM_JOB_ID": str(job)})

    workers = [start("workers.sbatch", number + each, APP) for each in (1, 2)]
    coordinator = start("coordinator.sbatch", number, "in.txt", "-r", 1)
    try:
        assert [each.wait(60) for each in (coordinator, *workers)] == [0, 0, 0]
    finally:
        for each in (coordinator, *workers):
            each.kill()
    assert result(tmp_path) == b"a 3\nb 1\nc 1\n"


# AWS Batch: what its API takes, and the commands of the containers


def batch_document(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((DEPLOY / "aws-batch" / f"{name}.json").read_text())
    return document


@pytest.mark.parametrize(
    ("operation", "name"),
    [
        ("RegisterJobDefinition", "coordinator"),
        ("RegisterJobDefinition", "workers"),
        ("SubmitJob", "submit-coordinator"),
        ("SubmitJob", "submit-workers"),
    ],
)
def test_batch_takes_the_documents(operation: str, name: str) -> None:
    import botocore.session
    from botocore.validate import ParamValidator

    shape = botocore.session.get_session().get_service_model("batch").operation_model(operation).input_shape
    assert ParamValidator().validate(batch_document(name), shape).generate_report() == ""

    def check(value: Any, shape: Any) -> None:
        """The validator passes over enumerations."""
        if shape.type_name == "structure":
            for key, each in value.items():
                check(each, shape.members[key])
        elif shape.type_name == "list":
            for each in value:
                check(each, shape.member)
        elif shape.type_name == "string" and shape.enum:
            assert value in shape.enum or value.upper() in shape.enum

    check(batch_document(name), shape)


def test_the_documents_of_batch_fit_each_other() -> None:
    for submitted, defined in (("submit-coordinator", "coordinator"), ("submit-workers", "workers")):
        definition, job = batch_document(defined), batch_document(submitted)
        assert job["jobDefinition"] == definition["jobDefinitionName"]
        used = re.findall(r"Ref::(\w+)", " ".join(definition["containerProperties"]["command"]))
        assert set(used) == set(definition["parameters"]) == set(job["parameters"])
    assert (
        batch_document("submit-coordinator")["parameters"]["job"]
        == batch_document("submit-workers")["parameters"]["job"]
    )


def test_the_containers_of_batch_do_a_job(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("b a\na c a\n")
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = str(found.getsockname()[1])
    commands = tmp_path / "commands"
    commands.mkdir()
    for name, line in (
        ("mrfast-fleet", f'exec {sys.executable} {FLEET} "$@"'),
        ("mrfast", f'exec {sys.executable} -m mrfast "$@"'),
        ("hostname", "echo 127.0.0.1"),
    ):
        (commands / name).write_text(f"#!/bin/sh\n{line}\n")
        (commands / name).chmod(0o755)

    def start(name: str, folder: str, **parameters: object) -> subprocess.Popen[bytes]:
        command = batch_document(name)["containerProperties"]["command"]
        words = [re.sub(r"Ref::(\w+)", lambda found: str(parameters[found[1]]), word) for word in command]
        words = [word.replace("8000", port) for word in words]
        (tmp_path / folder).mkdir()
        environment = os.environ | {
            "PATH": f"{commands}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "FLEET_LOOK_S": "0.2",
            "MRFAST_STORE": str(tmp_path / "store"), "MRFAST_TOKEN": "secret", "MRFAST_LISTEN": f"127.0.0.1:{port}",
        }  # fmt: skip
        words = ["0" if before == "--linger-s" else word for before, word in zip(["", *words], words, strict=False)]
        return subprocess.Popen(words, cwd=tmp_path / folder, env=environment)

    started = [start("workers", "one", job="words", app=APP), start("workers", "two", job="words", app=APP)]
    started.append(start("coordinator", "three", job="words", input=tmp_path / "in.txt", reduces=1))
    try:
        assert [each.wait(60) for each in started] == [0, 0, 0]
    finally:
        for each in started:
            each.kill()
    assert result(tmp_path) == b"a 3\nb 1\nc 1\n"
