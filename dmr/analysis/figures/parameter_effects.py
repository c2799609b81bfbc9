"""How each searched parameter moves each combination, and how much of the objective it accounts for.

Letters: N trials, C combinations, P parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats
from sklearn.ensemble import RandomForestRegressor
from sklearn.model_selection import KFold

from dmr.analysis.results.record_names import BLOCK, counted
from dmr.analysis.results.study_results import (
    StudyResults,
    combination_values,
    methods_of,
    stopped_trials,
    trial_values,
)

FEWEST = 8  # trials: fewer say nothing about a correlation
FOLDS, TREES, SHUFFLES, SEED = 5, 200, 10, 0

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Effects:
    """What parameters do.

    Attributes:
        values: index parameter, one column per combination: rank correlation in [−1, 1], or η in [0, 1] where
            `unsigned`.
        p_values: of the same shape, each by itself.
        unsigned: (P,) True for a parameter without an order.
        trials: (P,) how many have it, of methods in which it varies.
        importance: (P,) shares of all parameters, see `permutation_importance`.
        r2: of the forest on trials it was not fitted to.
        left_out: parameters of which nothing can be said, each with the reason.
        count: trials that were trained to their end; `stopped` others, with values of fewer epochs, are left out, since
            what is known of their parameters would be how many epochs they had.
    """

    values: pd.DataFrame
    p_values: pd.DataFrame
    unsigned: npt.NDArray[np.bool_]
    trials: tuple[int, ...]
    importance: pd.Series
    r2: float
    left_out: dict[str, str]
    count: int
    stopped: int


def parameter_effects(results: StudyResults, split: str = "val") -> Effects:
    """Of the trials with values that were trained to their end, each parameter within those that have it.

    Raises:
        ValueError: nothing is searched, or too few trials.
    """
    values = combination_values(results, split)
    objective = trial_values(results).iloc[:, 0]
    valued = values.index.intersection(objective.index)
    trials = valued.difference(list(stopped_trials(results)))
    if not results.searched:
        raise ValueError(f"study {results.study}: nothing is searched")
    if len(trials) < FEWEST:
        stopped = f" that were not stopped early, of {len(valued)}" if len(trials) < len(valued) else ""
        known = f"{counted(len(trials), 'trial')} with values{stopped}"
        raise ValueError(f"study {results.study}: {known}; to say what a parameter does takes {FEWEST}")
    points = results.table.drop_duplicates("trial").set_index("trial").loc[trials, list(results.searched)]
    values, objective, methods = values.loc[trials], objective.loc[trials], methods_of(results).loc[trials]
    rows, p_rows, unsigned, counts, left_out = {}, {}, [], [], {}
    for name in results.searched:
        strata = methods if name != BLOCK else methods.map(lambda _: "")
        points[name] = _where_it_varies(points[name], strata)
        has = points[name].notna()
        within = strata[has]
        column = points.loc[has, name]
        if reason := _nothing_to_say(column, within):
            left_out[name] = reason
            continue
        numeric = pd.api.types.is_numeric_dtype(column)
        measure = stratified_correlation if numeric else correlation_ratio
        found = [
            measure(column.to_numpy(), values.loc[has, c].to_numpy(), within.to_numpy())
            for c in values.columns.tolist()
        ]
        rows[name], p_rows[name] = zip(*found, strict=True)
        unsigned.append(not numeric)
        counts.append(int(has.sum()))
    if not rows:
        raise ValueError(f"study {results.study}: no parameter varies enough: {left_out_text(left_out)}")
    importance, r2 = permutation_importance(points, objective.to_numpy())
    return Effects(
        values=pd.DataFrame.from_dict(rows, orient="index", columns=values.columns),
        p_values=pd.DataFrame.from_dict(p_rows, orient="index", columns=values.columns),
        unsigned=np.array(unsigned),
        trials=tuple(counts),
        importance=importance.loc[list(rows)],
        r2=r2,
        left_out=left_out,
        count=len(trials),
        stopped=len(valued) - len(trials),
    )


def _where_it_varies(column: pd.Series, strata: pd.Series) -> pd.Series:
    """A parameter's values (N,) without those of strata (N,) in which it is constant, such as a block that does not
    search it: they say nothing of it. All of them where it is constant in every stratum.
    """
    varies = column.groupby(strata).transform("nunique") > 1
    return column.where(varies) if varies.any() else column


def _nothing_to_say(column: pd.Series, within: pd.Series) -> str:
    """Why nothing can be said of a parameter's values (N,) within strata (N,); empty where something can."""
    strata = within.nunique()
    needed = FEWEST + max(strata, 1) - 1
    if len(column) < needed:
        several = f" of {strata} methods, where {needed} are needed" if strata > 1 else f", where {needed} are needed"
        return f"in {counted(len(column), 'trial')}{several}"
    if (column.groupby(within).nunique() < 2).all():
        return "constant within each method" if column.nunique() > 1 else "constant"
    return ""


def left_out_text(left_out: Mapping[str, str]) -> str:
    """`train.epochs (constant), model.tau (in 3 trials, where 8 are needed)`"""
    return ", ".join(f"{name} ({reason})" for name, reason in left_out.items())


def stratified_correlation(x: npt.ArrayLike, y: npt.ArrayLike, strata: npt.ArrayLike) -> tuple[float, float]:
    """Spearman's rank correlation of two (N,) within strata (N,), and its two-sided p: both are ranked within each
    stratum, less the mean rank there, and correlated over all; t with N − 1 − strata degrees of freedom. With one
    stratum that is Spearman's. NaN where one of them is constant.
    """
    frame = pd.DataFrame({"x": x, "y": y, "stratum": strata}).dropna()
    by = frame.groupby("stratum")
    first, second = (_centred(by[name].rank(), frame["stratum"]) for name in ("x", "y"))
    scale = float(np.sqrt((first @ first) * (second @ second)))
    freedom = len(frame) - 1 - by.ngroups
    if scale == 0.0 or freedom < 1:
        return float("nan"), float("nan")
    rho = float(np.clip((first @ second) / scale, -1.0, 1.0))
    if abs(rho) > 1 - 1e-12:
        return rho, 0.0
    t = rho * np.sqrt(freedom / (1 - rho**2))
    return rho, float(2 * stats.t.sf(abs(t), freedom))


def correlation_ratio(groups: npt.ArrayLike, y: npt.ArrayLike, strata: npt.ArrayLike) -> tuple[float, float]:
    """η: the root of the share of the variance of y (N,), less its mean in each stratum, that lies between groups (N,);
    and the p of the F test of equal means.
    """
    frame = pd.DataFrame({"group": groups, "y": y, "stratum": strata}).dropna()
    y = _centred(frame["y"], frame["stratum"])
    parts = [y[(frame["group"] == group).to_numpy()] for group in frame["group"].unique()]
    total = float(y @ y)
    between = sum(len(part) * float(part.mean()) ** 2 for part in parts)
    freedom = len(y) - len(parts) - (frame["stratum"].nunique() - 1)
    if total == 0.0 or len(parts) < 2 or freedom < 1:
        return float("nan"), float("nan")
    within = max(total - between, 0.0)
    f = between / (len(parts) - 1) / (within / freedom) if within > 0 else np.inf
    return float(np.sqrt(min(1.0, between / total))), float(stats.f.sf(f, len(parts) - 1, freedom))


def _centred(values: pd.Series, strata: pd.Series) -> Floats:
    centred: Floats = (values - values.groupby(strata).transform("mean")).to_numpy(dtype=float)
    return centred


def permutation_importance(points: pd.DataFrame, objective: Floats, seed: int = SEED) -> tuple[pd.Series, float]:
    """Importance (P,) of each parameter, and R² on held-out trials.

    A random forest (Breiman 2001) is fitted to the other folds; the importance is how much its squared error on the
    held-out fold grows when the parameter is shuffled among the trials there that have it, not below 0, as a share of
    the sum over parameters. Where the forest predicts held-out trials no better than their mean, it is NaN.
    """
    features = np.column_stack([_numbers(points[name]) for name in points])
    has = points.notna().to_numpy()
    variance = float(np.var(objective))
    if variance == 0.0:
        return pd.Series(np.nan, index=points.columns), float("nan")
    generator = np.random.default_rng(seed)
    grown: Floats = np.zeros(features.shape[1])
    missed = 0.0
    for fitted, held in KFold(FOLDS, shuffle=True, random_state=seed).split(features):
        forest = RandomForestRegressor(TREES, min_samples_leaf=2, random_state=seed).fit(
            features[fitted], objective[fitted]
        )
        known = objective[held]
        error = float(((forest.predict(features[held]) - known) ** 2).sum())
        missed += error
        shuffled = np.tile(features[held], (len(points.columns) * SHUFFLES, 1, 1))
        for at, block in enumerate(shuffled):
            column = at // SHUFFLES
            rows = np.flatnonzero(has[held, column])
            block[rows, column] = block[generator.permutation(rows), column]
        errors = (forest.predict(shuffled.reshape(-1, features.shape[1])).reshape(len(shuffled), -1) - known) ** 2
        grown += np.asarray(errors.sum(axis=1).reshape(-1, SHUFFLES).mean(axis=1) - error, dtype=np.float64)
    r2 = 1.0 - missed / len(objective) / variance
    shares = np.maximum(grown, 0.0) / max(float(np.maximum(grown, 0.0).sum()), 1e-300)
    known = r2 > 0 and shares.sum() > 0
    return pd.Series(shares if known else np.nan, index=points.columns, name="importance"), r2


def _numbers(column: pd.Series) -> Floats:
    """A parameter for a forest, which needs order alone: below all others where it is absent."""
    numbers = column if pd.api.types.is_numeric_dtype(column) else pd.Series(pd.factorize(column)[0], column.index)
    filled: Floats = np.asarray(numbers.where(column.notna()).rank(method="dense").fillna(0.0), dtype=np.float64)
    return filled
