"""Parameters by combinations, with a bar of importance: the figure of `dmr.analysis.figures.parameter_effects`."""

from __future__ import annotations

from dmr.analysis.comparison.entries import covered_words
from dmr.analysis.figures.combination_heatmap import HeatmapTable
from dmr.analysis.figures.parameter_effects import SEED, left_out_text, parameter_effects
from dmr.analysis.figures.style import complete_trials_text
from dmr.analysis.results.study_results import StudyResults, methods_of
from dmr.analysis.statistics import SIGNIFICANCE


def parameter_table(results: StudyResults) -> HeatmapTable:
    """The most important parameter first.

    Raises:
        ValueError: nothing is searched, or too few trials.
    """
    effects = parameter_effects(results)
    order = effects.importance.fillna(0.0).reset_index(drop=True).sort_values(ascending=False, kind="stable").index
    labels = [
        f"{name} (η, {count} trials)" if unsigned else f"{name} ({count} trials)"
        for name, unsigned, count in zip(effects.values.index, effects.unsigned, effects.trials, strict=True)
    ]
    metric, objective = results.main_metric, results.objectives[0]["metric"]
    within = " within each method" if methods_of(results).nunique() > 1 else ""
    notes = [
        f"data {results.dataset}, split val; {effects.count} trials{complete_trials_text(effects.stopped)}, one seed "
        f"each; {covered_words(results, effects.values.shape[1])} combinations",
        f"rank correlation of the parameter with {metric}{within}, in the trials that have it, of methods in which it "
        f"varies; nearly grey where p > {SIGNIFICANCE:g}, each cell by itself",
    ]
    if effects.unsigned.any():
        notes.append("green: η of a parameter without order, which has no sign")
    if effects.importance.notna().any():
        notes.append(
            f"importance for {objective}: by how much the error of a random forest on held-out trials grows when the "
            f"parameter is shuffled, shares of all (R² {effects.r2:.2f}, seed {SEED})"
        )
    else:
        notes.append(f"no importance: a random forest (seed {SEED}) does not predict {objective} of held-out trials")
    if effects.left_out:
        notes.append(f"left out: {left_out_text(effects.left_out)}")
    cells = effects.values.set_axis(labels).iloc[order]
    return HeatmapTable(
        cells=cells,
        summaries=cells.iloc[:, :0],
        modalities=results.modalities,
        metric="rank correlation (blue: better when greater)",
        better=results.main_mode,
        title=f"{results.study}: how each parameter moves {metric} of each combination",
        subtitle="; ".join(notes),
        difference=True,
        muted=~(effects.p_values.to_numpy()[order] <= SIGNIFICANCE),
        unsigned=effects.unsigned[order],
        bars=effects.importance.set_axis(labels).iloc[order].rename("importance"),
    )
