from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats

from dmr.analysis.figures import parameter_effects as importance
from dmr.analysis.figures.parameter_effects import (
    correlation_ratio,
    parameter_effects,
    permutation_importance,
    stratified_correlation,
)
from dmr.analysis.figures.parameter_heatmap import parameter_table

Make = Callable[..., Any]


def test_one_stratum_is_spearman() -> None:
    generator = np.random.default_rng(0)
    x, y = generator.integers(0, 9, 30), generator.random(30)
    known = stats.spearmanr(x, y)
    assert stratified_correlation(x, y, ["all"] * 30) == pytest.approx((known.statistic, known.pvalue))


def test_within_strata_by_hand() -> None:
    """Ranks less their mean: −1, 0, 1 and −1, 0, 1 in a, −½, ½ and ½, −½ in b: (2 − ½) / (2 + ½)."""
    rho, _ = stratified_correlation([1, 2, 3, 10, 20], [0.1, 0.2, 0.3, 0.9, 0.8], ["a", "a", "a", "b", "b"])
    assert rho == pytest.approx(0.6)


def test_constant_has_no_correlation() -> None:
    assert np.isnan(stratified_correlation([1, 1, 1], [1, 2, 3], ["a"] * 3)[0])
    assert np.isnan(correlation_ratio(["x", "x", "x"], [1, 2, 3], ["a"] * 3)[0])


def test_eta_by_hand_and_its_p_is_that_of_anova() -> None:
    """Group means 2 and 5 about 3.5: between 9 of 13 in all."""
    eta, p_value = correlation_ratio(["x", "x", "y", "y"], [1.0, 3.0, 4.0, 6.0], ["a"] * 4)
    assert eta == pytest.approx((9 / 13) ** 0.5)
    assert p_value == pytest.approx(stats.f_oneway([1.0, 3.0], [4.0, 6.0]).pvalue)


def study_of(make_study: Make, trials: int = 30) -> Any:
    """The rate helps rgb and hurts ir; the width, which every third trial lacks, does nothing."""
    generator = np.random.default_rng(1)
    rate, noise = generator.random(trials), 0.01 * generator.random((trials, 3))
    values = np.stack([rate, -0.2 * rate, 0.3 + 0 * rate], axis=1) + noise
    width = [None if trial % 3 == 0 else trial % 5 for trial in range(trials)]
    rare = [0.5 if trial < 3 else None for trial in range(trials)]
    return make_study(("rgb", "ir"), values, {"train.learning_rate": rate.tolist(), "width": width, "rare": rare})


def test_effects_have_the_signs_that_were_put_in(make_study: Make) -> None:
    effects = parameter_effects(study_of(make_study))
    row = effects.values.loc["train.learning_rate"]
    assert row["rgb"] > 0.95
    assert row["ir"] < -0.9
    assert abs(row["rgb-ir"]) < 0.5
    assert effects.trials == (30, 20)
    assert effects.left_out == {"rare": "in 3 trials, where 8 are needed"}
    assert effects.r2 > 0.7
    assert effects.importance["train.learning_rate"] > 0.95
    assert effects.p_values.loc["width", "rgb"] > 0.05


def test_importance_does_not_hang_on_the_global_seed(make_study: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importance, "TREES", 10)
    points = study_of(make_study).table.drop_duplicates("trial").set_index("trial").loc[range(30)]
    found = []
    for seed in (0, 1):
        np.random.seed(seed)
        rate = points["train.learning_rate"]
        found.append(permutation_importance(points[["train.learning_rate", "width"]], rate.to_numpy())[0].tolist())
    assert found[0] == found[1]
    assert found[0][0] > 0.9


def test_effects_are_those_among_trials_that_were_trained_to_their_end(make_study: Make) -> None:
    """The rate helps; but trials with a high rate were stopped after an epoch, when they had learnt nothing."""
    rate = np.linspace(0, 1, 20)
    early = dict.fromkeys(range(11, 20), "1 of 9 epochs")
    values = [[rate[trial] if trial not in early else -1.0] * 3 for trial in range(20)]
    study = make_study(("rgb", "ir"), values, {"rate": rate.tolist()}, stopped=early)
    effects = parameter_effects(study)
    assert (effects.count, effects.stopped, effects.trials) == (11, 9, (11,))
    assert effects.values.loc["rate"].tolist() == pytest.approx([1.0, 1.0, 1.0])
    assert (
        "11 trials trained to their end (9 stopped early are left out), one seed each"
        in parameter_table(study).subtitle
    )
    few = make_study(("rgb", "ir"), values, {"rate": rate.tolist()}, stopped=dict.fromkeys(range(7, 20), "1 epochs"))
    with pytest.raises(ValueError, match="7 trials with values that were not stopped early, of 20; to say what"):
        parameter_effects(few)


def test_what_is_said_of_a_key_that_is_left_out_is_true_of_it(make_study: Make) -> None:
    """Nine trials of three methods that vary are as few as seven of one."""
    methods = ["a", "b", "c"] * 8
    some = [trial if trial < 9 else None for trial in range(24)]
    by_method = [float(ord(method)) for method in methods]
    points = {"rate": list(range(24)), "some": some, "by_method": by_method, "same": [1] * 24}
    values = np.random.default_rng(0).random((24, 3))
    assert parameter_effects(make_study(("rgb", "ir"), values, points, methods)).left_out == {
        "some": "in 9 trials of 3 methods, where 10 are needed",
        "by_method": "constant within each method",
        "same": "constant",
    }


def test_a_key_is_judged_in_the_methods_that_vary_it(make_study: Make) -> None:
    """Another method's trials, all with the file's value, would only add what its own values vary by."""
    draw = np.random.default_rng(0)
    rate, other = draw.random(10), 5 * draw.random(14)
    values = np.repeat(np.concatenate([rate, other])[:, None], 3, axis=1)
    points = {"rate": [*rate, *[0.5] * 14], "block": ["a"] * 10 + ["b"] * 14}
    points["kind"] = ["high" if value > 0.5 else "low" for value in rate] + ["low"] * 14
    effects = parameter_effects(make_study(("rgb", "ir"), values, points, methods=points["block"]))
    assert dict(zip(effects.values.index, effects.trials, strict=True)) == {"rate": 10, "block": 24, "kind": 10}
    assert effects.values.loc["rate"].tolist() == pytest.approx([1.0] * 3)
    groups = [rate[rate > 0.5], rate[rate <= 0.5]]
    between = sum(len(one) * (one.mean() - rate.mean()) ** 2 for one in groups)
    eta = (between / ((rate - rate.mean()) ** 2).sum()) ** 0.5
    assert effects.values.loc["kind"].tolist() == pytest.approx([eta] * 3)


def test_few_trials_are_no_figure(make_study: Make) -> None:
    with pytest.raises(ValueError, match="7 trials with values; to say what a parameter does takes 8"):
        parameter_table(study_of(make_study, 7))


def test_the_table_mutes_what_is_not_told_and_names_the_left_out(make_study: Make) -> None:
    table = parameter_table(study_of(make_study))
    assert table.cells.index.tolist() == ["train.learning_rate (30 trials)", "width (20 trials)"]
    assert table.muted is not None
    assert table.muted[0].tolist()[:2] == [False, False]
    assert "left out: rare (in 3 trials, where 8 are needed)" in table.subtitle
    assert "seed 0" in table.subtitle
