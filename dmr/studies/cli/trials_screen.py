"""The best trials of a search on the screen, however narrow it is."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.cells import cell_len

from dmr.analysis.results.record_names import BLOCK, METHOD_PARAM, counted

if TYPE_CHECKING:
    import pandas as pd

    from dmr.analysis.results.study_results import StudyResults

SHOWN_TRIALS = 10
ABSENT, GAP, INDENT, NO_BREAK = "-", "  ", " " * 7, "\N{NO-BREAK SPACE}"
WORDS = ("method", "ended")


def trials_text(results: StudyResults, width: int) -> str:
    """The best trials: objectives, summaries of the main metric over combinations, how they ended, and the values
    searched; a key that is inactive in a trial has none.

    Values are columns of the same table where that fits into `width` letters, and of further tables where it does not.
    Where blocks have keys of their own, they are a line under the trial.
    """
    title, scores = _scores(results)
    keys = [key for key in results.searched if key not in (BLOCK, METHOD_PARAM)]
    values = results.table.groupby("trial")[keys].first().loc[scores.index].dropna(axis=1, how="all")
    short = [str(key).rpartition(".")[2] for key in values]
    values.columns = [name if short.count(name) == 1 else str(key) for name, key in zip(short, values, strict=True)]
    texts = _texts(values)
    if BLOCK in results.searched:
        rows = zip(*(texts[name] for name in texts), strict=True)
        parts = [[f"{n}{NO_BREAK}{text}" for n, text in zip(texts, row, strict=True) if text != ABSENT] for row in rows]
        return "\n".join([title, "", *_lines(scores, [", ".join(part) for part in parts], width)])
    broken = texts.rename(columns=lambda name: name.replace("_", "\n"))
    tables = [scores]
    for name in broken:
        wider = tables[-1].join(broken[name])
        if _fits(wider, width):
            tables[-1] = wider
        else:
            tables.append(broken[[name]])
    return "\n".join([title, *("\n".join(["", *_lines(table)]) for table in tables)])


def _fits(table: pd.DataFrame, width: int) -> bool:
    return all(cell_len(line) <= width for line in _lines(table))


def _scores(results: StudyResults) -> tuple[str, pd.DataFrame]:
    """The title of the table, and texts by trial: what was searched for, then the summaries, and how they ended."""
    from dmr.analysis.results.study_results import (
        complete_words,
        methods_of,
        stopped_trials,
        summary_values,
        trial_values,
    )

    objectives, summaries, methods = trial_values(results), summary_values(results), methods_of(results)
    best, where = objectives.index[:SHOWN_TRIALS], ""
    if BLOCK in results.searched:
        blocks = methods.loc[objectives.index]
        best = blocks.groupby(blocks).head(max(1, SHOWN_TRIALS // blocks.nunique())).index
        where = ", some of each block"
    first = results.objectives[0]["metric"]
    title = f"best {len(best)} of {counted(results.runs['trial'].nunique(), 'trial')} by {first}{where}; values on val"
    if samples := complete_words(results, "val"):
        title += f", of {samples}"
    names = [str(name).removeprefix("val/") for name in objectives]
    numbers = objectives.set_axis(names, axis=1).join(summaries.drop(columns=names, errors="ignore")).loc[best]
    scores = numbers.map("{:.4f}".format)
    scores.columns = [str(name).removeprefix(f"{results.main_metric}_") for name in numbers]
    if methods.nunique() > 1:
        scores.insert(0, "method", methods.loc[best])
    stopped = stopped_trials(results)
    status = results.runs.drop_duplicates("trial").set_index("trial")["status"].loc[best]
    if (status != "completed").any():
        epochs = {trial: text.replace(" of ", "/").removesuffix(" epochs") for trial, text in stopped.items()}
        scores["ended"] = [f"{end} {epochs[t]}" if t in epochs else end for t, end in status.items()]
    return title, scores


def _texts(values: pd.DataFrame) -> pd.DataFrame:
    from dmr.analysis.results.study_results import value_text

    return values.map(lambda value: value_text(value) or ABSENT)


def _lines(frame: pd.DataFrame, under: Sequence[str] = (), width: int = 80) -> list[str]:
    """Aligned columns with a heading, and under each trial the text that it has."""
    columns = {"trial": [str(trial) for trial in frame.index]} | {str(name): list(frame[name]) for name in frame}
    height = max(name.count("\n") for name in columns) + 1
    heads = [[""] * (height - 1 - name.count("\n")) + name.split("\n") for name in columns]
    widths = [max(map(cell_len, (*head, *cells))) for head, cells in zip(heads, columns.values(), strict=True)]
    left = [name in WORDS for name in columns]

    def line(cells: Sequence[str]) -> str:
        spaces = [" " * (size - cell_len(cell)) for size, cell in zip(widths, cells, strict=True)]
        padded = [c + s if is_left else s + c for c, s, is_left in zip(cells, spaces, left, strict=True)]
        return GAP.join(padded).rstrip()

    found = [line(head) for head in zip(*heads, strict=True)]
    found.append("─" * (sum(widths) + len(GAP) * (len(widths) - 1)))
    for cells, text in zip(zip(*columns.values(), strict=True), under or [""] * len(frame), strict=True):
        wrapped = textwrap.wrap(text, width, initial_indent=INDENT, subsequent_indent=INDENT)
        found += [line(cells), *(part.replace(NO_BREAK, " ") for part in wrapped)]
    return found
