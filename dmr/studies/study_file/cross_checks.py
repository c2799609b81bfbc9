"""Whether the blocks of a search fit the rest of the file and the data."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

from dmr.analysis.results.record_names import MAX_TAG
from dmr.combinations import deployment_weights, evaluated_combinations
from dmr.data import DataRecipe
from dmr.data.dataset import MultimodalDataset
from dmr.methods import find_method
from dmr.studies.study_file.dotted_keys import SEARCHED_SECTIONS, methods_met, values_met, with_point
from dmr.studies.study_file.encoder_choice import choose_encoders, fitting_encoders
from dmr.studies.study_file.mistakes import InvalidStudy, Mistake, inside, invalid
from dmr.studies.study_file.schema import StudyFile
from dmr.studies.study_file.search_blocks import SearchBlock
from dmr.studies.study_file.search_space import MAX_ENUMERATED, Parameter, Space
from dmr.studies.study_file.validation import method_mistake, named_metrics, validate_study

DEFAULT_GRACE_EPOCHS = 8
NOT_SEARCHED = f"no key that can be searched; allowed are keys of {', '.join(SEARCHED_SECTIONS)}"


def check_block(document: dict[str, Any], block: SearchBlock) -> dict[str, Any]:
    """Every key exists, for every method it can meet, and its values (the ends of its range) are values it may have.

    Returns:
        The document with the block's fixed keys in place.

    Raises:
        InvalidStudy: every mistake.
    """
    if block.fixed:
        _check_fixed(document, block)
    mistakes = []
    own = with_point(document, block.fixed)
    for parameter in block.space.parameters:
        found = _parameter_mistake(own, parameter, block.space)
        if found:
            mistakes.append(Mistake(f"{block.at}.{parameter.key}", found))
    if mistakes:
        raise InvalidStudy(*mistakes)
    return own


def _check_fixed(document: dict[str, Any], block: SearchBlock) -> None:
    outside = [key for key in block.fixed if key.split(".")[0] not in SEARCHED_SECTIONS or "." not in key]
    if outside:
        raise InvalidStudy(*(Mistake(f"{block.at}.{key}", NOT_SEARCHED) for key in outside))
    method = block.fixed.get("model.method", document["model"]["method"])
    found = method_mistake(method)
    if found:
        raise invalid(f"{block.at}.model.method", found)
    with inside(f"{block.at}."):
        validate_study(with_point(document, block.fixed))


def _parameter_mistake(document: dict[str, Any], parameter: Parameter, space: Space) -> str | None:
    if parameter.key.split(".")[0] not in SEARCHED_SECTIONS or "." not in parameter.key:
        return NOT_SEARCHED
    met = parameter.when.get("model.method") or methods_met(document, space)
    methods = [str(m) for m in met if method_mistake(m) is None]  # others: their own line
    for value in parameter.values:
        found = _mistake_with(document, parameter.key, value, methods)
        if found:
            return found
    return None


def _mistake_with(document: dict[str, Any], key: str, value: Any, methods: list[str]) -> str | None:
    """What is wrong with a value, under any of the methods."""
    if key == "model.method":
        return method_mistake(value)
    for method in methods:
        point = {key: value} if method == document["model"]["method"] else {"model.method": method, key: value}
        try:
            validate_study(with_point(document, point))
        except InvalidStudy as error:
            found = error.mistakes[0]
            advice = "; add `when: {model.method: ...}`" if len(methods) > 1 and "no such key" in found.text else ""
            return (found.text if found.key == key else str(found)) + advice
    return None


def check_data(own: dict[str, Any], block: SearchBlock, dataset: MultimodalDataset) -> None:
    """The encoders of a block, every choice of them in its space included, fit the modalities, and
    `train.class_balanced` fits the task.

    Raises:
        InvalidStudy: one does not.
    """
    if dataset.task != "classification" and any(values_met(own, block.space, "train.class_balanced")):
        raise invalid("train.class_balanced", f"a sample of {dataset.task} has no single class; allowed: false")
    if block.fixed:
        with inside(f"{block.at}: "):
            fitting_encoders(own["model"]["encoder"], dataset)
    for parameter in block.space.parameters:
        if parameter.key.startswith("model.encoder") and parameter.kind == "choice":
            for value in parameter.values:
                changed = with_point(own, {parameter.key: value})
                with inside(f"{block.at}.{parameter.key}: "):
                    choose_encoders(changed["model"]["encoder"], dataset)


def check_complete(study: StudyFile, dataset: MultimodalDataset) -> None:
    """Raises:
    InvalidStudy: the full or the worst combination is asked for, and no sample of `val` has all modalities, so that
        combinations have no samples in common on which they could be compared.
    """
    if dataset.splits["val"].has().all(axis=1).any():
        return
    for key, metric in named_metrics(study):
        if metric.endswith(("_full", "_worst")):
            raise invalid(key, f"got {metric}; no sample of val has all modalities; allowed are mean and expected")


def check_redraw(study: StudyFile, recipe: DataRecipe, dataset: MultimodalDataset) -> None:
    """Raises:
    InvalidStudy: each seed of the confirmation is to have data of its own, and nothing of the data is drawn.
    """
    if study.confirm is not None and study.confirm.redraw and not recipe.draws(dataset):
        drawn = "a val that is drawn from train, `missing`, or a function that takes a `seed`"
        raise invalid("confirm.redraw", f"got true; of these data nothing is drawn by a seed, as would be {drawn}")


def check_deployment(odds: dict[str, float] | None, dataset: MultimodalDataset) -> None:
    """Raises:
    InvalidStudy: the odds do not fit the modalities.
    """
    if odds:
        try:
            deployment_weights(evaluated_combinations(dataset.modality_names), odds)
        except ValueError as error:
            raise invalid("deployment", str(error)) from None


def check_searched(keys: tuple[str, ...]) -> None:
    """Raises:
    InvalidStudy: MLflow would cut the list of searched keys, and nobody could read the study again.
    """
    letters = len(json.dumps(keys))
    if letters > MAX_TAG:
        raise invalid("search", f"the list of its {len(keys)} keys has {letters} letters; allowed are {MAX_TAG}")


def check_sampler(study: StudyFile, block: SearchBlock) -> None:
    """Raises:
    InvalidStudy: the sampler is `grid`, and the block's space is not finite, has conditions, or has too many points.
    """
    if study.sampler != "grid":
        return
    for parameter in block.space.parameters:
        at = f"{block.at}.{parameter.key}"
        if parameter.grid() is None:
            raise invalid("sampler", f"grid needs a finite space; {at} is {parameter.text()}")
        if parameter.when:
            raise invalid("sampler", f"grid has no conditions; {at} has `when`")
    if block.space.points() is None:
        raise invalid("sampler", f"grid needs a space of at most {MAX_ENUMERATED} points; this one has more")


def grace_epochs(study: StudyFile, blocks: tuple[SearchBlock, ...], block_documents: list[dict[str, Any]]) -> int:
    """Epochs a scheduler leaves every trial: at least the longest warm-up of a method in the space, and 2 more.

    Raises:
        InvalidStudy: the file says fewer.
    """
    longest = max(
        _longest_warmup(document, block.space) for block, document in zip(blocks, block_documents, strict=True)
    )
    needed = longest + 2 if longest else 1
    given = study.scheduler.grace_epochs
    if given is not None and given < needed and study.scheduler.name != "none":
        raise invalid("scheduler.grace_epochs", f"got {given}; the warm-up of {longest} epochs needs at least {needed}")
    return given or max(DEFAULT_GRACE_EPOCHS, needed)


def _longest_warmup(document: dict[str, Any], space: Space) -> int:
    longest = 0
    for name in methods_met(document, space):
        method = find_method(name)
        at = {"model.method": name}
        changed = with_point(document, at)
        own = {f.name: changed["model"][f.name] for f in fields(method.Settings)}
        met = values_met(changed, space, "model.warmup_epochs", at) if "warmup_epochs" in own else []
        for settings in [own | {"warmup_epochs": value} for value in met] or [own]:
            longest = max(longest, method.warmup_of(method.Settings(**settings)))
    return longest
