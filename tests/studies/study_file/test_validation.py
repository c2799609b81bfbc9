from __future__ import annotations

import re
from dataclasses import fields
from types import SimpleNamespace
from typing import Any, get_args

import pytest

from dmr.encoders import ENCODERS
from dmr.methods import METHODS
from dmr.metrics import METRICS
from dmr.settings import SamplingSettings, TrainSettings
from dmr.studies.study_file.mistakes import InvalidStudy
from dmr.studies.study_file.schema import SAMPLERS, StudyFile, encoder_entries
from dmr.studies.study_file.validation import metric_direction, metric_names, validate_study

ACCURACY, NLL = "val/accuracy_mean", "val/nll_worst"


def data_of(task: str, num_classes: int = 2) -> Any:
    """What a study file's metrics depend on."""
    return SimpleNamespace(task=task, num_classes=num_classes)


def study(**keys: Any) -> StudyFile:
    return validate_study({"name": "s", "dataset": {"name": "digits"}} | keys, data_of("classification", 10))


def mistakes(**keys: Any) -> tuple[str, ...]:
    with pytest.raises(InvalidStudy) as caught:
        study(**keys)
    assert all("\n" not in line for line in caught.value.lines)
    return caught.value.lines


def refuses(message: str, **keys: Any) -> None:
    """The study is refused with one line, which is `message`; `...` in it stands for anything."""
    (line,) = mistakes(**keys)
    pattern = ".*".join(map(re.escape, message.split("...")))
    assert re.fullmatch(pattern, line), line


def test_every_key_but_the_data_set_has_a_default() -> None:
    got = study()
    assert got.train.model_dump() == vars(TrainSettings())
    assert got.sampling.model_dump() == vars(SamplingSettings())
    own = {field.name: field.default for field in fields(METHODS["dmrnet"].Settings)}
    assert got.model.model_dump() == {"method": "dmrnet", "encoder": {}, "fusion": "concat"} | own
    assert (got.seed, got.sampler, got.first, got.search) == (0, "tpe", ["defaults"], None)
    assert (got.scheduler.name, got.scheduler.grace_epochs, got.budget.trials) == ("asha", None, 24)
    assert [(o.metric, o.mode) for o in got.objective] == [(ACCURACY, "max")]


def test_samplers_are_declared_once() -> None:
    assert get_args(StudyFile.model_fields["sampler"].annotation) == SAMPLERS


@pytest.mark.parametrize("metric", METRICS.values(), ids=list(METRICS))
def test_a_mode_comes_from_the_metric(metric: Any) -> None:
    name = f"val/{metric.name}_worst"
    assert metric_direction(name) == metric.direction
    for mode in ({}, {"mode": metric.direction}):
        document = {"name": "s", "dataset": {"name": "digits"}, "objective": [{"metric": name} | mode]}
        assert validate_study(document, data_of(metric.task)).objective[0].mode == metric.direction


def test_expected_metrics_need_odds() -> None:
    data = data_of("classification")
    more = set(metric_names(data, True)) - set(metric_names(data, False))
    assert more == {f"val/{metric.name}_expected" for metric in METRICS.values() if metric.task == "classification"}


def test_anti_spoofing_metrics_need_two_classes() -> None:
    more = set(metric_names(data_of("classification"), False)) - set(metric_names(data_of("classification", 3), False))
    assert {name.partition("_")[0] for name in more} == {"val/acer", "val/apcer", "val/bpcer"}
    objective = [{"metric": "val/accuracy_expected"}]
    assert study(objective=objective, deployment={"top_left": 0.5}).objective[0].mode == "max"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"trian": {}}, "trian: no such key; did you mean train?"),
        ({"objective[0]": 1}, "objective[0]: no such key; did you mean objective?"),
        ({"a'b(": 1}, "a'b(: no such key; allowed are ..."),
        ({"x": 1}, "x: no such key; allowed are name, experiment, seed, dataset, model, ..."),
        ({"train": {"epohcs": 3}}, "train.epohcs: no such key; did you mean epochs?"),
        ({"train": {"zzz": 3}}, "train.zzz: no such key; allowed are epochs, evaluate_every, ..."),
        ({"sampling": {"stragety": "uniform"}}, "sampling.stragety: no such key; did you mean strategy?"),
        ({"budget": {"trails": 3}}, "budget.trails: no such key; did you mean trials?"),
        ({"objective": [{"metrc": ACCURACY}]}, "objective[0].metrc: no such key; did you mean metric?"),
        ({"dataset": {"name": "arrays", "path": "x", "pth": "x"}}, "dataset.pth: no such key; did you mean path?"),
        ({"dataset": {"name": "digits", "size": 8}}, "dataset.size: no such key; allowed are name, seed, train, ..."),
        ({"dataset": {"name": "planted", "modalitys": 4}}, "dataset.modalitys: no such key; did you mean modalities?"),
        (
            {"dataset": {"name": "scenes", "modalities": 2}},
            "dataset.modalities: no such key; allowed are name, size, ...",
        ),
        ({"model": {"prior_st": 1.0}}, "model.prior_st: no such key; did you mean prior_std?"),
        (
            {"model": {"method": "dropout", "prior_std": 1.0}},
            "model.prior_std: no such key; allowed are method, encoder, fusion, head_norm",
        ),
        ({"model": {"encoder": {"widht": 8}}}, "model.encoder.widht: no such key; did you mean width?"),
        (
            {"model": {"encoder": {"name": "resnet34", "stem": "3x3"}}},
            "model.encoder.stem: no such key; allowed are name, weights",
        ),
        (
            {"model": {"encoder": {"top_left": {"widht": 8}}}},
            "model.encoder.top_left.widht: no such key; did you mean width?",
        ),
    ],
)
def test_unknown_keys_are_told_the_nearest(keys: dict[str, Any], message: str) -> None:
    refuses(message, **keys)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"seed": "0"}, "seed: got '0'; allowed: a whole number"),
        ({"seed": 1.0}, "seed: got 1.0; allowed: a whole number"),
        ({"seed": True}, "seed: got True; allowed: a whole number"),
        ({"seed": None}, "seed: got None; allowed: a whole number"),
        ({"name": 3}, 'name: got 3; allowed: text; quote it, as in "3"'),
        ({"name": False}, 'name: got False; allowed: text; quote it, as in "no"'),
        ({"name": ["s"]}, "name: got ['s']; allowed: text"),
        ({"experiment": True}, 'experiment: got True; allowed: text; quote it, as in "yes"'),
        ({"train": {"learning_rate": "1e-3"}}, "train.learning_rate: got '1e-3'; allowed: a number"),
        ({"train": {"learning_rate": True}}, "train.learning_rate: got True; allowed: a number"),
        ({"train": {"learning_rate": [0.1]}}, "train.learning_rate: got [0.1]; allowed: a number"),
        ({"train": {"learning_rate": float("nan")}}, "train.learning_rate: got nan; allowed: a finite number"),
        ({"train": {"weight_decay": float("inf")}}, "train.weight_decay: got inf; allowed: a finite number"),
        ({"train": 3}, "train: got 3; allowed: a mapping"),
        ({"train": None}, "train: got None; allowed: a mapping"),
        ({"dataset": "digits"}, "dataset: got 'digits'; allowed: a mapping"),
        ({"dataset": None}, "dataset: got None; allowed: a mapping"),
        ({"dataset": {"name": "arrays", "path": 3}}, 'dataset.path: got 3; allowed: text; quote it, as in "3"'),
        ({"model": ["dmrnet"]}, "model: a mapping is needed, got ['dmrnet']"),
        ({"model": {"encoder": "mlp"}}, "model.encoder: a mapping is needed, got 'mlp'"),
        ({"model": {"encoder": None}}, "model.encoder: a mapping is needed, got None"),
        ({"search": 1}, "search: got 1; allowed: a mapping"),
        ({"search": [1]}, "search[0]: got 1; allowed: a mapping"),
        ({"search": []}, "search: got []; allowed: a mapping, or a list with at least 1 mapping"),
        ({"search": {1: {"int": [0, 1]}}}, 'search[1]: got 1; allowed: text; quote it, as in "1"'),
        ({"first": "defaults"}, "first: got 'defaults'; allowed: a list"),
        ({"objective": ACCURACY}, f"objective: got '{ACCURACY}'; allowed: a list"),
        ({"objective": [ACCURACY]}, f"objective[0]: got '{ACCURACY}'; allowed: a mapping"),
        ({"objective": []}, "objective: got []; allowed: a list with at least 1 entry"),
        ({"deployment": {1: 0.5}}, 'deployment[1]: got 1; allowed: text; quote it, as in "1"'),
        ({"deployment": ["top_left"]}, "deployment: got ['top_left']; allowed: a mapping"),
        ({"scheduler": "asha"}, "scheduler: got 'asha'; allowed: a mapping"),
        ({"train": {"epochs": "x" * 500}}, "train.epochs: got 'xxx...; allowed: a whole number"),
    ],
)
def test_wrong_types(keys: dict[str, Any], message: str) -> None:
    refuses(message, **keys)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"seed": -1}, "seed: got -1; allowed: greater than or equal to 0"),
        ({"seed": 2**63}, "seed: got 9223372036854775808; allowed: less than 9223372036854775808"),
        ({"train": {"epochs": 0}}, "train.epochs: got 0; allowed: greater than or equal to 1"),
        ({"train": {"batch_size": 1}}, "train.batch_size: got 1; allowed: greater than or equal to 2"),
        ({"train": {"learning_rate": 0}}, "train.learning_rate: got 0; allowed: greater than 0"),
        ({"train": {"optimizer": "adamx"}}, "train.optimizer: got 'adamx'; allowed: 'adamw', 'adam' or 'sgd'"),
        ({"sampling": {"keep_prob": 1.5}}, "sampling.keep_prob: got 1.5; allowed: less than or equal to 1"),
        ({"sampling": {"strategy": "unifrom"}}, "sampling.strategy: got 'unifrom'; allowed: 'uniform', ..."),
        ({"model": {"prior_std": 0}}, "model.prior_std: got 0; allowed: greater than 0"),
        ({"model": {"fusion": "sum"}}, "model.fusion: got 'sum'; allowed: 'concat', ... or 'transformer'"),
        ({"model": {"method": "dmrnt"}}, "model.method: got 'dmrnt'; did you mean dmrnet?"),
        ({"model": {"method": 3}}, f"model.method: got 3; allowed are {', '.join(METHODS)}"),
        ({"model": {"method": ["dmrnet"]}}, "model.method: got ['dmrnet']; did you mean dmrnet?"),
        ({"model": {"encoder": {"name": "mpl"}}}, "model.encoder.name: got 'mpl'; did you mean mlp?"),
        ({"model": {"encoder": {"name": 3}}}, f"model.encoder.name: got 3; allowed are {', '.join(ENCODERS)}"),
        ({"model": {"encoder": {"name": "resnet43"}}}, "model.encoder.name: got 'resnet43'; did you mean resnet34?"),
        (
            {"model": {"encoder": {"name": "resnet18_se", "stem": "5x5"}}},
            "model.encoder.stem: got '5x5'; allowed: '7x7' or '3x3'",
        ),
        (
            {"model": {"encoder": {"name": "resnet18_se", "stem": 3}}},
            "model.encoder.stem: got 3; allowed: '7x7' or '3x3'",
        ),
        ({"model": {"encoder": {"width": 0}}}, "model.encoder.width: got 0; allowed: greater than or equal to 1"),
        (
            {"model": {"encoder": {"top_left": {"name": "mlp"}, "top_right": {"dropout": 1.0}}}},
            "model.encoder.top_right.dropout: got 1.0; allowed: less than 1",
        ),
        ({"dataset": {}}, "dataset.name: this key is needed"),
        ({"dataset": {"name": "digit"}}, "dataset.name: got 'digit'; did you mean digits?"),
        ({"dataset": {"name": "mnist"}}, "dataset.name: got 'mnist'; allowed are digits, planted, scenes, arrays"),
        ({"dataset": {"name": ["digits"]}}, "dataset.name: got ['digits']; did you mean digits?"),
        ({"dataset": {"name": "arrays"}}, "dataset.path: arrays needs the path of a data folder"),
        ({"dataset": {"name": "arrays", "path": ""}}, "dataset.path: arrays needs the path of a data folder"),
        ({"dataset": {"name": "arrays", "path": None}}, "dataset.path: arrays needs the path of a data folder"),
        ({"dataset": {"name": "digits", "path": "x"}}, "dataset.path: digits takes no path"),
        ({"dataset": {"name": "planted", "path": "x"}}, "dataset.path: planted takes no path"),
        (
            {"dataset": {"name": "planted", "modalities": 9}},
            "dataset.modalities: got 9; allowed: less than or equal to 8",
        ),
        (
            {"dataset": {"name": "planted", "train": 100_001}},
            "dataset.train: got 100001; allowed: less than or equal to 100000",
        ),
        ({"dataset": {"name": "planted", "classes": 6.0}}, "dataset.classes: got 6.0; allowed: a whole number"),
        ({"dataset": {"name": "scenes", "size": 23}}, "dataset.size: got 23; allowed: greater than or equal to 24"),
        ({"sampler": "bayes"}, "sampler: got 'bayes'; allowed: 'tpe', 'gp', 'cmaes', 'nsga2', 'random' or 'grid'"),
        ({"scheduler": {"name": "pbt"}}, "scheduler.name: got 'pbt'; allowed: 'none', 'asha' or 'median'"),
        ({"scheduler": {"grace_epochs": 0}}, "scheduler.grace_epochs: got 0; allowed: greater than or equal to 1"),
        (
            {"scheduler": {"reduction_factor": 1}},
            "scheduler.reduction_factor: got 1; allowed: greater than or equal to 2",
        ),
        ({"budget": {"trials": 0}}, "budget.trials: got 0; allowed: greater than or equal to 1"),
        ({"budget": {"trials": -5}}, "budget.trials: got -5; allowed: greater than or equal to 1"),
        ({"budget": {"trials": 10**7}}, "budget.trials: got 10000000; allowed: less than or equal to 1000000"),
        ({"budget": {"minutes": 0}}, "budget.minutes: got 0; allowed: greater than 0"),
        ({"budget": {"minutes": -1.5}}, "budget.minutes: got -1.5; allowed: greater than 0"),
        ({"resources": {"cpus": 0}}, "resources.cpus: got 0; allowed: greater than 0"),
        ({"resources": {"gpus": -1}}, "resources.gpus: got -1; allowed: greater than or equal to 0"),
        ({"resources": {"concurrent": 0}}, "resources.concurrent: got 0; allowed: greater than or equal to 1"),
        ({"resources": {"workers": 0}}, "resources.workers: got 0; allowed: a whole number from 1, or [least, most]"),
        (
            {"resources": {"workers": [3, 2]}},
            "resources.workers: got [3, 2]; allowed: a whole number from 1, or [least, most]",
        ),
        ({"resources": {"gpus": 0.4}}, "resources.gpus: got 0.4; allowed below 1: 1/n, such as 0.5, 0.25 or 0.33"),
        ({"resources": {"gpus": 1.5}}, "resources.gpus: got 1.5; allowed above 1: whole numbers"),
        (
            {"resources": {"workers": 2, "gpus": 0.5}},
            "resources.gpus: got 0.5 with 2 workers; allowed with several workers: whole GPUs",
        ),
        ({"retries": -1}, "retries: got -1; allowed: greater than or equal to 0"),
        ({"checkpoints": {"keep": 0}}, "checkpoints.keep: got 0; allowed: greater than or equal to 1"),
        ({"deployment": {"top_left": 1.5}}, "deployment.top_left: got 1.5; allowed: less than or equal to 1"),
        ({"deployment": {"top_left": -0.1}}, "deployment.top_left: got -0.1; allowed: greater than or equal to 0"),
    ],
)
def test_out_of_range(keys: dict[str, Any], message: str) -> None:
    refuses(message, **keys)


LETTERS = "allowed are letters, digits and . _ - (up to 100, the first a letter or digit)"


@pytest.mark.parametrize("key", ["name", "experiment"])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "got ''; allowed: at least 1 character(s)"),
        ("x" * 300, "got 'xxx...; allowed: at most 100 characters"),
        *(
            (name, f"got {name!r}; {LETTERS}")
            for name in (
                "../x",
                "/tmp/x",
                "a/b",
                "a\\b",
                "..",
                ".",
                ".hidden",
                "-rf",
                "a\x00b",
                "a\nb",
                "a\n",
                "a b",
                "é",
            )
        ),
    ],
)
def test_hostile_names(key: str, name: str, message: str) -> None:
    refuses(f"{key}: {message}", **{key: name})


@pytest.mark.parametrize("name", ["digits", "1", "a.b_c-d", "x" * 100])
def test_names_that_are_fine(name: str) -> None:
    assert study(name=name, experiment=name).name == name


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"objective": [{"metric": "val/acuracy_mean"}]},
            f"objective[0].metric: no trial reports 'val/acuracy_mean'; did you mean {ACCURACY}?",
        ),
        (
            {"objective": [{"metric": ACCURACY}, {"metric": "test/nll_mean"}]},
            "objective[1].metric: no trial reports 'test/nll_mean'; did you mean val/nll_mean?",
        ),
        (
            {"objective": [{"metric": "loss"}]},
            "objective[0].metric: no trial reports 'loss'; allowed are val/accuracy_mean, val/accuracy_worst, ...",
        ),
        (
            {"objective": [{"metric": "val/accuracy_expected"}]},
            "objective[0].metric: no trial reports 'val/accuracy_expected' (needs `deployment`); did you mean ...",
        ),
        (
            {"scheduler": {"metric": "val/nll_expected"}},
            "scheduler.metric: no trial reports 'val/nll_expected' (needs `deployment`); did you mean ...",
        ),
        ({"scheduler": {"metric": "val/f1"}}, "scheduler.metric: no trial reports 'val/f1'; ..."),
        (
            {"objective": [{"metric": ACCURACY}, {"metric": ACCURACY}]},
            f"objective: a metric comes twice: {ACCURACY}, {ACCURACY}",
        ),
        (
            {"objective": [{"metric": ACCURACY, "mode": "min"}]},
            f"objective[0].mode: got 'min'; {ACCURACY} has mode 'max'",
        ),
        ({"objective": [{"metric": NLL, "mode": "max"}]}, f"objective[0].mode: got 'max'; {NLL} has mode 'min'"),
        ({"objective": [{"mode": "maximum"}]}, "objective[0].mode: got 'maximum'; allowed: 'max' or 'min'"),
        (
            {"sampler": "cmaes", "objective": [{"metric": ACCURACY}, {"metric": NLL}]},
            "sampler: cmaes has one objective, the file has 2; allowed are tpe, gp, nsga2, random, grid",
        ),
    ],
)
def test_metrics_and_samplers_that_do_not_fit(keys: dict[str, Any], message: str) -> None:
    refuses(message, **keys)


def test_an_objective_belongs_to_the_task() -> None:
    document = {"name": "s", "dataset": {"name": "digits"}}
    objective = validate_study(document, data_of("segmentation")).objective
    assert [(o.metric, o.mode) for o in objective] == [("val/miou_mean", "max")]
    with pytest.raises(InvalidStudy, match=rf"^objective\[0\]\.metric: no trial reports '{ACCURACY}'; did you mean "):
        validate_study(document | {"objective": [{"metric": ACCURACY}]}, data_of("segmentation"))


def test_a_file_without_a_data_set() -> None:
    with pytest.raises(InvalidStudy, match=r"^dataset: this key is needed$"):
        validate_study({"name": "s"})


@pytest.mark.parametrize(("key", "quoted"), [(3, "3"), (None, "null"), (True, "yes")])
def test_keys_that_are_no_text(key: Any, quoted: str) -> None:
    with pytest.raises(InvalidStudy, match=rf'allowed: keys that are text; quote it, as in "{quoted}"$') as caught:
        validate_study({"name": "s", "dataset": {"name": "digits"}, key: 1})
    assert len(caught.value.lines) == 1


def test_every_mistake_has_a_line() -> None:
    keys = {"train": {"epochs": 0, "optimizer": "x"}, "model": {"prior_std": -1.0}, "budget": {"trials": 0}}
    told = [line.partition(": ")[0] for line in mistakes(**keys)]
    assert sorted(told) == ["budget.trials", "model.prior_std", "train.epochs", "train.optimizer"]


def test_whole_numbers_serve_as_numbers() -> None:
    got = study(train={"learning_rate": 1}, model={"prior_std": 2})
    assert (got.train.learning_rate, got.model.prior_std) == (1.0, 2.0)
    assert isinstance(got.model.prior_std, float)


@pytest.mark.parametrize(
    ("document", "entries"),
    [
        ({}, [("model.encoder.", {})]),
        ({"width": 8}, [("model.encoder.", {"width": 8})]),
        ({"a": {"width": 8}, "b": {}}, [("model.encoder.a.", {"width": 8}), ("model.encoder.b.", {})]),
    ],
)
def test_encoder_entries(document: dict[str, Any], entries: list[tuple[str, dict[str, Any]]]) -> None:
    assert encoder_entries(document) == entries


LONG = [{"model.method": "dropout", "train.learning_rate": {"log_uniform": [0.001, 0.1]}}] * 40


@pytest.mark.parametrize(
    "keys",
    [
        {"model": {"method": LONG}},
        {"model": {"encoder": {"name": LONG}}},
        {"sampler": LONG},
        {"deployment": LONG},
        {"train": {"epochs": LONG}},
        {"resources": {"workers": LONG}},
        {"missing": {"train": LONG}},
    ],
    ids=lambda keys: next(iter(keys)),
)
def test_what_came_is_shortened_where_it_is_long(keys: dict[str, Any]) -> None:
    assert all(len(line) < 500 for line in mistakes(**keys))
