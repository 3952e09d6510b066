"""The barrier at the end of each interval, in lockstep mode."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from inarch.population.membership.members import Members, MemberState
from inarch.population.membership.topology import Places

WITHOUT_PROCESS = frozenset({MemberState.STARTING, MemberState.LOST})
"""States of members whose process has not begun to train yet."""

KEPT = 1_000
"""Released barriers that are kept. For a network that is further behind, the oldest of them stands for those that were
dropped."""


@dataclass(frozen=True, kw_only=True)
class BarrierResult:
    """How a barrier was released. All networks that pass it see the same members."""

    is_timed_out: bool
    """Whether the deadline passed before all expected members had arrived."""
    members: Places
    """Members in the topology."""
    donors: Places
    """Members whose snapshots may be fetched."""


class Barrier:
    """Releases the exchange of an interval when every expected member has arrived, or at a deadline.

    Membership changes take effect when a barrier is released: a member that starts in between is expected from the next
    barrier on. A member that was missing at a deadline is late. Later barriers ignore it until it has caught up with
    the newest released one. A member without a process, for which there may be no place, is late much sooner.
    """

    def __init__(self, *, deadline_seconds: float, absence_seconds: float = math.inf) -> None:
        """Create the barriers of a run.

        Args:
            deadline_seconds: Longest wait after the first arrival.
            absence_seconds: Longest wait for a member without a process, from when a barrier first missed it.
        """
        self._deadline, self._absence = deadline_seconds, absence_seconds
        self._without_process: dict[int, float] = {}
        self._reached: dict[int, int] = {}
        self._first_arrival: dict[int, float] = {}  # of open barriers
        self._released: dict[int, BarrierResult] = {}  # in the order of the releases
        self._newest, self._newest_dropped = 0, 0  # intervals of released barriers
        self._late: set[int] = set()

    def arrive(self, network_id: int, interval: int, *, now: float) -> None:
        """Record that a member has completed an interval and published its snapshot.

        Args:
            network_id: Id of the member.
            interval: Intervals completed.
            now: Seconds of a monotonic clock.
        """
        self._reached[network_id] = max(interval, self._reached.get(network_id, 0))
        if interval >= self._newest:
            self._late.discard(network_id)
        if self.result(interval) is None:
            self._first_arrival.setdefault(interval, now)

    def forget(self, network_id: int) -> None:
        """Forget the arrivals of a member whose process died. Open barriers wait until it arrives again."""
        self._reached.pop(network_id, None)

    def try_release(
        self, interval: int, *, expected: Collection[int], members: Members, now: float
    ) -> BarrierResult | None:
        """Release a barrier if all expected members have arrived or its deadline has passed.

        Args:
            interval: Interval of the barrier.
            expected: Ids of the members that will arrive.
            members: All members of the run.
            now: Seconds of the clock that `arrive` uses.

        Returns:
            How the barrier was released, now or earlier. None while it is closed.
        """
        if self.result(interval) is None:
            absent = {network_id for network_id in expected if self._reached.get(network_id, 0) < interval}
            self._late |= self._long_without_process(absent, members, now)
            missing = absent - self._late
            is_timed_out = now - self._first_arrival.get(interval, now) >= self._deadline
            if not missing or is_timed_out:
                self._late |= missing
                self._release(interval, members, is_timed_out=bool(missing))
        return self.result(interval)

    def _release(self, interval: int, members: Members, *, is_timed_out: bool) -> None:
        """Record a release. Barriers that were released between the same members share their places."""
        before = self._released.get(self._newest)
        places = Places(members.topology), Places(members.donors)
        if before is not None:
            known = before.members, before.donors
            places = tuple(old if old.ids == new.ids else new for old, new in zip(known, places, strict=True))
        self._released[interval] = BarrierResult(is_timed_out=is_timed_out, members=places[0], donors=places[1])
        self._first_arrival.pop(interval, None)
        self._newest = max(self._newest, interval)
        if len(self._released) > KEPT:
            oldest = next(iter(self._released))
            del self._released[oldest]
            self._newest_dropped = max(self._newest_dropped, oldest)

    def _long_without_process(self, absent: Collection[int], members: Members, now: float) -> set[int]:
        """Return the absent members that have had no process for too long."""
        gone = {number for number in absent if number in members and members[number].state in WITHOUT_PROCESS}
        self._without_process = {number: self._without_process.get(number, now) for number in gone}
        return {number for number, since in self._without_process.items() if now - since >= self._absence}

    def reopen(self, *, after: int) -> None:
        """Close the barriers above an interval again, because all networks that passed them have ended.

        Args:
            after: Interval at which networks begin that have no one to wait for.
        """
        self._released = {interval: result for interval, result in self._released.items() if interval <= after}
        self._first_arrival = {interval: now for interval, now in self._first_arrival.items() if interval <= after}
        self._newest = max(self._released, default=0)
        self._newest_dropped = min(self._newest_dropped, after)
        self._late.clear()

    def waiting(self) -> list[int]:
        """Return the intervals at whose closed barrier a member waits."""
        return list(self._first_arrival)

    def result(self, interval: int) -> BarrierResult | None:
        """Return how a barrier was released, or None while it is closed."""
        result = self._released.get(interval)
        if result is None and interval <= self._newest_dropped:
            return next(iter(self._released.values()), None)
        return result
