"""A network of the population: it trains on its own, exchanges snapshots and commits checkpoints.

Longer than 300 lines: the calls share the state of one process.
"""

from __future__ import annotations

import functools
import os
import time
from contextlib import AbstractContextManager
from typing import Any, cast

import numpy as np
import ray
import torch
from ray.actor import ActorProxy, exit_actor
from ray.exceptions import GetTimeoutError, RayError

from inarch.actors.coordinator_api import CoordinatorApi
from inarch.actors.messages import (
    NAMESPACE,
    Command,
    ExitReason,
    NetworkSpec,
    coordinator_name,
    lease_seconds,
)
from inarch.actors.network.async_checkpointer import AsyncCheckpointer, StorageMetrics
from inarch.actors.network.compile_lock import CompileLock
from inarch.actors.network.early_rows import EarlyRows
from inarch.actors.network.exchange_backend import RayExchangeBackend
from inarch.actors.network.exchange_client import ExchangeClient
from inarch.actors.network.gpu import explain_memory, network_device
from inarch.actors.network.log_file import LogFile
from inarch.actors.network.mps import join_mps
from inarch.actors.network.standing import NetworkDescription, NetworkStanding
from inarch.actors.network.storage_report import REPORT_SECONDS, StorageReport
from inarch.actors.network.watchdog import Watchdog, exit_soon, limit_building
from inarch.actors.registrations import register_all
from inarch.actors.retry import RETRY_SECONDS, retry
from inarch.population.errors import CheckpointError, RunError
from inarch.population.extension.user_code import place_of
from inarch.population.membership.outcome import ExchangeOutcome
from inarch.population.persistence.checkpoint import Checkpoint, CheckpointStore
from inarch.population.persistence.history_schemas import Rows
from inarch.population.persistence.interval_report import IntervalReport
from inarch.population.persistence.storage import Storage
from inarch.population.state.snapshot import Snapshot
from inarch.population.state.snapshot_info import SnapshotInfo
from inarch.population.tasks.built_in import task_of
from inarch.population.training.birth import StartPoint
from inarch.population.training.trainer import Trainer

STORAGE_DEADLINES = 8
"""Storage deadlines that pass before a network gives up on its storage."""

SLOW_PARTS = 4
"""A write that has lasted for this part of a storage deadline is reported as trouble with storage."""

ENDING = (Command.STOP, Command.FENCED)


class NetworkWorker:
    """Trains one network of a run. `Network` is its Ray actor, and documents the calls of the coordinator."""

    def __init__(self, spec: NetworkSpec, data: Any) -> None:
        """Build the network, and resume from its newest checkpoint if it has one.

        Args:
            spec: The network and its run.
            data: The task's data, a view of the object store.
        """
        self._spec = spec
        config, network_id = spec.run.config, spec.network_id
        # Before any code of the caller, which may use the GPU: a process joins the service when CUDA begins.
        self._mps = join_mps(config.device.mps) if 0 < spec.gpus < 1 else None
        register_all(spec.run.registrations)
        device = network_device(spec)
        torch.set_num_threads(spec.threads)
        if config.device.deterministic:
            torch.use_deterministic_algorithms(True)
        self._storage_seconds = STORAGE_DEADLINES * config.timeouts.storage_seconds
        storage = Storage(spec.run.folder, deadline_seconds=config.timeouts.storage_seconds)
        # A thread writes the lines: a folder that hangs must not hold up training.
        self._log = LogFile(storage, f"network-{network_id}", in_background=True)
        building = limit_building(self._log, seconds=config.timeouts.progress_seconds)
        self._checkpoints = CheckpointStore(storage, keep=config.checkpoint.keep, token=spec.run.token)
        self._retry(functools.partial(self._checkpoints.acquire_fence, network_id, spec.incarnation))
        task = task_of(spec.run).bind(config, data, model=spec.run.factory, device=device)
        try:
            self.trainer = Trainer(task, config, network_id=network_id, incarnation=spec.incarnation)
        except torch.OutOfMemoryError as error:
            explain_memory(error, spec.gpus)
            raise
        self._start = StartPoint.initial()
        self._is_resumed = self._retry(self._resume)
        handle = ray.get_actor(coordinator_name(spec.run.name), namespace=NAMESPACE)
        self._coordinator = cast("ActorProxy[CoordinatorApi]", handle)
        metrics = StorageMetrics(spec.run.name)
        self._checkpointer = AsyncCheckpointer(
            self._checkpoints,
            self._log,
            deadline_seconds=self._storage_seconds,
            slow_seconds=config.timeouts.storage_seconds / SLOW_PARTS,
            metrics=metrics,
        )
        self._storage_report = StorageReport(self._checkpointer)
        self._early_rows = EarlyRows(self._checkpoints, network_id, spec.incarnation, log=self._log)
        backend = RayExchangeBackend(self._coordinator, network_id, spec.incarnation)
        self._exchange = ExchangeClient(
            backend,
            config,
            self.trainer.layout,
            logger=self._log.logger,
            prepare=self.trainer.prepare,
            packing=self.trainer.packing,
        )
        limit = max(
            config.timeouts.progress_seconds,
            config.timeouts.barrier_seconds + lease_seconds(config),
            2 * self._storage_seconds,
        )
        self._compile_lock = CompileLock(self._log.logger)
        building.cancel()
        self._watchdog = Watchdog(self._log, limit_seconds=limit, must_end=self._exchange.must_end)
        self._report: IntervalReport | None = None
        self._exit: ExitReason | None = None
        self._failure: Exception | None = None
        self._step_seconds = config.debug.straggler.seconds(network_id)
        self._step_ended = 0.0
        self._is_stopping = False
        self._is_leaving = False
        self._is_moving = False
        self._is_pausing = False
        self._log.logger.info(
            "network %d, incarnation %d, process %d, device %s, %d threads, interval %d, step %d",
            *(network_id, spec.incarnation, os.getpid(), device, spec.threads),
            *(self.trainer.interval, self.trainer.step),
        )
        if self._mps is not None and config.device.mps != "off":
            self._log.logger.info("MPS %s: %s", "on" if self._mps else "off", self._mps.description)

    def __repr__(self) -> str:
        return f"NetworkWorker({self._spec.run.name}/{self._spec.network_id}, incarnation {self._spec.incarnation})"

    # Calls of the coordinator.

    def ready(self) -> NetworkDescription:
        """Describe the network. The first call. It is answered when the model is built."""
        return self._describe()

    def run(self) -> ExitReason:
        """Train to the end.

        The pending call is the network's sign of life. A second call, of a restarted coordinator, waits for the first
        and returns the same.
        """
        if self._failure is not None:
            raise self._failure
        if self._exit is None:
            self._watchdog.begin_training()
            try:
                self._exit = self._train()
            except Exception as error:
                explain_memory(error, self._spec.gpus)
                place = place_of(error)
                if place:
                    error.add_note(place)  # a note passes between processes, a traceback does not
                self._failure = error
                self._log.logger.exception("network %d failed", self._spec.network_id)
                raise
            finally:
                self._watchdog.end_training()
                self._log.sync()
                if self._exchange.is_orphaned:
                    exit_soon()
            self._log.logger.info(
                "network %d: %s at interval %d, step %d",
                *(self._spec.network_id, self._exit.value, self.trainer.interval, self.trainer.step),
            )
            if self._exit is ExitReason.FENCED:
                exit_soon()
        return self._exit

    def describe(self) -> NetworkStanding:
        """Return how the network stands, for a restarted coordinator."""
        self._exchange.record_contact()
        return NetworkStanding(self._report, self._exchange.published(), self._describe())

    def hand_over(self, origin: SnapshotInfo) -> np.ndarray:
        """Return the bytes of a published snapshot, which then belong to the caller."""
        return self._exchange.published_bytes(origin)

    def direct(self, command: Command) -> None:
        """Leave, stop, move or pause. Sets a flag that the training thread checks after each step."""
        self._exchange.record_contact()
        self._is_moving |= command is Command.MOVE
        self._is_pausing |= command is Command.PAUSE
        self._is_stopping |= command in ENDING
        self._is_leaving |= command is Command.LEAVE

    def move(self) -> bool:
        """Let the network move, because this process is about to be ended. Returns whether it trains."""
        is_training = self._exit is None and self._failure is None
        self._is_moving |= is_training
        return is_training

    def exit(self) -> None:
        """End this process, once training has ended. Ray then shows that it exited as intended."""
        self._log.sync()
        exit_actor()

    # The trainer's runtime.

    def now(self) -> float:
        """Return the wall clock, in seconds."""
        return time.time()

    def after_step(self) -> bool:
        """Return whether to continue with the next step."""
        self._watchdog.record_progress()
        self._report_storage()
        if self._step_seconds:
            self._pad_step()
        is_ending = self._is_stopping or self._is_moving or self._exchange.is_orphaned or self._checkpointer.is_fenced
        return not (is_ending or self._exchange.command in ENDING)

    def should_continue(self) -> bool:
        """Return whether to begin another interval."""
        is_leaving = self._is_leaving or self._is_pausing or self._exchange.command is Command.LEAVE
        return self.after_step() and not is_leaving

    def compiling(self) -> AbstractContextManager[None]:
        """Return a context in which no other network of the node compiles."""
        return self._compile_lock.held()

    def prefetch(self, own: SnapshotInfo) -> None:
        """Begin to fetch scions."""
        self._exchange.prefetch(own)

    def put_early(self, snapshot: Snapshot) -> None:
        """Begin to put a snapshot's bytes into the object store."""
        self._exchange.put_early(snapshot)

    def fetch_scions(self, own: SnapshotInfo) -> tuple[Snapshot, ...] | ExchangeOutcome:
        """Return the scions that have arrived."""
        return self._exchange.fetch_scions(own)

    def stored(self, snapshot: Snapshot) -> Snapshot | None:
        """Return a view of the published snapshot in the object store."""
        return self._exchange.stored(snapshot)

    def record_early(self, rows: Rows, interval: int) -> None:
        """Begin to write rows before the checkpoint that will hold them."""
        self._early_rows.write(rows, interval)

    def commit(self, report: IntervalReport, checkpoint: Checkpoint | None) -> None:
        """Send the report, and begin to write the checkpoint."""
        self._watchdog.record_progress()
        self._report = self._storage_report.added_to(report)
        if report.outcome:
            self._exchange.report(self._report)
        if checkpoint is not None:
            self._checkpointer.commit(checkpoint)

    def _report_storage(self) -> None:
        """Report that storage fails, or that it works again, with the newest report once more."""
        if self._report is not None and self._report.outcome and self._storage_report.is_due():
            self._report = self._storage_report.added_to(self._report)
            self._exchange.report(self._report)

    def _write_all(self) -> None:
        """Wait until the last checkpoint is written. Report meanwhile that storage fails."""
        while not self._checkpointer.wait(seconds=REPORT_SECONDS):
            self._report_storage()
        self._report_storage()

    def _describe(self) -> NetworkDescription:
        return NetworkDescription(
            structure=self.trainer.layout.fingerprint,
            interval=self.trainer.interval,
            process=os.getpid(),
            node=ray.get_runtime_context().get_node_id(),
            damages=tuple(self._checkpoints.passed_over.values()),
        )

    def _pad_step(self) -> None:
        """Fill the step up to its least length, counted from the end of the last step."""
        now = time.monotonic()
        time.sleep(max(0.0, self._step_seconds - (now - self._step_ended)))
        self._step_ended = time.monotonic()

    def _train(self) -> ExitReason:
        if self._spec.mode == "joined" and not self._is_resumed:
            if not self._join():
                return self._exit_reason()
            if self.trainer.is_finished:  # a copy of another network's last weights would be no network of its own
                self._log.logger.info("the others have ended: no interval of the schedule is left")
                return ExitReason.LEFT
        self.record_early(self.trainer.record_birth(self._start, now=self.now()), self.trainer.interval)
        if self.trainer.is_finished and self.trainer.publishes:
            self._exchange.publish(self.trainer.snapshot(time.time()))
        for report, snapshot in self.trainer.intervals(self):
            report = self._storage_report.added_to(report)
            self._report = report
            self._log.logger.info(
                "interval %d: loss %.4f, validation %s, %.0f examples/s",
                *(report.origin.interval, report.train_loss, dict(report.validation_metrics)),
                report.examples_per_second,
            )
            if self._spec.run.config.mode == "lockstep":
                self._write_all()
            self._exchange.publish_interval(report, snapshot)
        self._write_all()
        self._early_rows.wait(seconds=self._spec.run.config.timeouts.storage_seconds)
        self._exchange.flush(seconds=lease_seconds(self._spec.run.config))
        return self._exit_reason()

    def _exit_reason(self) -> ExitReason:
        if self._checkpointer.is_fenced or self._exchange.command is Command.FENCED:
            return ExitReason.FENCED
        if self.trainer.is_finished:
            return ExitReason.DONE
        if self._exchange.is_orphaned:
            return ExitReason.ORPHANED
        if self._is_moving and not self._is_stopping:
            return ExitReason.MOVED
        if self._is_pausing and not (self._is_stopping or self._is_leaving):
            return ExitReason.PAUSED
        return ExitReason.LEFT if self._is_leaving and not self._is_stopping else ExitReason.STOPPED

    def _join(self) -> bool:
        """Ask the coordinator where to begin, and clone a parent's weights if it names one.

        In lockstep, the coordinator answers when a barrier is released, however long that takes.

        Returns:
            False if the run is stopping.

        Raises:
            RunError: The parent's weights did not arrive within timeouts.barrier_seconds.
        """
        timeouts = self._spec.run.config.timeouts
        deadline: float | None = None
        while self.after_step():
            call = self._coordinator.join.remote(self._spec.network_id, self._spec.incarnation)
            try:
                point = ray.get(call, timeout=timeouts.barrier_seconds)
            except (RayError, GetTimeoutError):
                time.sleep(RETRY_SECONDS)
                continue
            self._exchange.record_contact()
            if point.parent is None:
                self.trainer.fast_forward(point.interval)
                self._start = StartPoint.initial(point.interval)
                return True
            parent = self._exchange.fetch_one(point.parent, seconds=self._exchange.fetch_seconds)
            if not isinstance(parent, ExchangeOutcome):
                self.trainer.clone_from(parent)
                self._start = StartPoint.cloned(parent.origin)
                return True
            deadline = deadline or time.monotonic() + timeouts.barrier_seconds
            if time.monotonic() > deadline:
                raise RunError(
                    f"network {self._spec.network_id} could not join: its parent's weights were {parent.value}"
                )
            time.sleep(RETRY_SECONDS)
        return False

    def _resume(self) -> bool:
        """Resume from the newest checkpoint that counts. Returns whether there is one."""
        if self._spec.mode == "initial":
            return False
        network_id, limit = self._spec.network_id, self._spec.at_most_interval
        newest = self._checkpoints.newest(network_id, at_most_interval=limit)
        for reason in self._checkpoints.passed_over.values():
            self._log.logger.warning("passed over: %s", reason)
        if newest is not None:
            self.trainer.resume(newest)
            self._start = StartPoint.resumed(network_id, newest.id)
        elif limit or (limit is None and self._checkpoints.list(network_id)):
            place = "" if limit is None else f" of interval {limit} or earlier"
            raise CheckpointError(f"network {network_id} has checkpoints, but none{place} that can be read")
        return newest is not None

    def _retry(self, call: Any) -> Any:
        return retry(call, seconds=self._storage_seconds, logger=self._log.logger)


def import_optimizers() -> None:
    """Import what torch imports with the first optimizer. That takes two seconds, in which the data are still read."""
    torch.optim.SGD([torch.zeros(1)], lr=1.0)
