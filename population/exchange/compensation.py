"""What a network was in earlier intervals, so that an old scion can be brought forward by what was learned since."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from population.grafting import STATISTICS
from population.layers import is_private
from population.snapshot import Origin


@dataclass(frozen=True, kw_only=True)
class Past:
    """A network as it would be now if it had taken in all that it did, and trained no more since an interval."""

    interval: int
    step: int
    """Of the schedule, when it had completed the interval."""
    state: Mapping[str, Tensor]
    """Its weights; batch norm's running statistics are not among them."""


class OwnPast:
    """The last intervals of one network: a copy of its weights for each, and one for the present."""

    def __init__(self, intervals: int) -> None:
        """Args: how far back it reaches, at least 1."""
        self._kept: deque[Past] = deque(maxlen=intervals + 1)

    def note(self, own: Origin, state: Mapping[str, Tensor]) -> None:
        """An interval is complete; called before its exchange.

        Args:
            own: The network as it stands.
            state: All that a snapshot holds; copied.
        """
        copies = {key: tensor.detach().clone() for key, tensor in state.items() if _is_trained(key, tensor)}
        self._kept.append(Past(interval=own.interval, step=own.step, state=copies))

    def took_in(self, state: Mapping[str, Tensor]) -> None:
        """The exchange after the last `note` changed the network to `state`: what came from others moves its past too,
        so that the difference to the present stays what was trained."""
        with torch.no_grad():
            *earlier, newest = self._kept
            for key, before in newest.state.items():
                for past in earlier:
                    past.state[key].add_(state[key] - before)
                before.copy_(state[key])

    def at(self, interval: int) -> Past | None:
        """The network in an interval, or in the first after it that is kept; None where that is the newest."""
        *earlier, _ = self._kept
        return next((past for past in earlier if past.interval >= interval), None)


def brought_forward(scion: Mapping[str, Tensor], state: Mapping[str, Tensor], past: Past) -> dict[str, Tensor]:
    """The scion, moved by what the rootstock has trained since the scion's interval.

    Args:
        scion: Only read. Batch norm's running statistics are handed on: they follow the weights within some steps, and
            a variance moved so could fall below zero.
        state: The rootstock's, before the exchange.
        past: The rootstock in the scion's interval.

    Source: averages that come late, added to what was trained meanwhile: DaSGD (Zhou et al. 2020, arXiv:2006.00441).
    Here every pair of networks has its own delay.
    """
    moved = dict(scion)
    for key, then in past.state.items():
        moved[key] = scion[key].to(then.device) + (state[key].detach() - then)
    return moved


def _is_trained(key: str, tensor: Tensor) -> bool:
    return tensor.is_floating_point() and not is_private(key) and not key.endswith(STATISTICS)
