"""Repeat the processes of a run in one process, in an order in which each snapshot exists before it is needed.

A process trains on only until it has published what another one needs of it. The order in time does not matter: what a
network computes depends on its own state and on the snapshots that it takes, and these are recorded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from inarch.population.errors import RunError
from inarch.population.persistence.checkpoint import CheckpointId, CheckpointStore
from inarch.population.state.snapshot import Snapshot
from inarch.population.tasks.protocol import BoundTask
from inarch.population.training.birth import Birth
from inarch.population.training.replay.plan import ReplayPlan
from inarch.population.training.replay.record import Life, RunRecord, Version
from inarch.population.training.replay.running_life import RunningLife
from inarch.population.training.replay.verifier import Replay, ReplayObserver, Verifier
from inarch.population.training.trainer import Trainer

NEVER = 2**31
"""checkpoint.every of a replay, whose plan says which checkpoints it makes."""


@dataclass(frozen=True, kw_only=True)
class _Goal:
    """What a process must reach before another one can train on."""

    life: Life
    version: int | None = None
    """Interval that it must have published."""
    checkpoint: CheckpointId | None = None
    """Checkpoint that it must have made. With neither, it must reach the end of its plan."""


class Replayer:
    """Repeats what a plan needs of a run, and compares it with the run."""

    def __init__(
        self,
        record: RunRecord,
        plan: ReplayPlan,
        make_task: Callable[[Birth], BoundTask],
        *,
        recorded: CheckpointStore,
        observers: Sequence[ReplayObserver] = (),
    ) -> None:
        """Prepare a replay.

        Args:
            record: What the run's folder records.
            plan: What is repeated.
            make_task: Returns the task of a process. Its configuration is the one that the process had.
            recorded: Checkpoints of the run.
            observers: See the replay. They are called in this order.
        """
        self._record, self._plan, self._make_task = record, plan, make_task
        self._verifier = Verifier(record, recorded, observers, restarts=plan.restarts)
        self._running: dict[Life, RunningLife] = {}
        self._ended: set[Life] = set()
        self._snapshots: dict[Version, Snapshot] = {}
        self._uses = dict(plan.uses)

    def run(self) -> Replay:
        """Repeat everything, until the first difference.

        Torch's number of threads and its choice of algorithms change meanwhile.

        Returns:
            What was repeated and compared, and the first difference.

        Raises:
            RunError: The record contradicts itself.
        """
        num_threads, algorithms = torch.get_num_threads(), torch.get_deterministic_debug_mode()
        try:
            for life in self._plan.lives:
                self._complete(life)
        finally:
            torch.set_num_threads(num_threads)
            torch.set_deterministic_debug_mode(algorithms)
        return self._verifier.result

    def _complete(self, life: Life) -> None:
        """Run a process as far as the plan needs it, and others as far as it depends on them."""
        goals = [_Goal(life=life)]
        while goals and self._verifier.result.difference is None:
            goal = goals[-1]
            if self._is_reached(goal):
                goals.pop()
                continue
            needed = self._next_need(goal.life)
            if needed is None:
                self._advance(goal)
            elif any(needed.life == other.life for other in goals):
                raise _contradiction(needed.life, "would need its own future")
            else:
                goals.append(needed)

    def _is_reached(self, goal: _Goal) -> bool:
        if goal.version is not None:
            return Version(goal.life, goal.version) in self._snapshots
        if goal.checkpoint is not None:
            return self._verifier.has(goal.life.network_id, goal.checkpoint)
        return goal.life in self._ended

    def _next_need(self, life: Life) -> _Goal | None:
        """Return what a process lacks for its next step: its first weights, or a scion. None: nothing."""
        running = self._running.get(life)
        if running is None:
            start = self._plan.lives[life].birth.start
            if start.source is None:
                return None
            is_clone = start.began == "cloned"
            goal = _Goal(
                life=Life(*start.source),
                version=start.interval if is_clone else None,
                checkpoint=None if is_clone else start.checkpoint,
            )
            return None if self._is_reached(goal) else goal
        exchange = running.pending_exchange
        goals = [
            _Goal(life=scion.version.life, version=scion.version.interval)
            for scion in (exchange.scions if exchange is not None else ())
        ]
        return next((goal for goal in goals if not self._is_reached(goal)), None)

    def _advance(self, goal: _Goal) -> None:
        """Begin a process, or run it to its next publication."""
        life = goal.life
        if life in self._ended:
            raise _contradiction(life, "ended before what was taken of it")
        running = self._running.get(life)
        if running is None:
            self._running[life] = self._begin(life)
            return
        exchange = running.pending_exchange
        running.scions = tuple(
            _aged(self._take(scion.version), scion.time) for scion in (exchange.scions if exchange is not None else ())
        )
        snapshot = running.advance()
        if snapshot is not None:
            self._publish(life, snapshot, running.trainer)
        if running.is_complete:
            self._end(life)

    def _end(self, life: Life) -> None:
        """Forget a process that has reached the end of its plan."""
        missing = [
            item for item in self._plan.lives[life].checkpoints if (life.network_id, item) not in self._verifier.made
        ]
        if missing:
            raise _contradiction(life, f"ends before checkpoint {min(missing).name}")
        self._ended.add(life)
        del self._running[life]

    def _begin(self, life: Life) -> RunningLife:
        plan = self._plan.lives[life]
        torch.set_num_threads(plan.birth.environment.threads)
        task = self._make_task(plan.birth)
        torch.use_deterministic_algorithms(task.config.device.deterministic)
        never = dataclasses.replace(task.config.checkpoint, every=NEVER)
        config = dataclasses.replace(task.config, checkpoint=never)
        trainer = Trainer(task, config, network_id=life.network_id, incarnation=life.incarnation)
        if trainer.publishes and not self._record.exchanges:
            raise RunError("the run cannot be replayed: its folder has no table of exchanges, or a damaged one")
        start = plan.birth.start
        if start.source is None:
            trainer.fast_forward(start.interval)
        elif start.began == "cloned":
            trainer.clone_from(self._take(Version(Life(*start.source), start.interval)))
        else:
            trainer.resume(self._verifier.take(life.network_id, start.checkpoint))
        return RunningLife(trainer, plan, self._record.exchanges.get(life, {}), self._verifier)

    def _publish(self, life: Life, snapshot: Snapshot, trainer: Trainer) -> None:
        """Compare a snapshot with the record, and keep it as other networks receive it if one of them took it."""
        self._verifier.published(life, snapshot)
        version = Version(life, snapshot.origin.interval)
        if self._uses.get(version):
            received = trainer.packing.as_received(snapshot.buffer)
            self._snapshots[version] = dataclasses.replace(snapshot, buffer=received)

    def _take(self, version: Version) -> Snapshot:
        """Return a snapshot, and forget it after its last use."""
        self._uses[version] -= 1
        return self._snapshots[version] if self._uses[version] else self._snapshots.pop(version)


def _aged(snapshot: Snapshot, seconds: float) -> Snapshot:
    """Return a snapshot with the recorded time at which it was staged."""
    return dataclasses.replace(snapshot, origin=dataclasses.replace(snapshot.origin, created_at=seconds))


def _contradiction(life: Life, reason: str) -> RunError:
    return RunError(
        f"the run cannot be replayed: its record contradicts itself, incarnation {life.incarnation} of network "
        f"{life.network_id} {reason}"
    )
