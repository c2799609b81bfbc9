"""What every sampler owes: a new one is tested by adding its name to `SAMPLERS` of study_file/schema.py."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import BaseStorage, InMemoryStorage, RDBStorage
from optuna.trial import TrialState

from dmr.studies.search.samplers import Proposer, make_sampler
from dmr.studies.study_file.schema import RANDOM_START, SAMPLERS
from dmr.studies.study_file.search_space import Space, parse_space

Point = dict[str, Any]

MIXED = parse_space(
    {
        "rate": {"log_uniform": [1e-4, 1e-1]},
        "kind": {"choice": ["a", "b", None]},
        "keep": {"uniform": [0.3, 0.9], "when": {"kind": "b"}},
        "depth": {"int": [1, 8]},
        "width": {"log_int": [8, 512], "when": {"depth": [1, 2, 3, 4]}},
        "scale": {"uniform": [0, 2], "step": 0.25},
    },
    "search",
)
FINITE = parse_space(
    {
        "kind": {"choice": ["a", 1]},
        "keep": {"uniform": [0, 0.4], "step": 0.1, "when": {"kind": 1}},
        "depth": {"int": [1, 4], "step": 2},
        "width": {"log_int": [1, 2], "when": {"depth": 3}},
    },
    "search",
)
FINITE_POINTS = (1 + 5) * (1 + 2)
FIRST = [
    {"rate": 1e-2, "kind": "b", "keep": 0.5, "depth": 8, "scale": 0.25},
    {"rate": 1e-3, "kind": None, "depth": 2, "width": 100, "scale": 0.75},
]
FIRST_OF_FINITE = [
    {"kind": 1, "keep": 0.3, "depth": 1},  # a sampler writes 0.30000000000000004
    {"kind": "a", "depth": 3, "width": 2},
]

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Optuna's, on steps that do not divide a range
every_sampler = pytest.mark.parametrize("sampler", SAMPLERS)
samplers_of_infinite_spaces = pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "grid"])


@pytest.mark.parametrize("sampler", RANDOM_START)
def test_a_sampler_is_random_as_long_as_it_is_said_to_be(sampler: str) -> None:
    """Until then other values of the trials before change nothing in what it proposes."""
    space = parse_space({"a": {"uniform": [0, 1]}, "b": {"uniform": [0, 1]}}, "search")
    draw = random.Random(0)
    points = [{"a": draw.random(), "b": draw.random()} for _ in range(RANDOM_START[sampler])]

    def proposed(trials: int, sign: int) -> Point:
        study = optuna.create_study(direction="maximize")
        proposer = Proposer(study, space, sampler, 0)
        for point in points[:trials]:
            proposer.enqueue(point)
            study.tell(proposer.ask()[0], sign * point["a"])  # type: ignore[index]
        return proposer.ask()[1]  # type: ignore[index]

    start = RANDOM_START[sampler]
    assert proposed(start - 1, 1) == proposed(start - 1, -1)
    if sampler in ("tpe", "gp"):  # the others take generations to learn
        assert proposed(start, 1) != proposed(start, -1)


@pytest.fixture(autouse=True)
def quiet_optuna() -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(before)


def propose(storage: BaseStorage, sampler: str, space: Space = MIXED, seed: int = 0, objectives: int = 1) -> Proposer:
    """A proposer on the study in this storage, as a driver makes it that has just started."""
    study = optuna.create_study(
        storage=storage, study_name="s", directions=["maximize", "minimize"][:objectives], load_if_exists=True
    )
    return Proposer(study, space, sampler, seed)


def score(point: Point) -> float:
    return point.get("rate", 0.0) * 10 - abs(point["depth"] - 3) + point.get("keep", 0.0)


def end(study: optuna.Study, trial: optuna.Trial, point: Point) -> None:
    """As the stage does: most trials complete, some are pruned, some fail."""
    values = [score(point), float(point["depth"])][: len(study.directions)]
    if trial.number % 5 == 3:
        study.tell(trial, state=TrialState.FAIL)
    elif trial.number % 5 == 2 and len(values) == 1:
        trial.report(values[0], 3)
        study.tell(trial, state=TrialState.PRUNED)
    else:
        study.tell(trial, values)


def points_of(proposer: Proposer, count: int, running: int = 1) -> list[Point]:
    """The points of `count` more trials, of which so many run at a time."""
    points, live = [], []
    while len(points) < count:
        asked = proposer.ask()
        if asked is None:
            break
        points.append(asked[1])
        live.append(asked)
        if len(live) == running:
            end(proposer.study, *live.pop(0))
    for trial, point in live:
        end(proposer.study, trial, point)
    return points


def assert_valid(space: Space, point: Point) -> None:
    """It has exactly the keys that are searched there, and values they may have."""
    assert space.active(point) == point
    for parameter in space.parameters:
        assert (parameter.key in point) == parameter.active(point)
        assert parameter.key not in point or parameter.contains(point[parameter.key])


@samplers_of_infinite_spaces
def test_points_lie_in_the_space(sampler: str) -> None:
    points = points_of(propose(InMemoryStorage(), sampler), 14, running=2)
    for point in points:
        assert_valid(MIXED, point)
    assert len({repr(point) for point in points}) == 14
    assert {"keep" in point for point in points} == {"width" in point for point in points} == {True, False}


@pytest.mark.parametrize(
    ("sampler", "objectives"),
    [(name, count) for name in SAMPLERS for count in (1, 2) if name != "grid" and (name, count) != ("cmaes", 2)],
)
def test_a_restart_before_every_trial_changes_no_point(sampler: str, objectives: int, tmp_path: Path) -> None:
    uninterrupted = points_of(propose(InMemoryStorage(), sampler, objectives=objectives), 12)
    restarted = []
    for _ in range(12):
        storage = RDBStorage(f"sqlite:///{tmp_path / 'optuna.db'}")
        restarted += points_of(propose(storage, sampler, objectives=objectives), 1)
        storage.engine.dispose()
    assert restarted == uninterrupted


def test_a_restart_changes_no_point_of_a_later_generation() -> None:
    count = 95  # nsga2 begins to cross points when 50 are complete
    uninterrupted = points_of(propose(InMemoryStorage(), "nsga2"), count)
    storage = InMemoryStorage()
    restarted = [points_of(propose(storage, "nsga2"), 1)[0] for _ in range(count)]
    assert restarted == uninterrupted
    assert restarted != points_of(propose(InMemoryStorage(), "random"), count)


@every_sampler
def test_a_restart_changes_no_point_of_a_finite_space(sampler: str) -> None:
    uninterrupted = points_of(propose(InMemoryStorage(), sampler, FINITE), FINITE_POINTS)
    storage = InMemoryStorage()
    restarted = [points_of(propose(storage, sampler, FINITE), 1) for _ in range(FINITE_POINTS)]
    assert [point for (point,) in restarted] == uninterrupted


@every_sampler
def test_points_depend_on_the_seed_alone(
    sampler: str, under_two_global_seeds: Callable[[Callable[[], Any]], tuple[Any, Any]]
) -> None:
    space = FINITE if sampler == "grid" else MIXED

    def sample(seed: int = 7) -> list[Point]:
        return points_of(propose(InMemoryStorage(), sampler, space, seed), 13, running=2)

    one, other = under_two_global_seeds(sample)
    assert one == other
    assert one != sample(seed=8)


@every_sampler
@pytest.mark.parametrize("running", [1, 3])
def test_a_finite_space_ends_and_repeats_no_point(sampler: str, running: int) -> None:
    proposer = propose(InMemoryStorage(), sampler, FINITE)
    points = points_of(proposer, 1000, running)
    for point in points:
        assert_valid(FINITE, point)
    written = {repr(sorted(FINITE.canonical(point).items())) for point in points}
    assert len(points) == len(written) == FINITE_POINTS
    assert proposer.ask() is None
    assert len(proposer.study.trials) == FINITE_POINTS


@every_sampler
def test_a_space_of_one_point_has_one_trial(sampler: str) -> None:
    proposer = propose(InMemoryStorage(), sampler, parse_space({}, "search"))
    asked = proposer.ask()
    assert asked is not None
    assert asked[1] == {}
    assert proposer.ask() is None


@samplers_of_infinite_spaces
def test_enqueued_points_come_first(sampler: str, tmp_path: Path) -> None:
    storage = RDBStorage(f"sqlite:///{tmp_path / 'optuna.db'}")
    proposer = propose(storage, sampler)
    for point in FIRST:
        proposer.study.enqueue_trial(point)
    assert points_of(propose(storage, sampler), 1) == FIRST[:1]
    *second, third = points_of(propose(storage, sampler), 2, running=2)
    assert second == FIRST[1:]
    assert third not in FIRST
    storage.engine.dispose()


@every_sampler
def test_enqueued_points_come_first_and_once_in_a_finite_space(sampler: str) -> None:
    proposer = propose(InMemoryStorage(), sampler, FINITE)
    for point in FIRST_OF_FINITE:
        proposer.study.enqueue_trial(point)
    points = points_of(proposer, 1000, running=2)
    assert points[:2] == FIRST_OF_FINITE
    assert len(points) == FINITE_POINTS


@samplers_of_infinite_spaces
@pytest.mark.parametrize("written", range(5))
def test_a_trial_whose_driver_died_while_it_was_written_is_completed(sampler: str, written: int) -> None:
    uninterrupted = points_of(propose(InMemoryStorage(), sampler), 12)
    storage = InMemoryStorage()
    proposer = propose(storage, sampler)
    points_of(proposer, 11)
    proposer.study.sampler = make_sampler("random", 99) if written == 0 else proposer._sampler(11)
    trial = proposer.study.ask()
    for parameter in MIXED.parameters[:written]:
        if parameter.key in uninterrupted[-1]:
            parameter.suggest(trial)
    for _ in range(2):  # the driver that completes it may die as well
        (interrupted,) = propose(storage, sampler).study.get_trials(states=[TrialState.RUNNING])
        assert propose(storage, sampler).complete(interrupted) == uninterrupted[-1]
    assert proposer.study.trials[-1].params == uninterrupted[-1]


@samplers_of_infinite_spaces
def test_what_a_dead_driver_has_written_of_a_point_stays(
    sampler: str, under_two_global_seeds: Callable[[Callable[[], Any]], tuple[Any, Any]]
) -> None:
    """The trials before it may have gone on since, so that the sampler would give other values today."""

    def completed() -> list[Point]:
        points = []
        for seed in range(6):
            storage = InMemoryStorage()
            proposer = propose(storage, sampler)
            points_of(proposer, 3)
            proposer.study.sampler = make_sampler("random", seed)
            trial = proposer.study.ask()
            written = {p.key: p.suggest(trial) for p in MIXED.parameters if p.key in ("rate", "kind")}
            point = propose(storage, sampler).complete(proposer.study.trials[-1])
            assert_valid(MIXED, point)
            assert point | written == point
            points.append(point)
        return points

    one, other = under_two_global_seeds(completed)
    assert one == other
    assert {point["kind"] for point in one} == {"a", "b", None}


@every_sampler
def test_an_enqueued_trial_whose_driver_died_is_completed(sampler: str) -> None:
    storage = InMemoryStorage()
    proposer = propose(storage, sampler, FINITE)
    proposer.study.enqueue_trial(FIRST_OF_FINITE[1])
    proposer.study.ask().suggest_categorical("kind", ["a", 1])
    (interrupted,) = proposer.study.get_trials()
    assert propose(storage, sampler, FINITE).complete(interrupted) == FIRST_OF_FINITE[1]


@pytest.mark.parametrize("sampler", ["tpe", "gp", "cmaes"])
def test_samplers_learn_although_they_are_made_anew(sampler: str) -> None:
    space = parse_space({"x": {"uniform": [0, 1]}, "y": {"uniform": [0, 1]}}, "search")

    def far(name: str) -> float:
        proposer = propose(InMemoryStorage(), name, space)
        distances = []
        for _ in range(30):
            trial, point = proposer.ask() or pytest.fail("an infinite space ended")
            distances.append((point["x"] - 0.2) ** 2 + (point["y"] - 0.7) ** 2)
            proposer.study.tell(trial, -distances[-1])
        return sum(distances[-10:])

    assert far(sampler) < 0.5 * far("random")


@samplers_of_infinite_spaces
def test_no_point_comes_twice_where_only_a_conditional_key_is_continuous(sampler: str) -> None:
    space = parse_space(
        {"kind": {"choice": ["a", "b", "c"]}, "keep": {"uniform": [0.3, 0.9], "when": {"kind": "b"}}}, "search"
    )
    study = optuna.create_study(direction="maximize")
    seen = []
    for number in range(20):
        asked = Proposer(study, space, sampler, 0).ask()
        assert asked is not None
        trial, point = asked
        study.tell(trial, 1.0 if point["kind"] == "a" else number / 100)
        seen.append(tuple(sorted(point.items())))
    assert len(set(seen)) == 20
