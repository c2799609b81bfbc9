"""A search in blocks: keys and ranges of its own, an equal share of trials, a sampler that sees no other block."""

from __future__ import annotations

import copy
import re
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import InMemoryStorage, RDBStorage

from dmr.methods.dmrnet import DMRNetSettings
from dmr.methods.dropout import DropoutSettings
from dmr.studies.errors import StudyError
from dmr.studies.search.samplers import Proposer
from dmr.studies.study_file.plan import StudyPlan, make_plan
from dmr.studies.study_file.search_blocks import shares
from dmr.studies.yaml_io import read_yaml, to_yaml

optuna.logging.set_verbosity(optuna.logging.WARNING)

RATE = {"log_uniform": [1e-4, 1e-2]}
BLOCKS: list[dict[str, Any]] = [
    {"model.method": "dmrnet", "train.learning_rate": RATE, "model.kl_weight": {"log_uniform": [1e-5, 1e-1]}},
    {"name": "released", "model.hard_mode": "released", "train.learning_rate": {"choice": [0.1, 0.002]}},
    {
        "model.method": "dropout",
        "train.learning_rate": {"uniform": [0.0001, 0.5]},
        "sampling.strategy": {"choice": ["uniform", "bernoulli"]},
        "sampling.keep_prob": {"uniform": [0.3, 0.9], "when": {"sampling.strategy": "bernoulli"}},
    },
]


def plan(search: Any = BLOCKS, **keys: Any) -> StudyPlan:
    document = {"name": "s", "dataset": {"name": "digits"}, "search": copy.deepcopy(search)}
    return make_plan(document | keys, "s.yaml")


def proposer(storage: optuna.storages.BaseStorage, got: StudyPlan, sampler: str = "tpe") -> Proposer:
    study = optuna.create_study(storage=storage, study_name="s", direction="maximize", load_if_exists=True)
    return Proposer(study, got.space, sampler, got.study.seed, got.blocks, got.study.budget.trials)


def points_of(proposer: Proposer, count: int, score: Any = lambda point: point["train.learning_rate"]) -> list[Any]:
    points = []
    while len(points) < count and (asked := proposer.ask()) is not None:
        proposer.study.tell(asked[0], score(asked[1]))
        points.append(asked[1])
    return points


def test_what_the_blocks_fix_and_search() -> None:
    got = plan()
    assert [part.label for part in got.blocks] == ["dmrnet", "released", "dropout"]
    searched = ["train.learning_rate", "model.kl_weight", "sampling.strategy", "sampling.keep_prob"]
    assert got.space.keys == ("block", *searched)
    released = {"block": "released", "train.learning_rate": 0.1}
    assert got.run_settings(released, 0).method == DMRNetSettings(hard_mode="released")
    assert got.run_settings(released, 0).train.learning_rate == 0.1
    assert got.label(released) == "released"
    assert got.run_settings({"block": "dropout"}, 0).method == DropoutSettings()
    parameters = got.parameters({"block": "dmrnet", "train.learning_rate": 1e-3, "model.kl_weight": 1e-2}, 0)
    assert (parameters["block"], parameters["model.method"]) == ("dmrnet", "dmrnet")
    assert parameters["log10_train.learning_rate"] == pytest.approx(-3)
    assert "log10_train.learning_rate" not in got.parameters(released, 0)


def test_what_another_block_searches_under_a_condition_is_no_parameter_where_that_does_not_hold() -> None:
    dropout = {"block": "dropout", "train.learning_rate": 1e-3, "sampling.strategy": "uniform"}
    assert "sampling.keep_prob" not in plan().parameters(dropout, 0)
    released = {"block": "released", "train.learning_rate": 0.1}  # `sampling.strategy` is the file's there
    parameters = plan().parameters(released, 0)
    assert parameters["sampling.strategy"] == "uniform"
    assert "sampling.keep_prob" not in parameters
    assert parameters["model.kl_weight"] == 1e-3  # of the block `dmrnet` alone, without conditions
    bernoulli = plan(sampling={"strategy": "bernoulli"}).parameters(released, 0)
    assert bernoulli["sampling.keep_prob"] == 0.5


def test_the_files_defaults_are_run_once_in_each_block() -> None:
    own = {"train.learning_rate": 0.002}
    assert plan().first == (
        {"block": "dmrnet", "model.kl_weight": 1e-3} | own,
        {"block": "released"} | own,
        {"block": "dropout", "sampling.strategy": "uniform"} | own,
    )
    more = plan(first=["defaults", {"train.learning_rate": 0.002}])
    assert len(more.first) == 3


def test_the_resolved_document_gives_the_same_plan(tmp_path: Path) -> None:
    one = plan()
    file = tmp_path / "study.yaml"
    file.write_text(to_yaml(one.document), encoding="utf-8")
    other = make_plan(read_yaml(file), "s.yaml")
    assert (other.document, other.blocks, other.space, other.first) == (one.document, one.blocks, one.space, one.first)


@pytest.mark.parametrize("sampler", ["tpe", "gp", "cmaes", "nsga2", "random"])
def test_blocks_take_turns_and_a_restart_changes_no_point(sampler: str, tmp_path: Path) -> None:
    got = plan([*BLOCKS[:1], *BLOCKS[2:]], budget={"trials": 9})
    uninterrupted = points_of(proposer(InMemoryStorage(), got, sampler), 10)
    assert [point["block"] for point in uninterrupted] == ["dmrnet", "dropout"] * 4 + ["dmrnet"]
    restarted = []
    for _ in range(9):
        storage = RDBStorage(f"sqlite:///{tmp_path / 'optuna.db'}")
        restarted += points_of(proposer(storage, got, sampler), 1)
        storage.engine.dispose()
    assert restarted == uninterrupted
    for point in uninterrupted:
        assert got.space.active(point) == point
        assert all(p.contains(point[p.key]) for p in got.space.parameters if p.active(point))


@pytest.mark.parametrize("sampler", ["tpe", "gp", "cmaes", "nsga2"])
def test_a_sampler_learns_from_its_own_block_alone(sampler: str) -> None:
    """What the other block's trials are worth changes nothing; what its own are worth does."""
    xy = {"train.learning_rate": {"uniform": [0.001, 1]}, "train.weight_decay": {"uniform": [0, 1]}}
    got = plan([{"name": "a", **xy}, {"name": "b", **xy}], first=[], budget={"trials": 60})

    def points(of_a: float, of_b: float) -> list[Any]:
        def score(point: dict[str, Any]) -> float:
            sign = of_a if point["block"] == "a" else of_b
            return -sign * ((point["train.learning_rate"] - 0.2) ** 2 + (point["train.weight_decay"] - 0.7) ** 2)

        found = points_of(proposer(InMemoryStorage(), got, sampler), 110 if sampler == "nsga2" else 26, score)
        return [point for point in found if point["block"] == "a"]

    one = points(1.0, 1.0)
    assert points(1.0, -1.0) == one
    if sampler != "nsga2":  # which draws at random until 50 trials of the block are done
        assert points(-1.0, 1.0) != one


def test_a_block_that_ends_leaves_the_others_their_share() -> None:
    got = plan([{"name": "one", "model.method": "dropout"}, *BLOCKS[:2]], budget={"trials": 13})
    asking = proposer(InMemoryStorage(), got)
    points = points_of(asking, 100, lambda point: 1.0)
    assert [sum(point["block"] == label for point in points) for label in ("one", "dmrnet", "released")] == [1, 4, 2]
    assert len({repr(point) for point in points}) == 7
    assert asking.ask() is None


def test_a_grid_in_each_block() -> None:
    strategies = {"choice": ["uniform", "by_size", "hardness"]}
    search = [
        {"name": "a", "model.draws": {"int": [1, 2]}},
        {"model.method": "dropout", "sampling.strategy": strategies},
    ]
    got = plan(search, sampler="grid", first=[], budget={"trials": 20})
    points = points_of(proposer(InMemoryStorage(), got, "grid"), 100, lambda point: 1.0)
    assert sorted(map(repr, (tuple(point.values()) for point in points))) == sorted(
        map(repr, [("a", 1), ("a", 2), ("dropout", "uniform"), ("dropout", "by_size"), ("dropout", "hardness")])
    )


def test_a_trial_of_a_block_whose_driver_died_while_it_was_written_is_completed() -> None:
    got = plan(budget={"trials": 9})
    uninterrupted = points_of(proposer(InMemoryStorage(), got), 7)
    storage = InMemoryStorage()
    points_of(proposer(storage, got), 6)
    dying = proposer(storage, got)
    dying.enqueue(uninterrupted[6])
    running = dying.study.ask()
    running.suggest_categorical("block", ("dmrnet", "released", "dropout"))
    restarted = proposer(storage, got)
    assert restarted.complete(restarted.study.trials[6]) == uninterrupted[6]
    assert got.space.point_of(restarted.study.trials[6].params) == uninterrupted[6]


@pytest.mark.parametrize(("budget", "parts", "each"), [(9, 3, [3, 3, 3]), (11, 3, [4, 4, 3]), (3, 3, [1, 1, 1])])
def test_shares(budget: int, parts: int, each: list[int]) -> None:
    assert shares(budget, parts) == each


@pytest.mark.parametrize(
    ("search", "keys", "message"),
    [
        ([{}, {"model.method": "dmrnet"}], {}, "search[1].name: 'dmrnet' is the name of another block; give this ..."),
        (
            [{"name": "a/b"}],
            {},
            "search[0].name: got 'a/b'; allowed are letters, digits and . _ - (up to 100, the first a letter or digit)",
        ),
        ([{"name": 3}], {}, 'search[0].name: got 3; allowed: text; quote it, as in "3"'),
        ([{"model.method": "dropuot"}], {}, "search[0].model.method: got 'dropuot'; did you mean dropout?"),
        ([{"model.hard_mod": "released"}], {}, "search[0].model.hard_mod: no such key; did you mean hard_mode?"),
        (
            [{"model.hard_mode": "x"}],
            {},
            "search[0].model.hard_mode: got 'x'; allowed: 'intended', 'released' or 'constant'",
        ),
        ([{"seed": 3}], {}, "search[0].seed: no key that can be searched; allowed are keys of model, sampling, train"),
        (
            [{}, {"model.method": "dropout", "model.kl_weight": RATE}],
            {},
            "search[1].model.kl_weight: no such key; allowed are method, encoder, ...",
        ),
        ([{"train.epochs": {"int": [3, 1]}}], {}, "search[0].train.epochs.int: low must be less than high, got [3, 1]"),
        (
            [{"train.epochs": {"int": [1, 3], "when": {"model.method": "dmrnet"}}}],
            {},
            "search[0].train.epochs.when.model.method: not a searched key; searched are train.epochs",
        ),
        (BLOCKS, {"budget": {"trials": 2}}, "budget.trials: got 2; allowed: at least 3, one per block of `search`"),
        (
            BLOCKS,
            {"first": ["defaults", {"train.learning_rate": 0.1}]},
            "first[1], block dmrnet: ... outside its log_uniform ...",
        ),
        (BLOCKS[:1], {"first": [{"model.draws": 1}]}, "first[0], block dmrnet: model.draws is not searched; ..."),
        (
            [
                {"name": "a", "model.draws": {"int": [1, 3]}},
                {"name": "b", "model.draws": {"int": [1, 3]}, "train.epochs": 3},
            ],
            {"budget": {"trials": 3}, "first": ["defaults", {"model.draws": 2}]},
            "first: got 4 points; allowed: at most 3, the budget's trials",
        ),
        (
            [{"name": "a", "train.epochs": {"int": [1, 50]}}, {"name": "b", "train.epochs": {"int": [1, 9]}}],
            {},
            "first[0], block b: train.epochs: the file's default is 40, outside its int [1, 9]; change ...",
        ),
        (
            [{"name": "a", "model.draws": {"int": [1, 2]}}, {"name": "b", "train.learning_rate": RATE}],
            {"sampler": "grid"},
            "sampler: grid needs a finite space; search[1].train.learning_rate is log_uniform [0.0001, 0.01]",
        ),
        (
            [{"model.method": "dropout"}, {"model.warmup_epochs": 9}],
            {"scheduler": {"grace_epochs": 8}},
            "scheduler.grace_epochs: got 8; the warm-up of 9 epochs needs at least 11",
        ),
        (
            [{"model.encoder.name": "cnn"}],
            {},
            "search[0]: model.encoder: encoder 'cnn' reads inputs with 3 dimension(s); modality top_left ...",
        ),
    ],
)
def test_blocks_that_do_not_fit(search: Any, keys: dict[str, Any], message: str) -> None:
    pattern = ".*".join(map(re.escape, f"s.yaml: {message}".split("...")))
    with pytest.raises(StudyError, match=f"^{pattern}$") as caught:
        plan(search, **keys)
    assert len(caught.value.lines) == 1


OWN = """
from dataclasses import dataclass
from dmr.methods.dropout import Dropout, DropoutSettings
from dmr.settings import setting

@dataclass(frozen=True)
class MineSettings(DropoutSettings):
    temper: float = setting(1.0, gt=0.0)

class Mine(Dropout):
    Settings = MineSettings
    search_space = {"model.temper": {"uniform": [0.5, 2.0]}}

class Bare(Dropout):
    Settings = int

@dataclass(frozen=True, kw_only=True)
class Needs(DropoutSettings):
    width: int

class Needy(Dropout):
    Settings = Needs
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "own_method.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("own_method", None)


@pytest.mark.usefixtures("own")
def test_a_method_of_ones_own() -> None:
    got = plan(None, model={"method": "own_method:Mine", "temper": 2})
    assert got.document["model"]["temper"] == 2.0
    common = {"train.learning_rate", "train.weight_decay", "model.head_norm", "sampling.strategy", "sampling.keep_prob"}
    assert set(got.space.keys) == {"model.temper"} | common
    settings = got.run_settings({"model.temper": 0.75}, 0).method
    assert (type(settings).__name__, settings.temper) == ("MineSettings", 0.75)  # type: ignore[attr-defined]
    blocks = plan([{"model.method": "own_method:Mine", "model.temper": {"uniform": [1, 2]}}, BLOCKS[0]])
    assert [part.label for part in blocks.blocks] == ["Mine", "dmrnet"]


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_method:Yours", r"model\.method: got 'own_method:Yours'; own_method has no Method 'Yours'"),
        (
            "no_such_module:Mine",
            r"model\.method: got 'no_such_module:Mine'; no_such_module cannot be imported: Module.* 'no_such_module'",
        ),
        ("own_method:Bare", r"model\.method: got 'own_method:Bare'; int is no dataclass"),
        ("own_method:Needy", r"model\.method: got 'own_method:Needy'; Needs\.width has no default"),
    ],
)
def test_a_method_of_ones_own_that_cannot_be_used(name: str, message: str) -> None:
    with pytest.raises(StudyError, match=rf"^s\.yaml: {message}$"):
        plan(None, model={"method": name})
    with pytest.raises(StudyError, match=rf"^s\.yaml: search\[0\]\.{message}$"):
        plan([{"model.method": name}])


GRID = {"model.noise_scale": [0.0, 1.0], "model.head_norm": ["batch", "none"]}


def test_a_grid_makes_a_block_of_each_of_its_cells() -> None:
    found = plan({"grid": GRID, "train.learning_rate": RATE})
    names = [f"noise_scale-{scale}.head_norm-{norm}" for scale in (0, 1) for norm in ("batch", "none")]
    assert [block.label for block in found.blocks] == names
    assert [dict(block.fixed) for block in found.blocks] == [
        {"model.noise_scale": scale, "model.head_norm": norm} for scale in (0.0, 1.0) for norm in ("batch", "none")
    ]
    assert all(block.space.keys == ("train.learning_rate",) for block in found.blocks)
    again = make_plan(found.document, "again")
    assert again.document == found.document
    assert [(b.label, b.fixed, b.space) for b in again.blocks] == [(b.label, b.fixed, b.space) for b in found.blocks]
    assert "&id" not in to_yaml(found.document)
    resolved = found.resolved({"block": names[1], "train.learning_rate": 0.001})
    assert (resolved["model"]["noise_scale"], resolved["model"]["head_norm"]) == (0.0, "none")


def test_grids_and_blocks_side_by_side() -> None:
    found = plan(
        [{"name": "parts", "grid": GRID}, {"model.method": "dropout"}, {"grid": {"train.batch_size": [32, 64]}}]
    )
    assert [block.label for block in found.blocks] == [
        "parts.noise_scale-0.head_norm-batch",
        "parts.noise_scale-0.head_norm-none",
        "parts.noise_scale-1.head_norm-batch",
        "parts.noise_scale-1.head_norm-none",
        "dropout",
        "batch_size-32",
        "batch_size-64",
    ]


@pytest.mark.parametrize(
    ("grid", "line"),
    [
        ({}, "search.grid: got {}; allowed: a mapping from keys to lists of values"),
        ([1], "search.grid: got [1]; allowed: a mapping from keys to lists of values"),
        ({"model.noise_scale": 1.0}, "search.grid.model.noise_scale: got 1.0; allowed: a list of values"),
        ({"model.noise_scale": []}, "search.grid.model.noise_scale: got []; allowed: a list of values"),
        ({"model.noise_scale": [{}]}, "search.grid.model.noise_scale: got [{}]; allowed: a list of values"),
        ({"model.noise_scale": [0, 1, 0]}, "search.grid.model.noise_scale: a value comes twice: [0, 1, 0]"),
        ({"train.learning_rate": [0.1, 1]}, "search.grid.train.learning_rate: this key stands beside the grid, too"),
        ({"train.epochs": list(range(1, 1002))}, "search.grid: got 1001 cells; allowed: at most 1000"),
        ({"model.head_norm": ["none", "no"]}, "search.model.head_norm: got 'no'; allowed: 'none', 'layer' or 'batch'"),
        ({"seed": [0, 1]}, "search.seed: no key that can be searched; ..."),
    ],
)
def test_what_no_grid_can_be(grid: Any, line: str) -> None:
    with pytest.raises(StudyError) as found:
        plan({"grid": grid, "train.learning_rate": RATE}, budget={"trials": 2000})
    expected = re.escape(f"s.yaml: {line}").replace(re.escape("..."), ".*")
    assert re.fullmatch(expected, str(found.value).splitlines()[0]), found.value
