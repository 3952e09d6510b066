"""Measure how much of the object store a training population uses.

The bound is one copy of the data and two snapshots per network.
"""

from __future__ import annotations

import tempfile
import time

import ray

from inarch.actors import PopulationRun
from inarch.experiments.benchmarks.harness import Must, Row
from inarch.experiments.benchmarks.input.benchmark import synthetic_images
from inarch.experiments.benchmarks.runs import await_networks
from inarch.population.config import (
    CheckpointConfig,
    DataConfig,
    ModelConfig,
    PopulationConfig,
    RunConfig,
    ScheduleConfig,
)

ARCHITECTURE = "mobilenetv2"
"""An architecture with short steps, whose snapshots are large compared with everything else in the store."""

IMAGES = 512
LOOK_SECONDS = 0.1
SLACK = 1.02
"""Largest ratio of used bytes to the bound. It exceeds 1 because headers, labels and lists are in the store too."""


def store_rows(*, networks: int, seconds: float) -> tuple[list[Row], str]:
    """Sample the object store while a population grafts as often as possible, which is at every step.

    Args:
        networks: Size of the population.
        seconds: Seconds for which the store is sampled.

    Returns:
        Rows with the used megabytes, the bound and their ratio, and a note that explains the bound.
    """
    before = bytes_in_use()
    with tempfile.TemporaryDirectory() as folder:
        images = synthetic_images(IMAGES, seed=1)
        run = PopulationRun.start(_config(folder, networks), data=(images.images, images.labels), quiet=True)
        try:
            # From the second graft on, the store is as full as it gets.
            await_networks(run, networks, lambda network: network.grafts >= 2)
            samples = _look(seconds)
            grafts = sum(network.grafts for network in run.status().networks)
            run.stop()
        finally:
            run.close()
    if run.info is None:
        raise RuntimeError("a run that this process has started has its info")
    snapshot, data = run.info.snapshot_bytes, run.info.data_bytes
    bound = data + 2 * networks * snapshot
    used = tuple((sample - before) / 1e6 for sample in samples)
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
        f"{networks} snapshots of {snapshot / 1e6:.1f} MB; {grafts} grafts until the last sample"
    )
    return rows, note


def bytes_in_use() -> float:
    """Return the bytes in use in the object stores of all nodes.

    They are primary copies, as the nodes reported them last. A report is up to some tenths of a second old.
    """
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


def _look(seconds: float) -> list[float]:
    samples, deadline = [], time.monotonic() + seconds
    while time.monotonic() < deadline:
        samples.append(bytes_in_use())
        time.sleep(LOOK_SECONDS)
    return samples
