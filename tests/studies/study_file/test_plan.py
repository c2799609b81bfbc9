from __future__ import annotations

import copy
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from mlflow.utils.validation import MAX_DATASET_NAME_SIZE, MAX_ENTITY_KEY_LENGTH, MAX_TAG_VAL_LENGTH

from dmr.analysis.results.record_names import MAX_TAG, best_metric
from dmr.combinations import MAX_FULL_NAME, MAX_MODALITY_NAME
from dmr.data import DATASETS
from dmr.data.dataset import MAX_NAME
from dmr.encoders import ENCODERS, build_encoder
from dmr.encoders.cnn import CNNSettings
from dmr.encoders.mlp import MLP, MLPSettings
from dmr.methods import METHODS
from dmr.methods.dmrnet import DMRNetSettings
from dmr.methods.dropout import DropoutSettings
from dmr.metrics import MAIN_METRICS
from dmr.studies.errors import StudyError
from dmr.studies.study_file.dotted_keys import set_key
from dmr.studies.study_file.plan import StudyPlan, load_plan, make_plan
from dmr.studies.study_file.search_space import MAX_ENUMERATED
from dmr.studies.yaml_io import read_yaml, to_yaml

QUADRANTS = "top_left, top_right, bottom_left, bottom_right"
KEEP = {"uniform": [0.3, 0.9], "when": {"sampling.strategy": "bernoulli"}}
METHOD = {"choice": ["dmrnet", "dropout"]}


def document(**keys: Any) -> dict[str, Any]:
    return copy.deepcopy({"name": "s", "dataset": {"name": "digits"}} | keys)


def plan(**keys: Any) -> StudyPlan:
    return make_plan(document(**keys), "s.yaml")


def refuses(message: str, **keys: Any) -> None:
    """The study is refused with one line, which is `message`; `...` in it stands for anything."""
    pattern = ".*".join(map(re.escape, f"s.yaml: {message}".split("...")))
    with pytest.raises(StudyError, match=f"^{pattern}$") as caught:
        plan(**keys)
    assert len(caught.value.lines) == 1


@pytest.fixture
def write_study(tmp_path: Path) -> Callable[..., Path]:
    def write(file_name: str = "s.yaml", **keys: Any) -> Path:
        file = tmp_path / file_name
        file.write_text(to_yaml({"dataset": {"name": "digits"}} | keys), encoding="utf-8")
        return file

    return write


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with an image and a vector."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "pictures"
    shapes = {"camera": ("image", [1, 8, 8]), "lidar": ("vector", [5])}
    modalities = [{"name": name, "kind": kind, "shape": shape} for name, (kind, shape) in shapes.items()]
    (folder / "train").mkdir(parents=True)
    (folder / "dataset.yaml").write_text(yaml.safe_dump({"num_classes": 2, "modalities": modalities}))
    np.save(folder / "train" / "label.npy", np.arange(20) % 2)
    for name, (_, shape) in shapes.items():
        values = np.random.default_rng(0).standard_normal((20, *shape))
        np.save(folder / "train" / f"{name}.npy", values.astype(np.float32))
    return folder


# ---- what a plan has -------------------------------------------------------------------------------------------------


def test_the_shipped_study() -> None:
    got = load_plan(Path(__file__).parents[3] / "studies/digits.yaml", [], None, None)
    assert (got.study.name, got.document["experiment"], got.study.budget.trials) == ("digits", "digits", 24)
    assert len(got.combinations) == 15
    assert set(got.space.keys) == {
        "train.learning_rate",
        "train.weight_decay",
        "model.head_norm",
        "model.prior_std",
        "model.noise_scale",
        "model.kl_weight",
        "model.hard_weight",
        "sampling.strategy",
        "sampling.keep_prob",
    }
    assert (got.max_epochs, got.grace_epochs) == (40, 8)
    own = {"model.prior_std": 1.0, "model.noise_scale": 1.0, "model.kl_weight": 1e-3, "model.hard_weight": 0.3}
    optimisation = {"train.learning_rate": 2e-3, "train.weight_decay": 1e-2, "model.head_norm": "none"}
    assert got.first == (own | optimisation | {"sampling.strategy": "uniform"},)


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"model": {"method": "dropout"}, "search": {}, "first": []},
        {"model": {"encoder": {"top_left": {"name": "mlp", "width": 8}}}},
        {"search": {"model.encoder.top_left.width": {"int": [8, 64]}, "sampling.strategy": {"choice": ["by_size"]}}},
        {"objective": [{"metric": "val/nll_mean"}, {"metric": "val/accuracy_expected"}], "deployment": {"top_left": 0}},
        {"search": {"model.method": METHOD}, "first": ["defaults", {"model.method": "dropout"}]},
        {"name": "1e5", "scheduler": {"name": "median", "grace_epochs": 12}, "budget": {"minutes": 1.5}},
    ],
)
def test_the_resolved_document_gives_the_same_plan(keys: dict[str, Any], tmp_path: Path) -> None:
    keys = {"sampling": {"strategy": "by_size"}} | keys
    one = plan(**keys)
    file = tmp_path / "study.yaml"
    file.write_text(to_yaml(one.document), encoding="utf-8")
    other = make_plan(read_yaml(file), "s.yaml")
    assert other.document == one.document
    assert (other.study.name, other.space, other.first, other.grace_epochs, other.max_epochs) == (
        one.study.name,
        one.space,
        one.first,
        one.grace_epochs,
        one.max_epochs,
    )
    point = one.first[0] if one.first else {}
    assert other.run_settings(point, 3) == one.run_settings(point, 3)


def test_a_plan_leaves_the_document_as_it_was() -> None:
    given = document(search={"model.method": METHOD}, first=[{"model.method": "dropout"}])
    before = copy.deepcopy(given)
    got = make_plan(given, "s.yaml")
    resolved = copy.deepcopy(got.document)
    got.run_settings(got.first[0], 0)
    assert given == before
    assert got.document == resolved


def test_run_settings_have_the_values_of_the_point() -> None:
    got = plan(
        model={"method": "dmrnet", "encoder": {"width": 16}},
        train={"epochs": 5},
        objective=[{"metric": "val/nll_worst"}],
        search={"model.prior_std": {"uniform": [0.1, 1]}, "train.optimizer": {"choice": ["adam", "sgd"]}},
        first=[],
    )
    settings = got.run_settings({"model.prior_std": 0.25, "train.optimizer": "sgd"}, 7)
    assert settings.method == DMRNetSettings(prior_std=0.25)
    assert settings.encoders == dict.fromkeys(QUADRANTS.split(", "), MLPSettings(width=16))
    assert (settings.train.optimizer, settings.train.epochs) == ("sgd", 5)
    assert (settings.select, settings.select_mode, settings.seed) == ("val/nll_worst", "min", 7)


def test_another_method_has_its_own_defaults() -> None:
    prior = {"uniform": [0.1, 4.0], "when": {"model.method": "dmrnet"}}
    got = plan(
        model={"head_norm": "layer", "prior_std": 2.0}, search={"model.prior_std": prior, "model.method": METHOD}
    )
    assert got.run_settings({"model.method": "dropout"}, 0).method == DropoutSettings(head_norm="layer")
    dmrnet = got.run_settings({"model.method": "dmrnet", "model.prior_std": 3.0}, 0).method
    assert dmrnet == DMRNetSettings(head_norm="layer", prior_std=3.0)


def test_parameters_for_mlflow() -> None:
    got = plan(search={"model.kl_weight": {"log_uniform": [1e-5, 1]}, "train.epochs": {"log_int": [1, 100]}})
    parameters = got.parameters({"model.kl_weight": 1e-2, "train.epochs": 10}, 3)
    assert parameters["model.kl_weight"] == 1e-2
    assert parameters["log10_model.kl_weight"] == pytest.approx(-2)
    assert parameters["log10_train.epochs"] == pytest.approx(1)
    assert (parameters["seed"], parameters["dataset.name"], parameters["model.encoder.width"]) == (3, "digits", 64)
    assert not any(isinstance(value, dict | list) for value in parameters.values())


def test_a_searched_key_whose_condition_does_not_hold_is_no_parameter_of_a_run() -> None:
    """`sampling.keep_prob` has the file's 0.5 in the settings, and means nothing without `bernoulli`."""
    strategy = {"choice": ["uniform", "bernoulli"]}
    got = plan(search={"sampling.strategy": strategy, "sampling.keep_prob": KEEP})
    assert "sampling.keep_prob" not in got.parameters({"sampling.strategy": "uniform"}, 0)
    kept = got.parameters({"sampling.strategy": "bernoulli", "sampling.keep_prob": 0.7}, 0)
    assert kept["sampling.keep_prob"] == 0.7
    assert plan(search={}).parameters({}, 0)["sampling.keep_prob"] == 0.5  # not searched: as in the file


def test_a_condition_on_an_inactive_key_does_not_hold() -> None:
    strategy = {"choice": ["uniform", "bernoulli"], "when": {"train.optimizer": "sgd"}}
    keys = {"train.optimizer": {"choice": ["adamw", "sgd"]}, "sampling.strategy": strategy, "sampling.keep_prob": KEEP}
    got = plan(search=keys, sampling={"strategy": "bernoulli"})
    parameters = got.parameters({"train.optimizer": "adamw"}, 0)
    assert parameters["train.optimizer"] == "adamw"
    assert not {"sampling.strategy", "sampling.keep_prob"} & set(parameters)


@pytest.mark.parametrize(
    ("sampler", "trials", "said"),
    [
        ("tpe", 10, "random search: tpe proposes its first 10 trials at random, and the budget is 10 trials"),
        ("tpe", 11, ""),
        ("nsga2", 24, "random search: nsga2 proposes its first 50 trials at random, and the budget is 24 trials"),
        ("cmaes", 1, "random search: cmaes proposes its first 1 trial at random, and the budget is 1 trial"),
        ("random", 3, ""),  # the file says so
    ],
)
def test_a_budget_within_the_samplers_random_start_is_a_random_search(sampler: str, trials: int, said: str) -> None:
    assert plan(sampler=sampler, budget={"trials": trials}).random_search == said
    assert plan(sampler=sampler, budget={"trials": trials}, search={}).random_search == ""


def test_blocks_that_are_a_random_search_are_named() -> None:
    """24 trials: 12 each are more than the first 10; 21: 11 and 10."""
    rate = {"train.learning_rate": {"log_uniform": [1e-4, 1e-1]}}
    search = [{"model.method": "dmrnet", **rate}, {"model.method": "dropout", **rate}]
    assert plan(search=search).random_search == ""
    one = "tpe proposes the first 10 trials of a block at random, and the share of a block is 10 trials"
    assert plan(search=search, budget={"trials": 21}).random_search == f"random search in dropout: {one}"
    assert plan(search=search, budget={"trials": 20}).random_search == f"random search in every block: {one}"


@pytest.mark.parametrize("method", METHODS)
def test_a_file_without_search_has_the_space_of_its_method(method: str) -> None:
    train = ("train.learning_rate", "train.weight_decay", "model.head_norm")
    keys = {*METHODS[method].search_space, *train, "sampling.strategy", "sampling.keep_prob"}
    assert set(plan(model={"method": method}).space.keys) == keys


def test_the_optimisation_is_searched_around_the_files_own_values() -> None:
    got = {one.key: one.values for one in plan(train={"learning_rate": 0.1, "weight_decay": 1e-4}).space.parameters}
    assert got["train.learning_rate"] == pytest.approx((0.02, 0.5))
    assert got["train.weight_decay"] == pytest.approx((1e-5, 1e-2))
    assert "train.weight_decay" not in plan(train={"weight_decay": 0.0}).space.keys


@pytest.mark.parametrize(
    ("search", "epochs"),
    [
        ({}, 40),
        ({"train.epochs": {"int": [5, 12]}}, 12),
        ({"train.epochs": {"choice": [90, 5]}}, 90),
        ({"model.method": METHOD, "train.epochs": {"int": [5, 12], "when": {"model.method": "dropout"}}}, 40),
    ],
)
def test_the_most_epochs_of_a_trial(search: dict[str, Any], epochs: int) -> None:
    assert plan(search=search, first=[]).max_epochs == epochs


# ---- encoders --------------------------------------------------------------------------------------------------------


def encoders(folder: Path, encoder: Any, search: dict[str, Any] | None = None, **point: Any) -> dict[str, Any]:
    keys = {"dataset": {"name": "arrays", "path": str(folder)}, "model": {"encoder": encoder}, "search": search or {}}
    return dict(plan(**keys).run_settings({key.replace("__", "."): value for key, value in point.items()}, 0).encoders)


@pytest.mark.parametrize(
    ("encoder", "camera", "lidar"),
    [
        ({}, CNNSettings(), MLPSettings()),
        ({"width": 16}, CNNSettings(width=16), MLPSettings(width=16)),
        ({"camera": {"dropout": 0.5}}, CNNSettings(dropout=0.5), MLPSettings()),
        ({"lidar": {"name": "mlp", "width": 8}, "camera": {"name": "cnn"}}, CNNSettings(), MLPSettings(width=8)),
    ],
)
def test_encoders_by_modality(pictures: Path, encoder: Any, camera: Any, lidar: Any) -> None:
    assert encoders(pictures, encoder) == {"camera": camera, "lidar": lidar}


@pytest.mark.parametrize("encoder", [{}, {"width": 64}, {"dropout": 0.0}])
def test_searched_encoders(pictures: Path, encoder: Any) -> None:
    width = {"int": [8, 64]}
    of_all = encoders(pictures, encoder, {"model.encoder.width": width}, model__encoder__width=8)
    assert of_all == {"camera": CNNSettings(width=8), "lidar": MLPSettings(width=8)}
    of_one = encoders(pictures, encoder, {"model.encoder.lidar.width": width}, model__encoder__lidar__width=8)
    assert of_one == {"camera": CNNSettings(), "lidar": MLPSettings(width=8)}


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        (
            {"name": "mlp"},
            "model.encoder: encoder 'mlp' reads inputs with 1 dimension(s); modality camera has shape ...",
        ),
        (
            {"name": "cnn"},
            "model.encoder: encoder 'cnn' reads inputs with 3 dimension(s); modality lidar has shape [5]",
        ),
        (
            {"lidar": {"name": "cnn"}},
            "model.encoder: encoder 'cnn' reads inputs with 3 dimension(s); modality lidar ...",
        ),
        ({"radar": {"name": "mlp"}}, "model.encoder.radar: no such modality; they are camera, lidar"),
        ({1: {"name": "mlp"}}, "model.encoder.1: no such modality; they are camera, lidar"),
        (
            {"lidar": {"weights": "no.pt"}},
            "model.encoder: modality lidar: weights no.pt: No such file or directory",
        ),
        (
            {"name": "pyramid"},
            "model.encoder: encoder 'pyramid' is for segmentation, the data set for classification; allowed are ...",
        ),
    ],
)
def test_encoders_that_do_not_fit(pictures: Path, encoder: Any, message: str) -> None:
    refuses(message, dataset={"name": "arrays", "path": str(pictures)}, model={"encoder": encoder})


def test_encoders_that_cannot_be_fused(pictures: Path) -> None:
    keys = {"dataset": {"name": "arrays", "path": str(pictures)}}
    message = "model.encoder: modality lidar: its encoder gives a vector; that of camera gives 1×1; equal sizes are ..."
    refuses(message, **keys, model={"encoder": {"camera": {"name": "resnet18_se"}}})
    keys |= {"model": {"encoder": {"camera": {"name": "resnet18"}}}}
    refuses(f"search[0]: {message}", **keys, search=[{"model.encoder.camera.name": "resnet18_se"}])


def test_weights_are_found_from_anywhere(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(MLP((5,), width=8, dropout=0.0).state_dict(), "lidar.pt")
    data = {"name": "arrays", "path": str(pictures)}
    encoder = {"lidar": {"weights": "lidar.pt", "width": 8}}
    resolved = plan(dataset=data, model={"encoder": encoder}, search={}).document["model"]["encoder"]
    assert resolved["lidar"]["weights"] == str(tmp_path / "lidar.pt")
    assert resolved["camera"]["weights"] is None


def test_searched_encoders_that_do_not_fit(pictures: Path) -> None:
    keys = {"dataset": {"name": "arrays", "path": str(pictures)}}
    choice = {"choice": ["mlp", "cnn"]}
    at = "search.model.encoder.lidar.name"
    refuses(f"{at}: model.encoder: encoder 'cnn' reads ...", **keys, search={"model.encoder.lidar.name": choice})
    refuses(
        "search.model.encoder.radar.width: model.encoder.radar: ...",
        **keys,
        search={"model.encoder.radar.width": {"choice": [8, 16]}},
    )


# ---- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"model.prior_st": {"uniform": [1, 2]}}, "search.model.prior_st: no such key; did you mean prior_std?"),
        ({"model.encoder.widht": {"int": [8, 9]}}, "search.model.encoder.widht: no such key; did you mean width?"),
        ({"prior_std": {"uniform": [1, 2]}}, "search.prior_std: no key that can be searched; allowed are keys of ..."),
        ({"model": {"choice": ["a"]}}, "search.model: no key that can be searched; allowed are keys of model, ..."),
        ({"budget.trials": {"int": [1, 3]}}, "search.budget.trials: no key that can be searched; ..."),
        ({"train.epochs.x": {"int": [1, 3]}}, "search.train.epochs.x: epochs is no mapping, so it has no key x"),
        ({"model.encoder": {"choice": ["mlp"]}}, "search.model.encoder: a mapping is needed, got 'mlp'"),
        ({"model.prior_std": {"log_uniform": [0, 1]}}, "search.model.prior_std.log_uniform: a log range starts ..."),
        ({"model.prior_std": {"uniform": [0, 1]}}, "search.model.prior_std: got 0.0; allowed: greater than 0"),
        ({"sampling.keep_prob": {"uniform": [0.5, 2]}}, "search.sampling.keep_prob: got 2.0; allowed: less than ..."),
        ({"train.epochs": {"uniform": [1, 5]}}, "search.train.epochs: got 1.0; allowed: a whole number"),
        ({"train.optimizer": {"choice": ["adam", "sdg"]}}, "search.train.optimizer: got 'sdg'; allowed: 'adamw', ..."),
        ({"model.method": {"choice": ["dmrnet", "x"]}}, "search.model.method: got 'x'; allowed are dmrnet, ..."),
        (
            {"model.method": METHOD, "model.prior_std": {"uniform": [0.1, 1]}},
            "search.model.prior_std: no such key; ...; add `when: {model.method: ...}`",
        ),
        (
            {"model.method": METHOD, "model.prior_std": {"uniform": [0.1, 1], "when": {"model.method": "dropout"}}},
            "search.model.prior_std: no such key; allowed are method, encoder, fusion, head_norm",
        ),
        (
            {"sampling.strategy": {"choice": ["uniform", "by_size"]}, "sampling.keep_prob": KEEP},
            "search.sampling.keep_prob.when.sampling.strategy: can never be 'bernoulli'; it is choice [uniform, ...]",
        ),
        ({"sampling.keep_prob": KEEP}, "search.sampling.keep_prob.when.sampling.strategy: not a searched key; ..."),
    ],
)
def test_spaces_that_do_not_fit_the_file(search: dict[str, Any], message: str) -> None:
    refuses(message, search=search)


def test_every_mistake_of_a_space_has_a_line() -> None:
    search = {"model.prior_st": {"uniform": [1, 2]}, "train.epochs": {"int": [1, 9]}, "seed": {"int": [0, 9]}}
    with pytest.raises(StudyError, match="did you mean prior_std") as caught:
        plan(search=search)
    assert [line.split(": ")[1] for line in caught.value.lines] == ["search.model.prior_st", "search.seed"]


@pytest.mark.parametrize(
    ("first", "message"),
    [
        (["default"], "first[0]: got 'default'; allowed: defaults, or a mapping of searched keys to values"),
        (["defaults", 3], "first[1]: got 3; allowed: defaults, or a mapping of searched keys to values"),
        ([{"model.draws": 2}], "first[0]: model.draws is not searched; searched are model.prior_std, ..."),
        ([{1: 2}], "first[0]: 1 is not searched; searched are model.prior_std, ..."),
        ([{"model.prior_std": 50}], "first[0]: model.prior_std: got 50, outside its log_uniform [0.1, 3]"),
        ([{"model.prior_std": "1"}], "first[0]: model.prior_std: got '1', outside its log_uniform [0.1, 3]"),
        ([{"model.prior_std": None}], "first[0]: model.prior_std: got None, outside its log_uniform [0.1, 3]"),
        ([{"model.prior_std": [1]}], "first[0]: model.prior_std: got [1], outside its log_uniform [0.1, 3]"),
        ([{"sampling.strategy": "x"}], "first[0]: sampling.strategy: got 'x', outside its choice [...]"),
        ([{"sampling.strategy": ["x"]}], "first[0]: sampling.strategy: got ['x'], outside its choice [...]"),
        ([{"sampling.keep_prob": 0.5}], "first[0]: sampling.keep_prob is not searched there: its `when` does not hold"),
    ],
)
def test_first_points_that_do_not_fit(first: list[Any], message: str) -> None:
    refuses(message, first=first)


def test_a_first_point_with_an_unknown_method() -> None:
    refuses(
        "first[0]: model.method: got 'x', outside its choice [dmrnet, dropout]",
        search={"model.method": METHOD},
        first=[{"model.method": "x"}],
    )


def test_a_file_whose_defaults_lie_outside_of_its_space() -> None:
    refuses(
        "first[0]: model.prior_std: the file's default is 10.0, outside its log_uniform [0.1, 3]; change one of ...",
        model={"prior_std": 10},
    )
    assert plan(model={"prior_std": 10}, first=[]).first == ()


def test_first_points() -> None:
    bernoulli = {"sampling.strategy": "bernoulli", "sampling.keep_prob": 0.75}
    got = plan(first=[{"model.prior_std": 2}, bernoulli, "defaults", {"model.hard_weight": 0.3}])
    prior, kept, own = got.first  # the fourth has the file's default
    assert own == {
        "model.prior_std": 1.0,
        "model.noise_scale": 1.0,
        "model.kl_weight": 1e-3,
        "model.hard_weight": 0.3,
        "train.learning_rate": 2e-3,
        "train.weight_decay": 1e-2,
        "model.head_norm": "none",
        "sampling.strategy": "uniform",
    }
    assert prior == own | {"model.prior_std": 2.0}
    assert isinstance(prior["model.prior_std"], float)
    assert kept == own | bernoulli


def test_a_first_point_is_written_as_its_space_writes_it() -> None:
    search = {"train.learning_rate": {"choice": [0.001, 1]}, "sampling.full_prob": {"uniform": [0, 0.3], "step": 0.1}}
    got = plan(search=search, train={"learning_rate": 1}, sampling={"full_prob": 0.3})
    assert repr(got.first) == "({'train.learning_rate': 1, 'sampling.full_prob': 0.3},)"


def test_more_first_points_than_trials() -> None:
    points = [{"model.prior_std": 0.5}, {"model.prior_std": 0.6}]
    refuses("first: got 2 points; allowed: at most 1, the budget's trials", first=points, budget={"trials": 1})
    assert len(plan(first=["defaults", "defaults"], budget={"trials": 1}).first) == 1


@pytest.mark.parametrize(
    ("search", "message"),
    [
        (None, "sampler: grid needs a finite space; search.model.prior_std is log_uniform [0.1, 3]"),
        (
            {"model.prior_std": {"uniform": [0.1, 1]}},
            "sampler: grid needs a finite space; search.model.prior_std is ...",
        ),
        (
            {"train.epochs": {"int": [1, 200]}, "train.batch_size": {"int": [2, 201]}},
            f"sampler: grid needs a space of at most {MAX_ENUMERATED} points; this one has more",
        ),
        (
            {"sampling.strategy": {"choice": ["uniform", "bernoulli"]}, "sampling.keep_prob": KEEP | {"step": 0.1}},
            "sampler: grid has no conditions; search.sampling.keep_prob has `when`",
        ),
    ],
)
def test_grids_that_do_not_end(search: Any, message: str) -> None:
    refuses(message, sampler="grid", search=search)


@pytest.mark.parametrize("sampler", ["grid", "tpe"])
def test_a_finite_grid(sampler: str) -> None:
    search = {"train.epochs": {"int": [10, 40]}, "sampling.strategy": {"choice": ["uniform", "by_size"]}}
    points = plan(sampler=sampler, search=search).space.points()
    assert points is not None
    assert len(points) == 62


@pytest.mark.parametrize(
    ("keys", "grace"),
    [
        ({}, 8),
        ({"model": {"warmup_epochs": 20}}, 22),
        ({"model": {"method": "dropout"}}, 8),
        ({"model": {"method": "dropout"}, "scheduler": {"grace_epochs": 1}}, 1),
        ({"model": {"warmup_epochs": 0}, "scheduler": {"grace_epochs": 1}}, 1),
        ({"scheduler": {"grace_epochs": 12}}, 12),
        ({"scheduler": {"name": "none", "grace_epochs": 1}}, 1),
        ({"search": {"model.warmup_epochs": {"int": [0, 10]}}}, 12),
        ({"search": {"model.warmup_epochs": {"int": [0, 2]}}, "scheduler": {"grace_epochs": 4}, "first": []}, 4),
        ({"search": {"model.method": METHOD}}, 8),
        ({"model": {"method": "dropout"}, "search": {"model.method": METHOD}, "scheduler": {"grace_epochs": 9}}, 9),
    ],
)
def test_grace_epochs(keys: dict[str, Any], grace: int) -> None:
    assert plan(**keys).grace_epochs == grace


@pytest.mark.parametrize(
    ("keys", "given", "warmup"),
    [
        ({}, 7, 6),
        ({"model": {"warmup_epochs": 1}}, 2, 1),
        ({"search": {"model.warmup_epochs": {"int": [0, 10]}}}, 11, 10),
        ({"search": {"model.warmup_epochs": {"choice": [9, 3]}}, "first": []}, 10, 9),
        ({"model": {"method": "dropout"}, "search": {"model.method": METHOD}}, 7, 6),
        (
            {
                "model": {"method": "dropout"},
                "search": {
                    "model.method": METHOD,
                    "model.warmup_epochs": {"int": [0, 8], "when": {"model.method": "dmrnet"}},
                },
            },
            9,
            8,
        ),
    ],
)
def test_a_grace_shorter_than_the_warm_up(keys: dict[str, Any], given: int, warmup: int) -> None:
    message = f"scheduler.grace_epochs: got {given}; the warm-up of {warmup} epochs needs at least {warmup + 2}"
    refuses(message, **keys, scheduler={"grace_epochs": given})


@pytest.mark.parametrize(
    ("deployment", "message"),
    [
        ({"top_lft": 0.5}, f"deployment: top_lft: the modalities are {QUADRANTS}"),
        (dict.fromkeys(QUADRANTS.split(", "), 0), "deployment: these odds leave no combination possible"),
    ],
)
def test_deployments_that_do_not_fit(deployment: dict[str, float], message: str) -> None:
    refuses(message, deployment=deployment)


def test_data_that_cannot_be_opened(tmp_path: Path, pictures: Path) -> None:
    with pytest.raises(StudyError, match=r"nowhere/dataset\.yaml: no such file") as caught:
        plan(dataset={"name": "arrays", "path": str(tmp_path / "nowhere")})
    assert len(caught.value.lines) == 1
    np.save(pictures / "train" / "lidar.npy", np.full((20, 5), np.nan, np.float32))
    with pytest.raises(StudyError, match=r"lidar, split train, row 0: NaN or infinity, and in 19 more$"):
        plan(dataset={"name": "arrays", "path": str(pictures)})


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ({"name": "digits"}, {"train": 1078, "val": 360, "test": 359}),
        ({"name": "planted", "modalities": 4, "train": 80, "seed": 3}, {"train": 80, "val": 2000, "test": 4000}),
        ({"name": "scenes", "size": 24, "train": 8, "val": 4, "test": 4}, {"train": 8, "val": 4, "test": 4}),
    ],
)
def test_the_options_of_the_data_are_remembered(options: dict[str, Any], sizes: dict[str, int]) -> None:
    got = plan(dataset=options)
    assert {name: len(split) for name, split in got.dataset.splits.items()} == sizes
    source = DATASETS[options["name"]]
    assert got.document["dataset"] == {"name": options["name"], **asdict(source.Settings())} | options
    assert make_plan(got.document, "again").document == got.document
    assert got.document["experiment"] == options["name"]


def test_a_study_of_an_earlier_version_has_a_path_with_every_data_set() -> None:
    found = plan(dataset={"name": "digits", "path": None}).document["dataset"]
    assert found == plan(dataset={"name": "digits"}).document["dataset"]
    assert "path" not in found


def test_the_place_of_the_data_is_remembered(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(pictures.parent)
    got = plan(dataset={"name": "arrays", "path": "pictures"})
    assert got.document["dataset"]["path"] == str(pictures.resolve())
    assert got.document["experiment"] == "pictures"


def test_homes_in_paths(
    pictures: Path, write_study: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    torch.save(MLP((5,), width=8, dropout=0.0).state_dict(), tmp_path / "mlp.pt")
    encoder = {"camera": {"name": "cnn"}, "lidar": {"name": "mlp", "width": 8, "weights": "~/mlp.pt"}}
    rate = {"model.encoder.lidar.weights": {"choice": ["~/mlp.pt", None]}}
    file = write_study(dataset={"name": "arrays", "path": "x"}, model={"encoder": encoder}, search=rate, first=[])
    got = load_plan(file, ["dataset.path=~/pictures"], None, None)
    assert got.document["dataset"]["path"] == str(pictures.resolve())
    assert got.document["model"]["encoder"]["lidar"]["weights"] == str((tmp_path / "mlp.pt").resolve())
    settings = got.run_settings({"model.encoder.lidar.weights": "~/mlp.pt"}, 0)
    build_encoder(got.dataset.modalities[1], settings.encoders["lidar"], torch.zeros(()), torch.ones(()))


@pytest.mark.parametrize(
    ("name", "experiment"),
    [
        ("my set", "my_set"),
        ("größe", "gr__e"),
        (".hidden", "hidden"),
        ("_-x", "x"),
        ("日本", "dmr"),
        ("a" * 101, "a" * 100),
    ],
)
def test_the_experiment_of_any_data_set_may_be_written_in_a_file(pictures: Path, name: str, experiment: str) -> None:
    description = yaml.safe_load((pictures / "dataset.yaml").read_text())
    (pictures / "dataset.yaml").write_text(yaml.safe_dump(description | {"name": name}))
    got = plan(dataset={"name": "arrays", "path": str(pictures)})
    assert got.document["experiment"] == experiment
    assert make_plan(got.document, "again").document == got.document


# ---- what MLflow would cut or refuse ---------------------------------------------------------------------------------


def test_values_of_the_longest_names_can_be_kept() -> None:
    for metric in MAIN_METRICS.values():
        assert len(best_metric("test", metric, "x" * MAX_FULL_NAME)) <= MAX_ENTITY_KEY_LENGTH
    for settings in ENCODERS.values():
        longest = max(len(field.name) for field in fields(settings))
        name = f"log10_model.encoder.{'x' * MAX_MODALITY_NAME}.{'x' * longest}"
        assert len(name) <= MAX_ENTITY_KEY_LENGTH
    assert MAX_NAME <= MAX_DATASET_NAME_SIZE
    assert MAX_TAG <= MAX_TAG_VAL_LENGTH


def test_modalities_whose_values_could_not_be_kept(pictures: Path) -> None:
    names = [f"modality_of_a_long_name_{n:02d}" for n in range(9)]
    modalities = [{"name": name, "kind": "vector", "shape": [5]} for name in names]
    (pictures / "dataset.yaml").write_text(yaml.safe_dump({"num_classes": 2, "modalities": modalities}))
    for name in names:
        (pictures / "train" / f"{name}.npy").symlink_to(pictures / "train" / "lidar.npy")
    with pytest.raises(StudyError) as caught:
        plan(dataset={"name": "arrays", "path": str(pictures)})
    assert caught.value.lines == (
        "pictures: the names of 9 modalities have 234 letters together; allowed are 212, since MLflow keeps no value "
        "under a longer name: shorten them",
    )


def test_more_searched_keys_than_can_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    search = {"model.prior_std": {"uniform": [0.1, 2.0]}, "train.learning_rate": {"log_uniform": [1e-4, 1.0]}}
    letters = len(json.dumps(plan(search=search).space.keys))
    monkeypatch.setattr("dmr.studies.study_file.cross_checks.MAX_TAG", letters - 1)
    refuses(f"search: the list of its 2 keys has {letters} letters; allowed are {letters - 1}", search=search)


# ---- the command line's own ways into a file -------------------------------------------------------------------------


def test_a_study_is_named_after_its_file(write_study: Callable[..., Path]) -> None:
    assert load_plan(write_study("mine.yaml"), [], None, None).study.name == "mine"
    assert load_plan(write_study("mine.yaml", name="other"), [], None, None).study.name == "other"
    assert load_plan(write_study("mine.yaml", name="other"), [], None, "third").study.name == "third"
    with pytest.raises(StudyError, match=r"my study\.yaml: name: got 'my study'; allowed are letters, digits"):
        load_plan(write_study("my study.yaml"), [], None, None)
    with pytest.raises(StudyError, match=r"mine\.yaml: name: got '\.\./x'; allowed are letters, digits"):
        load_plan(write_study("mine.yaml"), [], None, "../x")


def test_overrides(write_study: Callable[..., Path]) -> None:
    overrides = [
        "train.epochs=10",
        "train.learning_rate=1e-4",
        "model={prior_std: 2.0}",
        "search.model.prior_std={uniform: [1, 3]}",
        "deployment.top_left=0.5",
    ]
    got = load_plan(write_study(train={"epochs": 3, "batch_size": 32}), overrides, 5, None)
    assert (got.study.train.epochs, got.study.train.batch_size, got.study.train.learning_rate) == (10, 32, 1e-4)
    assert got.first == ({"model.prior_std": 2.0},)
    assert got.space.keys == ("model.prior_std",)
    assert got.study.deployment == {"top_left": 0.5}
    assert got.study.budget.trials == 5


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epochs", r"^--set train\.epochs: key=value is needed, for example --set train\.epochs=10$"),
        ("=3", r"^--set =3: key=value is needed"),
        ("train.epohcs=3", r"s\.yaml: train\.epohcs: no such key; did you mean epochs\?$"),
        ("train.epochs=x", r"s\.yaml: train\.epochs: got 'x'; allowed: a whole number$"),
        ("train.epochs=", r"s\.yaml: train\.epochs: got None; allowed: a whole number$"),
        ("train.epochs=[", r"^--set train\.epochs, line 1: not YAML: "),
        ("train=3", r"s\.yaml: train: got 3; allowed: a mapping$"),
        ("seed.x=3", r"^--set seed\.x=3: seed is no mapping, so it has no key x$"),
        ("objective[0].metric=a", r"s\.yaml: objective\[0\]: no such key; did you mean objective\?$"),
        (".=3", r"s\.yaml: : no such key; "),
    ],
)
def test_overrides_that_are_refused(write_study: Callable[..., Path], override: str, message: str) -> None:
    with pytest.raises(StudyError, match=message) as caught:
        load_plan(write_study(seed=1), [override], None, None)
    assert len(caught.value.lines) == 1


@pytest.mark.parametrize("trials", [0, -1])
def test_a_budget_of_nothing(write_study: Callable[..., Path], trials: int) -> None:
    with pytest.raises(StudyError, match=rf"budget\.trials: got {trials}; allowed: greater than or equal to 1$"):
        load_plan(write_study(), [], trials, None)


def test_set_key_makes_what_is_missing() -> None:
    target: dict[str, Any] = {"a": None, "search": {"x.y": 1}}
    set_key(target, "a.b.c", 1)
    set_key(target, "search.x.z", 2)
    assert target == {"a": {"b": {"c": 1}}, "search": {"x.y": 1, "x.z": 2}}


def test_the_full_combination_is_wanted_and_no_sample_of_val_has_it() -> None:
    incomplete = {"missing": {"val": {"top_left": 1.0}}}
    allowed = "no sample of val has all modalities; allowed are mean and expected"
    both = [{"metric": "val/nll_mean"}, {"metric": "val/accuracy_full"}]
    refuses(f"objective[1].metric: got val/accuracy_full; {allowed}", objective=both, **incomplete)
    refuses(f"scheduler.metric: got val/nll_full; {allowed}", scheduler={"metric": "val/nll_full"}, **incomplete)
    plan(objective=both)
    refuses(
        f"objective[0].metric: got val/accuracy_worst; {allowed}",
        objective=[{"metric": "val/accuracy_worst"}],
        **incomplete,
    )
    plan(objective=[{"metric": "val/accuracy_mean"}], **incomplete)


def test_data_of_its_own_for_each_seed_need_something_that_is_drawn(pictures: Path) -> None:
    for split in ("val", "test"):
        shutil.copytree(pictures / "train", pictures / split)
    confirm = {"redraw": True}
    own = {"name": "arrays", "path": str(pictures)}
    with pytest.raises(StudyError, match=r"confirm.redraw: got true; of these data nothing is drawn by a seed"):
        plan(dataset=own, confirm=confirm)
    assert plan(dataset=own, confirm=confirm, missing={"train": 0.1}).redraws
    assert plan(confirm=confirm).redraws
    assert not plan().redraws
