"""Work that the coordinator does beside answering calls, and waits that end when something has changed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any


class BackgroundTasks:
    """Tasks and waits of one event loop. Every method is called on that loop."""

    def __init__(self) -> None:
        """Create it without tasks."""
        self.errors: list[BaseException] = []
        """What tasks raised. `has_changed` is set with each."""
        self.has_changed = asyncio.Event()
        """Set when the state of the run has changed and the coordinator should react."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._condition = asyncio.Condition()
        self._requested: set[Callable[[], Awaitable[None]]] = set()
        self._running: set[Callable[[], Awaitable[None]]] = set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine in the background. What it raises is added to `errors`."""

        def record_end(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            error = None if task.cancelled() else task.exception()
            if error is not None:
                self.errors.append(error)
                self.has_changed.set()

        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(record_end)

    def run_coalesced(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run work in the background, once for all requests until it begins.

        If it is requested while it runs, it runs once more afterwards.

        Args:
            work: An async function without arguments.
        """
        self._requested.add(work)
        if work not in self._running:
            self._running.add(work)
            self.spawn(self._run_requested(work))

    async def wait_until(self, condition: Callable[[], Any], *, seconds: float | None) -> None:
        """Wait until a condition holds or the time has passed.

        Args:
            condition: Checked at once and after each `notify`.
            seconds: Longest wait. None: no limit.
        """
        async with self._condition:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._condition.wait_for(condition), seconds)

    async def notify(self) -> None:
        """Let all waits check their conditions."""
        async with self._condition:
            self._condition.notify_all()

    async def _run_requested(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            while work in self._requested:
                self._requested.discard(work)
                await work()
        finally:
            self._running.discard(work)
