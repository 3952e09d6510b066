"""Exploit and explore: a network that is worse than its neighbor copies it and perturbs the learning rate it copied."""

from __future__ import annotations

from collections.abc import Sequence

from inarch.population.config import PbtConfig
from inarch.population.exchange.protocol import Contribution, Rootstock, Scion
from inarch.population.grafting.layer_level import WHOLE, LayerGraft


class PbtRule:
    """Binary tournament by validation score with the donors that came; momentum is not copied but dropped.

    Source: Jaderberg et al. 2017 (arXiv:1711.09846), PBT.
    """

    takes_scions = True
    information_measure = None

    def __init__(self, config: PbtConfig) -> None:
        self._config = config

    def apply(self, rootstock: Rootstock, arrivals: Sequence[Scion]) -> tuple[Contribution, ...]:
        best = max(arrivals, key=lambda arrival: arrival.snapshot.origin.score or 0.0)
        origin = best.snapshot.origin
        if rootstock.origin.score is None or origin.score is None or origin.score <= rootstock.origin.score:
            return ()
        scion = best.snapshot.state()
        for key, own in rootstock.state.items():
            own.copy_(scion[key])
        rootstock.reset_momentum = True
        rootstock.score = origin.score
        rootstock.learning_rate = origin.learning_rate * float(rootstock.random.choice(self._config.factors))
        record = LayerGraft(
            layer=WHOLE, alpha=0.0, own_information=rootstock.origin.score, scion_information=origin.score
        )
        return (Contribution(arrival=best, scion_weight=1.0, layers=(record,)),)
