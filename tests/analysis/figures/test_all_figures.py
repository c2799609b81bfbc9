from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from dmr.analysis.figures import parameter_effects as importance
from dmr.analysis.figures import style
from dmr.analysis.figures.all_figures import Drawn, comparison_figures, study_figures
from dmr.analysis.figures.class_heatmap import read_combinations
from dmr.analysis.figures.style import save_figure
from dmr.analysis.figures.variance_curves import read_diagnostics
from dmr.analysis.results.study_results import stage_of
from dmr.combinations import all_combinations

LONG = ("accelerometer_wrist_left", "accelerometer_wrist_right", "electrocardiogram", "gyroscope_chest")
SHORT = ("rgb", "ir", "a", "b", "c", "d")
KINDS = [
    "methods", "methods_difference", "trials", "trials_difference", "parameters", "tuning_curves", "pareto", "rates",
    "variance", "classes",
]  # fmt: skip
Make = Callable[..., Any]


def artifacts(modalities: tuple[str, ...]) -> Callable[[str, str], bytes | None]:
    combinations = all_combinations(modalities)

    def read(run: str, path: str) -> bytes | None:
        lines = ["epoch,combination,loss,variance,hard"]
        for epoch in range(30):
            values = zip(combinations.names, combinations.sizes.tolist(), strict=True)
            lines += [
                f"{epoch},{name},{1 / (epoch + size)},{1 - 0.01 * epoch * size},{int(size == 1)}"
                for name, size in values
            ]
        if path == "combinations.csv":
            lines = ["split,metric,combination,value"]
            for split in ("val", "test"):
                lines += [f"{split},iou_{label},{name},0.5" for label in ("wall", "box") for name in combinations.names]
        return "\n".join(lines).encode()

    return read


@pytest.mark.parametrize(
    ("modalities", "mode"), [(LONG[:2], "min"), (SHORT[:3], "max"), (LONG[:4], "max"), (SHORT, "min")]
)
def test_every_kind_is_drawn_and_no_text_covers_another(
    modalities: tuple[str, ...],
    mode: str,
    make_study: Make,
    make_comparison: Make,
    check_texts: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importance, "TREES", 10)
    generator = np.random.default_rng(0)
    sizes = all_combinations(modalities).sizes / len(modalities)

    def values(rows: int) -> np.ndarray:
        drawn = 0.2 + 0.6 * sizes + 0.1 * generator.random((rows, len(sizes)))
        return drawn if mode == "max" else -np.log(drawn)

    points = {
        "block": ["dmrnet", "dropout"] * 6,
        "train.learning_rate": generator.random(12).tolist(),
        "sampling.strategy": ["uniform", "bernoulli", "by_size"] * 4,
    }
    study = make_study(modalities, values(12), points, points["block"], defaults=(0, 1), mode=mode)
    entries = {f"{name} {config}": values(5) for name in ("dmrnet", "dropout") for config in ("best 1", "defaults")}
    comparison = make_comparison(modalities, entries, "dropout best 1", mode)
    drawn = list(study_figures(study, None, comparison, artifacts(modalities)))
    assert [name for name, _, _ in drawn] == KINDS
    for name, caption, figure in drawn:
        assert isinstance(figure, Figure), (name, figure)
        assert caption.endswith(".")
        written = " ".join(text.get_text().replace("\n", " ") for text in check_texts(figure))
        for fact in ("data digits", "split ", f"all {len(sizes)} combinations", "seed"):
            assert fact in written, (name, fact)


def test_without_values_or_artifacts_each_kind_says_why(make_study: Make) -> None:
    study = make_study(SHORT[:2], [])
    reasons = {
        name: figure for name, _, figure in study_figures(study, stage_of(study, "confirm"), None, lambda *_: None)
    }
    assert list(reasons) == KINDS
    assert all(isinstance(reason, str) for reason in reasons.values())
    assert reasons["methods"] == "no configurations to compare: nothing is confirmed and no trial has values"
    assert reasons["pareto"] == "study made_up: no trial has values to draw yet"
    assert "no diagnostics.csv of its best runs has a predicted variance" in str(reasons["variance"])


def test_one_trial_and_one_seed(make_study: Make, make_comparison: Make, check_texts: Make) -> None:
    study = make_study(SHORT[:2], [[0.5, 0.5, 0.5]], {"train.learning_rate": [0.1]})
    comparison = make_comparison(SHORT[:2], {"dmrnet best 1": [[0.5, 0.5, 0.5]]}, "dmrnet best 1")
    drawn = {name: figure for name, _, figure in study_figures(study, None, comparison, lambda *_: None)}
    assert {name for name, figure in drawn.items() if isinstance(figure, Figure)} == {
        "methods",
        "trials",
        "tuning_curves",
        "pareto",
        "rates",
    }
    for figure in drawn.values():
        if isinstance(figure, Figure):
            check_texts(figure)
    assert drawn["methods_difference"] == "there is nothing to compare with dmrnet best 1"
    assert drawn["parameters"] == "study made_up: 1 trial with values; to say what a parameter does takes 8"
    assert "it is not known which trial has the file's defaults" in str(drawn["trials_difference"])
    assert "have no iou_CLASS of combinations" in str(drawn["classes"])


def test_damaged_artifacts_are_a_reason(make_study: Make) -> None:
    study = make_study(SHORT[:2], [[0.5, 0.5, 0.5]])
    for content in (b"", b"\xff\xfe", b"a,b\n1,2\n", b"epoch,combination,loss,variance,hard\n0,rgb,0.5,,0\n"):
        drawn = {name: figure for name, _, figure in study_figures(study, None, None, lambda *_, c=content: c)}
        assert "predicted variance" in str(drawn["variance"])
        assert "iou_CLASS" in str(drawn["classes"])


def test_the_hard_set_of_the_variance_is_the_files(make_study: Make) -> None:
    study = make_study(SHORT[:2], [[0.5, 0.6, 0.7]])
    rows = ("0,rgb,1,2,0", "0,ir,1,3,1", "0,rgb-ir,1,1,0", "1,rgb,1,2,1", "1,ir,1,3,0", "1,rgb-ir,1,1,0")
    content = "\n".join(("epoch,combination,loss,variance,hard", *rows)).encode()
    drawn = {name: figure for name, _, figure in study_figures(study, None, None, lambda *_: content)}
    cells = drawn["variance"].axes[4]
    (dots,) = [c for c in cells.collections if type(c).__name__ == "PathCollection"]
    assert sorted(map(tuple, dots.get_offsets().tolist())) == [(0.5, 1.5), (1.5, 0.5)]


def subtitles(figure: Figure) -> str:
    """What a figure says above its axes, and above each of them."""
    return " ".join(" ".join(drawn_texts(figure)).split())


def test_the_variance_is_that_of_what_val_put_first(make_study: Make, make_comparison: Make) -> None:
    study = make_study(SHORT[:2], [[0.5, 0.5, 0.5], [0.6, 0.6, 0.6]])
    entries = {"dmrnet best 2": [[0.9, 0.9, 0.9]], "dmrnet best 1": [[0.8, 0.8, 0.8]]}  # of trials 0 and 1
    comparison = make_comparison(SHORT[:2], entries, "dmrnet best 1")
    found = study_figures(study, stage_of(study, "confirm"), comparison, artifacts(SHORT[:2]))
    (variance,) = [one.figure for one in found if isinstance(one, Drawn) and one.name == "variance"]
    assert "dmrnet best 1, one seed (1)" in subtitles(variance)


def test_each_figure_says_how_many_combinations_it_covers(make_study: Make) -> None:
    """No sample has `ir` alone."""
    draw = np.random.default_rng(0)
    points = {"rate": draw.random(12), "sampling.strategy": ["uniform", "bernoulli"] * 6}
    whole = make_study(SHORT[:2], draw.random((12, 3)), points, defaults=(0,))
    study = replace(whole, table=whole.table[whole.table["combination"] != "ir"])
    content = artifacts(SHORT[:2])

    def read(run: str, path: str) -> bytes | None:
        lines = (content(run, path) or b"").splitlines()
        return b"\n".join(line for line in lines if b",ir," not in line)

    drawn = {one.name: one.figure for one in study_figures(study, None, None, read) if isinstance(one, Drawn)}
    assert set(drawn) == {"trials", "trials_difference", *KINDS[4:]}
    for name, figure in drawn.items():
        assert "2 of 3 combinations" in subtitles(figure), name


def test_each_figure_says_on_which_samples_it_compares_combinations(make_study: Make) -> None:
    own = make_study(SHORT[:2], [[0.5, 0.9, 0.8], [0.6, 0.8, 0.7]], defaults=(0,))
    common = own.table[own.table["combination"].notna()].assign(metric="accuracy_complete")
    common["value"] /= 2
    study = replace(own, table=pd.concat([own.table, common]), tags={"complete_samples": '{"val": 90}'})
    drawn = {
        one.name: one.figure for one in study_figures(study, None, None, lambda *_: None) if isinstance(one, Drawn)
    }
    assert set(drawn) == {"trials", "trials_difference", "tuning_curves", "pareto", "rates"}
    for name, figure in drawn.items():
        assert "of the 90 samples with all modalities" in subtitles(figure), name
    cells, summaries = drawn["trials"].axes[0], drawn["trials"].axes[2]
    assert "0.50" in [text.get_text() for text in cells.texts]
    assert "0.250" in [text.get_text() for text in summaries.texts]
    lightness = [np.asarray(axes.collections[0].get_array())[..., :3].sum(axis=-1) for axes in (cells, summaries)]
    assert lightness[1].min() < lightness[0].min() - 0.1, "the scale has the summaries as well"


def test_names_may_be_changed_and_titles_left_out(
    make_study: Make, make_comparison: Make, check_texts: Make, tmp_path: Path
) -> None:
    values = {"dropout best 1, defaults": [[0.5, 0.5, 0.5]], "full_only best 1": [[0.5, 0.4, 0.5]]}
    comparison = make_comparison(SHORT[:2], values, "dropout best 1, defaults")
    texts = {one.name: drawn_texts(one.figure) for one in comparison_figures(comparison)}
    assert "dropout best 1 (= defaults)" in texts["methods"]  # without being asked
    labels = {"full_only best 1": "Full only", "dropout": "Modality dropout", SHORT[0]: "Colour", "nobody": "x"}
    with style.wording(labels, title=False) as used:
        found = list(study_figures(make_study(SHORT[:2], [[0.1, 0.2, 0.3]]), None, comparison, lambda *_: None))
    assert used.met == {"full_only best 1", "dropout", SHORT[0]}
    for one in found:
        if isinstance(one, Drawn):
            shown = drawn_texts(one.figure)
            assert not any(one.caption in text or "made_up" in text or "data digits" in text for text in shown)
            check_texts(one.figure)
    texts = {one.name: drawn_texts(one.figure) for one in found if isinstance(one, Drawn)}
    assert {"Modality dropout best 1 (= defaults)", "Full only", "Colour", SHORT[1]} <= set(texts["methods"])
    assert {"Modality dropout best 1 (= defaults)", "Full only"} <= set(texts["rates"])
    svg = save_figure(next(one.figure for one in found if isinstance(one, Drawn)), tmp_path / "f.svg").read_text()
    assert ">Modality dropout best 1 (= defaults)</text>" in svg  # text, not outlines


def drawn_texts(figure: Any) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text)]


def test_a_comparison_has_two(make_comparison: Make) -> None:
    values = {"a best 1": [[0.5, 0.5, 0.5]], "b best 1": [[0.5, 0.4, 0.5]]}
    drawn = list(comparison_figures(make_comparison(SHORT[:2], values, "a best 1")))
    assert [(name, type(figure)) for name, _, figure in drawn] == [("methods", Figure), ("methods_difference", Figure)]


def test_classes_are_means_over_the_seeds_of_the_best(make_study: Make, make_comparison: Make) -> None:
    comparison = make_comparison(SHORT[:2], {"a best 1": [[0.5] * 3, [0.6] * 3], "b best 1": [[0.1] * 3]}, "a best 1")
    files = {"a best 1 1": 0.2, "a best 1 2": 0.4}

    def read(run: str, path: str) -> bytes | None:
        head = "split,metric,combination,value\nval,iou_box,rgb,0.9\ntest,miou,rgb,0.9\n"
        return f"{head}test,iou_box,rgb,{files[run]}\n".encode() if path == "combinations.csv" else None

    study = replace(make_study(SHORT[:2], [[0.5] * 3]), main_metric="miou")
    figure = {name: figure for name, _, figure in study_figures(study, None, comparison, read)}["classes"]
    assert [text.get_text() for text in figure.axes[0].texts if text.get_text()[0] == "0"] == ["0.30"]
    assert "a best 1; mean over 2 seeds" in figure.texts[1].get_text().replace("\n", " ")


def test_a_modality_whose_name_pandas_takes_for_nothing() -> None:
    names = ("NA", "null", "NA-null")
    lines = "".join(f"0,{name},0.5,{value},0\n" for name, value in zip(names, ("", "nan", "0.25"), strict=True))
    found = read_diagnostics(f"epoch,combination,loss,variance,hard\n{lines}".encode(), names[:2])
    assert found is not None
    assert list(found.variance) == list(names)
    assert found.variance.isna().to_numpy().tolist() == [[True, True, False]]
    frame = read_combinations(b"split,metric,combination,value\nval,iou_NA,NA,0.5\nval,iou_NA,null,nan\n")
    assert frame is not None
    assert frame["combination"].tolist() == ["NA", "null"]
    assert frame["value"].isna().tolist() == [False, True]
