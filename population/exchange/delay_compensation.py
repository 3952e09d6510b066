"""What a network was in earlier intervals, so that an old scion can be brought forward by what was learned since."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from inarch.population.grafting.blending import blend_compensated_
from inarch.population.state.snapshot import SnapshotInfo
from inarch.population.state.state_dict import BATCH_NORM_STATISTICS, is_structural

PREFIX = "past."
"""Begins a checkpoint's tensors: then interval, step, and the weight's name."""


@dataclass(frozen=True, kw_only=True)
class PastState:
    """A network as it would be now if it had taken in all that it did, and trained no more since an interval."""

    interval: int
    step: int
    """Of the schedule, when it had completed the interval."""
    state: Mapping[str, Tensor]
    """Its weights; batch norm's running statistics are not among them."""


class StateHistory:
    """The last intervals of one network: a copy of its weights for each."""

    def __init__(self, intervals: int) -> None:
        """Args: how far back it reaches, at least 1."""
        self._intervals = intervals
        self._kept: deque[PastState] = deque()

    @contextlib.contextmanager
    def exchange(self, own: SnapshotInfo, state: Mapping[str, Tensor]) -> Iterator[None]:
        """Around an exchange that takes something in; where nothing is, `note` is enough. What comes from others moves
        the past too, so that the difference to the present stays what was trained.

        Args:
            own: The network as it stands.
            state: All that a snapshot holds; copied when the exchange is over.
        """
        stays = list(self._kept)[1:] if len(self._kept) >= self._intervals else list(self._kept)
        before = _copies(state, into={}) if stays else {}
        yield
        with torch.no_grad():
            for past in stays:
                for key, then in before.items():
                    blend_compensated_(past.state[key], state[key], then, 0.0)  # past + (state - then)
        self.note(own, state)

    def tensors(self, *, within: bool) -> dict[str, Tensor]:
        """What a checkpoint must hold, not copied: all of it; but where no interval was begun since (not `within`), the
        newest is the network itself, which is saved anyway."""
        return {
            f"{PREFIX}{past.interval}.{past.step}.{key}": tensor
            for past in list(self._kept)[: None if within else -1]
            for key, tensor in past.state.items()
        }

    def load(
        self, tensors: Mapping[str, Tensor], own: SnapshotInfo, state: Mapping[str, Tensor], *, within: bool
    ) -> None:
        """Take over what a checkpoint of `own`, which has all that is in `state`, held."""
        found: dict[tuple[int, int], dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith(PREFIX):
                interval, step, key = name.removeprefix(PREFIX).split(".", 2)
                if key in state:
                    place = found.setdefault((int(interval), int(step)), {})
                    place[key] = torch.empty_like(state[key]).copy_(tensor)  # in the same memory order
        self._kept.clear()
        for (interval, step), weights in sorted(found.items(), key=lambda one: one[0]):
            self._kept.append(PastState(interval=interval, step=step, state=weights))
        if not within:
            self.note(own, state)

    def note(self, own: SnapshotInfo, state: Mapping[str, Tensor]) -> None:
        """Keep the network as it stands when an exchange is over, in place of the oldest where there are enough."""
        oldest = self._kept.popleft().state if len(self._kept) >= self._intervals else {}
        self._kept.append(PastState(interval=own.interval, step=own.step, state=_copies(state, into=oldest)))

    def at(self, interval: int) -> PastState | None:
        """The network in an interval, or in the first after it that is kept; None where there is none."""
        return next((past for past in self._kept if past.interval >= interval), None)


def compensate_delay(scion: Mapping[str, Tensor], state: Mapping[str, Tensor], past: PastState) -> dict[str, Tensor]:
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


def _copies(state: Mapping[str, Tensor], *, into: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of what is trained, written into earlier copies where there are any."""
    with torch.no_grad():
        return {
            key: into[key].copy_(tensor) if key in into else tensor.detach().clone()
            for key, tensor in state.items()
            if tensor.is_floating_point() and not is_structural(key) and not key.endswith(BATCH_NORM_STATISTICS)
        }
