"""What a trainer needs of a task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
from torch import Tensor, nn

from inarch.population.data import Batch
from inarch.population.evaluation.protocol import Scores
from inarch.population.fusion import LayerFusion


class Task(Protocol):
    """What a trainer needs of a task."""

    @property
    def steps_per_epoch(self) -> int:
        """Training steps of one pass over the data."""
        ...

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Of one image, (channels, height, width); asked only to follow channels through a network."""
        ...

    def build(self, seed: int) -> nn.Module:
        """A new network on the task's device, its weights decided by the seed."""
        ...

    def epoch(self, *, order_seed: int, augment_seed: int, epoch: int, first: int) -> Iterator[Batch]:
        """The batches of an epoch from batch `first` on, a pure function of its arguments."""
        ...

    def begin_epoch(self, model: nn.Module, *, epoch: int, random: np.random.Generator) -> Sequence[LayerFusion]:
        """Called before an epoch's first step: what changes in a network from epoch to epoch; records of it."""
        ...

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Mean loss of a batch, and how many it got right; both 0-dimensional, on the device."""
        ...

    def set_peers(self, peers: Sequence[Mapping[str, Tensor]]) -> None:
        """Learn from the predictions of networks of these weights (copied) from now on, in place of earlier peers."""
        ...

    def batch_norm_images(self) -> Iterator[Tensor]:
        """Some batches of training images, augmented as in training: for batch norm's statistics."""
        ...

    def validate(self, model: nn.Module) -> Scores | None:
        """Scores on the held-out training images; None where nothing is held out."""
        ...
