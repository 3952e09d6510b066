"""How a scion is grafted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from inarch.population.config.checks import check_types, one_of, require

FILTER_CRITERIA = ("entropy", "l1", "batch_norm", "constant", "random")
"""Criteria that exist for single filters."""


@dataclass(frozen=True, kw_only=True)
class GraftConfig:
    """How a scion is grafted. Source: Meng et al. 2020 (arXiv:2001.05868), eq. 1 to 7."""

    scion: Literal["external", "internal", "noise"] = "external"
    """Where scions come from: other networks (external), the network's own filters with the largest l1 norms
    (internal), or random noise."""
    level: Literal["layer", "filter"] = "layer"
    """layer: all weights of a unit share one alpha (eq. 2). filter: each filter has its own alpha, which also applies
    to its batch norm and to the weights that read its output."""
    criterion: str = "entropy"
    """How the information of a layer is measured. From the papers: entropy of its weights (eq. 6), l1 norm (eq. 3),
    summed_entropy of its filters (eq. 5), batch_norm (mean absolute scale). Others: robust_entropy (histogram between
    quantiles), differential_entropy (robust, and sensitive to scale), orthogonality of the filters (RePr),
    effective_rank (entropy of the singular values). Controls: constant (plain averaging) and random. Of your own:
    module:function."""
    a: float = 0.4
    """Range of alpha, in [0, 1]: alpha lies in [0.5 - a/2, 0.5 + a/2]. With 0, grafting is plain averaging. At level
    filter, the criterion batch_norm uses neither a nor c: alpha is the own scale's share of both scales."""
    c: float = 500.0
    """How sharply alpha responds to a difference of information, at least 0."""
    bins: int = 10
    """Cells of the histogram, at least 2."""
    units: Literal["auto", "convolutions", "matrices"] = "auto"
    """Which weights share one alpha. convolutions: each convolution with the entries that follow it. matrices: each
    weight matrix with the entries that follow it. auto: convolutions, unless the model has more than three times as
    many other weight matrices, as transformers do."""
    multi_donor: Literal["mean", "best"] = "mean"
    """How several donors are combined. mean: the mean of the blends with each. best: layer by layer the blend with the
    most informative donor."""
    momentum: Literal["keep", "blend", "reset"] = "keep"
    """What a graft does to the optimizer's momentum buffers."""
    batch_norm: Literal["blend", "keep", "reset"] = "blend"
    """What a graft does to batch norm's running mean and variance. reset: measure them on training data
    after each graft, which takes a forward pass over some batches. Open runs cannot, because they have no data."""
    weight_alpha: Literal["product", "mean", "output"] = "product"
    """Level filter only: how the alphas of a weight's output and input channel are combined. product: as in the public
    code. mean: their mean. output: the output channel's alpha alone."""
    channel_matching: Literal["none", "weights"] = "none"
    """weights: permute the scion's channels first, so that its weights come closest to the rootstock's."""
    threshold: float = 0.1
    """Scions internal and noise only: filters with a smaller l1 norm are invalid and are grafted. At least 0."""
    noise_decay: float = 0.975
    """Scion noise only: its standard deviation is noise_decay ** epoch, with noise_decay in (0, 1)."""

    def __post_init__(self) -> None:
        check_types(self, "graft.")
        one_of(self.scion, Literal["external", "internal", "noise"], "graft.scion")
        require(0 <= self.a <= 1, "graft.a", "lie in [0, 1]", self.a)
        require(self.c >= 0 and math.isfinite(self.c), "graft.c", "be finite and at least 0", self.c)
        require(self.bins >= 2, "graft.bins", "be at least 2", self.bins)
        one_of(self.units, Literal["auto", "convolutions", "matrices"], "graft.units")
        one_of(self.multi_donor, Literal["mean", "best"], "graft.multi_donor")
        one_of(self.level, Literal["layer", "filter"], "graft.level")
        one_of(self.weight_alpha, Literal["product", "mean", "output"], "graft.weight_alpha")
        one_of(self.channel_matching, Literal["none", "weights"], "graft.channel_matching")
        if self.level == "filter":
            is_known = self.criterion in FILTER_CRITERIA
            rule = f"be one of {', '.join(FILTER_CRITERIA)} with graft.level filter"
            require(is_known, "graft.criterion", rule, self.criterion)
            require(
                self.multi_donor == "mean", "graft.multi_donor", "be mean with graft.level filter", self.multi_donor
            )
            is_usual = self.units != "matrices"
            require(is_usual, "graft.units", "be auto or convolutions with graft.level filter", self.units)
        else:
            is_usual = self.weight_alpha == "product"
            require(is_usual, "graft.weight_alpha", "be product without graft.level filter", self.weight_alpha)
        if self.scion != "external":
            self._check_local_scion()
        is_plain = self.level == "layer" and self.channel_matching == "none"
        rule = "be keep or reset with graft.level filter or graft.channel_matching"
        require(is_plain or self.momentum != "blend", "graft.momentum", rule, self.momentum)
        one_of(self.momentum, Literal["keep", "blend", "reset"], "graft.momentum")
        one_of(self.batch_norm, Literal["blend", "keep", "reset"], "graft.batch_norm")
        require(0 <= self.threshold < math.inf, "graft.threshold", "be at least 0", self.threshold)
        require(0 < self.noise_decay < 1, "graft.noise_decay", "lie in (0, 1)", self.noise_decay)

    def _check_local_scion(self) -> None:
        """Refuse settings that need a donor when scions come from noise or from the network itself."""
        rule = f"be {{}} with graft.scion {self.scion}"
        require(self.level == "layer", "graft.level", rule.format("layer"), self.level)
        require(self.channel_matching == "none", "graft.channel_matching", rule.format("none"), self.channel_matching)
        require(self.momentum != "blend", "graft.momentum", rule.format("keep or reset"), self.momentum)
        require(self.batch_norm == "blend", "graft.batch_norm", rule.format("blend"), self.batch_norm)
        is_ranked = self.scion == "noise" or self.criterion in ("entropy", "l1")
        require(is_ranked, "graft.criterion", rule.format("entropy or l1"), self.criterion)

    def check_published(self) -> None:
        """Raise ConfigError if the rule graft_published cannot use these settings."""
        rule = "be {} with exchange.rule graft_published"
        require(self.scion == "external", "graft.scion", rule.format("external"), self.scion)
        require(self.units != "matrices", "graft.units", rule.format("auto or convolutions"), self.units)
        require(self.momentum == "keep", "graft.momentum", rule.format("keep"), self.momentum)
        require(self.channel_matching == "none", "graft.channel_matching", rule.format("none"), self.channel_matching)
        if self.level == "filter":
            rule += " at level filter"
            require(self.criterion == "batch_norm", "graft.criterion", rule.format("batch_norm"), self.criterion)
            require(self.weight_alpha == "product", "graft.weight_alpha", rule.format("product"), self.weight_alpha)
            require(self.batch_norm == "blend", "graft.batch_norm", rule.format("blend"), self.batch_norm)
        else:
            is_known = self.criterion in ("entropy", "l1")
            require(is_known, "graft.criterion", rule.format("entropy or l1"), self.criterion)
