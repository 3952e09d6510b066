"""A network of the population as a Ray actor: trains on its own, exchanges through its courier, commits checkpoints.

Two groups of calls: `train` has one thread, for the life of the network; `control` has two, for calls that only set
flags or read what is there, so that they are answered at once while the network trains.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import os
import threading
import time
from typing import Any

import ray
import torch
from ray.exceptions import GetTimeoutError, RayError

from actors.courier import Courier, fetch
from actors.logs import LogFile
from actors.spec import NAMESPACE, Directive, NetworkSpec, Outcome, coordinator_name, network_name
from population.board import Posting, Refusal
from population.checkpoint import Checkpoint, CheckpointStore
from population.data import Splits
from population.errors import CheckpointError, StorageError
from population.history import TABLES
from population.report import Report
from population.snapshot import Origin, Snapshot
from population.storage import Storage
from population.task import ImageClassification
from population.training import Trainer

RETRY_SECONDS = 2.0
"""Between attempts to write the last checkpoint to a storage that fails."""


KEEP_MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**32),
}
"""glibc's malloc otherwise gives activations back to the kernel after each step and faults them in again: a tenth of a
small network's CPU time, and more in a thread that is not the process's first, as Ray's are."""


class Network:
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
        self._storage = Storage(spec.run.folder, deadline_seconds=config.patience.storage_seconds)
        self._log = LogFile(self._storage, f"network-{spec.network}")
        self._checkpoints = CheckpointStore(self._storage, keep=config.checkpoint.keep)
        self._checkpoints.claim(spec.network, spec.incarnation)
        task = ImageClassification(config, splits, factory=spec.run.factory, device=device)
        self.trainer = Trainer(task, config, network=spec.network, incarnation=spec.incarnation)
        self._resumed = self._resume()
        self._coordinator = ray.get_actor(coordinator_name(spec.run.name), namespace=NAMESPACE)
        self._committer = _Committer(self._checkpoints, self._log, deadline_seconds=config.patience.storage_seconds * 8)
        self._latest: Report | None = None
        self._outcome: Outcome | None = None
        self._failure: Exception | None = None
        self._courier = Courier(
            self._coordinator,
            network=spec.network,
            incarnation=spec.incarnation,
            patience=config.patience,
            layout=self.trainer.layout,
            is_lockstep=config.mode == "lockstep",
            on_orphaned=self._end_if_idle,
            logger=self._log.logger,
        )
        self._step_seconds = config.pace.seconds(spec.network)
        self._step_ended = 0.0
        self._is_stopping = False
        self._is_leaving = False
        self._is_training = False
        self._log.logger.info(
            "network %d, incarnation %d, process %d, device %s, %d threads, interval %d, step %d",
            *(
                spec.network,
                spec.incarnation,
                os.getpid(),
                device,
                spec.threads,
                self.trainer.interval,
                self.trainer.step,
            ),
        )

    def __repr__(self) -> str:
        return f"Network({self._spec.run.name}/{self._spec.network}, incarnation {self._spec.incarnation})"

    # Called by the coordinator.

    @ray.method(concurrency_group="control")
    def ready(self) -> tuple[str, int, int, str]:
        """Structure, interval, process and node: the first call, answered when the network is built."""
        return self._facts()

    @ray.method(concurrency_group="train")
    def run(self) -> Outcome:
        """Train to the end. The pending call is the network's sign of life; a second one, of a coordinator that came
        back, waits for the first and tells the same."""
        if self._failure is not None:
            raise self._failure
        if self._outcome is None:
            self._is_training = True
            try:
                self._outcome = self._live()
            except Exception as error:
                self._failure = error
                self._log.logger.exception("network %d failed", self._spec.network)
                raise
            finally:
                self._is_training = False
                self._log.sync()
                if self._courier.is_orphaned:
                    _exit_soon()
            self._log.logger.info("network %d: %s", self._spec.network, self._outcome.value)
            if self._outcome is Outcome.FENCED:
                _exit_soon()
        return self._outcome

    @ray.method(concurrency_group="control")
    def describe(self) -> tuple[Report | None, list[Posting[list[ray.ObjectRef]]], tuple[str, int, int, str]]:
        """Newest report, what is on the board, and what `ready` tells: for a coordinator that came back."""
        self._courier.heard()
        return self._latest, self._courier.held(), self._facts()

    @ray.method(concurrency_group="control")
    def direct(self, directive: Directive) -> None:
        """Leave or stop; sets a flag that the training thread looks at after each step."""
        self._courier.heard()
        self._is_stopping |= directive in (Directive.STOP, Directive.FENCED)
        self._is_leaving |= directive is Directive.LEAVE

    # The trainer's host.

    def now(self) -> float:
        return time.time()

    def stepped(self) -> bool:
        if self._step_seconds:
            self._pad_step()
        return not (self._is_stopping or self._courier.is_orphaned or self._courier.directive in _ENDING)

    def continues(self) -> bool:
        return self.stepped() and not (self._is_leaving or self._courier.directive is Directive.LEAVE)

    def prepare(self, own: Origin) -> None:
        self._courier.prepare(own)

    def pull(self, own: Origin) -> tuple[Snapshot, ...] | Refusal:
        return self._courier.pull(own)

    def commit(self, report: Report, checkpoint: Checkpoint | None) -> None:
        self._latest = report
        if report.outcome:
            self._courier.report(report)
        if checkpoint is not None:
            self._committer.commit(checkpoint)

    def _facts(self) -> tuple[str, int, int, str]:
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

    def _live(self) -> Outcome:
        if self._spec.birth == "newcomer" and not self._resumed and not self._join():
            return Outcome.STOPPED
        if self.trainer.is_finished and self.trainer.publishes:
            self._courier.offer(self.trainer.snapshot(time.time()))
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
                self._committer.settle()
            self._courier.publish(report, snapshot)
        is_committed = self._committer.finish()
        self._courier.flush(seconds=self._spec.run.config.patience.lease_seconds)
        return self._how_it_ended(is_committed)

    def _how_it_ended(self, is_committed: bool) -> Outcome:
        if not is_committed or self._courier.directive is Directive.FENCED:
            return Outcome.FENCED
        if self.trainer.is_finished:
            return Outcome.DONE
        if self._courier.is_orphaned:
            return Outcome.ORPHANED
        return Outcome.LEFT if self._is_leaving and not self._is_stopping else Outcome.STOPPED

    def _join(self) -> bool:
        """Ask what to begin with: a network's weights, or a place in the schedule. False: the run is stopping."""
        config = self._spec.run.config
        deadline = time.monotonic() + config.patience.barrier_seconds + config.patience.lease_seconds
        while time.monotonic() < deadline and self.stepped():
            call = self._coordinator.join.remote(self._spec.network, self._spec.incarnation)
            try:
                parent: Any = ray.get(call, timeout=config.patience.barrier_seconds)
            except (RayError, GetTimeoutError):
                time.sleep(1.0)
                continue
            self._courier.heard()
            if isinstance(parent, int):
                self.trainer.start_at(parent)
                return True
            found = fetch(parent, self.trainer.layout, seconds=config.patience.pull_seconds)
            if not isinstance(found, Refusal):
                self.trainer.adopt(found)
                return True
        return False

    def _resume(self) -> bool:
        if self._spec.birth == "founder":
            return False
        newest = self._checkpoints.newest(self._spec.network, at_most_interval=self._spec.at_most_interval)
        if newest is not None:
            self.trainer.resume(newest)
        elif self._spec.at_most_interval:
            raise CheckpointError(
                f"network {self._spec.network} has no readable checkpoint of interval {self._spec.at_most_interval}"
            )
        return newest is not None

    def _end_if_idle(self) -> None:
        """The lease ran out while nothing trains: end at once. A training network ends after its checkpoint."""
        if not self._is_training:
            _exit_soon()


_ENDING = (Directive.STOP, Directive.FENCED)


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
        name=network_name(spec.run.name, spec.network, spec.incarnation),
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

NetworkActor: Any = ray.remote(**_ON_RAY)(Network)
"""`Network` on Ray."""


class _Committer:
    """Writes checkpoints on a thread of its own, one at a time: training waits only for the one before.

    While storage fails, training goes on, and what could not be written is handed to the next checkpoint: rows and
    the best weights are not lost. A network gives up when storage has failed for longer than the deadline.
    """

    def __init__(self, checkpoints: CheckpointStore, log: LogFile, *, deadline_seconds: float) -> None:
        self._checkpoints, self._log, self._deadline = checkpoints, log, deadline_seconds
        self._writer = concurrent.futures.ThreadPoolExecutor(max_workers=1, thread_name_prefix="committer")
        self._under_way: concurrent.futures.Future[bool] | None = None
        self._unwritten: Checkpoint | None = None
        self._failing_since: float | None = None

    def commit(self, checkpoint: Checkpoint) -> None:
        """Begin to write a checkpoint, when the one before is written or has failed.

        Raises:
            StorageError: storage has failed for too long.
        """
        self._wait()
        self._under_way = self._writer.submit(self._write, checkpoint)

    def settle(self) -> None:
        """Wait until the last checkpoint is written, and write it again where it failed.

        Raises:
            StorageError: storage has failed for too long.
        """
        self._wait()
        while self._unwritten is not None:
            time.sleep(RETRY_SECONDS)
            self._under_way = self._writer.submit(self._write, self._unwritten)
            self._wait()

    def finish(self) -> bool:
        """`settle`; False where a later incarnation had claimed the network."""
        is_committed = self._wait()
        self.settle()
        return is_committed

    def _wait(self) -> bool:
        under_way, self._under_way = self._under_way, None
        if under_way is None:
            return True
        try:
            return under_way.result(timeout=self._deadline)
        except concurrent.futures.TimeoutError:
            raise StorageError(f"a checkpoint was not written within {self._deadline:g} s") from None

    def _write(self, checkpoint: Checkpoint) -> bool:
        before = self._unwritten
        if before is not None and before is not checkpoint:
            rows = {table: [*before.rows.get(table, ()), *checkpoint.rows.get(table, ())] for table in TABLES}
            checkpoint = dataclasses.replace(checkpoint, rows=rows, best=checkpoint.best or before.best)
        try:
            is_committed = self._checkpoints.commit(checkpoint)
        except StorageError as error:
            now = time.monotonic()
            self._unwritten, self._failing_since = checkpoint, self._failing_since or now
            self._log.logger.warning("checkpoint %s was not written: %s", checkpoint.id.name, error)
            if now - self._failing_since > self._deadline:
                raise
            return True
        self._unwritten, self._failing_since = None, None
        return is_committed


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
