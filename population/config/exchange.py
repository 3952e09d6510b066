"""What networks take from each other: from whom, how much, how old."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from population.config.checks import one_of, require

Criterion = Literal["entropy", "l1"]
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
class GraftConfig:
    """How a scion is grafted. Source: Meng et al. 2020 (arXiv:2001.05868), eq. 2, 3, 6, 7."""

    enabled: bool = True
    """False: networks train side by side and exchange nothing."""
    criterion: Criterion = "entropy"
    """What a layer's information is: the entropy of its weights (eq. 6), or their l1 norm (eq. 3)."""
    a: float = 0.4
    """Range of alpha, in [0, 1]: alpha lies in 0.5 -+ a/2. 0 is plain averaging."""
    c: float = 500.0
    """How sharply alpha answers a difference of information, at least 0."""
    bins: int = 10
    """Cells of the histogram, at least 2."""
    units: Literal["convolutions", "matrices"] = "convolutions"
    """What shares one alpha: a convolution with what follows it, or every weight matrix with what follows it."""
    momentum: Literal["keep", "blend", "reset"] = "keep"
    """What a graft does to the optimizer's running averages."""
    batch_norm: Literal["blend", "keep"] = "blend"
    """What a graft does to batch norm's running mean and variance."""
    reference: bool = False
    """As published: half-open cells, alpha rounded to two decimals, num_batches_tracked blended and truncated."""

    def __post_init__(self) -> None:
        one_of(self.criterion, Criterion, "graft.criterion")
        require(0 <= self.a <= 1, "graft.a", "lie in [0, 1]", self.a)
        require(self.c >= 0 and math.isfinite(self.c), "graft.c", "be finite and at least 0", self.c)
        require(self.bins >= 2, "graft.bins", "be at least 2", self.bins)
        one_of(self.units, Literal["convolutions", "matrices"], "graft.units")
        one_of(self.momentum, Literal["keep", "blend", "reset"], "graft.momentum")
        one_of(self.batch_norm, Literal["blend", "keep"], "graft.batch_norm")


@dataclass(frozen=True, kw_only=True)
class AgeConfig:
    """What the age of a scion does to its part, and when it is too old."""

    policy: Literal["none", "polynomial", "exponential"] = "none"
    """How the scion's part 1 - alpha falls with its age in intervals: not, as (1 + age)^-rate, or as exp(-rate age)."""
    rate: float = 0.5
    """At least 0."""
    cutoff_intervals: float = 8.0
    """exponential: above this age the scion has no part."""
    limit_intervals: float | None = None
    """A scion that trails by more is refused; None: a twentieth of the schedule, at least one interval."""

    def __post_init__(self) -> None:
        one_of(self.policy, Literal["none", "polynomial", "exponential"], "age.policy")
        require(self.rate >= 0 and math.isfinite(self.rate), "age.rate", "be finite and at least 0", self.rate)
        require(self.cutoff_intervals >= 0, "age.cutoff_intervals", "be at least 0", self.cutoff_intervals)
        limit = self.limit_intervals
        require(limit is None or limit >= 0, "age.limit_intervals", "be at least 0", limit)


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
