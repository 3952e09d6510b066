"""Measure what a checkpoint costs a network, beside safetensors' own writer for the same bytes."""

from __future__ import annotations

import dataclasses
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import ray
import safetensors.torch
import torch

from inarch.actors.network.actor import KEEP_MEMORY
from inarch.experiments.benchmarks.harness import Measurement, Must, Row, ratio
from inarch.experiments.benchmarks.runs import own_ray
from inarch.experiments.benchmarks.speed.plain_loop import TimedRuntime, an_interval_behind
from inarch.population import ImageClassification, Trainer
from inarch.population.config import CheckpointConfig, DataConfig, ModelConfig, RunConfig, ScheduleConfig
from inarch.population.data import image_set, memory_splits
from inarch.population.membership.outcome import ExchangeOutcome
from inarch.population.persistence.checkpoint import Checkpoint, CheckpointStore
from inarch.population.persistence.interval_report import IntervalReport
from inarch.population.persistence.storage import Storage
from inarch.population.state.snapshot import Snapshot
from inarch.population.state.snapshot_info import SnapshotInfo

ARCHITECTURE = "torchvision:resnet50"
LIMIT_MS = Must(rule="at most", limit=210.0)
"""Most CPU milliseconds of a ResNet-50's checkpoint."""

BESIDE_LIBRARY = Must(rule="at most", limit=3.0)
MEMORY = Must(rule="at most", limit=2.0)
"""Most memory while a checkpoint is written, in multiples of the weights, beside what the training holds."""

WARMUP = 3
"""Intervals before the first checkpoint, and checkpoints that do not count. From the fourth on, each deletes an older
one."""

CALL_SECONDS = 600.0


def checkpoint(*, repeats: int, architecture: str = ARCHITECTURE) -> Measurement:
    """Measure the CPU time of a checkpoint with momentum, past states and best weights, and the memory it takes.

    Copies on the training thread and writing on the writer's thread count. The files go to the folder for temporary
    files.

    Args:
        repeats: Checkpoints that count, at least 1.
        architecture: Name of the architecture.
    """
    with own_ray(), tempfile.TemporaryDirectory() as folder:
        actor: Any = ray.remote(_Saver)
        saver = actor.options(num_cpus=1, runtime_env={"env_vars": KEEP_MEMORY}).remote(architecture, folder)
        turns = ray.get(saver.run.remote(WARMUP + repeats), timeout=CALL_SECONDS)[WARMUP:]
        ray.kill(saver)
    ours, library = [turn.milliseconds for turn in turns], [turn.library_milliseconds for turn in turns]
    megabytes = turns[-1].megabytes
    what = f"checkpoint of {architecture}, {megabytes:.0f} MB"
    rows = (
        Row(what=what, unit="CPU ms", values=tuple(ours), must=LIMIT_MS),
        Row(
            what="of which on the training thread",
            unit="CPU ms",
            values=tuple(turn.training_milliseconds for turn in turns),
        ),
        Row(what="safetensors.save_file of the same tensors", unit="CPU ms", values=tuple(library)),
        ratio("checkpoint / save_file", ours, library, BESIDE_LIBRARY),
        Row(
            what="memory while writing / weights",
            unit="x",
            values=tuple(turn.memory_share for turn in turns),
            must=MEMORY,
        ),
    )
    setting = {"architecture": architecture, "threads": 1, "megabytes": megabytes}
    return Measurement(name="checkpoint", repeats=repeats, rows=rows, setting=setting)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Turn:
    """One checkpoint."""

    milliseconds: float
    training_milliseconds: float
    library_milliseconds: float
    megabytes: float
    memory_share: float


class _Saver(TimedRuntime):
    """A network that trains a step an interval, grafts, and commits a checkpoint. It is its trainer's runtime."""

    def __init__(self, architecture: str, folder: str) -> None:
        torch.set_num_threads(1)
        self._folder = folder
        self._store = CheckpointStore(Storage(folder))
        schedule = ScheduleConfig(epochs=1000, batch_size=4)
        self._config = RunConfig(
            name="bench",
            model=ModelConfig(architecture=architecture),
            data=DataConfig(),
            schedule=schedule,
            checkpoint=CheckpointConfig(every=1000),
        )
        random = np.random.default_rng(0)
        images = image_set(random.integers(0, 255, (8, 3, 32, 32)).astype(np.uint8), np.arange(8) % 4)
        self._task = ImageClassification(self._config, memory_splits(images, images, self._config.data, seed=0))
        donor = Trainer(self._task, self._config, network_id=1).snapshot()
        self._donor = dataclasses.replace(donor, buffer=donor.buffer.copy())
        self._trainer = Trainer(self._task, self._config, network_id=0)
        self._turns: list[_Turn] = []
        self._memory = 0

    def run(self, count: int) -> list[_Turn]:
        """Commit so many checkpoints and return what each cost."""
        for _ in self._trainer.intervals(self):
            if len(self._turns) == count:
                break
            self._trainer.progress.score = float(self._trainer.interval)  # each is the best so far
        return self._turns

    def fetch_scions(self, own: SnapshotInfo) -> tuple[Snapshot, ...] | ExchangeOutcome:
        return (an_interval_behind(self._donor, own),)

    def stored(self, snapshot: Snapshot) -> Snapshot | None:
        self._published = ray.put(snapshot.buffer)
        return dataclasses.replace(snapshot, buffer=ray.get(self._published))

    def commit(self, report: IntervalReport, checkpoint: Checkpoint | None) -> None:
        if self._trainer.interval == WARMUP:
            self._memory = _anonymous_bytes()
        if self._trainer.interval < WARMUP:
            return
        watch, start = _MemoryWatch(), time.process_time()
        checkpoint = self._trainer.checkpoint()
        assert checkpoint.best is not None
        training = time.process_time() - start
        self._store.commit(checkpoint)
        checkpoint.release()
        used = time.process_time() - start
        taken = max(0, watch.stop() - self._memory)
        files = {"model": checkpoint.model, "training": checkpoint.tensors, "best": checkpoint.best}
        began = time.process_time()
        for name, tensors in files.items():
            safetensors.torch.save_file(dict(tensors), Path(self._folder, f"library-{name}"))
        library = time.process_time() - began
        nbytes = sum(tensor.nbytes for tensors in files.values() for tensor in tensors.values())
        self._turns.append(
            _Turn(
                milliseconds=1e3 * used,
                training_milliseconds=1e3 * training,
                library_milliseconds=1e3 * library,
                megabytes=nbytes / 1e6,
                memory_share=taken / self._trainer.layout.nbytes,
            )
        )


class _MemoryWatch:
    """Samples the memory of this process."""

    def __init__(self) -> None:
        self._most = _anonymous_bytes()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """Return the most bytes of any sample."""
        self._ended.set()
        self._thread.join()
        return self._most

    def _sample(self) -> None:
        while not self._ended.wait(0.005):
            self._most = max(self._most, _anonymous_bytes())


def _anonymous_bytes() -> int:
    """Return the bytes of this process, without those that it shares with the object store and the files."""
    import psutil

    info = psutil.Process().memory_info()
    return info.rss - info.shared
