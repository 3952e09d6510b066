"""Runs that are measured: a Ray of the benchmark's own, progress and CPU time of each network, common rates."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import ray

from inarch.actors import PopulationRun, connect
from inarch.population.config import RunConfig
from inarch.population.errors import RunError
from inarch.population.persistence.history import read_table
from inarch.population.persistence.storage import Storage

SAMPLE_SECONDS = 2.0
"""Between two looks at the processes' CPU time: looking costs the coordinator CPU time too."""


@dataclass(frozen=True, kw_only=True)
class Track:
    """One network's way: what it had done by when."""

    seconds: np.ndarray
    """Shape (intervals,): when each interval ended, graft included; of the machine's clock."""
    images: np.ndarray
    """Shape (intervals,): trained on by then."""
    cpu_at: np.ndarray
    """Shape (samples,): when its CPU time was looked at."""
    cpu: np.ndarray
    """Shape (samples,): CPU seconds by then."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Of all networks together, while all of them trained."""

    images_per_second: float
    cpu_seconds_per_image: float


@contextlib.contextmanager
def own_ray() -> Iterator[None]:
    """A Ray of this machine for the benchmark, ended after it; one that this process has already is used and left."""
    connection = connect("local")
    try:
        yield
    finally:
        if connection.is_own:
            ray.shutdown()


def rates(tracks: Sequence[Track]) -> Rates:
    """Rates from the end of the last network's first interval to the end of the first network's last.

    Raises:
        ValueError: there is no such time.
    """
    began = max(float(track.seconds[0]) for track in tracks)
    ended = min(float(track.seconds[-1]) for track in tracks)
    if ended <= began:
        raise ValueError("the networks did not train side by side; more epochs or images are needed")
    images = sum(_between(track.seconds, track.images, began, ended) for track in tracks)
    cpu = sum(_between(track.cpu_at, track.cpu, began, ended) for track in tracks)
    return Rates(images_per_second=images / (ended - began), cpu_seconds_per_image=cpu / images)


def run_to_end(config: RunConfig) -> list[Track]:
    """Train a population on the connected Ray, and read how it went from what it committed.

    Raises:
        RunError: it failed.
    """
    run = PopulationRun.start(config)
    try:
        samples = _sample_cpu(run)
    finally:
        run.close()
    rows = read_table(Storage(run.path), "metrics")
    return [_track(rows.filter(pc.field("network") == network), seen) for network, seen in sorted(samples.items())]


def _sample_cpu(run: PopulationRun) -> dict[int, list[tuple[float, float]]]:
    """Time and CPU seconds of each network's process, again and again to the end of the run."""
    samples: dict[int, list[tuple[float, float]]] = {}
    while True:
        status = run.status()
        for network in status.networks:
            if network.process is not None:
                with contextlib.suppress(psutil.NoSuchProcess):
                    samples.setdefault(network.network_id, []).append(_cpu_now(network.process))
        if status.state == "failed":
            raise RunError(f"the run failed: {status.message}")
        if status.state == "finished":
            return samples
        with contextlib.suppress(TimeoutError):
            run.wait(seconds=SAMPLE_SECONDS)


def _cpu_now(process: int) -> tuple[float, float]:
    times = psutil.Process(process).cpu_times()
    return time.time(), times.user + times.system


def _track(rows: pa.Table, samples: list[tuple[float, float]]) -> Track:
    cpu_at, cpu = np.array(samples).T
    return Track(seconds=rows["time"].to_numpy(), images=np.cumsum(rows["images"].to_numpy()), cpu_at=cpu_at, cpu=cpu)


def _between(seconds: np.ndarray, amount: np.ndarray, began: float, ended: float) -> float:
    """How much a growing amount grew between two times."""
    first, last = np.interp([began, ended], seconds, amount)
    return float(last - first)
