"""The search space: from the study file's notation to Optuna, conditional parameters included."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dmr.studies.study_file.mistakes import InvalidStudy, Mistake, invalid, short

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

RANGES = ("uniform", "log_uniform", "int", "log_int")
KINDS = (*RANGES, "choice")
MAX_ENUMERATED = 10_000
MAX_STEPS = 1_000_000_000
Scalar = str | int | float | bool | None


@dataclass(frozen=True)
class Parameter:
    """One searched key.

    Attributes:
        kind: `uniform`, `log_uniform` (floats), `int`, `log_int` (whole numbers, both ends included) or `choice`.
        values: the two ends of a range, or the choices.
        step: of a `uniform` or `int` range.
        when: values of other searched keys under which this one is searched; elsewhere it keeps the file's value.
        name: what Optuna knows it by, where that is not the key.
    """

    key: str
    kind: str
    values: tuple[Any, ...]
    step: float | int | None = None
    when: Mapping[str, tuple[Scalar, ...]] = field(default_factory=dict)
    name: str | None = None

    @property
    def optuna_name(self) -> str:
        return self.name or self.key

    def active(self, point: Mapping[str, Any]) -> bool:
        """Whether this key is searched where the keys before it have the values of `point`."""
        return all(key in point and point[key] in allowed for key, allowed in self.when.items())

    def contains(self, value: Any) -> bool:
        if self.kind == "choice":
            return any(_same(value, choice) for choice in self.values)
        whole = self.kind in ("int", "log_int")
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            return False
        low, high = self.values
        on_step = not self.step or math.isclose(
            (value - low) / self.step, round((value - low) / self.step), abs_tol=1e-9
        )
        return bool(low <= value <= high and on_step)

    def canonical(self, value: Any) -> Any:
        """`value`, which this key contains, as a choice or a step is written here: 1.0 for 1, 0.3 for 0.1 + 0.2."""
        if self.kind == "choice":
            return next((choice for choice in self.values if _same(value, choice)), value)
        if self.kind in ("int", "log_int"):
            return int(value)
        low, high = self.values
        return min(low + self.step * round((value - low) / self.step), high) if self.step else float(value)

    def suggest(self, trial: BaseTrial) -> Any:
        if self.kind == "choice":
            return trial.suggest_categorical(self.optuna_name, self.values)
        low, high = self.values
        if self.kind in ("int", "log_int"):
            return trial.suggest_int(self.optuna_name, low, high, step=int(self.step or 1), log=self.kind == "log_int")
        return trial.suggest_float(self.optuna_name, low, high, step=self.step, log=self.kind == "log_uniform")

    def grid(self) -> list[Any] | None:
        """All values, None where they are not finite or more than `MAX_ENUMERATED`."""
        if self.kind == "choice":
            return list(self.values)
        step = self.step or (1 if self.kind in ("int", "log_int") else None)
        low, high = self.values
        if not step or (high - low) / step >= MAX_ENUMERATED:
            return None
        return [self.canonical(low + step * n) for n in range(math.floor((high - low) / step + 1e-9) + 1)]

    def text(self) -> str:
        """For people: `log_uniform [0.1, 3]  when sampling.strategy is bernoulli`."""
        values = ", ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in self.values)
        step = f" step {self.step:g}" if self.step else ""
        conditions = [f"{key} is {' or '.join(map(str, allowed))}" for key, allowed in self.when.items()]
        return f"{self.kind} [{values}]{step}" + (f"  when {' and '.join(conditions)}" if conditions else "")


@dataclass(frozen=True)
class Space:
    """Searched keys, in an order in which every condition comes after the keys it reads.

    A key may have several parameters, of which at most one is active at a point.
    """

    parameters: tuple[Parameter, ...]

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(parameter.key for parameter in self.parameters))

    def suggest(self, trial: BaseTrial) -> dict[str, Any]:
        """Values of the keys that are active at this point."""
        point: dict[str, Any] = {}
        for parameter in self.parameters:
            if parameter.active(point):
                point[parameter.key] = parameter.suggest(trial)
        return point

    def active(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """The part of `point` that is searched there."""
        kept: dict[str, Any] = {}
        for parameter in self.parameters:
            if parameter.key in point and parameter.active(kept):
                kept[parameter.key] = point[parameter.key]
        return kept

    def holds(self, key: str, values: Mapping[str, Any]) -> bool:
        """Whether what the search of a key depends on holds for these `values` of all keys: always for one that is not
        searched here, or without conditions.
        """
        whens = [parameter.when for parameter in self.parameters if parameter.key == key]
        return not whens or any(
            all(values.get(k) in allowed and self.holds(k, values) for k, allowed in when.items()) for when in whens
        )

    def optuna_params(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """`point` under the names that Optuna knows."""
        active = self.active(point)
        return {p.optuna_name: active[p.key] for p in self.parameters if p.key in active and p.active(active)}

    def point_of(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The point that Optuna knows as `params`."""
        point: dict[str, Any] = {}
        for parameter in self.parameters:
            if parameter.optuna_name in params and parameter.active(point):
                point[parameter.key] = params[parameter.optuna_name]
        return point

    def canonical(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """The part of `point` that is searched there, with its values as the space writes them."""
        active = self.active(point)
        return {p.key: p.canonical(active[p.key]) for p in self.parameters if p.key in active and p.active(active)}

    def points(self) -> list[dict[str, Any]] | None:
        """Every point of a finite space, None where it is not finite or has more than `MAX_ENUMERATED` points."""
        if any(parameter.grid() is None for parameter in self.parameters):
            return None
        points = list(itertools.islice(self._points(0, {}), MAX_ENUMERATED + 1))
        return points if len(points) <= MAX_ENUMERATED else None

    def _points(self, depth: int, chosen: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if depth == len(self.parameters):
            yield chosen
            return
        parameter = self.parameters[depth]
        if not parameter.active(chosen):
            yield from self._points(depth + 1, chosen)
            return
        for value in parameter.grid() or []:
            yield from self._points(depth + 1, {**chosen, parameter.key: value})


def parse_space(search: Any, at: str) -> Space:
    """The space of a `search:` mapping.

    Args:
        at: where it lies in the study file, `search` or `search[0]`.

    Raises:
        InvalidStudy: a mistake for each key with an unknown kind, impossible range, or a condition that can never hold.
    """
    if not isinstance(search, dict):
        raise invalid(at, f"a mapping of dotted keys is needed, got {type(search).__name__}")
    parsed: dict[str, Parameter] = {}
    mistakes: list[Mistake] = []
    for key, entry in search.items():
        try:
            parsed[str(key)] = _parse_parameter(str(key), entry, f"{at}.{key}")
        except InvalidStudy as error:
            mistakes.extend(error.mistakes)
    if mistakes:
        raise InvalidStudy(*mistakes)
    return Space(_in_order(parsed, at))


def _parse_parameter(key: str, entry: Any, at: str) -> Parameter:
    example = "{log_uniform: [0.1, 3.0]}, {uniform: [0, 1]}, {int: [1, 8]}, {log_int: [1, 64]} or {choice: [a, b]}"
    if not isinstance(entry, dict):
        raise invalid(at, f"got {short(entry)}; allowed is {example}")
    named = [name for name in KINDS if name in entry]
    unknown = set(entry) - {*KINDS, "step", "when"}
    if len(named) != 1 or unknown:
        raise invalid(at, f"got {short(entry)}; allowed is {example}, with `step` or `when` beside it")
    kind = named[0]
    values = entry[kind]
    if not isinstance(values, list) or not values:
        raise invalid(f"{at}.{kind}", f"a list is needed, got {short(values)}")
    step = entry.get("step")
    if kind == "choice":
        _check_choices(values, at)
        if step is not None:
            raise invalid(f"{at}.step", "a choice has no step")
    else:
        values = _check_range(kind, values, step, at)
    return Parameter(key, kind, tuple(values), step, _parse_when(entry.get("when", {}), at))


def _check_choices(values: list[Any], at: str) -> None:
    if not all(isinstance(value, str | int | float | bool | None) for value in values):
        raise invalid(f"{at}.choice", f"each choice is text, a number, true, false or null, got {short(values)}")
    if len(set(values)) != len(values):  # Optuna takes 1, 1.0 and true for one choice
        raise invalid(f"{at}.choice", f"a choice comes twice: {values!r}")


def _check_range(kind: str, values: list[Any], step: Any, at: str) -> list[Any]:
    whole = kind in ("int", "log_int")
    noun = "whole numbers" if whole else "numbers"
    numbers = all(type(v) is int or (type(v) is float and not whole and math.isfinite(v)) for v in values)
    if len(values) != 2 or not numbers:
        raise invalid(f"{at}.{kind}", f"two {noun} [low, high] are needed, got {short(values)}")
    low, high = values
    if not low < high:
        raise invalid(f"{at}.{kind}", f"low must be less than high, got [{low}, {high}]")
    if abs(low) > 1e300 or abs(high) > 1e300:
        raise invalid(f"{at}.{kind}", f"numbers up to 1e300 are allowed, got [{low}, {high}]")
    if kind.startswith("log") and low <= 0:
        raise invalid(f"{at}.{kind}", f"a log range starts above 0, got low = {low}")
    if step is not None:
        if kind.startswith("log"):
            raise invalid(f"{at}.step", "a log range has no step")
        right_type = type(step) is int if whole else type(step) in (int, float)
        if not right_type or not 0 < step <= high - low or (high - low) / step > MAX_STEPS:
            raise invalid(f"{at}.step", f"a step above 0 and up to {high - low} is needed, got {short(step)}")
    return values if whole else [float(low), float(high)]


def _parse_when(when: Any, at: str) -> dict[str, tuple[Scalar, ...]]:
    if not isinstance(when, dict):
        raise invalid(f"{at}.when", f"a mapping of a searched key to its value(s) is needed, got {short(when)}")
    conditions = {}
    for key, allowed in when.items():
        listed = allowed if isinstance(allowed, list) else [allowed]
        if not listed or not all(isinstance(value, str | int | float | bool | None) for value in listed):
            raise invalid(f"{at}.when.{key}", f"a value or a list of values is needed, got {short(allowed)}")
        conditions[str(key)] = tuple(listed)
    return conditions


def _in_order(parsed: dict[str, Parameter], at: str) -> tuple[Parameter, ...]:
    """Sorted so that conditions come after the keys they read, otherwise as in the file."""
    for parameter in parsed.values():
        for key, allowed in parameter.when.items():
            if key not in parsed:
                raise invalid(f"{at}.{parameter.key}.when.{key}", f"not a searched key; searched are {_listed(parsed)}")
            if parsed[key].kind == "log_uniform" or (parsed[key].kind == "uniform" and not parsed[key].step):
                raise invalid(
                    f"{at}.{parameter.key}.when.{key}",
                    f"it is {parsed[key].text()}, which hardly ever is one value; "
                    "a condition reads a choice, whole numbers or a range with a step",
                )
            never = [value for value in allowed if not parsed[key].contains(value)]
            if never:
                raise invalid(
                    f"{at}.{parameter.key}.when.{key}", f"can never be {never[0]!r}; it is {parsed[key].text()}"
                )
    ordered: list[Parameter] = []
    waiting = list(parsed.values())
    while waiting:
        done = {parameter.key for parameter in ordered}
        ready = next((parameter for parameter in waiting if set(parameter.when) <= done), None)
        if ready is None:
            raise invalid(at, f"the conditions of {_listed(p.key for p in waiting)} go round in a circle")
        ordered.append(ready)
        waiting.remove(ready)
    for parameter in ordered:
        _check_reachable(parameter, parsed, at)
    return tuple(ordered)


def _check_reachable(parameter: Parameter, parsed: dict[str, Parameter], at: str) -> None:
    """A condition on a key that is itself conditional needs conditions that can hold together."""
    needed: dict[str, set[Scalar]] = {}
    pending = [parameter]
    while pending:
        for key, allowed in pending.pop().when.items():
            values = set(allowed)
            needed[key] = needed[key] & values if key in needed else values
            if not needed[key]:
                raise invalid(f"{at}.{parameter.key}.when", f"can never hold: {key} would need two values at once")
            pending.append(parsed[key])


def _same(value: Any, choice: Any) -> bool:
    """1 is 1.0, but neither is true."""
    return bool(value == choice and isinstance(value, bool) == isinstance(choice, bool))


def _listed(names: Any) -> str:
    listed: Sequence[str] = list(names)
    return ", ".join(listed) if listed else "none"
