"""The README's commands, run in a copy of the repository as a new user would."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The tracked files, with this environment as `.venv`: setting it up again would cost minutes."""
    path = tmp_path_factory.mktemp("copy") / "dmr"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in tracked.strip("\0").split("\0"):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, path / name)
    for name in ("pyproject.toml", "constraints.txt"):
        os.utime(path / name, (0, 0))  # older than the environment
    (path / ".venv").symlink_to(Path(sys.prefix))
    return path


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_blocks_run_in_order(copy):
    assert [block.split()[0] for block in BLOCKS] == ["make", "pip", "."]
    environment = {**os.environ, "PATH": f"{copy / '.venv/bin'}:{os.environ['PATH']}", "PYTHONPATH": str(copy)}
    for block in BLOCKS:
        block = block.replace("pip install", "pip install --dry-run")
        done = subprocess.run(
            ["bash", "-euxo", "pipefail", "-c", block],
            cwd=copy,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        assert "Traceback" not in done.stderr
    assert (copy / "dmr_runs/digits/heatmap.png").exists()
    assert (copy / "short.svg").exists()
    assert (copy / "dmr_runs/digits/report.html").exists()
    assert "short" in (copy / "short.html").read_text()
    assert (copy / "short/summary.csv").exists()
    assert (copy / "model/MLmodel").exists()
    assert pd.read_csv(copy / "short.csv")["trial"].nunique() == 4

    again = subprocess.run(["make", "study"], cwd=copy, env=environment, capture_output=True, text=True, check=True)
    assert "study digits is complete: 24 trials" in again.stderr
    table = subprocess.run(["dmr", "table", "digits"], cwd=copy, env=environment, stdout=subprocess.PIPE, check=True)
    (copy / "digits.csv").write_bytes(table.stdout)
    values = pd.read_csv(copy / "digits.csv").pivot_table(index="trial", columns="metric", values="value")
    assert len(values) == 24
    best = values.loc[values["accuracy_mean"].idxmax()]
    assert best["accuracy_mean"] >= 0.87
    assert best["accuracy_full"] >= 0.97


def test_links_lead_somewhere():
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_study_file_page_and_that_of_its_controls_name_every_key():
    from dmr.studies.study_file.plan import load_plan

    page = (ROOT / "docs/study_file.md").read_text() + (ROOT / "docs/research.md").read_text()
    document = load_plan(ROOT / "studies/digits.yaml", [], None, None).document

    def keys(section):
        for key, value in section.items():
            yield key
            if isinstance(value, dict) and key != "search":
                yield from keys(value)

    missing = [key for key in keys(document) if not re.search(rf"\b{key}\b", page)]
    assert not missing
