"""A study that can run: the file, its data set and its space, checked against each other before anything is started."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

from dmr.analysis.results.record_names import BLOCK, DEFAULTS, counted
from dmr.combinations import Combinations, evaluated_combinations
from dmr.data import DataRecipe, open_dataset
from dmr.data.arrays import data_folder
from dmr.data.augmentation import AugmentSettings, centre_crop
from dmr.data.dataset import DataError, MultimodalDataset
from dmr.data.missing import take_away
from dmr.methods import find_method
from dmr.methods.heads import HeadNorm
from dmr.metrics import MAIN_METRICS
from dmr.object_storage.store import clean_url, is_url
from dmr.settings import SamplingSettings, TrainSettings
from dmr.studies.errors import StudyError
from dmr.studies.study_file.cached_data_check import check_once
from dmr.studies.study_file.cross_checks import (
    check_block,
    check_complete,
    check_data,
    check_deployment,
    check_redraw,
    check_sampler,
    check_searched,
    grace_epochs,
)
from dmr.studies.study_file.data_digests import dataset_facts, split_digests
from dmr.studies.study_file.dotted_keys import flat_values, set_key, values_met, with_point
from dmr.studies.study_file.encoder_choice import choose_encoders, resolved_encoder
from dmr.studies.study_file.first_points import first_point, first_points
from dmr.studies.study_file.mistakes import InvalidStudy, invalid, mistake_of_setting
from dmr.studies.study_file.schema import RANDOM_START, SAMPLING_SEARCH, StudyFile
from dmr.studies.study_file.search_blocks import SearchBlock, joined_space, parse_blocks, shares
from dmr.studies.study_file.search_space import Space
from dmr.studies.study_file.validation import validate_study
from dmr.studies.yaml_io import parse_yaml, read_yaml
from dmr.training import RunSettings


@dataclass(frozen=True)
class StudyPlan:
    """A checked study.

    Attributes:
        document: the file as resolved, every default filled in; reading it again gives the same study.
        blocks: the blocks of the search, or all of it; `space` is that of all of them.
        recipe: how `dataset` came about, with the study's seed.
        first: the points to run first, in order.
    """

    study: StudyFile
    document: dict[str, Any]
    blocks: tuple[SearchBlock, ...]
    space: Space
    recipe: DataRecipe
    dataset: MultimodalDataset
    first: tuple[dict[str, Any], ...]
    grace_epochs: int

    @property
    def data_digests(self) -> dict[str, str]:
        """What the data set is known by; all of it is read."""
        return self.digests_of(*self.dataset.splits)

    def digests_of(self, *splits: str) -> dict[str, str]:
        """What some splits of the data set are known by; the others are not read."""
        for name in splits:
            if name not in self._digests:
                self._digests[name] = split_digests(self.dataset, name)
        return dataset_facts(self.dataset) | {key: text for name in splits for key, text in self._digests[name].items()}

    @cached_property
    def _digests(self) -> dict[str, dict[str, str]]:
        """Of the splits that have been read."""
        return {}

    @property
    def data_source(self) -> str:
        """The data's folder, or the name of what makes them."""
        return str(self.document["dataset"].get("path") or self.document["dataset"]["name"])

    @property
    def combinations(self) -> Combinations:
        return evaluated_combinations(self.dataset.modality_names)

    @property
    def random_search(self) -> str:
        """What to say where blocks have no more trials than their sampler proposes at random before it has learnt
        anything: they are a random search. Empty where none has.
        """
        sampler, start = self.study.sampler, RANDOM_START.get(self.study.sampler, 0)
        counts = zip(self.blocks, shares(self.study.budget.trials, len(self.blocks)), strict=True)
        few = {block.label: count for block, count in counts if count <= start and block.space.parameters}
        if not few:
            return ""
        trials, random_start = counted(max(few.values()), "trial"), counted(start, "trial")
        if None in few:
            return f"random search: {sampler} proposes its first {random_start} at random, and the budget is {trials}"
        which = "every block" if len(few) == len(self.blocks) else ", ".join(map(str, few))
        first = f"{sampler} proposes the first {random_start} of a block at random"
        return f"random search in {which}: {first}, and the share of a block is {trials}"

    @property
    def main_metric(self) -> str:
        """The metric that is kept of every combination."""
        return MAIN_METRICS[self.dataset.task]

    @property
    def confirm_seeds(self) -> range:
        """The seeds of the confirmation, none of them the search's."""
        first = self.study.seed + 1
        return range(first, first + (self.study.confirm.seeds if self.study.confirm is not None else 0))

    @property
    def redraws(self) -> bool:
        """Whether every seed of the confirmation has data of its own."""
        return self.study.confirm is not None and self.study.confirm.redraw

    @property
    def max_epochs(self) -> int:
        """The most epochs a trial can have."""
        blocks = [(with_point(self.document, block.fixed), block.space) for block in self.blocks]
        return int(max(max(values_met(document, space, "train.epochs")) for document, space in blocks))

    def block(self, point: Mapping[str, Any]) -> SearchBlock:
        """The block of the search a point belongs to."""
        return next(block for block in self.blocks if block.label == point.get(BLOCK))

    def defaults(self, block: SearchBlock) -> dict[str, Any] | None:
        """The file's defaults as a point of the space; None where they lie outside of it."""
        try:
            return first_point(DEFAULTS, DEFAULTS, block, with_point(self.document, block.fixed))
        except InvalidStudy:
            return None

    def label(self, point: Mapping[str, Any]) -> str:
        """What tables call the method of a trial: its block, so that controls of one method are told apart."""
        return str(point.get(BLOCK) or self.resolved(point)["model"]["method"])

    def on_one_worker(self) -> StudyPlan:
        """The same study with one worker per trial; its document stays, so `dmr train` finds the same run again."""
        resources = self.study.resources.model_copy(update={"workers": 1})
        return replace(self, study=self.study.model_copy(update={"resources": resources}))

    def resolved(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """The document with the values of a point of the space in place."""
        return with_point(self.document, self.block(point).changes(point))

    def run_settings(self, point: Mapping[str, Any], seed: int) -> RunSettings:
        """What a training run at this point of the space needs."""
        document = self.resolved(point)
        study = validate_study(document, self.dataset)
        model = dict(document["model"])
        method = find_method(model["method"])
        own = {f.name: model[f.name] for f in fields(method.Settings)}
        chosen = choose_encoders(model["encoder"], self.dataset)
        return RunSettings(
            method=method.Settings(**own),
            encoders={modality: encoder.settings for modality, encoder in chosen.items()},
            sampling=SamplingSettings(**study.sampling.model_dump()),  # type: ignore[attr-defined]
            train=TrainSettings(**study.train.model_dump()),  # type: ignore[attr-defined]
            fusion=model["fusion"],
            select=str(study.objective[0].metric),
            select_mode=study.objective[0].mode or "max",
            deployment=study.deployment,
            seed=seed,
            augment=AugmentSettings(**study.augment.model_dump()),  # type: ignore[attr-defined]
            watched=() if study.scheduler.metric is None else (study.scheduler.metric,),
        )

    def parameters(self, point: Mapping[str, Any], seed: int) -> dict[str, Any]:
        """What MLflow keeps as a run's parameters: every value under its dotted key but those of searched keys that are
        inactive there, and the logarithm of what is searched on a log scale, since MLflow's parallel coordinates have
        no log axis.
        """
        from math import log10

        parameters = self.block(point).space.parameters
        logs = {f"log10_{p.key}": log10(point[p.key]) for p in parameters if "log" in p.kind and p.key in point}
        label = {BLOCK: point[BLOCK]} if BLOCK in point else {}
        values = flat_values(self.resolved(point))
        inactive = {key for key in self.space.keys if key not in point and not self._is_active(key, point, values)}
        active = {key: value for key, value in values.items() if key not in inactive}
        return {"dataset.name": self.dataset.name, "seed": seed, **label, **active, **logs}

    def _is_active(self, key: str, point: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
        """Whether a searched key means something where the file's keys have these `values`: the conditions hold under
        which the point's own block searches it or, if that does not, under which another one does.
        """
        own = self.block(point)
        blocks = [own] if key in own.space.keys else [block for block in self.blocks if key in block.space.keys]
        return any(block.space.holds(key, values) for block in blocks)


def load_plan(path: Path, overrides: list[str], trials: int | None, name: str | None) -> StudyPlan:
    """Read and check a study file.

    Args:
        overrides: `key=value` with a dotted key of the file and a YAML value.
        trials: replaces `budget.trials`.
        name: replaces `name`, which defaults to the file's stem.

    Raises:
        StudyError: a line per mistake.
    """
    document = read_yaml(path)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise StudyError(f"--set {override}: key=value is needed, for example --set train.epochs=10")
        set_option(document, key, parse_yaml(text, f"--set {key}"), f"--set {override}")
    if trials is not None:
        set_option(document, "budget.trials", trials, "--trials")
    if name is not None:
        document["name"] = name
    document.setdefault("name", path.stem)
    return make_plan(document, str(path))


def set_option(document: dict[str, Any], key: str, value: Any, option: str) -> None:
    """Set a dotted key, in place, as an option of the command line asks.

    Raises:
        StudyError: the key goes through something that is no mapping.
    """
    try:
        set_key(document, key, value)
    except ValueError as error:
        raise StudyError(f"{option}: {error}") from None


def make_plan(document: dict[str, Any], where: str) -> StudyPlan:
    """Check a study document and open its data set.

    Args:
        where: the file it comes from, which a mistake's line begins with.

    Raises:
        StudyError: a line per mistake.
    """
    try:
        return _checked_plan(document)
    except InvalidStudy as error:
        raise error.in_file(where) from None


def _checked_plan(document: dict[str, Any]) -> StudyPlan:
    study = validate_study(document)
    search = study.search if study.search is not None else default_search(study.model, study.train)
    blocks = parse_blocks(search, study.model.method)
    if len(blocks) > study.budget.trials:
        least = f"{len(blocks)}, one per block of `search`"
        raise invalid("budget.trials", f"got {study.budget.trials}; allowed: at least {least}")
    try:
        options = study.dataset.model_dump(exclude={"name"})
        if study.dataset.name == "arrays":
            given, folder = options["path"], data_folder(options["path"])
            options["path"] = str(folder)
        dataset = open_dataset(study.dataset.name, options, study.seed)
        if study.dataset.name == "arrays":
            check_once(folder, dataset)
            options["path"] = clean_url(given) if is_url(given) else str(folder.resolve())
        recipe = DataRecipe(study.dataset.name, options, study.missing or {}, study.seed)
        dataset = take_away(dataset, recipe.missing, study.seed)
    except DataError as error:
        raise StudyError(str(error)) from None
    study = validate_study(document, dataset)
    if study.confirm is not None and "test" not in dataset.splits:
        raise invalid("confirm", f"needs a test split; data set {dataset.name} has only {', '.join(dataset.splits)}")
    check_complete(study, dataset)
    check_redraw(study, recipe, dataset)
    experiment = study.experiment or _experiment_name(dataset.name)
    if blocks[0].label is not None:
        search = [block.document for block in blocks]
    resolved = study.model_dump() | {"experiment": experiment, "search": search}
    if study.dataset.name == "arrays":
        resolved["dataset"]["path"] = options["path"]
    try:
        seen = centre_crop(dataset, AugmentSettings(**resolved["augment"]))
    except ValueError as error:
        raise InvalidStudy(mistake_of_setting("augment", error)) from None
    keys = [key for block in blocks for key in (*block.space.keys, *block.fixed)]
    resolved["model"]["encoder"] = resolved_encoder(resolved["model"]["encoder"], keys, seen)
    block_documents = [check_block(resolved, block) for block in blocks]
    check_deployment(study.deployment, dataset)
    for block, block_document in zip(blocks, block_documents, strict=True):
        check_data(block_document, block, seen)
        check_sampler(study, block)
    first = first_points(study.first, blocks, block_documents)
    if len(first) > study.budget.trials:
        raise invalid("first", f"got {len(first)} points; allowed: at most {study.budget.trials}, the budget's trials")
    grace = grace_epochs(study, blocks, block_documents)
    space = joined_space(blocks)
    check_searched(space.keys)
    return StudyPlan(study, resolved, blocks, space, recipe, dataset, first, grace)


def default_search(model: Any, train: Any) -> dict[str, Any]:
    """The space of a file that names none: the method's own keys, the optimisation around the file's own values, the
    normalisation of the heads, and how combinations are drawn.

    Args:
        model, train: these sections of the file.
    """
    rate, decay = train.learning_rate, train.weight_decay
    space: dict[str, Any] = find_method(model.method).search_space | {
        "train.learning_rate": {"log_uniform": [rate / 5, rate * 5]}
    }
    if decay > 0:
        space["train.weight_decay"] = {"log_uniform": [decay / 10, decay * 100]}
    if "head_norm" in type(model).model_fields:
        space["model.head_norm"] = {"choice": list(get_args(HeadNorm))}
    return space | SAMPLING_SEARCH


def _experiment_name(name: str) -> str:
    """The experiment of a file that names none: the data set's name, as far as an experiment may be called so."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip("._-")[:100] or "dmr"
