"""Interface between a trainer and its task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
from torch import Tensor, nn

from inarch.population.data import Batch
from inarch.population.evaluation.protocol import Scores
from inarch.population.fusion import LayerFusion


class Task(Protocol):
    """What networks learn: the network itself, its batches, its loss and its validation."""

    @property
    def steps_per_epoch(self) -> int:
        """Training steps of one pass over the data."""
        ...

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of an image. It is needed only to trace channels through a network."""
        ...

    def build(self, seed: int) -> nn.Module:
        """Return a new network on the task's device.

        Args:
            seed: Decides the initial weights.
        """
        ...

    def epoch(self, *, order_seed: int, augment_seed: int, epoch: int, first: int) -> Iterator[Batch]:
        """Yield the training batches of an epoch. They are a pure function of the arguments.

        Args:
            order_seed: Decides the order of the images.
            augment_seed: Decides the augmentation.
            epoch: Number of the epoch, from 0.
            first: Number of the first batch, from 0.
        """
        ...

    def begin_epoch(self, model: nn.Module, *, epoch: int, random: np.random.Generator) -> Sequence[LayerFusion]:
        """Make the changes to a network that its first step of an epoch needs, such as new filter mixtures.

        Args:
            model: The network. It is changed.
            epoch: Number of the epoch, from 0.
            random: Random numbers of this network and epoch.

        Returns:
            Records of the changes for the history, one for each fused layer.
        """
        ...

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the mean loss of a batch and the number of correct predictions.

        Args:
            model: The network, in training mode.
            batch: Images and labels.

        Returns:
            Two 0-dimensional tensors on the task's device. The loss has a gradient.
        """
        ...

    def set_peers(self, peers: Sequence[Mapping[str, Tensor]]) -> None:
        """Set the peers whose predictions the loss includes from now on. They replace earlier peers.

        Args:
            peers: Weights of each peer, which are copied. Empty: no peers.
        """
        ...

    def batch_norm_images(self) -> Iterator[Tensor]:
        """Yield some batches of training images, augmented as in training, to measure batch norm's statistics."""
        ...

    def validate(self, model: nn.Module) -> Scores | None:
        """Return the scores of a network on the validation images, or None if there are none.

        Args:
            model: The network. Its batch norm statistics may be measured again first.
        """
        ...
