"""Every figure of a study or a comparison: its name, a sentence that says what it shows, and the figure or the reason
why there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from matplotlib.figure import Figure

from dmr.analysis.comparison.comparison import Comparison, best_on_val, chosen
from dmr.analysis.comparison.entries import covered_words
from dmr.analysis.comparison.tuning import tuning_curves
from dmr.analysis.figures.class_heatmap import class_table, read_combinations
from dmr.analysis.figures.combination_heatmap import draw_heatmap
from dmr.analysis.figures.method_heatmap import method_difference_table, method_table
from dmr.analysis.figures.missing_rates import draw_rates, rate_table
from dmr.analysis.figures.parameter_heatmap import parameter_table
from dmr.analysis.figures.pareto import draw_pareto
from dmr.analysis.figures.pareto_points import entry_points, trial_points
from dmr.analysis.figures.trial_heatmap import difference_table, heatmap_table
from dmr.analysis.figures.tuning_figure import draw_tuning
from dmr.analysis.figures.variance_curves import draw_variance, read_diagnostics
from dmr.analysis.results.record_names import DEFAULTS, DIAGNOSTICS, VALUES
from dmr.analysis.results.study_results import (
    StudyResults,
    combination_values,
    default_trials,
    methods_of,
    stopped_trials,
    trial_values,
)

ReadArtifact = Callable[[str, str], bytes | None]
TOP, MOST_READ = 24, 8
UNCONFIRMED = "no configurations to compare: nothing is confirmed and no trial has values"


class Drawn(NamedTuple):
    """A figure, its name, and a sentence that says what it shows."""

    name: str
    caption: str
    figure: Figure


class NotDrawn(NamedTuple):
    """A figure that the data do not allow, and the sentence that says why."""

    name: str
    caption: str
    reason: str


def study_figures(
    search: StudyResults,
    confirm: StudyResults | None,
    comparison: Comparison | None,
    read_artifact: ReadArtifact,
    in_use: Mapping[str, float] | None = None,
) -> Iterator[Drawn | NotDrawn]:
    """Every kind of figure of a study, drawn or with the reason why it cannot be.

    Args:
        search: the runs of the search.
        confirm: those of the confirmation, where there is one.
        read_artifact: bytes of a run's artifact by run id and path, None where it has none.
        in_use: how often each modality is missing in use; default: as the study's `deployment` says.
    """
    metric = search.main_metric
    defaults = default_trials(search, confirm)
    yield from comparison_figures(comparison) if comparison is not None else _no_comparison(metric)
    yield _drawn(
        "trials",
        f"The best trials of the search on every combination of modalities: {metric}.",
        lambda: draw_heatmap(heatmap_table(search, TOP)),
    )
    yield _drawn(
        "trials_difference",
        f"How much better or worse in {metric} than the file's defaults the best trials are, on every combination.",
        lambda: draw_heatmap(difference_table(search, TOP, DEFAULTS, defaults)),
    )
    yield _drawn(
        "parameters",
        f"How each searched parameter moves the {metric} of each combination, and how important it is.",
        lambda: draw_heatmap(parameter_table(search)),
    )
    yield tuning_figure([search], comparison)
    yield _drawn(
        "pareto",
        f"All modalities against the worst combination, and the Pareto front: {metric}.",
        lambda: _pareto(search, comparison, defaults),
    )
    yield _drawn(
        "rates",
        f"What to expect when each modality is missing at some rate, by how models were trained: {metric}.",
        lambda: draw_rates(rate_table(search, comparison, in_use)),
    )
    yield _drawn(
        "variance",
        "Predicted variance and training loss of each combination by epoch, and which ones were in the hard set.",
        lambda: _variance(search, confirm, comparison, read_artifact),
    )
    yield _drawn(
        "classes",
        "Intersection over union of each class on every combination of modalities.",
        lambda: _classes(search, comparison, read_artifact),
    )


def comparison_figures(comparison: Comparison) -> Iterator[Drawn | NotDrawn]:
    """Methods by combinations: the values, and the differences to the reference."""
    metric = comparison.metric
    yield _drawn("methods", _methods_caption(metric), lambda: draw_heatmap(method_table(comparison)))
    yield _drawn(
        "methods_difference",
        f"How much better or worse in {metric} each method is than {comparison.reference}, on every combination.",
        lambda: draw_heatmap(method_difference_table(comparison)),
    )


def tuning_figure(searches: Sequence[StudyResults], comparison: Comparison | None) -> Drawn | NotDrawn:
    """What to expect of a search of so many trials, of one study or of several that are compared."""
    return _drawn(
        "tuning_curves",
        f"What a search of so many trials is expected to reach, by block or method: {searches[0].main_metric}.",
        lambda: draw_tuning(tuning_curves(searches, comparison), searches[0].dataset),
    )


def _no_comparison(metric: str) -> Iterator[Drawn | NotDrawn]:
    yield NotDrawn("methods", _methods_caption(metric), UNCONFIRMED)
    yield NotDrawn(
        "methods_difference",
        f"How much better or worse in {metric} each method is, on every combination.",
        UNCONFIRMED,
    )


def _methods_caption(metric: str) -> str:
    return f"Each method on every combination of modalities: {metric}, mean over seeds."


def _drawn(name: str, caption: str, draw: Callable[[], Figure]) -> Drawn | NotDrawn:
    try:
        return Drawn(name, caption, draw())
    except ValueError as reason:
        return NotDrawn(name, caption, str(reason))


def _pareto(search: StudyResults, comparison: Comparison | None, defaults: dict[str, int]) -> Figure:
    panels = [trial_points(search, defaults)]
    if comparison is not None and comparison.split == "test" and comparison.entries:
        panels.append(entry_points(comparison, chosen(search, comparison.entries).label))
    several = any(panel.frame["full_low"].notna().any() for panel in panels)
    bars = "; lines through points: 95 % intervals over seeds" if several else ""
    title = f"{search.study}: all modalities present against the worst combination"
    return draw_pareto(panels, title, f"data {search.dataset}{bars}")


def _variance(
    search: StudyResults, confirm: StudyResults | None, comparison: Comparison | None, read_artifact: ReadArtifact
) -> Figure:
    """Of the first run, best configuration first and no method twice, that predicted a variance."""
    for run, what in list(_best_runs(search, confirm, comparison))[:MOST_READ]:
        content = read_artifact(run, DIAGNOSTICS)
        found = read_diagnostics(content, search.modalities) if content is not None else None
        if found is not None:
            return draw_variance(
                found,
                f"{search.study}: predicted variance of each combination by epoch",
                f"data {search.dataset}, split train; {what}; {covered_words(search, found.variance.shape[1])} "
                "combinations; orange: in the hard set",
            )
    raise ValueError(
        f"study {search.study}: no {DIAGNOSTICS} of its best runs has a predicted variance, as dmrnet's have"
    )


def _best_runs(
    search: StudyResults, confirm: StudyResults | None, comparison: Comparison | None
) -> Iterator[tuple[str, str]]:
    """A run of each method, best on val first, and what it is in words."""
    seen = set()
    if confirm is not None and comparison is not None:
        for entry in best_on_val(search, [entry for entry in comparison.entries if entry.study == search.study]):
            if entry.method not in seen:
                seen.add(entry.method)
                yield entry.run_ids[0], f"{entry.label}, one seed ({entry.seeds[0]})"
    early = stopped_trials(search)
    methods, runs = methods_of(search), search.runs.reset_index().drop_duplicates("trial").set_index("trial")
    for trial in trial_values(search).index:
        if methods[trial] not in seen:
            seen.add(methods[trial])
            what = f"trial {trial}, {methods[trial]}, one seed ({runs.loc[trial, 'seed']})"
            yield str(runs.loc[trial, "run"]), f"{what}, {early[trial]}" if trial in early else what


def _classes(search: StudyResults, comparison: Comparison | None, read_artifact: ReadArtifact) -> Figure:
    """Of the reference, which was chosen on val; without a comparison, of the best trial of the search."""
    if comparison is not None:
        entry = comparison.entry(comparison.reference)
        runs, split, what = entry.run_ids, str(comparison.split), entry.label
    else:
        order = trial_values(search).index.intersection(combination_values(search).index, sort=False)
        if order.empty:
            raise ValueError(f"study {search.study}: no trial has values to draw yet")
        best = search.runs[search.runs["trial"] == order[0]]
        runs, split, what = tuple(map(str, best.index)), "val", f"trial {order[0]}, the best"
        what += f", {early[order[0]]}" if order[0] in (early := stopped_trials(search)) else ""
    contents = [read_artifact(run, VALUES) for run in runs]
    frames = [read_combinations(content) for content in contents if content is not None]
    return draw_heatmap(class_table(search, [frame for frame in frames if frame is not None], split, what))
