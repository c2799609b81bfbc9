"""The numbers of a finished study as one small file, from which tables are made again without the store.

Gzip of a line of JSON, the study's facts, and a CSV: one row per run, one column per value.
"""

from __future__ import annotations

import gzip
import io
import json
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from dmr.analysis.results.record_names import COLUMNS, RUN_COLUMNS, Tag
from dmr.analysis.results.study_results import Objective, StudyResults
from dmr.direction import Direction
from dmr.files import whole_file

TAGS = (Tag.REDRAWN, Tag.SAMPLES, Tag.COMPLETE, Tag.TIED, Tag.WITHOUT_MODALITIES)
SUFFIX = ".csv.gz"
SUMMARISED = ("accuracy", "miou", "nll", "ece")
DIGITS = 6


def write_numbers(results: StudyResults, path: Path) -> None:
    """Write the runs of a study: on val what the search looked for, on test the main metric of each combination and the
    means, the worst and the full of `SUMMARISED`. Ids of runs become numbers, and equal numbers equal bytes.
    """
    wanted = {one["metric"] for one in results.objectives}
    frame = results.table.dropna(subset=["metric"])
    names = frame["split"] + "/" + frame["metric"]
    single = frame["combination"].notna()
    kept = (single & (frame["metric"] == results.main_metric) & (frame["split"] == "test")) | names.isin(wanted)
    kept |= ~single & (frame["split"] == "test") & frame["metric"].str.rpartition("_")[0].isin(SUMMARISED)
    columns = names.where(~single, names + "/" + frame["combination"].fillna(""))
    values = frame[kept].assign(column=columns[kept]).pivot(index="run", columns="column", values="value")
    searched = results.table.drop_duplicates("run").set_index("run")[list(results.searched)]
    whole = results.runs.join(searched).join(values.astype(float).round(DIGITS))
    whole = whole.sort_values(["stage", "trial", "method", "seed"]).reset_index(drop=True)
    facts = {
        **{name: value for name, value in asdict(results).items() if name not in ("runs", "table", "tags", "deleted")},
        "tags": {name: value for name, value in results.tags.items() if name in TAGS},
    }
    text = json.dumps(facts) + "\n" + whole.to_csv(index_label="run")
    with whole_file(path) as partial:
        partial.write_bytes(gzip.compress(text.encode(), mtime=0))


def read_numbers(path: Path) -> StudyResults:
    """What `write_numbers` wrote: a study whose table has these values alone.

    Raises:
        OSError: it cannot be read, or is no gzip file.
        EOFError: it ends too early.
    """
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        facts = json.loads(file.readline())
        frame = pd.read_csv(io.StringIO(file.read()), dtype={"run": str}).set_index("run")
    searched = list(facts["searched"])
    runs = frame[[name for name in RUN_COLUMNS if name != "run"]]
    columns = [name for name in map(str, frame) if "/" in name]
    table = frame[columns].melt(ignore_index=False, var_name="name", value_name="value").dropna(subset=["value"])
    parts = table["name"].str.split("/", n=2, expand=True).reindex(columns=range(3))
    table = table.assign(split=parts[0], metric=parts[1], combination=parts[2].astype(object).where(parts[2].notna()))
    table = table.drop(columns="name").join(runs[[name for name in COLUMNS if name in runs]]).join(frame[searched])
    facts["objectives"] = tuple(Objective(metric=o["metric"], mode=Direction(o["mode"])) for o in facts["objectives"])
    facts |= {name: tuple(facts[name]) for name in ("modalities", "searched")}
    return StudyResults(**facts | {"main_mode": Direction(facts["main_mode"])}, runs=runs, table=table.reset_index())
