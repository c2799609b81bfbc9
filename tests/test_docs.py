"""The pages: links that resolve, a short glossary, and questions whose commands exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer.main

from dmr.studies.cli import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "studies/README.md", *sorted((ROOT / "docs").glob("*.md"))]
QUESTIONS = (ROOT / "docs/questions.md").read_text(encoding="utf-8")
COMMANDS = [
    line
    for block in re.findall(r"```bash\n(.*?)```", QUESTIONS, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("dmr ")
]


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of the page's headings."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text(encoding="utf-8")):
        name, _, anchor = target.partition("#")
        found = (page.parent / name).resolve() if name else page
        assert found.exists(), target
        if anchor:
            assert anchor in anchors(found), target


def test_the_glossary_is_short_and_sorted() -> None:
    words = re.findall(r"^- \*\*(.+?)\*\*", (ROOT / "docs/glossary.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert 0 < len(words) <= 15
    assert words == sorted(words)


def test_every_question_has_a_command() -> None:
    questions = re.findall(r"^\*\*.+\?\*\*", QUESTIONS, re.MULTILINE)
    assert 8 <= len(questions) <= 12
    assert len(re.findall("```bash", QUESTIONS)) == len(questions)


@pytest.mark.parametrize("line", COMMANDS)
def test_the_commands_of_the_questions_exist(line: str) -> None:
    """Each is parsed as the command line parses it, which refuses a command or an option that is not there."""
    words = shlex.split(line.split(" > ")[0], comments=True)[1:]
    command = typer.main.get_command(app)
    while hasattr(command, "commands"):
        assert words[0] in command.commands
        command, words = command.commands[words[0]], words[1:]
    command.make_context(command.name, words)


def test_each_ready_study_has_a_line() -> None:
    page = (ROOT / "studies/README.md").read_text(encoding="utf-8")
    missing = [file.stem for file in (ROOT / "studies").glob("*.yaml") if f"| `{file.stem}` |" not in page]
    assert not missing
