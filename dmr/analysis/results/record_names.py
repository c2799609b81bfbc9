"""The names under which a study is written to MLflow and read back: tags, metrics, artifacts, columns of tables.

The writer in `dmr.studies` and the readers in `dmr.analysis` both take them from here. Constants and short texts alone,
so that importing this file costs nothing.
"""

from __future__ import annotations

from typing import Final

COLUMNS: Final = ("run", "trial", "stage", "status", "method", "seed", "split", "metric", "combination", "value")
RUN_COLUMNS: Final = ("run", "trial", "stage", "status", "method", "config", "seed", "seconds", "model")
SUMMARIES: Final = ("mean", "worst", "full", "expected")  # over combinations, as in `accuracy_mean`
SAMPLED: Final = "accuracy"  # the metric that is the mean of single samples' scores
BLOCK: Final = "block"  # the searched parameter, and key of a point, that says to which block of the search it belongs

# The values of the tag `stop_reason`, and so of the column `status`, of trials that have values of fewer epochs than
# they were to have.
STOPPED_EARLY: Final = ("pruned", "time_budget")

MAX_TAG: Final = 8_000  # letters that MLflow keeps of a tag's value

# Stages, the values of the tag `stage`.
STUDY_STAGE: Final = "study"  # the study's own run, the parent of all others
SEARCH: Final = "search"
CONFIRM: Final = "confirm"

# Configurations, the values of the tag `config` of confirm runs. One run may have several: `best 1, defaults`.
DEFAULTS: Final = "defaults"  # the settings of the study file; also the tag of the search's trial that has them
BEST: Final = "best 1"  # what the search put first
EARLIER: Final = "earlier"  # chosen by an earlier confirmation, no longer by the current one
CONFIG_SEPARATOR: Final = ", "

# Artifacts of a run.
VALUES: Final = "combinations.csv"  # every metric of every combination at the best epoch
DIAGNOSTICS: Final = "diagnostics.csv"  # loss, predicted variance and hard set by epoch
SAMPLES: Final = "samples.npz"  # scores of each test sample

EPOCHS_PARAM: Final = "train.epochs"  # the parameter of a run that says how many epochs it was to have
METHOD_PARAM: Final = "model.method"  # the parameter of a run that names its method, whatever its block
BEST_PREFIX: Final = "best/"  # of metrics at a run's best epoch

# Metrics of the study's own run, by the number of the trial: the search so far, for MLflow's charts.
SEARCH_BEST_PREFIX: Final = "search/best/"  # before the first objective: the best value of this trial and all before it
SEARCH_SECONDS: Final = "search/seconds"  # how long these trials ran, summed

SHAPLEY: Final = "shapley_"  # before a modality: columns of a comparison's summary
WITHOUT: Final = "without_"  # likewise: what is lost without it; `_low` and `_high` are the ends of its interval


class Tag:
    """Names of MLflow tags. First of every run, then of a trial, then of the study's own run."""

    STUDY: Final = "study"
    STAGE: Final = "stage"
    KEY: Final = "dmr.key"  # unique per run; the journal finds its runs by it
    PARENT: Final = "mlflow.parentRunId"

    TRIAL: Final = "trial"
    METHOD: Final = "method"
    SEED: Final = "seed"
    CONFIG: Final = "config"
    STOP_REASON: Final = "stop_reason"
    EPOCHS: Final = "epochs"  # how many were trained

    DATASET: Final = "dataset"
    MODALITIES: Final = "modalities"
    RANDOM_SEARCH: Final = "random_search"  # a sentence, where the sampler had too few trials to learn from; else empty
    OBJECTIVES: Final = "objectives"
    SEARCHED: Final = "searched"
    SAMPLES: Final = "samples"
    COMPLETE: Final = "complete_samples"  # {split: samples with all modalities}, of splits in which some lack one
    REDRAWN: Final = "redrawn"  # of a confirmation whose seeds each have data of their own: "true"
    TIED: Final = "presence_tells_class"  # modalities that are missing more often in some classes
    COMBINATIONS: Final = "combinations"
    MAIN_METRIC: Final = "main_metric"
    MAIN_METRIC_MODE: Final = "main_metric_mode"
    DEPLOYMENT: Final = "deployment"
    WITHOUT_MODALITIES: Final = "without_modalities"  # {split: main metric of always answering one class}
    GIT_COMMIT: Final = "git_commit"
    VERSIONS: Final = "versions"


def counted(count: int, noun: str) -> str:
    """`1 trial`, `2 trials`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def best_name(rank: int) -> str:
    """`best 2`: the configuration that the search put second, as the tag `config` names it."""
    return f"best {rank}"


def config_names(config: str) -> list[str]:
    """The names in a tag `config`: `best 1, defaults` has two."""
    return config.split(CONFIG_SEPARATOR)


def best_metric(split: str, metric: str, combination: str | None = None) -> str:
    """`best/val/accuracy/rgb-ir`, or `best/val/accuracy_mean` of what is over all combinations."""
    return f"{BEST_PREFIX}{split}/{metric}" + (f"/{combination}" if combination is not None else "")


def parse_best_metric(name: str) -> tuple[str, str, str | None] | None:
    """Split, metric and combination of a metric that `best_metric` named; None for any other."""
    if not name.startswith(BEST_PREFIX):
        return None
    parts = name.removeprefix(BEST_PREFIX).split("/")
    return (parts[0], parts[1], parts[2] if len(parts) == 3 else None) if len(parts) > 1 else None


def summary_metric(metric: str, summary: str) -> str:
    """`accuracy_mean`: a summary of a metric over combinations."""
    return f"{metric}_{summary}"


def runs_filter(study: str, stage: str | None = None, config: str | None = None) -> str:
    """The MLflow filter of a study's runs, of one stage and of one configuration where these are given.

    Args:
        config: an SQL pattern, such as `best%`.
    """
    parts = [f"tags.{Tag.STUDY} = '{study}'"]
    if stage is not None:
        parts.append(f"tags.{Tag.STAGE} = '{stage}'")
    if config is not None:
        parts.append(f"tags.{Tag.CONFIG} LIKE '{config}'")
    return " and ".join(parts)


def key_filter(key: str) -> str:
    """The MLflow filter of the one run with this key."""
    return f"tags.`{Tag.KEY}` = '{key}'"


def children_filter(parent_run_id: str, stage: str | None = None) -> str:
    """The MLflow filter of a study's trials, by the id of the study's own run."""
    return f"tags.{Tag.PARENT} = '{parent_run_id}'" + (f" and tags.{Tag.STAGE} = '{stage}'" if stage else "")


def deleted_run(run_id: str, what: str = "the study's run") -> str:
    """What to say of a run that people have deleted."""
    return f"{what} was deleted in MLflow; restore it: mlflow runs restore --run-id {run_id}"


def deleted_experiment(name: str, experiment_id: str) -> str:
    """What to say of an experiment that people have deleted."""
    restore = f"mlflow experiments restore --experiment-id {experiment_id}"
    return f"experiment {name!r} was deleted in MLflow; restore it: {restore}"
