"""Networks, coordinators, nodes, storage and user code that fail during a run."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import itertools
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest
import torch

from inarch.actors import PopulationRun
from inarch.actors.driver import coordinator_client
from inarch.experiments.cli import main
from inarch.population import (
    DataConfig,
    ExchangeConfig,
    OptimizerConfig,
    PopulationConfig,
    TimeoutsConfig,
)
from inarch.population.errors import (
    ClusterError,
    RunError,
)
from inarch.population.persistence.history import read_table
from inarch.population.persistence.storage import Storage
from inarch.population.tasks.run_folder import read_members
from tests.conftest import small_config
from tests.images import encoded, picture, write_table
from tests.integration.runs import (
    STEPS,
    assert_same_weights,
    final_weights,
    intervals,
    own_network,
    paced,
    rows_of,
    until,
)

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]


def test_killed_network_and_coordinator_do_not_delay_others(begin, tmp_path: Path) -> None:
    run = begin("killed", population=PopulationConfig(size=3), **paced(200, 0.12))  # stopped at the end of the test
    status = until(lambda: (s := run.status()) and min(intervals(s).values(), default=0) >= 2 and s)
    victim = next(network.process for network in status.networks if network.network_id == 0)
    os.kill(victim, signal.SIGKILL)
    before = intervals(run.status())
    until(
        lambda: any(n.network_id == 0 and n.incarnation == 2 and n.state == "training" for n in run.status().networks)
    )
    after = intervals(run.status())
    assert all(after[n] >= before[n] + 3 for n in (1, 2)), (before, after)
    processes = {n.network_id: n.process for n in run.status().networks}
    coordinator = run.status().coordinator_process
    os.kill(coordinator, signal.SIGKILL)
    until(lambda: run.status().coordinator_process != coordinator, seconds=40)
    networks = until(
        lambda: (s := run.status().networks) and all(n.state in ("training", "done") and n.process for n in s) and s
    )
    assert {n.network_id: n.process for n in networks} == processes
    attached = PopulationRun.attach("killed", storage=str(tmp_path))
    reached = intervals(attached.status())
    until(lambda: all(now >= reached[n] + 3 for n, now in intervals(attached.status()).items()))
    attached.stop(seconds=60)
    rows = rows_of(run)
    assert rows == {n: list(range(1, len(rows[n]) + 1)) for n in range(3)}
    assert all(len(rows[n]) >= reached[n] + 3 for n in range(3))
    incarnations = read_table(Storage(run.path), "metrics").group_by("network").aggregate([("incarnation", "max")])
    assert dict(zip(*(incarnations[c].to_pylist() for c in ("network", "incarnation_max")), strict=True)) == {
        0: 2,
        1: 1,
        2: 1,
    }


@pytest.mark.slow
def test_lockstep_run_after_network_kill_has_the_same_weights(begin) -> None:
    options = paced(8, 0.05, mode="lockstep")
    whole = begin("whole", **options)
    whole.wait(seconds=90)
    whole.close()
    killed = begin("killed", **options)
    status = until(lambda: (s := killed.status()) and max(intervals(s).values(), default=0) >= 3 and s)
    os.kill(next(n.process for n in status.networks if n.network_id == 1), signal.SIGKILL)
    killed.wait(seconds=90)
    rows = read_table(Storage(killed.path), "metrics").filter(pc.field("network") == 1)
    assert rows.sort_by("interval")["interval"].to_pylist() == list(range(1, 9))
    assert set(rows["incarnation"].to_pylist()) == {1, 2}
    assert_same_weights(final_weights(whole.path), final_weights(killed.path))
    assert len({value.sum().item() for value in (w["conv1.weight"] for w in final_weights(whole.path).values())}) == 1


@pytest.mark.slow
def test_run_fails_with_the_reason_when_all_networks_diverge(begin, capsys) -> None:
    run = begin("diverging", optimizer=OptimizerConfig(learning_rate=1e30))
    with pytest.raises(RunError, match="diverged in interval 1"):
        run.wait(seconds=60)
    record = read_members(Storage(run.path)) or {}
    assert record["state"] == "failed" and (Path(run.path) / "report.html").exists()
    assert "diverged in interval 1" in run.stop(seconds=30).failure
    with pytest.raises(SystemExit, match="2"):
        main(["stop", run.path])
    run.close()
    with pytest.raises(SystemExit, match="0"):
        main(["status", run.path])
    stopped, *_, recorded = capsys.readouterr().out.partition("last recorded state")
    assert "failed: " in stopped and "diverged in interval 1" in stopped
    assert "failed" in recorded and "diverged in interval 1" in recorded


class FailsOnce:
    """Builds networks of which a single one fails or hangs, once, at a step of its second interval."""

    def __init__(self, mark: Path, *, hangs: bool) -> None:
        self.mark, self.hangs = mark, hangs

    def __call__(self, num_classes: int) -> torch.nn.Module:
        model, steps = own_network(num_classes), itertools.count(1)

        def before(module: torch.nn.Module, _: Any) -> None:
            if module.training and next(steps) == STEPS + 2 and not self.mark.exists():
                self.mark.touch()
                if self.hangs:
                    time.sleep(3600)
                raise RuntimeError("the device was lost")

        model.register_forward_pre_hook(before)
        return model


@pytest.mark.slow
def test_network_restarts_after_an_error_in_user_code(begin, tmp_path: Path) -> None:
    run = begin("fails-once", model=FailsOnce(tmp_path / "mark", hangs=False), **paced(4, 0.1))
    events = [(event.kind, event.detail.get("reason", "")) for event in run.events()]
    reasons = [reason for kind, reason in events if kind == "loss"]
    assert any(
        "RuntimeError: the device was lost (at " in reason and "test_failures.py" in reason for reason in reasons
    )
    assert sum(kind == "done" for kind, _ in events) == 2
    assert run.wait(seconds=30).is_complete


@pytest.mark.slow
def test_network_that_hangs_is_killed_and_restarted(begin, tmp_path: Path) -> None:
    timeouts = TimeoutsConfig(progress_seconds=1.0, barrier_seconds=1.0, storage_seconds=1.0)
    model_factory = FailsOnce(tmp_path / "mark", hangs=True)
    run = begin("stands-still", model=model_factory, **paced(4, 0.1, timeouts=timeouts))
    kinds = [event.kind for event in run.events()]
    assert "restart" in kinds and kinds.count("done") == 2
    assert (
        "no progress for"
        in (Path(run.path) / "logs/network-0.log").read_text() + (Path(run.path) / "logs/network-1.log").read_text()
    )


@pytest.mark.slow
def test_restarted_coordinator_waits_for_failing_storage(begin) -> None:
    run = begin("blind", **paced(80, 0.1))
    until(lambda: min(intervals(run.status()).values()) >= 2)
    members, hidden = Path(run.path) / "members", Path(run.path) / "hidden"
    process = run.status().coordinator_process
    members.rename(hidden)
    members.write_text("no folder")

    os.kill(process, signal.SIGKILL)
    before = until(lambda: (s := run.status()).coordinator_process != process and s)
    assert before.state == "starting" and not before.networks
    members.unlink()
    hidden.rename(members)
    status = until(lambda: (s := run.status()).state == "training" and len(s.networks) == 2 and s)
    assert [network.incarnation for network in status.networks] == [1, 1]
    assert run.wait(seconds=120).is_complete


@pytest.mark.slow
def test_frozen_coordinator_does_not_end_the_run(begin, monkeypatch, caplog) -> None:
    """The limit of a call is 5 s here, and 60 s in a real run."""
    monkeypatch.setattr(coordinator_client, "CALL_SECONDS", 5.0)
    run = begin("frozen", **paced(60, 0.1))
    status = until(lambda: (s := run.status()) and min(intervals(s).values(), default=0) >= 2 and s)
    with concurrent.futures.ThreadPoolExecutor() as threads, caplog.at_level(logging.WARNING, logger="inarch"):
        result = threads.submit(run.wait)
        events = threads.submit(lambda: [event.kind for event in run.events()])
        os.kill(status.coordinator_process, signal.SIGSTOP)
        try:
            with pytest.raises(ClusterError, match="its coordinator does not answer"):
                run.status()
            with pytest.raises(TimeoutError, match="was not over after"):
                run.wait(seconds=0.5)
            assert not result.done() and not events.done()
        finally:
            os.kill(status.coordinator_process, signal.SIGCONT)
        assert result.result(timeout=120).is_complete
        assert events.result(timeout=30).count("done") == 2
    assert 1 <= caplog.text.count("its coordinator has not answered for") <= 2, caplog.text
    assert 1 <= caplog.text.count("its coordinator answers again") <= 2, caplog.text
    assert rows_of(run) == {0: list(range(1, 61)), 1: list(range(1, 61))}


NODES = """
import json, os, sys, time
os.environ.update(RAY_health_check_period_ms="1000", RAY_health_check_failure_threshold="3")
import ray
from ray.cluster_utils import Cluster
from inarch import PopulationRun
from inarch.actors.messages import coordinator_name
from inarch.population.config import RunConfig, from_dict
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
second = cluster.add_node(num_cpus=2)
ray.init(address=cluster.address, namespace="inarch", log_to_driver=False)
run = PopulationRun.start(from_dict(RunConfig, json.loads(sys.argv[1])))
def until(claim):
    deadline = time.time() + 100
    while not claim():
        assert time.time() < deadline, run.status()
        time.sleep(0.1)
until(lambda: all(n.interval >= 2 for n in run.status().networks))
before = {n.network_id: n.node for n in run.status().networks}
cluster.remove_node(second, allow_graceful=False)
if sys.argv[2] == "coordinator":
    ray.kill(ray.get_actor(coordinator_name("nodes"), namespace="inarch"), no_restart=False)
result = run.wait(seconds=220)
print(json.dumps({"nodes": len(set(before.values())), "incarnations": [n.incarnation for n in run.status().networks]}))
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("population", "also_lost"),
    [
        (PopulationConfig(size=4), "nothing"),
        (PopulationConfig(size=2, cpus=2.0), "nothing"),
        (PopulationConfig(size=2, cpus=2.0), "coordinator"),
    ],
    ids=["free node", "full node", "full node and killed coordinator"],
)
def test_networks_of_a_lost_node_restart_on_another_node(
    tmp_path: Path, population: PopulationConfig, also_lost: str
) -> None:
    """If the other node is full, the lost networks restart as soon as the networks of that node finish."""
    from inarch.population.config import to_dict

    config = small_config(name="nodes", storage=str(tmp_path), **paced(14, 0.05, population=population))
    words = [sys.executable, "-c", NODES, json.dumps(to_dict(config)), also_lost]
    root = str(Path(__file__).resolve().parents[2])
    completed = subprocess.run(
        words, capture_output=True, text=True, timeout=290, env={**os.environ, "PYTHONPATH": root}
    )
    assert completed.returncode == 0, completed.stderr[-2000:]
    summary = json.loads(next(line for line in completed.stdout.splitlines() if line.startswith("{")))
    assert summary["nodes"] == 2
    assert sorted(summary["incarnations"])[-1] >= 2 and min(summary["incarnations"]) == 1
    table = read_table(Storage(f"{tmp_path}/nodes"), "metrics")
    assert table["interval"].to_pylist() == [*range(1, 15)] * population.size


@pytest.mark.slow
def test_unreadable_streamed_image_ends_run_and_names_its_row(begin, tmp_path: Path) -> None:
    """The batch on which the network is tried before the run starts does not hold the row."""
    good = encoded(picture(90, size=(40, 40)), "JPEG")
    rows = [good[:300] if index == 27 else good for index in range(120)]
    train = write_table(tmp_path / "x.parquet", [index % 2 for index in range(120)], images=rows)
    data = DataConfig(train=train, stream="always", image_size=32, workers=2, validation=0.0, augmentation="none")
    began = time.monotonic()
    with pytest.raises(RunError, match=r"x.parquet, row 27 cannot be decoded as an image"):
        begin("bad-row", data=None, data_config=data).wait(seconds=120)
    assert time.monotonic() - began < 60, "networks restarted although the error is permanent"
    run = begin("left-out", data=None, data_config=dataclasses.replace(data, skip_unreadable=1))
    result = run.wait(seconds=120)
    assert result.is_complete
    assert "row 27" in Path(result.path, "data", "unreadable.txt").read_text()
    info = json.loads(Path(result.path, "config.json").read_text())["info"]
    assert info["facts"]["data"]["sizes"]["train"] == 119 and len(info["unreadable"]) == 1


@pytest.mark.slow
def test_failed_network_is_a_row_of_an_incomplete_run(begin, tmp_path: Path) -> None:
    rates = OptimizerConfig(learning_rate=(0.05, 1e20))
    result = begin("diverging", optimizer=rates, exchange=ExchangeConfig(rule="none")).wait(seconds=90)
    assert result.table is not None and not result.is_complete
    rows = {row["network"]: row for row in result.table["networks"]}
    assert rows[0]["ended"] == "done" and rows[1]["ended"] == "failed"
    assert "diverged" in rows[1]["reason"] and rows[1]["best"] is None


@pytest.mark.slow
def test_diverging_network_does_not_harm_the_others(begin) -> None:
    """They graft, as by default."""
    rates = OptimizerConfig(learning_rate=(0.05, 0.05, 500.0))
    run = begin("harmless", optimizer=rates, **paced(12, 0.05, population=PopulationConfig(size=3)))
    result = run.wait(seconds=120)
    assert [network.ended for network in result.networks] == ["done", "done", "failed"]
    assert "diverged" in result.networks[2].reason
    for network in result.networks[:2]:
        assert network.grafts > 0 and network.best is not None and network.best["accuracy"] > 0.9
    weights = final_weights(run.path)
    assert all(bool(tensor.isfinite().all()) for network_id in (0, 1) for tensor in weights[network_id].values())
