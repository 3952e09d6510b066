"""What benchmarks train: a short configuration, a donor that is behind, and a plain PyTorch loop."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import torch
import torch.nn.functional as F

from inarch.population.config import (
    CheckpointConfig,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    ScheduleConfig,
)
from inarch.population.config.per_network import number
from inarch.population.data import Splits
from inarch.population.state.precision import autocast
from inarch.population.state.snapshot import Snapshot
from inarch.population.state.snapshot_info import SnapshotInfo
from inarch.population.tasks.image_classification import ImageClassification
from inarch.population.training.runtime import LocalRuntime


def training_config(architecture: str, schedule: dict[str, Any], **changes: Any) -> RunConfig:
    """Return the configuration of a training that is measured, at a constant learning rate.

    Args:
        architecture: Name of the architecture.
        schedule: Fields of the schedule, with epochs and batch_size.
        **changes: Sections of the configuration to replace.
    """
    sections: dict[str, Any] = {
        "model": ModelConfig(architecture=architecture),
        "data": DataConfig(augmentation="crop_flip"),
        "schedule": ScheduleConfig(lr_decay="constant", **schedule),
        "optimizer": OptimizerConfig(learning_rate=0.05),
        "checkpoint": CheckpointConfig(every=1000),
    }
    return RunConfig(**(sections | changes))


class TimedRuntime(LocalRuntime):
    """A trainer's runtime on the wall clock, without other networks."""

    def now(self) -> float:
        """Return seconds since 1970."""
        return time.time()


def an_interval_behind(donor: Snapshot, own: SnapshotInfo) -> Snapshot:
    """Return a snapshot as if its network was one interval behind another.

    Args:
        donor: The snapshot. Its weights are not copied.
        own: Facts about the other network's own snapshot.
    """
    progress = {"interval": own.interval - 1, "step": own.step, "trained_intervals": own.trained_intervals}
    return dataclasses.replace(donor, origin=dataclasses.replace(donor.origin, **progress))


class PlainLoop:
    """A network in a plain PyTorch loop. Network, batches, precision and optimizer are those of the run."""

    def __init__(self, config: RunConfig, images: Splits, *, device: str = "cpu", network_id: int = 0) -> None:
        """Build the network.

        Args:
            config: Configuration of the run. Its exchange is not used.
            images: Training and validation images.
            device: Device of the network.
            network_id: Seed of the initial weights, the order and the augmentation.
        """
        self._task = ImageClassification(config, images, device=device)
        self._precision, self._device, self._seed = config.device.precision, torch.device(device), network_id
        self._model = self._task.build(network_id)
        settings = config.optimizer
        self._optimizer = torch.optim.SGD(
            self._model.parameters(),
            number(settings.learning_rate),
            momentum=number(settings.momentum),
            weight_decay=number(settings.weight_decay),
            nesterov=settings.nesterov,
        )
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=self._precision == "float16")

    def train(self, epoch: int) -> int:
        """Train one epoch and return the number of its images.

        Args:
            epoch: Number of the epoch, from 0.
        """
        self._model.train()
        count = 0
        for images, labels in self._task.epoch(order_seed=self._seed, augment_seed=self._seed, epoch=epoch, first=0):
            self._optimizer.zero_grad()
            with autocast(self._precision, self._device, on_cpu=True):
                logits = self._model(images)
            self._scaler.scale(F.cross_entropy(logits.float(), labels)).backward()
            self._scaler.step(self._optimizer)
            self._scaler.update()
            count += len(labels)
        return count

    def evaluate(self) -> None:
        """Evaluate the network on the validation images."""
        self._task.validate(self._model)
