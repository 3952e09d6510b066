"""lockstep: the barrier at the end of each interval."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from inarch.population.membership.members import Members


@dataclass(frozen=True, kw_only=True)
class BarrierResult:
    """How an interval's barrier opened, and who was there: all who pass it see the same topology."""

    is_timed_out: bool
    members: tuple[int, ...]
    """Ids in the topology."""
    donors: tuple[int, ...]
    """Ids whose snapshots may be given."""


class Barrier:
    """lockstep: an interval's exchange opens when every member that is expected has arrived, or at a deadline.

    Membership changes only when a barrier opens: who starts meanwhile is expected from the next one on. Who was missing
    at a deadline is late, and no barrier waits for it before it has reached the newest that is open.
    """

    def __init__(self, *, deadline_seconds: float) -> None:
        self._deadline = deadline_seconds
        self._reached: dict[int, int] = {}
        self._first_seconds: dict[int, float] = {}
        self._open: dict[int, BarrierResult] = {}
        self._late: set[int] = set()

    def arrive(self, network_id: int, interval: int, *, now: float) -> None:
        """A member completed an interval and posted its version of it."""
        self._reached[network_id] = max(interval, self._reached.get(network_id, 0))
        if interval >= max(self._open, default=0):
            self._late.discard(network_id)
        self._first_seconds.setdefault(interval, now)

    def forget(self, network_id: int) -> None:
        """A member died: barriers that have not opened wait for it to arrive again."""
        self._reached.pop(network_id, None)

    def try_release(
        self, interval: int, *, expected: Collection[int], members: Members, now: float
    ) -> BarrierResult | None:
        """Open the barrier if all who are expected have arrived or its deadline has passed; None while it is closed."""
        if interval not in self._open:
            missing = {
                network_id for network_id in expected if self._reached.get(network_id, 0) < interval
            } - self._late
            is_timed_out = now - self._first_seconds.get(interval, now) >= self._deadline
            if not missing or is_timed_out:
                self._late |= missing
                self._open[interval] = BarrierResult(
                    is_timed_out=bool(missing), members=members.in_topology(), donors=members.donors()
                )
        return self._open.get(interval)

    def waiting(self) -> list[int]:
        """Intervals at whose barrier somebody waits."""
        return [interval for interval in self._first_seconds if interval not in self._open]

    def opening(self, interval: int) -> BarrierResult | None:
        """How an interval's barrier opened; None while it is closed."""
        return self._open.get(interval)
