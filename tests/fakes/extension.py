"""One extension of each kind, as a user's package would have it. Importing the module registers them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from inarch.actors import RunCallback
from inarch.actors.driver.callbacks import CALLBACKS
from inarch.population import Contribution, ExchangeRule, RunConfig, Scion
from inarch.population.config import TopologyConfig
from inarch.population.data.datasets import DATASETS
from inarch.population.exchange import RULES, Rootstock
from inarch.population.grafting.channels import Channels
from inarch.population.grafting.criterion_names import CRITERIA
from inarch.population.grafting.layer_level import WHOLE, LayerGraft
from inarch.population.membership.topology import TOPOLOGIES
from inarch.population.models.model_names import MODELS
from inarch.population.tasks.built_in import TASKS
from inarch.population.tasks.image_task import ImageTask


@MODELS.register("two-layers")
def two_layers(num_classes: int, in_channels: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(in_channels, 8, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(72, num_classes))


@DATASETS.register("quadrants")
def quadrants() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    random = np.random.default_rng(0)
    labels = np.arange(96) % 4
    images = random.integers(0, 60, (96, 8, 8)).astype(np.uint8)
    for index, label in enumerate(labels):
        row, column = divmod(int(label), 2)
        images[index, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 150
    return (images, labels), (images, labels)


@TOPOLOGIES.register("backward_ring")
def backward_ring(position: int, size: int, *, round: int, seed: int, config: TopologyConfig) -> Sequence[int]:
    return [position + 1]


@CRITERIA.register("spread")
def spread(weight: Tensor, *, bins: int, name: str) -> float:
    return float(weight.float().std())


class Halfway:
    """Move the rootstock halfway to the first scion."""

    takes_scions = True
    information_measure = None

    def __init__(self, scion_weight: float) -> None:
        self._scion_weight = scion_weight

    def apply(self, rootstock: Rootstock, scions: Sequence[Scion]) -> tuple[Contribution, ...]:
        state = scions[0].snapshot.state()
        for key, own in rootstock.state.items():
            if own.is_floating_point():
                own.lerp_(state[key], self._scion_weight)
        record = LayerGraft(layer=WHOLE, alpha=1 - self._scion_weight)
        return (Contribution(scion=scions[0], scion_weight=self._scion_weight, layers=(record,)),)


@RULES.register("halfway")
def halfway(config: RunConfig, find: Callable[[], Channels]) -> ExchangeRule:
    return Halfway(0.5)


@TASKS.register("images-again")
class ImagesAgain(ImageTask):
    """Classification under another name."""


SEEN: list[Mapping[str, Any]] = []
"""Rows that the callback has seen."""


@CALLBACKS.register("collector")
class Collector(RunCallback):
    def on_interval(self, row: Mapping[str, Any]) -> None:
        SEEN.append(row)
