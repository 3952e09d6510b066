"""What a training population keeps in the object store, against its bound: the data once, two snapshots a network."""

from __future__ import annotations

import tempfile
import time

import ray

from inarch.actors import PopulationRun
from inarch.experiments.benchmarks.harness import Must, Row
from inarch.experiments.benchmarks.input import synthetic_images
from inarch.population.config import (
    CheckpointConfig,
    DataConfig,
    ModelConfig,
    PopulationConfig,
    RunConfig,
    ScheduleConfig,
)

ARCHITECTURE = "mobilenetv2"
"""Its snapshots are large beside everything else in the store, and its steps short."""

IMAGES = 512
LOOK_SECONDS = 0.1
START_SECONDS = 120.0
SLACK = 1.02
"""Headers, labels and lists lie in the store too."""


def store_rows(*, networks: int, seconds: float) -> tuple[list[Row], str]:
    """Look at the store while a population grafts as often as it can, at every step.

    Args:
        networks: Size of the population.
        seconds: How long to look.

    Returns:
        The bytes in use at each look beside the bound, and what the bound is made of.
    """
    before = bytes_in_use()
    with tempfile.TemporaryDirectory() as folder:
        images = synthetic_images(IMAGES, seed=1)
        run = PopulationRun.start(_config(folder, networks), data=(images.images, images.labels))
        try:
            _await_grafts(run, networks)
            looks = _look(seconds)
            grafts = sum(network.grafts for network in run.status().networks)
            run.stop()
        finally:
            run.close()
    if run.info is None:
        raise RuntimeError("a run that was started knows its facts")
    snapshot, data = run.info.snapshot_bytes, run.info.data_bytes
    bound = data + 2 * networks * snapshot
    used = tuple((look - before) / 1e6 for look in looks)
    rows = [
        Row(what=f"object store, {networks} networks", unit="MB", values=used),
        Row(what="its bound", unit="MB", values=(bound / 1e6,)),
        Row(
            what="most in use / bound",
            unit="x",
            values=(max(used) * 1e6 / bound,),
            must=Must(rule="at most", limit=SLACK),
        ),
    ]
    note = (
        f"store: {networks} {ARCHITECTURE} that graft at every step; bound = data {data / 1e6:.1f} MB once + 2 x "
        f"{networks} snapshots of {snapshot / 1e6:.1f} MB; {grafts} grafts seen"
    )
    return rows, note


def bytes_in_use() -> float:
    """Of the object stores of all nodes: primary copies, as the nodes last reported them (some tenths of a second)."""
    name = "object_store_memory"
    return ray.cluster_resources()[name] - ray.available_resources().get(name, 0.0)


def _config(folder: str, networks: int) -> RunConfig:
    return RunConfig(
        name=f"bench-store-{time.time_ns()}",
        storage=folder,
        model=ModelConfig(architecture=ARCHITECTURE),
        data=DataConfig(train="given", validation=0.1, augmentation="none"),
        population=PopulationConfig(size=networks),
        schedule=ScheduleConfig(epochs=10_000, batch_size=8, interval_steps=1, lr_decay="constant"),
        checkpoint=CheckpointConfig(every=1_000),
    )


def _await_grafts(run: PopulationRun, networks: int) -> None:
    """Until every network has grafted twice: from then on the store is as full as it gets."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        found = run.status().networks
        if len(found) == networks and all(network.grafts >= 2 for network in found):
            return
        time.sleep(LOOK_SECONDS)
    raise TimeoutError(f"not every network had grafted twice after {START_SECONDS:g} s")


def _look(seconds: float) -> list[float]:
    looks, deadline = [], time.monotonic() + seconds
    while time.monotonic() < deadline:
        looks.append(bytes_in_use())
        time.sleep(LOOK_SECONDS)
    return looks
