"""What networks take from each other: from whom, how much, how old."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from inarch.population.config.checks import one_of, require

Rule = Literal["graft", "papa", "wash", "pbt", "dml", "none"]
TopologyName = Literal[
    "ring",
    "bidirectional_ring",
    "complete",
    "star",
    "torus",
    "exponential",
    "random_regular",
    "one_peer",
    "edges",
]


@dataclass(frozen=True, kw_only=True)
class ExchangeConfig:
    """What a network does with its neighbors' snapshots."""

    rule: Rule = "graft"
    """graft: filter grafting; average: a pull toward the mean (PAPA); shuffle: a part of the weights is swapped (WASH);
    exploit: a better network is copied and its learning rate perturbed (PBT); mutual: weights stay, and peers'
    predictions are learned from (DML); none: networks train side by side."""
    num_donors: int | None = None
    """Neighbors whose newest snapshots are taken at once, at least 1; None: one for graft, exploit and mutual, for
    average and shuffle all along the topology."""

    def __post_init__(self) -> None:
        one_of(self.rule, Rule, "exchange.rule")
        require(
            self.num_donors is None or self.num_donors >= 1, "exchange.num_donors", "be at least 1", self.num_donors
        )

    @property
    def donor_limit(self) -> int:
        """Snapshots wanted at once."""
        if self.num_donors is not None:
            return self.num_donors
        return EVERYBODY if self.rule in ("papa", "wash") else 1


EVERYBODY = 2**31
"""More donors than any population has."""


@dataclass(frozen=True, kw_only=True)
class PapaConfig:
    """A pull toward the population's mean. Source: Jolicoeur-Martineau et al. 2024 (arXiv:2304.03094), PAPA."""

    pull: float = 0.01
    """Part of the mean that a network takes in, in [0, 1]; the paper's, every 10 steps (schedule.interval_steps)."""
    follows_rate: bool = True
    """Whether the pull falls with the learning rate, as the authors' code does."""

    def __post_init__(self) -> None:
        require(0 <= self.pull <= 1, "papa.pull", "lie in [0, 1]", self.pull)


@dataclass(frozen=True, kw_only=True)
class WashConfig:
    """Weights swapped among networks. Source: Fournier et al. 2024 (arXiv:2405.17517), WASH."""

    probability: float = 0.01
    """Part of the first layer's weights that is swapped, in [0, 1]; it falls linearly to 0 at the last layer."""

    def __post_init__(self) -> None:
        require(0 <= self.probability <= 1, "wash.probability", "lie in [0, 1]", self.probability)


@dataclass(frozen=True, kw_only=True)
class PbtConfig:
    """Copy and perturb. Source: Jaderberg et al. 2017 (arXiv:1711.09846), PBT with binary tournament."""

    factors: tuple[float, float] = (0.8, 1.2)
    """A copied learning rate is multiplied by one of them, drawn at random; above 0."""

    def __post_init__(self) -> None:
        positive = len(self.factors) == 2 and all(0 < factor < math.inf for factor in self.factors)
        require(positive, "pbt.factors", "be two numbers above 0", self.factors)


@dataclass(frozen=True, kw_only=True)
class TopologyConfig:
    """Who may donate to whom."""

    name: TopologyName = "ring"
    """The paper's ring takes from the network before."""
    degree: int = 2
    """random_regular: neighbors of each network, at least 1."""
    edges: tuple[tuple[int, int], ...] = ()
    """edges: pairs of ids, donor then rootstock."""

    def __post_init__(self) -> None:
        one_of(self.name, TopologyName, "topology.name")
        require(self.degree >= 1, "topology.degree", "be at least 1", self.degree)
        require(
            self.name != "edges" or bool(self.edges),
            "topology.edges",
            "be given for topology edges",
            self.edges,
        )
        loops = [edge for edge in self.edges if edge[0] == edge[1]]
        require(not loops, "topology.edges", "join different networks", loops)
