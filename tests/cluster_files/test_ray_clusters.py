"""The cluster files for `ray up`: Ray's and AWS's own validation, both offline, and rules for what these let pass.

Every rule is shown to bite: a change that a tired person could make, and the complaint it gets.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import botocore.session
import pytest
import yaml
from botocore.model import Shape
from botocore.validate import ParamValidator
from jsonschema import ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[2]
AWS, ON_PREM = ROOT / "ray_cluster.yaml", ROOT / "docs/cluster/on_prem.yaml"
PINNED = (ROOT / "constraints.txt").read_text()
RAY = re.search(r"^ray==(\S+)", PINNED, re.MULTILINE).group(1)
PYTHON = re.search(r"Python (\d+\.\d+)", PINNED).group(1)
IMAGE = f"rayproject/ray:{RAY}-py{PYTHON.replace('.', '')}-gpu"
REGIONS = botocore.session.Session().get_available_regions("ec2")
PROVIDER_KEYS = {
    "aws": {"type", "region", "availability_zone", "cache_stopped_nodes", "use_internal_ips"},
    "local": {"type", "head_ip", "worker_ips"},
}
SECRET = re.compile(
    r"://[^/\s:@]+:[^/\s@]+@|\bAKIA[0-9A-Z]{16}\b|BEGIN [A-Z ]*PRIVATE KEY"
    r"|(?i:password|secret|RAY_AUTH_TOKEN)\s*[=:]\s*\S"
)


@pytest.fixture(scope="module")
def ec2() -> Any:
    return botocore.session.Session().get_service_model("ec2")


def complaints(text: str, ec2: Any) -> list[str]:
    """All that is wrong with a cluster file; each names the key, command or value."""
    document = yaml.safe_load(text)
    kind = document["provider"].get("type")
    if kind not in PROVIDER_KEYS:
        return [f"provider: type: {kind}"]
    found = [f"provider: unknown key {key}" for key in document["provider"].keys() - PROVIDER_KEYS[kind]]
    found += [f"a secret in the file: {match.group()}" for match in SECRET.finditer(text)]
    found += [f"open to the world: {match}" for match in re.findall(r"0\.0\.0\.0(?:/0)?|::/0", text)]
    if kind == "local" and (missing := PROVIDER_KEYS["local"] - document["provider"].keys()):
        return [*found, f"provider: missing {sorted(missing)}"]
    try:
        prepared = prepare_config(document)
        validate_config(prepared)
    except (ValidationError, ValueError, AssertionError) as error:
        where = ".".join(map(str, getattr(error, "path", [])))
        return [*found, f"Ray's validation: {where}: {getattr(error, 'message', error)}"]
    found += list(aws_complaints(prepared, ec2)) if kind == "aws" else []
    return found + list(command_complaints(prepared)) + list(version_complaints(prepared))


def aws_complaints(prepared: dict[str, Any], ec2: Any) -> Iterator[str]:
    provider, types_, head = prepared["provider"], prepared["available_node_types"], prepared["head_node_type"]
    region = provider.get("region")
    if region not in REGIONS:
        yield f"provider: region: {region}"
    if not str(provider.get("availability_zone")).startswith(f"{region}"):
        yield f"provider: availability_zone: {provider.get('availability_zone')} is not in {region}"
    if provider.get("cache_stopped_nodes") is not False:
        yield "provider: cache_stopped_nodes: stopped nodes go on costing"
    shape = ec2.operation_model("RunInstances").input_shape
    for name, node_type in types_.items():
        node, resources = node_type["node_config"], node_type["resources"]
        report = ParamValidator().validate({**node, "MinCount": 1, "MaxCount": 1}, shape)
        yield from (f"{name}: {line}" for line in report.generate_report().splitlines())
        yield from (f"{name}: {line}" for line in wrong_choices(node, shape, "node_config"))
        if not node.get("SecurityGroupIds"):
            yield f"{name}: no SecurityGroupIds: Ray's own group opens SSH to the world"
        if "IamInstanceProfile" not in node:
            yield f"{name}: no IamInstanceProfile: Ray's own role may do everything with EC2 and S3"
        if node.get("MetadataOptions", {}).get("HttpTokens") != "required":
            yield f"{name}: MetadataOptions: HttpTokens must be required"
        disks = node.get("BlockDeviceMappings") or [{}]
        if not all(isinstance(disk, dict) and disk.get("Ebs", {}).get("Encrypted") for disk in disks):
            yield f"{name}: BlockDeviceMappings: a disk that is not encrypted"
        if name == head:
            if resources.get("CPU") != 0 or resources.get("GPU") != 0 or node_type["max_workers"] != 0:
                yield f"{name}: trials would run on the head: {resources}"
        elif node_type["min_workers"] != 0:
            yield f"{name}: min_workers {node_type['min_workers']}: never scales to zero"
        elif not resources.get("GPU") or not resources.get("CPU"):
            yield f"{name}: resources {resources}: no trial on a GPU would make it start"
    markets = {bool(t["node_config"].get("InstanceMarketOptions")) for name, t in types_.items() if name != head}
    if markets != {True, False}:
        yield "spot and on-demand workers are not both there"


def wrong_choices(value: Any, shape: Shape, where: str) -> Iterator[str]:
    """Text that is none of the choices AWS has; its validator leaves these to the server."""
    if shape.type_name == "structure" and isinstance(value, dict):
        for key in value.keys() & shape.members.keys():
            yield from wrong_choices(value[key], shape.members[key], f"{where}.{key}")
    elif shape.type_name == "list" and isinstance(value, list):
        for item in value:
            yield from wrong_choices(item, shape.member, where)
    elif shape.type_name == "string" and shape.enum and value not in shape.enum:
        yield f"{where}: {value}"


def command_complaints(prepared: dict[str, Any]) -> Iterator[str]:
    starts = {key: prepared[f"{key}_start_ray_commands"] for key in ("head", "worker")}
    token = {remote for remote in prepared["file_mounts"] if remote.endswith("/.ray/auth_token")}
    if not token:
        yield "file_mounts: nobody brings the token to the nodes"
    for key, commands in starts.items():
        ray_starts = [command for command in commands if "ray start" in command]
        if not ray_starts:
            yield f"{key}_start_ray_commands: no ray start"
        for command in ray_starts:
            if not re.search(r"\bRAY_AUTH_MODE=token\b.*ray start", command):
                yield f"{key}_start_ray_commands: no RAY_AUTH_MODE=token"
            if not re.search(r"\bRAY_AUTH_TOKEN_PATH=\$HOME/.ray/auth_token\b.*ray start", command):
                yield f"{key}_start_ray_commands: no RAY_AUTH_TOKEN_PATH"
    head, worker = starts["head"][-1], starts["worker"][-1]
    for option in ("--num-cpus=0", "--num-gpus=0", "--dashboard-host=127.0.0.1", "--autoscaling-config="):
        if f" {option}" not in head:
            yield f"head_start_ray_commands: no {option}"
    if "--address=$RAY_HEAD_IP:6379" not in worker or "--port=6379" not in head:
        yield "worker_start_ray_commands: the head's address"
    kind = prepared["provider"]["type"]
    seen_by_all = "s3://" if kind == "aws" else "/mnt/dmr/"
    if not (storage := re.search(r"DMR_STORAGE=(\S+)[ ;]", head)) or not storage.group(1).startswith(seen_by_all):
        yield f"head_start_ray_commands: DMR_STORAGE is not below {seen_by_all}: other nodes would not see it"
    if kind == "aws":
        region = f"AWS_REGION={prepared['provider'].get('region')}"
        for key, commands in starts.items():
            uses = [command for command in commands if "ray start" in command or "mlflow server" in command]
            if not all(re.search(rf"{region}\b", command) for command in uses):
                yield f"{key}_start_ray_commands: no {region}: the bucket is looked for elsewhere"
        if not any("[object-storage]" in command for command in prepared["setup_commands"]):
            yield "setup_commands: the package without [object-storage]"
    everything = [command for key, value in prepared.items() if key.endswith("_commands") for command in value]
    for command in everything:
        hosts = re.findall(r"--(?:dashboard-)?host[ =](\S+)", command)
        if hosts != ["127.0.0.1"] * len(hosts) or ("mlflow server" in command and not hosts):
            yield f"listens beyond 127.0.0.1: {command}"
    if not any("mlflow server" in command for command in starts["head"]):
        yield "head_start_ray_commands: no MLflow server"


def version_complaints(prepared: dict[str, Any]) -> Iterator[str]:
    docker = prepared.get("docker") or {}
    images = [value for key, value in docker.items() if key.endswith("image")]
    if docker and images != [IMAGE]:
        yield f"docker: image {images}: constraints.txt has {IMAGE}"
    for key in ("head_setup_commands", "worker_setup_commands"):
        text = "\n".join(prepared[key])
        if not docker and f"python{PYTHON} -m venv" not in text:
            yield f"{key}: not Python {PYTHON}"
        if "TORCH_INDEX" not in text or "$(grep '^torch==' ~/dmr/constraints.txt)" not in text:
            yield f"{key}: torch is not the pinned one of an index with CUDA builds"
        for command in prepared[key]:
            if "pip install" in command and "torch==" not in command and "--constraint" not in command:
                yield f"{key}: without the pinned versions: {command}"


@pytest.mark.parametrize("file", [AWS, ON_PREM], ids=["aws", "on_prem"])
def test_a_cluster_file_is_sound(file: Path, ec2: Any) -> None:
    assert complaints(file.read_text(), ec2) == []


def test_the_image_of_the_dockerfile_is_the_pinned_one() -> None:
    assert f"\nFROM {IMAGE}\n" in (ROOT / "docs/cluster/Dockerfile").read_text()


BOTH = (AWS, ON_PREM)
MUTATIONS = [
    (AWS, "type: aws", "type: awz", "provider: type: awz"),
    (AWS, "  region: us-west-2 ", "  regoin: us-west-2 ", "unknown key regoin"),
    (AWS, "  region: us-west-2 ", "  #", "provider: region: None"),
    (AWS, "  region: us-west-2 ", "  region: us-wset-2 ", "region: us-wset-2"),
    (AWS, "availability_zone: us-west-2a", "availability_zone: eu-west-1a", "eu-west-1a is not in us-west-2"),
    (AWS, "cache_stopped_nodes: false", "cache_stopped_nodes: true", "cache_stopped_nodes"),
    (AWS, "  region:", "  security_group: {GroupName: mine}\n  region:", "unknown key security_group"),
    (AWS, "auth:\n", "auth:\n  ssh_usr: me\n", "'ssh_usr' was unexpected"),
    (AWS, "max_workers: 12", "max_worker: 12", "'max_worker' was unexpected"),
    (AWS, "head_node_type: head", "head_node_type: haed", "`head_node_type` must be one of"),
    (AWS, "InstanceType: m7i.xlarge", "InstanceTyp: m7i.xlarge", 'head: Unknown parameter in input: "InstanceTyp"'),
    (AWS, "InstanceType: m7i.xlarge", "InstanceType: m7i.xlrage", "node_config.InstanceType: m7i.xlrage"),
    (AWS, "{MarketType: spot}", "{MarketType: sport}", "gpu_spot: node_config.InstanceMarketOptions.MarketType: sport"),
    (AWS, "{MarketType: spot}", "spot", "gpu_spot: Invalid type for parameter InstanceMarketOptions"),
    (AWS, "VolumeSize: 150", "VolumeSize: 150 GB", "Invalid type for parameter .*VolumeSize"),
    (AWS, "Encrypted: true, ", "", "not encrypted"),
    (AWS, "      SecurityGroupIds: [sg-0123456789abcdef0]\n", "", "head: no SecurityGroupIds"),
    (AWS, "SecurityGroupIds: [", "SecurityGroupIds: sg-1 #", "Invalid type for parameter SecurityGroupIds"),
    (AWS, "      IamInstanceProfile: {Name: dmr-head}\n", "", "head: no IamInstanceProfile"),
    (AWS, "HttpTokens: required", "HttpTokens: optional", "HttpTokens must be required"),
    (AWS, "resources: {CPU: 0, GPU: 0}", "resources: {CPU: 4, GPU: 0}", "head: trials would run on the head"),
    (AWS, "min_workers: 0\n    max_workers: 8", "min_workers: 1\n    max_workers: 8", "gpu_spot: min_workers 1"),
    (AWS, "min_workers: 0\n    max_workers: 8", "min_worker: 0\n    max_workers: 8", "'min_worker' was unexpected"),
    (AWS, "resources: {CPU: 4, GPU: 1}", "resources: {CPU: 4}", "gpu_spot: resources"),
    (AWS, "resources: {CPU: 4, GPU: 1}", "resources: {CPU: 4, GPU: one}", "'one' is not of type 'integer'"),
    (AWS, "      InstanceMarketOptions: {MarketType: spot}\n", "", "not both there"),
    (AWS, f"ray:{RAY}-py311-gpu", f"ray:{RAY}-py312-gpu", "docker: image"),
    (AWS, f"ray:{RAY}-py311-gpu", "ray:latest-gpu", "docker: image"),
    (AWS, "container_name: dmr", "contaner_name: dmr", "Must provide a container & image name"),
    (AWS, "auth:\n", "auth:\n  # RAY_AUTH_TOKEN=0123abcd\n", "a secret in the file: RAY_AUTH_TOKEN"),
    (AWS, "sqlite:////home/ray/mlflow.db", "postgresql://dmr:hunter2@db/mlflow", "a secret in the file: ://dmr:hunter2@"),
    (AWS, "DMR_STORAGE=s3://my-bucket/dmr/runs", "DMR_STORAGE=/home/ray/runs", "DMR_STORAGE is not below s3://"),
    (AWS, "AWS_REGION=us-west-2;\n    ulimit", "AWS_REGION=us-east-1;\n    ulimit", "worker.*: no AWS_REGION=us"),
    (AWS, "export AWS_REGION=us-west-2;\n    curl", "curl", "head.*: no AWS_REGION=us-west-2"),
    (AWS, "RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$HOME/.ray/auth_token AWS_REGION=us-west-2;", "",
     "worker_.*no RAY_AUTH_MODE"),
    (ON_PREM, "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$HOME/.ray/auth_token;", "", "worker_.*no RAY_AUTH_MODE"),
    (AWS, "~/dmr[object-storage]", "~/dmr", r"without \[object-storage\]"),
    (ON_PREM, "DMR_STORAGE=/mnt/dmr/runs", "DMR_STORAGE=/home/ray/runs", "DMR_STORAGE is not below /mnt/dmr/"),
    (ON_PREM, "  head_ip: 192.0.2.10", "  haed_ip: 192.0.2.10", "unknown key haed_ip"),
    (ON_PREM, "  worker_ips: [192.0.2.11, 192.0.2.12]", "", "provider: missing .*worker_ips"),
    (ON_PREM, "[192.0.2.11, 192.0.2.12]", "192.0.2.11", "not of type 'array'"),
    (ON_PREM, "python3.11 -m venv", "python3.12 -m venv", "not Python 3.11"),
    *((file, *mutation) for file in BOTH for mutation in (
        ("RAY_AUTH_MODE=token", "RAY_AUTH_MODE=disabled", "head_start_ray_commands: no RAY_AUTH_MODE=token"),
        ("RAY_AUTH_TOKEN_PATH=", "RAY_AUTH_TOKENPATH=", "head_start_ray_commands: no RAY_AUTH_TOKEN_PATH"),
        ("/.ray/auth_token: ~", "/.ray/token: ~", "nobody brings the token"),
        ("--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0", "open to the world: 0.0.0.0"),
        ("--dashboard-host=127.0.0.1 ", "", "no --dashboard-host=127.0.0.1"),
        ("--host 127.0.0.1", "--host 10.0.0.5", "listens beyond 127.0.0.1: .*curl"),
        ("--host 127.0.0.1 ", "", "listens beyond 127.0.0.1: .*curl"),
        (" --num-cpus=0", "", "no --num-cpus=0"),
        (" --autoscaling-config=~/ray_bootstrap_config.yaml", "", "no --autoscaling-config="),
        ("--constraint ~/dmr/constraints.txt --editable", "--editable", "without the pinned versions"),
        ("grep '^torch=='", "echo torch", "torch is not the pinned one"),
        ("setup_commands:\n  - ", "setup_comands:\n  - ", "'setup_comands' was unexpected"),
    )),
]  # fmt: skip


@pytest.mark.parametrize(("file", "old", "new", "complaint"), MUTATIONS)
def test_a_mistake_is_named(file: Path, old: str, new: str, complaint: str, ec2: Any) -> None:
    text = file.read_text()
    assert old in text
    found = complaints(text.replace(old, new, 1), ec2)
    assert any(re.search(complaint, line) for line in found), found


def test_rays_own_security_group_opens_ssh_to_the_world_whatever_the_file_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Why each node type names a group. boto3, which Ray's module imports, is not needed for this."""
    for name in ("boto3", "boto3.exceptions", "boto3.resources", "boto3.resources.base"):
        monkeypatch.setitem(sys.modules, name, MagicMock(__version__="1.40.0"))
    from ray.autoscaler._private.aws import config

    mine = {"FromPort": 22, "ToPort": 22, "IpProtocol": "tcp", "IpRanges": [{"CidrIp": "198.51.100.7/32"}]}
    rules = config._create_default_inbound_rules(["sg-1"], [mine])
    assert "0.0.0.0/0" in {network["CidrIp"] for rule in rules for network in rule.get("IpRanges", [])}
    prepared = prepare_config(yaml.safe_load(AWS.read_text()))
    assert config._configure_security_group(prepared) == prepared  # asks AWS nothing, makes nothing
