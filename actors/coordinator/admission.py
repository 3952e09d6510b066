"""Who waits for whom: newcomers until they join, and in lockstep all who train at each interval's barrier."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from inarch.population.membership.barrier import Barrier, BarrierResult
from inarch.population.membership.members import Members

T = TypeVar("T")


class Admission(Generic[T]):
    """Of one run. Called on the coordinator's event loop only; a newcomer is let in with a T, its place to begin."""

    def __init__(self, members: Members, *, is_lockstep: bool, deadline_seconds: float) -> None:
        """Args: the run's members; whether there are barriers at all; how long one waits for who is missing."""
        self._members, self._is_lockstep = members, is_lockstep
        self._barrier = Barrier(deadline_seconds=deadline_seconds)
        self._outside: set[int] = set()
        self._joining: dict[int, asyncio.Future[T]] = {}

    def hold(self, network_id: int) -> None:
        """A newcomer that has not joined: no barrier waits for it, and it has trained nothing that could be lost."""
        self._outside.add(network_id)

    def admit(self, network_id: int) -> None:
        """It takes part from now on."""
        self._outside.discard(network_id)

    def is_outside(self, network_id: int) -> bool:
        """Whether it has not joined yet."""
        return network_id in self._outside

    def expected(self) -> list[int]:
        """Members that will reach the next barrier."""
        return [network_id for network_id in self._members.active() if network_id not in self._outside]

    def arrive(self, network_id: int, interval: int) -> None:
        """lockstep: a member completed an interval."""
        if self._is_lockstep:
            self._barrier.arrive(network_id, interval, now=time.monotonic())

    def forget(self, network_id: int) -> None:
        """Its process is gone: what it had reached it has to reach again, and if it waited to join, nobody does."""
        self._barrier.forget(network_id)
        self._outside.discard(network_id)
        future = self._joining.pop(network_id, None)
        if future is not None:
            future.cancel()

    def open(self, begin: Callable[[int], T]) -> list[int]:
        """lockstep: open what can be opened, and let in those who wait, each where `begin` says.

        Returns:
            Intervals whose barriers opened.
        """
        now, opened = time.monotonic(), []
        for interval in self._barrier.waiting():
            if (
                self._barrier.try_release(interval, expected=self.expected(), members=self._members, now=now)
                is not None
            ):
                opened.append(interval)
        if opened or not self.expected():
            for network_id, future in self._joining.items():
                if not future.done():
                    future.set_result(begin(network_id))
                self._outside.discard(network_id)
            self._joining.clear()
        return opened

    def opening(self, interval: int) -> BarrierResult | None:
        """lockstep: how an interval's barrier opened; None while it is closed."""
        return self._barrier.opening(interval)

    async def join(self, network_id: int, begin: Callable[[int], T]) -> T:
        """Where a newcomer begins; in lockstep, when a barrier opens."""
        self.hold(network_id)
        if self._is_lockstep and self.expected():
            return await asyncio.shield(
                self._joining.setdefault(network_id, asyncio.get_running_loop().create_future())
            )
        self.admit(network_id)
        return begin(network_id)
