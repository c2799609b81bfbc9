"""A study that can run: the file, its data set and its space, checked against each other before anything is started."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from dmr.combinations import Combinations, deployment_weights, evaluated_combinations
from dmr.data import open_dataset
from dmr.data.dataset import DataError, MultimodalDataset
from dmr.encoders import EncoderSettings, check_encoder, default_encoder, encoder_name, find_encoder
from dmr.methods import METHODS
from dmr.settings import SamplingSettings, TrainSettings
from dmr.training import RunSettings
from studies.data_checks import check_once
from studies.errors import StudyError
from studies.schema import SAMPLING_SEARCH, StudyFile, encoder_entries, validate_study
from studies.space import MAX_ENUMERATED, Parameter, Space, parse_space
from studies.yaml_files import parse_yaml, read_yaml

SEARCHED_SECTIONS = ("model", "sampling", "train")
DEFAULT_GRACE_EPOCHS = 8
DEFAULTS = "defaults"


@dataclass(frozen=True)
class StudyPlan:
    """A checked study.

    Attributes:
        document: the file as resolved, every default filled in; reading it again gives the same study.
        first: the points to run first, in order.
    """

    study: StudyFile
    document: dict[str, Any]
    space: Space
    dataset: MultimodalDataset
    first: tuple[dict[str, Any], ...]
    grace_epochs: int

    @property
    def combinations(self) -> Combinations:
        return evaluated_combinations(self.dataset.modality_names)

    @property
    def max_epochs(self) -> int:
        """The most epochs a trial can have."""
        return int(max(_values_met(self.document, self.space, "train.epochs")))

    def resolved(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """The document with the values of a point of the space in place."""
        return _with_point(self.document, point)

    def run_settings(self, point: Mapping[str, Any], seed: int) -> RunSettings:
        """What a training run at this point of the space needs."""
        document = self.resolved(point)
        study = validate_study(document, self.study.name)
        model = dict(document["model"])
        method = METHODS[model["method"]]
        own = {f.name: model[f.name] for f in fields(method.Settings)}
        return RunSettings(
            method=method.Settings(**own),
            encoders=_encoders(model["encoder"], self.dataset, self.study.name),
            sampling=SamplingSettings(**study.sampling.model_dump()),  # type: ignore[attr-defined]
            train=TrainSettings(**study.train.model_dump()),  # type: ignore[attr-defined]
            select=study.objective[0].metric,
            select_mode=study.objective[0].mode or "max",
            deployment=study.deployment,
            seed=seed,
        )

    def parameters(self, point: Mapping[str, Any], seed: int) -> dict[str, Any]:
        """What MLflow keeps as a run's parameters: every value under its dotted key, and the logarithm of what is
        searched on a log scale, since MLflow's parallel coordinates have no log axis.
        """
        from math import log10

        document = self.resolved(point)
        flat = {key: value for section in SEARCHED_SECTIONS for key, value in _flatten(document[section], section)}
        logs = {
            f"log10_{p.key}": log10(point[p.key]) for p in self.space.parameters if "log" in p.kind and p.key in point
        }
        return {"dataset.name": self.dataset.name, "seed": seed, **flat, **logs}


def load_plan(path: Path, overrides: list[str], trials: int | None, name: str | None) -> StudyPlan:
    """Read and check a study file.

    Args:
        overrides: `key=value` with a dotted key of the file and a YAML value.
        trials: replaces `budget.trials`.
        name: replaces `name`, which defaults to the file's stem.

    Raises:
        StudyError: a line a mistake.
    """
    document = read_yaml(path)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise StudyError(f"--set {override}: key=value is needed, for example --set train.epochs=10")
        set_key(document, key, parse_yaml(text, f"--set {key}"), f"--set {override}")
    if trials is not None:
        set_key(document, "budget.trials", trials, "--trials")
    if name is not None:
        document["name"] = name
    document.setdefault("name", path.stem)
    return make_plan(document, str(path))


def make_plan(document: dict[str, Any], where: str) -> StudyPlan:
    """Check a study document and open its data set.

    Raises:
        StudyError: a line a mistake.
    """
    study = validate_study(document, where)
    search = study.search if study.search is not None else default_search(study.model.method)
    space = parse_space(search, f"{where}: search")
    try:
        options = study.dataset.model_dump(exclude={"name"})
        dataset = open_dataset(study.dataset.name, options, study.seed)
        if "path" in options:
            check_once(Path(options["path"]), dataset)
    except DataError as error:
        raise StudyError(str(error)) from None
    experiment = study.experiment or _experiment_name(dataset.name)
    resolved = study.model_dump() | {"experiment": experiment, "search": search}
    if "path" in options:
        resolved["dataset"]["path"] = str(Path(options["path"]).resolve())
    resolved["model"]["encoder"] = _resolved_encoder(resolved["model"]["encoder"], space, dataset, where)
    _check_space(resolved, space, where)
    _check_data(resolved, space, dataset, where)
    _check_sampler(study, space, where)
    first = _distinct([_first_point(entry, n, resolved, space, where) for n, entry in enumerate(study.first)])
    if len(first) > study.budget.trials:
        raise StudyError(f"{where}: first: {len(first)} points; budget.trials is {study.budget.trials}")
    return StudyPlan(study, resolved, space, dataset, first, _grace_epochs(resolved, space, study, where))


def default_search(method: str) -> dict[str, Any]:
    """The space of a file that names none: the method's own keys and how combinations are drawn."""
    return METHODS[method].search_space | SAMPLING_SEARCH


def set_key(document: dict[str, Any], key: str, value: Any, where: str) -> None:
    """Set a dotted key, in place; below `search` the rest of the key is a searched key.

    Raises:
        StudyError: the key goes through something that is no mapping.
    """
    *path, last = key.split(".", 1 if key.startswith("search.") else -1)
    for part in path:
        if document.get(part) is None:
            document[part] = {}
        document = document[part]
        if not isinstance(document, dict):
            raise StudyError(f"{where}: {part} is no mapping, so it has no key {last}")
    document[last] = value


def _with_point(document: dict[str, Any], point: Mapping[str, Any]) -> dict[str, Any]:
    changed = copy.deepcopy(document)
    if "model.method" in point:
        keep = {"method", "encoder", "fusion"} | {f.name for f in fields(METHODS[point["model.method"]].Settings)}
        changed["model"] = {key: value for key, value in changed["model"].items() if key in keep}
        changed["model"] |= {
            f.name: f.default for f in fields(METHODS[point["model.method"]].Settings) if f.name not in changed["model"]
        }
    for key, value in point.items():
        set_key(changed, key, value, key)
    return changed


def _flatten(value: Any, key: str) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [pair for name, inner in value.items() for pair in _flatten(inner, f"{key}.{name}")]
    return [(key, value)]


def _experiment_name(name: str) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in name)[:100] or "dmr"


def _values_met(document: dict[str, Any], space: Space, key: str, at: Mapping[str, Any] | None = None) -> list[Any]:
    """The values a key has in trials: what is searched (a range's ends) and, where that is not always, the file's.

    Args:
        at: look only at trials in which these searched keys have these values.
    """
    section, name = key.split(".")
    given = at or {}
    parameters = [p for p in space.parameters if p.key == key]
    searched = [p for p in parameters if all(given.get(k, allowed[0]) in allowed for k, allowed in p.when.items())]
    always = any(set(p.when) <= set(given) for p in searched)
    return [value for p in searched for value in p.values] + ([] if always else [document[section][name]])


def _methods(document: dict[str, Any], space: Space) -> list[str]:
    return _values_met(document, space, "model.method")


def _check_space(document: dict[str, Any], space: Space, where: str) -> None:
    """Every searched key exists, for every method it can meet, and the ends of its range are values it may have."""
    mistakes = []
    for parameter in space.parameters:
        at = f"{where}: search.{parameter.key}"
        if parameter.key.split(".")[0] not in SEARCHED_SECTIONS or "." not in parameter.key:
            mistakes.append(f"{at}: no key that can be searched; allowed are keys of {', '.join(SEARCHED_SECTIONS)}")
            continue
        met = parameter.when.get("model.method") or _methods(document, space)
        methods = [str(method) for method in met if method in METHODS]  # others are a mistake of their own
        for value in parameter.values:
            found = _mistakes_with(document, parameter, value, methods)
            if found:
                mistakes.append(f"{at}: {found}")
                break
    if mistakes:
        raise StudyError(*mistakes)


def _mistakes_with(document: dict[str, Any], parameter: Parameter, value: Any, methods: list[str]) -> str | None:
    key = parameter.key
    if key == "model.method":
        return None if value in METHODS else f"got {value!r}; allowed are {', '.join(METHODS)}"
    for method in methods:
        point = {key: value} if method == document["model"]["method"] else {"model.method": method, key: value}
        try:
            validate_study(_with_point(document, point), "")
        except StudyError as error:
            line = error.lines[0].removeprefix(": ")
            advice = "; add `when: {model.method: ...}`" if len(methods) > 1 and "no such key" in line else ""
            return line.removeprefix(f"{key}: ") + advice
    return None


def _check_data(document: dict[str, Any], space: Space, dataset: MultimodalDataset, where: str) -> None:
    """Deployment odds and every choice of encoder in the space fit the modalities."""
    for parameter in space.parameters:
        if parameter.key.startswith("model.encoder") and parameter.kind == "choice":
            for value in parameter.values:
                changed = _with_point(document, {parameter.key: value})
                _encoders(changed["model"]["encoder"], dataset, f"{where}: search.{parameter.key}")
    if document["deployment"]:
        try:
            deployment_weights(evaluated_combinations(dataset.modality_names), document["deployment"])
        except ValueError as error:
            raise StudyError(f"{where}: deployment: {error}") from None


def _encoders(document: dict[str, Any], dataset: MultimodalDataset, where: str) -> dict[str, EncoderSettings]:
    """The encoder settings of every modality."""
    entries = {
        prefix.removeprefix("model.encoder.").removesuffix("."): entry for prefix, entry in encoder_entries(document)
    }
    unknown = set(entries) - {"", *dataset.modality_names}
    if unknown:
        known = ", ".join(dataset.modality_names)
        raise StudyError(f"{where}: model.encoder.{sorted(unknown)[0]}: no such modality; they are {known}")
    chosen = {}
    for modality in dataset.modalities:
        entry = dict(entries.get(modality.name, entries.get("", {})))
        try:
            name = entry.pop("name", None)
            settings = find_encoder(name) if name is not None else type(default_encoder(modality, dataset.task))
            chosen[modality.name] = settings(**entry)
            check_encoder(modality, chosen[modality.name], dataset.task)
        except (ValueError, TypeError) as error:
            raise StudyError(f"{where}: model.encoder: {error}") from None
    return chosen


def _resolved_encoder(document: dict[str, Any], space: Space, dataset: MultimodalDataset, where: str) -> dict[str, Any]:
    """`model.encoder` with its defaults: one for all, where neither the file nor the space tells modalities apart."""
    chosen = {
        modality: {
            "name": encoder_name(settings),
            **asdict(settings),
            "weights": settings.weights and str(Path(settings.weights).resolve()),
        }
        for modality, settings in _encoders(document, dataset, where).items()
    }
    by_modality = [prefix for prefix, _ in encoder_entries(document) if prefix != "model.encoder."]
    if by_modality or any(key.startswith(f"model.encoder.{modality}.") for key in space.keys for modality in chosen):
        return chosen
    one, *others = chosen.values()
    return {key: value for key, value in one.items() if all(key in o and o[key] == value for o in others)}


def _check_sampler(study: StudyFile, space: Space, where: str) -> None:
    if study.sampler != "grid":
        return
    for parameter in space.parameters:
        if parameter.grid() is None:
            raise StudyError(
                f"{where}: sampler: grid needs a finite space; search.{parameter.key} is {parameter.text()}"
            )
        if parameter.when:
            raise StudyError(f"{where}: sampler: grid has no conditions; search.{parameter.key} has `when`")
    if space.points() is None:
        raise StudyError(f"{where}: sampler: grid needs a space of at most {MAX_ENUMERATED} points; this one has more")


def _first_point(entry: Any, number: int, document: dict[str, Any], space: Space, where: str) -> dict[str, Any]:
    """A point to run first; keys it does not name have the file's own values."""
    at = f"{where}: first[{number}]"
    given = {} if entry == DEFAULTS else entry
    if not isinstance(given, dict):
        raise StudyError(f"{at}: got {entry!r}; allowed: {DEFAULTS}, or a mapping of searched keys to values")
    unknown = sorted(str(key) for key in given if key not in space.keys)
    if unknown:
        raise StudyError(f"{at}: {unknown[0]} is not searched; searched are {', '.join(space.keys) or 'none'}")
    for parameter in space.parameters:
        if parameter.key in given and not parameter.contains(given[parameter.key]):
            value = given[parameter.key]
            raise StudyError(f"{at}: {parameter.key}: got {value!r}, outside its {parameter.text()}")
    own = dict(
        pair for section in SEARCHED_SECTIONS for pair in _flatten(_with_point(document, given)[section], section)
    )
    point: dict[str, Any] = {}
    for parameter in space.parameters:
        if not parameter.active(point):
            continue
        value = given.get(parameter.key, own.get(parameter.key))
        if not parameter.contains(value):
            raise StudyError(
                f"{at}: {parameter.key}: the file's own value is {value!r}, outside its {parameter.text()}; "
                "change one of them, or what is in `first`"
            )
        point[parameter.key] = parameter.canonical(value)
    inactive = sorted(set(given) - set(point))
    if inactive:
        raise StudyError(f"{at}: {inactive[0]} is not searched there: its `when` does not hold")
    return point


def _distinct(points: list[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    return tuple(point for n, point in enumerate(points) if point not in points[:n])


def _grace_epochs(document: dict[str, Any], space: Space, study: StudyFile, where: str) -> int:
    """Epochs a scheduler leaves every trial: at least the longest warm-up of a method in the space, and 2 more."""
    longest = 0
    for name in _methods(document, space):
        method = METHODS[name]
        at = {"model.method": name}
        changed = _with_point(document, at)
        own = {f.name: changed["model"][f.name] for f in fields(method.Settings)}
        met = _values_met(changed, space, "model.warmup_epochs", at) if "warmup_epochs" in own else []
        for settings in [own | {"warmup_epochs": value} for value in met] or [own]:
            longest = max(longest, method.warmup_of(method.Settings(**settings)))
    needed = longest + 2 if longest else 1
    given = study.scheduler.grace_epochs
    if given is not None and given < needed and study.scheduler.name != "none":
        raise StudyError(
            f"{where}: scheduler.grace_epochs: got {given}; the warm-up of {longest} epochs needs at least {needed}"
        )
    return given or max(DEFAULT_GRACE_EPOCHS, needed)
