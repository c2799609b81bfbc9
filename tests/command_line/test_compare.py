"""`dmr compare` and `dmr report` on real confirmed studies have the numbers of the raw runs, computed otherwise."""

from __future__ import annotations

import io
import itertools
import math
import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from typer.testing import CliRunner

from dmr.data import open_dataset
from dmr.studies.cli.entry_point import app

pytestmark = pytest.mark.slow
DATA = {"digits": {}, "planted": {"train": 600, "val": 200, "test": 300}}
SUMMARIES = ("mean", "worst", "full", "expected")
ODDS = {"top_left": 0.9, "top_right": 1.0, "bottom_left": 1.0, "bottom_right": 0.5}


@pytest.fixture(scope="module", params=["digits", "planted"])
def compared(request):
    """The study's name, its raw confirm runs by entry and seed, and what `dmr compare` said and wrote."""
    name = request.param
    place = request.getfixturevalue(f"confirmed_{name}")
    done = place.run("compare", name, "-o", "out")
    entries: dict[str, dict[int, object]] = {}
    for run in place.mlflow_runs(name, "confirm"):
        label = f"{run.data.tags['method']} {run.data.tags['config']}"
        entries.setdefault(label, {})[int(run.data.tags["seed"])] = run
    written = [pd.read_csv(place.path / "out" / f"{table}.csv") for table in ("summary", "combinations")]
    return name, place, entries, done, *written


def values_of(seeds: dict, names: list[str]) -> np.ndarray:
    return np.array([[seeds[s].data.metrics[f"best/test/accuracy/{name}"] for name in names] for s in sorted(seeds)])


def first_on_val(place, name: str, labels: Iterable[str]) -> str:
    best = max(place.mlflow_runs(name), key=lambda run: run.data.metrics["best/val/accuracy_mean"])
    (label,) = [one for one in labels if one.startswith(f"{best.data.tags['method']} best 1")]
    return label


def flips(differences: np.ndarray) -> float:
    sums = [abs(math.fsum(d * s)) for d in [differences] for s in itertools.product((1, -1), repeat=len(differences))]
    return float(np.mean([value >= sums[0] - 1e-6 for value in sums]))


def test_the_files_have_the_numbers_of_the_raw_runs(compared) -> None:
    name, place, entries, done, summary, combinations = compared
    summary = summary.set_index("label")
    names = list(dict.fromkeys(combinations["combination"]))
    modalities = names[-1].split("-")
    assert len(names) == 2 ** len(modalities) - 1
    assert set(summary.index) == set(entries)
    assert f"{name}: accuracy on test over all {len(names)} combinations" in done.stdout
    values = {label: values_of(seeds, names) for label, seeds in entries.items()}
    assert {label: v.shape[0] for label, v in values.items()} == dict.fromkeys(values, 3)
    reference = first_on_val(place, name, values)
    p_values = {k: flips(v.mean(1) - values[reference].mean(1)) for k, v in values.items() if k != reference}
    dataset = open_dataset(name, DATA[name], 0)
    majority = np.bincount(dataset.splits["train"].targets()).argmax()
    empty = np.mean(dataset.splits["test"].targets() == majority)
    for label, own in values.items():
        row, rows = summary.loc[label], combinations[combinations["label"] == label].set_index("combination")
        assert row["mean"] == pytest.approx(own.mean())
        assert rows.loc[names, "mean"].to_numpy() == pytest.approx(own.mean(0))
        if np.ptp(own.mean(1)) > 1e-6:
            found = stats.ttest_1samp(own.mean(1), 0.0).confidence_interval()
            assert (row["low"], row["high"]) == pytest.approx((found.low, found.high))
        assert (row["worst"], row["full"]) == pytest.approx((own.min(1).mean(), own[:, -1].mean()))
        if label != reference:
            assert row["minus_reference"] == pytest.approx(own.mean() - values[reference].mean(), abs=1e-12)
            assert row["p_seeds"] == pytest.approx(p_values[label])
            ordered = sorted(p_values.values())
            steps = [(len(ordered) - i) * p for i, p in enumerate(ordered) if p <= p_values[label]]
            assert row["p_seeds_holm"] == pytest.approx(min(1.0, max(steps)))
        worth = {frozenset(c.split("-")): v for c, v in zip(names, own.mean(0), strict=True)} | {frozenset(): empty}
        for modality in modalities:
            before = [frozenset(o[: o.index(modality)]) for o in itertools.permutations(modalities)]
            share = np.mean([worth[some | {modality}] - worth[some] for some in before])
            assert row[f"shapley_{modality}"] == pytest.approx(share, abs=1e-6)
        if name == "digits":
            chance = [math.prod(ODDS[m] if m in c.split("-") else 1 - ODDS[m] for m in modalities) for c in names]
            assert row["expected"] == pytest.approx(own.mean(0) @ chance / sum(chance))
        else:
            (chosen,) = [k for k in values if k.startswith("dedicated best 1")]
            assert row["gap_to_dedicated"] == pytest.approx(values[chosen].mean() - own.mean(), abs=1e-12)


def test_the_files_have_the_numbers_of_single_samples(compared) -> None:
    name, place, entries, _, summary, _ = compared
    summary = summary.set_index("label")
    means = {}
    for label, seeds in entries.items():
        scores = []
        for run in seeds.values():
            with np.load(place.client.download_artifacts(run.info.run_id, "samples.npz")) as file:
                scores.append(file["scores"].astype(float))
                sets = [set(combination.split("-")) for combination in file["combinations"]]
        pairs = [(a, b) for a, b in itertools.permutations(range(len(sets)), 2) if sets[a] < sets[b]]
        near = [(a, b) for a, b in pairs if len(sets[b]) == len(sets[a]) + 1]
        share = np.mean([own[b] < own[a] for own in scores for a, b in near])
        assert summary.at[label, "worse_with_more"] == pytest.approx(share)
        means[label] = np.mean(scores, axis=(0, 1))  # (N,)
    reference = first_on_val(place, name, means)
    signs = np.random.default_rng(1).choice([-1.0, 1.0], (4_000, len(means[reference])))
    for label in means.keys() - {reference}:
        differences = means[label] - means[reference]
        flipped = np.abs(signs @ differences)
        assert summary.at[label, "samples_minus_reference"] == pytest.approx(differences.mean())
        assert summary.at[label, "p_samples"] == pytest.approx((flipped >= abs(differences.sum())).mean(), abs=0.03)


def test_what_a_reader_has_to_know_is_said(compared) -> None:
    *_, done, _, _ = compared
    assert "3 seeds: intervals are 95 % t intervals" in done.stderr
    assert "no p over seeds is under 0.25" in done.stderr
    assert "Shapley values are left out" not in done.stderr
    tables = ("summary.csv", "combinations.csv", "tuning.csv")
    files = (*tables, "methods.png", "methods_difference.png", "tuning_curves.png")
    assert done.stdout.endswith("".join(f"out/{name}\n" for name in files))


def test_odds_are_given_afterwards(compared) -> None:
    name, place, entries, *_, combinations = compared
    names = list(dict.fromkeys(combinations["combination"]))
    modalities = names[-1].split("-")
    odds = {modalities[0]: 0.99, modalities[1]: 0.8}
    given = ",".join(f"{one}={chance}" for one, chance in odds.items())
    place.run("compare", name, "--deployment", given, "-o", "odds")
    summary = pd.read_csv(place.path / "odds/summary.csv").set_index("label")
    works = odds | dict.fromkeys(modalities[2:], 1.0)
    chance = [math.prod(works[m] if m in c.split("-") else 1 - works[m] for m in modalities) for c in names]
    for label, seeds in entries.items():
        values = values_of(seeds, names) @ chance / sum(chance)
        found = stats.ttest_1samp(values, 0.0).confidence_interval()
        row = summary.loc[label]
        assert row["expected"] == pytest.approx(values.mean())
        assert (row["expected_low"], row["expected_high"]) == pytest.approx((found.low, found.high))
    assert list(summary.index) == list(summary.sort_values("expected", ascending=False, kind="stable").index)
    wrong = place.dmr("compare", name, "--deployment", "nothing=0.5")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == f"--deployment: nothing: the modalities are {', '.join(modalities)}\n"


def test_an_unknown_reference_and_another_data_set_are_one_line(confirmed_digits) -> None:
    wrong = confirmed_digits.dmr("compare", "digits", "--reference", "dmrnet")
    assert (wrong.returncode, wrong.stdout, wrong.stderr.count("\n")) == (2, "", 1)
    assert wrong.stderr.startswith("reference 'dmrnet': the entries are ")


@pytest.mark.parametrize("name", DATA)
def test_the_report_has_the_numbers_of_the_raw_runs(request, read_page, tmp_path, name) -> None:
    place, path = request.getfixturevalue(f"confirmed_{name}"), tmp_path / "report.html"
    done = CliRunner().invoke(app, ["report", name, "--storage", str(place.path / "dmr_runs"), "-o", str(path)])
    assert done.exit_code == 0, done.output
    page = read_page(path.read_text(encoding="utf-8"))
    names = [cell.text for cell in page.column("combinations", "combination")]
    modalities = names[-1].split("-")
    assert len(names) == 2 ** len(modalities) - 1

    values: dict[str, list[list[float]]] = {}
    for run in place.mlflow_runs(name, "confirm"):
        label = f"{run.data.tags['method']} {run.data.tags['config']}"
        values.setdefault(label, []).append([run.data.metrics[f"best/test/accuracy/{one}"] for one in names])
    arrays = {label: np.array(one) for label, one in values.items()}  # (S, C) each
    labels = [cell.text.removesuffix(", the reference") for cell in page.column("configurations", "configuration")]
    assert sorted(labels) == sorted(arrays)

    def shown(heading: str) -> dict[str, float]:
        return dict(zip(labels, page.values("configurations", heading), strict=True))

    for label, own in arrays.items():
        assert shown("mean")[label] == pytest.approx(own.mean())
        assert shown("worst")[label] == pytest.approx(own.min(1).mean())
        assert shown("full")[label] == pytest.approx(own[:, -1].mean())
        assert page.values("combinations", label) == pytest.approx(own.mean(0))
    splits = open_dataset(name, DATA[name], 0).splits
    empty = np.mean(splits["test"].targets() == np.bincount(splits["train"].targets()).argmax())
    for label, own in arrays.items():
        worth = {frozenset(one.split("-")): v for one, v in zip(names, own.mean(0), strict=True)} | {frozenset(): empty}
        for modality in modalities:
            before = [frozenset(order[: order.index(modality)]) for order in itertools.permutations(modalities)]
            share = np.mean([worth[some | {modality}] - worth[some] for some in before])
            assert shown(f"Shapley, {modality}")[label] == pytest.approx(share, abs=1e-6)
        if name == "digits":
            met = [math.prod(ODDS[m] if m in one.split("-") else 1 - ODDS[m] for m in modalities) for one in names]
            assert shown("expected")[label] == pytest.approx(own.mean(0) @ met / sum(met))

    search = {run.data.tags["trial"]: run.data for run in place.mlflow_runs(name)}
    best = max(search, key=lambda trial: search[trial].metrics["best/val/accuracy_mean"])
    (headline,) = [element.text for element in page.all("p") if element.attributes.get("class") == "headline"]
    (label,) = [one for one in labels if one.startswith(f"{search[best].tags['method']} best 1")]
    assert headline.startswith(f"{label} (trial {best}), the configuration that the search put first on val")
    assert f"a mean accuracy of {arrays[label].mean():.4f} (95 % interval " in headline
    assert f"{arrays[label].min(1).mean():.4f} in the worst combination of each seed" in headline
    trials = [cell.text for cell in page.column("trials", "trial")]
    means = [search[trial].metrics["best/val/accuracy_mean"] for trial in trials]
    assert page.values("trials", "accuracy_mean") == pytest.approx(means)
    assert means == sorted(means, reverse=True)
    samples = ", ".join(f"{len(split)} {one}" for one, split in splits.items())
    assert samples in page.all("main")[0].text


class Everywhere(NamedTuple):
    """What each command shows of the confirmed study, spaces made one; its report; and the note of its own run."""

    place: Any
    screen: str
    sentences: str
    compared: str
    notes: str
    status: str
    page: Any
    note: str
    summary: pd.DataFrame
    combinations: pd.DataFrame

    def drawn(self, name: str) -> str:
        return (self.place.path / f"everywhere/{name}.svg").read_text(encoding="utf-8")

    def table(self, stage: str) -> pd.DataFrame:
        return pd.read_csv(io.StringIO(self.place.run("table", "digits", "--stage", stage, "--format", "csv").stdout))


def spaced(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture(scope="module")
def everywhere(confirmed_digits, read_page) -> Everywhere:
    place = replace(confirmed_digits, environment=confirmed_digits.environment | {"COLUMNS": "200"})
    ended, compared = place.run("resume", "digits"), place.run("compare", "digits", "-o", "everywhere")
    place.run("figures", "digits", "--format", "svg", "-o", "everywhere")
    (study,) = place.mlflow_runs("digits", "study")
    return Everywhere(
        place,
        spaced(ended.stdout),
        spaced(ended.stderr),
        spaced(compared.stdout),
        compared.stderr,
        spaced(place.run("status", "digits").stdout),
        read_page((place.path / "dmr_runs/digits/report.html").read_text(encoding="utf-8")),
        study.data.tags["mlflow.note.content"],
        pd.read_csv(place.path / "everywhere/summary.csv").set_index("label"),
        pd.read_csv(place.path / "everywhere/combinations.csv"),
    )


def signed(value: float) -> str:
    return "-" if math.isnan(value) else f"{round(value, 4) + 0.0:+.4f}"


def test_each_level_is_the_same_wherever_it_is_shown(everywhere) -> None:
    """The screen after a run, `dmr compare`, `dmr table`, the report, the note of the study's run, and figures."""
    place, page, table = everywhere.place, everywhere.page, everywhere.table("confirm")
    labels = [cell.text.removesuffix(", the reference") for cell in page.column("configurations", "configuration")]
    runs: dict[str, list[dict[str, float]]] = {}
    for run in place.mlflow_runs("digits", "confirm"):
        runs.setdefault(f"{run.data.tags['method']} {run.data.tags['config']}", []).append(run.data.metrics)
    methods, rates = everywhere.drawn("methods"), everywhere.drawn("rates")
    for label, seeds in runs.items():
        found = {name: np.array([one[f"best/test/accuracy_{name}"] for one in seeds]) for name in SUMMARIES}
        mean, *others = (f"{found[name].mean():.4f}" for name in SUMMARIES)
        interval = "{:.4f}–{:.4f}".format(*stats.ttest_1samp(found["mean"], 0.0).confidence_interval())
        assert f"3 {mean} {interval} {' '.join(others)}" in everywhere.screen
        assert f"3 {mean} {interval} {mean} {' '.join(others)}" in everywhere.compared, "of 3 seeds the iqm is the mean"
        assert f"| 3 | {mean} | {interval} | {' | '.join(others)} |" in everywhere.note
        method, config = label.split(" ", 1)
        rows = table[(table["method"] == method) & (table["config"] == config) & (table["split"] == "test")]
        rows = rows[rows["combination"].isna()]
        for name in SUMMARIES:
            own = rows.loc[rows["metric"] == f"accuracy_{name}", "value"]
            assert sorted(own) == pytest.approx(sorted(found[name]))
            ends = stats.ttest_1samp(found[name], 0.0).confidence_interval()
            text = f"{found[name].mean():.4f}{ends.low:.4f} to {ends.high:.4f}".replace("-", "−")
            assert page.column("configurations", name)[labels.index(label)].text == text
        for name in ("mean", "worst"):
            assert f">{found[name].mean():.3f}</text>" in methods
        for name in ("full", "expected"):  # nothing missing; with the odds of the study
            assert f">{found[name].mean():.3f}</text>" in rates


def test_each_difference_and_share_is_the_same_wherever_it_is_shown(everywhere) -> None:
    page, summary = everywhere.page, everywhere.summary
    columns = {
        "interquartile mean": "iqm",
        "minus reference": "minus_reference",
        "p, seeds": "p_seeds_holm",
        "p, samples": "p_samples_holm",
        "minus defaults": "minus_defaults",
        "p, defaults": "p_defaults_holm",
        "worse with more": "worse_with_more",
    }
    columns |= {f"without {name}": f"without_{name}" for name in ODDS}
    columns |= {f"Shapley, {name}": f"shapley_{name}" for name in ODDS}
    shown = [cell.text for cell in page.tables["configurations"][0]]
    for heading, column in columns.items():
        if heading in shown:
            of_page = [math.nan if one is None else one for one in page.values("configurations", heading)]
            assert of_page == pytest.approx(summary[column].tolist(), nan_ok=True)
        else:
            assert summary[column].isna().all()
    differences = everywhere.drawn("methods_difference")
    for label, row in summary.iterrows():
        shares = " ".join(signed(row[f"shapley_{name}"]) for name in ODDS)
        assert shares in everywhere.compared
        assert f"{signed(row['minus_reference'])} " in everywhere.compared
        assert f"{signed(row['minus_defaults'])} " in everywhere.compared
        if not math.isnan(row["minus_reference"]):
            percent = 100 * row["minus_reference"]
            text = "0.00" if abs(percent) < 0.005 else f"{percent:+.{0 if abs(percent) >= 9.95 else 2}f}"
            text = text.replace("-", "−")
            assert f">{text}</text>" in differences, label
    for name, rows in everywhere.combinations.groupby("combination"):
        means = rows.set_index("label")["mean"]
        place = [cell.text for cell in page.column("combinations", "combination")].index(name)
        for label, mean in means.items():
            assert page.values("combinations", label)[place] == pytest.approx(mean)
            assert f">{mean:.2f}</text>" in everywhere.drawn("methods")
        line = everywhere.compared[everywhere.compared.index("accuracy of each combination") :]
        found = re.findall(rf" {name[:28]} ((?:\d\.\d{{4}}\*? ?)+)", line)  # the rest of a long name is below it
        assert sorted(f"{mean:.4f}" for mean in means) in [sorted(re.findall(r"\d\.\d{4}", row)) for row in found]


def test_each_value_of_the_search_is_the_same_wherever_it_is_shown(everywhere) -> None:
    page, table, trials = everywhere.page, everywhere.table("search"), everywhere.drawn("trials")
    numbers = [int(cell.text) for cell in page.column("trials", "trial")]
    best, highest = None, -1.0
    for run in everywhere.place.mlflow_runs("digits"):
        trial = int(run.data.tags["trial"])
        found = {name: run.data.metrics[f"best/val/accuracy_{name}"] for name in SUMMARIES}
        if found["mean"] > highest:
            best, highest = trial, found["mean"]
        assert " ".join([str(trial), run.data.tags["method"], *(f"{one:.4f}" for one in found.values())]) in (
            everywhere.screen
        )
        rows = table[(table["trial"] == trial) & (table["split"] == "val") & table["combination"].isna()]
        of_table = rows.set_index("metric")["value"]
        for name, value in found.items():
            assert page.values("trials", f"accuracy_{name}")[numbers.index(trial)] == pytest.approx(value)
            assert of_table[f"accuracy_{name}"] == pytest.approx(value)
        for name in ("mean", "worst"):
            assert f">{found[name]:.3f}</text>" in trials
    said = f"Trial {best} ({everywhere.place.mlflow_runs('digits')[best].data.tags['method']}) was the best of 4 by "
    said += f"val/accuracy_mean: {highest:.4f}"
    assert said in everywhere.screen
    assert said in everywhere.note.replace("`", "").replace("*", "")
    assert f"best: val/accuracy_mean {highest:.4f}, worst combination " in everywhere.status


def test_what_decides_is_the_same_wherever_it_is_said(everywhere) -> None:
    page, summary = everywhere.page, everywhere.summary
    sentences = [element.text for element in page.all("li")]
    for beginning in (
        "What is lost without each modality",
        "If one has to go",
        "Its weakest combination",
        "Searching",
        "It cost",
        "The expected accuracy is under these deployment odds: ",
    ):
        begun = [one for one in sentences if one.startswith(beginning)]
        assert begun, beginning
        for sentence in begun:
            assert spaced(sentence) in everywhere.sentences
            assert f"- {sentence}" in everywhere.note
            assert f"- {sentence}" in everywhere.notes.splitlines()
    label = first_on_val(everywhere.place, "digits", summary.index)
    row = summary.loc[label]
    (headline,) = [element.text for element in page.all("p") if element.attributes.get("class") == "headline"]
    assert headline.startswith(label)
    assert f"{row['mean']:.4f} (95 % interval {row['low']:.4f} to {row['high']:.4f})" in headline
    figures = [element.text for element in page.all("dd") if element.attributes.get("class") == "value"]
    assert figures == [f"{row[name]:.4f}" for name in SUMMARIES]
    for modality in ODDS:
        lost, low, high = (row[f"without_{modality}{end}"] for end in ("", "_low", "_high"))
        said = f"{modality} {lost:+.4f} (95 % interval {low:+.4f} to {high:+.4f})".replace("-", "−")
        assert said in everywhere.sentences
        assert f"{modality} {lost:+.4f} {low:+.4f} to {high:+.4f}" in everywhere.compared
    assert f"{label} (reference)" in everywhere.compared
    assert f"{label}, the reference" in [cell.text for cell in page.column("configurations", "configuration")]
    weakest = everywhere.combinations[everywhere.combinations["label"] == label]["mean"].min()
    assert f"accuracy {weakest:.4f}, mean over seeds." in everywhere.sentences
