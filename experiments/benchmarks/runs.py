"""Measured runs: a Ray for the benchmark, progress and CPU time of each network, and rates of all together."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from inarch.actors import PopulationRun, connect
from inarch.actors.messages import NetworkStatus
from inarch.population.config import RunConfig
from inarch.population.errors import RunError
from inarch.population.persistence.history import read_table
from inarch.population.persistence.storage import Storage

START_SECONDS = 120.0
"""Longest wait until the networks of a run train."""

POLL_SECONDS = 0.2
"""Pause between two looks at networks that start."""

SAMPLE_SECONDS = 2.0
"""Seconds between two samples of the CPU time. More samples would cost the coordinator more CPU time."""


@dataclass(frozen=True, kw_only=True)
class Track:
    """Progress and CPU time of one network over time."""

    seconds: np.ndarray
    """Times at which the intervals ended, after the graft, in seconds of the machine's clock. Shape (intervals,)."""
    images: np.ndarray
    """Number of images trained on by these times. Shape (intervals,)."""
    cpu_at: np.ndarray
    """Times at which the CPU time was sampled, in seconds of the machine's clock. Shape (samples,)."""
    cpu: np.ndarray
    """CPU seconds used by these times. Shape (samples,)."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Rates of all networks together, over the time in which all of them trained."""

    images_per_second: float
    cpu_seconds_per_image: float


@contextlib.contextmanager
def own_ray() -> Iterator[None]:
    """Run the benchmark on a Ray of this machine, and shut that Ray down afterwards.

    If this process is already connected to a Ray, the benchmark uses it and does not shut it down.
    """
    connection = connect("local")
    try:
        yield
    finally:
        if connection.is_own:
            ray.shutdown()


def await_networks(run: PopulationRun, size: int, is_ready: Callable[[NetworkStatus], bool]) -> None:
    """Wait until all networks of a run are ready to be measured.

    Args:
        run: The run.
        size: Number of its networks.
        is_ready: Whether a network is ready.

    Raises:
        TimeoutError: They were not ready within `START_SECONDS`.
    """
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        networks = run.status().networks
        if len(networks) == size and all(map(is_ready, networks)):
            return
        time.sleep(POLL_SECONDS)
    raise TimeoutError(f"run {run.name}: not every network trained as far as needed within {START_SECONDS:g} s")


def rates(tracks: Sequence[Track]) -> Rates:
    """Return the rates of all networks together, over the time in which all of them trained.

    This time begins when every network has completed an interval. It ends when the first network ends its last one.

    Args:
        tracks: Track of each network.

    Raises:
        ValueError: The networks did not train at the same time.
    """
    start = max(float(track.seconds[0]) for track in tracks)
    end = min(float(track.seconds[-1]) for track in tracks)
    if end <= start:
        raise ValueError("the networks did not train side by side; train for more epochs or on more images")
    images = sum(_between(track.seconds, track.images, start, end) for track in tracks)
    cpu = sum(_between(track.cpu_at, track.cpu, start, end) for track in tracks)
    return Rates(images_per_second=images / (end - start), cpu_seconds_per_image=cpu / images)


def run_to_end(config: RunConfig) -> list[Track]:
    """Train a population on the connected Ray, and return the track of each network.

    The progress is read from the committed history, the CPU time from the networks' processes.

    Args:
        config: Configuration of the run.

    Raises:
        RunError: The run failed.
    """
    run = PopulationRun.start(config, quiet=True)
    try:
        samples = _sample_cpu(run)
    finally:
        run.close()
    rows = read_table(Storage(run.path), "metrics")
    return [
        _track(rows.filter(pc.field("network") == network_id), cpu_times)
        for network_id, cpu_times in sorted(samples.items())
    ]


def cpu_seconds(process: int) -> float:
    """Return the CPU seconds that a process has used.

    Args:
        process: Process id.

    Raises:
        psutil.NoSuchProcess: The process has ended.
    """
    import psutil

    times = psutil.Process(process).cpu_times()
    return times.user + times.system


def _sample_cpu(run: PopulationRun) -> dict[int, list[tuple[float, float]]]:
    """Sample the CPU time of each network's process until the run ends: pairs of time and CPU seconds."""
    import psutil

    samples: dict[int, list[tuple[float, float]]] = {}
    while True:
        status = run.status()
        for network in status.networks:
            if network.process is not None:
                with contextlib.suppress(psutil.NoSuchProcess):
                    samples.setdefault(network.network_id, []).append((time.time(), cpu_seconds(network.process)))
        if status.state == "failed":
            raise RunError(f"the run failed: {status.message}")
        if status.state == "finished":
            return samples
        with contextlib.suppress(TimeoutError):
            run.wait(seconds=SAMPLE_SECONDS)


def _track(rows: pa.Table, samples: list[tuple[float, float]]) -> Track:
    cpu_at, cpu = np.array(samples).T
    return Track(seconds=rows["time"].to_numpy(), images=np.cumsum(rows["examples"].to_numpy()), cpu_at=cpu_at, cpu=cpu)


def _between(seconds: np.ndarray, amount: np.ndarray, began: float, ended: float) -> float:
    """Return how much a growing amount grew between two times, by linear interpolation."""
    first, last = np.interp([began, ended], seconds, amount)
    return float(last - first)
