"""Which networks exchange weights, and by which rule."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from inarch.population.config.checks import check_types, one_of, require

SnapshotPrecision = Literal["float32", "float16", "bfloat16", "int8"]


@dataclass(frozen=True, kw_only=True)
class ExchangeConfig:
    """What a network does with its neighbors' snapshots."""

    rule: str = "graft"
    """graft: filter grafting. graft_published: filter grafting with the quirks of the authors' code. papa: a pull
    toward the mean of the population. wash: single weights change places. pbt: copy a better network and perturb its
    hyperparameters. dml: learn from the peers' predictions. none: networks train independently. Or module:function for
    a rule of your own."""
    num_donors: int | None = None
    """Most snapshots that a network takes at once, at least 1. None: one for graft, pbt and dml. For papa and wash,
    those of all neighbors in the topology, and on a ring (the default) those of all networks, as in their papers."""
    precision: SnapshotPrecision = "float32"
    """How a published snapshot holds the weights of convolutions and weight matrices, for slow links. float32: as they
    are. float16 and bfloat16: in half the bytes. int8: in a quarter, with one scale for each 1,024 weights. The network
    itself, its checkpoints and everything else in a snapshot keep their precision."""

    def __post_init__(self) -> None:
        check_types(self, "exchange.")
        require(bool(self.rule), "exchange.rule", "name a rule", self.rule)
        is_known = self.num_donors is None or self.num_donors >= 1
        require(is_known, "exchange.num_donors", "be at least 1", self.num_donors)
        one_of(self.precision, SnapshotPrecision, "exchange.precision")

    @property
    def donor_limit(self) -> int:
        """Most snapshots that a network takes at once."""
        if self.num_donors is not None:
            return self.num_donors
        return ALL_DONORS if self.rule in ("papa", "wash") else 1


ALL_DONORS = 2**31
"""More donors than any population has."""

WHOLE_TOPOLOGIES = ("ring", "complete")
"""Topologies in which papa and wash take from all networks, unless `exchange.num_donors` is set."""


@dataclass(frozen=True, kw_only=True)
class PapaConfig:
    """A pull toward the population's mean. Source: Jolicoeur-Martineau et al. 2024 (arXiv:2304.03094), PAPA."""

    pull: float = 0.01
    """Weight of the mean, in [0, 1]. The paper applies 0.01 every 10 steps (schedule.interval_steps)."""
    follows_rate: bool = True
    """Whether the pull decays with the learning rate, as in the authors' code."""

    def __post_init__(self) -> None:
        check_types(self, "papa.")
        require(0 <= self.pull <= 1, "papa.pull", "lie in [0, 1]", self.pull)


@dataclass(frozen=True, kw_only=True)
class WashConfig:
    """Weights that change places. Source: Fournier et al. 2024 (arXiv:2405.17517), WASH."""

    probability: float = 0.01
    """Probability that a weight of the first layer is exchanged, in [0, 1]. It falls linearly to 0 at the last
    layer."""

    def __post_init__(self) -> None:
        check_types(self, "wash.")
        require(0 <= self.probability <= 1, "wash.probability", "lie in [0, 1]", self.probability)


@dataclass(frozen=True, kw_only=True)
class PbtConfig:
    """Copy and perturb. Source: Jaderberg et al. 2017 (arXiv:1711.09846), PBT with binary tournament selection."""

    factors: tuple[float, float] = (0.8, 1.2)
    """A copied learning rate is multiplied by one of the two, drawn at random. Both are above 0. So is each further
    number that differs between networks. Of momentum, the distance to 1 is multiplied. A number that would leave its
    valid range stays as it was copied."""

    def __post_init__(self) -> None:
        check_types(self, "pbt.")
        positive = len(self.factors) == 2 and all(0 < factor < math.inf for factor in self.factors)
        require(positive, "pbt.factors", "be two numbers above 0", self.factors)


@dataclass(frozen=True, kw_only=True)
class TopologyConfig:
    """Which networks may donate to which."""

    name: str = "ring"
    """ring (each network takes from the one before it, as in the paper), bidirectional_ring, complete, star, torus,
    exponential, random_regular, one_peer, edges, or module:function."""
    degree: int = 2
    """random_regular only: neighbors of each network, at least 1."""
    edges: tuple[tuple[int, int], ...] = ()
    """edges only: pairs of ids, donor first, rootstock second."""

    def __post_init__(self) -> None:
        check_types(self, "topology.")
        require(self.degree >= 1, "topology.degree", "be at least 1", self.degree)
        is_given = self.name != "edges" or bool(self.edges)
        require(is_given, "topology.edges", "be given with topology.name edges", self.edges)
        loops = [edge for edge in self.edges if edge[0] == edge[1]]
        require(not loops, "topology.edges", "join different networks", loops)
