"""A runtime that a test drives, in place of an actor or the simulator."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np

from inarch.population import ExchangeOutcome, Snapshot, Trainer
from inarch.population.persistence.checkpoint import Checkpoint
from inarch.population.persistence.history_schemas import Rows
from inarch.population.persistence.interval_report import IntervalReport
from inarch.population.state.snapshot_info import SnapshotInfo
from inarch.population.training.runtime import TrainerRuntime


class FakeRuntime(TrainerRuntime):
    """A runtime without processes: its clock counts steps, and its scions come from a function."""

    def __init__(
        self,
        scion_for: Callable[[SnapshotInfo], Snapshot | ExchangeOutcome] | None = None,
        *,
        stop_after: int | None = None,
    ) -> None:
        self.seconds = 0.0
        self.steps = 0
        self.first_passes = 0
        self.stop_after = stop_after
        self.leaves = False
        self.stores = False
        self.put_buffers: list[np.ndarray] = []
        self.reports: list[IntervalReport] = []
        self.checkpoints: list[Checkpoint] = []
        self.early_rows: list[Rows] = []
        self._scion_for = scion_for or (lambda own: ExchangeOutcome.NOTHING_YET)

    def now(self) -> float:
        return self.seconds

    def after_step(self) -> bool:
        self.seconds += 1.0
        self.steps += 1
        return self.stop_after is None or self.steps < self.stop_after

    def should_continue(self) -> bool:
        return (self.stop_after is None or self.steps < self.stop_after) and not self.leaves

    def compiling(self) -> AbstractContextManager[object]:
        self.first_passes += 1
        return contextlib.nullcontext()

    def prefetch(self, own: SnapshotInfo) -> None:
        self.prefetched_for = own

    def put_early(self, snapshot: Snapshot) -> None:
        self.put_buffers.append(snapshot.buffer.copy())

    def fetch_scions(self, own: SnapshotInfo) -> tuple[Snapshot, ...] | ExchangeOutcome:
        found = self._scion_for(own)
        return (found,) if isinstance(found, Snapshot) else found

    def stored(self, snapshot: Snapshot) -> Snapshot | None:
        return dataclasses.replace(snapshot, buffer=snapshot.buffer.copy()) if self.stores else None

    def record_early(self, rows: Rows, interval: int) -> None:
        self.early_rows.append(rows)

    def commit(self, report: IntervalReport, checkpoint: Checkpoint | None) -> None:
        self.reports.append(report)
        if checkpoint is not None:
            self.checkpoints.append(checkpoint)


def live(trainer: Trainer, runtime: FakeRuntime) -> list[Snapshot]:
    """Train to the end and return copies of the published snapshots."""
    return [
        dataclasses.replace(snapshot, buffer=snapshot.buffer.copy())
        for _, snapshot in trainer.intervals(runtime)
        if snapshot is not None
    ]
