"""Delay compensation: add the rootstock's own updates since a scion was published to that scion."""

from __future__ import annotations

import contextlib
import dataclasses
from collections import deque
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from inarch.population.grafting.blending import Followers, move_all
from inarch.population.state.memory_order import copy_all
from inarch.population.state.snapshot_info import SnapshotInfo
from inarch.population.state.state_dict import BATCH_NORM_STATISTICS, is_structural

PREFIX = "past."
"""Prefix of the tensors in a checkpoint. Interval, step and the weight's name follow."""


@dataclass(frozen=True, kw_only=True)
class PastState:
    """A network's weights as if it had stopped training after an earlier interval but had still grafted since."""

    interval: int
    step: int
    """Steps of the schedule completed with that interval."""
    state: Mapping[str, Tensor]
    """Weights, without batch norm's running statistics."""


class StateHistory:
    """The last intervals of one network, with a copy of its weights for each."""

    def __init__(self, intervals: int) -> None:
        """Create an empty history.

        Args:
            intervals: How far it reaches back, at least 1.
        """
        self._intervals = intervals
        self._past: deque[PastState] = deque()
        self._leases: set[object] = set()
        self._before: Mapping[str, Tensor] = {}  # kept, because fresh memory would be faulted in at every exchange

    @contextlib.contextmanager
    def exchange(
        self, own: SnapshotInfo, state: Mapping[str, Tensor], before: Mapping[str, Tensor] | None = None
    ) -> Generator[None]:
        """Enclose an exchange that may change the network.

        What comes from other networks is added to the past states too, so that the difference between past and present
        stays the network's own training.

        Args:
            own: Progress of the network.
            state: Tensors that a snapshot holds. They are copied after the exchange.
            before: A copy of them as they are now, if there is one on the same device. None: they are copied.
        """
        self._copy_lent()
        remaining = self._remaining()
        if before is None and remaining:
            self._before = _copies(state, into=self._before)
        old = self._before if before is None else before
        yield
        with torch.no_grad():
            for past in remaining:
                move_all(
                    list(past.state.values()), [state[key] for key in past.state], [old[key] for key in past.state]
                )
        self.append(own, state)

    @contextlib.contextmanager
    def exchange_with_followers(self, own: SnapshotInfo, state: Mapping[str, Tensor]) -> Generator[Followers]:
        """Enclose an exchange by a rule that moves the past states itself, as `exchange`.

        One pass over the weights then changes all of them, and no copy of the network is made.

        Args:
            own: Progress of the network.
            state: Tensors that a snapshot holds.

        Yields:
            The past states that the rule changes.
        """
        self._copy_lent()
        is_full = len(self._past) >= self._intervals
        noted = self._past[0].state if is_full else _empty(state)
        yield Followers(moved=[past.state for past in self._remaining()], noted=noted)
        if is_full:
            self._past.popleft()
        self._past.append(PastState(interval=own.interval, step=own.step, state=noted))

    def _remaining(self) -> list[PastState]:
        """Return the past states that stay in the history at the next exchange."""
        return list(self._past)[1:] if len(self._past) >= self._intervals else list(self._past)

    def lend(self) -> Callable[[], None]:
        """Lend the past states to a checkpoint that is being written. An exchange meanwhile changes copies of them.

        Returns:
            Ends the loan. Another thread may call it.
        """
        lease = object()
        self._leases.add(lease)
        return lambda: self._leases.discard(lease)

    def clear(self) -> None:
        """Forget the past, because the network's weights were replaced."""
        self._past.clear()

    def newest(self) -> PastState | None:
        """Return the newest state. None if there is none yet."""
        return self._past[-1] if self._past else None

    def _copy_lent(self) -> None:
        """Replace past states that are lent by copies."""
        if self._leases:
            copies = [dataclasses.replace(past, state=_copies(past.state, into={})) for past in self._past]
            self._past, self._leases = deque(copies), set()

    def tensors(self, *, within: bool) -> dict[str, Tensor]:
        """Return the tensors that a checkpoint needs, not copied.

        Args:
            within: The checkpoint lies within an interval. Otherwise the newest state is left out, because it is the
                network itself.
        """
        return {
            f"{PREFIX}{past.interval}.{past.step}.{key}": tensor
            for past in list(self._past)[: None if within else -1]
            for key, tensor in past.state.items()
        }

    def load(
        self, tensors: Mapping[str, Tensor], own: SnapshotInfo, state: Mapping[str, Tensor], *, within: bool
    ) -> None:
        """Restore the history from a checkpoint.

        Args:
            tensors: Tensors of the checkpoint.
            own: Progress of the network in the checkpoint.
            state: Tensors of the network, restored already.
            within: The checkpoint lies within an interval.
        """
        restored: dict[tuple[int, int], dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith(PREFIX):
                interval, step, key = name.removeprefix(PREFIX).split(".", 2)
                if key in state:
                    weights = restored.setdefault((int(interval), int(step)), {})
                    weights[key] = torch.empty_like(state[key]).copy_(tensor)  # in the same memory order
        self._past.clear()
        for (interval, step), weights in sorted(restored.items(), key=lambda item: item[0]):
            self._past.append(PastState(interval=interval, step=step, state=weights))
        if not within:
            self.append(own, state)

    def append(self, own: SnapshotInfo, state: Mapping[str, Tensor]) -> None:
        """Add the network as it stands after an exchange, and drop the oldest state if the history is full.

        Args:
            own: Progress of the network.
            state: Tensors that a snapshot holds. They are copied.
        """
        self._copy_lent()
        oldest = self._past.popleft().state if len(self._past) >= self._intervals else {}
        self._past.append(PastState(interval=own.interval, step=own.step, state=_copies(state, into=oldest)))

    def at(self, interval: int) -> PastState | None:
        """Return the state of an interval, or of the first later one in the history, or None."""
        return next((past for past in self._past if past.interval >= interval), None)


def compensate_delay(scion: Mapping[str, Tensor], state: Mapping[str, Tensor], past: PastState) -> dict[str, Tensor]:
    """Return the scion with the rootstock's own updates since the scion's interval added.

    Batch norm's running statistics are passed on unchanged: they follow the weights within a few steps, and a variance
    moved in this way could fall below zero.

    Args:
        scion: Tensors of the scion. They are only read.
        state: Tensors of the rootstock before the exchange.
        past: The rootstock in the scion's interval.

    Source: averages that arrive late, added to what was trained meanwhile: DaSGD (Zhou et al. 2020, arXiv:2006.00441).
    Here every pair of networks has its own delay.
    """
    compensated = dict(scion)
    for key, old in past.state.items():
        compensated[key] = scion[key].to(old.device) + (state[key].detach() - old)
    return compensated


def _copies(state: Mapping[str, Tensor], *, into: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Copy the trained tensors, into earlier copies if there are any."""
    copies = into or _empty(state)
    with torch.no_grad():
        copy_all(list(copies.values()), [state[key] for key in copies])
    return copies


def _empty(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return memory for copies of the trained tensors, each in the memory order of its original."""
    return {
        key: torch.empty_like(tensor, requires_grad=False)
        for key, tensor in state.items()
        if tensor.is_floating_point() and not is_structural(key) and not key.endswith(BATCH_NORM_STATISTICS)
    }
