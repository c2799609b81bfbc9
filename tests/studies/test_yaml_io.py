from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmr.studies.errors import StudyError
from dmr.studies.yaml_io import MAX_BYTES, parse_yaml, read_yaml, to_yaml

TEXT = st.text(st.characters(exclude_categories=("C", "Zl", "Zp")), max_size=20) | st.sampled_from(
    ["1e5", "1e-3", "2E+4", "12", "0.5", "true", "null", "2024-01-31", "", " a ", "a: b", "# a", "- a"]
)
PLAIN = st.none() | st.booleans() | st.integers(-(2**62), 2**62) | st.floats(allow_nan=False) | TEXT
DOCUMENTS = st.dictionaries(
    TEXT,
    st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=2)),
    max_size=4,
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "study.yaml"


def refuses(file: Path, message: str) -> None:
    """Reading is refused with one line that begins with the file and has `message` (a regular expression)."""
    with pytest.raises(StudyError, match=message) as caught:
        read_yaml(file)
    assert len(caught.value.lines) == 1
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(file))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1.0e-3", 1e-3),
        ("1E5", 1e5),
        ("-1e3", -1e3),
        ("+2.5e+10", 2.5e10),
        ("1_000", 1000),
        ("40", 40),
        ("0.5", 0.5),
        ("true", True),
        ("null", None),
        ("", None),
        ("2024-01-31", "2024-01-31"),
        ("'1e-3'", "1e-3"),
        ("e5", "e5"),
        ("1e5x", "1e5x"),
        ("abc", "abc"),
    ],
)
def test_plain_values(text: str, value: Any) -> None:
    got = parse_yaml(text, "here")
    assert got == value
    assert type(got) is type(value)


def test_anchors_and_merges_work() -> None:
    assert parse_yaml("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}", "here")["b"] == {"x": 1, "y": 3}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: [1, 2", r"line 2: not YAML: "),
        ("a: 1\n\tb: 2", r"line 2: not YAML: "),
        ("a: 1\n  b: 2", r"line 2: not YAML: mapping values are not allowed here"),
        ("train:\n  epochs: 3\n  epochs: 4", r"line 3: not YAML: key 'epochs' comes twice"),
        ("a: 1\nb: 2\na: 3", r"line 3: not YAML: key 'a' comes twice"),
        ("a: {1: x, 1: y}", r"line 1: not YAML: key 1 comes twice"),
        ("{[1]: 2}", r"line 1: not YAML: a key must be plain text"),
        ("a: *nothing", r"line 1: not YAML: found undefined alias"),
        ("a: !!python/object/apply:os.system [echo]", r"line 1: not YAML: could not determine a constructor"),
        ("a: 1\n---\nb: 2", r"not YAML: "),
        ("a: \x00", r"not YAML: special characters are not allowed"),
        ("a: " + "[" * 5000, r"not YAML: "),
        ("a: " + "9" * 5000, r"not YAML: "),
    ],
)
def test_text_that_does_not_parse_names_the_line(text: str, message: str) -> None:
    with pytest.raises(StudyError, match=message) as caught:
        parse_yaml(text, "here")
    assert str(caught.value).startswith("here")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r": empty; a study file needs at least a `dataset`"),
        (b"# only a comment\n", r": empty; "),
        (b"---\n", r": empty; "),
        (b"\x80\x81\xff binary", r": not a text file; a study file is YAML in UTF-8"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", r": not a text file"),
        (b"[a, b]", r": a mapping of keys is needed, got list"),
        (b"digits", r": a mapping of keys is needed, got str"),
        (b"a: 1\nb: {\n", r", line 3: not YAML: "),
        (b"# " + b"x" * MAX_BYTES, r": larger than 1 MiB"),
    ],
)
def test_files_that_are_no_study(file: Path, content: bytes, message: str) -> None:
    file.write_bytes(content)
    refuses(file, message)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    refuses(tmp_path / "missing.yaml", r": no such file")
    refuses(tmp_path, r": cannot be read: Is a directory")
    refuses(tmp_path / ("x" * 300), r": cannot be read: File name too long")
    refuses(Path("a\x00b.yaml"), r": cannot be read: .*null byte")


@given(DOCUMENTS)
def test_what_is_written_is_what_is_read(document: dict[str, Any]) -> None:
    assert parse_yaml(to_yaml(document), "here") == document


def test_written_keys_keep_their_order() -> None:
    assert list(parse_yaml(to_yaml({"z": 1, "a": 2, "m": 3}), "here")) == ["z", "a", "m"]


@pytest.mark.parametrize("text", ["1e5", "2E-4", "12", "0.5", "yes", "null", "2024-01-31"])
def test_text_that_looks_like_a_number_stays_text(text: str) -> None:
    assert parse_yaml(to_yaml({"name": text, text: 1}), "here") == {"name": text, text: 1}
