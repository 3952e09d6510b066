"""Decide which networks pause when more networks are wanted than fit into the cluster.

A network that pauses gives its place to one that waits, at the end of an interval and after a checkpoint. The networks
with the least progress have the places first. Everything here is a pure function.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class RunningNetwork:
    """A network that has a place."""

    network_id: int
    interval: int
    """Intervals of the schedule completed."""
    began_interval: int
    """Intervals of the schedule that were completed when it got its place."""


def select_to_pause(
    running: Iterable[RunningNetwork], waiting: Iterable[int], *, slice_intervals: int
) -> tuple[int, ...]:
    """Return the networks that pause at the end of their present interval.

    A network pauses for another one if its slice ends with this interval, and if it will not be behind the other one
    then. Each slice is used in full. No network is more than a slice and an interval ahead of one that waits.

    Networks that were asked before do not count. A slow network may take long to the end of its interval, and the
    fastest one would run ahead meanwhile.

    Args:
        running: Networks that train.
        waiting: For each network without a place, the intervals of the schedule that it has completed.
        slice_intervals: Intervals that a network trains before it gives up its place, at least 1.

    Returns:
        Ids, the most advanced network first. At most as many as there are networks without a place.
    """
    ordered = sorted(running, key=lambda network: (-network.interval, network.network_id))
    at_end = [network for network in ordered if network.interval + 1 - network.began_interval >= slice_intervals]
    pairs = zip(at_end, sorted(waiting), strict=False)
    return tuple(network.network_id for network, interval in pairs if network.interval + 1 >= interval)


def next_in_turn(queue: Sequence[int], waiting: Mapping[int, int]) -> int | None:
    """Return the network of a queue that looks for a place next.

    Args:
        queue: Ids of the networks that do not look for a place yet, the longest waiting one first.
        waiting: Completed intervals of all networks without a place, by id. Those outside the queue look for one.

    Returns:
        The id of the network with the least progress, and of equals the first one. None while a network with less
        progress looks for a place, or if none of the queue waits.
    """
    candidate = min(
        (network_id for network_id in queue if network_id in waiting), key=waiting.__getitem__, default=None
    )
    is_behind = candidate is not None and waiting[candidate] > min(waiting.values())
    return None if is_behind else candidate
