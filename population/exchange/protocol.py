"""The one interface of all rules: what a snapshot tells beside its weights, and what a network makes of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from inarch.population.exchange.delay_compensation import PastState
from inarch.population.grafting.criteria import LayerInformation
from inarch.population.grafting.layer_level import LayerGraft
from inarch.population.grafting.units import GraftUnit
from inarch.population.membership.staleness import Staleness
from inarch.population.state.snapshot import Snapshot, SnapshotInfo


@dataclass(frozen=True, kw_only=True)
class Scion:
    """A snapshot that came."""

    snapshot: Snapshot
    """Finite, of the rootstock's structure; its buffer is shared and only read."""
    age: Staleness
    """For this rootstock."""
    past: PastState | None = None
    """The rootstock as long ago as the snapshot trails, or as is kept; None where nothing is compensated."""


@dataclass(kw_only=True)
class Rootstock:
    """The network that takes in, for the length of one exchange."""

    origin: SnapshotInfo
    state: Mapping[str, Tensor]
    """All that a snapshot holds, the network's own tensors: a rule writes into them."""
    units: Sequence[GraftUnit]
    information: tuple[float, ...]
    """What its own snapshot of this interval told."""
    epoch: float
    rate_factor: float
    """The learning rate's part of its initial value."""
    learning_rate: float
    """Initial; a rule may set it."""
    score: float | None
    """By the newest evaluation; a rule that copies a network sets it to that one's."""
    random: np.random.Generator
    """The network's own for this interval."""
    common_random: np.random.Generator
    """Draws the same in every network of the run at this interval."""
    reset_momentum: bool = False
    """A rule may set it: the optimizer's running averages are dropped."""
    recalibrate_batch_norm: bool = False
    """A rule may set it: batch norm's running statistics were reset, and are to be trained or measured anew."""
    peers: Sequence[Mapping[str, Tensor]] | None = None
    """A rule may set it: weights of networks whose predictions are learned from until the next exchange; copied."""


@dataclass(frozen=True, kw_only=True)
class Contribution:
    """What was taken from one source."""

    arrival: Scion | None
    """None: from the network itself, or from noise."""
    scion_weight: float
    """Of all weights now, over units: how much of the training behind them is the source's; in [0, 1]."""
    layers: tuple[LayerGraft, ...]
    """What the history keeps: a record a unit, or one for all."""


class ExchangeRule(Protocol):
    """What a network does at the end of an interval."""

    @property
    def takes_scions(self) -> bool:
        """Whether it needs others' snapshots."""
        ...

    @property
    def information_measure(self) -> LayerInformation | None:
        """What a snapshot tells beside its weights; None: nothing."""
        ...

    def apply(self, rootstock: Rootstock, arrivals: Sequence[Scion]) -> tuple[Contribution, ...]:
        """Change the rootstock; empty where it stays as it is. Called with one arrival at least if it takes scions."""
        ...
