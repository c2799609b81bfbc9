"""Intersection over union of each class by combination, of one configuration.

Letters: K classes, C combinations.
"""

from __future__ import annotations

import io

import pandas as pd

from dmr.analysis.comparison.entries import covered_words
from dmr.analysis.figures.combination_heatmap import HeatmapTable
from dmr.analysis.figures.style import seeds_text
from dmr.analysis.results.study_results import StudyResults, complete_samples
from dmr.combinations import all_combinations
from dmr.direction import Direction

PREFIX = "iou_"
CSV = ["split", "metric", "combination", "value"]


def read_combinations(content: bytes) -> pd.DataFrame | None:
    """A run's `combinations.csv`; None where it is not that."""
    try:
        # a modality may be called NA, which pandas would take for no text at all
        frame = pd.read_csv(io.BytesIO(content), keep_default_na=False, na_values={"value": ["", "nan"]})
    except (ValueError, UnicodeDecodeError):
        return None
    return frame if list(frame.columns) == CSV else None


def class_table(results: StudyResults, frames: list[pd.DataFrame], split: str, what: str) -> HeatmapTable:
    """Means over the runs of one configuration.

    Args:
        frames: the `combinations.csv` of each run, as of `read_combinations`.
        what: the configuration in words.

    Raises:
        ValueError: they have no metric of single classes.
    """
    numbered = [frame.assign(run=number) for number, frame in enumerate(frames)]
    rows = pd.concat(numbered) if numbered else pd.DataFrame(columns=[*CSV, "run"])
    rows = rows[(rows["split"] == split) & rows["metric"].str.startswith(PREFIX) & rows["combination"].notna()]
    if rows.empty:
        raise ValueError(
            f"study {results.study}: its runs have no {PREFIX}CLASS of combinations, as those of segmentation have"
        )
    means = rows.groupby(["metric", "combination"], sort=False)["value"].mean().unstack()
    names = [name for name in all_combinations(results.modalities).names if name in means]
    means = means.loc[list(dict.fromkeys(rows["metric"])), names]
    found = pd.DataFrame(index=means.index)
    if complete_samples(results, split) is None:  # else combinations are of different samples
        worst = rows.groupby(["metric", "run"])["value"].min().groupby("metric").mean()
        found = pd.DataFrame({"mean": means.mean(axis=1), "worst": worst[means.index]})
    means.index = found.index = [name.removeprefix(PREFIX) for name in means.index]
    return HeatmapTable(
        cells=means,
        summaries=found,
        modalities=results.modalities,
        metric="IoU",
        better=Direction.MAX,
        title=f"{results.study}: IoU of each class by combination",
        subtitle=f"data {results.dataset}, split {split}; {what}; mean over {seeds_text([len(frames)])}; "
        f"{covered_words(results, len(names))} combinations",
    )
