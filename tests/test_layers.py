"""The layers: the science <- dmr.analysis <- dmr.studies, and inside those the packages, each on those below it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
FILES = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
    for file in sorted((ROOT / "dmr").rglob("*.py"))
}
HEAVY = {"torch", "ray", "mlflow", "optuna", "sqlalchemy", "pandas", "matplotlib", "seaborn", "sklearn", "scipy"}
MAX_LINES, MAX_FILES = 400, 15
# The packages inside studies and analysis, from the ground up. What is not listed is forbidden.
INSIDE = {
    "dmr.studies.study_file": set(),
    "dmr.studies.storage": set(),
    "dmr.studies.search": {"dmr.studies.study_file"},
    "dmr.studies.tracking": {"dmr.studies.study_file", "dmr.studies.storage"},
    "dmr.studies.workers": {"dmr.studies.storage"},
    "dmr.studies.stages": {
        "dmr.studies.search",
        "dmr.studies.tracking",
        "dmr.studies.storage",
        "dmr.studies.study_file",
    },
    "dmr.studies.trained_models": {
        "dmr.studies.search",
        "dmr.studies.tracking",
        "dmr.studies.storage",
        "dmr.studies.study_file",
    },
    "dmr.studies.reporting": {
        "dmr.studies.stages",
        "dmr.studies.trained_models",
        "dmr.studies.tracking",
        "dmr.studies.storage",
        "dmr.studies.study_file",
    },
    "dmr.studies.driver": {
        "dmr.studies.reporting",
        "dmr.studies.stages",
        "dmr.studies.workers",
        "dmr.studies.tracking",
        "dmr.studies.search",
        "dmr.studies.storage",
        "dmr.studies.study_file",
    },
    "dmr.studies.cli": {
        "dmr.studies.driver",
        "dmr.studies.reporting",
        "dmr.studies.trained_models",
        "dmr.studies.stages",
        "dmr.studies.storage",
        "dmr.studies.study_file",
    },
    "dmr.analysis.results": set(),
    "dmr.analysis.comparison": {"dmr.analysis.results"},
    "dmr.analysis.figures": {"dmr.analysis.results", "dmr.analysis.comparison"},
    "dmr.analysis.factors": {"dmr.analysis.results", "dmr.analysis.comparison", "dmr.analysis.figures"},
    "dmr.analysis.report": {"dmr.analysis.results", "dmr.analysis.comparison", "dmr.analysis.figures"},
}
SHARED_NAMES = {
    "dmr.analysis.results.record_names",
    "dmr.analysis.store_uris",
}  # constants and text: imported at once


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


def layer_of(module: str) -> str:
    """`dmr.studies`, `dmr.analysis`, or `dmr` for the science."""
    return next((name for name in ("dmr.studies", "dmr.analysis") if f"{module}.".startswith(f"{name}.")), "dmr")


def files_of(*layers: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("module", [module for module in FILES if layer_of(module) in layers])


def packages_of(module: str, at_once: bool = False) -> set[str]:
    """Layers and other top-level packages that a file imports (`at_once`: only those it cannot do without)."""
    used = [found.module for found in IMPORTS[module] if found.at_once or not at_once]
    return {layer_of(name) if name.split(".")[0] == "dmr" else name.split(".")[0] for name in used}


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


def package_of(module: str) -> str | None:
    """`dmr.studies.search` of `dmr.studies.search.samplers`; None right below the layer: all may import that."""
    return ".".join(module.split(".")[:3]) if module.count(".") > 2 or module in INSIDE else None


def test_imports_are_found_wherever_they_stand() -> None:
    source = """
import a, b.c as d
from dmr.studies.study_file import plan
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
    at_once = {"a", "b.c", "dmr.studies.study_file.plan", "e.f", "i", "j"}
    assert set(imports(source)) == {Import(m, True) for m in at_once} | {Import(m, False) for m in ("h", "k", "l")}


def test_all_packages_are_seen() -> None:
    assert {layer_of(module) for module in FILES} == {"dmr", "dmr.analysis", "dmr.studies"}
    assert {"dmr.training", "dmr.methods.dmrnet", "dmr.studies.study_file.plan", "dmr.analysis.statistics"} <= set(
        FILES
    )
    assert {"torch", "numpy"} <= packages_of("dmr.metrics", at_once=True)


@files_of("dmr")
def test_the_science_knows_nothing_above_it(module: str) -> None:
    above = {"dmr.studies", "dmr.analysis", "ray", "optuna", "mlflow", "pandas", "pydantic", "typer", "rich"}
    assert packages_of(module) & above == set()


@files_of("dmr")
def test_the_science_needs_torch_and_numpy_alone(module: str) -> None:
    """Readers and metrics import the libraries they need inside the function that needs them."""
    assert packages_of(module, at_once=True) - set(sys.stdlib_module_names) <= {"dmr", "torch", "numpy"}


@files_of("dmr.analysis")
def test_the_analysis_reads_without_the_orchestration(module: str) -> None:
    assert packages_of(module) & {"dmr.studies", "ray", "optuna", "torch"} == set()
    science = {found.module for found in IMPORTS[module] if layer_of(found.module) == "dmr" and found.module in FILES}
    assert science <= {"dmr.combinations", "dmr.direction", "dmr.files"}


@files_of("dmr.studies")
def test_the_orchestration_calls_the_analysis_lazily(module: str) -> None:
    used = {found.module for found in IMPORTS[module] if found.at_once and layer_of(found.module) == "dmr.analysis"}
    assert used <= SHARED_NAMES


@pytest.mark.parametrize(
    "name",
    ["errors", "yaml_io", "study_file.changed_keys", "study_file.search_space", "study_file.schema", "study_file.plan"],
)
def test_a_study_file_is_checked_without_an_engine(name: str) -> None:
    assert loaded_by(f"dmr.studies.{name}") & {"ray", "optuna", "mlflow", "pandas"} == set()


@files_of("dmr.studies", "dmr.analysis")
def test_a_package_imports_only_the_packages_below_it(module: str) -> None:
    """Imports of types and inside functions count too: they are how a circle begins."""
    package = package_of(module)
    used = {package_of(found.module) for found in IMPORTS[module] if found.module in FILES} - {None, package}
    used = {other for other in used if other.split(".")[:2] == module.split(".")[:2]}
    allowed = INSIDE.get(package, set()) if package is not None else set()
    assert used <= allowed, (
        f"{module} imports {', '.join(sorted(used - allowed))}; {package or 'a shared file'} may not"
    )


def test_every_package_says_what_lives_there() -> None:
    for package in INSIDE:
        tree = ast.parse(FILES[package].read_text(encoding="utf-8"))
        assert ast.get_docstring(tree), f"{package}/__init__.py has no docstring"
        assert len(tree.body) == 1 or package == "dmr.studies.cli", (
            f"{package}/__init__.py defines or imports something"
        )


def test_what_a_process_that_trains_has_loaded() -> None:
    """Ray itself loads pydantic; our files do not need it: see the test before."""
    workers = ", ".join(module for module in FILES if module.startswith("dmr.studies.workers."))
    code = f"import sys, {workers}; print(*{{name.split('.')[0] for name in sys.modules}})"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    loaded = set(ran.stdout.split())
    assert {"dmr", "ray", "torch"} <= loaded
    assert loaded & {"optuna", "mlflow", "sqlalchemy"} == set()


def test_training_itself_loads_neither_whole_libraries_of_metrics_nor_of_figures() -> None:
    """Each would cost every trial a second or more before its first epoch."""
    code = """
import sys, torch
from dmr.data import open_dataset
from dmr.encoders.mlp import MLPSettings
from dmr.methods.dmrnet import DMRNetSettings
from dmr.settings import SamplingSettings, TrainSettings
from dmr.training import RunSettings, fit

class Silent:
    load = save = report = lambda *_: None

data = open_dataset("planted", {"modalities": 3, "classes": 3, "train": 60, "val": 30, "test": 30}, 0)
encoders = {modality.name: MLPSettings(width=4) for modality in data.modalities}
run = dict(fusion="concat", select="val/accuracy_mean", select_mode="max", deployment=None, seed=0)
train = TrainSettings(epochs=3, learning_rate=0.02)
settings = RunSettings(DMRNetSettings(), encoders, SamplingSettings(), train, **run)
metrics = fit(data, settings, torch.device("cpu"), Silent()).best_metrics
assert "val/variance_error_correlation" in metrics, metrics
print(*{name.split(".")[0] for name in sys.modules})
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    assert set(ran.stdout.split()) & {"torchmetrics", "scipy", "sklearn", "pandas", "matplotlib", "ray"} == set()


def test_no_folder_has_more_files_than_a_person_takes_in() -> None:
    folders = Counter(file.parent for file in FILES.values() if file.name != "__init__.py")
    assert {str(folder.relative_to(ROOT)): count for folder, count in folders.items() if count > MAX_FILES} == {}


def test_no_two_files_have_the_same_name() -> None:
    """A name that is open in an editor's tab says which file it is."""
    stems = [m.rpartition(".")[2] for m in FILES if m.startswith(("dmr.studies", "dmr.analysis")) and m not in INSIDE]
    assert sorted(stems) == sorted(set(stems))


@files_of("dmr.studies")
def test_processes_that_train_know_neither_optuna_nor_mlflow(module: str) -> None:
    if module.startswith("dmr.studies.workers"):
        assert loaded_by(module) & {"optuna", "mlflow", "sqlalchemy", "pydantic"} == set()


def test_no_files_import_each_other_in_a_circle() -> None:
    graph = {module: {f.module for f in found if f.module in FILES} for module, found in IMPORTS.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@every_file
def test_a_file_is_one_idea(module: str) -> None:
    lines = FILES[module].read_text(encoding="utf-8").count("\n")
    assert lines < MAX_LINES, f"{FILES[module].relative_to(ROOT)} has {lines} lines; split it by idea"


DMR = str(Path(sys.executable).with_name("dmr"))


@pytest.mark.parametrize("command", [["-c", "import dmr.studies.cli"], [DMR, "--help"], [DMR, "run", "--help"]])
def test_the_command_line_starts_without_the_heavy_packages(command: list[str]) -> None:
    ran = subprocess.run(
        [sys.executable, "-X", "importtime", *command], capture_output=True, text=True, timeout=120, check=True
    )
    timed = [line.rpartition("|")[2].strip() for line in ran.stderr.splitlines() if line.startswith("import time:")]
    loaded = {name.split(".")[0] for name in timed}
    assert {"dmr", "typer"} <= loaded
    assert loaded & HEAVY == set()
