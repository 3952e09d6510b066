"""Whole runs on a real Ray cluster: start, exchange, result, and inputs that are refused."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import ray
import torch

from inarch.actors import PopulationRun
from inarch.actors.messages import NAMESPACE, network_name
from inarch.experiments.cli import main
from inarch.experiments.export import export_network
from inarch.experiments.saved_runs import evaluate_again
from inarch.population import (
    DebugConfig,
    GraftConfig,
    OptimizerConfig,
    PopulationConfig,
    ScheduleConfig,
    StalenessConfig,
    StragglerConfig,
)
from inarch.population.errors import (
    ConfigError,
    DataError,
    ResourceError,
    RunError,
    RunExistsError,
    RunNotFoundError,
    StorageError,
)
from inarch.population.models import CifarResNet
from inarch.population.persistence.history import read_table
from inarch.population.persistence.history_schemas import GRAFTS, METRICS
from inarch.population.persistence.storage import Storage
from tests.conftest import small_config
from tests.integration.runs import (
    ARRAYS,
    intervals,
    own_network,
    paced,
    rows_of,
    until,
)

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]


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
    named = {"train_accuracy", "validation_accuracy", "validation_loss", "optimizer.learning_rate"}
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


@pytest.mark.slow
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
        return [description.interval for description in described]

    def num_published() -> list[int]:
        standings = ray.get([network.describe.remote() for network in networks], timeout=10)
        return [len(standing.published) for standing in standings]

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


@pytest.mark.slow
def test_run_fails_when_network_structures_differ(begin) -> None:
    run = begin("changing", model=Changing())
    with pytest.raises(RunError, match="another structure than its neighbors"):
        run.wait(seconds=60)


@pytest.mark.slow
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


@pytest.mark.slow
def test_name_taken_during_a_start_is_refused(begin, tmp_path: Path, monkeypatch) -> None:
    """The second start looks before the first run is there, and creates its coordinator after it."""
    run = begin("taken", **paced(4, 0.05))
    monkeypatch.setattr("inarch.actors.driver.launching.check_not_live", lambda name: None)
    with pytest.raises(RunExistsError, match="'taken' is live on this cluster"):
        PopulationRun.start(small_config(name="taken", storage=str(tmp_path / "other")), data=ARRAYS, quiet=True)
    assert not (tmp_path / "other" / "taken").exists()
    assert run.wait(seconds=120).is_complete


@pytest.mark.slow
def test_stop_of_a_finished_run_says_that_it_finished(begin, capsys) -> None:
    runs = {"ended": begin("ended", **paced(1, 0.0)), "live": begin("live", **paced(500, 0.05))}
    assert runs["ended"].wait(seconds=120).is_complete
    until(lambda: min(intervals(runs["live"].status()).values()) >= 1)
    for run in runs.values():
        with pytest.raises(SystemExit, match="0"):
            main(["stop", run.path])
    finished, stopped = capsys.readouterr().out.splitlines()
    assert "finished; its result is in" in finished and "resume" not in finished
    assert "stopped; to resume it: inarch resume" in stopped
