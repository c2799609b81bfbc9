"""What a study in object storage costs: the same trials without work in a folder and in a bucket, in turn.

The bucket is a local imitation of S3 behind a proxy that lets every request take 40 ms longer and counts them. A trial
has one epoch on 32 samples, as many at a time as there are CPUs. The time is that from the first training to the end of
the last one; what is asked for is that of the whole study, its report and winner included.

    .venv/bin/python benchmarks/object_storage.py
"""

from __future__ import annotations

import os
import statistics
import sys
from collections import Counter
from pathlib import Path

import boto3
from common import environment, table
from moto.server import ThreadedMotoServer
from overhead import watched_run

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from s3_proxy import Proxy

TRIALS, ROUNDS, DELAY = 200, 2, 0.04
KINDS = {
    "log": "/log/",
    "checkpoints": ".pt",
    "combinations.csv": "combinations.csv",
    "diagnostics.csv": "diagnostics.csv",
    "lease": "lease.json",
    "winner, figures, report": "",
}


def kind_of(method: str, path: str) -> tuple[str, str]:
    """What a request is, and of what."""
    key, _, query = path.partition("?")
    if "list-type" in query:
        return "list", "all"
    if "delete" in query:
        return "delete", "all"
    of = next(name for name, part in KINDS.items() if part in key)
    return ("put", of) if method in ("PUT", "POST") else ("get", "all")


def main() -> None:
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    proxy = Proxy(f"http://{host}:{port}")
    own = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "key", "AWS_REGION": "us-east-1"}
    os.environ.update(own | {"AWS_ENDPOINT_URL": proxy.url})
    boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1").create_bucket(Bucket="bucket")
    proxy.delay = DELAY
    seconds: dict[str, list[float]] = {"folder": [], "bucket": []}
    walls: dict[str, list[float]] = {"folder": [], "bucket": []}
    asked: Counter[tuple[str, str]] = Counter()
    print(environment(1, "ray", "optuna", "mlflow", "obstore"), end="\n\n")
    for number in range(ROUNDS):
        for where in list(seconds)[:: -1 if number % 2 else 1]:
            place = [f"s3://bucket/runs-{number}"] if where == "bucket" else []
            study, _ = watched_run("study_dmr.py", "no-op", TRIALS, 1, *place)
            seconds[where].append((study.ended[-1] - study.began[0]) / TRIALS)
            walls[where].append(study.wall)
            print(f"{where}: {study.wall:.0f} s, {seconds[where][-1]:.3f} s a trial", file=sys.stderr, flush=True)
    asked.update(kind_of(*request) for request in proxy.requests)
    rows = []
    for what, found in (("s a trial", seconds), ("s, from the command to its exit", walls)):
        folder, bucket = (statistics.median(found[where]) for where in ("folder", "bucket"))
        rows.append((what, f"{folder:.3f}", f"{bucket:.3f}", f"{bucket / folder:.2f}", "1.5"))
    print(table((f"{TRIALS} trials", "folder", "bucket", "times", "target"), rows), end="\n\n")
    counts = [(what, of, f"{count / ROUNDS / TRIALS:.2f}") for (what, of), count in sorted(asked.items())]
    print(table(("request", "of", "per trial"), counts))
    proxy.close()
    moto.stop()


if __name__ == "__main__":
    main()
