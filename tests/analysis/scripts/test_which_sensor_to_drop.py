from __future__ import annotations

from collections.abc import Callable
from typing import Any


def test_the_cheapest_sensor_comes_first(confirmed: dict[str, Any], run_script: Callable[..., Any]) -> None:
    ran = run_script("which_sensor_to_drop.py", "site_one", "--tracking-uri", confirmed["site_one"].uri)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == [
        "dmrnet best 1: accuracy on test with all sensors 0.9000",
        "without depth: 0.1000 worse (95 % interval of the loss 0.1000 to 0.1000)",
        "without ir: 0.1500 worse (95 % interval of the loss 0.1500 to 0.1500)",
        "without rgb: 0.3000 worse (95 % interval of the loss 0.3000 to 0.3000)",
    ]


def test_a_mistake_is_one_line(confirmed: dict[str, Any], run_script: Callable[..., Any]) -> None:
    ran = run_script("which_sensor_to_drop.py", "none", "--tracking-uri", confirmed["site_one"].uri)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.splitlines()[-1].endswith("no study 'none'")
    ran = run_script("which_sensor_to_drop.py", "site_one")
    assert ran.returncode == 2
    assert ran.stderr.splitlines() == ["MLflow store sqlite:///mlflow.db: there is no such file"]
