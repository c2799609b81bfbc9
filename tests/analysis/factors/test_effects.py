"""Effects of factors against a least-squares fit and numbers by hand."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import dmr.analysis.factors.effects
from dmr.analysis.comparison.entries import Entries, Entry
from dmr.analysis.factors.effect_figures import draw_effects, effect_table
from dmr.analysis.factors.effects import FactorEffects, factor_effects
from dmr.analysis.results.study_results import StudyResults
from dmr.analysis.statistics import smallest_effect, t_test
from dmr.combinations import all_combinations
from dmr.direction import Direction

KEYS = ("model.noise_scale", "model.kl_weight", "model.head_norm")
LEVELS = ((0.0, 1.0), (0.0, 0.001), ("batch", "none", "layer"))
COMBINATIONS = all_combinations(("a", "b", "c"))
SEEDS = 6
CELLS = {".".join(map(str, at)): dict(zip(KEYS, at, strict=True)) for at in itertools.product(*LEVELS)}


class Results:
    study, dataset, main_metric, main_mode = "parts", "made", "accuracy", Direction.MAX
    table = pd.DataFrame(columns=["run", "split", "metric", "combination", "value"])


def entry(name: str, values: Any, config: str = "best 1", first: int = 1) -> Entry:
    seeds = tuple(range(first, first + len(values)))
    return Entry(
        "parts", name, config, 0, f"{name} {config}", "dmrnet", seeds, values, values, True, tuple(map(str, seeds))
    )


def values_of() -> dict[str, Any]:
    draw = np.random.default_rng(0)
    return {name: draw.random((SEEDS, len(COMBINATIONS))) for name in CELLS}


@pytest.fixture
def effects(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FactorEffects]:
    def found(entries: list[Entry], keys: tuple[str, ...] = KEYS, cells: Any = CELLS, **options: Any) -> FactorEffects:
        all_entries = Entries(tuple(entries), "test", COMBINATIONS, ())
        monkeypatch.setattr(dmr.analysis.factors.effects, "find_entries", lambda results: all_entries)
        return factor_effects(cast(StudyResults, Results()), cells, keys, **options)

    return found


def outcomes(values: Any) -> dict[str, Any]:
    """(S,) each, from (S, C)."""
    sizes = COMBINATIONS.masks.sum(1)
    return {
        "singles": values[:, sizes == 1].mean(1),
        "full": values[:, sizes == 3][:, 0],
        "worst": values.min(1),
        "mean": values.mean(1),
    }


def test_main_effects_and_interactions_are_those_of_a_least_squares_fit(effects: Callable[..., FactorEffects]) -> None:
    """With sum-to-zero contrasts the coefficients of a full factorial model give every marginal mean."""
    values = values_of()
    found = effects([entry(name, own) for name, own in values.items()])
    frame = found.effects.set_index(["effect", "outcome"])
    for outcome in ("singles", "full", "worst", "mean"):
        y = np.stack([outcomes(values[name])[outcome] for name in CELLS])  # (cells, S)
        for factor, levels in enumerate(LEVELS):
            at = np.array([levels.index(cell[KEYS[factor]]) for cell in CELLS.values()])
            design = np.stack([at == level for level in range(len(levels))], axis=1).astype(float)
            marginal = np.linalg.lstsq(design, y, rcond=None)[0]  # (levels, S)
            for level in range(1, len(levels)):
                gain = marginal[level] - marginal[0]
                word = KEYS[factor].rpartition(".")[2]
                text = [f"{v:g}" if isinstance(v, float) else v for v in (levels[level], levels[0])]
                row = frame.loc[(f"{word}: {text[0]} − {text[1]}", outcome)]
                test = stats.ttest_1samp(gain, 0.0)
                low, high = test.confidence_interval()
                assert row[["estimate", "low", "high", "p"]].tolist() == pytest.approx(
                    [gain.mean(), low, high, test.pvalue]
                )
                assert row["n"] == SEEDS
        both = y * np.array([(1 if c[KEYS[0]] else -1) * (1 if c[KEYS[1]] else -1) for c in CELLS.values()])[:, None]
        row = frame.loc[("noise_scale 1 × kl_weight 0.001", outcome)]
        assert row["estimate"] == pytest.approx(4 * both.mean(0).mean())
    assert set(found.effects["kind"]) == {"main", "interaction"}
    assert (found.effects["kind"] == "main").sum() == 4 * 4
    assert (found.effects["kind"] == "interaction").sum() == 4 * (1 + 2 + 2)


def test_holm_is_over_the_main_effects_on_the_declared_outcomes(effects: Callable[..., FactorEffects]) -> None:
    frame = effects([entry(name, own) for name, own in values_of().items()]).effects
    main = frame[(frame["kind"] == "main") & (frame["outcome"] != "mean")]
    assert len(main) == 12
    smallest = main.loc[main["p"].idxmin()]
    assert smallest["p_holm"] == pytest.approx(min(1.0, 12 * smallest["p"]))
    assert frame[frame["outcome"] == "mean"]["p_holm"].isna().all()


def test_how_well_probabilities_fit_is_told_beside_it(
    effects: Callable[..., FactorEffects], monkeypatch: pytest.MonkeyPatch
) -> None:
    values = values_of()
    entries = [replace(entry(n, v), run_ids=tuple(f"{n}/{seed}" for seed in range(SEEDS))) for n, v in values.items()]
    rows = [
        {"run": run, "split": "test", "metric": "nll_mean", "combination": None, "value": seed + more}
        for own in entries
        for more in [3.0 * (CELLS[own.method][KEYS[2]] == "none")]
        for seed, run in enumerate(own.run_ids)
    ]
    rows.append(
        {"run": entries[0].run_ids[0], "split": "test", "metric": "ece_mean", "value": 0.1, "combination": None}
    )
    monkeypatch.setattr(Results, "table", pd.DataFrame(rows))
    frame = effects(entries).effects
    assert "ece" not in set(frame["outcome"])  # of one run only
    nll = frame[frame["outcome"] == "nll"].set_index("effect")
    assert nll.loc["head_norm: none − batch", "estimate"] == pytest.approx(3.0)
    assert nll["p_holm"].isna().all()


def test_effects_by_combination(effects: Callable[..., FactorEffects]) -> None:
    values = values_of()
    frame = effects([entry(name, own) for name, own in values.items()]).by_combination
    with_noise, without = ([v for n, v in values.items() if CELLS[n][KEYS[0]] == level] for level in (1.0, 0.0))
    expected = (np.mean(with_noise, axis=0) - np.mean(without, axis=0)).mean(0)
    rows = frame[frame["effect"] == "noise_scale: 1 − 0"]
    assert rows["combination"].tolist() == list(COMBINATIONS.names)
    np.testing.assert_allclose(rows["estimate"], expected)


def test_fewer_factors_are_averaged_over_the_others(effects: Callable[..., FactorEffects]) -> None:
    entries = [entry(name, own) for name, own in values_of().items()]
    whole, some = effects(entries).effects, effects(entries, KEYS[:1]).effects
    own = whole[whole["effect"] == "noise_scale: 1 − 0"]
    np.testing.assert_allclose(some["estimate"], own["estimate"])


def test_the_seeds_in_common_and_the_settings_of_the_file(effects: Callable[..., FactorEffects]) -> None:
    values = values_of()
    cells = {name: cell for name, cell in CELLS.items() if cell[KEYS[2]] == "none"}
    entries = [entry(name, values[name], "best 1, defaults", first=n % 2 + 1) for n, name in enumerate(cells)]
    entries += [entry(name, values[name] + 1.0, "best 2") for name in cells]
    for tuned in (True, False):
        found = effects(entries, KEYS[:2], cells, tuned=tuned)
        assert set(found.effects["n"]) == {SEEDS - 1}
        assert found.tuned is tuned


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            lambda cells, entries: (cells, entries, ("model.draws",)),
            "model.draws: no factor; .*has model.noise_scale, ",
        ),
        (lambda cells, entries: (cells, entries[1:], KEYS), "parts: cell 0.0.0.0.batch has no best with values"),
        (
            lambda cells, entries: (dict(list(cells.items())[:-1]), entries, KEYS),
            "model.noise_scale, .*: not every combination of their values has as many cells",
        ),
        (
            lambda cells, entries: ({n: c for n, c in cells.items() if not c[KEYS[0]]}, entries, KEYS),
            "model.noise_scale: has one value, 0.0, in all cells",
        ),
        (
            lambda cells, entries: (cells, [entry(e.method, e.values[:1]) for e in entries], KEYS),
            "parts: 1 seeds that all cells have; needed are at least 2",
        ),
    ],
)
def test_what_is_no_factorial_study(effects: Callable[..., FactorEffects], change: Any, line: str) -> None:
    cells, entries, keys = change(CELLS, [entry(name, own) for name, own in values_of().items()])
    with pytest.raises(ValueError, match=line):
        effects(entries, keys, cells)


def test_the_smallest_effect_is_found_as_often_as_it_says() -> None:
    draw = np.random.default_rng(0)
    effect = np.sqrt(np.mean([smallest_effect(draw.standard_normal(20)) ** 2 for _ in range(2000)]))
    found = [t_test(draw.standard_normal(20) + effect) <= 0.05 for _ in range(2000)]
    assert np.mean(found) == pytest.approx(0.8, abs=0.03)
    assert t_test([0.5, 0.5]) == 0.0
    assert t_test([0.0, 0.0]) == 1.0


def test_the_figures_say_all_effects(effects: Callable[..., FactorEffects], check_texts: Callable[..., Any]) -> None:
    found = effects([entry(name, own) for name, own in values_of().items()])
    texts = {text.get_text() for text in check_texts(draw_effects([found, found]))}
    assert {"noise_scale: 1 − 0", "kl_weight: 0.001 − 0", "singles", "full", "worst", "mean"} <= texts
    table = effect_table(found)
    assert table.cells.shape == (4, 7)
    assert list(table.summaries) == ["singles", "full", "worst", "mean"]
