"""The layers of the design: dmr <- studies, dmr.combinations <- analysis, studies calls analysis lazily."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("dmr", "studies", "analysis")
FILES = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
    for package in PACKAGES
    for file in sorted((ROOT / package).rglob("*.py"))
}
HEAVY = {"torch", "ray", "mlflow", "optuna", "sqlalchemy", "pandas", "matplotlib", "seaborn", "sklearn", "scipy"}
MAX_LINES = 400


class Import(NamedTuple):
    """A module that a file imports; `at_once` if that happens when the file itself is imported."""

    module: str
    at_once: bool


def imports(source: str) -> Iterator[Import]:
    """Every import, those of TYPE_CHECKING included; `from a import b` is a.b where that is one of our files."""
    pending = [(node, True) for node in ast.parse(source).body]
    while pending:
        node, at_once = pending.pop()
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, at_once) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield Import(name if name in FILES else str(node.module), at_once)
        else:
            lazy = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            lazy = lazy or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
            pending += [(child, at_once and not lazy) for child in ast.iter_child_nodes(node)]


IMPORTS = {module: set(imports(file.read_text(encoding="utf-8"))) for module, file in FILES.items()}
every_file = pytest.mark.parametrize("module", FILES)


def files_of(*packages: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("module", [module for module in FILES if module.split(".")[0] in packages])


def packages_of(module: str, at_once: bool = False) -> set[str]:
    """Top-level packages that a file imports (`at_once`: only those it cannot do without)."""
    return {found.module.split(".")[0] for found in IMPORTS[module] if found.at_once or not at_once}


def loaded_by(module: str) -> set[str]:
    """Top-level packages in memory after `import module`, as far as our own files say."""
    seen, pending, packages = set(), [module], set()
    while pending:
        current = pending.pop()
        if current not in FILES:
            packages.add(current.split(".")[0])
        elif current not in seen:
            seen.add(current)
            pending += [found.module for found in IMPORTS[current] if found.at_once]
            pending += [current.rpartition(".")[0]] if "." in current else []
    return packages


def test_imports_are_found_wherever_they_stand() -> None:
    source = """
import a, b.c as d
from studies import plan
from e.f import g
if TYPE_CHECKING:
    import h
try:
    import i
except ImportError:
    pass
class C:
    import j
    def m(self):
        import k
async def f():
    with x:
        from l import m
"""
    at_once = {"a", "b.c", "studies.plan", "e.f", "i", "j"}
    assert set(imports(source)) == {Import(m, True) for m in at_once} | {Import(m, False) for m in ("h", "k", "l")}


def test_all_packages_are_seen() -> None:
    assert {module.split(".")[0] for module in FILES} == set(PACKAGES)
    assert {"dmr.training", "dmr.methods.dmrnet", "studies.plan", "analysis.results"} <= set(FILES)
    assert {"torch", "numpy"} <= packages_of("dmr.training", at_once=True)


@files_of("dmr")
def test_the_science_knows_nothing_above_it(module: str) -> None:
    above = {"studies", "analysis", "ray", "optuna", "mlflow", "pandas", "pydantic", "typer", "rich"}
    assert packages_of(module) & above == set()


@files_of("dmr")
def test_the_science_needs_torch_and_numpy_alone(module: str) -> None:
    """Readers and metrics import the libraries they need inside the function that needs them."""
    assert packages_of(module, at_once=True) - set(sys.stdlib_module_names) <= {"dmr", "torch", "numpy"}


@files_of("analysis")
def test_the_analysis_reads_without_the_orchestration(module: str) -> None:
    assert packages_of(module) & {"studies", "ray", "optuna", "torch"} == set()
    own = {found.module for found in IMPORTS[module] if found.module.startswith("dmr")}
    assert own <= {"dmr.combinations"}


@files_of("studies")
def test_the_orchestration_calls_the_analysis_lazily(module: str) -> None:
    assert "analysis" not in packages_of(module, at_once=True)


@pytest.mark.parametrize("name", ["errors", "yaml_files", "changes", "space", "schema", "plan"])
def test_a_study_file_is_checked_without_an_engine(name: str) -> None:
    assert loaded_by(f"studies.{name}") & {"ray", "optuna", "mlflow", "pandas"} == set()


def test_no_files_import_each_other_in_a_circle() -> None:
    graph = {module: {f.module for f in found if f.at_once and f.module in FILES} for module, found in IMPORTS.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@every_file
def test_a_file_is_one_idea(module: str) -> None:
    lines = FILES[module].read_text(encoding="utf-8").count("\n")
    assert lines < MAX_LINES, f"{FILES[module].relative_to(ROOT)} has {lines} lines; split it by idea"


DMR = str(Path(sys.executable).with_name("dmr"))


@pytest.mark.parametrize("command", [["-c", "import studies.cli"], [DMR, "--help"], [DMR, "run", "--help"]])
def test_the_command_line_starts_without_the_heavy_packages(command: list[str]) -> None:
    ran = subprocess.run(
        [sys.executable, "-X", "importtime", *command], capture_output=True, text=True, timeout=120, check=True
    )
    timed = [line.rpartition("|")[2].strip() for line in ran.stderr.splitlines() if line.startswith("import time:")]
    loaded = {name.split(".")[0] for name in timed}
    assert {"studies", "typer"} <= loaded
    assert loaded & HEAVY == set()
