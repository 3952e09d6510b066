"""The interface of every exchange rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from inarch.population.membership.staleness import Staleness
from inarch.population.state.snapshot_info import SnapshotInfo

if TYPE_CHECKING:  # a driver checks the name of a rule without torch
    import numpy as np
    from torch import Tensor

    from inarch.population.exchange.delay_compensation import PastState
    from inarch.population.grafting.blending import Followers
    from inarch.population.grafting.layer_level import LayerGraft
    from inarch.population.grafting.units import GraftUnit
    from inarch.population.state.snapshot import Snapshot


@dataclass(frozen=True, kw_only=True)
class Scion:
    """A snapshot that was admitted to an exchange."""

    snapshot: Snapshot
    """Finite and of the rootstock's structure. Its buffer is shared, and a rule only reads it."""
    staleness: Staleness
    """How far the scion is behind this rootstock."""
    past: PastState | None = None
    """The rootstock as it was when the scion was published, or the oldest state kept. None without compensation."""


@dataclass(kw_only=True)
class Rootstock:
    """The network that takes part in one exchange. A rule reads it and changes it."""

    origin: SnapshotInfo
    """Identity and training progress."""
    state: Mapping[str, Tensor]
    """The network's own tensors, all that a snapshot holds. A rule writes into them."""
    units: Sequence[GraftUnit]
    """Groups of tensors that share one alpha."""
    information: tuple[float, ...]
    """Information of each unit, as published with this interval's snapshot. Empty if the rule measures none."""
    epoch: float
    """Epochs completed."""
    rate_factor: float
    """Current learning rate as a share of the initial one."""
    hyperparameters: Mapping[str, float]
    """The network's own numbers by field of the configuration, such as `optimizer.learning_rate`. A rule may set the
    attribute to other valid numbers of the same fields."""
    score: float | None
    """Newest validation score. A rule that copies a network sets it to that network's score."""
    random: np.random.Generator
    """Random numbers of this network and interval."""
    common_random: np.random.Generator
    """Random numbers that are the same in all networks at this interval."""
    fixed: frozenset[str] = frozenset()
    """Keys of tensors that keep their values: frozen parameters, and the running statistics of frozen batch norms if
    statistics are reset. What a rule does to them is undone, unless it replaces the whole network by a scion."""
    followers: Followers | None = None
    """Past states of the rootstock, for a rule that `MovesPast`. None for other rules, and without compensation."""
    reset_momentum: bool = False
    """Set by a rule: drop the optimizer's state."""
    recalibrate_batch_norm: bool = False
    """Set by a rule: running statistics were reset and must be measured again."""
    peers: Sequence[Mapping[str, Tensor]] | None = None
    """Set by a rule: weights of networks to learn from until the next exchange. The trainer copies them."""


@dataclass(frozen=True, kw_only=True)
class Contribution:
    """What one source contributed to the rootstock."""

    scion: Scion | None
    """None if the source is noise or the network itself."""
    scion_weight: float
    """Share of the training behind the new weights that comes from the source, in [0, 1], a mean over units."""
    layers: tuple[LayerGraft, ...]
    """Records for the history: one per unit, or one for all."""


class InformationMeasure(Protocol):
    """Measures what a snapshot publishes beside its weights."""

    def measure(
        self, state: Mapping[str, Tensor], units: Sequence[GraftUnit], random: np.random.Generator
    ) -> tuple[float, ...]:
        """Return the information of each unit.

        Args:
            state: Tensors of the network.
            units: Groups of tensors that share one alpha.
            random: Random numbers of this network and interval.

        Raises:
            NotFiniteError: A weight is NaN or infinite. The message names the layer.
        """
        ...

    def checked_keys(self, units: Sequence[GraftUnit]) -> frozenset[str]:
        """Return the keys whose values are all finite if the information is finite."""
        ...


@runtime_checkable
class ExchangeRule(Protocol):
    """What a network does with its neighbors' snapshots at the end of an interval."""

    @property
    def takes_scions(self) -> bool:
        """Whether the rule needs snapshots of other networks."""
        ...

    @property
    def information_measure(self) -> InformationMeasure | None:
        """Measure of what a snapshot publishes beside its weights. None if the rule needs none."""
        ...

    def apply(self, rootstock: Rootstock, scions: Sequence[Scion]) -> tuple[Contribution, ...]:
        """Change the rootstock.

        Args:
            rootstock: The network. It is changed in place.
            scions: Admitted snapshots, nearest donor first. At least one if the rule takes scions.

        Returns:
            What each source contributed. Empty if the rootstock stays as it is.
        """
        ...


@runtime_checkable
class MovesPast(Protocol):
    """A rule that can change the past states of the rootstock together with it, in one pass over the weights.

    For other rules, the rootstock is copied before the rule is applied, and the past states are changed afterwards.
    """

    def moves_past(self, num_scions: int) -> bool:
        """Return whether `apply` changes `Rootstock.followers` by what it changes the rootstock.

        Args:
            num_scions: Scions of the exchange.
        """
        ...
