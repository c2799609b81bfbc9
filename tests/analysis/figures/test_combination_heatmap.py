from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text

from dmr.analysis.figures import style
from dmr.analysis.figures.combination_heatmap import HeatmapTable, draw_heatmap
from dmr.analysis.figures.style import draw_dots
from dmr.analysis.figures.trial_heatmap import heatmap_table, write_heatmap
from dmr.analysis.results.load_study import load_study
from dmr.analysis.results.study_results import StudyResults, combination_values, summary_values
from dmr.combinations import all_combinations
from dmr.direction import Direction

LONG_NAMES = (
    "accelerometer_wrist_left",
    "accelerometer_wrist_right",
    "electrocardiogram",
    "gyroscope_chest",
    "respiration_belt",
    "skin_temperature",
)
SHORT_NAMES = ("rgb", "ir", "a", "b", "c", "d")
NewStudy = Callable[..., Any]
CheckTexts = Callable[[Figure], list[Text]]
SIGNATURES = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}


def made_up(
    modalities: tuple[str, ...], rows: int, better: str = "max", low: float = 0.3, high: float = 1.0
) -> HeatmapTable:
    """Values that grow with the size of the combination."""
    combinations = all_combinations(modalities)
    grown = np.linspace(0.7, 1.0, rows)[::-1, None] * combinations.sizes / len(modalities)
    share = (grown - grown.min()) / (grown.max() - grown.min())
    values = low + (high - low) * (share if better == "max" else 1 - share)
    cells = pd.DataFrame(values, [f"trial {100 + row}" for row in range(rows)], list(combinations.names))
    worst = cells.min(axis=1) if better == "max" else cells.max(axis=1)
    metric = "accuracy" if better == "max" else "nll"
    return HeatmapTable(
        cells=cells,
        summaries=pd.DataFrame({"mean": cells.mean(axis=1), "worst": worst}),
        modalities=modalities,
        metric=metric,
        better=Direction(better),
        title=f"study: {metric} by combination of modalities",
        subtitle=f"data digits, split val; {rows} of 400 trials with values, best first by val/{metric}_mean; "
        f"all {len(combinations)} combinations; one seed per trial",
    )


def axes_of(figure: Figure) -> tuple[Axes, Axes, Axes, Axes]:
    cells, dots, summaries, bar = figure.axes
    return cells, dots, summaries, bar


def cell_texts(axes: Axes) -> dict[tuple[int, int], str]:
    """What is written in cell (row, column)."""
    inside = [text for text in axes.texts if not isinstance(text, Annotation)]
    return {(int(text.get_position()[1]), int(text.get_position()[0])): text.get_text() for text in inside}


def headers(axes: Axes) -> dict[str, float]:
    """What stands above the cells, and at which x."""
    return {text.get_text(): text.xy[0] for text in axes.texts if isinstance(text, Annotation)}


def colours(axes: Axes) -> np.ndarray:
    """(R, C, 4)"""
    return np.asarray(axes.collections[0].get_array())


@pytest.fixture
def study(new_study: NewStudy) -> StudyResults:
    """Four trials with values, one failed, one running; the best is trial 2."""
    study = new_study()
    generator = np.random.default_rng(0)
    for number, level in enumerate([0.2, 0.5, 0.8, 0.3]):
        study.trial(number, (level + 0.1 * generator.random(7)).tolist())
    study.trial(4, status="FAILED", stop_reason="error")
    study.trial(5, status="RUNNING", stop_reason=None)
    return load_study(study.uri, study.name, experiment=study.experiment)


def test_the_table_is_what_the_study_has_best_first(study: StudyResults) -> None:
    table = heatmap_table(study, top=3)
    assert table.cells.index.tolist() == table.summaries.index.tolist() == ["trial 2", "trial 1", "trial 3"]
    best = combination_values(study).loc[[2, 1, 3]]
    assert table.cells.columns.tolist() == best.columns.tolist()
    assert table.cells.to_numpy().tolist() == best.to_numpy().tolist()
    known = summary_values(study).loc[[2, 1, 3], ["accuracy_mean", "accuracy_worst"]].to_numpy()
    assert table.summaries.to_numpy() == pytest.approx(known)
    assert (table.modalities, table.metric, table.better) == (("rgb", "depth", "ir"), "accuracy", "max")
    assert table.title == "digits: accuracy by combination of modalities"
    assert "3 of 4 trials with values, best first by val/accuracy_mean; all 7 combinations" in table.subtitle


def test_worst_is_the_highest_where_lower_is_better(study: StudyResults) -> None:
    table = heatmap_table(replace(study, main_mode=Direction.MIN), top=9)
    assert len(table.cells) == 4
    assert table.summaries["worst"].tolist() == table.cells.max(axis=1).tolist()
    assert table.better == "min"


def test_a_trial_without_values_of_the_split_is_left_out(new_study: NewStudy) -> None:
    study = new_study()
    study.trial(0, [0.5] * 7, extra={"best/test/accuracy/rgb": 0.4})
    study.trial(1, [0.6] * 7)
    found = load_study(study.uri, study.name, experiment=study.experiment)
    assert heatmap_table(found, 5, split="test").cells.to_dict() == {"rgb": {"trial 0": 0.4}}


def test_numbers_and_colours_in_the_figure_are_the_tables(study: StudyResults) -> None:
    table = heatmap_table(study, top=4)
    cells, _, summaries, _ = axes_of(draw_heatmap(table))
    for axes, frame, form in ((cells, table.cells, "{:.2f}"), (summaries, table.summaries, "{:.3f}")):
        values = frame.to_numpy()
        assert cell_texts(axes) == {where: form.format(value) for where, value in np.ndenumerate(values)}
    lightness = (colours(cells)[..., :3] @ (0.2126, 0.7152, 0.0722)).ravel()
    assert np.all(np.diff(lightness[np.argsort(table.cells.to_numpy().ravel())]) >= 0)
    assert lightness.max() - lightness.min() > 0.7


def test_rows_and_columns_are_labelled(study: StudyResults) -> None:
    cells, dots, summaries, bar = axes_of(draw_heatmap(heatmap_table(study, top=4)))
    assert [label.get_text() for label in cells.get_yticklabels()] == ["trial 2", "trial 1", "trial 3", "trial 0"]
    assert [label.get_text() for label in dots.get_yticklabels()] == ["rgb", "depth", "ir"]
    assert headers(cells) == {"1": 1.5, "2": 4.5, "3": 6.5, "modalities present:": 0}
    assert headers(summaries) == {"mean": 0.5, "worst": 1.5}
    assert bar.get_xlabel() == "accuracy (higher is better)"


def test_the_better_end_has_the_same_colour_and_side_in_both_directions() -> None:
    for better, full in (("max", 1.0), ("min", 0.3)):
        table = made_up(SHORT_NAMES[:2], 2, better)
        assert table.cells.iloc[0, -1] == pytest.approx(full)
        cells, _, _, bar = axes_of(draw_heatmap(table))
        assert colours(cells)[0, 2] == pytest.approx(to_rgba("#fde725"), abs=0.005)
        assert bar.get_xlim()[1] == pytest.approx(full)
        assert bar.get_xlabel().endswith("(higher is better)" if better == "max" else "(lower is better)")


def test_a_missing_value_is_grey_and_has_no_number() -> None:
    table = made_up(SHORT_NAMES[:2], 2)
    table.cells.iloc[1, 0] = np.nan
    cells, *_ = axes_of(draw_heatmap(table))
    assert (1, 0) not in cell_texts(cells)
    assert len(cell_texts(cells)) == 5
    assert colours(cells)[1, 0, 3] == 0.0
    assert cells.get_facecolor() == to_rgba("#e8e8e8")


def test_equal_values_are_one_colour_from_the_middle_of_the_scale() -> None:
    table = made_up(SHORT_NAMES[:2], 1, low=0.9, high=0.9)
    cells, _, _, bar = axes_of(draw_heatmap(table))
    assert len(np.unique(colours(cells)[0], axis=0)) == 1
    assert bar.get_xlim() == pytest.approx((0.89, 0.91))


@pytest.mark.parametrize("count", [2, 3, 6])
def test_dots_are_the_masks(count: int) -> None:
    combinations = all_combinations(LONG_NAMES[:count])
    axes = draw_dots(Figure().add_subplot(), combinations.masks, combinations.modalities)
    absent, present = [found for found in axes.collections if isinstance(found, PathCollection)]
    (lines,) = [found for found in axes.collections if isinstance(found, LineCollection)]
    drawn = np.zeros_like(combinations.masks)
    x, y = np.asarray(present.get_offsets()).T
    drawn[(x - 0.5).astype(int), y.astype(int)] = True
    assert drawn.tolist() == combinations.masks.tolist()
    assert len(present.get_offsets()) + len(absent.get_offsets()) == combinations.masks.size
    for member, line in zip(combinations.members, lines.get_segments(), strict=True):
        assert line[:, 1].tolist() == [min(member), max(member)]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first modality on top


def test_dots_follow_the_columns_that_are_drawn() -> None:
    table = made_up(SHORT_NAMES[:3], 1)
    some = ["ir", "rgb-a", "rgb-ir-a"]
    _, dots, _, _ = axes_of(draw_heatmap(replace(table, cells=table.cells[some])))
    present = [found for found in dots.collections if isinstance(found, PathCollection)][1]
    assert sorted(map(tuple, present.get_offsets().tolist())) == [
        (0.5, 1.0),
        (1.5, 0.0),
        (1.5, 2.0),
        (2.5, 0.0),
        (2.5, 1.0),
        (2.5, 2.0),
    ]


@pytest.mark.parametrize("better", ["max", "min"])
@pytest.mark.parametrize("names", [LONG_NAMES, SHORT_NAMES], ids=["long", "short"])
@pytest.mark.parametrize(("count", "rows"), [(2, 1), (2, 3), (3, 8), (4, 1), (4, 24), (6, 1), (6, 24)])
def test_no_text_overlaps_another_or_leaves_the_figure(
    count: int, rows: int, names: tuple[str, ...], better: str, check_texts: CheckTexts
) -> None:
    figure = draw_heatmap(made_up(names[:count], rows, better))
    texts = check_texts(figure)
    assert len(texts) > rows * (2**count + 1)
    cells, _, summaries, _ = axes_of(figure)
    for text in texts:
        if text.axes in (cells, summaries) and text in text.axes.texts and not isinstance(text, Annotation):
            (left, _), (right, _) = text.axes.transData.inverted().transform(text.get_window_extent().get_points())
            assert np.floor(left) == np.floor(right), "a value is wider than its cell"


@pytest.mark.parametrize(
    ("low", "high"), [(0.97312, 0.97312), (0.9731, 0.9739), (0.0, 1.0), (0.0, 0.02), (0.5, 99.0), (1.0, 1234.0)]
)
def test_scales_of_any_width_have_room_for_their_numbers(low: float, high: float, check_texts: CheckTexts) -> None:
    figure = draw_heatmap(made_up(SHORT_NAMES[:2], 2, low=low, high=high))
    check_texts(figure)


def test_long_titles_are_wrapped_and_dollars_are_no_formula(check_texts: CheckTexts) -> None:
    name = "a-study_with.a-name-of-a-hundred-letters-and-not-one-blank-in-it" + "x" * 36
    table = replace(
        made_up(SHORT_NAMES[:2], 1),
        title=f"{name}: $\\frac$",
        subtitle=f"data {name}$y$",
    )
    figure = draw_heatmap(table)
    check_texts(figure)
    title, subtitle = (text.get_text() for text in figure.texts)
    assert title.count("\n") >= 2
    assert title.replace("\n", "").replace(" ", "") == table.title.replace(" ", "")
    assert subtitle.replace("\n", "").replace(" ", "") == table.subtitle.replace(" ", "")


def test_many_modalities_stay_on_one_page_without_numbers() -> None:
    figure = draw_heatmap(made_up(tuple(f"sensor{number}" for number in range(8)), 2))
    assert figure.get_size_inches()[0] < 16
    assert cell_texts(axes_of(figure)[0]) == {}


@pytest.mark.parametrize(
    ("value", "full", "short"),
    [(0.0, "0.00", ".00"), (0.854, "0.85", ".85"), (0.996, "1.00", "1.0"), (1.0, "1.00", "1.0"), (12.3, "12", "12")],
)
def test_numbers_in_cells(value: float, full: str, short: str) -> None:
    assert style.number(value) == full
    assert style.short_number(value) == short


@pytest.mark.parametrize("ending", [".png", ".svg", ".pdf", ".PNG"])
def test_a_figure_is_written_in_each_format(study: StudyResults, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"heatmap{ending}"
    path.write_text("an older one")
    assert write_heatmap(study, path) == path
    assert path.read_bytes().startswith(SIGNATURES[ending.lower()])
    assert list(tmp_path.iterdir()) == [path]


def test_a_figure_that_fails_half_way_leaves_the_old_one(
    study: StudyResults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "heatmap.png"
    path.write_text("an older one")

    def fails(figure: Figure, target: Path, **settings: Any) -> None:
        target.write_text("half")
        raise OSError("no space left on device")

    monkeypatch.setattr(Figure, "savefig", fails)
    with pytest.raises(OSError, match="no space left"):
        write_heatmap(study, path)
    assert path.read_text() == "an older one"
    assert list(tmp_path.iterdir()) == [path]


def test_another_ending_or_folder_is_refused_before_anything_is_drawn(study: StudyResults, tmp_path: Path) -> None:
    for name in ("heatmap.jpg", "heatmap"):
        with pytest.raises(ValueError, match=rf"{name}: a figure ends in \.png, \.svg, \.pdf"):
            write_heatmap(study, tmp_path / name)
    with pytest.raises(ValueError, match=r"nowhere/heatmap\.png: there is no directory .*nowhere"):
        write_heatmap(study, tmp_path / "nowhere" / "heatmap.png")
    (tmp_path / "taken.png").mkdir()
    with pytest.raises(ValueError, match=r"taken\.png: is a directory"):
        write_heatmap(study, tmp_path / "taken.png")
    assert [*tmp_path.rglob("*")] == [tmp_path / "taken.png"]


def test_a_study_without_values_is_refused(new_study: NewStudy, tmp_path: Path) -> None:
    study = new_study()
    for with_trials in (False, True):
        if with_trials:
            study.trial(0, status="FAILED", stop_reason="error")
            study.trial(1, status="RUNNING", stop_reason=None)
        found = load_study(study.uri, study.name, experiment=study.experiment)
        with pytest.raises(ValueError, match="study digits: no trial has values to draw yet"):
            write_heatmap(found, tmp_path / "heatmap.png")
    assert list(tmp_path.iterdir()) == []
