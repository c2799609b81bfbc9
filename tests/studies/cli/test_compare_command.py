"""`dmr compare` before and after the comparison itself: which studies are of the same data, and what is shown."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from matplotlib.figure import Figure
from rich.console import Console
from scipy import stats
from typer.testing import CliRunner

from dmr.analysis.comparison.across import across
from dmr.analysis.comparison.comparison import Comparison, compare
from dmr.analysis.comparison.tuning import tuning_curves
from dmr.analysis.figures import style
from dmr.analysis.figures.style import save_figure
from dmr.analysis.results import artifacts
from dmr.analysis.results.study_results import StudyResults
from dmr.analysis.statistics import SIGNIFICANCE
from dmr.combinations import all_combinations
from dmr.direction import Direction
from dmr.studies.cli import compare_command, reading_commands
from dmr.studies.cli.across_screen import show_across
from dmr.studies.cli.compare_command import compare_studies, draw_comparison, write_comparison
from dmr.studies.cli.comparison_screen import show_comparison
from dmr.studies.cli.entry_point import app
from dmr.studies.errors import StudyError
from dmr.studies.storage.locations import StoreUris
from dmr.studies.storage.study_folder import StudyFolder

METHODS = ("dmrnet", "late_fusion_transformer", "dedicated")


def confirmed(modalities: tuple[str, ...], objective: str, seeds: int, tags: dict[str, Any]) -> StudyResults:
    """Three methods, whose runs have drawn accuracies."""
    names, draw = all_combinations(modalities).names, np.random.default_rng(0)
    runs, rows = [], []
    for trial, method in enumerate(METHODS):
        for config in ("best 1", "defaults"):
            for seed in range(1, seeds + 1):
                run = f"{method}/{config}/{seed}"
                runs.append((run, trial, "confirm", "completed", method, config, seed, 1.0, method))
                rows += [(run, trial, "confirm", "test", "accuracy", name, draw.random()) for name in names]
    columns = ["run", "trial", "stage", "status", "method", "config", "seed", "seconds", "model"]
    return StudyResults(
        study="s",
        dataset="d",
        modalities=modalities,
        objectives=({"metric": objective, "mode": Direction.MAX},),
        searched=("block",),
        main_metric="accuracy",
        main_mode=Direction.MAX,
        combinations=f"all {len(names)}",
        parent_run_id="p",
        tags={name: json.dumps(value) for name, value in tags.items()},
        runs=pd.DataFrame(runs, columns=columns).set_index("run"),
        table=pd.DataFrame(rows, columns=["run", "trial", "stage", "split", "metric", "combination", "value"]),
    )


def searched() -> StudyResults:
    """The search of these methods, a trial each."""
    found = confirmed(("left", "right"), "val/accuracy_mean", 1, {})
    rows = [(m, n, "search", "val", "accuracy_mean", None, n / 10) for n, m in enumerate(METHODS)]
    runs = [(m, n, "search", "completed", m, None, 0, 1.0, m) for n, m in enumerate(METHODS)]
    names = ["run", *found.runs.columns]
    return replace(
        found,
        runs=pd.DataFrame(runs, columns=names).set_index("run"),
        table=pd.DataFrame(rows, columns=found.table.columns),
    )


def searched_and_confirmed(name: str, seed: int) -> StudyResults:
    """Both, under another name and with other accuracies."""
    search, confirm = searched(), confirmed(("left", "right"), "val/accuracy_mean", 3, {})
    draw = np.random.default_rng(seed)
    table = confirm.table.assign(value=0.6 + 0.1 * draw.random(len(confirm.table)))
    runs, rows = pd.concat([search.runs, confirm.runs]), pd.concat([search.table, table], ignore_index=True)
    return replace(confirm, study=name, runs=runs, table=rows)


def comparison(
    modalities: tuple[str, ...], objective: str = "val/accuracy_mean", seeds: int = 3, **tags: Any
) -> Comparison:
    """The same, compared over seeds and over drawn samples."""
    names = all_combinations(modalities).names

    def samples(run: str) -> tuple[np.ndarray, tuple[str, ...]]:
        method = run.partition("/")[0]
        return (np.random.default_rng(len(method)).random((len(names), 400)) < 1 / len(method)).astype(
            np.float32
        ), names

    return compare([confirmed(modalities, objective, seeds, tags)], samples=samples)


def shown(found: Comparison, width: int) -> str:
    text = io.StringIO()
    show_comparison(found, Console(file=text, width=width, highlight=False))
    return text.getvalue()


@pytest.mark.parametrize(
    "modalities", [("left", "right"), tuple("abcd"), tuple(f"sensor_{n}" for n in range(6))], ids=len
)
def test_nothing_is_cut_off_at_any_width(modalities: tuple[str, ...]) -> None:
    odds = dict.fromkeys(modalities, 0.5)
    found = comparison(modalities, deployment=odds, without_modalities={"test": 0.1})
    row = found.summary.loc["dmrnet best 1"]
    values = [f"{row['mean']:.4f}", f"{row['low']:.4f}–{row['high']:.4f}", f"{row['gap_to_dedicated']:+.4f}"]
    for width in (80, 120, 200):
        text = shown(found, width)
        assert "…" not in text
        assert max(map(len, text.splitlines())) <= width
        for value in (*values, f"{row[f'shapley_{modalities[0]}']:+.4f}"):
            assert value in text
        assert ("largest differences" in text) == (len(modalities) == 6)
        lost = {name: row[f"without_{name}"] for name in modalities}
        for name, value in lost.items():
            low, high = row[f"without_{name}_low"], row[f"without_{name}_high"]
            assert f"{name} {round(value, 4) + 0.0:+.4f} {low:+.4f} to {high:+.4f}" in " ".join(text.split())
        order = [text.index(f"\n {name} ", text.index("lost without")) for name in sorted(lost, key=lost.__getitem__)]
        assert order == sorted(order)


def test_the_stars_of_a_combination_are_of_the_metric_that_is_shown() -> None:
    """The scores of single samples are of accuracy, or of pixel accuracy where the metric is the mIoU."""
    found = comparison(("left", "right"))
    of_samples = found.by_combination.assign(p_holm=1.0, p_samples_holm=SIGNIFICANCE)
    text = shown(replace(found, by_combination=of_samples), 200)
    assert "* differs from dmrnet best 1 over test samples, p ≤ 0.05 after Holm's correction" in " ".join(text.split())
    above = found.by_combination.assign(p_samples_holm=np.nextafter(SIGNIFICANCE, 1.0))
    assert "*" not in shown(replace(found, by_combination=above), 200)
    segmented = replace(found, metric="miou")
    text = shown(replace(segmented, by_combination=of_samples), 200)
    assert "*" not in text
    assert "(pixels)" in text
    of_seeds = found.by_combination.assign(p_holm=0.01, p_samples_holm=1.0)
    assert "* differs from dmrnet best 1 over seeds" in shown(replace(segmented, by_combination=of_seeds), 200)


@pytest.mark.parametrize("by", ["mean", "worst", "full", "expected"])
def test_what_orders_the_entries_is_said_and_comes_first(by: str) -> None:
    found = comparison(("left", "right"), f"val/accuracy_{by}", deployment={"left": 0.5, "right": 0.5})
    lines = shown(found, 200).splitlines()
    assert lines[0].strip().startswith(f"s: accuracy on test over all 3 combinations, best {by} first")
    (head,) = [line.split() for line in lines if "seeds" in line and "interval" in line]
    assert head[:4] == ["entry", "seeds", by, "interval"]
    assert {"mean", "worst", "full", "expected", "iqm"} <= set(head)
    row = found.summary.iloc[0]
    prefix = "" if by == "mean" else f"{by}_"
    level = f"{row[by]:.4f} {row[f'{prefix}low']:.4f}–{row[f'{prefix}high']:.4f}"
    assert any(level in " ".join(line.split()) for line in lines)


def test_the_odds_of_an_expected_value_and_what_combinations_are_compared_on_are_said() -> None:
    found = comparison(("left", "right"), deployment={"left": 0.5, "right": 0.25})
    title = " ".join(shown(replace(found, samples_text="the 90 samples with all modalities"), 80).split())
    assert "best mean first; on the 90 samples with all modalities; expected with odds left 0.5, right 0.25" in title


def test_odds_are_given_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A study without odds has its expected values, and a mistake is one line."""
    folder = tmp_path / "s"
    folder.mkdir()
    (folder / "study.yaml").write_text(yaml.safe_dump({"name": "s", "dataset": {"name": "digits"}}))
    results = confirmed(("left", "right"), "val/accuracy_mean", 3, {})
    monkeypatch.setattr(reading_commands, "shown_results", lambda *_: results)
    monkeypatch.setattr(StudyFolder, "store_uris", lambda _: StoreUris("sqlite:///none.db", "sqlite:///none.db"))
    monkeypatch.setattr(artifacts, "samples_reader", lambda _: lambda run: None)

    def run(odds: str) -> Any:
        given = ["compare", "s", "--storage", tmp_path, "--deployment", odds, "-o", tmp_path / "out"]
        return CliRunner().invoke(app, [str(part) for part in given])

    done = run("left=0.9,right=0.5")
    assert done.exit_code == 0, done.output
    title = " ".join(done.stdout.split())
    assert "over all 3 combinations, best expected first; expected with odds left 0.9, right 0.5" in title
    summary = pd.read_csv(tmp_path / "out/summary.csv").set_index("label")
    rows = results.table.pivot(index="run", columns="combination", values="value")
    chances = {"left": 0.45 / 0.95, "right": 0.05 / 0.95, "left-right": 0.45 / 0.95}
    expected = sum(chance * rows[name] for name, chance in chances.items())
    for label, row in summary.iterrows():
        own = expected[expected.index.str.startswith(str(label).replace(" ", "/", 1))]
        interval = stats.ttest_1samp(own, 0.0).confidence_interval()
        assert row["expected"] == pytest.approx(own.mean())
        assert (row["expected_low"], row["expected_high"]) == pytest.approx((interval.low, interval.high))
    assert summary["expected"].is_monotonic_decreasing
    assert any(line.startswith("- What is lost without each modality") for line in done.stderr.splitlines())
    for odds in ("lft=0.9", "left=2", "left", "left=0,right=0"):
        wrong = run(odds)
        assert (wrong.exit_code, wrong.stdout, len(wrong.stderr.splitlines())) == (2, "", 1)
        assert wrong.stderr.startswith("--deployment")


def test_figures_for_papers_have_other_names_and_no_title(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = comparison(("left", "right"))
    monkeypatch.setattr(compare_command, "compare_studies", lambda *_: (found, [searched()]))
    drawn: dict[str, str] = {}

    def keep(figure: Figure, path: Path) -> Path:
        save_figure(figure, path.with_suffix(".svg"))
        drawn[path.stem] = path.with_suffix(".svg").read_text(encoding="utf-8")
        return path

    monkeypatch.setattr(style, "save_figure", keep)
    labels = ["--labels", "dmrnet best 1=Ours,left=Audio", "--labels", "nobody=x", "--no-title"]
    done = CliRunner().invoke(app, ["compare", "s", "-o", str(tmp_path), *labels])
    assert done.exit_code == 0, done.output
    assert "--labels: no figure has 'nobody'\n" in done.stderr
    assert "no figure has 'left'" not in done.stderr
    for text in (">Ours</text>", ">Audio</text>"):
        assert text in drawn["methods"]
    assert "s: accuracy" not in drawn["methods"]
    assert "Ours" not in done.stdout, "tables keep the names that other commands take"


def test_one_seed_alone_has_no_empty_columns() -> None:
    text = shown(comparison(("left", "right"), seeds=1), 200)
    assert "interval" not in text
    assert "Shapley" not in text


def test_what_is_written_is_what_was_computed(tmp_path: Path) -> None:
    found = comparison(("left", "right"))
    summary, combinations, tuning = map(pd.read_csv, write_comparison(found, [searched()], tmp_path / "out"))
    pd.testing.assert_frame_equal(summary.set_index("label"), found.summary, check_exact=True, check_dtype=False)
    pd.testing.assert_frame_equal(combinations, found.by_combination, check_exact=True, check_dtype=False)
    curves = tuning_curves([searched()], found).frame
    pd.testing.assert_frame_equal(tuning, curves, check_exact=True, check_dtype=False)
    (tmp_path / "file").touch()
    with pytest.raises(StudyError, match=r"file: cannot be made: File exists$"):
        write_comparison(found, [searched()], tmp_path / "file")
    drawn = draw_comparison(found, [searched()], tmp_path / "out")
    assert [path.name for path in drawn] == ["methods.png", "methods_difference.png", "tuning_curves.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": {"name": "digits"}}, "dataset: name arrays, path /a; name digits"),
        ({"dataset": {"name": "arrays", "path": "/b"}}, "dataset: name arrays, path /a; name arrays, path /b"),
        ({"missing": {"rgb": 0.5}}, "missing: nothing; rgb 0.5"),
    ],
)
def test_studies_of_different_data_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    document = {"dataset": {"name": "arrays", "path": "/a"}, "missing": None, "seed": 0}
    for name, content in (("one", document), ("other", document | {"seed": 1} | changes)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "study.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(StudyError, match=f"^one and other cannot be compared, their data differ: {message}$"):
        compare_studies(["one", "other"], tmp_path, None)


def test_data_are_the_same_by_what_is_in_them_wherever_they_lie(tmp_path: Path) -> None:
    digests = {"task": "classification", "train/label": "1", "val/rows": "2", "test/label": "3"}
    for name, change in (("one", {}), ("moved", {"val/rows": "4"}), ("other", {"test/label": "5"})):
        folder = tmp_path / name
        folder.mkdir()
        document = {"experiment": "e", "dataset": {"name": "arrays", "path": f"/{name}"}}
        (folder / "study.yaml").write_text(yaml.safe_dump(document))
        (folder / "data.json").write_text(json.dumps(digests | change))
    with pytest.raises(StudyError, match=r"^one and other cannot be compared, their data differ: test/label$"):
        compare_studies(["one", "other"], tmp_path, None)
    with pytest.raises(StudyError, match=r"one/study.yaml: name: got None"):  # compared, and then read
        compare_studies(["one", "moved"], tmp_path, None)


def test_the_seed_counts_where_it_splits_the_data(tmp_path: Path) -> None:
    for seed, name in enumerate(("one", "other")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "study.yaml").write_text(yaml.safe_dump({"dataset": {"name": "digits"}, "seed": seed}))
    with pytest.raises(StudyError, match=r"^one and other cannot be compared, their data differ: seed: 0; 1$"):
        compare_studies(["one", "other"], tmp_path, None)
    with pytest.raises(StudyError, match=r"no study 'third' here"):
        compare_studies(["one", "third"], tmp_path, None)


@pytest.mark.parametrize("studies", [1, 4])
def test_methods_over_data_sets_are_shown_whole_at_any_width(studies: int) -> None:
    results = [replace(searched_and_confirmed(f"a_study_{n}", n), dataset=f"set {n}") for n in range(studies)]
    found = across(results)
    for width in (80, 120, 200):
        text = io.StringIO()
        show_across(found, Console(file=text, width=width, highlight=False))
        lines = text.getvalue()
        assert "…" not in lines
        assert max(map(len, lines.splitlines())) <= width
        for _, row in found.levels.iterrows():
            assert f" {row['mean']:.4f} ({row['low']:.4f}–{row['high']:.4f})" in lines
        for _, row in found.ranks.iterrows():
            outcomes = f"{row['wins']}/{row['ties']}/{row['losses']}"
            assert f"{row['mean_rank']:.2f} {row['low']:.2f}–{row['high']:.2f} {outcomes}" in " ".join(lines.split())
        said = "a_study_0: data set 0; accuracy on test, over all 3 combinations, chosen on val by the mean"
        assert said in " ".join(lines.split())


def test_across_is_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for n, name in enumerate(("s", "t", "copy")):
        (tmp_path / name).mkdir()
        document = {"name": name, "dataset": {"name": "planted", "seed": n % 2}}
        (tmp_path / name / "study.yaml").write_text(yaml.safe_dump(document))
    monkeypatch.setattr(reading_commands, "shown_results", lambda folder, _: searched_and_confirmed(folder.name, 0))

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(app, ["compare", "--storage", str(tmp_path), "--across", *arguments])

    out = tmp_path / "out"
    done = run("s", "t", "-o", str(out), "--labels", "dmrnet=Ours")
    assert done.exit_code == 0, done.output
    names = ["levels.csv", "ranks.csv", "pairs.csv", "differences.csv"]
    names += ["across_mean.png", "across_worst.png", "across_full.png"]
    assert done.stdout.splitlines()[-7:] == [str(out / name) for name in names]
    written = [pd.read_csv(out / name) for name in names[:4]]
    expected = across([searched_and_confirmed(name, 0) for name in ("s", "t")])
    for table, own in zip(
        written, (expected.levels, expected.ranks, expected.pairs, expected.differences), strict=True
    ):
        pd.testing.assert_frame_equal(table, own, check_exact=True, check_dtype=False)
    assert done.stderr.splitlines() == [f"- {note}" for note in expected.notes]
    for arguments, line in (
        (("s", "s"), "s: given twice"),
        (("s", "t", "copy"), "s and copy are of the same data: compare them without --across"),
        (
            ("s", "--reference", "x"),
            "reference 'x': the methods in all of these studies are " + ", ".join(METHODS[::-1]),
        ),
        (("s", "--deployment", "left=1"), "--deployment: not with --across, where each study has its own"),
        (("s", "none"), f"{tmp_path}/none: no study 'none' here"),
    ):
        wrong = run(*arguments)
        assert (wrong.exit_code, wrong.stdout, len(wrong.stderr.splitlines())) == (2, "", 1)
        assert wrong.stderr.startswith(line)
