"""Whole runs on a real Ray cluster: exchange, failures, elasticity and resume."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.fs as pafs
import pytest
import ray
import torch

from inarch.actors import PopulationRun, RunStatus
from inarch.actors.driver.discovery import check_folder_not_live
from inarch.actors.messages import NAMESPACE, network_name
from inarch.experiments.export import export_network
from inarch.experiments.saved_runs import evaluate_again
from inarch.population import (
    DataConfig,
    DebugConfig,
    ExchangeConfig,
    GraftConfig,
    OptimizerConfig,
    PopulationConfig,
    ScheduleConfig,
    StalenessConfig,
    StragglerConfig,
    TimeoutsConfig,
)
from inarch.population.data import write_arrow
from inarch.population.errors import (
    ConfigError,
    DataError,
    ResourceError,
    RunError,
    RunExistsError,
    RunNotFoundError,
    StorageError,
    StructureError,
)
from inarch.population.models import CifarResNet
from inarch.population.persistence.checkpoint import CheckpointStore
from inarch.population.persistence.claim import claims
from inarch.population.persistence.history import GRAFTS, METRICS, read_table
from inarch.population.persistence.storage import Storage
from tests.conftest import small_config, tiny_splits
from tests.images import encoded, picture, write_table

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]

DATA = tiny_splits(small_config()).test
assert DATA is not None
ARRAYS = (DATA.images, DATA.labels)

STEPS = 3
"""Training steps of an epoch with these images."""


def own_network(num_classes: int) -> torch.nn.Module:
    return CifarResNet(8, num_classes=num_classes, in_channels=1)


@pytest.fixture
def begin(tmp_path: Path, cluster: str) -> Iterator[Callable[..., PopulationRun]]:
    """Return a function that starts runs in the test's own folder. Runs that remain after the test are stopped."""
    runs: list[PopulationRun] = []

    def start(
        name: str, *, data: Any = ARRAYS, data_config: DataConfig | None = None, model: Any = None, **changes: Any
    ) -> PopulationRun:
        changes |= {} if data_config is None else {"data": data_config}
        config = small_config(name=name, storage=str(tmp_path), **changes)
        run = PopulationRun.start(config, data=data, model=model)
        runs.append(run)
        return run

    yield start
    for run in runs:
        try:
            run.stop(seconds=30)
            run.close()
        except RunNotFoundError:
            continue


def until(condition: Callable[[], Any], *, seconds: float = 60.0) -> Any:
    """Return the value of `condition` as soon as it is true, and fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError(f"the condition did not hold within {seconds} s")


def intervals(status: RunStatus) -> dict[int, int]:
    return {network.network_id: network.interval for network in status.networks}


def rows_of(run: PopulationRun) -> dict[int, list[int]]:
    return rows_in(run.path)


def rows_in(path: str | Path) -> dict[int, list[int]]:
    """Return the intervals of each network in a run's folder, in order."""
    table = read_table(Storage(str(path)), "metrics")
    rows: dict[int, list[int]] = {}
    for network_id, interval in zip(table["network"].to_pylist(), table["interval"].to_pylist(), strict=True):
        rows.setdefault(network_id, []).append(interval)
    return rows


def paced(epochs: int, step_seconds: float, **changes: Any) -> dict[str, Any]:
    return {
        "schedule": ScheduleConfig(epochs=epochs, batch_size=32, lr_decay="cosine"),
        "debug": DebugConfig(straggler=StragglerConfig(step_seconds=step_seconds)),
        **changes,
    }


def test_run_from_arrays_and_callable_writes_its_folder(begin, tmp_path: Path) -> None:
    run = begin("first", data=(ARRAYS, ARRAYS), model=own_network)
    kinds = {event.kind for event in run.events()}
    assert {"join", "interval", "graft", "done", "finish"} <= kinds
    result = run.wait(seconds=60)
    assert result.is_complete and result.table is not None
    assert {network["ended"] for network in result.table["networks"]} == {"done"}
    assert result.table["evaluated_on"] == "test"
    assert {"mean", "best", "ensemble", "soup", "seconds_by_phase"} <= result.table.keys()
    assert result.table["ensemble"]["accuracy"] > 0.9
    storage = Storage(run.path)
    assert {"config.json", "metrics", "grafts", "networks", "result.json"} <= set(storage.names(""))
    assert rows_of(run) == {0: [1, 2, 3, 4], 1: [1, 2, 3, 4]}
    metrics, grafts = read_table(storage, "metrics"), read_table(storage, "grafts")
    named = {"train_accuracy", "validation_accuracy", "validation_loss"}
    assert set(metrics.schema.names) == {*METRICS.names, *named} and grafts.schema.equals(GRAFTS)
    num_grafts = metrics["outcome"].to_pylist().count("grafted")
    assert len(grafts) == num_grafts * 7 > 0
    assert all(0.3 <= alpha < 1.0 for alpha in grafts["alpha"].to_pylist())
    recorded = json.loads(storage.read("config.json"))
    assert recorded["model"] == "callable" and recorded["config"]["seed"] == 0
    with pytest.raises(ConfigError, match="started with a callable"):
        evaluate_again(run.path)
    evaluation = evaluate_again(run.path, model=own_network)
    assert evaluation["networks"] == result.table["networks"]
    assert evaluation["ensemble"] == pytest.approx(result.table["ensemble"])
    assert [row["interval"] for row in evaluation["similarity"]] == [3, 4]
    assert evaluation["similarity"][-1]["cosine"] == pytest.approx(result.table["last"]["cosine"])
    assert all(0 < row["agreement"] <= 1 for row in evaluation["similarity"])
    for what in ("best", "soup"):
        file, snippet = export_network(run.path, what=what, out=None)
        assert Path(file).exists() and "safetensors.torch.load_model" in snippet
    run.close()
    with pytest.raises(RunExistsError, match="choose another name"):
        begin("first")
    with pytest.raises(RunError, match="is complete"):
        PopulationRun.resume(run.path, model=own_network)
    with pytest.raises(RunNotFoundError, match="not running any more"):
        until(lambda: PopulationRun.attach("first", storage=str(tmp_path)) and False, seconds=10)


def test_killed_network_and_coordinator_do_not_delay_others(begin, tmp_path: Path) -> None:
    run = begin("killed", population=PopulationConfig(size=3), **paced(100, 0.12))  # 36 s: both restart in this time
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
    attached.wait(seconds=100)
    assert rows_of(run) == {n: list(range(1, 101)) for n in range(3)}
    incarnations = read_table(Storage(run.path), "metrics").group_by("network").aggregate([("incarnation", "max")])
    assert dict(zip(*(incarnations[c].to_pylist() for c in ("network", "incarnation_max")), strict=True)) == {
        0: 2,
        1: 1,
        2: 1,
    }


def test_scale_grows_and_shrinks_a_running_population(begin, tmp_path: Path) -> None:
    run = begin("elastic", **paced(40, 0.1, population=PopulationConfig(size=2, max_size=3)))
    until(lambda: min(intervals(run.status()).values(), default=0) >= 2)
    attached = PopulationRun.attach("elastic", storage=str(tmp_path))
    attached.scale(3)
    status = until(lambda: (s := run.status()) and sum(n.state == "training" for n in s.networks) == 3 and s)
    assert [n.network_id for n in status.networks] == [0, 1, 2]
    until(lambda: min(intervals(run.status()).values()) >= 5)
    with pytest.raises(ConfigError, match="max_size is 3"):
        run.scale(4)
    with pytest.raises(ConfigError, match="at least 1"):
        run.scale(0)
    run.scale(2)
    status = until(lambda: (s := run.status()) and s.networks[2].state == "retired" and s)
    assert [n.state for n in status.networks] == ["training", "training", "retired"]
    run.wait(seconds=90)
    rows = rows_of(run)
    assert rows[0] == rows[1] == list(range(1, 41))
    store = CheckpointStore(Storage(run.path))
    assert rows[2] == list(range(rows[2][0], rows[2][-1] + 1))
    assert rows[2][0] > 1
    newest = store.newest(2)
    assert newest is not None and newest.id.interval == rows[2][-1]


@pytest.mark.slow
def test_newcomer_removed_at_a_barrier_does_not_restart(begin) -> None:
    run = begin("visitor", **paced(3, 5.0, mode="lockstep"))  # a newcomer starts within an interval
    until(lambda: min(intervals(run.status()).values(), default=0) >= 1)
    run.scale(3)
    until(lambda: (s := run.status()) and len(s.networks) == 3 and s.networks[2].state == "training")
    assert max(intervals(run.status()).values()) == 1, "the barrier opened before the newcomer waited"
    run.scale(2)
    run.wait(seconds=120)
    visitor = run.status().networks[2]
    assert (visitor.state, visitor.incarnation) == ("retired", 1)
    assert not [event for event in run.events() if event.network_id == 2 and event.kind in ("loss", "restart")]
    assert rows_of(run).keys() == {0, 1}


def final_weights(path: str) -> dict[int, dict[str, torch.Tensor]]:
    store = CheckpointStore(Storage(path))
    checkpoints = {network_id: store.newest(network_id) for network_id in store.networks()}
    return {
        network_id: dict(checkpoint.model) for network_id, checkpoint in checkpoints.items() if checkpoint is not None
    }


def assert_same_weights(first: dict[int, dict[str, torch.Tensor]], second: dict[int, dict[str, torch.Tensor]]) -> None:
    assert first.keys() == second.keys()
    for network_id in first:
        for name, value in first[network_id].items():
            assert torch.equal(value, second[network_id][name]), (network_id, name)


@pytest.mark.slow
def test_lockstep_run_after_resume_has_the_same_weights(begin, tmp_path: Path) -> None:
    options = paced(8, 0.05, mode="lockstep")
    whole = begin("whole", **options)
    whole.wait(seconds=90)
    whole.close()
    halves = begin("halves", **options)
    until(lambda: max(intervals(halves.status()).values(), default=0) >= 3)
    halves.stop(seconds=60)
    assert halves.wait(seconds=10).table is None
    halves.close()
    assert max(len(rows) for rows in rows_of(halves).values()) < 8
    resumed = PopulationRun.resume(halves.path)
    assert resumed.wait(seconds=90).is_complete
    resumed.close()
    assert_same_weights(final_weights(whole.path), final_weights(halves.path))
    assert rows_of(halves) == rows_of(whole) == {n: list(range(1, 9)) for n in range(2)}
    grafts = read_table(Storage(halves.path), "grafts")
    assert grafts["rootstock_version"].to_pylist() == grafts["scion_version"].to_pylist()


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
    assert_same_weights(final_weights(whole.path), final_weights(killed.path))
    assert len({value.sum().item() for value in (w["conv1.weight"] for w in final_weights(whole.path).values())}) == 1


def test_control_calls_return_quickly_during_training(begin) -> None:
    run = begin("control", schedule=ScheduleConfig(epochs=400, batch_size=32))
    until(lambda: min(intervals(run.status()).values(), default=0) >= 2)
    handle = ray.get_actor(network_name("control", 0, 1), namespace=NAMESPACE)
    for call in (lambda: ray.get(handle.ready.remote(), timeout=10), run.status):
        seconds = []
        for _ in range(40):
            began = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - began)
        assert statistics.median(seconds) < 0.05
    assert run.status().state == "training"


OBJECT_HEADER_BYTES = 1024
"""Upper bound of the bytes that Ray stores with an object in addition to its buffers."""


def store_bytes() -> float:
    """Return the bytes in use in the object store."""
    return ray.cluster_resources()["object_store_memory"] - ray.available_resources().get("object_store_memory", 0.0)


def watch_store(seconds: float) -> list[float]:
    """Return the bytes in use in the object store, sampled every tenth of a second."""
    samples = []
    for _ in range(int(seconds * 10)):
        samples.append(store_bytes())
        time.sleep(0.1)
    return samples


@pytest.mark.slow
def test_frozen_coordinator_changes_neither_pace_nor_store(begin) -> None:
    step = 0.05
    run = begin("frozen", **paced(2000, step, population=PopulationConfig(size=3)))
    status = until(lambda: (s := run.status()) and min(intervals(s).values(), default=0) >= 3 and s)
    assert run.info is not None
    coordinator = psutil.Process(status.coordinator_process)
    networks = [ray.get_actor(network_name("frozen", n, 1), namespace=NAMESPACE) for n in range(3)]

    def steps() -> list[int]:
        described = ray.get([network.ready.remote() for network in networks], timeout=10)
        return [interval for _, interval, _, _ in described]

    def num_published() -> list[int]:
        described = ray.get([network.describe.remote() for network in networks], timeout=10)
        return [len(snapshots) for _, snapshots, _ in described]

    first = steps()
    usual_bytes = watch_store(5)
    usual = [b - a for a, b in zip(first, steps(), strict=True)]
    coordinator.suspend()
    try:
        before = steps()
        frozen_bytes = watch_store(10)
        frozen = [b - a for a, b in zip(before, steps(), strict=True)]
        assert max(num_published()) <= 2
    finally:
        coordinator.resume()
    two_each = 2 * 3 * (run.info.snapshot_bytes + OBJECT_HEADER_BYTES)
    assert max(*usual_bytes, *frozen_bytes) <= run.info.data_bytes + two_each
    assert all(f >= 2 * u * 0.9 for f, u in zip(frozen, usual, strict=True)), (usual, frozen)
    until(lambda: min(intervals(run.status()).values()) >= min(before) + min(frozen))
    until(lambda: sum(n.outcome == "grafted" for n in run.status().networks) == 3)


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


def without_batch_norm(num_classes: int) -> torch.nn.Module:
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, num_classes)
    )


def linear_network(num_classes: int) -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, num_classes))


def test_start_with_invalid_input_fails_without_a_folder(begin, tmp_path: Path) -> None:
    images, labels = ARRAYS
    cases: list[tuple[type[Exception], str, dict[str, Any]]] = [
        (DataError, "all of class", {"data": (images, np.zeros_like(labels))}),
        (DataError, "item 0 has label -1; labels must be 0 or above", {"data": (images, labels - 1)}),
        (DataError, "does not exist", {"data": str(tmp_path / "nowhere")}),
        (ConfigError, "'resnet7' is unknown", {"model": "resnet7"}),
        (ConfigError, "logits", {"model": lambda num_classes: own_network(num_classes + 1)}),
        (
            ConfigError,
            "graft.units=matrices",
            {
                "model": lambda num_classes: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, num_classes)),
                "graft": GraftConfig(units="convolutions"),
            },
        ),
        (
            ConfigError,
            "batch norm after each convolution; 0.weight has none",
            {"model": without_batch_norm, "graft": GraftConfig(criterion="batch_norm")},
        ),
        (
            ConfigError,
            "the channels that 0.weight makes have no batch norm",
            {"model": without_batch_norm, "graft": GraftConfig(level="filter", criterion="batch_norm")},
        ),
        (ResourceError, "the cluster has 8 CPUs and 0 GPUs", {"population": PopulationConfig(size=2, cpus=100.0)}),
        (ResourceError, "can never be placed", {"population": PopulationConfig(size=2, gpus=0.5)}),
    ]
    for kind, message, options in cases:
        with pytest.raises(kind, match=message):
            begin("bad", **options)
        assert not (tmp_path / "bad").exists()


def test_start_with_unwritable_storage_raises_storage_error(cluster: str) -> None:
    with pytest.raises(StorageError, match="could not"):
        PopulationRun.start(small_config(name="x", storage="/proc/inarch"))


class Changing:
    """Builds a deeper network inside an actor than in the driver process."""

    def __call__(self, num_classes: int) -> torch.nn.Module:
        is_actor = ray.get_runtime_context().get_actor_id() is not None
        return CifarResNet(14 if is_actor else 8, num_classes=num_classes, in_channels=1)


def test_run_fails_when_network_structures_differ(begin) -> None:
    run = begin("changing", model=Changing())
    with pytest.raises(RunError, match="another structure than its neighbors"):
        run.wait(seconds=60)


@pytest.mark.slow
def test_run_fails_with_the_reason_when_all_networks_diverge(begin) -> None:
    run = begin("diverging", optimizer=OptimizerConfig(learning_rate=1e30))
    with pytest.raises(RunError, match="diverged in interval 1"):
        run.wait(seconds=60)


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
    assert any("RuntimeError: the device was lost (at " in reason and "test_run.py" in reason for reason in reasons)
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
        "stood still"
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
def test_finished_network_donates_after_resume(begin) -> None:
    options = paced(12, 0.03)
    options["debug"] = DebugConfig(straggler=StragglerConfig(step_seconds=0.03, slowdowns=(0.1, 4.0)))
    run = begin("early", **options)
    until(lambda: intervals(run.status()).get(0) == 12 and intervals(run.status())[1] >= 1)
    run.stop(seconds=60)
    stopped_at = intervals(run.status())[1]
    assert stopped_at < 11
    run.close()
    resumed = PopulationRun.resume(run.path)
    assert resumed.wait(seconds=90).is_complete
    resumed.close()
    grafts = read_table(Storage(run.path), "grafts").to_pylist()
    later = [row for row in grafts if row["rootstock"] == 1 and row["interval"] > stopped_at + 1]
    assert later and {row["scion_version"] for row in later} == {12}


def test_network_ahead_of_its_donor_compensates_the_delay(begin) -> None:
    options = paced(7, 0.04, staleness=StalenessConfig(compensation_intervals=3, max_intervals=9.0))
    options["debug"] = DebugConfig(straggler=StragglerConfig(step_seconds=0.04, slowdowns=(1.0, 1.6)))
    run = begin("forward", **options)
    assert run.wait(seconds=90).is_complete
    grafts = read_table(Storage(run.path), "grafts").to_pylist()
    compensations = {
        (row["rootstock_version"], row["staleness_intervals"], row["compensated_intervals"]) for row in grafts
    }
    assert any(compensated > 0 for _, _, compensated in compensations)
    assert all(
        compensated == min(3, round(staleness), version - 1) for version, staleness, compensated in compensations
    ), compensations


def test_resume_with_other_structure_or_images_is_refused(begin, tmp_path: Path) -> None:
    run = begin("checked", model=own_network, **paced(200, 0.05))
    until(lambda: min(intervals(run.status()).values(), default=0) >= 1)
    with pytest.raises(RunExistsError, match="choose another name"):
        begin("checked")
    with pytest.raises(RunError, match="is live"):
        PopulationRun.resume(run.path, model=own_network)
    run.stop(seconds=60)
    run.close()
    with pytest.raises(ConfigError, match="was begun with a callable"):
        until(lambda: PopulationRun.resume(run.path) and False, seconds=5)
    with pytest.raises(StructureError, match="was begun with a network of"):
        PopulationRun.resume(
            run.path, model=lambda num_classes: CifarResNet(14, num_classes=num_classes, in_channels=1)
        )
    other = tmp_path / "other.arrow"
    changed = tiny_splits(small_config(), seed=1).test
    assert changed is not None
    write_arrow(changed, pafs.LocalFileSystem(), str(other))
    with pytest.raises(DataError, match="other data"):
        PopulationRun.resume(run.path, model=own_network, data=str(other))


@pytest.mark.slow
def test_transformer_trains_and_grafts_by_its_weight_matrices(begin) -> None:
    def make_model(num_classes: int) -> torch.nn.Module:
        from torchvision.models import VisionTransformer

        class Gray(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.vit = VisionTransformer(8, 4, 1, 2, 16, 32, num_classes=num_classes)

            def forward(self, images: torch.Tensor) -> torch.Tensor:
                return self.vit(images.expand(-1, 3, -1, -1))

        return Gray()

    run = begin(
        "transformer",
        model=make_model,
        graft=GraftConfig(units="matrices", momentum="blend"),
        optimizer=OptimizerConfig(name="adamw", learning_rate=1e-3),
    )
    result = run.wait(seconds=90)
    assert result.table is not None and sum(n["grafts"] for n in result.table["networks"]) > 0


@pytest.mark.ray
def test_resume_is_refused_while_a_driver_lives_elsewhere(cluster: str, tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    driver = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        cluster_record = {
            "run": "other",
            "address": f"127.0.0.1:{elsewhere.getsockname()[1]}",
            "is_detached": False,
            "driver": {"host": socket.gethostname(), "process": driver.pid},
        }
        storage.write("cluster.json", json.dumps(cluster_record).encode())
        with pytest.raises(RunError, match=f"run other is live: process {driver.pid} drives it"):
            check_folder_not_live(storage)
        driver.kill()
        driver.wait(timeout=10)
        check_folder_not_live(storage)
    assert ray.is_initialized()


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


CTRL_C = [sys.executable, "-m", "inarch.experiments.cli", "train", "--name", "interrupted", "--population.size", "2"]


@pytest.mark.slow
def test_ctrl_c_leaves_a_folder_that_resume_completes(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    words = [*CTRL_C, "--storage", str(tmp_path), "--schedule.epochs", "60", "--debug.straggler.step-seconds", "0.02"]
    train = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment, cwd=tmp_path)
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
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    environment.pop("RAY_ADDRESS", None)
    return [*command, *words], environment


SHORT = ("--population.size", "2", "--schedule.epochs", "200", "--debug.straggler.step-seconds", "0.01")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["command", "script"])
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
            "            print('interval', str(event.detail['interval']) + ',', flush=True)\n"
        )
        words = [sys.executable, str(script)]
    driver = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert driver.stdout is not None and driver.stderr is not None
    for line in driver.stdout:
        if "interval 3," in line:
            driver.send_signal(signal.SIGTERM)
            break
    output = driver.stdout.read() + driver.stderr.read()
    assert driver.wait(timeout=60) == 143, output
    assert f"inarch resume {tmp_path}/terminated" in output and "Traceback" not in output
    store = CheckpointStore(Storage(str(tmp_path / "terminated")))
    newest = {network_id: store.newest(network_id) for network_id in (0, 1)}
    last = {network_id: rows[-1] for network_id, rows in rows_in(tmp_path / "terminated").items()}
    for network_id, checkpoint in newest.items():
        assert checkpoint is not None and checkpoint.id.interval >= last[network_id] >= 2
    assert claims(Storage(str(tmp_path / "terminated"))) == []


@pytest.mark.slow
def test_sigterm_stops_a_comparison_without_traceback(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "inarch.experiments.cli", "compare", "two-networks", "--train", "digits"]
    words += ["--epochs", "100", "--storage", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
    _, environment = train_command(tmp_path, "unused")
    driver = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    until(lambda: list((tmp_path / "runs").glob("*/metrics/*.parquet")), seconds=120)
    driver.send_signal(signal.SIGTERM)
    output, _ = driver.communicate(timeout=60)
    assert driver.returncode == 143 and "to continue, give the same command with --reuse" in output, output
    assert "Traceback" not in output and "SIGTERM received" not in output


@pytest.mark.slow
def test_train_commands_of_the_same_name_start_a_single_run(tmp_path: Path) -> None:
    words, environment = train_command(tmp_path, "same", "--population.size", "2", "--schedule.epochs", "30")
    drivers = [
        subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
        for _ in range(2)
    ]
    outputs = [driver.communicate(timeout=200)[0] for driver in drivers]
    statuses = [driver.returncode for driver in drivers]
    assert sorted(statuses) == [0, 2], outputs
    refusal = outputs[statuses.index(2)]
    assert "choose another name" in refusal and "Traceback" not in refusal
    assert rows_in(tmp_path / "same") == {0: list(range(1, 31)), 1: list(range(1, 31))}
    assert Storage(str(tmp_path / "same")).exists("result.json")


@pytest.mark.slow
def test_unreadable_streamed_image_ends_run_and_names_its_row(begin, tmp_path: Path) -> None:
    good = encoded(picture(90, size=(40, 40)), "JPEG")
    rows = [good[:300] if index == 77 else good for index in range(120)]
    train = write_table(tmp_path / "x.parquet", [index % 2 for index in range(120)], images=rows)
    data = DataConfig(train=train, stream="always", image_size=32, workers=2, validation=0.0, augmentation="none")
    began = time.monotonic()
    with pytest.raises(RunError, match=r"x.parquet, row 77 cannot be decoded as an image"):
        begin("bad-row", data=None, data_config=data).wait(seconds=120)
    assert time.monotonic() - began < 60, "networks restarted although the error is permanent"
    run = begin("left-out", data=None, data_config=dataclasses.replace(data, skip_unreadable=1))
    result = run.wait(seconds=120)
    assert result.is_complete
    assert "row 77" in Path(result.path, "data", "unreadable.txt").read_text()
    info = json.loads(Path(result.path, "config.json").read_text())["info"]
    assert info["facts"]["data"]["sizes"]["train"] == 119 and len(info["unreadable"]) == 1


@pytest.mark.slow
def test_finished_and_stopped_runs_resume_in_same_process(begin, tmp_path: Path) -> None:
    run = begin("longer")
    first = run.wait(seconds=90)
    assert first.table is not None
    with pytest.raises(RunError, match=r"inarch resume .*longer --schedule.epochs N"):
        PopulationRun.resume(run.path)
    resumed = PopulationRun.resume(run.path, epochs=9)
    until(lambda: min(intervals(resumed.status()).values(), default=0) >= 5)
    resumed.stop(seconds=60)
    second_resume = PopulationRun.resume(run.path)  # the earlier handle is still open
    result = second_resume.wait(seconds=90)
    second_resume.close()
    assert result.is_complete and result.table is not None
    assert {row["interval"] for row in result.table["networks"]} == {9}
    assert rows_of(second_resume) == {0: list(range(1, 10)), 1: list(range(1, 10))}
    first_result = json.loads(Path(run.path, "results", "4-epochs.json").read_text())
    assert first_result["networks"] == first.table["networks"]


@pytest.mark.slow
def test_failed_network_is_a_row_of_an_incomplete_run(begin, tmp_path: Path) -> None:
    rates = OptimizerConfig(learning_rates=(0.05, 1e20))
    result = begin("diverging", optimizer=rates, exchange=ExchangeConfig(rule="none")).wait(seconds=90)
    assert result.table is not None and not result.is_complete
    rows = {row["network"]: row for row in result.table["networks"]}
    assert rows[0]["ended"] == "done" and rows[1]["ended"] == "failed"
    assert "diverged" in rows[1]["reason"] and rows[1]["best"] is None


@pytest.mark.slow
def test_run_starts_in_an_event_loop_with_a_large_closure(begin) -> None:
    large = np.zeros(30 * 2**20, np.uint8)

    def make_model(num_classes: int) -> torch.nn.Module:
        assert large.nbytes == 30 * 2**20
        return own_network(num_classes)

    async def driver() -> bool:
        run = begin("loop", model=make_model)
        return run.wait(seconds=90).is_complete

    assert asyncio.run(driver())
