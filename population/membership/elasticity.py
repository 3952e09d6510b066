"""Decide how many networks a population gains when its cluster has room for them.

Everything here is a value or a pure function. The coordinator reads the nodes of the cluster once in a while, and
starts as many networks as `num_to_start` returns.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

SETTLE_SECONDS = 5.0
"""Seconds for which a cluster must have room before networks start in it. The room that a restarting network leaves for
a moment is no room for others."""

MIN_INTERVALS = 2
"""Intervals of its schedule that a network must still have when it joins."""

GPU = "GPU"
"""Ray's name of GPUs. Ray sums the free parts of all GPUs of a node, but a network trains on one of them."""

ROUNDING = 1e-6
"""Tolerance of sums of fractions."""


@dataclass(frozen=True, kw_only=True)
class NodeCapacity:
    """What one node of the cluster has."""

    node_id: str
    total: Mapping[str, float] = field(default_factory=dict[str, float])
    """Resources of the node by name, whether in use or not."""
    free: Mapping[str, float] = field(default_factory=dict[str, float])
    """The part of each resource that is not in use. A resource that is missing here has none left."""
    is_draining: bool = False
    """Whether the node is about to leave. Nothing new is placed there."""


@dataclass(frozen=True, kw_only=True)
class ClusterView:
    """What a cluster has, and what waits for a place in it."""

    nodes: tuple[NodeCapacity, ...] = ()
    """The living nodes."""
    pending: tuple[tuple[Mapping[str, float], int], ...] = ()
    """Resources that processes request and do not have yet, with the number of these processes."""


@dataclass(frozen=True, kw_only=True)
class PopulationSize:
    """The facts of a population that decide its growth."""

    num_counted: int
    """Networks that count toward its size: those that train or wait for a place, and finished ones."""
    num_waiting: int = 0
    """Those of them that have no process of their own yet. They take the room first."""
    num_failed: int = 0
    """Networks that failed for good. They are not replaced, because what made one fail might make the next one fail."""
    num_spare: int = 0
    """Networks that are to wait for a place although there is none, so that an autoscaler adds nodes."""
    limit: int | None = None
    """Most networks. None: no limit."""
    intervals_left: int = MIN_INTERVALS
    """Intervals that a network which joins now would still have."""


def room_for(request: Mapping[str, float], nodes: Iterable[NodeCapacity]) -> int:
    """Return how many more networks fit into a cluster, each on one node.

    Args:
        request: Resources of one network by name, at least 0. The amount of GPU is at most 1.
        nodes: The nodes of the cluster.

    Returns:
        Number of networks. 0 if a network requests nothing, because nothing would limit their number.
    """
    return sum(_fitting(request, node) for node in nodes if not node.is_draining)


def _fitting(request: Mapping[str, float], node: NodeCapacity) -> int:
    """Return how many networks fit into the free part of one node."""
    counts: list[int] = []
    for name, amount in request.items():
        if amount <= 0:
            continue
        free = node.free.get(name, 0.0)
        counts.append(math.floor(free / amount + ROUNDING))
        if name == GPU:
            counts.append(_fitting_gpus(amount, total=node.total.get(name, 0.0), free=free))
    return max(0, min(counts, default=0))


def _fitting_gpus(amount: float, *, total: float, free: float) -> int:
    """Return how many shares of a GPU are left if what is in use is shares of the same size."""
    shares = math.floor(1.0 / amount + ROUNDING)
    return math.floor(total + ROUNDING) * shares - math.ceil((total - free) / amount - ROUNDING)


def num_pending(request: Mapping[str, float], view: ClusterView) -> int:
    """Return how many processes wait for a place and request the same as a network.

    Args:
        request: Resources of one network by name.
        view: The cluster.
    """
    wanted = {name: amount for name, amount in request.items() if amount > 0}
    return sum(count for pending, count in view.pending if _are_equal(wanted, pending))


def _are_equal(first: Mapping[str, float], second: Mapping[str, float]) -> bool:
    """Return whether two requests are the same. Ray keeps four decimals."""
    names = {*first, *second}
    return all(math.isclose(first.get(name, 0.0), second.get(name, 0.0), abs_tol=1e-3) for name in names)


def num_to_start(room: int, size: PopulationSize) -> int:
    """Return how many networks to start now.

    Args:
        room: Networks that fit into the cluster beside those that run.
        size: The population.

    Returns:
        Number of networks, at least 0. Room that networks wait for does not count.
    """
    if size.intervals_left < MIN_INTERVALS:
        return 0
    count = room + size.num_spare - size.num_waiting - size.num_failed
    if size.limit is not None:
        count = min(count, size.limit - size.num_counted - size.num_failed)
    return max(0, count)


class SettledRoom:
    """Room that a cluster has had for a while. Room that comes and goes does not count."""

    def __init__(self, *, seconds: float = SETTLE_SECONDS) -> None:
        """Begin without observations.

        Args:
            seconds: How long the cluster must have had the room.
        """
        self._seconds = seconds
        self._observations: deque[tuple[float, int]] = deque()

    def observe(self, room: int, *, now: float) -> int:
        """Record the present room, and return the settled room.

        Args:
            room: Networks that fit into the cluster now.
            now: Seconds of a monotonic clock.

        Returns:
            The least room that was observed within the last `seconds`. 0 until the first observation is as old as that.
        """
        self._observations.append((now, room))
        while len(self._observations) > 1 and self._observations[1][0] <= now - self._seconds:
            self._observations.popleft()
        if self._observations[0][0] > now - self._seconds:
            return 0
        return min(observed for _, observed in self._observations)
