"""Population averaging (PAPA): pull each network a little toward the mean of the population."""

from __future__ import annotations

from collections.abc import Sequence

from inarch.population.config import PapaConfig
from inarch.population.exchange.protocol import Contribution, Rootstock, Scion
from inarch.population.grafting.blending import blend_weighted
from inarch.population.grafting.layer_level import WHOLE, LayerGraft
from inarch.population.state.state_dict import is_structural


class PapaRule:
    """Set w to (1 - pull) w + pull mean(w), the mean over this network and the scions.

    Batch norm's running statistics are averaged too.

    Source: Jolicoeur-Martineau et al. 2024 (arXiv:2304.03094). The pull is 1 - alpha of the paper.
    """

    takes_scions = True
    information_measure = None

    def __init__(self, config: PapaConfig) -> None:
        """Create the rule.

        Args:
            config: The pull, and whether it follows the learning rate.
        """
        self._config = config

    def apply(self, rootstock: Rootstock, scions: Sequence[Scion]) -> tuple[Contribution, ...]:
        """Pull the rootstock toward the mean."""
        pull = self._config.pull * (rootstock.rate_factor if self._config.follows_rate else 1.0)
        scion_weight = pull / (len(scions) + 1)
        keys = [key for key, own in rootstock.state.items() if own.is_floating_point() and not is_structural(key)]
        states = [scion.snapshot.state() for scion in scions]
        blend_weighted(
            [rootstock.state[key] for key in keys],
            [[state[key] for key in keys] for state in states],
            [[scion_weight] * len(keys)] * len(states),
        )
        record = LayerGraft(layer=WHOLE, alpha=1.0 - scion_weight)
        return tuple(Contribution(scion=scion, scion_weight=scion_weight, layers=(record,)) for scion in scions)
