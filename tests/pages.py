"""A report as a test reads it, with the standard library alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "img", "br"}


@dataclass
class Element:
    """A tag, its attributes, and all text in it."""

    tag: str
    attributes: dict[str, str]
    parts: list[str] = field(default_factory=list)
    inside: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        return "".join(self.parts)


class Page(HTMLParser):
    """Every element of a page in its order, and the tables by their id."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[Element] = []
        self.open: list[Element] = []
        self.tables: dict[str, list[list[Element]]] = {}
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {[element.tag for element in self.open]}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs}, inside=tuple(e.tag for e in self.open))
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)
        if tag == "table":
            self.tables[element.attributes["id"]] = []
        elif tag == "tr":
            list(self.tables.values())[-1].append([])
        elif tag in ("td", "th"):
            list(self.tables.values())[-1][-1].append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> where nothing is open"
        closed = self.open.pop()
        assert closed.tag == tag, f"</{tag}> closes <{closed.tag}>"

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element.parts.append(data)

    def all(self, tag: str) -> list[Element]:
        return [element for element in self.elements if element.tag == tag]

    def column(self, table: str, heading: str) -> list[Element]:
        """The cells of a column, by its heading."""
        head, *rows = self.tables[table]
        position = [element.text for element in head].index(heading)
        return [row[position] for row in rows]

    def values(self, table: str, heading: str) -> list[float | None]:
        """The numbers that a column is sorted by."""
        found = [cell.attributes.get("data-value") for cell in self.column(table, heading)]
        return [None if value is None else float(value) for value in found]
