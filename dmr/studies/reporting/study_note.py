"""The description of a study's own run in MLflow: what was found, and where to look further."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from dmr.analysis.results.record_names import (
    BEST_PREFIX,
    CONFIRM,
    DEFAULTS,
    SEARCH,
    Tag,
    config_names,
    counted,
    runs_filter,
)
from dmr.direction import Direction
from dmr.studies.reporting.confirm_table import Confirmed
from dmr.studies.trial_outcomes import FAILURES

if TYPE_CHECKING:
    from dmr.analysis.results.study_results import StudyResults

MOST_ROWS = 24  # a tag holds 8 000 characters


def study_note(
    results: StudyResults,
    experiment_id: str,
    confirmed: Confirmed | None = None,
    model: str | None = None,
    decisive: Sequence[str] = (),
) -> str:
    """Markdown: findings, ready filters, and how to reproduce them.

    Args:
        decisive: of a confirmation, what decides in the words of the report.
        model: the id of the winner's model.
    """
    parts = [finding(results, confirmed), "\n".join(f"- {sentence}" for sentence in decisive)]
    parts += [_best(results, experiment_id), _ended(results)]
    if confirmed is not None:
        parts.append(_confirmed(results, confirmed))
    parts += [_filters(results, confirmed is not None), _reproduce(results, model)]
    return "\n\n".join(part for part in parts if part)


def finding(results: StudyResults, confirmed: Confirmed | None) -> str:
    """What was found, in two sentences: the best trial against the file's defaults, and what a confirmation says."""
    from dmr.analysis.results.study_results import default_trials, stopped_trials, trial_values

    values = trial_values(results)
    if values.empty:
        return "Nothing was found: no trial has succeeded."
    trial, metric = int(values.index[0]), results.objectives[0]["metric"]
    method = str(results.runs.loc[results.runs["trial"] == trial, "method"].iloc[0])
    stopped = stopped_trials(results)
    early = f", {stopped[trial]}" if trial in stopped else ""
    found = f"Trial {trial} (`{method}`{early}) was the best of {len(results.runs)} by {metric}: "
    found += f"{values[metric].iloc[0]:.4f}"
    defaults = default_trials(results).get(method)
    if defaults == trial:
        alone = (results.runs["method"] == method).sum() < 2
        found += f"; it has the file's defaults{'' if alone else ', so searching found nothing better'}"
    elif defaults is not None and defaults in values.index:
        found += f", where the file's defaults (trial {defaults}) have {float(values[metric].loc[defaults]):.4f}"
    return f"**{found}.** {_tested(results, trial, method, confirmed)}"


def _tested(results: StudyResults, trial: int, method: str, confirmed: Confirmed | None) -> str:
    """What a confirmation says of a trial, against the file's defaults."""
    if confirmed is None:
        return f"It is not confirmed on test: `dmr confirm {results.study}` trains it again with fresh seeds."
    own = [row for row in confirmed.rows if row.configuration.method == method and row.levels]
    best = next((row for row in own if row.configuration.trial == trial), None)
    if best is None:
        return "Its confirmation has no result."
    by, what = confirmed.by, f"{confirmed.by} {results.main_metric}"
    text = f"Confirmed on test (seeds: {best.seeds}): {what} {best.with_interval(by)}"
    default = next((row for row in own if DEFAULTS in config_names(row.configuration.name) and row != best), None)
    return f"{text}{'' if default is None else f', of the defaults {default.with_interval(by)}'}."


def _best(results: StudyResults, experiment_id: str) -> str:
    from dmr.analysis.comparison.entries import covered_words
    from dmr.analysis.results.study_results import combination_values, summary_values, trial_values

    objectives, summaries = trial_values(results), summary_values(results)
    if objectives.empty:
        return "### No trial has succeeded"
    trial = objectives.index[0]
    run = results.runs.index[results.runs["trial"] == trial][0]
    method = results.runs.loc[run, "method"]
    values = {str(name): float(value) for name, value in objectives.loc[trial].items()}
    values |= {f"val/{name}": float(value) for name, value in summaries.loc[trial].items()}
    shown = ", ".join(f"{name} {value:.4f}" for name, value in values.items())
    link = f"[trial {trial}](#/experiments/{experiment_id}/runs/{run})"
    among = "the first objective's best" if len(results.objectives) > 1 else "best of the search"
    over = covered_words(results, combination_values(results).shape[1])
    return f"### {link} (`{method}`) is the {among}\n\n{shown}, over {over} combinations."


def _ended(results: StudyResults) -> str:
    statuses = Counter(results.runs["status"])
    text = ", ".join(f"{count} {status}" for status, count in statuses.items())
    failed = results.runs.loc[results.runs["status"].isin(FAILURES), "trial"]
    more = f" and {len(failed) - MOST_ROWS} more" if len(failed) > MOST_ROWS else ""
    which = f" Failed: {', '.join(map(str, sorted(failed)[:MOST_ROWS]))}{more}." if len(failed) else ""
    random_search = results.tags.get(Tag.RANDOM_SEARCH)
    how = f" {random_search[0].upper()}{random_search[1:]}." if random_search else ""
    return f"{counted(len(results.runs), 'trial')}: {text}.{which}{how}"


def _confirmed(results: StudyResults, found: Confirmed) -> str:
    rows = found.rows
    head = ("method", "configuration", *found.headings)
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    for row in rows[:MOST_ROWS]:
        lines.append(" | ".join((f"`{row.configuration.method}`", row.configuration.name, *found.texts(row))))
    more = (
        f"\n\n{len(rows) - MOST_ROWS} more: `dmr compare {results.study}` shows all of them."
        if len(rows) > MOST_ROWS
        else ""
    )
    title = f"### Confirmed on test: {results.main_metric} {found.title}"
    table = "\n".join(f"| {line} |" for line in lines)
    return f"{title}\n\n{table}{more}\n\nTrained again with fresh seeds. Means and t intervals are over the seeds."


def _filters(results: StudyResults, confirmed: bool) -> str:
    """For the search box above the table of runs."""
    study = runs_filter(results.study)
    filters = {
        "the trials of the search": runs_filter(results.study, SEARCH),
        "those that failed": f"{study} and attributes.status = 'FAILED'",
    } | {f"those near the best by `{metric}`": f"{study} and {near}" for metric, near in _near_the_best(results)}
    if confirmed:
        filters["the runs of the confirmation"] = runs_filter(results.study, CONFIRM)
        filters["its best configurations"] = runs_filter(results.study, CONFIRM, "best%")
    lines = "\n".join(f"- {what}: `{text}`" for what, text in filters.items())
    return f"### Filters for the table of runs\n\n{lines}\n\nTables and charts group by the tag `method`."


def _near_the_best(results: StudyResults) -> Iterator[tuple[str, str]]:
    """Each objective with a filter that its best trial passes."""
    from dmr.analysis.results.study_results import trial_values

    values = trial_values(results)
    for objective in results.objectives:
        metric, highest = objective["metric"], Direction(objective["mode"]) is Direction.MAX
        if len(values):
            best = values[metric].max() if highest else values[metric].min()
            bound = math.floor(100 * best) / 100 if highest else math.ceil(100 * best) / 100
            yield metric, f'metrics."{BEST_PREFIX}{metric}" {">=" if highest else "<="} {bound:g}'


def _reproduce(results: StudyResults, model: str | None) -> str:
    commit = results.tags.get(Tag.GIT_COMMIT)
    at = f" at commit `{commit}`" if commit else ""
    text = f"### Reproduce\n\n`dmr run study.yaml`{at} with the artifact `study.yaml` of this run."
    serve = f"The winner, which takes any modalities: `mlflow models serve -m models:/{model} --env-manager local`."
    return text if model is None else f"{text}\n\n### Use\n\n{serve}"
