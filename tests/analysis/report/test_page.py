"""The page of studies in a real store: read as text, against the raw runs, and opened in a browser."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow.entities import Metric, Param
from scipy import stats

from dmr.analysis.report.page import Source, write_report

STUDY_FILE = "model: {method: dmrnet, prior_std: 1.0}\nsearch: {model.prior_std: {log_uniform: [0.1, 3.0]}}\n"
ReadPage = Callable[[str], Any]
CONFIRMED = (  # trial, method, configuration, level of its values
    (5, "dropout", "best 1", 0.45),
    (1, "dropout", "defaults", 0.40),
    (4, "dmrnet", "best 1", 0.42),
    (0, "dmrnet", "defaults", 0.47),
)


@dataclass
class Written:
    """A study in the store, and its page."""

    study: Any
    page: Any  # of pages.py
    text: str
    path: Path


def add_run(
    study: Any,
    stage: str,
    trial: int,
    seed: int,
    values: Sequence[float] | None,
    *,
    method: str = "dmrnet",
    config: str | None = None,
    reason: str | None = "completed",
    metrics: dict[str, float] | None = None,
    params: dict[str, Any] | None = None,
    error: str | None = None,
) -> str:
    """A run of a trial or of its confirmation, as `studies` writes it; without a reason it is still running."""
    tags = {"study": study.name, "stage": stage, "method": method, "seed": str(seed), "trial": str(trial)}
    tags |= {"config": config} if config else {}
    tags |= {"stop_reason": reason} if reason else {}
    run_id: str = study.client.create_run(
        study.experiment_id, tags=tags | {"mlflow.parentRunId": study.parent}
    ).info.run_id
    logged = dict(metrics or {})
    if values is not None:
        split = "val" if stage == "search" else "test"
        summaries = {"mean": float(np.mean(values)), "worst": min(values), "full": values[-1]}
        logged |= {f"best/{split}/accuracy_{name}": value for name, value in summaries.items()}
        logged |= {f"best/{split}/accuracy/{n}": v for n, v in zip(study.combinations.names, values, strict=True)}
    study.client.log_batch(
        run_id,
        metrics=[Metric(name, value, 0, 0) for name, value in logged.items()],
        params=[Param(key, str(value)) for key, value in ({"model.method": method} | (params or {})).items()],
    )
    if error is not None:
        study.client.log_text(run_id, error, "error.txt")
    if reason is not None:
        study.client.set_terminated(run_id, "FAILED" if error else "FINISHED")
    return run_id


def write(study: Any, folder: Path, read_page: ReadPage, study_file: str = STUDY_FILE) -> Written:
    key = study.client.get_run(study.parent).data.tags.get("dmr.key")
    source = Source(study.uri, study.experiment, study.name, key, study_file)
    path = write_report(source, folder / "report.html")
    text = path.read_text(encoding="utf-8")
    return Written(study, read_page(text), text, path)


def curve(study: Any, level: float, draw: np.random.Generator) -> list[float]:
    """Values that grow with the size of the combination."""
    grown = level + 0.1 * study.combinations.sizes + 0.02 * draw.standard_normal(len(study.combinations))
    return [float(value) for value in grown]


def fill(study: Any, trials: int = 6, seeds: int = 5) -> Any:
    """A search of two methods, with a failed, a pruned and a running trial, and the confirmation of the best."""
    draw = np.random.default_rng(0)
    for trial in range(trials):
        method = ("dmrnet", "dropout")[trial % 2]
        reason = "pruned" if trial == 3 else "completed"
        params = {"model.prior_std": 0.1 * (trial + 1)}
        values = curve(study, 0.4 + 0.01 * trial, draw)
        add_run(study, "search", trial, 0, values, method=method, params=params, reason=reason)
    add_run(study, "search", trials, 0, None, reason="diverged", error="diverged: 9 of 17 steps\n\nTraceback")
    add_run(study, "search", trials + 1, 0, None, reason=None)
    for seed in range(1, seeds + 1):
        for trial, method, config, level in CONFIRMED:
            add_run(study, "confirm", trial, seed, curve(study, level, draw), method=method, config=config)
    return study


@pytest.fixture(scope="module")
def written(new_study: Callable[..., Any], read_page: ReadPage, tmp_path_factory: pytest.TempPathFactory) -> Written:
    tags = {
        "samples": json.dumps({"train": 100, "val": 20, "test": 30, "classes": 3}),
        "versions": json.dumps({"python": "3.11.9", "torch": "2.13.0"}),
        "deployment": json.dumps({"rgb": 0.9}),
        "git_commit": "0123abc",
        "random_search": "random search: tpe proposes",
    }
    return write(fill(new_study(searched=["model.prior_std"], tags=tags)), tmp_path_factory.mktemp("report"), read_page)


def raw_test_values(study: Any) -> dict[str, dict[int, list[float]]]:
    """From MLflow itself: by label and seed, the accuracy of each combination on test."""
    found: dict[str, dict[int, list[float]]] = {}
    for run in study.client.search_runs([study.experiment_id], "tags.stage = 'confirm'", max_results=500):
        tags, metrics = run.data.tags, run.data.metrics
        if f"best/test/accuracy/{study.combinations.names[0]}" in metrics:
            values = [metrics[f"best/test/accuracy/{name}"] for name in study.combinations.names]
            found.setdefault(f"{tags['method']} {tags['config']}", {})[int(tags["seed"])] = values
    return {label: dict(sorted(seeds.items())) for label, seeds in found.items()}


def test_the_tables_have_the_numbers_of_the_raw_runs(written: Written) -> None:
    page, raw = written.page, raw_test_values(written.study)
    labels = [cell.text.removesuffix(", the reference") for cell in page.column("configurations", "configuration")]
    assert sorted(labels) == sorted(raw)
    arrays = {label: np.array(list(seeds.values())) for label, seeds in raw.items()}
    for heading, number in {
        "mean": lambda one: one.mean(),
        "worst": lambda one: one.min(axis=1).mean(),
        "full": lambda one: one[:, -1].mean(),
    }.items():
        assert page.values("configurations", heading) == pytest.approx([number(arrays[label]) for label in labels])
    assert page.values("configurations", "mean") == sorted(page.values("configurations", "mean"), reverse=True)
    assert [cell.text for cell in page.column("combinations", "combination")] == list(written.study.combinations.names)
    for label in labels:
        assert page.values("combinations", label) == pytest.approx(arrays[label].mean(axis=0))
    confirm = list(
        zip(*(page.column("confirm-runs", name) for name in ("method", "configuration", "seed")), strict=True)
    )
    for (method, config, seed), value in zip(confirm, page.values("confirm-runs", "accuracy_mean"), strict=True):
        assert value == pytest.approx(np.mean(raw[f"{method.text} {config.text}"][int(seed.text)]))


def test_the_answer_is_of_what_the_search_put_first_and_not_of_the_best_on_test(written: Written) -> None:
    """Trial 5, dropout, is first on val; dmrnet's defaults are better on test."""
    values = np.array(list(raw_test_values(written.study)["dropout best 1"].values()))
    own = np.array(list(raw_test_values(written.study)["dropout defaults"].values()))
    headline = next(e.text for e in written.page.all("p") if e.attributes.get("class") == "headline")
    assert headline.startswith("dropout best 1 (trial 5), the configuration that the search put first on val")
    interval = stats.ttest_1samp(values.mean(axis=1), 0.0).confidence_interval()
    assert f"{values.mean():.4f} (95 % interval {interval.low:.4f} to {interval.high:.4f})" in headline
    assert f"{values.min(axis=1).mean():.4f} in the worst combination of each seed" in headline
    assert f"{values[:, -1].mean():.4f} with all modalities" in headline
    assert headline.endswith("expected in deployment (5 seeds).")
    sentences = " ".join(element.text for element in written.page.all("li"))
    names = list(written.study.combinations.names)
    modalities = written.study.combinations.modalities
    others = {one: "-".join(other for other in modalities if other != one) for one in modalities}
    lost = {one: values[:, -1] - values[:, names.index(rest)] for one, rest in others.items()}
    order = ["What is lost without each modality", "Its weakest combination", "Searching", "It cost 8 trials"]
    assert [sentences.index(words) for words in order] == sorted(sentences.index(words) for words in order)
    for modality, values_lost in lost.items():
        low, high = stats.t.interval(0.95, len(values_lost) - 1, values_lost.mean(), stats.sem(values_lost))
        text = f"{modality} {values_lost.mean():+.4f} (95 % interval {low:+.4f} to {high:+.4f})"
        assert text.replace("-", "−") in sentences
    difference = values.mean() - own.mean()
    assert f"against the file's defaults of dropout the mean changed by {difference:+.4f}" in sentences
    assert "so few seeds cannot prove it" in sentences  # all 5 seeds agree, and p cannot be under 0.0625
    assert "p = 0.0625" in sentences
    weakest = written.study.combinations.names[int(values.mean(axis=0).argmin())]
    assert f"Its weakest combination is {weakest} alone" in sentences
    assert "The other method, dmrnet, has a mean on test that is no better than this" in sentences


def test_every_trial_is_there_with_its_end_and_its_run(written: Written) -> None:
    page = written.page
    runs = written.study.client.search_runs([written.study.experiment_id], "tags.stage = 'search'")
    values = {
        r.data.tags["trial"]: r.data.metrics.get("best/val/accuracy_mean", -float(r.data.tags["trial"])) for r in runs
    }
    trials = [cell.text for cell in page.column("trials", "trial")]
    assert trials == sorted(values, key=values.__getitem__, reverse=True)
    assert trials[-2:] == ["6", "7"]  # without values
    ends = dict(zip(trials, (cell.text for cell in page.column("trials", "ended")), strict=True))
    assert ends == dict.fromkeys("01245", "completed") | {
        "3": "pruned (stopped early)",
        "6": "diverged",
        "7": "running",
    }
    widths = [0.1 * (int(trial) + 1) for trial in trials[:-2]]
    assert page.values("trials", "model.prior_std") == [*(pytest.approx(width) for width in widths), None, None]
    ids = [cell.text for cell in page.column("trials", "MLflow run")]
    assert dict(zip(ids, trials, strict=True)) == {run.info.run_id: run.data.tags["trial"] for run in runs}
    links = {link.attributes["href"] for link in page.all("a")}
    assert {
        f"http://127.0.0.1:5000/#/experiments/{written.study.experiment_id}/runs/{run_id}" for run_id in ids
    } <= links
    assert [cell.text for cell in page.column("failures", "message")] == ["diverged: 9 of 17 steps"]
    assert "8: 5 completed, 1 diverged, 1 pruned, 1 running" in written.text
    assert "100 train, 20 val, 30 test; 3 classes" in written.text
    assert "python 3.11.9, torch 2.13.0" in written.text
    assert "random search: tpe proposes" in written.text


def test_nothing_is_loaded_from_outside_and_only_our_script_may_run(written: Written) -> None:
    page = written.page
    sources = [e.attributes["src"] for e in page.elements if "src" in e.attributes]
    assert sources
    assert all(source.startswith(("data:image/svg+xml;base64,", "data:image/png;base64,")) for source in sources)
    links = [e.attributes["href"] for e in page.elements if "href" in e.attributes]
    assert {link.split("/#/")[0] for link in links if not link.startswith("#")} == {"http://127.0.0.1:5000"}
    assert page.all("link") == []
    (style,), (script,) = page.all("style"), page.all("script")
    assert "url(" not in style.text
    assert "@import" not in style.text
    (policy,) = [m.attributes["content"] for m in page.all("meta") if "http-equiv" in m.attributes]
    assert policy.startswith("default-src 'none'; img-src data:;")
    for part, element in (("style-src", style), ("script-src", script)):
        digest = base64.b64encode(hashlib.sha256(element.text.encode()).digest()).decode()
        assert f"{part} 'sha256-{digest}';" in policy
    assert [e.tag for e in page.elements if "style" in e.attributes or "onclick" in e.attributes] == []


def test_a_screen_reader_finds_its_way(written: Written) -> None:
    page = written.page
    assert page.all("html")[0].attributes["lang"] == "en"
    assert all(image.attributes["alt"] for image in page.all("img"))
    assert {"header", "nav", "main", "footer"} <= {e.tag for e in page.elements}
    levels = [int(e.tag[1]) for e in page.elements if e.tag in ("h1", "h2", "h3", "h4")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in itertools.pairwise(levels))
    assert len(page.all("caption")) == len(page.all("table")) == len(page.tables) > 3
    assert all(e.attributes["scope"] in ("col", "row") for e in page.all("th"))
    ids = [e.attributes["id"] for e in page.elements if "id" in e.attributes]
    assert len(ids) == len(set(ids))
    named = [e.attributes["aria-labelledby"] for e in page.elements if "aria-labelledby" in e.attributes]
    targets = [e.attributes["href"][1:] for e in page.all("a") if e.attributes["href"].startswith("#")]
    assert {*named, *targets} <= set(ids)
    regions = [e for e in page.elements if e.attributes.get("role") == "region"]
    assert regions
    assert all(
        e.attributes["tabindex"] == "0" and {"aria-label", "aria-labelledby"} & set(e.attributes) for e in regions
    )


def test_what_others_wrote_is_escaped(new_study: Callable[..., Any], read_page: ReadPage, tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>\"'&amp;"
    study = new_study(name=evil, searched=[], tags={"dataset": evil, "dmr.key": "k/study", "git_commit": evil})
    message = f"error: {evil} at postgresql://me:s3cret@host/db"
    add_run(study, "search", 0, 0, [0.5] * 7, method=evil)
    add_run(study, "search", 1, 0, None, method=evil, reason="error", error=message)
    page = write(study, tmp_path, read_page, f"model: {{method: x}}\n# {evil} http://me:s3cret@host/")
    assert len(page.page.all("script")) == 1
    assert page.text.count("<script>") == 1
    assert "s3cret" not in page.text
    assert page.page.all("h1")[0].text == f"Study {evil}"
    assert page.page.column("failures", "message")[0].text.startswith(f"error: {evil} at postgresql://me:***@host")


def empty(study: Any) -> None:
    """Not one trial yet."""


def failed_only(study: Any) -> None:
    add_run(study, "search", 0, 0, None, reason="out_of_memory", error="out of memory")
    add_run(study, "search", 1, 0, None, reason=None)


def one_trial(study: Any) -> None:
    add_run(study, "search", 0, 0, curve(study, 0.2, np.random.default_rng(0)))


def one_seed(study: Any) -> None:
    fill(study, trials=2, seeds=1)


def few_seeds(study: Any) -> None:
    fill(study, trials=3, seeds=2)


def confirmation_without_values(study: Any) -> None:
    one_trial(study)
    add_run(study, "confirm", 0, 1, None, config="best 1, defaults", reason=None)


def metric_of_some(study: Any) -> None:
    """The first objective is one that not every trial has."""
    draw = np.random.default_rng(0)
    for trial in range(3):
        extra = {"best/val/accuracy_expected": 0.5 + trial / 10} if trial else {}
        add_run(study, "search", trial, 0, curve(study, 0.2, draw), metrics=extra)


@pytest.mark.parametrize(
    ("make", "settings", "said"),
    [
        (empty, {}, "There is no result yet: no trial has values."),
        (failed_only, {}, "1 out_of_memory"),
        (one_trial, {}, "Not confirmed yet: trial 0 (dmrnet) is the best of 1 trial with values"),
        (one_seed, {}, "(1 seed)"),
        (confirmation_without_values, {}, "Not confirmed yet"),
        (
            metric_of_some,
            {"objectives": [("val/accuracy_expected", "max")]},
            "trial 2 (dmrnet) is the best of 2 trials",
        ),
        (few_seeds, {"modalities": ("rgb", "depth")}, "over all 3 combinations of modalities"),
        (few_seeds, {"modalities": ("a", "b", "c", "d", "e", "f")}, "over all 63 combinations of modalities"),
    ],
)
def test_a_study_at_any_point(
    new_study: Callable[..., Any],
    read_page: ReadPage,
    tmp_path: Path,
    make: Callable[[Any], Any],
    settings: dict[str, Any],
    said: str,
) -> None:
    study = new_study(**settings)
    make(study)
    page = write(study, tmp_path, read_page, "{}")
    assert said in page.page.all("main")[0].text
    assert "nan" not in page.page.all("main")[0].text.lower().split()
    assert "trials" in page.page.tables


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: the page was not opened in a browser")
def test_a_browser_opens_it_without_a_network_and_sorts_it(written: Written) -> None:
    from playwright.sync_api import sync_playwright

    trouble: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for width in (390, 1440):
            context = browser.new_context(offline=True, viewport={"width": width, "height": 900})
            page = context.new_page()
            page.on("console", lambda message: trouble.append(message.text))
            page.on("pageerror", lambda error: trouble.append(str(error)))
            page.on("request", lambda r: trouble.append(r.url) if not r.url.startswith(("file:", "data:")) else None)
            page.goto(written.path.as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.evaluate("[...document.images].every((one) => one.complete && one.naturalWidth > 0)")
        heading = page.locator("#trials th", has_text="accuracy_worst")
        before = page.locator("#trials th[aria-sort]")
        assert (before.inner_text().split()[0], before.get_attribute("aria-sort")) == ("accuracy_mean", "descending")

        def numbers() -> list[float | None]:
            read = "(cells) => cells.map((one) => one.dataset.value === undefined ? null : Number(one.dataset.value))"
            position = heading.evaluate("(one) => one.cellIndex + 1")
            found: list[float | None] = page.locator(f"#trials tbody tr > :nth-child({position})").evaluate_all(read)
            return found

        known = sorted(value for value in numbers() if value is not None)
        heading.locator("button").click()
        assert (heading.get_attribute("aria-sort"), numbers()) == ("descending", [*known[::-1], None, None])
        heading.locator("button").focus()
        page.keyboard.press("Enter")
        assert (heading.get_attribute("aria-sort"), numbers()) == ("ascending", [*known, None, None])
        assert page.locator("#trials th[aria-sort]").count() == 1
        page.keyboard.press("Tab")
        page.keyboard.press("Space")
        assert page.locator("#trials th[aria-sort]").inner_text().split()[0] == "accuracy_full"
        browser.close()
    assert trouble == []
