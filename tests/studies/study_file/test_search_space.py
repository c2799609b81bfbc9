from __future__ import annotations

import re
from typing import Any

import optuna
import pytest

from dmr.studies.errors import StudyError
from dmr.studies.study_file.search_space import MAX_ENUMERATED, Parameter, Space, parse_space

optuna.logging.set_verbosity(optuna.logging.WARNING)


def space(search: Any) -> Space:
    return parse_space(search, "s.yaml: search")


def only(entry: dict[str, Any]) -> Parameter:
    (parameter,) = space({"a": entry}).parameters
    return parameter


def refuses(search: Any, message: str) -> None:
    """The space is refused with one line that begins with the file and has `message`, literally."""
    with pytest.raises(StudyError, match=re.escape(message)) as caught:
        space(search)
    assert len(caught.value.lines) == 1
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("s.yaml: search")


NESTED = {  # conditions come before the keys they read
    "leaf": {"uniform": [0, 1], "when": {"inner": [1, 2]}},
    "inner": {"int": [0, 3], "when": {"root": ["a", "b"]}},
    "root": {"choice": ["a", "b", "c"]},
}

RANGES: list[tuple[dict[str, Any], list[Any], list[Any]]] = [
    # entry, values it contains, values it does not
    ({"uniform": [0, 1]}, [0, 0.0, 0.5, 1], [-0.1, 1.1, True, None, "0.5", float("nan")]),
    ({"uniform": [0, 1], "step": 0.1}, [0, 0.3, 0.1 + 0.2, 1.0], [0.35, 1.1]),
    ({"log_uniform": [0.1, 10]}, [0.1, 1, 10.0], [0, 0.09, -1, 11]),
    ({"int": [1, 8]}, [1, 8], [0, 9, 2.0, True, None]),
    ({"int": [1, 9], "step": 4}, [1, 5, 9], [2, 8]),
    ({"log_int": [1, 64]}, [1, 7, 64], [0, 65, 2.0]),
    ({"choice": ["a", None, 2, 0.5]}, ["a", None, 2, 2.0, 0.5], ["b", 3, False, ["a"]]),
    ({"choice": [True, False]}, [True, False], [1, 0, None]),
    ({"choice": [0, 1]}, [0, 1, 1.0], [True, False]),
]


@pytest.mark.parametrize(("entry", "inside", "outside"), RANGES)
def test_contains(entry: dict[str, Any], inside: list[Any], outside: list[Any]) -> None:
    parameter = only(entry)
    assert [value for value in inside if not parameter.contains(value)] == []
    assert [value for value in outside if parameter.contains(value)] == []


@pytest.mark.parametrize(("entry", "inside", "outside"), RANGES)
def test_suggestions_are_contained(entry: dict[str, Any], inside: list[Any], outside: list[Any]) -> None:
    parameter = only(entry)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    suggested = [parameter.suggest(study.ask()) for _ in range(30)]
    assert all(parameter.contains(value) for value in suggested)
    assert len(set(suggested)) > 1


@pytest.mark.parametrize(
    ("entry", "value", "written"),
    [
        ({"uniform": [0, 1]}, 1, 1.0),
        ({"uniform": [0, 1], "step": 0.1}, 0.1 + 0.2, 3 * 0.1),
        ({"uniform": [0, 0.3], "step": 0.1}, 0.1 + 0.2, 0.3),
        ({"choice": [0.001, 1]}, 1.0, 1),
        ({"int": [1, 8]}, 3, 3),
    ],
)
def test_a_value_is_written_in_one_way(entry: dict[str, Any], value: Any, written: Any) -> None:
    assert repr(only(entry).canonical(value)) == repr(written)


@pytest.mark.parametrize(
    ("entry", "values"),
    [
        ({"choice": ["b", None, 1]}, ["b", None, 1]),
        ({"int": [2, 5]}, [2, 3, 4, 5]),
        ({"int": [1, 10], "step": 4}, [1, 5, 9]),
        ({"log_int": [1, 4]}, [1, 2, 3, 4]),
        ({"uniform": [0.0, 0.3], "step": 0.1}, pytest.approx([0.0, 0.1, 0.2, 0.3])),
        ({"uniform": [0.0, 1.0], "step": 0.3}, pytest.approx([0.0, 0.3, 0.6, 0.9])),
        ({"uniform": [0.0, 1.0]}, None),
        ({"log_uniform": [0.1, 1.0]}, None),
        ({"int": [1, 10**12]}, None),
        ({"uniform": [0.0, 1.0], "step": 1e-8}, None),
    ],
)
def test_grid(entry: dict[str, Any], values: Any) -> None:
    parameter = only(entry)
    assert parameter.grid() == values
    assert all(parameter.contains(value) for value in parameter.grid() or [])


def test_points_of_a_finite_conditional_space() -> None:
    points = space(NESTED | {"leaf": {"choice": [True], "when": {"inner": [1, 2]}}}).points()
    assert points is not None
    inner = [{"inner": n} | ({"leaf": True} if n in (1, 2) else {}) for n in range(4)]
    assert points == [{"root": root} | rest for root in "ab" for rest in inner] + [{"root": "c"}]


def test_spaces_without_points_to_list() -> None:
    assert space(NESTED).points() is None
    side = round(MAX_ENUMERATED**0.5)
    assert len(space({"a": {"int": [1, side]}, "b": {"int": [1, side]}}).points() or []) == MAX_ENUMERATED
    assert space({"a": {"int": [1, side]}, "b": {"int": [1, side + 1]}}).points() is None
    assert space({}).points() == [{}]


def test_conditions_come_after_the_keys_they_read() -> None:
    assert space(NESTED).keys == ("root", "inner", "leaf")
    independent = {key: {"int": [0, 1]} for key in "cab"}
    assert space(independent).keys == ("c", "a", "b")


@pytest.mark.parametrize(
    ("wanted", "point"),
    [
        ({"root": "c", "inner": 1, "leaf": 0.5}, {"root": "c"}),
        ({"root": "b", "inner": 0, "leaf": 0.5}, {"root": "b", "inner": 0}),
        ({"root": "a", "inner": 2, "leaf": 0.5}, {"root": "a", "inner": 2, "leaf": 0.5}),
    ],
)
def test_only_what_is_active_is_suggested(wanted: dict[str, Any], point: dict[str, Any]) -> None:
    searched = space(NESTED)
    trial = optuna.trial.FixedTrial(wanted)
    assert searched.suggest(trial) == point
    assert searched.active(wanted) == point
    assert trial.params == point


def test_text_for_people() -> None:
    searched = space(NESTED)
    assert [parameter.text() for parameter in searched.parameters] == [
        "choice [a, b, c]",
        "int [0, 3]  when root is a or b",
        "uniform [0, 1]  when inner is 1 or 2",
    ]
    assert only({"uniform": [0, 1], "step": 0.25}).text() == "uniform [0, 1] step 0.25"


EXAMPLE = (
    "allowed is {log_uniform: [0.1, 3.0]}, {uniform: [0, 1]}, {int: [1, 8]}, {log_int: [1, 64]} or {choice: [a, b]}"
)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ([1, 2], f"search.a: got [1, 2]; {EXAMPLE}"),
        (3, f"search.a: got 3; {EXAMPLE}"),
        (None, f"search.a: got None; {EXAMPLE}"),
        ({}, f"search.a: got {{}}; {EXAMPLE}"),
        ({"unifrom": [0, 1]}, f"search.a: got {{'unifrom': [0, 1]}}; {EXAMPLE}"),
        ({"uniform": [0, 1], "int": [0, 1]}, EXAMPLE),
        ({"uniform": [0, 1], "log": True}, EXAMPLE),
        ({"uniform": 1}, "search.a.uniform: a list is needed, got 1"),
        ({"choice": []}, "search.a.choice: a list is needed, got []"),
        ({"choice": "ab"}, "search.a.choice: a list is needed, got 'ab'"),
        ({"uniform": [0, 1, 2]}, "search.a.uniform: two numbers [low, high] are needed, got [0, 1, 2]"),
        ({"uniform": ["0", 1]}, "search.a.uniform: two numbers [low, high] are needed, got ['0', 1]"),
        ({"uniform": [False, True]}, "search.a.uniform: two numbers [low, high] are needed, got [False, True]"),
        ({"uniform": [0, float("inf")]}, "search.a.uniform: two numbers [low, high] are needed, got [0, inf]"),
        ({"uniform": [float("nan"), 1]}, "search.a.uniform: two numbers [low, high] are needed, got [nan, 1]"),
        ({"int": [1, 2.5]}, "search.a.int: two whole numbers [low, high] are needed, got [1, 2.5]"),
        ({"log_int": [1.0, 4]}, "search.a.log_int: two whole numbers [low, high] are needed, got [1.0, 4]"),
        ({"uniform": [1, 0]}, "search.a.uniform: low must be less than high, got [1, 0]"),
        ({"int": [3, 3]}, "search.a.int: low must be less than high, got [3, 3]"),
        ({"uniform": [-1e301, 0]}, "search.a.uniform: numbers up to 1e300 are allowed, got [-1e+301, 0]"),
        ({"int": [0, 10**400]}, "search.a.int: numbers up to 1e300 are allowed"),
        ({"log_uniform": [0, 1]}, "search.a.log_uniform: a log range starts above 0, got low = 0"),
        ({"log_uniform": [-0.5, 1]}, "search.a.log_uniform: a log range starts above 0, got low = -0.5"),
        ({"log_int": [0, 8]}, "search.a.log_int: a log range starts above 0, got low = 0"),
        ({"log_uniform": [1, 2], "step": 0.5}, "search.a.step: a log range has no step"),
        ({"choice": [1, 2], "step": 1}, "search.a.step: a choice has no step"),
        ({"uniform": [0, 1], "step": 0}, "search.a.step: a step above 0 and up to 1 is needed, got 0"),
        ({"uniform": [0, 1], "step": -0.1}, "search.a.step: a step above 0 and up to 1 is needed, got -0.1"),
        ({"uniform": [0, 1], "step": 2}, "search.a.step: a step above 0 and up to 1 is needed, got 2"),
        ({"uniform": [0, 1], "step": 1e-300}, "search.a.step: a step above 0 and up to 1 is needed, got 1e-300"),
        ({"uniform": [0, 1], "step": True}, "search.a.step: a step above 0 and up to 1 is needed, got True"),
        ({"int": [1, 8], "step": 0.5}, "search.a.step: a step above 0 and up to 7 is needed, got 0.5"),
        ({"choice": [[1], 2]}, "search.a.choice: each choice is text, a number, true, false or null, got [[1], 2]"),
        ({"choice": ["a", "a"]}, "search.a.choice: a choice comes twice: ['a', 'a']"),
        ({"choice": [1, True]}, "search.a.choice: a choice comes twice: [1, True]"),
        ({"choice": [1, 1.0]}, "search.a.choice: a choice comes twice: [1, 1.0]"),
    ],
)
def test_entries_that_are_refused(entry: Any, message: str) -> None:
    refuses({"a": entry}, message)


@pytest.mark.parametrize(
    ("others", "when", "message"),
    [
        ({}, ["b"], "search.a.when: a mapping of a searched key to its value(s) is needed, got ['b']"),
        ({}, {"b": 1}, "search.a.when.b: not a searched key; searched are a"),
        ({"b": {"int": [0, 3]}}, {"b": []}, "search.a.when.b: a value or a list of values is needed, got []"),
        ({"b": {"int": [0, 3]}}, {"b": {"c": 1}}, "search.a.when.b: a value or a list of values is needed"),
        ({"b": {"int": [0, 3]}}, {"b": 4}, "search.a.when.b: can never be 4; it is int [0, 3]"),
        ({"b": {"int": [0, 3]}}, {"b": [1, 4]}, "search.a.when.b: can never be 4; it is int [0, 3]"),
        ({"b": {"choice": ["x", "y"]}}, {"b": "z"}, "search.a.when.b: can never be 'z'; it is choice [x, y]"),
        ({"b": {"choice": [0, 1]}}, {"b": True}, "search.a.when.b: can never be True; it is choice [0, 1]"),
        (
            {"b": {"uniform": [0, 1]}},
            {"b": 0.5},
            "search.a.when.b: it is uniform [0, 1], which hardly ever is one value",
        ),
        ({"b": {"log_uniform": [1, 2]}}, {"b": 1}, "search.a.when.b: it is log_uniform [1, 2], which hardly ever is"),
        ({}, {"a": 1}, "search: the conditions of a go round in a circle"),
        ({"b": {"int": [0, 3], "when": {"a": 1}}}, {"b": 1}, "search: the conditions of a, b go round in a circle"),
        (
            {"b": {"int": [0, 3], "when": {"c": "x"}}, "c": {"choice": ["x", "y"]}},
            {"b": 1, "c": "y"},
            "search.a.when: can never hold: c would need two values at once",
        ),
    ],
)
def test_conditions_that_can_never_hold(others: dict[str, Any], when: Any, message: str) -> None:
    refuses({"a": {"int": [0, 3], "when": when}} | others, message)


@pytest.mark.parametrize("search", [None, 3, "tpe", ["a"]])
def test_a_space_is_a_mapping(search: Any) -> None:
    refuses(search, f"search: a mapping of dotted keys is needed, got {type(search).__name__}")


def test_every_mistake_has_a_line() -> None:
    with pytest.raises(StudyError, match="low must be less than high") as caught:
        space({"a": {"uniform": [1, 0]}, "b": {"int": [0, 1]}, "c": {"choice": []}})
    assert [line.split(":")[1] for line in caught.value.lines] == [" search.a.uniform", " search.c.choice"]
