"""Deep mutual learning as an exchange rule: weights stay, and peers' predictions are learned from."""

from __future__ import annotations

from collections.abc import Sequence

from inarch.population.exchange.protocol import Contribution, Rootstock, Scion
from inarch.population.grafting.layer_level import WHOLE, LayerGraft


class DmlRule:
    """Each step's loss holds the divergence from the predictions of the newest snapshots that came, on the same images.

    The paper's peers are as young as the network itself; these are up to an interval older, so that nobody waits.

    Source: Zhang et al. 2018 (arXiv:1706.00384).
    """

    takes_scions = True
    information_measure = None

    def apply(self, rootstock: Rootstock, arrivals: Sequence[Scion]) -> tuple[Contribution, ...]:
        rootstock.peers = [arrival.snapshot.state() for arrival in arrivals]
        record = LayerGraft(layer=WHOLE, alpha=1.0)
        return tuple(Contribution(arrival=arrival, scion_weight=0.0, layers=(record,)) for arrival in arrivals)
