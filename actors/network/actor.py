"""A network of the population as a Ray actor: trains on its own, exchanges through its courier, commits checkpoints.

Two groups of calls: `train` has one thread, for the life of the network; `control` has two, for calls that only set
flags or read what is there, so that they are answered at once while the network trains.
"""

from __future__ import annotations

import functools
import os
import threading
import time
from typing import Any

import ray
import torch
from ray.exceptions import GetTimeoutError, RayError

from inarch.actors.messages import NAMESPACE, Command, ExitReason, NetworkSpec, coordinator_name, network_name
from inarch.actors.network.async_checkpointer import AsyncCheckpointer
from inarch.actors.network.exchange_client import ExchangeClient, fetch
from inarch.actors.network.log_file import LogFile
from inarch.actors.retry import RETRY_SECONDS, retry
from inarch.population.data import Splits
from inarch.population.errors import CheckpointError, RunError
from inarch.population.extension.user_code import place_of
from inarch.population.membership.outcome import ExchangeOutcome
from inarch.population.membership.snapshot_index import PublishedSnapshot
from inarch.population.persistence.checkpoint import Checkpoint, CheckpointStore
from inarch.population.persistence.interval_report import IntervalReport
from inarch.population.persistence.storage import Storage
from inarch.population.state.snapshot import Snapshot, SnapshotInfo
from inarch.population.tasks.image_classification import ImageClassification
from inarch.population.training.trainer import Trainer

STORAGE_DEADLINES = 8
"""Of the storage, one after another: then a network gives up what it wanted of it."""

WATCHES = 20
"""How often in timeouts.progress_seconds it is looked at whether training goes on."""

KEEP_MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**32),
}
"""glibc's malloc otherwise gives activations back to the kernel after each step and faults them in again: a tenth of a
small network's CPU time, and more in a thread that is not the process's first, as Ray's are."""


class NetworkWorker:
    """The plain class; `NetworkActor` is it on Ray."""

    def __init__(self, spec: NetworkSpec, splits: Splits) -> None:
        """Build the network, and go on from its newest checkpoint if it has one.

        Args:
            spec: Which network of which run.
            splits: The data, a view of the object store.
        """
        self._spec = spec
        config = spec.run.config
        device = _device(spec)
        torch.set_num_threads(spec.threads)
        if config.device.deterministic:
            torch.use_deterministic_algorithms(True)
        self._storage = Storage(spec.run.folder, deadline_seconds=config.timeouts.storage_seconds)
        self._log = LogFile(self._storage, f"network-{spec.network_id}")
        self._checkpoints = CheckpointStore(self._storage, keep=config.checkpoint.keep, token=spec.run.token)
        seconds, logger = self._storage_timeout, self._log.logger
        claim = functools.partial(self._checkpoints.acquire_fence, spec.network_id, spec.incarnation)
        retry(claim, seconds=seconds, logger=logger)
        task = ImageClassification(config, splits, factory=spec.run.factory, device=device)
        self.trainer = Trainer(task, config, network_id=spec.network_id, incarnation=spec.incarnation)
        self._resumed = retry(self._resume, seconds=seconds, logger=logger)
        self._coordinator = ray.get_actor(coordinator_name(spec.run.name), namespace=NAMESPACE)
        self._checkpointer = AsyncCheckpointer(self._checkpoints, self._log, deadline_seconds=seconds)
        self._latest: IntervalReport | None = None
        self._outcome: ExitReason | None = None
        self._failure: Exception | None = None
        self._exchange = ExchangeClient(
            self._coordinator,
            network_id=spec.network_id,
            incarnation=spec.incarnation,
            timeouts=config.timeouts,
            layout=self.trainer.layout,
            is_lockstep=config.mode == "lockstep",
            on_orphaned=self._end_if_idle,
            logger=self._log.logger,
        )
        self._step_seconds = config.debug.straggler.seconds(spec.network_id)
        self._step_ended = 0.0
        self._is_stopping = False
        self._is_leaving = False
        self._is_training = False
        self._moved_seconds = time.monotonic()
        threading.Thread(target=self._watch, name="watch", daemon=True).start()
        self._log.logger.info(
            "network %d, incarnation %d, process %d, device %s, %d threads, interval %d, step %d",
            *(
                spec.network_id,
                spec.incarnation,
                os.getpid(),
                device,
                spec.threads,
                self.trainer.interval,
                self.trainer.step,
            ),
        )

    def __repr__(self) -> str:
        return f"Network({self._spec.run.name}/{self._spec.network_id}, incarnation {self._spec.incarnation})"

    # Called by the coordinator.

    @ray.method(concurrency_group="control")
    def ready(self) -> tuple[str, int, int, str]:
        """Structure, interval, process and node: the first call, answered when the network is built."""
        return self._describe()

    @ray.method(concurrency_group="train")
    def run(self) -> ExitReason:
        """Train to the end. The pending call is the network's sign of life; a second one, of a coordinator that came
        back, waits for the first and tells the same."""
        if self._failure is not None:
            raise self._failure
        if self._outcome is None:
            self._moved_seconds = time.monotonic()
            self._is_training = True
            try:
                self._outcome = self._live()
            except Exception as error:
                place = place_of(error)
                if place:
                    error.add_note(place)  # a traceback does not pass between processes, a note does
                self._failure = error
                self._log.logger.exception("network %d failed", self._spec.network_id)
                raise
            finally:
                self._is_training = False
                self._log.sync()
                if self._exchange.is_orphaned:
                    _exit_soon()
            self._log.logger.info("network %d: %s", self._spec.network_id, self._outcome.value)
            if self._outcome is ExitReason.FENCED:
                _exit_soon()
        return self._outcome

    @ray.method(concurrency_group="control")
    def describe(
        self,
    ) -> tuple[IntervalReport | None, list[PublishedSnapshot[list[ray.ObjectRef]]], tuple[str, int, int, str]]:
        """Newest report, what is on the board, and what `ready` tells: for a coordinator that came back."""
        self._exchange.record_heartbeat()
        return self._latest, self._exchange.published(), self._describe()

    @ray.method(concurrency_group="control")
    def direct(self, command: Command) -> None:
        """Leave or stop; sets a flag that the training thread looks at after each step."""
        self._exchange.record_heartbeat()
        self._is_stopping |= command in (Command.STOP, Command.FENCED)
        self._is_leaving |= command is Command.LEAVE

    # The trainer's host.

    def now(self) -> float:
        return time.time()

    def after_step(self) -> bool:
        self._moved_seconds = time.monotonic()
        if self._step_seconds:
            self._pad_step()
        is_ending = self._is_stopping or self._exchange.is_orphaned or self._checkpointer.is_fenced
        return not (is_ending or self._exchange.command in _ENDING)

    def should_continue(self) -> bool:
        return self.after_step() and not (self._is_leaving or self._exchange.command is Command.LEAVE)

    def prefetch(self, own: SnapshotInfo) -> None:
        self._exchange.prefetch(own)

    def fetch_scions(self, own: SnapshotInfo) -> tuple[Snapshot, ...] | ExchangeOutcome:
        return self._exchange.fetch_scions(own)

    def commit(self, report: IntervalReport, checkpoint: Checkpoint | None) -> None:
        self._moved_seconds = time.monotonic()
        self._latest = report
        if report.outcome:
            self._exchange.report(report)
        if checkpoint is not None:
            self._checkpointer.commit(checkpoint)

    def _describe(self) -> tuple[str, int, int, str]:
        return (
            self.trainer.layout.fingerprint,
            self.trainer.interval,
            os.getpid(),
            ray.get_runtime_context().get_node_id(),
        )

    def _pad_step(self) -> None:
        """Fill the step up to its least length, counted from the end of the last."""
        now = time.monotonic()
        time.sleep(max(0.0, self._step_seconds - (now - self._step_ended)))
        self._step_ended = time.monotonic()

    def _live(self) -> ExitReason:
        if self._spec.mode == "joined" and not self._resumed and not self._join():
            return ExitReason.STOPPED
        if self.trainer.is_finished and self.trainer.publishes:
            self._exchange.publish(self.trainer.snapshot(time.time()))
        for report, snapshot in self.trainer.intervals(self):
            self._latest = report
            self._log.logger.info(
                "interval %d: loss %.4f, validation accuracy %s, %.0f images/s",
                *(
                    report.origin.interval,
                    report.train_loss,
                    report.validation_accuracy,
                    report.images_per_second,
                ),
            )
            if self._spec.run.config.mode == "lockstep":
                self._checkpointer.wait()
            self._exchange.publish_interval(report, snapshot)
        self._checkpointer.wait()
        self._exchange.flush(seconds=self._spec.run.config.timeouts.lease_seconds)
        return self._how_it_ended()

    def _how_it_ended(self) -> ExitReason:
        if self._checkpointer.is_fenced or self._exchange.command is Command.FENCED:
            return ExitReason.FENCED
        if self.trainer.is_finished:
            return ExitReason.DONE
        if self._exchange.is_orphaned:
            return ExitReason.ORPHANED
        return ExitReason.LEFT if self._is_leaving and not self._is_stopping else ExitReason.STOPPED

    def _join(self) -> bool:
        """Ask what to begin with: a network's weights, or a place in the schedule. In lockstep a barrier has to open
        first, as long as that takes. False: the run is stopping.

        Raises:
            RunError: no parent's weights came.
        """
        timeouts = self._spec.run.config.timeouts
        deadline: float | None = None
        while self.after_step():
            call = self._coordinator.join.remote(self._spec.network_id, self._spec.incarnation)
            try:
                parent: Any = ray.get(call, timeout=timeouts.barrier_seconds)
            except (RayError, GetTimeoutError):
                time.sleep(RETRY_SECONDS)
                continue
            self._exchange.record_heartbeat()
            if isinstance(parent, int):
                self.trainer.fast_forward(parent)
                return True
            found = fetch(parent, self.trainer.layout, seconds=timeouts.fetch_seconds)
            if not isinstance(found, ExchangeOutcome):
                self.trainer.clone_from(found)
                return True
            deadline = deadline or time.monotonic() + timeouts.barrier_seconds
            if time.monotonic() > deadline:
                raise RunError(
                    f"network {self._spec.network_id} could not join: its parent's weights were {found.value}"
                )
            time.sleep(RETRY_SECONDS)
        return False

    def _resume(self) -> bool:
        if self._spec.mode == "initial":
            return False
        network_id, at_most = self._spec.network_id, self._spec.at_most_interval
        newest = self._checkpoints.newest(network_id, at_most_interval=at_most)
        if newest is not None:
            self.trainer.resume(newest)
        elif at_most or (at_most is None and self._checkpoints.list(network_id)):
            where = "" if at_most is None else f" of interval {at_most} or earlier"
            raise CheckpointError(f"network {network_id} has checkpoints, but none{where} that can be read")
        return newest is not None

    @property
    def _storage_timeout(self) -> float:
        return STORAGE_DEADLINES * self._spec.run.config.timeouts.storage_seconds

    def _watch(self) -> None:
        """A thread of its own: where training stands still, in a kernel or a read that never ends, nothing but the
        process's end brings the network back."""
        timeouts = self._spec.run.config.timeouts
        waits = timeouts.barrier_seconds + timeouts.lease_seconds, 2 * self._storage_timeout
        longest = max(timeouts.progress_seconds, *waits)
        while True:
            time.sleep(longest / WATCHES)
            if self._is_training and time.monotonic() - self._moved_seconds > longest:
                self._log.logger.critical("network %d stood still for %.0f s", self._spec.network_id, longest)
                self._log.sync()
                os._exit(1)

    def _end_if_idle(self) -> None:
        """The lease ran out while nothing trains: end at once. A training network ends after its checkpoint."""
        if not self._is_training:
            _exit_soon()


_ENDING = (Command.STOP, Command.FENCED)


def create_network(spec: NetworkSpec, data: Any, *, cpus: float) -> Any:
    """Ask Ray for a network's actor: named and detached, so that it outlives its coordinator; its lease ends it.

    Args:
        spec: Which network.
        data: Reference to the splits.
        cpus: CPUs that Ray reserves.

    Raises:
        ValueError: an actor of this name lives.
    """
    return NetworkActor.options(
        name=network_name(spec.run.name, spec.network_id, spec.incarnation),
        namespace=NAMESPACE,
        lifetime="detached",
        num_cpus=cpus,
        num_gpus=spec.gpus,
        max_restarts=0,
        max_task_retries=0,
        scheduling_strategy="SPREAD",
        runtime_env={"env_vars": KEEP_MEMORY},
    ).remote(spec, data)


_ON_RAY: dict[str, Any] = {"concurrency_groups": {"train": 1, "control": 2}}

NetworkActor: Any = ray.remote(**_ON_RAY)(NetworkWorker)
"""`NetworkWorker` on Ray."""


def _device(spec: NetworkSpec) -> torch.device:
    """Inside an actor with a GPU, Ray shows it that GPU alone, as cuda:0; several networks on one share its memory."""
    if not spec.gpus:
        return torch.device("cpu")
    device = torch.device("cuda:0")
    torch.cuda.set_device(device)
    if spec.gpus < 1:
        torch.cuda.set_per_process_memory_fraction(spec.gpus, device)
    return device


def _exit_soon() -> None:
    """End this process when the calls under way had time to answer."""
    threading.Timer(1.0, os._exit, args=(0,)).start()
