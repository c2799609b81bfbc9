"""The study files that come with DMR, on the command line by their names."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner

from dmr.encoders import EncoderModule, find_encoder
from dmr.studies.cli import app
from dmr.studies.study_file.ready_studies import find_study_file, purpose, ready_studies
from dmr.studies.study_file.validation import validate_study

STUDIES = Path(__file__).parents[3] / "studies"
NAMES = sorted(file.stem for file in STUDIES.glob("*.yaml"))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_ready_studies_are_those_of_the_folder() -> None:
    assert list(ready_studies()) == NAMES
    assert {"arrays", "digits", "scenes"} <= set(NAMES)


def test_a_name_is_a_ready_study_where_no_such_file_is(elsewhere: Path) -> None:
    assert find_study_file(Path("digits")) == STUDIES / "digits.yaml"
    (elsewhere / "digits").mkdir()
    assert find_study_file(Path("digits")) == STUDIES / "digits.yaml"
    (elsewhere / "digits").rmdir()
    (elsewhere / "digits").write_text("name: mine\n")
    assert find_study_file(Path("digits")) == Path("digits")


@pytest.mark.parametrize("path", ["other/digits", "digits.yaml"])
def test_a_path_is_no_name(path: str) -> None:
    assert find_study_file(Path(path)) == Path(path)


@pytest.mark.parametrize("command", [["run"], ["train"], ["run", "--dry-run"]])
def test_an_unknown_name_is_one_line(command: list[str]) -> None:
    result = CliRunner().invoke(app, [*command, "digts"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"digts: no such file, and no ready study of that name; there are {', '.join(NAMES)}\n"


def test_a_ready_study_is_checked_from_any_directory(elsewhere: Path) -> None:
    result = CliRunner().invoke(app, ["run", "digits", "--dry-run"])
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("name: digits\n")
    assert list(elsewhere.iterdir()) == []


def test_studies_are_listed_with_what_each_is_for() -> None:
    result = CliRunner().invoke(app, ["studies"])
    assert result.exit_code == 0
    lines = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert list(lines) == NAMES
    assert lines["crema_d"] == "CREMA-D: six emotions in audio and video."
    assert all(text.endswith(".") and len(text) > 20 for text in lines.values())


def test_a_purpose_goes_over_lines_to_the_end_of_its_sentence(elsewhere: Path) -> None:
    file = elsewhere / "mine.yaml"
    file.write_text("# One\n# two. Three.\nname: mine\n# four\n")
    assert purpose(file) == "One two."


@pytest.mark.parametrize("name", NAMES)
def test_a_study_is_printed_as_it_is(name: str) -> None:
    result = CliRunner().invoke(app, ["studies", name])
    assert result.exit_code == 0
    assert result.stdout == (STUDIES / f"{name}.yaml").read_text(encoding="utf-8")


def test_an_unknown_study_is_not_printed() -> None:
    result = CliRunner().invoke(app, ["studies", "digts"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"digts: no ready study of that name; there are {', '.join(NAMES)}\n"


# ---- the sets of the paper -------------------------------------------------------------------------------------------

RELEASED_KL_WEIGHT = 1e-3


def document_of(name: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((STUDIES / f"{name}.yaml").read_text(encoding="utf-8"))
    return document


def encoder_of(name: str, shape: tuple[int, ...]) -> EncoderModule:
    """The encoder that the file of a set names, for inputs of `shape`."""
    keys = document_of(name)["model"]["encoder"]
    settings = find_encoder(keys.pop("name"))
    return settings.Module(shape, **keys).eval()


@pytest.mark.parametrize("name", ["crema_d", "kinetics_sounds"])
@pytest.mark.parametrize("shape", [(1, 257, 188), (3, 224, 224)])
@torch.no_grad()
def test_audio_and_video_have_the_released_network(name: str, shape: tuple[int, ...]) -> None:
    """A ResNet-34 body, torchvision's 21 797 672 parameters less its classifier; without positions, so that the KL is
    the released one.
    """
    encoder = encoder_of(name, shape)
    counts = [len(getattr(encoder, f"layer{number}")) for number in (1, 2, 3, 4)]
    assert counts == [3, 4, 6, 3]
    expected = 21_797_672 - 513_000 - (3 - shape[0]) * 64 * 7 * 7
    assert sum(parameter.numel() for parameter in encoder.parameters()) == expected
    assert encoder(torch.zeros(1, *shape))[0].shape == (1, 512)
    assert document_of(name)["model"]["kl_weight"] == RELEASED_KL_WEIGHT


@torch.no_grad()
def test_casia_surf_has_the_released_network_and_strength_of_the_kl() -> None:
    """The released code sums the KL over the map; here it is the mean over as many positions as the map has."""
    encoders = [encoder_of("casia_surf", (channels, 112, 112)) for channels in (3, 1, 1)]
    assert [encoder.conv1.kernel_size for encoder in encoders] == [(3, 3)] * 3
    features = [encoder(torch.zeros(1, encoder.conv1.in_channels, 112, 112))[0] for encoder in encoders]
    assert [tuple(x.shape) for x in features] == [(1, 128, 14, 14)] * 3
    trunk = encoders[0].trunk(3 * 128)
    assert trunk is not None
    channels, height, width = trunk.eval()(torch.cat(features, dim=1)).shape[1:]
    assert (channels, height, width) == (512, 4, 4)
    assert document_of("casia_surf")["model"]["kl_weight"] == pytest.approx(RELEASED_KL_WEIGHT * height * width)


@pytest.mark.parametrize(
    ("name", "task", "classes"),
    [
        ("casia_surf", "classification", 2),
        ("crema_d", "classification", 6),
        ("kinetics_sounds", "classification", 31),
        ("nyuv2", "segmentation", 40),
    ],
)
def test_the_files_of_the_papers_sets_say_what_the_paper_has(name: str, task: str, classes: int) -> None:
    """They do not follow the defaults, which are chosen by what works on other data."""
    data: Any = SimpleNamespace(task=task, num_classes=classes)
    assert validate_study(document_of(name), data).name == name
    model = document_of(name)["model"]
    assert (model["method"], model["head_norm"], model["hard_by"]) == ("dmrnet", "batch", "variance")
    assert document_of(name)["train"]["schedule"] == "cosine"
    candidates = 6 if name == "casia_surf" else 2
    assert model.get("hard_count", candidates // 2) == {"casia_surf": 3}.get(name, 1)
