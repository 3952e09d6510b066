"""Drivers and commands that end by Ctrl-C, SIGTERM or SIGKILL."""

from __future__ import annotations

import concurrent.futures
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
import pytest
from ray.util import list_named_actors

from inarch.actors import PopulationRun
from inarch.experiments.benchmarks.chaos.injectors import freeze, kill, thaw
from inarch.population import (
    DataConfig,
    PopulationConfig,
    TimeoutsConfig,
)
from inarch.population.persistence.checkpoint import CheckpointStore
from inarch.population.persistence.claim import claims
from inarch.population.persistence.history import read_table
from inarch.population.persistence.storage import Storage
from tests.conftest import ROOT, small_config
from tests.integration.commands import Commands, printed
from tests.integration.runs import (
    intervals,
    paced,
    rows_in,
    rows_of,
    until,
)

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]

ONE_THREAD = PopulationConfig(size=2, cpus=1.0)
"""Networks that do not compute with several threads each, because the cluster has more CPUs than the machine."""

DRIVER = """
import sys, time
from inarch import PopulationRun
from inarch.population.config import from_dict, RunConfig
import json
config = from_dict(RunConfig, json.loads(sys.argv[1]))
run = PopulationRun.start(config)
print("started", flush=True)
time.sleep(600)
"""


@pytest.mark.slow
def test_actors_end_within_a_lease_after_the_driver_dies(tmp_path: Path, cluster: str) -> None:
    from inarch.population.config import to_dict

    config = small_config(
        name="orphaned",
        storage=str(tmp_path),
        address=cluster,
        data=DataConfig(augmentation="crop", padding=1),
        timeouts=TimeoutsConfig(lease_seconds=4.0),
        **paced(2000, 0.05),
    )
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, json.dumps(to_dict(config))], stdout=subprocess.PIPE, text=True, env=os.environ
    )
    try:
        assert driver.stdout is not None and driver.stdout.readline().strip() == "started"
        run = PopulationRun.attach("orphaned", storage=str(tmp_path))
        status = until(lambda: (s := run.status()) and min(intervals(s).values(), default=0) >= 2 and s)
        processes = [network.process for network in status.networks]
    finally:
        driver.kill()
        driver.wait(timeout=10)
    until(lambda: not any(psutil.pid_exists(process) for process in processes), seconds=25)
    store = CheckpointStore(Storage(f"{tmp_path}/orphaned"))
    newest = [store.newest(network) for network in (0, 1)]
    assert all(checkpoint is not None and checkpoint.id.interval >= 2 for checkpoint in newest)
    resumed = PopulationRun.resume(f"{tmp_path}/orphaned")
    until(lambda: min(intervals(resumed.status()).values(), default=0) >= min(c.id.interval for c in newest if c))
    resumed.stop(seconds=60)
    resumed.close()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_run_resumes_while_old_networks_live(tmp_path: Path, cluster: str) -> None:
    """Coordinator and driver are killed. The run is resumed at once, before the lease of 30 s ends the networks."""
    from inarch.population.config import to_dict

    config = small_config(
        name="old-ones", storage=str(tmp_path), address=cluster, **paced(20, 0.05, population=ONE_THREAD)
    )
    words = [sys.executable, "-c", DRIVER, json.dumps(to_dict(config))]
    driver = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=os.environ)
    try:
        assert driver.stdout is not None and driver.stdout.readline().strip() == "started"
        run = PopulationRun.attach("old-ones", storage=str(tmp_path))
        status = until(lambda: (s := run.status()) and min(intervals(s).values(), default=0) >= 2 and s)
        old = [network.process for network in status.networks]
        assert kill(status.coordinator_process) == ""
    finally:
        driver.kill()
        driver.wait(timeout=10)
    resumed = PopulationRun.resume(f"{tmp_path}/old-ones")
    assert any(map(psutil.pid_exists, old))
    until(lambda: not any(map(psutil.pid_exists, old)), seconds=45)
    result = resumed.wait(seconds=150)
    assert result.is_complete and [network.incarnation for network in resumed.status().networks] == [2, 2]
    resumed.close()
    assert rows_in(tmp_path / "old-ones") == {0: list(range(1, 21)), 1: list(range(1, 21))}


STARTED: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def _end_processes() -> Iterator[None]:
    """End what a test that failed has left."""
    yield
    while STARTED:
        process = STARTED.pop()
        if process.poll() is None:
            process.terminate()
            process.communicate(timeout=60)


def started(words: list[str], environment: Mapping[str, str], cwd: Path | None = None) -> subprocess.Popen[str]:
    """Start a command whose errors are in its output, so that no pipe fills unread."""
    STARTED.append(
        subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=dict(environment), cwd=cwd
        )
    )
    return STARTED[-1]


CTRL_C = [sys.executable, "-m", "inarch.experiments.cli", "train", "--name", "interrupted", "--population.size", "2"]


@pytest.mark.slow
def test_ctrl_c_leaves_a_folder_that_resume_completes(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / ".package")}
    words = [*CTRL_C, "--storage", str(tmp_path), "--schedule.epochs", "60", "--debug.straggler.step-seconds", "0.02"]
    train = started(words, environment, cwd=tmp_path)
    assert train.stdout is not None
    for line in train.stdout:
        if "interval 3" in line:
            train.send_signal(signal.SIGINT)
            break
    output = train.stdout.read()
    assert train.wait(timeout=60) == 130
    assert "inarch resume" in output
    words = [sys.executable, "-m", "inarch.experiments.cli", "resume", str(tmp_path / "interrupted")]
    resumed = subprocess.run(words, capture_output=True, text=True, timeout=140, env=environment, cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert "ensemble" in resumed.stdout
    table = read_table(Storage(str(tmp_path / "interrupted")), "metrics")
    assert table["interval"].to_pylist() == [*range(1, 61)] * 2


def train_command(tmp_path: Path, name: str, *words: str) -> tuple[list[str], dict[str, str]]:
    """Return the `inarch train` command for a separate Ray cluster, and the environment of the command."""
    command = [sys.executable, "-m", "inarch.experiments.cli", "train", "--name", name, "--storage", str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT / ".package")}
    environment.pop("RAY_ADDRESS", None)
    return [*command, *words], environment


SHORT = ("--population.size", "2", "--schedule.epochs", "200", "--debug.straggler.step-seconds", "0.01")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["command", "script", "resume"])
def test_sigterm_stops_a_run_with_checkpoints_saved(tmp_path: Path, kind: str) -> None:
    words, environment = train_command(tmp_path, "terminated", *SHORT)
    if kind == "script":
        script = tmp_path / "driver.py"
        script.write_text(
            "from inarch import PopulationRun\n"
            "from inarch import ModelConfig, PopulationConfig, RunConfig, ScheduleConfig\n"
            "if __name__ == '__main__':\n"
            f"    config = RunConfig(name='terminated', storage={str(tmp_path)!r},\n"
            "        model=ModelConfig(architecture='resnet8'), population=PopulationConfig(size=2),\n"
            "        schedule=ScheduleConfig(epochs=200, batch_size=64))\n"
            "    for event in PopulationRun.start(config).events():\n"
            "        if event.kind == 'interval':\n"
            "            print(f'network {event.network_id}: interval {event.detail[\"interval\"]},', flush=True)\n"
        )
        words = [sys.executable, str(script)]
    terminate(words, environment, path=tmp_path / "terminated", interval=3)
    if kind == "resume":
        last = max(rows[-1] for rows in rows_in(tmp_path / "terminated").values())
        words = [sys.executable, "-m", "inarch.experiments.cli", "resume", str(tmp_path / "terminated")]
        terminate(words, environment, path=tmp_path / "terminated", interval=last + 3)


def terminate(words: list[str], environment: dict[str, str], *, path: Path, interval: int) -> None:
    """Start the driver of a run of two networks, end it with SIGTERM once both have completed an interval, and check
    what it prints and leaves.
    """
    driver = started(words, environment)
    assert driver.stdout is not None
    there: set[str] = set()
    for line in driver.stdout:
        there |= set(re.findall(rf"network (\d): interval {interval},", line))
        if there == {"0", "1"}:
            driver.send_signal(signal.SIGTERM)
            break
    output = driver.stdout.read()
    assert driver.wait(timeout=60) == 143, output
    assert f"inarch resume {path}" in output and "Traceback" not in output
    store, rows = CheckpointStore(Storage(str(path))), rows_in(path)
    assert set(rows) == {0, 1}
    for network_id in rows:
        newest = store.newest(network_id)
        assert newest is not None and newest.id.interval >= rows[network_id][-1] >= 2
        assert rows[network_id] == list(range(1, rows[network_id][-1] + 1))
    assert claims(Storage(str(path))) == []


@pytest.mark.slow
def test_sigterm_stops_a_comparison_without_traceback(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "inarch.experiments.cli", "compare", "two-networks", "--train", "digits"]
    words += ["--epochs", "100", "--storage", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
    _, environment = train_command(tmp_path, "unused")
    driver = started(words, environment)
    until(lambda: list((tmp_path / "runs").glob("*/metrics/*.parquet")), seconds=120)
    driver.send_signal(signal.SIGTERM)
    output, _ = driver.communicate(timeout=60)
    assert driver.returncode == 143 and "to continue, give the same command with --reuse" in output, output
    assert "Traceback" not in output and "SIGTERM received" not in output


@pytest.mark.slow
def test_train_commands_of_the_same_name_start_a_single_run(tmp_path: Path) -> None:
    words, environment = train_command(tmp_path, "same", "--population.size", "2", "--schedule.epochs", "30")
    drivers = [started(words, environment) for _ in range(2)]
    outputs = [driver.communicate(timeout=200)[0] for driver in drivers]
    statuses = [driver.returncode for driver in drivers]
    assert sorted(statuses) == [0, 2], outputs
    refusal = outputs[statuses.index(2)]
    assert "choose another name" in refusal and "Traceback" not in refusal
    assert rows_in(tmp_path / "same") == {0: list(range(1, 31)), 1: list(range(1, 31))}
    assert Storage(str(tmp_path / "same")).exists("result.json")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_second_ctrl_c_ends_the_command_at_once(tmp_path: Path, commands: Commands) -> None:
    """A step takes 3 s, so that the networks have not yet ended when the second Ctrl-C comes."""
    pace = ("--schedule.interval-steps", "2", "--debug.straggler.step-seconds", "3")
    driver = commands.train("twice", "--population.size", "2", *pace)
    printed(driver, "interval 1,")
    driver.process.send_signal(signal.SIGINT)
    printed(driver, "stopping: every member")
    driver.process.send_signal(signal.SIGINT)
    assert driver.process.wait(timeout=20) == 130, driver.text()
    assert "Traceback" not in driver.text() and "stopped; to resume it" not in driver.text(), driver.text()
    assert commands.remaining(seconds=20) == []
    resumed = commands.start("resume", str(tmp_path / "twice"))
    printed(resumed, "interval 2,")
    resumed.process.send_signal(signal.SIGINT)
    assert resumed.process.wait(timeout=60) == 130 and "stopped; to resume it" in resumed.text(), resumed.text()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_stop_waits_for_a_frozen_network(begin, tmp_path: Path) -> None:
    """The network is frozen for less than the lease of 30 s."""
    run = begin("frozen-network", **paced(10, 0.3, population=ONE_THREAD))
    status = until(lambda: (s := run.status()) and min(intervals(s).values(), default=0) >= 2 and s)
    frozen = next(network.process for network in status.networks if network.network_id == 1)
    assert freeze(frozen) == ""
    try:
        with concurrent.futures.ThreadPoolExecutor() as threads:
            stop = threads.submit(run.stop, seconds=90)
            time.sleep(12.0)
            assert not stop.done() and run.status().state != "finished"
            assert thaw(frozen)
            stop.result(timeout=30)
    finally:
        thaw(frozen)
    assert "loss" not in [event.kind for event in run.events()]
    run.close()
    store, rows = CheckpointStore(Storage(run.path)), rows_of(run)
    for network_id in (0, 1):
        newest = store.newest(network_id)
        assert newest is not None and newest.id.interval >= rows[network_id][-1] >= 2
    resumed = PopulationRun.resume(run.path)
    assert resumed.wait(seconds=150).is_complete
    resumed.close()
    assert rows_of(run) == {0: list(range(1, 11)), 1: list(range(1, 11))}


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_detached_run_is_driven_from_other_processes(tmp_path: Path, commands: Commands, cluster: str) -> None:
    pace = ("--schedule.epochs", "40", "--debug.straggler.step-seconds", "0.05")
    size = ("--population.size", "2", "--population.cpus", "1")
    own = ("--detach", "--address", cluster, "--timeouts.lease-seconds", "10")
    train = commands.train("left-alone", *pace, *size, *own)
    assert train.process.wait(timeout=90) == 0 and "detached; inarch status" in train.text(), train.text()
    assert commands.state("left-alone")["live"] is True
    where = ("--storage", str(tmp_path))
    commands.succeed("scale", "left-alone", "3", *where)
    run = PopulationRun.attach("left-alone", storage=str(tmp_path))
    until(lambda: [network.train_loss is not None for network in run.status().networks] == [True] * 3, seconds=120)
    commands.succeed("stop", "left-alone", *where)
    until(lambda: not any("left-alone" in str(actor) for actor in list_named_actors(all_namespaces=True)))
    state = commands.state("left-alone")
    assert state["live"] is False and state["record"]["state"] == "finished" and state["result"] is None
    assert claims(Storage(str(tmp_path / "left-alone"))) == []
    commands.succeed("resume", str(tmp_path / "left-alone"), seconds=200)
    rows = rows_in(tmp_path / "left-alone")
    assert rows == {network_id: list(range(rows[network_id][0], 41)) for network_id in (0, 1, 2)}
    assert rows[0][0] == rows[1][0] == 1


@pytest.mark.slow
def test_open_command_lasts_until_it_is_stopped(tmp_path: Path, commands: Commands) -> None:
    opened = commands.start("open", "loops", "--storage", str(tmp_path), "--every", "10")
    until(lambda: (tmp_path / "loops" / "cluster.json").exists(), seconds=90)
    status = until(lambda: (s := commands.state("loops")) and s["live"] and s, seconds=60)
    assert status["networks"] == []
    commands.succeed("stop", "loops", "--storage", str(tmp_path))
    assert opened.process.wait(60) == 0, opened.text()
    assert "Traceback" not in opened.text()
