"""No file is read or written in the encoding that a machine happens to be set to."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(file for folder in ("dmr", "analysis", "benchmarks") for file in (ROOT / folder).rglob("*.py"))
MODES = set("rwaxbt+")


def without_encoding(source: str) -> list[str]:
    """The calls of a module that read or write text and do not say in which encoding."""
    return [
        f"line {node.lineno}: {ast.unparse(node)[:80]}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and _is_text(node) and "encoding" not in {word.arg for word in node.keywords}
    ]


def _is_text(call: ast.Call) -> bool:
    name, is_method = (
        (call.func.attr, True) if isinstance(call.func, ast.Attribute) else (getattr(call.func, "id", ""), False)
    )
    words = {word.arg: word.value for word in call.keywords}
    if "text" in words:  # of subprocess
        return True
    if name in ("read_text", "write_text"):  # `write_text` of dmr.files says it itself
        return is_method
    mode = words.get("mode") or next((a for a in call.args[0 if is_method else 1 :][:2] if _mode(a)), None)
    if name == "fdopen" or (name == "open" and (not is_method or mode is not None)):
        return "b" not in (_mode(mode) or "r")
    return False


def _mode(node: ast.expr | None) -> str | None:
    value = node.value if isinstance(node, ast.Constant) else None
    return value if isinstance(value, str) and 0 < len(value) <= 3 and set(value) <= MODES else None


def test_text_has_an_encoding() -> None:
    found = {str(file.relative_to(ROOT)): without_encoding(file.read_text(encoding="utf-8")) for file in FILES}
    assert {name: calls for name, calls in found.items() if calls} == {}


@pytest.mark.parametrize(
    "line",
    [
        "open(path)",
        "open(path, 'w')",
        "path.open('a')",
        "path.read_text()",
        "path.write_text('a')",
        "os.fdopen(3, 'w')",
        "subprocess.run(['git'], capture_output=True, text=True)",
    ],
)
def test_what_has_none_is_found(line: str) -> None:
    assert without_encoding(line)


@pytest.mark.parametrize("line", ["open(path, 'rb')", "path.open('rb')", "Image.open(file)", "os.open(path, flags)"])
def test_bytes_need_none(line: str) -> None:
    assert without_encoding(line) == []
