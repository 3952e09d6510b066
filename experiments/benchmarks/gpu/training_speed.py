"""Images per second of a network: with inarch's trainer and exchange, without exchange, and in plain PyTorch loops.

One process trains one network, without Ray. The snapshot of a second network, which does not train, is
grafted after every epoch. In place of the object store, the weights are copied once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from inarch.experiments.benchmarks.gpu.sizes import Training
from inarch.experiments.benchmarks.speed.plain_loop import PlainLoop, TimedRuntime, an_interval_behind, training_config
from inarch.population import ImageClassification, Trainer
from inarch.population.config import (
    DataConfig,
    DeviceConfig,
    ExchangeConfig,
    OptimizerConfig,
    RunConfig,
)
from inarch.population.data import Splits, image_set, memory_splits
from inarch.population.membership.outcome import ExchangeOutcome
from inarch.population.persistence.checkpoint import Checkpoint
from inarch.population.persistence.interval_report import IntervalReport
from inarch.population.state.snapshot import Snapshot
from inarch.population.state.snapshot_info import SnapshotInfo

CLASSES = 10
LEARNING_RATE = 0.05
VALIDATION = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Speed:
    """How fast a network trained."""

    images_per_second: float
    """Over the counted epochs, with evaluation, exchange and everything else."""
    first_epoch_seconds: float
    """Seconds of the first epoch, which is not counted."""


def run_config(training: Training, *, device: DeviceConfig, rule: str = "none") -> RunConfig:
    """Return the configuration of a training run that is longer than any measurement.

    Args:
        training: Network and images.
        device: How the network uses its device.
        rule: Exchange rule.
    """
    return training_config(
        training.architecture,
        {"epochs": 1000, "batch_size": training.batch_size, "drop_last": "on"},
        data=DataConfig(augmentation="crop_flip", validation=VALIDATION),
        optimizer=OptimizerConfig(learning_rate=LEARNING_RATE, nesterov=True),
        exchange=ExchangeConfig(rule=rule),
        device=device,
    )


def random_images(training: Training) -> Splits:
    """Return random pixels, split into training and validation images.

    Args:
        training: Number and size of the training images.
    """
    random = np.random.default_rng(0)
    count = round(training.images / (1 - VALIDATION))
    pixels = random.integers(0, 256, (count, 3, training.image_size, training.image_size), dtype=np.uint8)
    return memory_splits(image_set(pixels, np.arange(count) % CLASSES), None, DataConfig(validation=VALIDATION), seed=0)


def trainer_speed(config: RunConfig, images: Splits, *, epochs: int, device: str) -> Speed:
    """Train a network with inarch's trainer and return its speed.

    Args:
        config: Configuration of the run. With the rule graft, a second network's snapshot is grafted after each epoch.
        images: Training and validation images.
        epochs: Counted epochs. One more comes before them.
        device: Device of the network.
    """
    task = ImageClassification(config, images, device=device)
    trainer = Trainer(task, config, network_id=0)
    donor = Trainer(task, config, network_id=1).snapshot() if config.exchange.rule == "graft" else None
    with _Loop(trainer, donor, device, intervals=epochs + 1) as loop:
        for _, snapshot in trainer.intervals(loop):
            if snapshot is not None:
                loop.published = snapshot.buffer.copy()
    return loop.speed()


class _Loop(TimedRuntime, contextlib.AbstractContextManager["_Loop"]):
    """The trainer's runtime: it notes when each interval ended, and fetches a scion in a thread."""

    def __init__(self, trainer: Trainer, donor: Snapshot | None, device: str, *, intervals: int) -> None:
        self._trainer, self._device, self._intervals = trainer, device, intervals
        self._donor = None if donor is None else dataclasses.replace(donor, buffer=donor.buffer.copy())
        self._fetching = ThreadPoolExecutor(1)
        self._fetched: Future[Snapshot] | None = None
        self._ends = [time.perf_counter()]
        self._examples = [0]
        self.published: np.ndarray | None = None

    def __exit__(self, *exception: object) -> None:
        self._fetching.shutdown()

    def speed(self) -> Speed:
        seconds = self._ends[-1] - self._ends[1]
        return Speed(
            images_per_second=sum(self._examples[2:]) / seconds, first_epoch_seconds=self._ends[1] - self._ends[0]
        )

    def after_step(self) -> bool:
        return len(self._ends) <= self._intervals

    def prefetch(self, own: SnapshotInfo) -> None:
        if self._donor is not None:
            self._fetched = self._fetching.submit(self._trainer.prepare, an_interval_behind(self._donor, own))

    def fetch_scions(self, own: SnapshotInfo) -> tuple[Snapshot, ...] | ExchangeOutcome:
        return ExchangeOutcome.NOTHING_YET if self._fetched is None else (self._fetched.result(),)

    def stored(self, snapshot: Snapshot) -> Snapshot | None:
        return None if self.published is None else dataclasses.replace(snapshot, buffer=self.published)

    def commit(self, report: IntervalReport, checkpoint: Checkpoint | None) -> None:
        if len(self._ends) > self._intervals:
            return
        synchronize(self._device)
        self._ends.append(time.perf_counter())
        self._examples.append(report.examples or 0)


def plain_speed(config: RunConfig, images: Splits, *, epochs: int, device: str) -> Speed:
    """Train the same network on the same batches with a plain loop: all steps of an epoch, then an evaluation.

    Args:
        config: Configuration of the run. Its exchange is not used.
        images: Training and validation images.
        epochs: Counted epochs. One more comes before them.
        device: Device of the network.
    """
    loop = PlainLoop(config, images, device=device)

    def epoch(number: int) -> int:
        count = loop.train(number)
        loop.evaluate()
        return count

    return _speed_of(epoch, epochs + 1, device)


def half_precision_speed(
    training: Training, model: nn.Module, *, epochs: int, device: str, dtype: torch.dtype
) -> Speed:
    """Train a network as speed runs do: weights, images and momentum in half precision, all on the device.

    There is neither augmentation nor evaluation, so that the loop is as fast as the network.

    Args:
        training: Number and size of the images.
        model: The network. It is changed.
        epochs: Counted epochs. One more comes before them.
        device: Device of the network.
        dtype: Type of weights and images.
    """
    model = model.to(device, dtype).to(memory_format=torch.channels_last)
    shape = (training.images, 3, training.image_size, training.image_size)
    images = torch.randn(shape, device=device).to(dtype=dtype, memory_format=torch.channels_last)
    labels = torch.arange(training.images, device=device) % CLASSES
    optimizer = torch.optim.SGD(model.parameters(), LEARNING_RATE, momentum=0.9, nesterov=True)
    steps = training.images // training.batch_size

    def epoch(_: int) -> int:
        model.train()
        order = torch.randperm(training.images, device=device)
        for step in range(steps):
            chosen = order[step * training.batch_size : (step + 1) * training.batch_size]
            loss = F.cross_entropy(model(images[chosen]).float(), labels[chosen])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        return steps * training.batch_size

    return _speed_of(epoch, epochs + 1, device)


def _speed_of(epoch: Callable[[int], int], epochs: int, device: str) -> Speed:
    """Return the speed of a function that trains an epoch and returns its number of images."""
    ends, counts = [time.perf_counter()], []
    for number in range(epochs):
        counts.append(epoch(number))
        synchronize(device)
        ends.append(time.perf_counter())
    return Speed(images_per_second=sum(counts[1:]) / (ends[-1] - ends[1]), first_epoch_seconds=ends[1] - ends[0])


def synchronize(device: str) -> None:
    """Wait until a device has done all that it was asked to do.

    Args:
        device: The device. The CPU needs no wait.
    """
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


@contextlib.contextmanager
def fast_convolutions(device: str) -> Iterator[None]:
    """Let cuDNN search for the fastest convolutions, as networks on a GPU do.

    Args:
        device: The device.

    Yields:
        Nothing.
    """
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = torch.device(device).type == "cuda"
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
