"""Data in object storage, through `dmr`: what the same data in a folder give, on every node its own copy."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest

from dmr.object_storage.cache import cache_root


@pytest.fixture
def place(workplace, s3, tmp_path, monkeypatch):
    monkeypatch.setenv("DMR_CACHE", str(tmp_path / "objects"))
    workplace.environment |= s3.environment | {"DMR_CACHE": str(tmp_path / "objects")}
    return workplace


def rows(place, name):
    table = csv.DictReader(io.StringIO(place.run("table", name, "--metrics", "all").stdout))
    return [{key: value for key, value in row.items() if key not in ("study", "run")} for row in table]


@pytest.mark.slow
def test_a_study_on_a_bucket_is_the_study_on_the_folder(place, s3):
    url = s3.put(place.path / "sensors", "of ä/sensors")
    changes = {"budget": {"trials": 2}, "resources": {"concurrent": 1}, "train__epochs": 2}
    place.write("here", **changes)
    place.write("there", experiment="apart", dataset={"name": "arrays", "path": f"{url}/"}, **changes)
    for name in ("here", "there"):
        place.run("run", f"{name}.yaml")
    assert rows(place, "here") == rows(place, "there") != []
    folder = cache_root()
    assert sum(file.is_file() for file in folder.rglob("*.npy")) == 12
    for run in place.mlflow_runs("there"):
        (source,) = {one.dataset.source for one in run.inputs.dataset_inputs}
        assert source == f'{{"uri": "{url}"}}'.replace("ä", "\\u00e4")
    exported = place.run("export", "there", "-o", "model")
    assert "model" in exported.stdout
    run_id = place.mlflow_runs("there")[0].info.run_id
    here, there = (place.run("evaluate", run_id, "--data", data).stdout for data in ("sensors", url))
    assert here == there

    labels = np.load(place.path / "sensors/train/label.npy")
    np.save(place.path / "sensors/train/label.npy", labels[::-1].copy())
    s3.put(place.path / "sensors", "of ä/sensors")
    refused = place.dmr("resume", "there", "--trials", "3")
    assert refused.returncode == 2
    assert f"{url}: train/label: other values than when the study began" in refused.stderr


def test_the_check_reads_a_bucket(place, s3):
    url = s3.put(place.path / "sensors", "sensors")
    here, there = (place.run("data", "check", data).stdout for data in ("sensors", url))
    assert here.split("classes, ")[1].split("\n", 1)[1] == there.split("classes, ")[1].split("\n", 1)[1]


@pytest.mark.parametrize(
    ("path", "environment", "line"),
    [
        ("s3://no-such-bucket/sensors", {}, "s3://no-such-bucket/sensors: there is no bucket 'no-such-bucket'"),
        ("s3://", {}, "s3://: names no bucket; as in s3://bucket/folder"),
        ("s3://{bucket}/a/../b", {}, "s3://{bucket}/a/../b: an empty part, `.` or `..` between its slashes"),
        ("S3://{bucket}/empty/", {}, "s3://{bucket}/empty: there is nothing below this URL"),
        (
            "s3://{bucket}/x",
            {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"},
            "s3://{bucket}/x: HTTP error: error sending request",
        ),
        ("https://host/sensors", {}, "dataset.yaml: no such file; a data folder has a dataset.yaml"),
    ],
)
def test_what_cannot_be_read_is_one_line_before_anything_is_started(place, s3, path, environment, line):
    place.environment |= environment
    place.write(dataset={"name": "arrays", "path": path.format(bucket=s3.bucket)})
    before = {entry.name for entry in place.path.iterdir()}
    refused = place.dmr("run", "small.yaml")
    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 1
    assert refused.stderr.strip().endswith(line.format(bucket=s3.bucket))
    assert {entry.name for entry in place.path.iterdir()} == before


def test_without_obstore_a_line_says_how_to_install_it(place, s3):
    (place.path / "obstore.py").write_text("raise ImportError")
    place.environment["PYTHONPATH"] = str(place.path)
    place.write(dataset={"name": "arrays", "path": "s3://bucket/sensors"})
    refused = place.dmr("run", "small.yaml")
    assert refused.returncode == 2
    assert refused.stderr == "s3://bucket/sensors: needs obstore: pip install 'dmr-studies[object-storage]'\n"
