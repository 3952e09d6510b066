"""Population averaging: every so often each network is pulled a little toward the mean of all."""

from __future__ import annotations

from collections.abc import Sequence

from inarch.population.config import PapaConfig
from inarch.population.exchange.protocol import Contribution, Rootstock, Scion
from inarch.population.grafting.blending import blend_weighted
from inarch.population.grafting.layer_level import WHOLE, LayerGraft
from inarch.population.state.state_dict import is_structural


class PapaRule:
    """w <- (1 - pull) w + pull mean(w of all), over the newest that came; batch norm's statistics too.

    Source: Jolicoeur-Martineau et al. 2024 (arXiv:2304.03094), PAPA; pull = 1 - alpha of the paper.
    """

    takes_scions = True
    information_measure = None

    def __init__(self, config: PapaConfig) -> None:
        self._config = config

    def apply(self, rootstock: Rootstock, arrivals: Sequence[Scion]) -> tuple[Contribution, ...]:
        pull = self._config.pull * (rootstock.rate_factor if self._config.follows_rate else 1.0)
        share = pull / (len(arrivals) + 1)
        scions = [arrival.snapshot.state() for arrival in arrivals]
        for key, own in rootstock.state.items():
            if own.is_floating_point() and not is_structural(key):
                blend_weighted(own, [scion[key] for scion in scions], [share] * len(scions))
        record = LayerGraft(layer=WHOLE, alpha=1.0 - share)
        return tuple(Contribution(arrival=arrival, scion_weight=share, layers=(record,)) for arrival in arrivals)
