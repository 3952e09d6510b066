"""How compact networks are trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from inarch.population.config.checks import one_of, require

FusionMode = Literal["off", "stable", "published", "random", "mean_distance"]


@dataclass(frozen=True, kw_only=True)
class FusionConfig:
    """Dynamic-coded filter fusion. Source: Lin et al. 2021 (arXiv:2107.06916)."""

    mode: FusionMode = "off"
    """off: full networks. stable: in log space, the temperature led by how many filters a fused one mixes. published: as in
    the authors' code. Controls: random, filters chosen once by chance and not mixed; mean_distance, stable's mixtures of the
    filters that lie furthest from all."""
    rates: tuple[float, ...] = ()
    """Part of the filters that goes at each place, in [0, 1); one rate stands for all places."""
    preset: str | None = None
    """The published rates by name, as vgg16-step-76.8; in place of rates."""
    begin: float = 0.5
    """stable, mean_distance: a fused filter begins as a mixture of filters ** begin, ends as one; in (0, 1]."""

    def __post_init__(self) -> None:
        one_of(self.mode, FusionMode, "fusion.mode")
        require(all(0 <= rate < 1 for rate in self.rates), "fusion.rates", "lie in [0, 1)", self.rates)
        require(0 < self.begin <= 1, "fusion.begin", "lie in (0, 1]", self.begin)
        if self.mode == "off":
            require(not self.rates and self.preset is None, "fusion.mode", "be set with rates or preset", self.mode)
        else:
            is_one = bool(self.rates) != (self.preset is not None)
            require(is_one, "fusion", "have either rates or a preset", (self.rates, self.preset))
