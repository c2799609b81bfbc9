"""What a user gets wrong: one clear line, exit code 2, nothing started, nothing written."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml


def refuse(place, *arguments) -> str:
    """The only line of a command that has to be refused, with nothing left behind."""
    before = {str(file) for file in place.path.rglob("*")}
    refused = place.dmr(*arguments)
    assert refused.exit_code == 2, refused.output
    assert refused.stdout == ""
    assert len(refused.stderr.splitlines()) == 1, refused.stderr
    assert {str(file) for file in place.path.rglob("*")} == before
    return refused.stderr.strip()


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "bad.yaml: no such file"),
        (b"", "bad.yaml: empty; a study file needs at least a `dataset`"),
        (bytes(range(256)), "bad.yaml: "),
        (b"name: [1, 2\nseed: 3\n", "bad.yaml, line 2: not YAML: expected"),
        (b"- a\n- list\n", "bad.yaml: "),
        (b"seed: 1\nseed: 2\ndataset: {name: digits}\n", "bad.yaml, line 2: not YAML: key 'seed' comes twice"),
    ],
    ids=["missing", "empty", "binary", "unclosed", "list", "twice"],
)
def test_a_file_that_is_no_study(place, content, text):
    file = place.path / "bad.yaml"
    file.unlink(missing_ok=True)
    if content is not None:
        file.write_bytes(content)
    assert text in refuse(place, "run", "bad.yaml")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"trainn": {}}, "small.yaml: trainn: no such key; did you mean train?"),
        ({"train__epocs": 3}, "small.yaml: train.epocs: no such key; did you mean epochs?"),
        ({"train__epochs": "many"}, "small.yaml: train.epochs: got 'many'; allowed: a whole number"),
        ({"train__epochs": 0}, "small.yaml: train.epochs: got 0; allowed: greater than or equal to 1"),
        ({"budget__trials": 0}, "small.yaml: budget.trials: got 0"),
        ({"budget__trials": -3}, "small.yaml: budget.trials: got -3"),
        ({"budget__minutes": 0}, "small.yaml: budget.minutes: got 0"),
        ({"model__method": "dmrnett"}, "small.yaml: model.method: got 'dmrnett'; did you mean dmrnet?"),
        (
            {"search": {"model.prior_std": {"log_uniform": [0, 1]}}},
            "search.model.prior_std.log_uniform: a log range starts",
        ),
        ({"search": {"model.prior": {"uniform": [0.1, 1]}}}, "small.yaml: search.model.prior: no such key"),
        ({"objective": [{"metric": "val/acuracy_mean"}]}, "objective[0].metric: no trial reports 'val/acuracy_mean'"),
        (
            {"search": {"sampling.keep_prob": {"uniform": [0.3, 0.9], "when": {"sampling.strategy": "bernoulli"}}}},
            "search.sampling.keep_prob.when.sampling.strategy: not a searched key",
        ),
        ({"resources__cpus": 64}, "small: resources: a trial needs 64 CPUs and 0 GPUs; there are "),
        (
            {"resources": {"workers": 64}},
            "small: resources: a trial needs 64 workers with 1 CPUs and 0 GPUs each; there are ",
        ),
        ({"dataset__path": "nowhere"}, "nowhere"),
    ],
)
def test_a_study_with_a_mistake(place, changes, text):
    place.write(**changes)
    assert text in refuse(place, "run", "small.yaml")


@pytest.mark.parametrize("name", ["../x", "/etc/x", "", "n" * 300, "a/b", ".hidden", "a b"])
def test_hostile_names(place, name):
    place.write()
    line = refuse(place, "run", "small.yaml", "--name", name)
    assert "name" in line
    for command in ("status", "stop", "table", "heatmap", "figures", "resume"):
        assert "name" in refuse(place, command, name)


def test_rm_does_not_follow_a_symbolic_link(place):
    (place.path / "elsewhere").mkdir()
    (place.path / "elsewhere/study.yaml").write_text("name: small\n")
    (place.path / "dmr_runs").mkdir()
    (place.path / "dmr_runs/small").symlink_to(place.path / "elsewhere")
    assert "is a symbolic link, to" in refuse(place, "rm", "small", "--yes")


def test_a_name_with_a_nul(place):
    (place.path / "nul.yaml").write_text('name: "a\\0b"\ndataset: {name: digits}\n')
    assert "name: got 'a\\x00b'; allowed are letters" in refuse(place, "run", "nul.yaml")


@pytest.mark.parametrize("override", ["train.epochs", "=3", "train.epochs=[1", "name.x=1"])
def test_a_bad_override(place, override):
    place.write()
    assert "--set" in refuse(place, "run", "small.yaml", "--set", override)


@pytest.mark.parametrize(
    "command",
    [("status",), ("resume",), ("confirm",), ("stop",), ("rm", "--yes"), ("table",), ("heatmap",)],
    ids=lambda c: c[0],
)
def test_a_study_that_is_not_there(place, command):
    assert "no study 'unknown' here" in refuse(place, command[0], "unknown", *command[1:])


def test_a_confirmation_needs_a_test_split(place):
    without = place.path / "without"
    shutil.copytree(place.path / "sensors", without, ignore=shutil.ignore_patterns("test"))
    place.write(dataset={"name": "arrays", "path": "without"}, confirm={})
    assert (
        refuse(place, "run", "small.yaml")
        == "small.yaml: confirm: needs a test split; data set without has only train, val"
    )


def change_npy(file, change):
    array = np.load(file)
    array = change(array)
    np.save(file, array)


def with_value(value):
    def change(array):
        array[17, 1] = value
        return array

    return change


def truncate(file):
    file.write_bytes(file.read_bytes()[:200])


def pickled(file):
    np.save(file, np.array([{"a": 1}] * 120, dtype=object), allow_pickle=True)


@pytest.mark.parametrize(
    ("part", "damage", "text"),
    [
        ("train/ecg.npy", lambda f: f.unlink(), "train/ecg.npy: no such file"),
        ("train/label.npy", lambda f: f.unlink(), "train/label.npy: no such file"),
        ("dataset.yaml", lambda f: f.unlink(), "dataset.yaml"),
        ("train/ecg.npy", lambda f: change_npy(f, lambda a: a[:-5]), "train/ecg.npy: 115 samples"),
        ("train/label.npy", lambda f: change_npy(f, lambda a: a + 1), "train/label.npy: "),
        ("train/label.npy", lambda f: change_npy(f, lambda a: a - 1), "train/label.npy: "),
        (
            "train/ecg.npy",
            lambda f: change_npy(f, with_value(np.nan)),
            "train/ecg.npy: modality ecg, split train, row 17: NaN or infinity",
        ),
        (
            "val/skin.npy",
            lambda f: change_npy(f, with_value(-np.inf)),
            "val/skin.npy: modality skin, split val, row 17: NaN or infinity",
        ),
        ("train/ecg.npy", truncate, "train/ecg.npy: not a readable .npy array"),
        ("train/ecg.npy", pickled, "train/ecg.npy: not a readable .npy array: pickled objects are not read"),
        ("train/ecg.npy", lambda f: change_npy(f, lambda a: a[:, :4]), "train/ecg.npy: samples of shape (4,)"),
        (
            "train/label.npy",
            lambda f: change_npy(f, lambda a: np.where(np.arange(120) == 2, 2, a % 2)),
            "class 'c2' has a single sample; 2 are needed",
        ),
    ],
    ids=[
        "missing",
        "no-labels",
        "no-yaml",
        "short",
        "label-high",
        "label-low",
        "nan",
        "inf",
        "truncated",
        "pickled",
        "shape",
        "single",
    ],
)
def test_a_data_folder_with_a_fault(place, part, damage, text):
    broken = place.path / "broken"
    shutil.rmtree(broken, ignore_errors=True)
    shutil.copytree(place.path / "sensors", broken)
    damage(broken / part)
    place.write(dataset={"name": "arrays", "path": "broken"})
    assert text in refuse(place, "run", "small.yaml")


def test_a_constant_modality_is_a_warning(place, caplog):
    constant = place.path / "constant"
    shutil.copytree(place.path / "sensors", constant)
    change_npy(constant / "train/skin.npy", lambda a: a * 0 + 3)
    place.write(dataset={"name": "arrays", "path": "constant"})
    for _ in range(2):  # the second time from memory
        shown = place.dmr("run", "small.yaml", "--dry-run")
        assert shown.exit_code == 0
        assert "modality skin is the same in every training sample" in caplog.text
        caplog.clear()
    change_npy(constant / "train/skin.npy", with_value(np.nan))
    assert "row 17: NaN or infinity" in refuse(place, "run", "small.yaml")


def test_a_modality_listed_later_is_checked_then(place):
    later = place.path / "later"
    shutil.copytree(place.path / "sensors", later)
    change_npy(later / "train/skin.npy", with_value(np.nan))
    whole = (later / "dataset.yaml").read_text()
    document = yaml.safe_load(whole)
    document["modalities"] = document["modalities"][:2]
    (later / "dataset.yaml").write_text(yaml.safe_dump(document))
    place.write(dataset={"name": "arrays", "path": "later"})
    assert place.dmr("run", "small.yaml", "--dry-run").exit_code == 0
    (later / "dataset.yaml").write_text(whole)
    assert "modality skin, split train, row 17" in refuse(place, "run", "small.yaml", "--dry-run")


@pytest.mark.parametrize("command", [("run", "small.yaml"), ("run", "small.yaml", "--dry-run")])
def test_a_folder_in_which_ray_cannot_start(place, monkeypatch, command):
    place.write()
    monkeypatch.setenv("RAY_TMPDIR", "/tmp/" + "long" * 20)
    refused = place.dmr(*command)
    assert refused.exit_code == 2, refused.output
    assert refused.stderr.splitlines()[-1].startswith("RAY_TMPDIR=/tmp/long")
    assert "set RAY_TMPDIR to a folder" in refused.stderr
    assert not (place.path / "dmr_runs").exists()


def test_a_user_without_a_home(place, monkeypatch):
    place.write()
    monkeypatch.delenv("XDG_CACHE_HOME")

    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    assert place.dmr("run", "small.yaml", "--dry-run").exit_code == 0


def test_dataset_yaml_that_does_not_parse(place):
    broken = place.path / "unparsed"
    shutil.copytree(place.path / "sensors", broken)
    (broken / "dataset.yaml").write_text("modalities: [\n")
    place.write(dataset={"name": "arrays", "path": "unparsed"})
    assert "dataset.yaml" in refuse(place, "run", "small.yaml")
    document = yaml.safe_load((place.path / "sensors/dataset.yaml").read_text())
    document["modalities"][0]["name"] = "../up"
    (broken / "dataset.yaml").write_text(yaml.safe_dump(document))
    assert "../up" in refuse(place, "run", "small.yaml")


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("- c0", "- yes", 'class_names[0]: got True; allowed: text; quote it, as in "yes"'),
        ("- c0", "- 0", 'class_names[0]: got 0; allowed: text; quote it, as in "0"'),
        ("- c0", "- c2", "class_names[2]: 'c2' comes twice; names must differ"),
        ("name: skin", "name: no", 'modalities[2].name: got False; allowed: text; quote it, as in "no"'),
    ],
)
def test_names_that_would_lose_classes(place, old, new, text):
    """`dmr data check` tells it with the same line."""
    named = place.path / "named"
    shutil.copytree(place.path / "sensors", named)
    file = named / "dataset.yaml"
    assert file.read_text().count(old) == 1
    file.write_text(file.read_text().replace(old, new))
    place.write(dataset={"name": "arrays", "path": "named"})
    assert refuse(place, "run", "small.yaml") == f"named/dataset.yaml: {text}"
    checked = place.dmr("data", "check", "named")
    assert checked.exit_code == 1
    assert f"error: dataset.yaml: {text}\n" in checked.stdout


def test_names_that_would_lose_values(place):
    """With 12 names of 25 letters MLflow would keep no value of the best epoch."""
    long = place.path / "long"
    shutil.copytree(place.path / "sensors", long)
    names = [f"m{n:024d}" for n in range(12)]
    for file in long.glob("*/skin.npy"):
        for name in names:
            shutil.copy(file, file.with_name(f"{name}.npy"))
    document = yaml.safe_load((long / "dataset.yaml").read_text())
    document["modalities"] = [{"name": name, "kind": "vector", "shape": [3]} for name in names]
    (long / "dataset.yaml").write_text(yaml.safe_dump(document))
    place.write(dataset={"name": "arrays", "path": "long"}, search={}, first=[])
    text = "the names of 12 modalities have 300 letters together; allowed are 209, since MLflow keeps no value under a"
    assert refuse(place, "run", "small.yaml").startswith(f"long: {text}")
    checked = place.dmr("data", "check", "long")
    assert checked.exit_code == 1
    assert f"error: dataset.yaml: modalities: {text}" in checked.stdout


def test_a_home_in_any_path(place, monkeypatch):
    """A shell does not expand `~` in `--storage=~/runs`, nor in a file."""
    monkeypatch.setenv("HOME", str(place.path))
    place.write(dataset={"name": "arrays", "path": "~/sensors"})
    shown = place.dmr("run", "~/small.yaml", "--dry-run", "--storage=~/runs")
    assert shown.exit_code == 0, shown.output
    assert f"path: {(place.path / 'sensors').resolve()}" in shown.stdout
    assert f"folder: {place.path / 'runs/small'}" in shown.stdout
    assert place.dmr("data", "check", "~/sensors").exit_code == 0
    assert "/nowhere/dataset.yaml: no such file" in refuse(place, "data", "check", "~/nowhere")


def test_a_val_that_is_drawn_is_told_of(place, caplog):
    without = place.path / "without_val"
    shutil.copytree(place.path / "sensors", without, ignore=shutil.ignore_patterns("val"))
    place.write(dataset={"name": "arrays", "path": "without_val"})
    assert place.dmr("run", "small.yaml", "--dry-run").exit_code == 0
    line = "no val folder, so a fifth of train is drawn as val; where several samples are of one person or recording"
    assert f"without_val: {line}" in caplog.text
    assert f"warning: {without}: {line}" in place.dmr("data", "check", without).stdout
