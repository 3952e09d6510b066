"""Pushes what a network publishes and fetches what it may take, on threads of its own, so that training never waits.

At most one post is under way, and while it is, nothing newer is put into the store: the store holds at most two
snapshots of a network, however long the coordinator is silent.
"""

from __future__ import annotations

import collections
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from inarch.actors.messages import Command
from inarch.population.config import TimeoutsConfig
from inarch.population.membership.outcome import ExchangeOutcome
from inarch.population.membership.snapshot_index import PublishedSnapshot
from inarch.population.persistence.interval_report import IntervalReport
from inarch.population.state.snapshot import Layout, Snapshot, SnapshotInfo

GRACE_SECONDS = 0.05
"""How long a pull waits for an answer that was asked for before the evaluation began."""

KEPT_REPORTS = 256
"""Reports kept for a coordinator that is silent; older ones are in the history anyway."""

RETRY_SECONDS = 0.2
"""Between calls to a coordinator that does not answer."""

HEARTBEATS = 6
"""Heartbeats in a lease time."""


class ExchangeClient:
    """One network's exchange with the coordinator and the object store."""

    def __init__(
        self,
        coordinator: Any,
        *,
        network_id: int,
        incarnation: int,
        timeouts: TimeoutsConfig,
        layout: Layout,
        is_lockstep: bool,
        on_orphaned: Callable[[], None],
        logger: logging.Logger,
    ) -> None:
        """Args: the coordinator's handle; whose courier; how long to wait; the snapshots' layout; whether pulls wait
        for the barrier; what to do when the lease has run out; where to log."""
        self._coordinator, self._network, self._incarnation = coordinator, network_id, incarnation
        self._timeouts, self._layout, self._is_lockstep = timeouts, layout, is_lockstep
        self._on_orphaned, self._logger = on_orphaned, logger
        self._changed = threading.Condition()
        self._reports: collections.deque[IntervalReport] = collections.deque(maxlen=KEPT_REPORTS)
        self._pending: PublishedSnapshot[list[ray.ObjectRef]] | None = None
        self._is_posting = False
        self._published: list[PublishedSnapshot[list[ray.ObjectRef]]] = []
        self._request: SnapshotInfo | None = None
        self._fetched: tuple[SnapshotInfo, tuple[Snapshot, ...] | ExchangeOutcome] | None = None
        self._is_closed = False
        self._heard_seconds = time.monotonic()
        self.command = Command.CONTINUE
        self.is_orphaned = False
        self._threads = [
            threading.Thread(target=self._forever, args=(step,), name=f"courier-{name}", daemon=True)
            for name, step in (("post", self._post_once), ("fetch", self._fetch_once))
        ]
        for thread in self._threads:
            thread.start()

    def publish_interval(self, report: IntervalReport, snapshot: Snapshot | None) -> None:
        """Called by the training thread: tell of an interval, and offer its snapshot."""
        with self._changed:
            self._reports.append(report)
        if snapshot is not None:
            self.publish(snapshot)
        with self._changed:
            self._changed.notify_all()

    def publish(self, snapshot: Snapshot) -> None:
        """Called by the training thread: put the snapshot into the store and hand it to the posting thread. While an
        earlier one is on its way an asynchronous network keeps this one back."""
        with self._changed:
            is_free = not self._is_posting and self._pending is None
        if not (is_free or self._is_lockstep):
            return
        self._forget_old()
        try:
            reference = ray.put(snapshot.buffer)
        except RayError as error:  # a full store costs an exchange, not the network
            self._logger.warning("interval %d was not published: %s", snapshot.origin.interval, error)
            return
        snapshot_ = PublishedSnapshot(origin=snapshot.origin, information=snapshot.information, payload=[reference])
        with self._changed:
            self._published.append(snapshot_)
            self._pending = snapshot_
            self._changed.notify_all()

    def report(self, report: IntervalReport) -> None:
        """Called by the training thread after an interval: tell how its exchange went."""
        with self._changed:
            self._reports.append(report)
            self._changed.notify_all()

    def prefetch(self, own: SnapshotInfo) -> None:
        """Called before the evaluation: begin to ask and to fetch."""
        if not self._is_lockstep:
            self._ask(own)

    def fetch_scions(self, own: SnapshotInfo) -> tuple[Snapshot, ...] | ExchangeOutcome:
        """Called by the training thread: what has arrived. In lockstep, waits for the barrier."""
        if self._is_lockstep:
            return self._pull_at_barrier(own)
        with self._changed:
            self._changed.wait_for(lambda: self._fetched is not None, timeout=GRACE_SECONDS)
            fetched, self._fetched = self._fetched, None
        return fetched[1] if fetched is not None else ExchangeOutcome.LATE

    def published(self) -> list[PublishedSnapshot[list[ray.ObjectRef]]]:
        """What this network has on the board: for a coordinator that comes back."""
        with self._changed:
            return list(self._published)

    def flush(self, *, seconds: float) -> None:
        """Wait until everything is posted, at most so long."""
        with self._changed:
            self._changed.wait_for(
                lambda: self.is_orphaned or not (self._reports or self._pending is not None or self._is_posting),
                seconds,
            )

    def record_heartbeat(self) -> None:
        """The coordinator gave a sign of life."""
        self._heard_seconds = time.monotonic()

    def close(self) -> None:
        """End the threads."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _forget_old(self) -> None:
        """Before a put: lockstep keeps the version that others may still have to take, async what is on the board
        until the new one has replaced it."""
        with self._changed:
            del self._published[:-1]

    def _ask(self, own: SnapshotInfo) -> None:
        with self._changed:
            self._request = own
            self._changed.notify_all()

    def _pull_at_barrier(self, own: SnapshotInfo) -> tuple[Snapshot, ...] | ExchangeOutcome:
        deadline = time.monotonic() + self._timeouts.barrier_seconds + self._timeouts.lease_seconds
        self.flush(seconds=self._timeouts.barrier_seconds)
        with self._changed:
            self._fetched = None
        self._ask(own)
        with self._changed:
            # An answer to an earlier interval's question, given up by then, says nothing of this one.
            while self._fetched is None or self._fetched[0] is not own or self._fetched[1] is ExchangeOutcome.LATE:
                left = deadline - time.monotonic()
                if left <= 0:
                    return ExchangeOutcome.BARRIER_TIMEOUT
                if self.is_orphaned:
                    return ExchangeOutcome.STOPPING
                if self._fetched is not None:
                    self._fetched, self._request = None, own
                    self._changed.notify_all()
                self._changed.wait(timeout=min(left, 1.0))
            found, self._fetched = self._fetched[1], None
        return found

    def _forever(self, step: Callable[[], None]) -> None:
        """A thread's life: an error that nobody foresaw is logged and must not end the exchange for good."""
        while not self._is_closed:
            try:
                step()
            except Exception:
                self._logger.exception("the exchange with the coordinator failed")
                time.sleep(RETRY_SECONDS)

    def _post_once(self) -> None:
        """The posting thread: newest snapshot and reports when there are any, a heartbeat when not."""
        pause = self._timeouts.lease_seconds / HEARTBEATS
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or self._reports or self._pending is not None, pause)
            if self._is_closed:
                return
            reports, self._reports = list(self._reports), collections.deque(maxlen=KEPT_REPORTS)
            snapshot_, self._pending = self._pending, None
            self._is_posting = snapshot_ is not None or bool(reports)
        is_posted = False
        try:
            is_posted = self._post(reports, snapshot_)
        finally:
            with self._changed:
                self._is_posting = False
                if not is_posted:
                    self._reports.extendleft(reversed(reports))
                    self._pending = self._pending or snapshot_
                elif snapshot_ is not None and not self._is_lockstep:
                    self._published = [
                        published for published in self._published if published.origin.step >= snapshot_.origin.step
                    ]
                self._changed.notify_all()
        self._check_lease()
        if not is_posted:
            time.sleep(min(RETRY_SECONDS, pause))

    def _post(self, reports: list[IntervalReport], snapshot_: PublishedSnapshot[list[ray.ObjectRef]] | None) -> bool:
        call = self._coordinator.post.remote(self._network, self._incarnation, reports, snapshot_)
        try:
            self.command = ray.get(call, timeout=self._timeouts.lease_seconds)
        except (RayError, GetTimeoutError):
            return False
        self.record_heartbeat()
        return True

    def _check_lease(self) -> None:
        is_over = time.monotonic() - self._heard_seconds > self._timeouts.lease_seconds
        if self.command is Command.FENCED:
            self._on_orphaned()
        elif is_over and not self.is_orphaned:
            self.is_orphaned = True
            with self._changed:
                self._changed.notify_all()
            self._on_orphaned()

    def _fetch_once(self) -> None:
        """The fetching thread: ask the coordinator, then bring the scion's bytes to this node. One that arrives after
        its pull waits for the next, which looks at its age."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or self._request is not None)
            own, self._request = self._request, None
        if own is None:
            return
        found = self._fetch(own)
        with self._changed:
            self._fetched = (own, found)
            self._changed.notify_all()

    def _fetch(self, own: SnapshotInfo) -> tuple[Snapshot, ...] | ExchangeOutcome:
        timeouts = self._timeouts
        seconds = timeouts.barrier_seconds + timeouts.fetch_seconds if self._is_lockstep else timeouts.fetch_seconds
        try:
            offered: Any = ray.get(self._coordinator.ask.remote(own), timeout=seconds)
        except (RayError, GetTimeoutError):
            time.sleep(min(RETRY_SECONDS, timeouts.fetch_seconds))
            return ExchangeOutcome.LATE
        self.record_heartbeat()
        if isinstance(offered, ExchangeOutcome):
            return offered
        return fetch_all(offered, self._layout, seconds=timeouts.fetch_seconds)


def fetch_all(
    offered: Sequence[PublishedSnapshot[list[ray.ObjectRef]]], layout: Layout, *, seconds: float
) -> tuple[Snapshot, ...] | ExchangeOutcome:
    """Those of several posted snapshots that came, all within `seconds`; where none did, why the first did not."""
    deadline = time.monotonic() + seconds
    found = [fetch(snapshot_, layout, seconds=max(0.0, deadline - time.monotonic())) for snapshot_ in offered]
    return tuple(one for one in found if isinstance(one, Snapshot)) or next(
        r for r in found if isinstance(r, ExchangeOutcome)
    )


def fetch(
    offered: PublishedSnapshot[list[ray.ObjectRef]], layout: Layout, *, seconds: float
) -> Snapshot | ExchangeOutcome:
    """A posted snapshot's bytes: a read-only view of the store's memory; or why they did not come."""
    try:
        buffer: Any = ray.get(offered.payload[0], timeout=seconds)
    except GetTimeoutError:
        return ExchangeOutcome.LATE
    except RayError:
        return ExchangeOutcome.GONE
    if offered.origin.structure != layout.fingerprint or buffer.nbytes != layout.nbytes:
        return ExchangeOutcome.STRUCTURE
    return Snapshot(origin=offered.origin, information=offered.information, buffer=buffer, layout=layout)
