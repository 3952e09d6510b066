"""Deep mutual learning (DML): learn from the peers' predictions and leave the weights alone."""

from __future__ import annotations

from collections.abc import Sequence

from inarch.population.exchange.protocol import Contribution, Rootstock, Scion
from inarch.population.grafting.layer_level import WHOLE, LayerGraft


class DmlRule:
    """Add the divergence from the peers' predictions on the same images to the loss of each step.

    The paper's peers are as young as the network itself. Here a peer is up to one interval older, so that no network
    waits for another.

    Source: Zhang et al. 2018 (arXiv:1706.00384).
    """

    takes_scions = True
    information_measure = None

    def apply(self, rootstock: Rootstock, scions: Sequence[Scion]) -> tuple[Contribution, ...]:
        """Make the scions the rootstock's peers."""
        rootstock.peers = [scion.snapshot.state() for scion in scions]
        record = LayerGraft(layer=WHOLE, alpha=1.0)
        return tuple(Contribution(scion=scion, scion_weight=0.0, layers=(record,)) for scion in scions)
