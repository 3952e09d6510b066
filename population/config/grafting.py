"""How a scion is grafted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from inarch.population.config.checks import one_of, require

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
    multi_donor: Literal["mean", "best"] = "mean"
    """With several donors: the mean of the blends with each, or layer by layer the blend with the most informative."""
    momentum: Literal["keep", "blend", "reset"] = "keep"
    """What a graft does to the optimizer's running averages."""
    batch_norm: Literal["blend", "keep", "reset"] = "blend"
    """What a graft does to batch norm's running mean and variance; reset: to 0 and 1, and measured on training images
    after the last one."""
    weight_alpha: Literal["product", "mean", "output"] = "product"
    """filter: what a weight between two filters keeps: the product of both alphas, as the public code; their mean; or
    that of the filter it belongs to."""
    channel_matching: Literal["none", "weights"] = "none"
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
        one_of(self.multi_donor, Literal["mean", "best"], "graft.multi_donor")
        one_of(self.level, Literal["layer", "filter"], "graft.level")
        one_of(self.weight_alpha, Literal["product", "mean", "output"], "graft.weight_alpha")
        one_of(self.channel_matching, Literal["none", "weights"], "graft.channel_matching")
        if self.level == "filter":
            allowed = ("entropy", "l1", "batch_norm", "constant", "random")
            is_known = self.criterion in allowed
            require(is_known, "graft.criterion", f"be one of {', '.join(allowed)} at level filter", self.criterion)
            one_of_them = self.multi_donor == "mean"
            require(one_of_them, "graft.multi_donor", "be mean at level filter", self.multi_donor)
            published = self.criterion == "batch_norm" and self.weight_alpha == "product"
            told = "be given with criterion batch_norm and crossing product at level filter, as published"
            require(published or not self.reference, "graft.reference", told, self.reference)
            is_blended = self.batch_norm == "blend" or not self.reference
            require(is_blended, "graft.batch_norm", "be blend with graft.reference at level filter", self.batch_norm)
            is_usual = self.units != "matrices"
            require(is_usual, "graft.units", "be convolutions at level filter", self.units)
        else:
            is_usual = self.weight_alpha == "product"
            require(is_usual, "graft.weight_alpha", "be given with graft.level filter only", self.weight_alpha)
            is_known = self.units != "matrices" or not self.reference
            require(is_known, "graft.units", "be convolutions with graft.reference", self.units)
        if self.scion != "external":
            self._check_own()
        is_plain = self.level == "layer" and self.channel_matching == "none"
        require(is_plain or self.momentum != "blend", "graft.momentum", "be keep or reset there", self.momentum)
        one_of(self.momentum, Literal["keep", "blend", "reset"], "graft.momentum")
        one_of(self.batch_norm, Literal["blend", "keep", "reset"], "graft.batch_norm")
        require(0 <= self.threshold < math.inf, "graft.threshold", "be at least 0", self.threshold)
        require(0 < self.noise_decay < 1, "graft.noise_decay", "lie in (0, 1)", self.noise_decay)

    def _check_own(self) -> None:
        """What needs a donor cannot be asked of internal scions and noise."""
        told = f"be {{}} with graft.scion {self.scion}"
        require(self.level == "layer", "graft.level", told.format("layer"), self.level)
        require(self.channel_matching == "none", "graft.channel_matching", told.format("none"), self.channel_matching)
        require(self.momentum != "blend", "graft.momentum", told.format("keep or reset"), self.momentum)
        require(self.batch_norm == "blend", "graft.batch_norm", told.format("blend"), self.batch_norm)
        is_ranked = self.scion == "noise" or self.criterion in ("entropy", "l1")
        require(is_ranked, "graft.criterion", told.format("entropy or l1"), self.criterion)
