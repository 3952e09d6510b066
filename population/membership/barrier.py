"""The barrier at the end of each interval, in lockstep mode."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from inarch.population.membership.members import Members
from inarch.population.membership.topology import Places


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
    the newest released one.
    """

    def __init__(self, *, deadline_seconds: float) -> None:
        """Create the barriers of a run.

        Args:
            deadline_seconds: Longest wait after the first arrival.
        """
        self._deadline = deadline_seconds
        self._reached: dict[int, int] = {}
        self._first_arrival: dict[int, float] = {}
        self._released: dict[int, BarrierResult] = {}
        self._late: set[int] = set()

    def arrive(self, network_id: int, interval: int, *, now: float) -> None:
        """Record that a member has completed an interval and published its snapshot.

        Args:
            network_id: Id of the member.
            interval: Intervals completed.
            now: Seconds of a monotonic clock.
        """
        self._reached[network_id] = max(interval, self._reached.get(network_id, 0))
        if interval >= max(self._released, default=0):
            self._late.discard(network_id)
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
        if interval not in self._released:
            absent = {network_id for network_id in expected if self._reached.get(network_id, 0) < interval}
            missing = absent - self._late
            is_timed_out = now - self._first_arrival.get(interval, now) >= self._deadline
            if not missing or is_timed_out:
                self._late |= missing
                self._released[interval] = BarrierResult(
                    is_timed_out=bool(missing), members=Places(members.topology), donors=Places(members.donors)
                )
        return self._released.get(interval)

    def waiting(self) -> list[int]:
        """Return the intervals at whose closed barrier a member waits."""
        return [interval for interval in self._first_arrival if interval not in self._released]

    def result(self, interval: int) -> BarrierResult | None:
        """Return how a barrier was released, or None while it is closed."""
        return self._released.get(interval)
