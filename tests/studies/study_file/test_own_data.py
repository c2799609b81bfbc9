"""Data from a function in a study file, augmentation and class-balanced sampling there, and data once per node."""

from __future__ import annotations

import pickle
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from dmr.data import open_dataset
from dmr.data.augmentation import AugmentSettings
from dmr.data.batches import Batches
from dmr.data.dataset import MultimodalDataset, Split
from dmr.studies.errors import StudyError
from dmr.studies.study_file.plan import make_plan
from dmr.studies.yaml_io import read_yaml, to_yaml
from dmr.training import fit

PAGE = (Path(__file__).parents[3] / "docs" / "data.md").read_text(encoding="utf-8")
STUDIES = Path(__file__).parents[3] / "studies"
PYTHON, STUDY = (re.search(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)[1] for kind in ("python", "yaml"))  # type: ignore[index]
SCENES = {"name": "s", "dataset": {"name": "scenes", "train": 4, "val": 2, "test": 2}}


@pytest.fixture
def sensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The study of the page, with its module beside it."""
    (tmp_path / "sensors.py").write_text(PYTHON)
    (tmp_path / "sensors.yaml").write_text(STUDY)
    monkeypatch.syspath_prepend(tmp_path)
    yield read_yaml(tmp_path / "sensors.yaml") | {"name": "sensors"}
    sys.modules.pop("sensors", None)


def refuses(message: str, document: dict[str, Any], **keys: Any) -> None:
    with pytest.raises(StudyError, match=f"^{re.escape(f's.yaml: {message}')}") as caught:
        make_plan(document | keys, "s.yaml")
    assert len(caught.value.lines) == 1


def test_the_example_is_short_and_trains(sensors: dict[str, Any]) -> None:
    assert len([line for line in PYTHON.splitlines() if line.strip() and not line.startswith("#")]) <= 15
    plan = make_plan(sensors, "sensors.yaml")
    assert [(m.name, m.kind) for m in plan.dataset.modalities] == [("sound", "vector"), ("camera", "image")]
    assert sum(len(split) for split in plan.dataset.splits.values()) == 400
    assert plan.document["dataset"] == {"name": "sensors:sensors", "rows": 400}
    again = make_plan(yaml.safe_load(to_yaml(plan.document)), "sensors.yaml")
    assert again.document == plan.document
    other = make_plan(sensors | {"seed": 1}, "sensors.yaml")
    assert not np.array_equal(other.dataset.splits["train"].labels, plan.dataset.splits["train"].labels)

    class Reporter:
        def load(self) -> None:
            return None

        def save(self, state: dict[str, Any], is_best: bool) -> None:
            pass

        def report(self, report: Any) -> None:
            pass

    report = fit(plan.dataset, plan.run_settings({}, 0), torch.device("cpu"), Reporter())
    assert report.best_metrics["val/accuracy_full"] > 0.5  # chance is a third


def test_a_key_named_path_is_the_functions_own(sensors: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "pathed.py").write_text(PYTHON.replace("rows: int = 300", "path: str, rows: int = 300"))
    document = sensors | {"dataset": {"name": "pathed:sensors", "path": "somewhere"}}
    assert make_plan(document, "s.yaml").document["dataset"]["path"] == "somewhere"
    del sys.modules["pathed"]


def test_mistakes_in_the_section(sensors: dict[str, Any]) -> None:
    name = "sensors:sensors"
    refuses(
        "dataset.row: sensors:sensors has no such parameter; it has rows, seed",
        sensors | {"dataset": {"name": name, "row": 3}},
    )
    refuses(
        "dataset.name: got 'sensors:sensor': sensors has no function 'sensor'",
        sensors | {"dataset": {"name": "sensors:sensor"}},
    )
    refuses("dataset.name: got 'sensorz:s': sensorz cannot be imported", sensors | {"dataset": {"name": "sensorz:s"}})


def test_augmentation_reaches_the_run() -> None:
    augment = {"crop": [32, 24], "flip": True, "scale": [1.0, 1.4], "colour_jitter": 0.4, "rotate_degrees": 5.0}
    plan = make_plan(SCENES | {"augment": augment, "search": {}}, "s.yaml")
    assert plan.run_settings({}, 0).augment == AugmentSettings(**augment)  # type: ignore[arg-type]
    assert make_plan(yaml.safe_load(to_yaml(plan.document)), "s.yaml").document == plan.document
    plain = make_plan(SCENES, "s.yaml")
    assert plain.document["augment"] == vars(AugmentSettings())


@pytest.mark.parametrize("name", ["casia_surf", "crema_d", "kinetics_sounds", "nyuv2"])
def test_the_published_settings_are_settings(name: str) -> None:
    given = read_yaml(STUDIES / f"{name}.yaml")["augment"] | {"modalities": None}
    assert make_plan(SCENES | {"augment": given | ({"crop": [48, 48]} if "crop" in given else {})}, "s.yaml")


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        ({"crop": [49, 8]}, "augment.crop: got [49, 8]; allowed: [height, width], at most [48, 48]"),
        ({"crop": [4.0, 8]}, "augment.crop[0]: got 4.0; allowed: a whole number"),
        ({"crop": 32}, "augment.crop: got 32; allowed: a list"),
        ({"rotate_degrees": 200}, "augment.rotate_degrees: got 200; allowed: less than or equal to 180"),
        ({"colour_jitter": 1.0}, "augment.colour_jitter: got 1.0; allowed: less than 1"),
        ({"flipp": True}, "augment.flipp: no such key; did you mean flip?"),
        ({"flip": True, "modalities": ["rgbd"]}, "augment.modalities: got 'rgbd'; images and frames"),
    ],
)
def test_mistakes_in_augment(augment: dict[str, Any], message: str) -> None:
    refuses(message, SCENES, augment=augment)


def test_maps_cannot_be_balanced() -> None:
    message = "train.class_balanced: a sample of segmentation has no single class; allowed: false"
    refuses(message, SCENES, train={"class_balanced": True})
    refuses(message, SCENES, search={"train.class_balanced": {"choice": [True, False]}})
    digits = {"name": "s", "dataset": {"name": "digits"}, "train": {"class_balanced": True}}
    assert make_plan(digits, "s.yaml").run_settings({}, 0).train.class_balanced


# ---- once per node --------------------------------------------------------------------------------------------------


def held(dataset: MultimodalDataset) -> dict[str, Any]:
    """In a trial's process: what is where after batches were made of a data set."""
    split = dataset.splits["train"]
    before = anonymous_bytes()
    batches = Batches(split, torch.device("cpu"))
    taken, _ = batches.take(torch.arange(8))
    after = anonymous_bytes()
    array = batches.split.inputs["sound"]
    return {
        "writable": array.flags.writeable,
        "owned": array.flags.owndata,
        "mapped": isinstance(split.inputs["camera"], np.memmap),
        "grown": after - before,
        "sum": float(taken["sound"].sum()),
    }


def anonymous_bytes() -> int:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")]
    return 1024 * int(line.split()[1])


def test_arrays_are_handed_over_beside_the_pickle_and_not_in_it() -> None:
    """What lets Ray keep one copy a node: a trial's arrays are views of a buffer that is not its own."""
    sound = np.arange(300_000, dtype=np.float32).reshape(1000, 300)
    buffers: list[pickle.PickleBuffer] = []
    split = Split({"sound": sound}, np.zeros(1000, np.int64), np.arange(0, 1000, 2))
    pickled = pickle.dumps(split, protocol=5, buffer_callback=buffers.append)
    assert len(pickled) < 2000
    again = pickle.loads(pickled, buffers=[memoryview(buffer.raw()).toreadonly() for buffer in buffers])
    assert np.shares_memory(again.inputs["sound"], sound)
    assert np.shares_memory(Batches(again, torch.device("cpu")).split.inputs["sound"], sound)


@pytest.mark.slow
def test_trials_see_the_object_store_and_the_files(sensors: dict[str, Any], tmp_path: Path) -> None:
    """Two processes read one copy: arrays in memory are views of Ray's object store, memory maps are opened again."""
    import ray

    data = open_dataset("sensors:sensors", {"rows": 1000}, 0)
    train = data.splits["train"]
    shape = (100_000, 3, 32, 32)
    camera = np.lib.format.open_memmap(tmp_path / "camera.npy", "w+", np.uint8, shape)  # takes no room on the disk
    sound = np.random.default_rng(0).standard_normal((100_000, 64), np.float32)  # 26 MB
    inputs = {"sound": sound, "camera": camera}
    large = replace(data, splits={"train": Split(inputs, np.zeros(100_000, np.int64)), "val": train})
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
        task = ray.remote(held)
        stored = ray.put(large)
        for found in ray.get([task.remote(stored), task.remote(stored)]):
            assert not found["writable"]
            assert not found["owned"]
            assert found["mapped"]
            assert found["grown"] < 10 * 2**20
            assert found["sum"] == pytest.approx(float(sound[:8].sum()), rel=1e-4)
    finally:
        ray.shutdown()
