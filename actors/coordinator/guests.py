"""The guests of a run: training loops of the caller's own that join it, and leave it when they like.

A guest's process belongs to the caller. The coordinator never starts, restarts or ends it. It only knows the guest by
its calls: a guest that is silent for one lease is stalled, and gone after three.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from typing import Any

from inarch.actors.coordinator import run_metadata
from inarch.actors.coordinator.run_context import RunContext
from inarch.actors.messages import (
    Command,
    Enrollment,
    ExitReason,
    GuestApplication,
    GuestTerms,
    heartbeat_seconds,
)
from inarch.population.config import OpenConfig
from inarch.population.errors import ConfigError, RunError, StorageError, StructureError
from inarch.population.evaluation.metrics import Metric
from inarch.population.membership.members import OUTSIDE, MemberState
from inarch.population.persistence.claim import check_holds
from inarch.population.persistence.history import to_parquet
from inarch.population.persistence.interval_report import IntervalReport
from inarch.population.state.snapshot_info import SnapshotInfo
from inarch.population.tasks.run_spec import RunInfo

MARGIN_SECONDS = 1.0
"""Seconds beyond the time of a heartbeat in which a guest must call."""

WRITE_SECONDS = 5.0
"""Seconds between two writes of the guests' rows. A coordinator that dies loses those since the last write."""


class Guests:
    """Admits guests, and records what they report. Every method is called on the coordinator's event loop."""

    def __init__(self, context: RunContext) -> None:
        """Create it without guests.

        Args:
            context: The parts of the run.
        """
        self._context, self._population, self._state = context, context.population, context.state
        self._members, self._monitor = context.population.members, context.monitor
        self._rows: dict[str, list[dict[str, Any]]] = {"metrics": [], "grafts": []}
        self._notified: set[int] = set()
        self._stopped_at: float | None = None
        self._written = self._last_member = time.monotonic()

    def terms(self) -> GuestTerms:
        """Return what a loop must know before it joins, as `GuestApi.terms`."""
        spec = self._context.spec
        return GuestTerms(
            config=spec.config,
            info=self._joinable_info(),
            registrations=spec.registrations,
            is_open_run=spec.open is not None,
        )

    def enroll(self, application: GuestApplication) -> Enrollment:
        """Make a loop a member, as `GuestApi.enroll`."""
        info = self._agreed(self._joinable_info(), application)
        if info != self._state.info:
            self._state.info = info
            self._context.background.spawn(self._write_info(info))
        member = self._members.enroll(application.name)
        self._population.forget(member.id)
        self._monitor.record_placement(member.id, 0, process=application.process, node=application.node)
        self._monitor.emit("join", member.id, incarnation=member.incarnation, name=member.name)
        self._context.recorder.save()
        return Enrollment(
            network_id=member.id,
            incarnation=member.incarnation,
            every=info.interval_steps,
            num_intervals=info.num_intervals,
            metrics=info.metrics,
        )

    def _joinable_info(self) -> RunInfo:
        """Return what is known of the run, which must admit guests."""
        run = self._context.spec.name
        if not self._state.is_open or self._state.info is None:
            raise RunError(f"run {run} is {self._state.phase}; no training loop can join it any more")
        if self._context.is_lockstep:
            raise RunError(
                f"run {run} has mode=lockstep; a training loop of your own can join only a run with mode=async"
            )
        return self._state.info

    def _agreed(self, info: RunInfo, application: GuestApplication) -> RunInfo:
        """Return what is known of the run once a loop has joined. The first loop of an open run decides what is not."""
        run = self._context.spec.name
        if application.every and info.interval_steps and application.every != info.interval_steps:
            raise ConfigError(
                f"every={application.every}: run {run} exchanges every {info.interval_steps} optimizer steps; give "
                "that number, or leave `every` out"
            )
        if info.structure and info.structure != application.structure:
            raise StructureError(
                f"this model has {application.parameters:,} parameters and snapshots of "
                f"{application.snapshot_bytes:,} bytes with structure {application.structure}; the members of run "
                f"{run} have {info.parameters:,} parameters, {info.snapshot_bytes:,} bytes and structure "
                f"{info.structure}; a population needs one architecture, with the same names"
            )
        return dataclasses.replace(
            info,
            structure=info.structure or application.structure,
            snapshot_bytes=info.snapshot_bytes or application.snapshot_bytes,
            parameters=info.parameters or application.parameters,
            interval_steps=info.interval_steps or application.every or 0,
        )

    def sign_off(self, network_id: int, incarnation: int, outcome: ExitReason) -> None:
        """Let a guest leave, as `GuestApi.sign_off`."""
        if self._population.is_current(network_id, incarnation):
            state = MemberState.RETIRED if outcome is ExitReason.DONE else MemberState.STOPPED
            self._members.readmit(network_id)
            self._members.set_state(network_id, state)
            self._population.forget(network_id)
            self._monitor.emit("leave", network_id, outcome=outcome.value)
            self._context.recorder.save()
            self._context.background.has_changed.set()

    def withdraw(self, origin: SnapshotInfo) -> None:
        """Remove a guest's snapshot whose owner is gone, as `CoordinatorApi.withdraw`."""
        is_guest = origin.network_id in self._members and self._members[origin.network_id].is_guest
        newest = self._population.index.newest(origin.network_id)
        if is_guest and newest is not None and newest.origin == origin:
            self._population.index.remove(origin.network_id)

    def command(self, network_id: int) -> Command:
        """Return what a guest is to do. After the end of a run that was not stopped it may train on alone."""
        if self._state.is_stopped:
            self._notified.add(network_id)
            return Command.STOP
        is_leaving = self._members[network_id].state is MemberState.LEAVING
        return Command.LEAVE if is_leaving else Command.CONTINUE

    def scale(self, size: int) -> None:
        """Ask the youngest guests of an open run to leave, until `size` remain.

        Args:
            size: Wanted number of members.

        Raises:
            ConfigError: The size is below 1, or above the present number.
        """
        staying = [
            network_id
            for network_id in self._members.active_guests()
            if self._members[network_id].state is not MemberState.LEAVING
        ]
        if size < 1:
            raise ConfigError(f"a population must have at least 1 network, got {size}")
        if size > len(staying):
            raise ConfigError(
                f"run {self._context.spec.name} has {len(staying)} members and starts none itself; it grows when more "
                "training loops join"
            )
        for network_id in staying[size:]:
            self._members.set_state(network_id, MemberState.LEAVING)

    def record(self, report: IntervalReport) -> None:
        """Keep the rows of a completed interval until they are written."""
        if report.outcome is not None:
            self._rows["metrics"].append(report.row(time=time.time()))
            self._rows["grafts"] += [dict(row) for row in report.graft_rows]

    def write_soon(self) -> None:
        """Write the rows in the background, if the last write was long enough ago."""
        if any(self._rows.values()) and time.monotonic() - self._written > WRITE_SECONDS:
            self._context.background.run_coalesced(self.write_rows)

    async def write_rows(self) -> None:
        """Write the rows since the last write, one file a table. If storage fails, they stay for the next write."""
        rows, self._rows = self._rows, {"metrics": [], "grafts": []}
        self._written = time.monotonic()
        try:
            for table, content in rows.items():
                if content:
                    await asyncio.to_thread(self._write, table, content)
                    rows[table] = []
        except StorageError as error:
            self._state.note_failure(str(error))
            for table, content in rows.items():
                self._rows[table] = content + self._rows[table]

    def _write(self, table: str, rows: list[dict[str, Any]]) -> None:
        check_holds(self._context.storage, self._context.spec.token)
        name = f"guests-{time.time_ns()}.parquet"
        self._context.storage.write(f"{table}/{name}", to_parquet(rows, table))

    async def _write_info(self, info: RunInfo) -> None:
        try:
            await asyncio.to_thread(run_metadata.write_config, self._context.storage, self._context.spec, info)
        except (RunError, StorageError) as error:
            self._state.note_failure(str(error))

    def mark_recovered(self) -> None:
        """Begin the leases of all guests anew, for a coordinator that was restarted."""
        for member in self._members.guests:
            if member.state not in OUTSIDE:
                self._monitor.record_heartbeat(member.id)

    def record_gone(self, gone: tuple[int, ...]) -> None:
        """Record guests that have been silent for three leases.

        Args:
            gone: Ids of the guests.
        """
        for network_id in gone:
            self._monitor.emit("loss", network_id, reason="it was silent for three leases")
        if gone:
            self._context.recorder.save()
            self._context.background.has_changed.set()

    def has_notified_all(self) -> bool:
        """Return whether every guest has been notified of a stop. True for a run that was not stopped.

        The answer to a guest's next heartbeat notifies it. After the time of one heartbeat the run waits no longer.
        """
        if not self._state.is_stopped:
            return True
        self._stopped_at = self._stopped_at or time.monotonic()
        seconds = heartbeat_seconds(self._context.config) + MARGIN_SECONDS
        is_late = time.monotonic() - self._stopped_at > seconds
        return is_late or self._notified.issuperset(self._members.active_guests())

    def is_over(self) -> bool:
        """Return whether an open run is over.

        A run that was stopped is over when its guests have left, or a lease later. Any other run is over when it has
        had no guest for `OpenConfig.idle_seconds`.
        """
        settings, now, has_guests = self._context.spec.open, time.monotonic(), bool(self._members.active_guests())
        if settings is None:
            return False
        if self._state.is_stopped:
            return not has_guests or now - self._last_member > self._context.config.timeouts.lease_seconds
        if has_guests:
            self._last_member = now
        return now - self._last_member > settings.idle_seconds


def open_info(settings: OpenConfig) -> RunInfo:
    """Return what is known of an open run before the first loop has joined.

    Args:
        settings: Settings of the run.
    """
    return RunInfo(
        metrics=(Metric(name=settings.metric, higher_is_better=not settings.lower_is_better),),
        train_examples=0,
        data_bytes=0,
        data_fingerprint="",
        structure="",
        snapshot_bytes=0,
        parameters=0,
        num_intervals=settings.num_intervals or 0,
        steps_per_epoch=0,
        interval_steps=settings.every or 0,
    )
