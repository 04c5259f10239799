"""What the cluster's commands say when AWS refuses: what, where and the cure; and what they try again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from moto_cluster import ENVIRONMENT, REGION, Calls, aws_of_moto, inventory, new_aws

from mrfast.cluster import down, machines, plan, up
from mrfast.cluster.aws import AGAIN_S, Aws
from mrfast.cluster.names import Names
from mrfast.cluster.network import Place
from mrfast.cluster.plan import Cluster, Wanted
from mrfast.errors import CloudError, UsageError


@pytest.fixture(autouse=True)
def _aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    with aws_of_moto():
        yield


def start(wanted: Wanted, errors: dict[str, list[tuple[str, str]]] | None = None) -> list[float]:
    """Starts a cluster, with these errors on the way; how long was waited for."""
    waited: list[float] = []
    aws = new_aws(waited.append)
    Calls(errors=errors)
    up.up(aws, up.prepare(aws, "logs", wanted, "mrfast", "1"), package_given=True, say=lambda text: None)
    return waited


@pytest.mark.parametrize(
    ("call", "code", "message", "match"),
    [
        ("GetCallerIdentity", "ExpiredToken", "expired", r"credentials are not valid.*AWS_PROFILE"),
        ("CreateRole", "AccessDenied", "no", r"may not call iam:CreateRole.*allow iam:CreateRole"),
        ("RunInstances", "UnauthorizedOperation", "no", r"may not call ec2:RunInstances"),
        ("RunInstances", "VcpuLimitExceeded", "32 vCPU", r"quota.*32 vCPU.*fewer --workers.*servicequotas"),
        ("RunInstances", "InsufficientInstanceCapacity", "none", r"try again later, with another --type.*--spot"),
        ("CreateSecurityGroup", "SecurityGroupLimitExceeded", "500", r"quota of this account"),
        ("PutParameter", "Weird", "what", r"ssm:PutParameter in eu-central-1 failed: Weird.*goes on from here"),
    ],
)
def test_a_refusal_says_what_where_and_the_cure(call: str, code: str, message: str, match: str):
    with pytest.raises(CloudError, match=match) as caught:
        start(Wanted(), {call: [(code, message)]})
    assert caught.value.exit_code == 4


def test_no_credentials(monkeypatch: pytest.MonkeyPatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(CloudError, match=r"no AWS credentials.*AWS_PROFILE"):
        up.prepare(Aws(REGION), "logs", Wanted(), "mrfast", "1")


def test_no_region(monkeypatch: pytest.MonkeyPatch):
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    with pytest.raises(UsageError, match="--region eu-central-1"):
        Aws()


def test_no_default_vpc():
    ec2 = boto3.client("ec2")
    (vpc,) = ec2.describe_vpcs()["Vpcs"]
    for subnet in ec2.describe_subnets()["Subnets"]:
        ec2.delete_subnet(SubnetId=subnet["SubnetId"])
    ec2.delete_vpc(VpcId=vpc["VpcId"])
    with pytest.raises(CloudError, match=r"no default VPC.*--subnet.*create-default-vpc --region eu-central-1"):
        start(Wanted())
    mine = ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=mine, CidrBlock="10.9.0.0/24")["Subnet"]["SubnetId"]
    start(Wanted(subnet=subnet))
    found = ec2.describe_instances()["Reservations"]
    assert {one["SubnetId"] for each in found for one in each["Instances"]} == {subnet}


@pytest.mark.parametrize(
    ("wanted", "match"),
    [
        (Wanted(type="c7g.huge"), "--type c7g.huge: eu-central-1 has no such machine type"),
        (Wanted(ami="ami-00000000"), "check --ami: each region"),
        (Wanted(bucket="somebody-elses"), "--bucket somebody-elses: no such bucket"),
        (Wanted(subnet="subnet-1"), "check --subnet"),
    ],
)
def test_what_is_not_there(wanted: Wanted, match: str):
    with pytest.raises(UsageError, match=match):
        start(wanted)


def test_a_type_that_no_zone_offers(monkeypatch: pytest.MonkeyPatch):
    call = Aws.call

    def no_offers(self: Aws, service: str, action: str, **arguments: Any) -> Any:
        if action == "describe_instance_type_offerings":
            return {"InstanceTypeOfferings": []}
        return call(self, service, action, **arguments)

    monkeypatch.setattr(Aws, "call", no_offers)
    with pytest.raises(UsageError, match=r"c7g.xlarge: nowhere.*another --region"):
        start(Wanted())


@pytest.mark.parametrize("name", ["", "Logs", "a_b", "-a", "a-", "1a", "x" * 25, "a/b"])
def test_names_that_cannot_be(name: str):
    with pytest.raises(UsageError, match="cannot be the name of a cluster"):
        Names(name, "r", "1")


def test_a_fresh_instance_profile_is_waited_for():
    unseen = ("InvalidParameterValue", "Value (mrfast-logs) for parameter iamInstanceProfile.name is invalid")
    assert start(Wanted(), {"RunInstances": [unseen] * 3}) == list(AGAIN_S[:3])
    down.down(new_aws(), "logs")
    with pytest.raises(CloudError, match="iamInstanceProfile"):
        start(Wanted(), {"RunInstances": [unseen] * 30})
    down.down(new_aws(), "logs")
    with pytest.raises(CloudError, match="volume"):  # another bad value is no matter of time
        start(Wanted(), {"RunInstances": [("InvalidParameterValue", "volume size")]})


def test_a_group_that_is_still_in_use_is_waited_for():
    before = inventory()
    start(Wanted())
    waited: list[float] = []
    aws = new_aws(waited.append)
    Calls(errors={"DeleteSecurityGroup": [("DependencyViolation", "in use")] * 2})
    down.down(aws, "logs")
    assert waited == list(AGAIN_S[:2]) and inventory() == before


def test_a_role_of_somebody_elses_is_left_alone():
    iam = boto3.client("iam")
    iam.create_role(RoleName=f"mrfast-logs-{REGION}", AssumeRolePolicyDocument="{}")
    before = inventory()
    with pytest.raises(CloudError, match="lacks the tag mrfast-cluster=logs"):
        start(Wanted())
    down.down(new_aws(), "logs")
    assert inventory() == before


def test_a_repeated_start_has_the_same_token_and_another_one_has_not():
    cluster = Cluster("id", "b", True, workers=3)
    tokens = {
        machines.client_token(cluster, "worker", 3, set()),
        machines.client_token(cluster, "worker", 2, set()),
        machines.client_token(cluster, "coordinator", 3, set()),
        machines.client_token(cluster, "worker", 3, {"i-1", "i-2"}),
    }
    assert len(tokens) == 4 and all(len(token) == 64 for token in tokens)  # EC2 takes 64 characters
    assert machines.client_token(cluster, "worker", 3, {"i-2", "i-1"}) in tokens


def test_a_token_of_machines_that_have_ended_starts_others():
    class Ec2(Aws):
        def __init__(self) -> None:
            self.tokens: list[str] = []

        def call(self, service: str, action: str, **arguments: Any) -> Any:
            self.tokens.append(arguments["ClientToken"])
            state = "terminated" if len(self.tokens) == 1 else "pending"
            return {"Instances": [{"InstanceId": f"i-{len(self.tokens)}", "State": {"Name": state}}]}

    ec2, cluster = Ec2(), Cluster("id", "b", True, workers=1)
    names, place = Names("logs", REGION, "1"), Place("subnet-1", "vpc-1", "z")
    assert machines.start(ec2, names, cluster, "worker", place, []) == ["i-2"]
    assert len(set(ec2.tokens)) == 2


def test_prices_are_those_of_the_table():
    table = plan.prices()
    cluster = Cluster("id", "b", True, workers=8)
    price = plan.price_per_hour(cluster)
    assert price is not None
    machine = 8 * table["hour"]["c7g.xlarge"] + table["hour"]["c7g.large"]
    assert machine < price < machine * 1.1
    assert table["date"] in plan.price_text(cluster) and table["source"].startswith("https://aws.amazon.com/")
    unknown = Cluster("id", "b", True, type="x9.large")
    assert plan.price_per_hour(unknown) is None and "no x9.large in the table" in plan.price_text(unknown)


def test_a_cluster_survives_its_record():
    cluster = Cluster("id", "b", False, read=("x", "y"), spot=True, subnet="subnet-1")
    assert Cluster.from_json(cluster.to_json()) == cluster
