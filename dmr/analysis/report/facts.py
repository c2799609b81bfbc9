"""What was studied, how to get each number again, and what the numbers do not say."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from dmr.analysis.comparison.comparison import Comparison
from dmr.analysis.figures.style import better_end
from dmr.analysis.report.answer import SEARCHED, TESTED
from dmr.analysis.report.page_tables import NOTHING, Cell, Column, Table
from dmr.analysis.report.words import duration, status_words
from dmr.analysis.results.record_names import METHOD_PARAM, Tag, best_metric, runs_filter, summary_metric
from dmr.analysis.results.study_results import StudyResults

WHEN, NAME = "when", "name"


def facts(
    search: StudyResults,
    confirmed: StudyResults,
    document: Mapping[str, Any],
    started: int,
    ended: int | None,
    shown_uri: str,
) -> list[tuple[str, str]]:
    """What was studied, as pairs of a name and a text.

    Args:
        document: the study file; what it lacks is left out.
        started, ended: when, in milliseconds since 1970; None where it has not ended.
    """
    tags = search.tags
    budget, confirm = document.get("budget") or {}, document.get("confirm")
    found = [
        ("Data set", search.dataset),
        ("Samples", _samples(tags.get(Tag.SAMPLES))),
        ("Of these with all modalities", _named(tags.get(Tag.COMPLETE))),
        ("Modalities", f"{len(search.modalities)}: {', '.join(search.modalities)}"),
        ("Combinations evaluated", search.combinations),
        ("Methods", ", ".join(_methods(search, document))),
        ("Objective", ", ".join(f"{one['metric']} ({one['mode']})" for one in search.objectives)),
        (
            "Main metric",
            f"{search.main_metric}, {better_end(search.main_mode)}",
        ),
        ("Deployment odds", _named(tags.get(Tag.DEPLOYMENT))),
        ("Budget", ", ".join(f"{value} {name}" for name, value in budget.items() if value is not None)),
        ("Search", _search(document, tags.get(Tag.RANDOM_SEARCH, ""))),
        ("Trials", _statuses(search)),
        ("Confirmation", _confirmation(confirmed, confirm, search.study)),
        ("Started", _date(started)),
        ("Ended", _date(ended) if ended else "not yet"),
        ("Run time, all runs", duration(float(search.runs["seconds"].sum() + confirmed.runs["seconds"].sum()))),
        ("Git commit", tags.get(Tag.GIT_COMMIT, "not recorded")),
        ("Versions", _named(tags.get(Tag.VERSIONS)) or "not recorded"),
        ("MLflow", f"{shown_uri}, run {search.parent_run_id}, filter: {runs_filter(search.study)}"),
    ]
    return [(name, text) for name, text in found if text]


def space_table(document: Mapping[str, Any]) -> Table | None:
    """A row per searched key and distribution, with the blocks that have it; None where nothing is searched."""
    search = document.get("search")
    blocks = search if isinstance(search, list) else [search or {}]
    having: dict[tuple[str, str, str], list[str]] = {}
    for block in blocks:
        for key, given in block.items():
            if key not in (NAME, METHOD_PARAM):
                having.setdefault((key, *_distribution(given)), []).append(str(block.get(NAME, "")))
    if not having:
        return None
    several = len(blocks) > 1
    rows = []
    for (key, text, when), names in having.items():
        own = _value(document, key)
        cells = [Cell(key, code=True), Cell(text), Cell(when or NOTHING), Cell(NOTHING if own is None else str(own))]
        of = "all" if len(names) == len(blocks) else ", ".join(names)
        rows.append((*cells, Cell(of)) if several else tuple(cells))
    labels = ("key", "values", "only when", "the file's default", *(("blocks",) if several else ()))
    caption = "What was searched, and what blocks fix" if several else "What was searched"
    return Table("space", caption, tuple(Column(label) for label in labels), tuple(rows))


def commands(search: StudyResults, comparison: Comparison | None) -> list[tuple[str, str, str]]:
    """Rows of what a command gives, the command, and a remark."""
    name = shlex.quote(search.study)
    rows = [
        ("Values of the search", f"dmr table {name}", "one row per trial, split, metric and combination"),
        ("All metrics", f"dmr table {name} --metrics all", "those beside the main one come from the runs' artifacts"),
    ]
    if comparison is not None:
        if comparison.split == TESTED:
            rows.append(
                ("Values on test", f"dmr table {name} --stage confirm", "one row per run, metric and combination")
            )
        rows.append(
            (
                "Means, intervals, tests, Shapley values",
                f"dmr compare {name} --reference {shlex.quote(comparison.reference)}",
                "in MLflow the mean of a run is its metric "
                f"{best_metric(str(comparison.split), summary_metric(comparison.metric, 'mean'))}, a combination's "
                f"{best_metric(str(comparison.split), comparison.metric, 'COMBINATION')}",
            )
        )
        entry = comparison.entry(comparison.reference)
        rows.append(
            (
                f"One network of {entry.label} again",
                f"dmr evaluate {entry.run_ids[0]} --split {comparison.split}",
                "from its checkpoint, as long as the study's folder has it",
            )
        )
    commit = search.tags.get(Tag.GIT_COMMIT)
    checkout = f"git checkout {shlex.quote(commit)} && " if commit else ""
    rows += [
        ("Figures", f"dmr figures {name} -o figures", ""),
        ("This page", f"dmr report {name}", ""),
        (
            "The whole study",
            f"{checkout}dmr run study.yaml --name again",
            "with the study file below saved as study.yaml, and the versions above",
        ),
    ]
    return rows


def notes(search: StudyResults, comparison: Comparison | None) -> list[str]:
    """What a reader must not read into the numbers."""
    found = list(comparison.notes) if comparison is not None else []
    found.append(
        "The search sees train and val only. The values of its trials are of one seed each, and the best of many is "
        "too good because it was chosen: what is to be believed are means over fresh seeds on test."
    )
    if comparison is not None and comparison.split == SEARCHED:
        found.append("Nothing here was measured on test.")
    found += [
        "All of it is about this data set, these networks and this budget; other data may order methods otherwise.",
        "That a test does not tell two configurations apart does not show that they are equally good.",
    ]
    return [_sentence(note) for note in found]


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _methods(search: StudyResults, document: Mapping[str, Any]) -> list[str]:
    """Blocks with the method each is of, where it is called otherwise."""
    pairs = search.runs.sort_values("trial")[["method", "model"]].dropna(subset="method").drop_duplicates()
    named = [
        str(method) if pd.isna(model) or model == method else f"{method} ({model})"
        for method, model in pairs.itertuples(index=False)
    ]
    return named or [str(_value(document, METHOD_PARAM) or "")]


def _samples(tag: str | None) -> str:
    """Samples per split and classes, from the tag."""
    if tag is None:
        return "not recorded"
    counts = json.loads(tag)
    classes = counts.pop("classes", None)
    text = ", ".join(f"{count} {split}" for split, count in counts.items())
    return f"{text}; {classes} classes" if classes is not None else text


def _named(tag: str | None) -> str:
    return "" if tag is None else ", ".join(f"{name} {value}" for name, value in json.loads(tag).items())


def _search(document: Mapping[str, Any], random_search: str) -> str:
    scheduler = document.get("scheduler") or {}
    parts = [f"sampler {document['sampler']}"] if "sampler" in document else []
    parts += [f"scheduler {scheduler['name']}"] if "name" in scheduler else []
    epochs = (document.get("train") or {}).get("epochs")
    text = ", ".join(parts + ([f"{epochs} epochs per trial"] if epochs else []))
    return "; ".join(filter(None, (text, random_search)))


def _statuses(results: StudyResults) -> str:
    return f"{len(results.runs)}: {status_words(results.runs)}" if len(results.runs) else "none yet"


def _confirmation(confirmed: StudyResults, confirm: Mapping[str, Any] | None, study: str) -> str:
    if len(confirmed.runs):
        return _statuses(confirmed)
    return "not begun yet" if confirm else f"none; `dmr confirm {study}` trains the best again with fresh seeds"


def _date(milliseconds: int) -> str:
    return f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%d %H:%M} UTC"


def _distribution(given: Any) -> tuple[str, str]:
    """`{log_uniform: [0.1, 3.0], when: {...}}` in words, and when; anything else is a fixed value."""
    if not isinstance(given, Mapping):
        return str(given), ""
    when = given.get(WHEN) or {}
    kinds = [f"{kind} {_range(values)}" for kind, values in given.items() if kind != WHEN]
    return ", ".join(kinds), ", ".join(f"{key} is {value}" for key, value in when.items())


def _range(values: Any) -> str:
    return ", ".join(map(str, values)) if isinstance(values, list) else str(values)


def _value(document: Mapping[str, Any], key: str) -> Any:
    found: Any = document
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found
