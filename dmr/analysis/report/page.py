"""A study as one self-contained page: the answer, what was studied, figures, tables, and how to get each number again.

The page needs no network and loads nothing; what comes from outside, names and messages included, is escaped.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from dmr.analysis.comparison.comparison import compared
from dmr.analysis.report.answer import answer
from dmr.analysis.report.embedded_figures import pictures_of
from dmr.analysis.report.facts import commands, facts, notes, space_table
from dmr.analysis.report.page_tables import (
    NOTHING,
    combinations_table,
    configurations_table,
    confirm_runs_table,
    failures_table,
    trials_table,
)
from dmr.analysis.results.artifacts import read_artifact, samples_reader
from dmr.analysis.results.load_study import load_study
from dmr.analysis.results.record_names import CONFIRM, SEARCH
from dmr.analysis.results.study_results import stage_of
from dmr.analysis.store_uris import without_password
from dmr.files import write_text

ENDS_WELL = ("completed", "pruned", "time_budget", "running")
MESSAGES = 50  # of failed runs that are looked up, each a question to MLflow
UI = "http://127.0.0.1:5000"  # where `dmr ui` listens unless told otherwise
SECTIONS = (
    ("answer", "The answer"),
    ("studied", "What was studied"),
    ("figures", "Figures"),
    ("comparison", "Comparison"),
    ("trials-section", "Trials"),
    ("reproduce", "How to get each number again"),
    ("limits", "What the numbers do not say"),
)


@dataclass(frozen=True)
class Source:
    """Where a study lies.

    Attributes:
        key: the tag `dmr.key` of its own run, see `load_study`.
        study_file: the file as resolved, YAML.
        ended: when the study ended, in milliseconds since 1970, where that is known before MLflow knows it.
    """

    tracking_uri: str
    experiment: str
    study: str
    key: str | None
    study_file: str
    ended: int | None = None


def write_report(source: Source, path: Path, figures: Path | None = None) -> Path:
    """Write the page of a study, at whatever point it is; the file is there whole or not at all.

    Args:
        figures: a folder for the figures on it, as .png.

    Raises:
        LookupError: MLflow has no such study, or cannot be read.
        OSError: the file cannot be written.
    """
    write_text(path, render(source, figures))
    return path


def render(source: Source, figures: Path | None = None) -> str:
    """The page, and its figures as files, if wanted."""
    from jinja2 import Environment, StrictUndefined
    from mlflow import MlflowClient

    both = load_study(source.tracking_uri, source.study, experiment=source.experiment, key=source.key, stage=None)
    client = MlflowClient(source.tracking_uri)
    parent = client.get_run(both.parent_run_id)
    search, confirmed = stage_of(both, SEARCH), stage_of(both, CONFIRM)
    comparison, why_not = compared(both, samples_reader(source.tracking_uri))
    document = yaml.safe_load(source.study_file) or {}
    link = run_links(source.tracking_uri, parent.info.experiment_id)
    pictures, not_drawn = pictures_of(
        search,
        None if confirmed.runs.empty else confirmed,
        comparison,
        lambda run_id, name: read_artifact(client, run_id, name),
        figures,
    )
    failed = both.runs[~both.runs["status"].isin(ENDS_WELL)]
    messages = {
        str(run_id): _message(read_artifact(client, str(run_id), "error.txt")) for run_id in failed.index[:MESSAGES]
    }
    style, script = _own("report.css"), _own("report.js")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["code"] = _code
    shown_uri = without_password(source.tracking_uri)
    return environment.from_string(_own("report.html")).render(
        nothing=NOTHING,
        study=source.study,
        dataset=both.dataset,
        written=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        sections=SECTIONS,
        style=_markup(style),
        style_hash=_hash(style),
        script=_markup(script),
        script_hash=_hash(script),
        answer=answer(both, comparison, (document.get("model") or {}).get("method")),
        facts=facts(
            search, confirmed, document, parent.info.start_time, parent.info.end_time or source.ended, shown_uri
        ),
        space=space_table(document),
        failures=failures_table(failed, messages, link) if len(failed) else None,
        pictures=pictures,
        not_drawn=not_drawn,
        configurations=None if comparison is None else configurations_table(comparison),
        combinations=None if comparison is None else combinations_table(comparison),
        no_comparison=why_not,
        runs_note=_runs_note(source, shown_uri),
        trials=trials_table(search, link),
        confirm_runs=None if confirmed.runs.empty else confirm_runs_table(confirmed, link),
        commands=commands(search, comparison),
        study_file=without_password(source.study_file),
        notes=notes(search, comparison),
    )


def run_links(tracking_uri: str, experiment_id: str) -> Callable[[str], str]:
    """From a run's id to its page: on the tracking server, else on what `dmr ui` starts."""
    server = without_credentials(tracking_uri) if tracking_uri.startswith(("http://", "https://")) else UI
    return lambda run_id: f"{server.rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}"


def without_credentials(uri: str) -> str:
    """A link works without them where the browser knows them, and must not show them."""
    scheme, _, rest = uri.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def _runs_note(source: Source, shown_uri: str) -> str:
    if source.tracking_uri.startswith("http"):
        return f"Each run is linked to its page on {without_credentials(source.tracking_uri)}."
    return (
        f"Each run is linked to its page in the MLflow UI, which `MLFLOW_TRACKING_URI={shown_uri} dmr ui` opens on "
        f"{UI}; elsewhere the part of the link from # on is the same."
    )


def _message(content: bytes | None) -> str:
    """The first line of an error file."""
    lines = (content or b"").decode("utf-8", errors="replace").splitlines()
    return without_password(lines[0])[:500] if lines else ""


def _own(name: str) -> str:
    """A file of this package."""
    return (files("dmr.analysis.report") / name).read_text(encoding="utf-8")


def _markup(text: str) -> Any:
    """Our own style and script, which must not be escaped."""
    from markupsafe import Markup

    return Markup(text)


def _code(text: str) -> Any:
    """Escaped, and what stands between backticks as code."""
    from markupsafe import escape

    return _markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _hash(text: str) -> Any:
    """What a Content-Security-Policy allows this one inline text by."""
    return _markup(f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'")
