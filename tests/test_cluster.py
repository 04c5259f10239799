"""`mrfast cluster up` and `down` against moto: what they make, that they can be repeated, that nothing is left."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import boto3
import pytest
from depth import ALL
from moto_cluster import ENVIRONMENT, IMAGE, REGION, Calls, aws_of_moto, inventory, new_aws

from mrfast.cluster import down as downs
from mrfast.cluster import run, status, up
from mrfast.cluster.plan import Wanted
from mrfast.errors import CloudError, UnknownCluster, UsageError
from mrfast.storage import open_store

DEFAULT = Wanted()
STEP = 1 if ALL else 6  # each call fails in turn; in a short run some of them do
MADE_OF = "mrfast==1.2.3"  # a package that needs no upload, where the upload is not what is tested


@pytest.fixture(autouse=True)
def _aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    with aws_of_moto():
        yield


def start(wanted: Wanted = DEFAULT, *, package: str | None = MADE_OF, calls: dict[str, Any] | None = None) -> Calls:
    aws = new_aws()
    counted = Calls(**(calls or {}))
    prepared = up.prepare(aws, "logs", wanted, package, "1.2.3")
    up.up(aws, prepared, package_given=package is not None, say=lambda text: None)
    return counted


def instances(role: str) -> list[dict[str, Any]]:
    found = boto3.client("ec2").describe_instances(
        Filters=[{"Name": "tag:mrfast-role", "Values": [role]}, {"Name": "tag:mrfast-cluster", "Values": ["logs"]}]
    )
    return [one for each in found["Reservations"] for one in each["Instances"] if one["State"]["Name"] == "running"]


def template(role: str) -> dict[str, Any]:
    found = boto3.client("ec2").describe_launch_template_versions(LaunchTemplateName=f"mrfast-logs-{role}")
    data: dict[str, Any] = found["LaunchTemplateVersions"][0]["LaunchTemplateData"]
    return data


def test_up_starts_what_was_asked_for():
    start(Wanted(workers=3, spot=True))
    assert len(instances("coordinator")) == 1 and len(instances("worker")) == 3
    worker, coordinator = template("worker"), template("coordinator")
    for data in (worker, coordinator):
        assert data["MetadataOptions"]["HttpTokens"] == "required"
        assert int(data["MetadataOptions"]["HttpPutResponseHopLimit"]) == 1
        disk = data["BlockDeviceMappings"][0]["Ebs"]
        assert disk["Encrypted"] in (True, "true") and disk["DeleteOnTermination"] in (True, "true")
        assert data["InstanceInitiatedShutdownBehavior"] == "terminate"
        assert data["IamInstanceProfile"]["Name"] == f"mrfast-logs-{REGION}"
        assert data["ImageId"] == IMAGE
    assert worker["InstanceMarketOptions"]["MarketType"] == "spot" and "InstanceMarketOptions" not in coordinator
    script = base64.b64decode(worker["UserData"]).decode()
    assert script.startswith("#!/bin/bash\nname=logs\nrole=worker\n") and "package=mrfast==1.2.3\n" in script


def test_nothing_reaches_a_worker_and_only_workers_reach_the_coordinator():
    start()
    ec2 = boto3.client("ec2")
    groups = {one["GroupName"]: one for one in ec2.describe_security_groups()["SecurityGroups"]}
    worker, coordinator = groups["mrfast-logs-worker"], groups["mrfast-logs-coordinator"]
    assert worker["IpPermissions"] == []
    (permission,) = coordinator["IpPermissions"]
    assert (permission["FromPort"], permission["ToPort"], permission["IpProtocol"]) == (8000, 8000, "tcp")
    assert not permission["IpRanges"] and not permission.get("Ipv6Ranges")
    assert [pair["GroupId"] for pair in permission["UserIdGroupPairs"]] == [worker["GroupId"]]


def test_everything_is_tagged():
    start()
    tag = {"Key": "mrfast-cluster", "Value": "logs"}
    ec2, iam, ssm, s3 = (boto3.client(name) for name in ("ec2", "iam", "ssm", "s3"))
    for found in ec2.describe_instances()["Reservations"]:
        assert all(tag in one["Tags"] for one in found["Instances"])
    assert all(tag in one["Tags"] for one in ec2.describe_launch_templates()["LaunchTemplates"])
    groups = ec2.describe_security_groups()["SecurityGroups"]
    assert all(tag in one["Tags"] for one in groups if one["GroupName"].startswith("mrfast"))
    assert tag in iam.get_role(RoleName=f"mrfast-logs-{REGION}")["Role"]["Tags"]
    profile = iam.get_instance_profile(InstanceProfileName=f"mrfast-logs-{REGION}")["InstanceProfile"]
    assert tag in profile["Tags"]
    for name in ("cluster", "token"):
        tags = ssm.list_tags_for_resource(ResourceType="Parameter", ResourceId=f"/mrfast/logs/{name}")["TagList"]
        assert tag in tags
    (bucket,) = s3.list_buckets()["Buckets"]
    assert tag in s3.get_bucket_tagging(Bucket=bucket["Name"])["TagSet"]
    kinds = {spec["ResourceType"] for spec in template("worker")["TagSpecifications"]}
    assert kinds >= {"instance", "volume", "network-interface"}


def test_the_token_is_secret_and_nowhere_else():
    start()
    ssm = boto3.client("ssm")
    parameter = ssm.get_parameter(Name="/mrfast/logs/token", WithDecryption=True)["Parameter"]
    assert parameter["Type"] == "SecureString" and len(parameter["Value"]) == 64
    assert parameter["Value"] not in ssm.get_parameter(Name="/mrfast/logs/cluster")["Parameter"]["Value"]
    for role in ("worker", "coordinator"):
        assert parameter["Value"] not in base64.b64decode(template(role)["UserData"]).decode()


def test_the_role_may_do_what_a_job_needs_and_no_more():
    boto3.client("s3").create_bucket(Bucket="mine", CreateBucketConfiguration={"LocationConstraint": REGION})
    start(Wanted(bucket="mine", read=("books",)))
    document = boto3.client("iam").get_role_policy(RoleName=f"mrfast-logs-{REGION}", PolicyName="mrfast")
    statements = {one["Sid"]: one for one in document["PolicyDocument"]["Statement"]}
    assert statements["WriteJobs"]["Resource"] == [
        "arn:aws:s3:::mine/mrfast/*",
        "arn:aws:s3:::mine/mrfast-cluster/logs/*",
    ]
    assert statements["ReadInputs"]["Resource"] == ["arn:aws:s3:::books/*", "arn:aws:s3:::mine/*"]
    assert statements["ListBuckets"]["Resource"] == ["arn:aws:s3:::books", "arn:aws:s3:::mine"]
    assert statements["ReadToken"]["Resource"] == [f"arn:aws:ssm:{REGION}:123456789012:parameter/mrfast/logs/token"]
    actions = [action for one in statements.values() for action in one["Action"]]
    assert not [action for action in actions if action.startswith(("ec2:", "iam:")) or "*" in action]
    assert "${" not in json.dumps(statements)


def test_up_again_changes_nothing_but_the_number_of_workers():
    start(Wanted(workers=2))
    before = inventory()
    again = start()
    assert inventory() == before
    assert not {"RunInstances", "CreateBucket", "CreateSecurityGroup", "CreateRole"} & set(again.seen)
    start(Wanted(workers=5))
    assert len(instances("worker")) == 5
    start(Wanted(workers=3))
    assert len(instances("worker")) == 5  # nothing is stopped in the middle of a job
    with pytest.raises(UsageError, match=r"made with --type c7g\.xlarge; to have c7g\.large"):
        start(Wanted(type="c7g.large"))


def test_a_machine_that_has_ended_is_replaced():
    start(Wanted(workers=2))
    gone = instances("worker")[0]["InstanceId"]
    boto3.client("ec2").terminate_instances(InstanceIds=[gone])
    start()
    assert len(instances("worker")) == 2


def test_a_dry_run_changes_nothing():
    before = inventory()
    aws = new_aws()
    calls = Calls()
    prepared = up.prepare(aws, "logs", Wanted(workers=8, spot=True), None, "1.2.3")
    text = "\n".join(prepared.lines())
    assert "8 x c7g.xlarge, spot" in text and "1 x c7g.large" in text and "$1.3" in text
    assert calls.seen and not calls.mutating()
    assert inventory() == before


def test_down_leaves_nothing_but_the_users_data():
    before = inventory()
    start(package=None)  # this checkout: its archive goes into the bucket
    (bucket,) = boto3.client("s3").list_buckets()["Buckets"]
    assert [key for key in inventory()["objects"] if "/mrfast-cluster/logs/package/" in key]
    aws = new_aws()
    removed = downs.down(aws, "logs")
    assert inventory() == before and not removed.store
    assert not downs.down(new_aws(), "logs").what

    start()
    boto3.client("s3").put_object(Bucket=bucket["Name"], Key="mrfast/out/1/mr-out-0", Body=b"a 1\n")
    removed = downs.down(new_aws(), "logs")
    assert removed.store == f"s3://{bucket['Name']}/mrfast"
    assert inventory() == before | {
        "buckets": [bucket["Name"]],
        "objects": [f"{bucket['Name']}/mrfast/out/1/mr-out-0"],
    }


def test_a_bucket_of_the_users_stays():
    s3 = boto3.client("s3")
    s3.create_bucket(Bucket="mine", CreateBucketConfiguration={"LocationConstraint": REGION})
    before = inventory()
    start(Wanted(bucket="mine"), package=None)
    downs.down(new_aws(), "logs")
    assert inventory() == before


def test_another_cluster_is_left_alone():
    aws = new_aws()
    up.up(aws, up.prepare(aws, "log", Wanted(), MADE_OF, "1"), package_given=True, say=lambda text: None)
    before = inventory()
    start()
    downs.down(new_aws(), "logs")
    assert inventory() == before


@pytest.mark.timeout(900)
@pytest.mark.parametrize("late", [False, True], ids=["before it is made", "after it has taken effect"])
def test_up_goes_on_and_down_cleans_up_after_a_failure_at_each_call(late: bool):
    before = inventory()
    number = 0
    while True:
        failed: Calls | None = None
        with suppress(CloudError):
            failed = start(package=None, calls={"fail": number, "late": late})
        if failed is not None:
            break  # there is no call of this number: all have failed in turn
        if number // STEP % 2:
            start(package=None)
            assert len(instances("coordinator")) == 1 and len(instances("worker")) == 2
        downs.down(new_aws(), "logs")
        assert inventory() == before, f"after a failure at call {number}"
        number += STEP
    assert number > 30
    downs.down(new_aws(), "logs")
    assert inventory() == before


@pytest.mark.timeout(900)
@pytest.mark.parametrize("late", [False, True], ids=["before it is made", "after it has taken effect"])
def test_down_can_be_repeated_after_a_failure_at_each_call(late: bool):
    before = inventory()
    number = 0
    while True:
        start(package=None)
        aws = new_aws()
        Calls(fail=number, late=late)
        try:
            downs.down(aws, "logs")
        except CloudError:
            downs.down(new_aws(), "logs")
            assert inventory() == before, f"after a failure at call {number}"
        else:
            break
        number += STEP
    assert number > 15 and inventory() == before


def test_status_says_who_is_there():
    start(Wanted(workers=2))
    aws = new_aws()
    store = open_store("memory://cluster-status")
    status.Board(store).hello(instances("worker")[0]["InstanceId"], {"version": "1.2.3", "cpus": 4})
    board = status.Board(store)
    for name in ("first-job", "second"):
        run.submit(board, b"", "app.py", [], {}, name)
    board.tell("first-job", ["begun", "1 of 2 maps"])
    document = status.status(aws, "logs", open=lambda url: store)
    assert document["queue"] == ["first-job", "second"]
    text = "\n".join(status.lines(document))
    assert text.count("has not said hello") == 2 and text.count("mrfast 1.2.3 on 4 cores") == 1
    assert "job first-job\n    1 of 2 maps\njob second" in text
    assert document["store"].startswith("s3://mrfast-logs-123456789012-") and document["wanted"]["worker"] == 2
    boto3.client("ec2").terminate_instances(InstanceIds=[instances("worker")[0]["InstanceId"]])
    assert "1 x worker lacking" in "\n".join(status.lines(status.status(aws, "logs", open=lambda url: store)))


def test_logs_are_the_consoles():
    start()
    ((name, text),) = status.logs(new_aws(), "logs")
    assert name == instances("coordinator")[0]["InstanceId"] and "Linux" in text
    assert len(list(status.logs(new_aws(), "logs", role="worker"))) == 2
    with pytest.raises(UsageError, match="has no instance i-1"):
        list(status.logs(new_aws(), "logs", instance="i-1"))


def test_no_such_cluster():
    with pytest.raises(UnknownCluster, match="mrfast cluster up logs"):
        status.status(new_aws(), "logs")
