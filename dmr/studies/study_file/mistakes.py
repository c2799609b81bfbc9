"""What is wrong with a study file, as values; the name of the file is put in front once, by who knows it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from dmr.studies.errors import StudyError


class Mistake(NamedTuple):
    """A key of the study file, dotted, and what came there and what is allowed."""

    key: str
    text: str

    def __str__(self) -> str:
        return f"{self.key}: {self.text}"


def mistake_of_setting(section: str, error: Exception) -> Mistake:
    """The science names the setting first, as in `crop: got 99`; the study file has it in a section."""
    setting, _, text = str(error).partition(": ")
    return Mistake(f"{section}.{setting}", text)


class InvalidStudy(StudyError):
    """One or more mistakes in a study file."""

    def __init__(self, *mistakes: Mistake) -> None:
        super().__init__(*map(str, mistakes))
        self.mistakes = mistakes

    def in_file(self, name: str) -> StudyError:
        """The same mistakes as lines that begin with the file's name."""
        return StudyError(*(f"{name}: {mistake}" for mistake in self.mistakes))


def invalid(key: str, text: str) -> InvalidStudy:
    """One mistake, to be raised."""
    return InvalidStudy(Mistake(key, text))


@contextmanager
def inside(prefix: str) -> Iterator[None]:
    """Keys of the mistakes that are found here begin with that prefix, such as `search[1].` of a block."""
    try:
        yield
    except InvalidStudy as error:
        raise InvalidStudy(*(Mistake(f"{prefix}{mistake.key}", mistake.text) for mistake in error.mistakes)) from None


def short(value: Any) -> str:
    """What came, on one line of a mistake however long it is."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
