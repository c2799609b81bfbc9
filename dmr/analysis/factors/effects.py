"""What each factor of a factorial study does: main effects and interactions over the cells of `search.grid`.

Letters: S seeds, C combinations. A table of cells is an array with an axis per factor, its levels, and seeds last.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from dmr.analysis.comparison.entries import Entry, find_entries
from dmr.analysis.comparison.measure import FULL, MEAN, WORST
from dmr.analysis.results.study_results import StudyResults
from dmr.analysis.statistics import Floats, holm, mean_interval, smallest_effect, t_test
from dmr.combinations import Combinations
from dmr.direction import Direction

Cells = Mapping[str, Mapping[str, Any]]
"""The value of each factor, by key, of each cell, by its name."""
SINGLES = "singles"
DECLARED = (SINGLES, FULL, WORST)
"""The outcomes that are tested; others are for information."""
OUTCOMES = (*DECLARED, MEAN)
SECONDARY = {"nll": "nll_mean", "ece": "ece_mean"}
"""Further outcomes, the mean over combinations of how well probabilities fit, by the name of their metric."""


@dataclass(frozen=True)
class FactorEffects:
    """What each factor of a study does, and each pair of them.

    Attributes:
        effects: one row per effect and outcome: effect, kind (`main` or `interaction`), outcome (`singles`, the mean
            over combinations of one modality, `full`, `worst`, `mean`, and those of `SECONDARY` that were kept),
            estimate, the ends low and high of its 95 % t interval over n seeds, p of the t test, p_holm, and
            detectable, see `smallest_effect`. Holm's correction is over the main effects times `DECLARED`, and likewise
            over the interactions; the other outcomes have none.
        by_combination: one row per main effect and combination: effect, combination, estimate, low, high, n, p, and
            p_holm over all of them.
        tuned: whether each cell has the settings that its own search chose, or the file's own.
    """

    study: str
    dataset: str
    metric: str
    mode: Direction
    split: str
    combinations: Combinations
    effects: pd.DataFrame
    by_combination: pd.DataFrame
    tuned: bool

    def labelled(self, table: pd.DataFrame) -> pd.DataFrame:
        """One of its tables, with the study and whether the settings are `tuned` or those of the `file`."""
        return table.assign(study=self.study, settings="tuned" if self.tuned else "file")


class Effect(NamedTuple):
    """A contrast of cells: its name, whether it is of one factor or of two, and its values (..., S)."""

    name: str
    kind: str
    values: Floats


def factor_effects(results: StudyResults, cells: Cells, keys: Sequence[str], tuned: bool = True) -> FactorEffects:
    """The effects of the factors `keys`, each the mean over all cells that differ in them alone, paired by seed.

    A main effect is how much better (or worse) a level is than the first one. An interaction is how much larger the
    effect of one factor is with the second level of the other than with the first: a difference of differences.

    Args:
        results: with the runs of all stages.
        cells: of the study's grid.
        tuned: take the configuration that each cell's search put first; else the file's own, which is the same in all
            of them but for the factors.

    Raises:
        ValueError: one line: no such factor, cells without values, or fewer than two seeds in common.
    """
    found = find_entries([results])
    design = _Design.of(cells, keys)
    chosen = {entry.method: entry for entry in found.entries if (entry.is_best if tuned else entry.is_defaults)}
    entries = {name: chosen[name] for name in cells if name in chosen}
    lacking = [name for name in cells if name not in chosen]
    if lacking:
        raise ValueError(f"{results.study}: cell {lacking[0]} has no {'best' if tuned else 'defaults'} with values")
    seeds = sorted(set.intersection(*(set(entry.seeds) for entry in entries.values())))
    if len(seeds) < 2:
        raise ValueError(f"{results.study}: {len(seeds)} seeds that all cells have; needed are at least 2: dmr confirm")
    mode, combinations = results.main_mode, found.combinations
    values = {name: _with(seeds, entry) for name, entry in entries.items()}  # (S, C)
    further = _secondary(results, entries, seeds, found.split)
    outcomes = {
        name: _outcomes(entry, values[name], combinations, mode) | further[name] for name, entry in entries.items()
    }
    rows = [
        {"effect": effect.name, "kind": effect.kind, "outcome": outcome, **_tested(effect.values)}
        for outcome in next(iter(outcomes.values()))
        for effect in design.effects({name: of[outcome] for name, of in outcomes.items()})
    ]
    each = [
        {"effect": effect.name, "combination": combination, **_tested(effect.values[c])}
        for effect in design.effects({name: of.T for name, of in values.items()})
        for c, combination in enumerate(combinations.names)
        if effect.kind == "main"
    ]
    return FactorEffects(
        study=results.study,
        dataset=results.dataset,
        metric=results.main_metric,
        mode=mode,
        split=found.split,
        combinations=combinations,
        effects=_corrected(pd.DataFrame(rows)),
        by_combination=_holm(pd.DataFrame(each).drop(columns="detectable")),
        tuned=tuned,
    )


class _Design(NamedTuple):
    """Factors, the levels of each, and which cells have which, as positions of levels."""

    factors: tuple[str, ...]
    levels: tuple[tuple[Any, ...], ...]
    members: Mapping[tuple[int, ...], tuple[str, ...]]

    @classmethod
    def of(cls, cells: Cells, keys: Sequence[str]) -> _Design:
        """Raises:
        ValueError: a key is no factor of the cells, has one value, or some values of the factors never come together.
        """
        known = list(dict.fromkeys(key for cell in cells.values() for key in cell))
        for key in keys:
            if key not in known:
                raise ValueError(f"{key}: no factor; `search.grid` has {', '.join(known) or 'none'}")
        common = {name: cell for name, cell in cells.items() if set(keys) <= set(cell)}
        levels = tuple(tuple(dict.fromkeys(cell[key] for cell in common.values())) for key in keys)
        for key, values in zip(keys, levels, strict=True):
            if len(values) < 2:
                raise ValueError(f"{key}: has one value, {values[0]}, in all cells; a factor has at least two")
        members: dict[tuple[int, ...], tuple[str, ...]] = {}
        for at in itertools.product(*(range(len(values)) for values in levels)):
            wanted = {key: values[n] for key, values, n in zip(keys, levels, at, strict=True)}
            members[at] = tuple(name for name, cell in common.items() if all(cell[k] == v for k, v in wanted.items()))
        if len({len(names) for names in members.values()}) > 1:
            raise ValueError(f"{', '.join(keys)}: not every combination of their values has as many cells")
        return cls(tuple(keys), levels, members)

    def effects(self, values: Mapping[str, Floats]) -> Iterator[Effect]:
        """Main effects, then interactions, from the values (..., S) of each cell."""
        first = next(iter(values.values()))
        table = np.empty((*map(len, self.levels), *first.shape))
        for at, names in self.members.items():
            table[at] = np.mean([values[name] for name in names], axis=0)
        words = [key.rpartition(".")[2] for key in self.factors]
        for factor, (word, levels) in enumerate(zip(words, self.levels, strict=True)):
            over = np.moveaxis(table, factor, 0)
            others = tuple(range(len(self.factors) - 1))
            for level in range(1, len(levels)):
                gain = (over[level] - over[0]).mean(axis=others)
                yield Effect(f"{word}: {_text(levels[level])} − {_text(levels[0])}", "main", gain)
        for (one, first_word), (two, second_word) in itertools.combinations(enumerate(words), 2):
            over = np.moveaxis(table, (one, two), (0, 1))
            others = tuple(range(len(self.factors) - 2))
            for a, b in itertools.product(range(1, len(self.levels[one])), range(1, len(self.levels[two]))):
                gain = (over[a, b] - over[0, b] - over[a, 0] + over[0, 0]).mean(axis=others)
                name = f"{first_word} {_text(self.levels[one][a])} × {second_word} {_text(self.levels[two][b])}"
                yield Effect(name, "interaction", gain)


def _with(seeds: Sequence[int], entry: Entry) -> Floats:
    """(S, C) of an entry with these seeds."""
    return entry.values[[entry.seeds.index(seed) for seed in seeds]]


def _outcomes(entry: Entry, values: Floats, combinations: Combinations, mode: Direction) -> dict[str, Floats]:
    """(S,) each of `OUTCOMES`, from values (S, C); what the entry's combinations do not allow is NaN."""
    single = combinations.masks.sum(axis=1) == 1
    unknown = np.full(len(values), math.nan)
    worst = values.min(axis=1) if mode is Direction.MAX else values.max(axis=1)
    return {
        SINGLES: values[:, single].mean(axis=1) if single.any() else unknown,
        FULL: values[:, combinations.full] if entry.comparable else unknown,
        WORST: worst if entry.comparable else unknown,
        MEAN: values.mean(axis=1),
    }


def _secondary(
    results: StudyResults, entries: Mapping[str, Entry], seeds: Sequence[int], split: str
) -> dict[str, dict[str, Floats]]:
    """(S,) each of `SECONDARY` that all runs have, by cell."""
    table = results.table
    rows = table[(table["split"] == split) & table["metric"].isin(SECONDARY.values()) & table["combination"].isna()]
    by_run = rows.pivot(index="run", columns="metric", values="value").astype(float)
    runs = {name: [entry.run_ids[entry.seeds.index(seed)] for seed in seeds] for name, entry in entries.items()}
    used = by_run.reindex([run for own in runs.values() for run in own])
    kept = {name: metric for name, metric in SECONDARY.items() if metric in used and used[metric].notna().all()}
    return {
        cell: {name: by_run.loc[own, metric].to_numpy() for name, metric in kept.items()} for cell, own in runs.items()
    }


def _tested(values: Floats) -> dict[str, float]:
    """Of an effect (S,)."""
    found = mean_interval(values)
    return {
        "estimate": found.estimate,
        "low": found.low,
        "high": found.high,
        "n": found.n,
        "p": t_test(values),
        "detectable": smallest_effect(values),
    }


def _corrected(frame: pd.DataFrame) -> pd.DataFrame:
    """With p_holm of the declared outcomes, main effects and interactions each a family."""
    declared = frame["outcome"].isin(DECLARED)
    frame["p_holm"] = math.nan
    for kind in frame["kind"].unique():
        family = declared & (frame["kind"] == kind)
        frame.loc[family, "p_holm"] = holm(frame.loc[family, "p"].to_numpy())
    return frame


def _holm(frame: pd.DataFrame) -> pd.DataFrame:
    frame["p_holm"] = holm(frame["p"].to_numpy())
    return frame


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else "none" if value is None else str(value)
