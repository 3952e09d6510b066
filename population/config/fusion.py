"""How compact networks are trained by fusing filters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from inarch.population.config.checks import check_types, one_of, require

FusionMode = Literal["off", "stable", "published", "random", "mean_distance"]


@dataclass(frozen=True, kw_only=True)
class FusionConfig:
    """Dynamic-coded filter fusion (DCFF). Source: Lin et al. 2021 (arXiv:2107.06916)."""

    mode: FusionMode = "off"
    """off: train full networks. stable: compute in log space, with a temperature that sets how many filters a fused
    filter mixes. published: as in the authors' code. Two modes are controls. random: filters are chosen once at random
    and not mixed. mean_distance: mixtures as in stable, for the filters that are furthest from all others."""
    rates: tuple[float, ...] = ()
    """Share of the filters that is removed at each place of the architecture where filters can be fused, in [0, 1). A
    single rate applies to all places."""
    preset: str | None = None
    """Name of a set of published rates, such as vgg16-step-76.8. Replaces fusion.rates."""
    begin: float = 0.5
    """Modes stable and mean_distance only: a fused filter starts as a mixture of n ** begin filters, where n is the
    number of filters in the layer. It ends as a single filter. In (0, 1]."""

    def __post_init__(self) -> None:
        check_types(self, "fusion.")
        one_of(self.mode, FusionMode, "fusion.mode")
        require(all(0 <= rate < 1 for rate in self.rates), "fusion.rates", "lie in [0, 1)", self.rates)
        require(0 < self.begin <= 1, "fusion.begin", "lie in (0, 1]", self.begin)
        if self.mode == "off":
            require(
                not self.rates and self.preset is None,
                "fusion.mode",
                "be other than off with fusion.rates or fusion.preset",
                self.mode,
            )
        else:
            is_one = bool(self.rates) != (self.preset is not None)
            require(is_one, "fusion", "have either rates or a preset, not both", (self.rates, self.preset))
