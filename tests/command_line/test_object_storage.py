"""A study in a bucket: what the same study in a folder is, from any machine, whatever is lost here."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import time
from contextlib import suppress
from typing import Any

import psutil
import pytest

from dmr.object_storage.lease import KEY, parse_holder
from dmr.object_storage.store import ObjectStore

pytestmark = pytest.mark.slow
VARIES = re.compile(r"[0-9a-f]{32}|[0-9.]+ (s|min)\b(?: of run time)?|[-─━ ]{3,}|\n")


def forget(place: Any) -> None:
    """This machine's copies are lost."""
    shutil.rmtree(place.environment["DMR_CACHE"], ignore_errors=True)  # a driver may not have come to it


def end_all(driver: Any) -> None:
    """The machine is gone: the driver and all it has started."""
    for process in [driver, *psutil.Process(driver.pid).children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            process.kill()


@pytest.mark.timeout(1200)
def test_the_driver_is_killed_five_times_and_its_disk_is_lost_each_time(bucket_place):
    place = bucket_place
    place.write_slow(budget={"trials": 16})

    def lose(driver: Any) -> None:
        end_all(driver)
        driver.communicate(timeout=60)
        forget(place)

    driver = place.kill_at_drawn_moments(5, lose)
    _, err = driver.communicate(timeout=400)
    assert driver.returncode == 0, err
    assert "study small is complete: 16 trials" in err
    assert "begins again" not in err
    place.assert_exact(16, 8)
    best = sorted(place.optuna_trials(), key=lambda trial: (-trial.values[0], trial.number))[:5]
    left = {key.split("/")[1] for key in keys(place, "small/trials") if key.endswith(".pt")}
    assert left == {f"{number:04d}" for number in {0, *(trial.number for trial in best)}}
    assert not [key for key in keys(place, "small/trials") if "last-" in key]


@pytest.mark.long
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_the_machine_is_lost_at_a_write_of_search_or_confirmation(bucket_place, s3_proxy, after):
    """Every third write, from the first of a new study to the last."""
    place = bucket_place
    place.environment["AWS_ENDPOINT_URL"] = s3_proxy.url
    for last in range(random.SystemRandom().randrange(1, 4), 1000, 3):
        name, drivers = f"lost{last}", []
        place.write_slow(
            name, budget={"trials": 2}, train__epochs=3, model__slow=0.1, confirm={"top": 1, "seeds": 1}, first=[]
        )

        def lose(number: int, done: bool, last: int = last, drivers: list[Any] = drivers) -> None:
            if number == last and done == after and drivers:
                end_all(drivers[0])

        s3_proxy.writes, s3_proxy.on_write = 0, lose
        drivers.append(place.start("run", f"{name}.yaml"))
        _, err = drivers[0].communicate(timeout=120)
        s3_proxy.on_write = lambda number, done: None
        if drivers[0].returncode == 0:
            break
        assert drivers[0].returncode == -signal.SIGKILL, err
        forget(place)
        again = place.run("run", f"{name}.yaml").stderr
        assert f"study {name} is complete: 2 trials, 2 confirm runs" in again
        place.assert_exact(2, 3, name)
        confirmed = place.mlflow_runs(name, "confirm")
        assert [run.info.status for run in confirmed] == ["FINISHED"] * 2
        for run in confirmed:
            assert [step for step, _ in place.history(run)["train/loss"]] == [0, 1, 2]
    assert last > 25


@pytest.mark.long
def test_trial_processes_are_killed_and_go_on_from_what_they_had_uploaded(bucket_place):
    place = bucket_place
    trace = place.path / "trace"
    place.write_slow(budget={"trials": 3}, retries=5, model__trace=str(trace))
    driver = place.start("run", "small.yaml")
    for _ in range(4):
        place.wait_for(lambda: place.epochs_of_running() > 2)
        for process in psutil.Process(driver.pid).children(recursive=True):
            if "ray::ImplicitFunc" in " ".join(process.cmdline()):
                process.kill()
                break
        time.sleep(3.0)
    _, err = driver.communicate(timeout=300)
    assert driver.returncode == 0, err
    place.assert_exact(3, 8)
    assert len(trace.read_text().splitlines()) <= 3 * 8 + 2 * 4


def keys(place: Any, prefix: str) -> list[str]:
    return [entry.key.removeprefix("small/") for entry in ObjectStore(place.storage_url).entries(prefix)]


CHANGES = {
    "budget": {"trials": 3},
    "resources": {"concurrent": 1},
    "confirm": {"top": 1, "seeds": 2},
    "train__epochs": 2,
    "tracking": {"report": True},
}


@pytest.fixture(scope="module")
def twins(make_workplace, tmp_path_factory, make_bucket) -> Any:
    """The same study in a folder and in a bucket, in workplaces of their own; `said` is what people saw."""
    with pytest.MonkeyPatch.context() as patch:
        s3 = make_bucket(patch)
        patch.setenv("DMR_CACHE", str(tmp_path_factory.mktemp("of the test")))
        here, there = (make_workplace(tmp_path_factory.mktemp(name)) for name in ("here", "there"))
        there.storage_url = f"s3://{s3.bucket}/runs of ä"
        there.environment |= s3.environment | {"DMR_CACHE": str(there.path / "cache")}
        there.environment["DMR_STORAGE"] = f"{there.storage_url}/".replace("s3", "S3")
        for place in (here, there):
            place.write(**CHANGES)
            place.said = place.run("run", "small.yaml")
        forget(there)
        yield here, there


def same(twins: Any, *command: str) -> None:
    """What a command says of the two: runs have other ids, and the places are others."""
    here, there = twins
    texts = []
    for place, where in ((here, str(here.path / "dmr_runs")), (there, there.storage_url)):
        done = place.dmr(*command)
        assert done.returncode == 0, done.stderr
        text = (done.stdout + done.stderr).replace(where, "STORAGE").replace(str(place.path), "PATH")
        texts.append(VARIES.sub("…", text))
    assert texts[0] == texts[1]
    assert texts[0]


def test_it_is_the_study_in_the_folder(twins):
    here, there = twins
    cut = [VARIES.sub("…", place.said.stdout) for place in twins]
    assert cut[0] == cut[1] != ""
    frames = [tuple(sorted(run.data.metrics.items())) for run in here.mlflow_runs()]
    assert frames == [tuple(sorted(run.data.metrics.items())) for run in there.mlflow_runs()]
    assert f"report: {there.storage_url}/small/report.html" in there.said.stderr
    for name in ("heatmap.png", "report.html", "winner/MLmodel", "figures/variance.png", "confirm/0001/samples.npz"):
        assert f"small/{name}" in {entry.key for entry in ObjectStore(there.storage_url).entries()}


@pytest.mark.parametrize(
    "command",
    [
        "list",
        "status small",
        "table small --metrics all --stage confirm",
        "heatmap small",
        "heatmap small --difference-to defaults",
        "figures small",
        "report small",
        "compare small",
        "stop small",
        "resume small",
        "run small.yaml",
        "run small.yaml --dry-run",
        "confirm small --top 1 --seeds 2",
    ],
)
def test_every_command_says_what_it_says_of_the_folder(twins, command):
    same(twins, *command.split())


def test_checkpoints_are_evaluated_and_exported_from_the_bucket(twins):
    answers = []
    for place in twins:
        for stage in ("search", "confirm"):
            run = place.mlflow_runs(stage=stage)[0].info.run_id
            answers.append(place.run("evaluate", run, "--format", "csv").stdout)
        place.run("export", "small", "-o", "model")
        answers.append(sorted(file.name for file in (place.path / "model").rglob("*.py")))
    assert answers[:3] == answers[3:]


def test_the_list_is_one_listing_and_a_lease_per_study(twins, s3_proxy):
    there = twins[1]
    before = there.environment
    there.environment = before | {"AWS_ENDPOINT_URL": s3_proxy.url}
    for _ in range(2):  # the first one fetches what was lost
        s3_proxy.requests.clear()
        there.run("list")
    there.environment = before
    assert s3_proxy.count("GET", "list-type=2") == 1
    assert len(s3_proxy.requests) == 1 + s3_proxy.count("GET", "lease.json") <= 3


def test_one_training_lies_there_too(bucket_place):
    place = bucket_place
    place.write(train__epochs=3)
    first = place.run("train", "small.yaml")
    url = re.search(r"checkpoint: (s3://\S+/small/train-\w+/best-\d+-\d+\.pt)", first.stderr)
    assert url is not None, first.stderr
    forget(place)
    again = place.run("train", "small.yaml")
    assert again.stdout == first.stdout
    run = re.search(r"run: (\w+)", first.stderr)[1]
    assert "ecg-motion-skin" in place.run("evaluate", run).stdout


def test_access_keys_are_found_nowhere(twins):
    there = twins[1]
    secrets = [there.environment[name].encode() for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")]
    store = ObjectStore(there.storage_url)
    contents = {entry.key: store.read(entry.key).data for entry in store.entries()}
    contents |= {str(file): file.read_bytes() for file in there.path.rglob("*") if file.is_file()}
    contents["what people saw"] = (there.said.stdout + there.said.stderr).encode()
    assert any(name.endswith("logs/000001.txt") for name in contents)
    assert [name for name, content in contents.items() if any(secret in content for secret in secrets)] == []


def test_rm_deletes_the_study_and_nothing_else(bucket_place):
    place = bucket_place
    store = ObjectStore(place.storage_url)
    place.write(budget={"trials": 1}, train__epochs=1)
    place.run("run", "small.yaml")
    for key in ("small2/study.yaml", "small-data/x", "smaller"):
        store.write(key, b"name: other")
    assert place.dmr("rm", "small").returncode == 1
    assert f"delete study small in {place.storage_url}/small" in place.dmr("rm", "small").stderr
    assert place.run("rm", "small", "--yes").stdout == "small is deleted\n"
    assert [entry.key for entry in store.entries()] == ["small-data/x", "small2/study.yaml", "smaller"]
    assert not place.mlflow_runs()
    place.run("run", "small.yaml")
    assert len(place.mlflow_runs()) == 1


def test_two_drivers_and_one_that_slept_too_long(bucket_place):
    """The second is refused as long as the first may live; when that wakes up it writes nothing more."""
    place = bucket_place
    place.write_slow(budget={"trials": 3}, model__slow=1.0)
    place.environment["FAULTY_LEASE"] = "8"  # seconds
    driver = place.start("run", "small.yaml")
    place.wait_for(place.epochs_of_running)
    other = dict(place.environment)
    place.environment["DMR_CACHE"] += " of another machine"
    refused = place.dmr("resume", "small")
    assert refused.returncode == 2
    holder = f"process {driver.pid} on {os.uname().nodename}"
    assert refused.stderr.startswith(f"{place.storage_url}/small: study 'small' is running in {holder}; ")
    assert refused.stderr.count("\n") == 1
    assert place.dmr("rm", "small", "--yes").returncode == 2
    assert f"small: running (process {driver.pid}" in place.run("list").stdout
    slept = [psutil.Process(driver.pid), *psutil.Process(driver.pid).children(recursive=True)]
    for process in slept:
        process.suspend()
    place.wait_for(lambda: parse_holder(lease(place)).expires + 2 < time.time(), 20.0)
    second = place.start("resume", "small")
    place.wait_for(lambda: second.poll() is not None or parse_holder(lease(place)).number == 2, 60.0)
    for process in slept:
        process.resume()
    _, err = driver.communicate(timeout=120)
    assert driver.returncode == 1, err
    assert "the study stops: " in err
    assert "the lease was lost: another driver goes on with the study" in err
    _, err = second.communicate(timeout=200)
    assert second.returncode == 0, err
    place.assert_exact(3, 8)
    place.environment = other


def lease(place: Any) -> bytes:
    return ObjectStore(f"{place.storage_url}/small").read(KEY).data


@pytest.mark.parametrize("how", [pytest.param("503", marks=pytest.mark.long), "silence"])
def test_a_store_that_is_away_costs_nothing_but_time(bucket_place, s3_proxy, how):
    place = bucket_place
    place.environment["AWS_ENDPOINT_URL"] = s3_proxy.url
    place.write_slow(budget={"trials": 4}, train__epochs=12)
    driver = place.start("run", "small.yaml")
    place.wait_for(place.epochs_of_running)
    s3_proxy.answer, s3_proxy.silent = (503, False) if how == "503" else (None, True)
    time.sleep(30.0)
    s3_proxy.answer, s3_proxy.silent = None, False
    _, err = driver.communicate(timeout=200)
    assert driver.returncode == 0, err
    assert "running trials go on, new ones wait" in err or how == "silence"
    place.assert_exact(4, 12)


def test_a_driver_that_waits_for_a_store_with_no_trial_running_can_be_stopped(bucket_place, s3_proxy):
    place = bucket_place
    place.environment["AWS_ENDPOINT_URL"] = s3_proxy.url
    place.write_slow(budget={"trials": 2}, resources={"concurrent": 1})
    driver = place.start("run", "small.yaml")
    place.wait_for(place.epochs_of_running)
    s3_proxy.answer = 503
    time.sleep(8.0)  # no trial runs any more, and none begins
    driver.terminate()
    _, err = driver.communicate(timeout=180)  # Tune's own patience is 10 minutes
    assert "running trials go on, new ones wait" in err
    assert driver.returncode == 130, err
    s3_proxy.answer = None
    assert "study small is complete: 2 trials" in place.run("resume", "small").stderr
    place.assert_exact(2, 8)


REFUSALS = [
    ({}, "s3://no-such-bucket/runs", "s3://no-such-bucket/runs/small: there is no bucket 'no-such-bucket'"),
    ({}, "s3://", "storage s3://: names no bucket; as in s3://bucket/folder"),
    ({}, "s3://{bucket}/a/../b", "storage s3://{bucket}/a/../b: an empty part, `.` or `..` between its slashes"),
    (
        {},
        "http://host/runs",
        "storage http://host/runs: allowed are a folder and URLs that begin with s3://, gs:// or az://",
    ),
    ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "s3://{bucket}/runs", "s3://{bucket}/runs/small: "),
    ({}, "s3://{bucket}/other", "s3://{bucket}/other/small: has something else in it, such as notes.txt"),
]


@pytest.mark.parametrize(("environment", "storage", "line"), REFUSALS)
def test_what_cannot_be_a_storage_is_one_line_and_nothing_is_written(bucket_place, s3, environment, storage, line):
    place = bucket_place
    ObjectStore(f"s3://{s3.bucket}/other").write("small/notes.txt", b"mine")
    place.environment |= environment
    place.write()
    before = {entry.name for entry in place.path.iterdir()}
    refused = place.dmr("run", "small.yaml", "--storage", storage.format(bucket=s3.bucket))
    assert refused.returncode == 2, refused.stderr
    assert refused.stderr.startswith(line.format(bucket=s3.bucket))
    assert refused.stderr.count("\n") == 1
    assert {entry.name for entry in place.path.iterdir()} - before <= {"c"}
    assert [entry.key for entry in ObjectStore(f"s3://{s3.bucket}").entries()] == ["other/small/notes.txt"]


@pytest.mark.parametrize(
    ("status", "code"), [(403, "AccessDenied"), (400, "ExpiredToken"), (403, "SignatureDoesNotMatch")]
)
def test_no_rights_and_expired_credentials_are_one_line(bucket_place, s3_proxy, status, code):
    place = bucket_place
    place.environment["AWS_ENDPOINT_URL"] = s3_proxy.url
    s3_proxy.refuse_writes(status, code)
    place.write()
    refused = place.dmr("run", "small.yaml")
    assert refused.returncode == 2, refused.stderr
    assert refused.stderr == f"{place.storage_url}/small/lease.json: the store answers {code}\n"
    assert [entry.key for entry in ObjectStore(place.storage_url).entries()] == []
