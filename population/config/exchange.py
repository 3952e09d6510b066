"""What networks take from each other: from whom, how much, how old."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from inarch.population.config.checks import one_of, require

Rule = Literal["graft", "average", "shuffle", "exploit", "mutual", "none"]
Criterion = Literal[
    "entropy",
    "l1",
    "summed_entropy",
    "batch_norm",
    "robust_entropy",
    "differential_entropy",
    "orthogonality",
    "constant",
    "random",
]
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
    donors: int | None = None
    """Neighbors whose newest snapshots are taken at once, at least 1; None: one for graft, exploit and mutual, for
    average and shuffle all along the topology."""

    def __post_init__(self) -> None:
        one_of(self.rule, Rule, "exchange.rule")
        require(self.donors is None or self.donors >= 1, "exchange.donors", "be at least 1", self.donors)

    @property
    def num_donors(self) -> int:
        """Snapshots wanted at once."""
        if self.donors is not None:
            return self.donors
        return EVERYBODY if self.rule in ("average", "shuffle") else 1


EVERYBODY = 2**31
"""More donors than any population has."""


@dataclass(frozen=True, kw_only=True)
class GraftConfig:
    """How a scion is grafted. Source: Meng et al. 2020 (arXiv:2001.05868), eq. 1 to 7."""

    scion: Literal["external", "internal", "noise"] = "external"
    """Where a scion comes from: other networks, the network's own most informative filters, or noise."""
    level: Literal["layer", "filter"] = "layer"
    """layer: a unit's weights share one alpha (eq. 2); filter: each filter has one, with its batch norm and what reads
    it."""
    criterion: Criterion = "entropy"
    """What a layer's information is. The papers': entropy of its weights (eq. 6), l1 norm (eq. 3), summed_entropy
    of its filters (eq. 5), batch_norm (mean absolute scale). Others: robust_entropy (cells between quantiles),
    differential_entropy (robust, and of the weights' scale), orthogonality of its filters (RePr). Controls: constant
    (plain averaging), random."""
    a: float = 0.4
    """Range of alpha, in [0, 1]: alpha lies in 0.5 -+ a/2. 0 is plain averaging."""
    c: float = 500.0
    """How sharply alpha answers a difference of information, at least 0."""
    bins: int = 10
    """Cells of the histogram, at least 2."""
    units: Literal["auto", "convolutions", "matrices"] = "auto"
    """What shares one alpha: a convolution with what follows it, or every weight matrix with what follows it; auto:
    convolutions, unless the network has more than three times as many other weight matrices, as transformers have."""
    several: Literal["mean", "best"] = "mean"
    """With several donors: the mean of the blends with each, or layer by layer the blend with the most informative."""
    momentum: Literal["keep", "blend", "reset"] = "keep"
    """What a graft does to the optimizer's running averages."""
    batch_norm: Literal["blend", "keep", "reset"] = "blend"
    """What a graft does to batch norm's running mean and variance; reset: to 0 and 1, and measured on training images
    after the last one."""
    crossing: Literal["product", "mean", "output"] = "product"
    """filter: what a weight between two filters keeps: the product of both alphas, as the public code; their mean; or
    that of the filter it belongs to."""
    alignment: Literal["none", "weights"] = "none"
    """weights: a scion's channels are first brought into the order in which its weights come closest to one's own."""
    threshold: float = 0.1
    """internal, noise: filters whose l1 norm lies below it are invalid, and are grafted; at least 0."""
    noise_decay: float = 0.975
    """noise: the scion's standard deviation is this to the power of the epoch, in (0, 1)."""
    reference: bool = False
    """As published: half-open cells, alpha rounded to two decimals, num_batches_tracked blended and truncated; at level
    filter, for convolutions that each read what the one before makes, batch norm blended once for each channel."""

    def __post_init__(self) -> None:
        one_of(self.scion, Literal["external", "internal", "noise"], "graft.scion")
        one_of(self.criterion, Criterion, "graft.criterion")
        require(0 <= self.a <= 1, "graft.a", "lie in [0, 1]", self.a)
        require(self.c >= 0 and math.isfinite(self.c), "graft.c", "be finite and at least 0", self.c)
        require(self.bins >= 2, "graft.bins", "be at least 2", self.bins)
        one_of(self.units, Literal["auto", "convolutions", "matrices"], "graft.units")
        one_of(self.several, Literal["mean", "best"], "graft.several")
        one_of(self.level, Literal["layer", "filter"], "graft.level")
        one_of(self.crossing, Literal["product", "mean", "output"], "graft.crossing")
        one_of(self.alignment, Literal["none", "weights"], "graft.alignment")
        if self.level == "filter":
            allowed = ("entropy", "l1", "batch_norm", "constant", "random")
            is_known = self.criterion in allowed
            require(is_known, "graft.criterion", f"be one of {', '.join(allowed)} at level filter", self.criterion)
            one_of_them = self.several == "mean"
            require(one_of_them, "graft.several", "be mean at level filter", self.several)
            published = self.criterion == "batch_norm" and self.crossing == "product"
            told = "be given with criterion batch_norm and crossing product at level filter, as published"
            require(published or not self.reference, "graft.reference", told, self.reference)
            is_blended = self.batch_norm == "blend" or not self.reference
            require(is_blended, "graft.batch_norm", "be blend with graft.reference at level filter", self.batch_norm)
            is_usual = self.units != "matrices"
            require(is_usual, "graft.units", "be convolutions at level filter", self.units)
        else:
            is_usual = self.crossing == "product"
            require(is_usual, "graft.crossing", "be given with graft.level filter only", self.crossing)
            is_known = self.units != "matrices" or not self.reference
            require(is_known, "graft.units", "be convolutions with graft.reference", self.units)
        if self.scion != "external":
            self._check_own()
        is_plain = self.level == "layer" and self.alignment == "none"
        require(is_plain or self.momentum != "blend", "graft.momentum", "be keep or reset there", self.momentum)
        one_of(self.momentum, Literal["keep", "blend", "reset"], "graft.momentum")
        one_of(self.batch_norm, Literal["blend", "keep", "reset"], "graft.batch_norm")
        require(0 <= self.threshold < math.inf, "graft.threshold", "be at least 0", self.threshold)
        require(0 < self.noise_decay < 1, "graft.noise_decay", "lie in (0, 1)", self.noise_decay)

    def _check_own(self) -> None:
        """What needs a donor cannot be asked of internal scions and noise."""
        told = f"be {{}} with graft.scion {self.scion}"
        require(self.level == "layer", "graft.level", told.format("layer"), self.level)
        require(self.alignment == "none", "graft.alignment", told.format("none"), self.alignment)
        require(self.momentum != "blend", "graft.momentum", told.format("keep or reset"), self.momentum)
        require(self.batch_norm == "blend", "graft.batch_norm", told.format("blend"), self.batch_norm)
        is_ranked = self.scion == "noise" or self.criterion in ("entropy", "l1")
        require(is_ranked, "graft.criterion", told.format("entropy or l1"), self.criterion)


@dataclass(frozen=True, kw_only=True)
class AverageConfig:
    """A pull toward the population's mean. Source: Jolicoeur-Martineau et al. 2024 (arXiv:2304.03094), PAPA."""

    pull: float = 0.01
    """Part of the mean that a network takes in, in [0, 1]; the paper's, every 10 steps (schedule.interval_steps)."""
    follows_rate: bool = True
    """Whether the pull falls with the learning rate, as the authors' code does."""

    def __post_init__(self) -> None:
        require(0 <= self.pull <= 1, "average.pull", "lie in [0, 1]", self.pull)


@dataclass(frozen=True, kw_only=True)
class ShuffleConfig:
    """Weights swapped among networks. Source: Fournier et al. 2024 (arXiv:2405.17517), WASH."""

    probability: float = 0.01
    """Part of the first layer's weights that is swapped, in [0, 1]; it falls linearly to 0 at the last layer."""

    def __post_init__(self) -> None:
        require(0 <= self.probability <= 1, "shuffle.probability", "lie in [0, 1]", self.probability)


@dataclass(frozen=True, kw_only=True)
class ExploitConfig:
    """Copy and perturb. Source: Jaderberg et al. 2017 (arXiv:1711.09846), PBT with binary tournament."""

    factors: tuple[float, float] = (0.8, 1.2)
    """A copied learning rate is multiplied by one of them, drawn at random; above 0."""

    def __post_init__(self) -> None:
        positive = len(self.factors) == 2 and all(0 < factor < math.inf for factor in self.factors)
        require(positive, "exploit.factors", "be two numbers above 0", self.factors)


@dataclass(frozen=True, kw_only=True)
class AgeConfig:
    """What the age of a scion does to its part, and when it is too old. Policy, rate and cut-off are for rule graft;
    the limit is for every rule."""

    policy: Literal["none", "polynomial", "exponential"] = "polynomial"
    """How the scion's part 1 - alpha falls with its age in intervals: not, as (1 + age)^-rate, or as exp(-rate age)."""
    rate: float = 1.5
    """At least 0. With 1.5, polynomial, networks that see each other late come together soonest (docs/decisions.md)."""
    cutoff_intervals: float = 8.0
    """exponential: above this age the scion has no part."""
    limit_intervals: float | None = None
    """A scion that trails by more is refused; None: a twentieth of the schedule, at least two intervals."""
    compensation: int | None = None
    """Intervals by which a scion may trail to be brought forward by what its rootstock has trained since, as in delayed
    averaging: the exchange then costs no training. One that trails by more is brought forward by so many. It takes
    as many copies of the weights. 0: scions are taken as they are. For rule graft with external scions; None: 2 for
    these in mode async, if momentum is not blended."""

    def __post_init__(self) -> None:
        is_known = self.compensation is None or self.compensation >= 0
        require(is_known, "age.compensation", "be at least 0", self.compensation)
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
