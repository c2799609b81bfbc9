"""The check of a study file against its schema. Whatever is wrong is one line: the key, what came, what is allowed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from dmr.data.dataset import DataError, MultimodalDataset
from dmr.data.own import own_function
from dmr.data.yaml_text import text_rule
from dmr.direction import Direction
from dmr.encoders import ENCODERS
from dmr.methods import METHODS
from dmr.metrics import MAIN_METRICS, METRICS, SUMMARIES, metrics_of
from dmr.studies.names import ALLOWED_NAME, NAME
from dmr.studies.study_file.mistakes import InvalidStudy, Mistake, mistake_of_setting, short
from dmr.studies.study_file.schema import (
    SAMPLERS,
    DatasetSections,
    OwnDatasetSection,
    ResourcesSection,
    Section,
    StudyFile,
    encoder_entries,
    encoder_section,
    model_section,
)
from dmr.studies.study_file.validation_errors import mistakes_of, nearest

SectionType = TypeVar("SectionType", bound=Section)


def validate_study(document: Mapping[str, Any], data: MultimodalDataset | None = None) -> StudyFile:
    """The study of a document read from YAML, with every default filled in.

    Args:
        data: the data set; None leaves metrics as they are, unchecked, while it is not open yet.

    Raises:
        InvalidStudy: every mistake.
    """
    mistakes: list[Mistake] = []
    study = _validated(StudyFile, dict(document), "", mistakes)
    dataset = _validate_dataset(document["dataset"], mistakes) if "dataset" in document else None
    model = _validate_model(document.get("model"), mistakes)
    if mistakes or study is None:
        raise InvalidStudy(*mistakes)
    if not NAME.fullmatch(study.name):
        mistakes.append(Mistake("name", f"got {study.name!r}; {ALLOWED_NAME}"))
    if study.experiment is not None and not NAME.fullmatch(study.experiment):
        mistakes.append(Mistake("experiment", f"got {study.experiment!r}; {ALLOWED_NAME}"))
    mistakes.extend(_search_mistakes(study.search))
    mistakes.extend(_resource_mistakes(study.resources))
    study = study.model_copy(update={"dataset": dataset, "model": model})
    if data is not None and not mistakes:
        study = _with_objectives(study, data.task)
        mistakes.extend(_metric_mistakes(study, data))
    if mistakes:
        raise InvalidStudy(*mistakes)
    if data is not None:
        objectives = [o.model_copy(update={"mode": metric_direction(str(o.metric)).value}) for o in study.objective]
        study = study.model_copy(update={"objective": objectives})
    return study


def _with_objectives(study: StudyFile, task: str) -> StudyFile:
    """An objective that names no metric has the task's main one."""
    named = [o.metric or f"val/{MAIN_METRICS[task]}_mean" for o in study.objective]
    objectives = [o.model_copy(update={"metric": name}) for o, name in zip(study.objective, named, strict=True)]
    return study.model_copy(update={"objective": objectives})


def metric_names(data: MultimodalDataset, deployment: bool) -> list[str]:
    """The metrics a trial reports and a search may use."""
    summaries = SUMMARIES if deployment else SUMMARIES[:-1]
    return [f"val/{name}_{summary}" for name in metrics_of(data.task, data.num_classes) for summary in summaries]


def metric_direction(name: str) -> Direction:
    """The better end of `val/{metric}_{summary}`, from the metric's own declaration."""
    return METRICS[name.removeprefix("val/").rpartition("_")[0]].direction


def _search_mistakes(search: Any) -> Iterator[Mistake]:
    """`search` is a mapping, or a list of such blocks."""
    blocks = [("search", search)]
    if isinstance(search, list):
        blocks = [(f"search[{n}]", block) for n, block in enumerate(search)]
        if not blocks:
            yield Mistake("search", "got []; allowed: a mapping, or a list with at least 1 mapping")
    for at, block in blocks:
        if search is None or isinstance(block, dict):
            yield from (
                Mistake(f"{at}[{key!r}]", f"got {key!r}; allowed: {text_rule(key)}")
                for key in block or ()
                if key != str(key)
            )
        else:
            yield Mistake(at, f"got {short(block)}; allowed: a mapping")


def _resource_mistakes(resources: ResourcesSection) -> Iterator[Mistake]:
    """How many workers there can be, and which parts of a GPU: Ray keeps books of GPUs, it does not divide them, so
    that a part that is not 1/n leaves a rest nobody can use, and two workers of a trial on one GPU wait for ever.
    """
    workers, gpus = resources.workers, resources.gpus
    bounds = workers if isinstance(workers, list) else [workers, workers]
    whole = len(bounds) == 2 and all(type(bound) is int and bound >= 1 for bound in bounds)
    if not whole or bounds[0] > bounds[1]:
        yield Mistake("resources.workers", f"got {short(workers)}; allowed: a whole number from 1, or [least, most]")
        return
    if 0 < gpus < 1 and abs(1 / gpus - round(1 / gpus)) > 0.01:
        yield Mistake("resources.gpus", f"got {gpus:g}; allowed below 1: 1/n, such as 0.5, 0.25 or 0.33")
    if gpus > 1 and gpus != int(gpus):
        yield Mistake("resources.gpus", f"got {gpus:g}; allowed above 1: whole numbers")
    if 0 < gpus < 1 and bounds[1] > 1:
        yield Mistake(
            "resources.gpus", f"got {gpus:g} with {bounds[1]} workers; allowed with several workers: whole GPUs"
        )


def named_metrics(study: StudyFile) -> list[tuple[str, str]]:
    """The keys of a study that name a metric, each with its metric; every objective has one by now."""
    named = [(f"objective[{n}].metric", str(o.metric)) for n, o in enumerate(study.objective)]
    return named if study.scheduler.metric is None else [*named, ("scheduler.metric", study.scheduler.metric)]


def _metric_mistakes(study: StudyFile, data: MultimodalDataset) -> Iterator[Mistake]:
    known = metric_names(data, bool(study.deployment))
    for key, metric in named_metrics(study):
        if metric not in known:
            hint = " (needs `deployment`)" if metric in metric_names(data, True) else ""
            yield Mistake(key, f"no trial reports {metric!r}{hint}; {nearest(metric, known)}")
    metrics = [str(o.metric) for o in study.objective]
    if len(set(metrics)) != len(metrics):
        yield Mistake("objective", f"a metric comes twice: {', '.join(metrics)}")
    for n, (o, metric) in enumerate(zip(study.objective, metrics, strict=True)):
        if metric in known and o.mode not in (None, metric_direction(metric)):
            yield Mistake(
                f"objective[{n}].mode", f"got {o.mode!r}; {metric} has mode {metric_direction(metric).value!r}"
            )
    if len(metrics) > 1 and study.sampler == "cmaes":
        others = ", ".join(sampler for sampler in SAMPLERS if sampler != "cmaes")
        yield Mistake("sampler", f"cmaes has one objective, the file has {len(metrics)}; allowed are {others}")


def _validate_dataset(document: Any, mistakes: list[Mistake]) -> Section | None:
    if not isinstance(document, dict):
        mistakes.append(Mistake("dataset", f"got {short(document)}; allowed: a mapping"))
        return None
    if "name" not in document:
        mistakes.append(Mistake("dataset.name", "this key is needed"))
        return None
    name, path = document["name"], document.get("path")
    if isinstance(name, str) and ":" in name:
        try:
            own_function(name, [str(key) for key in document if key != "name"])
        except DataError as error:
            mistakes.append(mistake_of_setting("dataset", error))
        return _validated(OwnDatasetSection, document, "dataset.", mistakes)
    if not isinstance(name, str) or name not in DatasetSections:
        mistakes.append(Mistake("dataset.name", f"got {short(name)}; {nearest(str(name), DatasetSections)}"))
        return None
    if name == "arrays" and path in (None, ""):
        mistakes.append(Mistake("dataset.path", "arrays needs the path of a data folder"))
    if name != "arrays" and path is not None:
        mistakes.append(Mistake("dataset.path", f"{name} takes no path"))
    if name != "arrays" or path is None:  # studies of earlier versions have `path: null` with every data set
        document = {key: value for key, value in document.items() if key != "path"}
    return _validated(DatasetSections[name], document, "dataset.", mistakes)


def _validate_model(document: Any, mistakes: list[Mistake]) -> Section | None:
    document = {} if document is None else document
    if not isinstance(document, dict):
        mistakes.append(Mistake("model", f"a mapping is needed, got {short(document)}"))
        return None
    method = document.get("method", "dmrnet")
    section = _section(method, METHODS, model_section, "model.method", mistakes)
    _validate_encoder(document.get("encoder", {}), mistakes)
    return None if section is None else _validated(section, document, "model.", mistakes)


def _section(
    name: Any, known: Mapping[str, Any], make: Callable[[str], type[Section]], at: str, mistakes: list[Mistake]
) -> type[Section] | None:
    """The section of a method or encoder: one of the `known` names, or `module:Class`."""
    if not isinstance(name, str) or (name not in known and ":" not in name):
        mistakes.append(Mistake(at, f"got {short(name)}; {nearest(str(name), known)}"))
        return None
    try:
        return make(name)
    except (ValueError, TypeError, NameError, AttributeError) as error:
        reason = " ".join(str(error).split()).removeprefix(f"got {name!r}: ")
        mistakes.append(Mistake(at, f"got {name!r}; {reason}"))
        return None


def method_mistake(method: Any) -> str | None:
    """What is wrong with the name of a method."""
    mistakes: list[Mistake] = []
    _section(method, METHODS, model_section, "", mistakes)
    return mistakes[0].text if mistakes else None


def _validate_encoder(document: Any, mistakes: list[Mistake]) -> None:
    """One encoder for all modalities, `{name, width, ...}`, or a mapping from modality to such a mapping."""
    if not isinstance(document, dict):
        mistakes.append(Mistake("model.encoder", f"a mapping is needed, got {short(document)}"))
        return
    for prefix, entry in encoder_entries(document):
        section = _section(entry.get("name", "mlp"), ENCODERS, encoder_section, f"{prefix}name", mistakes)
        if section is not None:
            _validated(section, entry, prefix, mistakes)


def _validated(
    section: type[SectionType], document: dict[str, Any], prefix: str, mistakes: list[Mistake]
) -> SectionType | None:
    try:
        return section.model_validate(document)
    except ValidationError as error:
        mistakes.extend(mistakes_of(error, section, prefix))
        return None
