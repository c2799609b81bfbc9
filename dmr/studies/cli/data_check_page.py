"""`dmr data check`: what lies in a data folder and what is wrong with it, for people or for machines."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dmr.combinations import SEPARATOR
from dmr.data.arrays import data_folder
from dmr.data.check import DataReport, SplitReport, check_folder
from dmr.data.dataset import DataError
from dmr.studies.errors import StudyError

SHOWN = 12  # rows of a table
KEY_WIDTH = 24


def check_data(path: Path, output: Literal["text", "json"]) -> int:
    """Show the report on standard output; returns 1 where something would spoil a study.

    Raises:
        StudyError: it is no data folder.
    """
    try:
        report = check_folder(data_folder(path))
    except DataError as error:
        raise StudyError(str(error)) from None
    if output == "json":
        sys.stdout.write(json.dumps(asdict(report), indent=2, default=str) + "\n")
    else:
        show_report(report, Console(highlight=False, markup=False))
    return 1 if report.errors else 0


def show_report(report: DataReport, out: Console) -> None:
    """One page: inputs, classes, combinations, description, and all problems."""
    out.print(Text(f"{report.name}:", style="bold"), _headline(report), soft_wrap=True)
    tables = [_inputs(report), _classes(report), _combinations(report)] if report.splits else []
    for table in [*tables, *([_description(report, out.width)] if report.description else [])]:
        out.print()
        out.print(table)
    out.print()
    for level, style, lines in (("error", "bold red", report.errors), ("warning", "yellow", report.warnings)):
        for line in lines:
            out.print(Text(f"{level}: ", style=style), line.replace(f"{report.path}/", ""), sep="", soft_wrap=True)
    verdict = (
        f"{_count(report.errors, 'error')} would spoil a study" if report.errors else "nothing would spoil a study"
    )
    more = f", {_count(report.warnings, 'warning')}" if report.warnings else ""
    out.print(f"{verdict}{more}", soft_wrap=True)


def _headline(report: DataReport) -> str:
    ignored = "" if report.ignore_index is None else f", label {report.ignore_index} ignored"
    return f"{report.task}, {len(report.class_names)} classes{ignored}, {report.path}"


def _count(lines: Sequence[str], word: str) -> str:
    return f"{len(lines)} {word}{'s' if len(lines) != 1 else ''}"


def _table(title: str, first: Sequence[str], splits: Mapping[str, SplitReport]) -> Table:
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
    for column in first:
        table.add_column(column, overflow="fold", no_wrap=column in ("modality", "kind", "type"))
    for split, found in splits.items():
        table.add_column(f"{split} ({found.samples})", justify="right", no_wrap=True)
    return table


def _inputs(report: DataReport) -> Table:
    table = _table("inputs: samples that have them", ("modality", "kind", "shape", "type"), report.splits)
    for modality in report.modalities:
        name = modality.name
        here = {split: found.inputs.get(name) for split, found in report.splits.items()}
        types = sorted({found.type for found in here.values() if found is not None})
        samples = [found.samples for found in report.splits.values()]
        cells = [
            "unusable" if found is None else str(count) if found.present == count else _share(found.present, count)
            for found, count in zip(here.values(), samples, strict=True)
        ]
        shape = "×".join(map(str, modality.shape))
        table.add_row(name, modality.kind, shape, ", ".join(types) or "?", *cells)
        facts = (
            ("not_finite", "bold red", "not finite", ""),
            ("constant", "yellow", "constant", f" of {math.prod(modality.shape)}"),
        )
        for fact, style, label, of in facts:
            counts = [getattr(found, fact, 0) for found in here.values()]
            if any(counts):
                table.add_row(
                    f"  {label}", "", "", "", *(f"{count}{of}" if count else "" for count in counts), style=style
                )
    return table


def _share(count: int, total: int) -> str:
    return f"{count} {count / max(total, 1):6.1%}"


def _classes(report: DataReport) -> Table:
    """Samples or pixels of each class; of many classes the most frequent and the rarest in train."""
    pixels = report.task == "segmentation"
    title = "classes: share of pixels" if pixels else "classes: samples"
    counts = {split: found.classes or [] for split, found in report.splits.items()}
    by_train = sorted(range(len(report.class_names)), key=lambda c: -(counts["train"] or [0] * (c + 1))[c])
    cut = len(by_train) > SHOWN
    shown = sorted(by_train) if not cut else by_train[: SHOWN // 2] + by_train[-SHOWN // 2 :]
    table = _table(title, ("class",), report.splits)
    for position, c in enumerate(shown):
        if cut and position == SHOWN // 2:
            table.add_row(f"... {len(by_train) - SHOWN} more ...")
        cells = [
            "?" if not of else f"{of[c] / max(sum(of), 1):.2%}" if pixels else _share(of[c], sum(of))
            for of in counts.values()
        ]
        table.add_row(report.class_names[c], *cells)
    if any(found.ignored for found in report.splits.values()):
        table.add_row(
            "ignored, of all pixels",
            *(
                f"{found.ignored / max(found.ignored + sum(found.classes or ()), 1):.2%}"
                for found in report.splits.values()
            ),
        )
    return table


def _combinations(report: DataReport) -> Table | str:
    """How many samples have exactly which modalities, where not all have all."""
    splits = report.splits.values()
    names = list(dict.fromkeys(name for found in splits for name in found.combinations))
    if names == [SEPARATOR.join(modality.name for modality in report.modalities)]:
        return "every sample has all modalities"
    names.sort(key=lambda name: -sum(found.combinations.get(name, 0) for found in splits))
    table = _table("combinations: samples that have exactly these", ("combination",), report.splits)
    for name in names[:SHOWN]:
        table.add_row(name, *(_share(found.combinations.get(name, 0), found.samples) for found in splits))
    if len(names) > SHOWN:
        rest = [sum(found.combinations.get(name, 0) for name in names[SHOWN:]) for found in splits]
        cells = [_share(count, found.samples) for count, found in zip(rest, splits, strict=True)]
        table.add_row(f"... {len(names) - SHOWN} more ...", *cells)
    return table


def _description(report: DataReport, width: int) -> Text:
    """The further keys of dataset.yaml, one line per key; modalities that are described alike share theirs."""
    rows = [(key, _line(value)) for key, value in report.description.items() if key != "modalities"]
    alike: dict[str, list[str]] = {}
    for name, keys in report.description.get("modalities", {}).items():
        alike.setdefault(_line(keys), []).append(name)
    rows += [(", ".join(modalities), text) for text, modalities in alike.items()]
    key_width = min(max((len(key) for key, _ in rows), default=0), KEY_WIDTH)
    lines = [Text("dataset.yaml", style="bold")]
    for key, value in rows:
        line = Text(key)
        line.truncate(key_width, overflow="ellipsis", pad=True)
        line.append(f"  {value}")
        line.truncate(width, overflow="ellipsis")
        lines.append(line)
    return Text("\n").join(lines)


def _line(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_line(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return f"[{', '.join(map(_line, value))}]"
    return " ".join(str(value).split())
