"""A coordinator and an object store that a test drives."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import cast

import numpy as np

from inarch.actors.messages import Command, References
from inarch.population.membership.outcome import ExchangeOutcome
from inarch.population.membership.snapshot_index import PublishedSnapshot
from inarch.population.persistence.interval_report import IntervalReport
from inarch.population.state.snapshot_info import SnapshotInfo

Answer = tuple[PublishedSnapshot[References], ...] | ExchangeOutcome | None


class FakeBackend:
    """Records what a network sends, and answers as the test says."""

    def __init__(self) -> None:
        """Create a backend that takes every post and has no snapshots to give."""
        self.command: Command | None = Command.CONTINUE
        """Answer to a post; None: the coordinator is silent."""
        self.answer: Callable[[SnapshotInfo], Answer] = lambda own: ExchangeOutcome.NOTHING_YET
        self.is_full = False
        """Whether the object store is full."""
        self.posts: list[tuple[list[IntervalReport], PublishedSnapshot[References] | None]] = []
        self.requests: list[SnapshotInfo] = []
        self.withdrawn: list[SnapshotInfo] = []
        self.waited: list[tuple[int, float]] = []
        """Numbers of snapshots that were waited for at once, with the longest wait."""
        self.gate = threading.Event()
        """A post waits until it is set."""
        self.gate.set()
        self.num_puts = 0
        self.put_gate = threading.Event()
        """Bytes reach the store when it is set."""
        self.put_gate.set()
        self.answer_gate = threading.Event()
        """An answer to a request waits until it is set."""
        self.answer_gate.set()
        self._buffers: dict[int, np.ndarray] = {}

    def post(
        self, reports: list[IntervalReport], snapshot: PublishedSnapshot[References] | None, *, seconds: float
    ) -> Command | None:
        self.gate.wait(10.0)
        if self.command is not None:
            self.posts.append((reports, snapshot))
        return self.command

    def ask(self, own: SnapshotInfo, *, seconds: float) -> Answer:
        self.requests.append(own)
        self.answer_gate.wait(10.0)
        return self.answer(own)

    def put(self, buffer: np.ndarray) -> References | None:
        self.num_puts += 1
        self.put_gate.wait(10.0)
        if self.is_full:
            return None
        key = len(self._buffers)
        self._buffers[key] = buffer.copy()
        return cast("References", [key])

    def get(self, references: References, *, seconds: float) -> np.ndarray | ExchangeOutcome:
        return self._buffers.get(cast("int", references[0]), ExchangeOutcome.GONE)

    def wait(self, references: list[References], *, seconds: float) -> None:
        self.waited.append((len(references), seconds))

    def withdraw(self, origin: SnapshotInfo) -> None:
        self.withdrawn.append(origin)

    def lose(self, published: PublishedSnapshot[References]) -> None:
        """Lose a snapshot's bytes, as when its owner dies."""
        self._buffers.pop(cast("int", published.payload[0]))

    def published(self) -> list[PublishedSnapshot[References]]:
        """The snapshots that were posted, in order."""
        return [snapshot for _, snapshot in self.posts if snapshot is not None]

    def reported_intervals(self) -> list[int]:
        """The intervals of the reports that were posted, in order."""
        return [report.origin.interval for reports, _ in self.posts for report in reports]
