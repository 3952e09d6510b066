"""The exchange client of one network: it publishes snapshots and fetches scions while the network trains.

Two threads do the waiting. The posting thread sends reports, snapshots and heartbeats to the coordinator. The fetching
thread requests scions and brings their bytes to this node. The training thread waits 50 ms at most. A third thread puts
the network's bytes into the object store while the network is evaluated.

Longer than 300 lines: both threads and the training thread share one lock and one state.
"""

from __future__ import annotations

import collections
import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np

from inarch.actors.messages import LARGE_POPULATION, Command, References, heartbeat_seconds, lease_seconds
from inarch.actors.network.exchange_backend import ExchangeBackend, fetch_buffer
from inarch.population.config import RunConfig
from inarch.population.errors import RunError
from inarch.population.membership.outcome import ExchangeOutcome
from inarch.population.membership.snapshot_index import PublishedSnapshot
from inarch.population.persistence.interval_report import IntervalReport
from inarch.population.state.packing import SnapshotPacking
from inarch.population.state.snapshot import Layout, Snapshot
from inarch.population.state.snapshot_info import SnapshotInfo

GRACE_SECONDS = 0.05
"""Longest wait for scions that were requested before the evaluation began."""

MAX_REPORTS = 256
"""Reports kept while the coordinator is silent. The history holds older ones."""

SLOWEST_LINK = 50e6
"""Bytes a second at which snapshots must arrive at least."""

RETRY_SECONDS = 0.2
"""Pause between calls to a coordinator that does not answer."""


class _EarlyPut:
    """Bytes that a thread puts into the object store while the network is evaluated."""

    def __init__(self, buffer: np.ndarray) -> None:
        self.buffer = buffer
        self.references: References | None = None
        """The reference to the bytes in the store. None until `is_done`, and if the store is full."""
        self.is_done = threading.Event()

    def put(self, backend: ExchangeBackend, packing: SnapshotPacking) -> None:
        try:
            self.references = backend.put(packing.pack(self.buffer))
        finally:
            self.is_done.set()


class ExchangeClient:
    """Publishes one network's snapshots and fetches scions for it."""

    def __init__(
        self,
        backend: ExchangeBackend,
        config: RunConfig,
        layout: Layout,
        *,
        logger: logging.Logger,
        prepare: Callable[[Snapshot], Snapshot] | None = None,
        packing: SnapshotPacking | None = None,
    ) -> None:
        """Create the client and start its threads.

        Args:
            backend: Calls to coordinator and object store.
            config: The run's configuration: mode and timeouts.
            layout: Layout that every snapshot must have.
            logger: Log of the network.
            prepare: Applied to each fetched snapshot by the fetching thread. None: nothing is.
            packing: How snapshots are packed and widened. None: they are published as they are.
        """
        self._prepare = prepare or (lambda snapshot: snapshot)
        self._packing = packing or SnapshotPacking(layout, "float32")
        self._backend, self._timeouts, self._layout, self._logger = backend, config.timeouts, layout, logger
        self.fetch_seconds = max(config.timeouts.fetch_seconds, self._packing.nbytes / SLOWEST_LINK)
        """Longest wait for a snapshot."""
        self._is_lockstep = config.mode == "lockstep"
        self._is_large = config.population.size > LARGE_POPULATION
        self._heartbeat_seconds, self._lease_seconds = heartbeat_seconds(config), lease_seconds(config)
        self._is_flushing = False
        self._changed = threading.Condition()
        self._reports: collections.deque[IntervalReport] = collections.deque(maxlen=MAX_REPORTS)
        self._unput: Snapshot | None = None
        self._early: _EarlyPut | None = None
        self._pending: PublishedSnapshot[References] | None = None
        self._is_posting = False
        self._published: list[PublishedSnapshot[References]] = []
        self._request: SnapshotInfo | None = None
        self._fetched: tuple[SnapshotInfo, tuple[Snapshot, ...] | ExchangeOutcome] | None = None
        self._is_closed = False
        self._last_contact = time.monotonic()
        self.command = Command.CONTINUE
        """Newest command of the coordinator."""
        self.is_orphaned = False
        """Whether the coordinator was silent for a lease."""
        self.must_end = threading.Event()
        """Set when the network is orphaned, or a later incarnation has replaced it."""
        for name, step in (("post", self._post_once), ("fetch", self._fetch_once)):
            threading.Thread(target=self._repeat, args=(step,), name=f"exchange-{name}", daemon=True).start()

    # Calls of the training thread.

    def publish_interval(self, report: IntervalReport, snapshot: Snapshot | None) -> None:
        """Send the report of an interval, and publish its snapshot.

        Args:
            report: The report, before the exchange.
            snapshot: Its buffer is copied. None: nothing to publish.
        """
        with self._changed:
            self._reports.append(report)
        if snapshot is not None:
            self.publish(snapshot)
        with self._changed:
            self._changed.notify_all()

    def publish_later(self, report: IntervalReport, snapshot: Snapshot | None) -> None:
        """Send the report of an interval, and let the posting thread put its snapshot into the object store.

        For a caller that does not train in the snapshot's buffer. The buffer must stay as it is until `is_free`.

        Args:
            report: The report, before the exchange.
            snapshot: The snapshot. None, or a call while `is_free` is False: nothing is published.
        """
        with self._changed:
            self._reports.append(report)
            if snapshot is not None and self.is_free:
                self._unput = snapshot
            self._changed.notify_all()

    @property
    def is_free(self) -> bool:
        """Whether no earlier snapshot is on its way."""
        return not self._is_posting and self._pending is None and self._unput is None

    def publish(self, snapshot: Snapshot) -> None:
        """Put a snapshot into the object store and hand its reference to the posting thread.

        In async mode, nothing is published while an earlier snapshot is on its way. A silent coordinator therefore
        costs no memory.

        Args:
            snapshot: Its buffer is copied.
        """
        with self._changed:
            is_free = self.is_free
        if is_free or self._is_lockstep:
            self._put(snapshot)

    def put_early(self, snapshot: Snapshot) -> None:
        """Begin to put a snapshot's bytes into the object store, in a thread of its own. `publish` waits for it.

        In async mode, nothing is put while an earlier snapshot is on its way.

        Args:
            snapshot: Its buffer is copied, and must stay as it is until `publish`.
        """
        with self._changed:
            is_free = self.is_free
        if (is_free or self._is_lockstep) and (self._early is None or self._early.is_done.is_set()):
            self._forget_old()
            self._early = early = _EarlyPut(snapshot.buffer)
            arguments = (self._backend, self._packing)
            threading.Thread(target=early.put, args=arguments, name="exchange-put", daemon=True).start()

    def _references_of(self, buffer: np.ndarray) -> References | None:
        """Put bytes into the object store, unless `put_early` has begun to. Return the reference, or None."""
        early = self._early
        if early is not None:
            if not early.is_done.wait(self.fetch_seconds):
                return None  # it still reads the network's weights, and goes on until the store answers
            self._early = None
            if early.buffer is buffer:
                return early.references
        self._forget_old()
        return self._backend.put(self._packing.pack(buffer))

    def _put(self, snapshot: Snapshot) -> None:
        references = self._references_of(snapshot.buffer)
        if references is None:
            self._logger.warning("interval %d was not published: the store is full", snapshot.origin.interval)
            return
        published = PublishedSnapshot(
            origin=snapshot.origin,
            information=snapshot.information,
            payload=references,
            nbytes=self._packing.nbytes,
        )
        with self._changed:
            self._published.append(published)
            self._pending = published
            self._changed.notify_all()

    def stored(self, snapshot: Snapshot) -> Snapshot | None:
        """Return a snapshot that was put into the object store, as a view of it. None if it is not there as it was.

        Args:
            snapshot: The snapshot that was published.
        """
        if not self._packing.is_exact:
            return None
        with self._changed:
            newest = self._published[-1] if self._published else None
        if newest is None or newest.origin != snapshot.origin:
            return None
        buffer = self._backend.get(newest.payload, seconds=GRACE_SECONDS)
        return None if isinstance(buffer, ExchangeOutcome) else dataclasses.replace(snapshot, buffer=buffer)

    def report(self, report: IntervalReport) -> None:
        """Send the report of an interval after its exchange."""
        with self._changed:
            self._reports.append(report)
            self._changed.notify_all()

    def prefetch(self, own: SnapshotInfo) -> None:
        """Begin to fetch scions, before the evaluation."""
        if not self._is_lockstep:
            self._ask(own)

    def discard_fetched(self) -> None:
        """Drop scions that have arrived for an earlier interval."""
        with self._changed:
            self._fetched = None

    def fetch_scions(self, own: SnapshotInfo) -> tuple[Snapshot, ...] | ExchangeOutcome:
        """Return the scions that have arrived, or the reason why there are none. In lockstep, wait for the barrier."""
        if self._is_lockstep:
            return self._fetch_at_barrier(own)
        with self._changed:
            self._changed.wait_for(lambda: self._fetched is not None, timeout=GRACE_SECONDS)
            fetched, self._fetched = self._fetched, None
        return fetched[1] if fetched is not None else ExchangeOutcome.LATE

    def fetch_one(self, published: PublishedSnapshot[References], *, seconds: float) -> Snapshot | ExchangeOutcome:
        """Fetch a published snapshot, and wait for it.

        Args:
            published: The snapshot in the index.
            seconds: Longest wait.

        Returns:
            The snapshot, or the reason why it did not come. With exchange.precision float32, its buffer is a read-only
            view of the store's memory.
        """
        snapshots = self._fetch_all((published,), seconds=seconds)
        return snapshots if isinstance(snapshots, ExchangeOutcome) else snapshots[0]

    def flush(self, *, seconds: float) -> None:
        """Wait until everything is sent, or so many seconds have passed."""
        with self._changed:
            self._is_flushing = True
            self._changed.notify_all()
            self._changed.wait_for(
                lambda: self.is_orphaned or not (self._reports or not self.is_free),
                seconds,
            )
            self._is_flushing = False

    # Calls of the control threads.

    def published(self) -> list[PublishedSnapshot[References]]:
        """Return the snapshots in the coordinator's index, for a coordinator that was restarted."""
        with self._changed:
            return list(self._published)

    def published_bytes(self, origin: SnapshotInfo) -> np.ndarray:
        """Return the bytes of a published snapshot.

        Args:
            origin: The snapshot.

        Returns:
            A read-only view of the store's memory, shape (bytes,), uint8.

        Raises:
            RunError: The snapshot is not in the object store any more.
        """
        for snapshot in self.published():
            if snapshot.origin == origin:
                buffer = self._backend.get(snapshot.payload, seconds=self.fetch_seconds)
                if isinstance(buffer, np.ndarray):
                    return buffer
        raise RunError(f"network {origin.network_id}: the snapshot of interval {origin.interval} is not there any more")

    def record_contact(self) -> None:
        """Record a sign of life of the coordinator. The lease begins anew."""
        self._last_contact = time.monotonic()

    def close(self) -> None:
        """End the threads."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def drop_snapshots(self) -> None:
        """Let go of all snapshots, own and fetched, so that the object store can free them. Call it after `close`."""
        with self._changed:
            self._published, self._pending, self._fetched, self._unput = [], None, None, None

    def _forget_old(self) -> None:
        """Drop old snapshots before a put.

        Lockstep keeps the version that others may still have to fetch. Async keeps the one in the index until the new
        one has replaced it.
        """
        with self._changed:
            del self._published[:-1]

    def _ask(self, own: SnapshotInfo) -> None:
        with self._changed:
            self._request = own
            self._changed.notify_all()

    def _fetch_at_barrier(self, own: SnapshotInfo) -> tuple[Snapshot, ...] | ExchangeOutcome:
        deadline = time.monotonic() + self._timeouts.barrier_seconds + self._lease_seconds
        self.flush(seconds=self._timeouts.barrier_seconds)
        with self._changed:
            self._fetched = None
        self._ask(own)
        with self._changed:
            # The answer to the request of an earlier interval says nothing about this one.
            while self._fetched is None or self._fetched[0] is not own or self._fetched[1] is ExchangeOutcome.LATE:
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    return ExchangeOutcome.BARRIER_TIMEOUT
                if self.is_orphaned:
                    return ExchangeOutcome.STOPPING
                if self._fetched is not None:
                    self._fetched, self._request = None, own
                    self._changed.notify_all()
                self._changed.wait(timeout=min(remaining, 1.0))
            scions, self._fetched = self._fetched[1], None
        return scions

    # The two threads.

    def _repeat(self, step: Callable[[], None]) -> None:
        """Run the steps of a thread. An unexpected error is logged and must not end the exchange for good."""
        while not self._is_closed:
            try:
                step()
            except Exception:
                self._logger.exception("the exchange with the coordinator failed")
                time.sleep(RETRY_SECONDS)

    def _post_once(self) -> None:
        """Send the newest snapshot and reports if there are any, and a heartbeat otherwise.

        In a large population, reports alone do not cause a call.
        """
        pause = self._heartbeat_seconds
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._is_closed or not self.is_free or (self._reports and (self._is_flushing or not self._is_large))
                ),
                pause,
            )
            if self._is_closed:
                return
            unput = self._unput
        if unput is not None:
            self._put(unput)
        with self._changed:
            self._unput = None
            reports, self._reports = list(self._reports), collections.deque(maxlen=MAX_REPORTS)
            snapshot, self._pending = self._pending, None
            self._is_posting = snapshot is not None or bool(reports)
        is_sent = False
        try:
            is_sent = self._post(reports, snapshot)
        finally:
            with self._changed:
                self._is_posting = False
                if not is_sent:
                    self._reports.extendleft(reversed(reports))
                    self._pending = self._pending or snapshot
                elif snapshot is not None and not self._is_lockstep:
                    self._published = [old for old in self._published if old.origin.step >= snapshot.origin.step]
                self._changed.notify_all()
        self._check_lease()
        if not is_sent:
            time.sleep(min(RETRY_SECONDS, pause))

    def _post(self, reports: list[IntervalReport], snapshot: PublishedSnapshot[References] | None) -> bool:
        command = self._backend.post(reports, snapshot, seconds=self._timeouts.lease_seconds)
        if command is None:
            return False
        self.command = command
        self.record_contact()
        return True

    def _check_lease(self) -> None:
        is_over = time.monotonic() - self._last_contact > self._lease_seconds
        if self.command is Command.FENCED:
            self.must_end.set()
        elif is_over and not self.is_orphaned:
            self.is_orphaned = True
            with self._changed:
                self._changed.notify_all()
            self.must_end.set()

    def _fetch_once(self) -> None:
        """Ask the coordinator for scions, then bring their bytes to this node.

        Scions that arrive too late for their interval wait for the next one, where their staleness is checked.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or self._request is not None)
            own, self._request = self._request, None
        if own is None:
            return
        scions: tuple[Snapshot, ...] | ExchangeOutcome = ExchangeOutcome.LATE  # a barrier asks again
        try:
            scions = self._fetch(own)
        finally:
            with self._changed:
                self._fetched = (own, scions)
                self._changed.notify_all()

    def _fetch(self, own: SnapshotInfo) -> tuple[Snapshot, ...] | ExchangeOutcome:
        fetch_seconds, barrier_seconds = self.fetch_seconds, self._timeouts.barrier_seconds
        seconds = barrier_seconds + fetch_seconds if self._is_lockstep else fetch_seconds
        selected = self._backend.ask(own, seconds=seconds)
        if selected is None:
            time.sleep(min(RETRY_SECONDS, fetch_seconds))
            return ExchangeOutcome.LATE
        self.record_contact()
        if isinstance(selected, ExchangeOutcome):
            return selected
        return self._fetch_all(
            selected, seconds=max(fetch_seconds, len(selected) * self._packing.nbytes / SLOWEST_LINK)
        )

    def _fetch_all(
        self, selected: Sequence[PublishedSnapshot[References]], *, seconds: float
    ) -> tuple[Snapshot, ...] | ExchangeOutcome:
        """Fetch several snapshots at once, within one deadline. If none arrives, return the reason of the first."""
        deadline = time.monotonic() + seconds
        if len(selected) > 1:
            self._backend.wait([snapshot.payload for snapshot in selected], seconds=seconds)
        results = []
        for snapshot in selected:
            remaining = max(0.0, deadline - time.monotonic())
            buffer = self._backend.get(snapshot.payload, seconds=remaining)
            if buffer is ExchangeOutcome.GONE:
                self._backend.withdraw(snapshot.origin)
            if isinstance(buffer, ExchangeOutcome):
                results.append(buffer)
                continue
            found = as_snapshot(snapshot, buffer, self._layout, packing=self._packing)
            results.append(found if isinstance(found, ExchangeOutcome) else self._prepare(found))
        scions = tuple(result for result in results if isinstance(result, Snapshot))
        return scions or next(result for result in results if isinstance(result, ExchangeOutcome))


def as_snapshot(
    published: PublishedSnapshot[References], buffer: np.ndarray, layout: Layout, *, packing: SnapshotPacking
) -> Snapshot | ExchangeOutcome:
    """Return fetched bytes as a snapshot, or STRUCTURE if they have another layout.

    Args:
        published: The snapshot in the index.
        buffer: Its bytes as they were published, shape (bytes,), uint8.
        layout: Layout that it must have.
        packing: How snapshots of this layout are published.
    """
    if published.origin.structure != layout.fingerprint or buffer.nbytes != packing.nbytes:
        return ExchangeOutcome.STRUCTURE
    order = layout.in_order(channels_last=published.origin.is_channels_last)
    return Snapshot(
        origin=published.origin, information=published.information, buffer=packing.widen(buffer), layout=order
    )


def fetch(
    published: PublishedSnapshot[References], layout: Layout, *, packing: SnapshotPacking, seconds: float
) -> Snapshot | ExchangeOutcome:
    """Fetch a published snapshot from the object store.

    Args:
        published: The snapshot in the index.
        layout: Layout that it must have.
        packing: How snapshots of this layout are published.
        seconds: Longest wait.

    Returns:
        The snapshot, or the reason why it did not come. With precision float32, its buffer is a read-only view of the
        store's memory.
    """
    buffer = fetch_buffer(published.payload, seconds=seconds)
    if isinstance(buffer, ExchangeOutcome):
        return buffer
    return as_snapshot(published, buffer, layout, packing=packing)
