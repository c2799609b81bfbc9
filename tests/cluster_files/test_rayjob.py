"""The RayJob manifest: KubeRay's fields, strictly, and rules for what a schema cannot say; each is shown to bite."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

ROOT = Path(__file__).parents[2]
MANIFEST = (ROOT / "docs/cluster/rayjob.yaml").read_text()
SCHEMA = Draft202012Validator(yaml.safe_load(Path(__file__).with_name("rayjob_schema.yaml").read_text()))
RAY = re.search(r"^ray==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE).group(1)


def complaints(text: str) -> list[str]:
    """All that is wrong with a manifest; each names the field."""
    found = [f"a secret in the file: {match}" for match in re.findall(r"://[^/\s:@]+:[^/\s@]+@", text)]
    document = yaml.safe_load(text)
    broken = [f"{error.json_path}: {error.message}" for error in SCHEMA.iter_errors(document)]
    return found + (broken or list(rules(document["spec"])))


def rules(spec: dict[str, Any]) -> Iterator[str]:
    cluster = spec["rayClusterSpec"]
    head, workers = cluster["headGroupSpec"], cluster.get("workerGroupSpecs", [])
    if cluster.get("authOptions", {}).get("mode") != "token":
        yield "authOptions: mode: must be token"
    if cluster.get("rayVersion") != RAY:
        yield f"rayVersion {cluster.get('rayVersion')}: constraints.txt has {RAY}"
    if head.get("serviceType") != "ClusterIP":
        yield f"serviceType {head.get('serviceType')}: reached from outside"
    if {head.get("rayStartParams", {}).get(key) for key in ("num-cpus", "num-gpus")} != {"0"}:
        yield "headGroupSpec: rayStartParams: trials would run on the head"
    if cluster.get("autoscalerOptions", {}).get("version") != "v2" or not cluster.get("enableInTreeAutoscaling"):
        yield "autoscalerOptions: `dmr` knows that a cluster grows by autoscaler v2 alone"
    if "resources.concurrent=" not in spec["entrypoint"]:
        yield "entrypoint: how many trials at a time, on a cluster that grows?"
    if not spec.get("shutdownAfterJobFinishes"):
        yield "shutdownAfterJobFinishes: the cluster would stay and cost"
    for group in workers:
        if group["minReplicas"] or group.get("replicas"):
            yield f"{group['groupName']}: minReplicas: does not scale to zero"
        if not group["template"]["spec"]["containers"][0].get("resources", {}).get("limits", {}).get("nvidia.com/gpu"):
            yield f"{group['groupName']}: no nvidia.com/gpu"
    pods = [group["template"]["spec"] for group in (head, *workers)]
    if len({pod["containers"][0]["image"] for pod in pods}) != 1:
        yield "image: head and workers differ"
    for pod in pods:
        container = pod["containers"][0]
        if not re.search(r":(?!latest$)[\w.-]+$", container["image"]):
            yield f"image {container['image']}: no version"
        if not pod.get("serviceAccountName"):
            yield f"{container['name']}: serviceAccountName: nobody lets it read the bucket"
        if "AWS_REGION" not in {variable["name"] for variable in container.get("env", [])}:
            yield f"{container['name']}: AWS_REGION: where is the bucket?"
        if container.get("securityContext", {}).get("allowPrivilegeEscalation") is not False:
            yield f"{container['name']}: allowPrivilegeEscalation"
    given = {variable["name"]: variable for variable in head["template"]["spec"]["containers"][0].get("env", [])}
    if not given.get("DMR_STORAGE", {}).get("value", "").startswith("s3://"):
        yield "DMR_STORAGE: no bucket: a retry or another node would not see the study"
    if "secretKeyRef" not in given.get("MLFLOW_TRACKING_URI", {}).get("valueFrom", {}):
        yield "MLFLOW_TRACKING_URI: not from a secret"


def test_the_manifest_is_sound() -> None:
    Draft202012Validator.check_schema(SCHEMA.schema)
    assert complaints(MANIFEST) == []


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("apiVersion: ray.io/v1", "apiVersion: ray.io/v1alpha1", r"\$\.apiVersion"),
        ("backoffLimit: 3", "backofLimit: 3", "'backofLimit' was unexpected"),
        ("backoffLimit: 3", "backoffLimit: two", r"\$\.spec\.backoffLimit"),
        ("activeDeadlineSeconds: 86400", "activeDeadlineSeconds: 0", "activeDeadlineSeconds"),
        ("rayClusterSpec:", "rayClusterSpecs:", "'rayClusterSpecs' was unexpected"),
        ("name: dmr-digits", "name: DMR_digits", r"\$\.metadata\.name"),
        ("mode: token ", "mode: disabled ", "authOptions: mode"),
        ("mode: token ", "mode: tokens ", r"authOptions\.mode"),
        ("authOptions:", "authOption:", "'authOption' was unexpected"),
        (f"rayVersion: {RAY}", "rayVersion: 2.9.0", "rayVersion 2.9.0"),
        ("serviceType: ClusterIP", "serviceType: LoadBalancer", "reached from outside"),
        ('num-cpus: "0"', "num-cpus: 0", r"num-cpus"),
        ('num-cpus: "0"', 'num-cpus: "4"', "trials would run on the head"),
        ("version: v2", "version: v1", "autoscaler v2"),
        (" --set resources.concurrent=4", "", "how many trials at a time"),
        ("shutdownAfterJobFinishes: true", "shutdownAfterJobFinishes: false", "would stay and cost"),
        ("minReplicas: 0", "minReplicas: 1", "does not scale to zero"),
        ("minReplicas: 0", "minReplica: 0", "'minReplica' was unexpected"),
        (
            ', nvidia.com/gpu: "1"}\n                securityContext',
            "}\n                securityContext",
            "no nvidia.com/gpu",
        ),
        ("memory: 8Gi", "memory: 8 GB", "memory"),
        ("dmr:0.1.0     #", "dmr:latest     #", "no version"),
        ("dmr:0.1.0     #", "dmr:0.2.0     #", "head and workers differ"),
        ("            serviceAccountName: dmr\n", "", "ray-worker: serviceAccountName"),
        ("serviceAccountName: dmr  ", "serviceAccount_name: dmr  ", "'serviceAccount_name' was unexpected"),
        ("value: s3://my-bucket/dmr/runs", "value: /tmp/runs", "DMR_STORAGE: no bucket"),
        ("env: [*region]", "env: []", "ray-worker: AWS_REGION"),
        (
            "valueFrom: {secretKeyRef: {name: dmr, key: mlflow}}",
            "value: https://me:hunter2@mlflow",
            "a secret in the file",
        ),
        ("allowPrivilegeEscalation: false", "allowPrivilegeEscalation: true", "allowPrivilegeEscalation"),
        ("effect: NoSchedule", "effect: NoShedule", "effect"),
    ],
)
def test_a_mistake_is_named(old: str, new: str, complaint: str) -> None:
    assert old in MANIFEST
    found = complaints(MANIFEST.replace(old, new, 1))
    assert any(re.search(complaint, line) for line in found), found
