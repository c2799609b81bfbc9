"""Ray nodes as `ray start` makes them, each with a session directory of its own, as on a machine of its own."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from mlflow.utils import find_free_port


@contextmanager
def short_home() -> Iterator[Path]:
    """Sessions and the token lie here; the path must be short, since sockets lie below it."""
    path = Path(tempfile.mkdtemp(prefix="dmr", dir="/tmp"))
    (path / "token").touch(mode=0o600)
    (path / "token").write_text(secrets.token_hex(32))
    try:
        yield path
    finally:
        for process in psutil.process_iter(["cmdline"]):  # what a pretended node leaves behind
            if any(str(path) in part for part in process.info["cmdline"] or []):
                process.kill()
        shutil.rmtree(path, ignore_errors=True)


def environment_of_nodes(home: Path, commands: Path, python_path: str) -> dict[str, str]:
    """Of nodes and shells: the token, where a job finds `dmr`, and where a node finds methods of one's own."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "DMR_", "MLFLOW_"))}
    kept |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(home / "token"), "OMP_NUM_THREADS": "1"}
    return kept | {"PATH": os.pathsep.join([str(commands), kept["PATH"]]), "PYTHONPATH": python_path}


def start_node(
    home: Path, name: str, environment: dict[str, str], *options: str, python: Any = sys.executable
) -> tuple[subprocess.Popen[bytes], str]:
    """A node whose processes run that Python; returns what it says when it is up."""
    log = home / f"{name}.log"
    command = [python, "-m", "ray.scripts.scripts", "start", *options, f"--temp-dir={home / name}", "--block"]
    command += [f"--dashboard-agent-listen-port={find_free_port()}", "--object-store-memory=100000000"]
    command += ["--disable-usage-stats"]
    with log.open("wb") as out:
        node = subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True)
    until = time.monotonic() + 90
    while "--block" not in log.read_text():
        assert node.poll() is None, log.read_text()
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.2)
    return node, log.read_text()


def start_head(
    home: Path, name: str, environment: dict[str, str], *options: str, python: Any = sys.executable
) -> tuple[subprocess.Popen[bytes], str]:
    """A head, and its address."""
    head = ["--head", "--dashboard-host=127.0.0.1", f"--ray-client-server-port={find_free_port()}", *options]
    node, text = start_node(home, name, environment, *head, python=python)
    found = re.search(r"ray start --address='([^']+)'", text)
    assert found, text
    return node, found.group(1)


def end(node: subprocess.Popen[bytes]) -> None:
    node.send_signal(signal.SIGTERM)
    node.wait(timeout=60)


def said_by_job(output: str) -> list[str]:
    """The lines of the job itself, without those of Ray's command."""
    lines = output.partition("Running entrypoint")[2].splitlines()[1:]
    return [line for line in lines if not re.match(r"\S* ?\d{4}-\d\d-\d\d \d\d:", line)]
