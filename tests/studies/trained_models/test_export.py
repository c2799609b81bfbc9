"""Exported models: any modalities of every kind, the numbers of an evaluation, nothing pickled, mistakes in words."""

from __future__ import annotations

import json
import logging
import pickle
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from mlflow.exceptions import MlflowException

from dmr.checkpoints import save_checkpoint
from dmr.combinations import evaluated_combinations
from dmr.data.augmentation import centre_crop
from dmr.data.batches import Batches
from dmr.evaluation import evaluate
from dmr.studies.errors import StudyError
from dmr.studies.storage.study_folder import StudyFolder
from dmr.studies.study_file.plan import StudyPlan, make_plan
from dmr.studies.trained_models.export import export_run, save_model
from dmr.studies.trained_models.find_run import TrainedRun
from dmr.studies.trained_models.prediction_files import ClassPredictions
from dmr.training import build_network

KINDS: dict[str, tuple[str, tuple[int, ...]]] = {
    "heart": ("vector", (5,)),
    "motion": ("sequence", (2, 16)),
    "photo": ("image", (3, 12, 12)),
    "sound": ("spectrogram", (1, 16, 8)),
    "film": ("frames", (2, 3, 12, 12)),
}


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")


def write_kinds(folder: Path) -> Path:
    """A modality of every kind, of noise; images are bytes."""
    draw = np.random.default_rng(0)
    for split in ("train", "val"):
        (folder / split).mkdir(parents=True)
        np.save(folder / split / "label.npy", np.arange(12, dtype=np.int64) % 3)
        for name, (kind, shape) in KINDS.items():
            values = draw.standard_normal((12, *shape)).astype(np.float32)
            if kind == "image":
                values = draw.integers(0, 256, (12, *shape), dtype=np.uint8)
            np.save(folder / split / f"{name}.npy", values)
    entries = [{"name": name, "kind": kind, "shape": list(shape)} for name, (kind, shape) in KINDS.items()]
    description = {"class_names": ["sit", "run", "fall"], "modalities": entries}
    (folder / "dataset.yaml").write_text(yaml.safe_dump(description))
    return folder


def plan_of(dataset: dict[str, Any], **changes: Any) -> StudyPlan:
    return make_plan({"name": "s", "dataset": dataset, "search": {}, "first": []} | changes, "s.yaml")


def untrained(plan: StudyPlan, folder: Path) -> tuple[torch.nn.Module, Path]:
    """A network as it is initialised, and its checkpoint."""
    settings = plan.run_settings({}, 0)
    with torch.random.fork_rng([]):
        torch.manual_seed(3)
        network = build_network(centre_crop(plan.dataset, settings.augment), settings)
    save_checkpoint(folder / "best.pt", {"network": network.state_dict()})
    return network, folder / "best.pt"


def loaded(plan: StudyPlan, checkpoint: Path, path: Path) -> Any:
    save_model(plan.dataset, plan.run_settings({}, 0), checkpoint, path)
    return mlflow.pyfunc.load_model(str(path))


def requests(plan: StudyPlan, count: int) -> list[dict[str, Any]]:
    """`count` val samples in each combination, in mixed order; a missing modality has null or no key at all."""
    combinations = evaluated_combinations(plan.dataset.modality_names)
    inputs = plan.dataset.splits["val"].take(np.arange(count))
    rows = []
    for sample in range(count):
        for member in combinations.members:
            row = {n: x[sample].tolist() for m, (n, x) in enumerate(inputs.items()) if m in member}
            rows.append(row | ({n: None for n in inputs if n not in row} if sample % 2 else {}))
    return rows


def test_every_kind_of_input_in_every_combination(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    data = {"name": "arrays", "path": str(write_kinds(tmp_path / "data"))}
    plan = plan_of(data, augment={"crop": [8, 8]})
    network, checkpoint = untrained(plan, tmp_path)
    model = loaded(plan, checkpoint, tmp_path / "model")
    found = model.predict(pd.DataFrame(requests(plan, 4)))
    seen = centre_crop(plan.dataset, plan.run_settings({}, 0).augment)
    observer = ClassPredictions(tmp_path / "p.npz", seen, seen.splits["val"], plan.combinations)
    evaluate(network, seen, Batches(seen.splits["val"], torch.device("cpu")), plan.combinations, observer=observer)
    expected = observer.probabilities[:, :4].swapaxes(0, 1).reshape(-1, 3)
    np.testing.assert_allclose(np.array(found["probabilities"].tolist()), expected, rtol=1e-5, atol=1e-7)
    variance = observer.variance[:, :4].T.reshape(-1)
    np.testing.assert_allclose(found["variance"].astype(float), variance, rtol=1e-5)
    assert list(found["combination"]) == list(plan.combinations.names) * 4
    assert list(found["predicted_name"]) == [plan.dataset.class_names[c] for c in expected.argmax(1)]
    columns = model.metadata.get_input_schema()
    assert columns.input_names() == columns.optional_input_names() == list(KINDS)
    facts = model.metadata.metadata
    assert {m["name"]: tuple(m["shape"]) for m in facts["modalities"]} == {n: shape for n, (_, shape) in KINDS.items()}


def test_label_maps(tmp_path: Path) -> None:
    plan = plan_of(
        {"name": "scenes", "train": 6, "val": 4, "test": 4},
        model={"method": "dropout", "encoder": {"name": "pyramid", "width": 4}},
        augment={"crop": [16, 16]},
    )
    network, checkpoint = untrained(plan, tmp_path)
    found = loaded(plan, checkpoint, tmp_path / "model").predict(pd.DataFrame(requests(plan, 2)))
    seen = centre_crop(plan.dataset, plan.run_settings({}, 0).augment)
    inputs, _ = seen.splits["val"].gather(np.arange(2))
    with torch.no_grad():
        logits = network.eval().predict(inputs, torch.from_numpy(plan.combinations.masks)).logits
    expected = logits.softmax(-1).movedim(-1, 2).swapaxes(0, 1).flatten(0, 1).numpy()
    probabilities = np.array(found["probabilities"].tolist())
    assert probabilities.shape == (6, 5, 16, 16)
    np.testing.assert_allclose(probabilities, expected, rtol=1e-5, atol=1e-7)
    assert (np.array(found["predicted_class"].tolist()) == probabilities.argmax(1)).all()
    assert list(found["variance"]) == [None] * 6
    assert "predicted_name" not in found


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyPlan, Path, Path]:
    """The plan, a checkpoint and the exported model of a network of digits."""
    folder = tmp_path_factory.mktemp("digits")
    plan = plan_of({"name": "digits"}, model={"encoder": {"name": "mlp", "width": 8}}, train={"precision": "bfloat16"})
    _, checkpoint = untrained(plan, folder)
    save_model(plan.dataset, plan.run_settings({}, 0), checkpoint, folder / "model", {"study": "s"})
    return plan, checkpoint, folder / "model"


def test_nothing_is_pickled_and_nothing_is_unpickled(
    digits: tuple[StudyPlan, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, _, path = digits

    def never(*arguments: Any, **more: Any) -> None:
        raise AssertionError("something is unpickled")

    for module, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load")):
        monkeypatch.setattr(module, name, never)
    found = mlflow.pyfunc.load_model(str(path)).predict(pd.DataFrame(requests(plan, 1)))
    assert len(found) == 15
    endings = {file.suffix for file in path.rglob("*") if file.is_file()}
    assert endings == {"", ".py", ".npz", ".json", ".yaml", ".txt"}
    with np.load(path / "artifacts/network/weights.npz", allow_pickle=False) as weights:
        assert all(weights[name].dtype != object for name in weights.files)


def test_the_folder_needs_nothing_else(digits: tuple[StudyPlan, Path, Path]) -> None:
    _, _, path = digits
    lines = (path / "requirements.txt").read_text().split()
    assert {line.partition("==")[0] for line in lines} == {"mlflow", "torch", "numpy", "pandas"}
    assert all("+" not in line and line.partition("==")[2] for line in lines)
    assert (path / "code/dmr/serving.py").exists()
    assert json.loads((path / "artifacts/network/design.json").read_text())["precision"] == "bfloat16"


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({}, "row 1 has no modality; give at least one of top_left, top_right, bottom_left, bottom_right"),
        ({"top_right": [0.0] * 15}, r"row 1, modality top_right: numbers of shape \[16\] are needed; got shape \[15\]"),
        ({"top_right": [0.0] * 15 + [None]}, "row 1, modality top_right: .* got values that are no numbers"),
        (
            {"top_right": [0.0] * 15 + [float("nan")]},
            "row 1, modality top_right: NaN or infinity; leave a modality out",
        ),
        ({"top_right": [1e300] * 16}, "row 1, modality top_right: NaN or infinity"),
        ({"top_right": ["1"] * 16}, "row 1, modality top_right: .* got values that are no numbers"),
        ({"top_right": [[0.0], [0.0, 1.0]]}, "row 1, modality top_right: .* its lists have different lengths"),
        ({"top_right": "a"}, "row 1, modality top_right: .* got values that are no numbers"),
        ({"top_right": 3.0}, r"row 1, modality top_right: .* got shape \[\]"),
    ],
)
def test_a_mistake_is_a_sentence(digits: tuple[StudyPlan, Path, Path], row: dict[str, Any], sentence: str) -> None:
    model = mlflow.pyfunc.load_model(str(digits[2]))
    good = {"top_left": [1] * 16}
    with pytest.raises(MlflowException, match=sentence) as caught:
        model.predict(pd.DataFrame([good, row]))
    assert caught.value.get_http_status_code() == 400


def test_a_request_without_any_column_we_know(digits: tuple[StudyPlan, Path, Path]) -> None:
    model = mlflow.pyfunc.load_model(str(digits[2]))
    for frame in (pd.DataFrame([{"other": 1}]), pd.DataFrame([])):
        with pytest.raises(MlflowException, match="no row with a modality; give at least one of top_left, top_right"):
            model.predict(frame)


def test_parquet_has_arrays_of_arrays(digits: tuple[StudyPlan, Path, Path], tmp_path: Path) -> None:
    plan, _, path = digits
    model = mlflow.pyfunc.load_model(str(path))
    frame = pd.DataFrame(requests(plan, 1))
    frame.to_parquet(tmp_path / "r.parquet")
    pd.testing.assert_frame_equal(model.predict(pd.read_parquet(tmp_path / "r.parquet")), model.predict(frame))


METHOD = """
from dataclasses import dataclass
from dmr.methods.dropout import Dropout, DropoutSettings

@dataclass(frozen=True)
class OwnSettings(DropoutSettings):
    own_weight: float = 0.5

class Own(Dropout):
    Settings = OwnSettings
"""


def test_a_method_of_ones_own_goes_with_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_for_export.py").write_text(METHOD)
    monkeypatch.syspath_prepend(tmp_path)
    model = {"method": "own_for_export:Own", "own_weight": 0.25, "encoder": {"name": "mlp", "width": 4}}
    plan = plan_of({"name": "digits"}, model=model)
    _, checkpoint = untrained(plan, tmp_path)
    found = loaded(plan, checkpoint, tmp_path / "model").predict(pd.DataFrame(requests(plan, 1)))
    assert len(found) == 15
    assert (tmp_path / "model/code/own_for_export.py").read_text() == METHOD
    design = json.loads((tmp_path / "model/artifacts/network/design.json").read_text())
    assert design["method"] == {"name": "own_for_export:Own", "head_norm": "none", "own_weight": 0.25}


def test_a_folder_is_written_whole_or_not_at_all(digits: tuple[StudyPlan, Path, Path], tmp_path: Path) -> None:
    plan, checkpoint, _ = digits
    settings = plan.run_settings({}, 0)
    level = logging.getLogger("mlflow").level
    try:
        run = TrainedRun(StudyFolder(tmp_path, "s"), plan, "search", "s trial 0", "1" * 32, settings, checkpoint)
        (tmp_path / "empty").mkdir()
        for name in ("empty", "new/deep"):
            export_run(run, tmp_path / name)
            assert (tmp_path / name / "MLmodel").exists()
        with pytest.raises(StudyError, match="empty: is there and not empty; name another folder"):
            export_run(run, tmp_path / "empty")
        (tmp_path / "half.pt").write_bytes(checkpoint.read_bytes()[:1000])
        broken = TrainedRun(run.folder, plan, "search", "s trial 0", None, settings, tmp_path / "half.pt")
        with pytest.raises(StudyError, match=r"half\.pt: the checkpoint is damaged"):
            export_run(broken, tmp_path / "out")
        (tmp_path / "circle").symlink_to("circle")
        for name, line in (("half.pt/model", "File exists"), ("circle", "Symlink loop")):
            with pytest.raises(StudyError, match=f"-o .*{name}: cannot be made: {line}"):
                export_run(run, tmp_path / name)
        assert sorted(entry.name for entry in tmp_path.iterdir()) == ["circle", "empty", "half.pt", "new"]
    finally:
        logging.getLogger("mlflow").setLevel(level)
