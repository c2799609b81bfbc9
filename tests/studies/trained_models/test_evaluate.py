"""`dmr evaluate`: the numbers of training, predictions of every sample, data of another place, and mistakes."""

from __future__ import annotations

import json
import re
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from typer.testing import CliRunner, Result

from dmr.checkpoints import save_checkpoint
from dmr.combinations import deployment_weights
from dmr.data.augmentation import centre_crop
from dmr.data.dataset import MultimodalDataset
from dmr.direction import Direction
from dmr.files import write_text
from dmr.metrics import summarise
from dmr.studies.cli.entry_point import app
from dmr.studies.errors import StudyError
from dmr.studies.storage.study_folder import StudyFolder
from dmr.studies.study_file.plan import make_plan
from dmr.studies.trained_models.evaluate import evaluate_run, parse_combinations
from dmr.studies.trained_models.find_run import TrainedRun, find_run
from dmr.studies.workers.checkpoint_reporter import FolderReporter
from dmr.studies.yaml_io import to_yaml
from dmr.training import EpochReport, build_network, fit

RUN = "0123456789abcdef0123456789abcdef"
DIGITS = {
    "name": "d",
    "dataset": {"name": "digits"},
    "model": {"encoder": {"name": "mlp", "width": 8}, "warmup_epochs": 0},
    "train": {"epochs": 3},
    "search": {},
}


class Kept(FolderReporter):
    def report(self, report: EpochReport) -> None:
        self.last = report


class Trained:
    """A run of `dmr train` as it lies below a storage, without MLflow."""

    def __init__(self, storage: Path) -> None:
        self.storage = storage
        self.plan = make_plan(DIGITS, "d.yaml")
        folder = StudyFolder(storage / "d", "train-1")
        reporter = Kept(folder.path, ("val/accuracy_mean", Direction.MAX))
        self.report = fit(self.plan.dataset, self.plan.run_settings({}, 0), torch.device("cpu"), reporter)
        write_text(folder.study_file, to_yaml(self.plan.document))
        lines = [{"op": "journal", "id": "j"}, {"op": "run", "key": "train", "id": RUN}]
        folder.journal.write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines) + '{"op":')
        self.folder = folder

    def evaluate(self, *arguments: Any) -> Result:
        given = ["evaluate", RUN, "--storage", self.storage, *arguments]
        return CliRunner().invoke(app, [str(part) for part in given])

    def mistake(self, *arguments: Any) -> str:
        result = self.evaluate(*arguments)
        assert result.exit_code == 2, result.output
        assert result.stdout == ""
        (line,) = result.stderr.splitlines()
        return line


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return Trained(tmp_path_factory.mktemp("runs"))


def read_csv(result: Result) -> pd.DataFrame:
    assert result.exit_code == 0, result.output
    return pd.read_csv(StringIO(result.stdout), float_precision="round_trip").set_index("combination")


def write_site(folder: Path, dataset: MultimodalDataset, split: str, names: list[str], **changes: Any) -> Path:
    """A split of a data set as a data folder with these modalities."""
    samples = dataset.splits[split]
    (folder / split).mkdir(parents=True)
    np.save(folder / split / "label.npy", samples.targets())
    for name, values in samples.take(np.arange(len(samples)), names).items():
        np.save(folder / split / f"{name}.npy", values.numpy())
    kinds = {m.name: m for m in dataset.modalities}
    entries = [{"name": name, "kind": kinds[name].kind, "shape": list(kinds[name].shape)} for name in names]
    description = {"num_classes": dataset.num_classes, "modalities": entries} | changes
    (folder / "dataset.yaml").write_text(yaml.safe_dump(description))
    return folder


def test_the_numbers_are_those_of_the_epoch_the_checkpoint_was_chosen_at(trained: Trained) -> None:
    frame = read_csv(trained.evaluate("--format", "csv"))
    assert tuple(frame.index) == trained.plan.combinations.names
    assert {name: list(frame[name]) for name in frame} == trained.report.best_values["val"]
    (record,) = json.loads(trained.evaluate("--format", "json", "--combinations", "bottom_right").stdout)
    assert record["combination"] == "bottom_right"
    assert record["accuracy"] == pytest.approx(frame.loc["bottom_right", "accuracy"], rel=1e-12)


def test_odds_give_the_expected_values(trained: Trained) -> None:
    """The same as of a trial under a study file's `deployment`, in every form."""
    odds, combinations = {"top_left": 0.9, "bottom_right": 0.5}, trained.plan.combinations
    given = ("--deployment", "top_left=0.9,bottom_right=0.5")
    values = {name: np.array(column) for name, column in trained.report.best_values["val"].items()}
    expected = summarise(values, combinations, deployment_weights(combinations, odds))
    frame = read_csv(trained.evaluate("--format", "csv", *given))
    assert tuple(frame.index) == (*combinations.names, "expected")
    for name in ("accuracy", "nll"):
        assert frame.at["expected", name] == pytest.approx(expected[f"{name}_expected"])
    assert json.loads(trained.evaluate("--format", "json", *given).stdout)[-1]["combination"] == "expected"
    rows = [line.split() for line in trained.evaluate(*given).stdout.splitlines()]
    (row,) = [row for row in rows if row[:1] == ["expected"]]
    assert row[1] == f"{expected['accuracy_expected']:.4f}"
    wrong = trained.mistake("--deployment", "top_lft=0.5")
    assert wrong == f"--deployment: top_lft: the modalities are {', '.join(combinations.modalities)}"
    impossible = trained.mistake("--combinations", "top_left", "--deployment", "top_left=0")
    assert impossible == "--deployment: these odds leave no combination possible"


def test_the_table_has_mean_and_worst_of_what_is_shown(trained: Trained) -> None:
    result = trained.evaluate("--combinations", "bottom_right-top_left,top_left")
    rows = {line.split()[0]: line.split()[1:] for line in result.stdout.splitlines() if line.strip()}
    accuracy = dict(zip(trained.plan.combinations.names, trained.report.best_values["val"]["accuracy"], strict=True))
    both, one = accuracy["top_left-bottom_right"], accuracy["top_left"]
    assert rows["mean"][0] == f"{(both + one) / 2:.4f}"
    assert rows["worst"][0] == f"{one:.4f}"
    assert result.stderr == ""


def test_test_is_shown_with_a_word_of_warning(trained: Trained) -> None:
    result = trained.evaluate("--split", "test", "--format", "csv")
    assert "spoils the test split" in result.stderr
    assert len(read_csv(result)) == 15


@pytest.mark.parametrize("ending", ["csv", "parquet", "NPZ"])
def test_predictions_have_a_row_a_sample_and_combination(trained: Trained, tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"p.{ending}"
    frame = read_csv(trained.evaluate("--predictions", file, "--format", "csv"))
    labels = trained.plan.dataset.splits["val"].targets()
    if ending == "NPZ":
        with np.load(file) as found:
            assert found["probabilities"].shape == (15, len(labels), 10)
            right = (found["predicted_class"] == found["label"]).mean(1)
            assert np.isfinite(found["variance"]).all()
            names = found["combinations"]
    else:
        rows = pd.read_csv(file) if ending == "csv" else pd.read_parquet(file)
        assert len(rows) == 15 * len(labels)
        chances = rows[[f"probability_{n}" for n in range(10)]].to_numpy()
        np.testing.assert_allclose(chances.sum(1), 1.0, rtol=1e-5)
        assert (chances.argmax(1) == rows["predicted_class"]).all()
        assert list(rows["label"][: len(labels)]) == list(labels)
        groups = (rows["label"] == rows["predicted_class"]).groupby(rows["combination"], sort=False)
        names, right = groups.mean().index, groups.mean()
    assert dict(zip(names, right, strict=True)) == pytest.approx(dict(frame["accuracy"]))
    assert [entry.name for entry in tmp_path.iterdir()] == [file.name]


def test_another_place_may_have_one_split_and_lack_a_modality(trained: Trained, tmp_path: Path) -> None:
    dataset = trained.plan.dataset
    names = ["bottom_left", "top_left"]  # in another order, too
    site = write_site(tmp_path / "site", dataset, "test", names, name="elsewhere")
    result = trained.evaluate("--data", site, "--format", "csv", "--predictions", tmp_path / "p.csv")
    frame, whole = read_csv(result), read_csv(trained.evaluate("--split", "test", "--format", "csv"))
    assert result.stderr == ""
    with_values = [name for name in frame.index if not np.isnan(frame.loc[name, "accuracy"])]
    assert with_values == ["top_left", "bottom_left", "top_left-bottom_left"]
    assert list(frame.loc[with_values, "nll"]) == pytest.approx(list(whole.loc[with_values, "nll"]), rel=1e-6)
    assert set(pd.read_csv(tmp_path / "p.csv")["combination"]) == set(with_values)
    table = trained.evaluate("--data", site).stdout
    assert "test of elsewhere, 359 samples" in table
    assert "nan" not in table


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"num_classes": 9}, "num_classes: got 9; the model has 10"),
        ({"class_names": [*"012345678", "x"]}, r"class_names\[9\]: got 'x'; the model's is '9'"),
        ({"task": "segmentation"}, "task: got segmentation; the model is for classification"),
        (
            {"modalities": [{"name": "top_left", "kind": "vector", "shape": [4]}]},
            r"modalities\[0\].shape: top_left has \[4\]; the model's has \[16\]",
        ),
        (
            {"modalities": [{"name": "top_left", "kind": "image", "shape": [16]}]},
            r"modalities\[0\].kind: top_left has image; the model's has vector",
        ),
        (
            {"modalities": [{"name": "depth", "kind": "vector", "shape": [16]}]},
            r"modalities\[0\]: got 'depth'; the model's modalities are top_left, top_right",
        ),
    ],
)
def test_data_of_another_kind_is_refused(trained: Trained, tmp_path: Path, changes: dict[str, Any], line: str) -> None:
    site = write_site(tmp_path / "site", trained.plan.dataset, "val", ["top_left"], **changes)
    assert re.search(line, trained.mistake("--data", site))


def test_another_place_knows_which_samples_lack_a_modality(trained: Trained, tmp_path: Path) -> None:
    site = write_site(tmp_path / "site", trained.plan.dataset, "val", ["bottom_left", "top_left"])
    present = np.ones((360, 2), dtype=bool)
    present[:100, 0] = False
    np.save(site / "val/present.npy", present)
    values = np.load(site / "val/bottom_left.npy").astype(np.float32)
    values[:100] = np.nan
    np.save(site / "val/bottom_left.npy", values)
    samples = read_csv(trained.evaluate("--data", site, "--format", "csv"))["samples"]
    assert samples[["top_left", "bottom_left", "top_left-bottom_left", "top_right"]].tolist() == [360, 260, 260, 0]


def test_values_of_another_place_are_looked_at(trained: Trained, tmp_path: Path) -> None:
    site = write_site(tmp_path / "site", trained.plan.dataset, "val", ["top_left"])
    values = np.load(site / "val/top_left.npy").astype(np.float32)
    values[7, 3] = np.nan
    np.save(site / "val/top_left.npy", values)
    assert trained.mistake("--data", site).endswith("modality top_left, split val, row 7: NaN or infinity")
    assert trained.mistake("--data", site, "--split", "test").endswith("there is no split test; it has val")


def test_mistakes_are_one_line(trained: Trained, tmp_path: Path) -> None:
    assert trained.mistake("--combinations", "botom_left") == (
        "--combinations botom_left: 'botom_left' is no modality; did you mean bottom_left?"
    )
    assert trained.mistake("--predictions", tmp_path / "p.txt").endswith("allowed endings are .csv, .parquet, .npz")
    assert "there is no directory" in trained.mistake("--predictions", tmp_path / "no/p.csv")
    (tmp_path / "taken.csv").mkdir()
    assert "taken.csv: is a directory; a file is needed" in trained.mistake("--predictions", tmp_path / "taken.csv")
    assert "no study in" in trained.mistake("--storage", tmp_path)


def test_a_checkpoint_that_is_gone_or_damaged(trained: Trained, tmp_path: Path) -> None:
    best = trained.folder.path / "best.pt"
    content = best.read_bytes()
    try:
        best.unlink()
        assert trained.mistake().endswith("best.pt: not there: no epoch has ended, or it was deleted")
        best.write_bytes(content[: len(content) // 2])
        assert trained.mistake().endswith("best.pt: the checkpoint is damaged")
        save_checkpoint(best, {"network": {"other": torch.zeros(1)}})
        assert "Missing key(s) in state_dict" in trained.mistake()
    finally:
        best.write_bytes(content)


def test_a_study_itself_has_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s/journal.jsonl").write_text(f'{{"op":"run","key":"study","id":"{RUN}"}}\n')
    with pytest.raises(StudyError, match="this is study 's' itself; give the run of a trial"):
        find_run(RUN, tmp_path)


def test_combinations_are_named_in_any_order_and_shown_in_ours() -> None:
    found = parse_combinations("c-a, b,a-c", ("a", "b", "c"))
    assert found.names == ("b", "a-c")
    assert len(parse_combinations("all", ("a", "b", "c"))) == 7


@pytest.fixture
def scenes_run(tmp_path: Path) -> TrainedRun:
    """Of a network that was not trained."""
    document = {
        "name": "s",
        "dataset": {"name": "scenes", "train": 8, "val": 6, "test": 4},
        "model": {"encoder": {"name": "pyramid", "width": 4}},
        "augment": {"crop": [16, 16]},
    }
    plan = make_plan(document, "s.yaml")
    settings = plan.run_settings({}, 0)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        network = build_network(centre_crop(plan.dataset, settings.augment), settings)
    save_checkpoint(tmp_path / "best.pt", {"network": network.state_dict()})
    folder = StudyFolder(tmp_path, "s")
    return TrainedRun(folder, plan, "search", "s trial 0", None, settings, tmp_path / "best.pt")


def test_maps_are_written_of_segmentation(
    scenes_run: TrainedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, file = scenes_run, tmp_path / "maps.npz"
    evaluate_run(run, "all", "val", None, file, "csv")
    lines = capsys.readouterr().out.splitlines()
    pixel_accuracy = {line.split(",")[0]: float(line.split(",")[2]) for line in lines[1:]}
    assert lines[0].split(",")[2] == "pixel_accuracy"
    labels = run.plan.dataset.splits["val"].targets()
    top = (labels.shape[1] - 16) // 2
    labels = labels[:, top : top + 16, top : top + 16]
    ignored = run.plan.dataset.ignore_index
    with np.load(file) as found:
        assert found["predicted_class"].shape == (3, 6, 16, 16)
        assert found["predicted_class"].dtype == np.uint8
        for name, maps in zip(found["combinations"], found["predicted_class"], strict=True):
            there = np.ones_like(labels, dtype=bool) if ignored is None else labels != ignored
            assert (maps == labels)[there].mean() == pytest.approx(pixel_accuracy[name])
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["best.pt", "maps.npz"]
    with pytest.raises(StudyError, match=r"predictions of segmentation are maps; allowed is \.npz"):
        evaluate_run(run, "all", "val", None, tmp_path / "maps.csv", "csv")
