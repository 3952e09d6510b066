"""What a coordinator does beside answering: tasks that nobody awaits, and waits that end when something has changed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any


class BackgroundTasks:
    """Of one event loop; called on it only."""

    def __init__(self, on_failure: Callable[[BaseException], None]) -> None:
        """Args: called with what a task raised that nobody caught."""
        self._on_failure = on_failure
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Condition()
        self._wanted: set[Callable[[], Awaitable[None]]] = set()
        self._running: set[Callable[[], Awaitable[None]]] = set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something beside."""

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            error = None if task.cancelled() else task.exception()
            if error is not None:
                self._on_failure(error)

        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(ended)

    def run_coalesced(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run something beside, once for all that ask until it begins; asked for while it runs, it runs once more."""
        self._wanted.add(work)
        if work not in self._running:
            self._running.add(work)
            self.spawn(self._while_wanted(work))

    async def wait_until(self, claim: Callable[[], Any], *, seconds: float | None) -> None:
        """Wait until a claim holds, looked at after each `notify`, or the time has passed."""
        async with self._changed:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait_for(claim), seconds)

    async def notify(self) -> None:
        """Something has changed: let all who wait look again."""
        async with self._changed:
            self._changed.notify_all()

    async def _while_wanted(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            while work in self._wanted:
                self._wanted.discard(work)
                await work()
        finally:
            self._running.discard(work)
