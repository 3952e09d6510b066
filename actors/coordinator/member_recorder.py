"""Writes the record of the members whenever they change."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from inarch.actors.coordinator import run_metadata
from inarch.actors.coordinator.background_tasks import BackgroundTasks
from inarch.actors.coordinator.monitor import RunMonitor
from inarch.actors.coordinator.run_state import Phase, RunState
from inarch.population.errors import RunExistsError, StorageError
from inarch.population.membership.members import Members
from inarch.population.persistence.storage import Storage

SAME_SECONDS = 30.0
"""Seconds for which a record that has not changed is not written again. Each write also shows whether another start
has claimed the folder."""


class MemberRecorder:
    """Writes members, phase and message of a run to its folder. The event loop never waits for storage."""

    def __init__(
        self,
        storage: Storage,
        members: Members,
        state: RunState,
        background: BackgroundTasks,
        *,
        monitor: RunMonitor,
        token: str | None,
    ) -> None:
        """Create the recorder. Nothing is written yet.

        Args:
            storage: Folder of the run.
            members: Members of the run.
            state: State of the run.
            background: Runs the writes.
            monitor: Events and log of the run. The log is copied to the folder with each record if it lies elsewhere.
            token: Token of the run's claim on its folder. None: nothing was claimed.
        """
        self._storage, self._members, self._state = storage, members, state
        self._background, self._monitor, self._token = background, monitor, token
        self._written: tuple[Any, ...] | None = None
        self._written_at = 0.0
        self._last_phase: Phase | None = None
        self._is_complete = False
        self._is_writing = asyncio.Lock()

    def save(self) -> None:
        """Write the record soon. No caller waits for it."""
        self._background.run_coalesced(self.write)

    async def write(self, *, phase: Phase | None = None) -> None:
        """Write the record now.

        A storage error becomes the run's message. If another start has claimed the folder, the run fails.

        Args:
            phase: The run's last phase. Nothing is recorded after it. None: record the present phase.
        """
        self._last_phase = phase or self._last_phase
        async with self._is_writing:  # the newest record must be the one that was requested last
            if not self._is_complete:
                await self._write(self._last_phase)

    async def _write(self, last_phase: Phase | None) -> None:
        is_unread = not (len(self._members) or self._state.has_begun)
        if is_unread:  # a restarted coordinator that has read no members yet must not record that
            return
        events = self._monitor.life_events()
        state = self._state
        content = (state.phase, state.message, [*self._members], len(events), state.resources, state.limit)
        is_recent = time.monotonic() - self._written_at < SAME_SECONDS
        if content == self._written and is_recent and last_phase is None:
            return
        try:
            await asyncio.to_thread(
                run_metadata.write_members,
                self._storage,
                token=self._token,
                state=last_phase or self._state.phase,
                message=self._state.message,
                members=self._members,
                events=events,
                placement=self._state.resources,
                began=time.time() - self._state.seconds,
                limit=self._state.limit,
            )
            self._written, self._written_at = content, time.monotonic()
            self._is_complete = last_phase is not None
            self._monitor.record_storage(None, "")
            await asyncio.to_thread(self._monitor.log.sync)
        except StorageError as error:
            self._state.note_failure(str(error))
            self._monitor.record_storage(None, str(error))
        except RunExistsError as error:
            self._state.fail(str(error))
            self._background.has_changed.set()
