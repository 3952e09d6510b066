"""A network of the population as a Ray actor: trains on its own, exchanges through its courier, commits checkpoints.

Two groups of calls: `train` has one thread, for the life of the network; `control` has two, for calls that only set
flags or read what is there, so that they are answered at once while the network trains.
"""

from __future__ import annotations

import concurrent.futures
import os
import threading
import time
from typing import Any

import ray
import torch
from ray.exceptions import GetTimeoutError, RayError

from actors.courier import Courier, fetch
from actors.logs import LogFile
from actors.spec import NAMESPACE, Directive, NetworkSpec, Outcome, coordinator_name
from population.board import Posting, Refusal
from population.checkpoint import Checkpoint, CheckpointStore
from population.data import Splits
from population.errors import CheckpointError, StorageError
from population.snapshot import Origin, Snapshot
from population.storage import Storage
from population.task import ImageClassification
from population.training import Report, Trainer

FAILED_COMMITS = 3
"""A network whose storage fails so often in a row gives up; until then it keeps its rows for the next checkpoint."""


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
        self._lock = threading.Lock()
        self._courier = Courier(
            self._coordinator,
            network=spec.network,
            incarnation=spec.incarnation,
            patience=config.patience,
            layout=self.trainer.layout,
            is_lockstep=config.mode == "lockstep",
            on_orphaned=self._end_if_idle,
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
        if self._outcome is None:
            self._is_training = True
            try:
                self._outcome = self._live()
            except Exception:
                self._log.logger.exception("network %d failed", self._spec.network)
                raise
            finally:
                self._is_training = False
                self._log.sync()
            self._log.logger.info("network %d: %s", self._spec.network, self._outcome.value)
            if self._outcome in (Outcome.ORPHANED, Outcome.FENCED):
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

    def pull(self, own: Origin) -> Snapshot | Refusal:
        return self._courier.pull(own)

    def commit(self, report: Report, checkpoint: Checkpoint | None) -> None:
        self._latest = report
        if report.outcome:
            self._courier.report(report)
        if checkpoint is not None:
            self._committer.commit(checkpoint)

    def _facts(self) -> tuple[str, int, int, str]:
        return self.trainer.layout.fingerprint, self.trainer.interval, os.getpid(), ray.util.get_node_ip_address()

    def _pad_step(self) -> None:
        """Fill the step up to its least length, counted from the end of the last."""
        now = time.monotonic()
        time.sleep(max(0.0, self._step_seconds - (now - self._step_ended)))
        self._step_ended = time.monotonic()

    def _live(self) -> Outcome:
        if self._spec.birth == "newcomer" and not self._resumed and not self._join():
            return Outcome.STOPPED
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
            self._courier.publish(report, snapshot)
        is_committed = self._committer.finish()
        self._courier.flush(seconds=self._spec.run.config.patience.lease_seconds)
        return self._how_it_ended(is_committed)

    def _how_it_ended(self, is_committed: bool) -> Outcome:
        if not is_committed or self._courier.directive is Directive.FENCED:
            return Outcome.FENCED
        if self.trainer.interval >= self.trainer.schedule.num_intervals:
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
        return newest is not None

    def _end_if_idle(self) -> None:
        """The lease ran out while nothing trains: end at once. A training network ends after its checkpoint."""
        if not self._is_training:
            _exit_soon()


_ENDING = (Directive.STOP, Directive.FENCED)

_on_ray: Any = ray.remote(concurrency_groups={"train": 1, "control": 2})  # type: ignore[call-overload]  # untyped option

NetworkActor: Any = _on_ray(Network)
"""`Network` on Ray."""


class _Committer:
    """Writes checkpoints on a thread of its own, one at a time: training waits only for the one before."""

    def __init__(self, checkpoints: CheckpointStore, log: LogFile, *, deadline_seconds: float) -> None:
        self._checkpoints, self._log, self._deadline = checkpoints, log, deadline_seconds
        self._writer = concurrent.futures.ThreadPoolExecutor(max_workers=1, thread_name_prefix="committer")
        self._under_way: concurrent.futures.Future[bool] | None = None
        self._unwritten: dict[str, list[Any]] = {"metrics": [], "grafts": []}
        self._failures = 0

    def commit(self, checkpoint: Checkpoint) -> None:
        """Begin to write a checkpoint, when the one before is written.

        Raises:
            StorageError: storage failed too often in a row.
        """
        self._wait()
        self._under_way = self._writer.submit(self._write, checkpoint)

    def finish(self) -> bool:
        """Wait for the last checkpoint; False where a later incarnation had claimed the network.

        Raises:
            StorageError: it could not be written.
        """
        outcome = self._wait()
        if self._failures:
            raise StorageError("the last checkpoint could not be written; the log tells why")
        return outcome

    def _wait(self) -> bool:
        if self._under_way is None:
            return True
        try:
            return self._under_way.result(timeout=self._deadline)
        except concurrent.futures.TimeoutError:
            raise StorageError(f"a checkpoint was not written within {self._deadline:g} s") from None
        finally:
            if self._under_way.done():
                self._under_way = None

    def _write(self, checkpoint: Checkpoint) -> bool:
        rows = {table: [*self._unwritten[table], *checkpoint.rows.get(table, ())] for table in self._unwritten}
        whole = Checkpoint(
            network=checkpoint.network,
            id=checkpoint.id,
            model=checkpoint.model,
            tensors=checkpoint.tensors,
            training=checkpoint.training,
            best=checkpoint.best,
            rows=rows,
        )
        try:
            is_committed = self._checkpoints.commit(whole)
        except (StorageError, CheckpointError) as error:
            self._failures += 1
            self._unwritten = rows
            self._log.logger.warning("checkpoint %s was not written: %s", checkpoint.id.name, error)
            if self._failures >= FAILED_COMMITS:
                raise
            return True
        self._failures = 0
        self._unwritten = {"metrics": [], "grafts": []}
        self._log.sync()
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
