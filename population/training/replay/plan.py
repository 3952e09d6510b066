"""Which processes of a run a replay repeats, and how far, so that it can make the weights that are asked for."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from inarch.population.errors import RunError
from inarch.population.persistence.checkpoint import CheckpointId
from inarch.population.training.birth import Birth
from inarch.population.training.replay.record import Life, RunRecord, Version


@dataclass(kw_only=True)
class LifePlan:
    """How far one process is repeated."""

    birth: Birth
    published: int = 0
    """Newest version that is needed of it. 0: none."""
    exchanged: int = 0
    """Newest interval whose exchange is needed."""
    checkpoints: set[CheckpointId] = field(default_factory=set[CheckpointId])
    """Checkpoints that are needed of it."""

    @property
    def last(self) -> int:
        """Last interval that it begins."""
        within = [checkpoint.interval + 1 for checkpoint in self.checkpoints if checkpoint.step]
        return max(self.published, self.exchanged, *within, self.birth.start.interval)

    def stop_step(self, interval: int) -> int | None:
        """Return the step at which it stopped within an interval. None if it did not.

        Args:
            interval: Intervals completed before.
        """
        steps = [checkpoint.step for checkpoint in self.checkpoints if checkpoint.interval == interval]
        return max(steps, default=0) or None


@dataclass(frozen=True, kw_only=True)
class ReplayPlan:
    """All that a replay has to repeat."""

    lives: Mapping[Life, LifePlan]
    uses: Mapping[Version, int]
    """How often each version is grafted or cloned. It is forgotten after its last use."""

    @property
    def restarts(self) -> list[tuple[int, CheckpointId]]:
        """Checkpoints from which processes restart, each with its network."""
        return [
            (life.network_id, plan.birth.start.checkpoint)
            for life, plan in self.lives.items()
            if plan.birth.start.began == "resumed"
        ]

    @property
    def num_intervals(self) -> int:
        """Intervals that are trained."""
        return sum(plan.last - plan.birth.start.interval for plan in self.lives.values())


class _Planner:
    """Collects what is needed. An instance makes one plan."""

    def __init__(self, record: RunRecord) -> None:
        self._record = record
        self._exchanges = bool(record.exchanges)  # networks that exchange nothing record none
        self.lives: dict[Life, LifePlan] = {}
        self.uses: collections.Counter[Version] = collections.Counter()
        self._versions: collections.deque[tuple[Version, str]] = collections.deque()
        self._checkpoints: collections.deque[tuple[int, CheckpointId]] = collections.deque()

    def need(self, network_id: int, checkpoint: CheckpointId) -> None:
        self._checkpoints.append((network_id, checkpoint))
        while self._checkpoints or self._versions:
            if self._checkpoints:
                self._take_checkpoint(*self._checkpoints.popleft())
            else:
                self._take_version(*self._versions.popleft())

    def _take_checkpoint(self, network_id: int, checkpoint: CheckpointId) -> None:
        life = Life(network_id, checkpoint.incarnation)
        plan = self._plan(life, f"wrote checkpoint {checkpoint.name}")
        plan.checkpoints.add(checkpoint)
        self._exchange_until(life, checkpoint.interval)

    def _take_version(self, version: Version, reason: str) -> None:
        plan = self._plan(version.life, reason)
        plan.published = max(plan.published, version.interval)
        self._exchange_until(version.life, version.interval - 1)

    def _plan(self, life: Life, reason: str) -> LifePlan:
        if life in self.lives:
            return self.lives[life]
        guest = self._record.guests.get(life.network_id)
        if guest is not None:
            raise RunError(
                f"the run cannot be replayed: guest {guest!r} (network {life.network_id}) {reason}, and a replay "
                "cannot repeat a training loop of your own"
            )
        birth = self._record.births.get(life)
        if birth is None:
            raise RunError(
                f"the run cannot be replayed: incarnation {life.incarnation} of network {life.network_id} {reason}, "
                "and no row of births/ says how it began"
            )
        start = birth.start
        plan = self.lives[life] = LifePlan(birth=birth, exchanged=start.interval)
        if start.source is not None and start.began == "cloned":
            self._use(Version(Life(*start.source), start.interval), f"gave network {life.network_id} its first weights")
        elif start.source is not None:
            self._checkpoints.append((life.network_id, start.checkpoint))
        return plan

    def _use(self, version: Version, reason: str) -> None:
        self.uses[version] += 1
        self._versions.append((version, reason))

    def _exchange_until(self, life: Life, last: int) -> None:
        plan = self.lives[life]
        for interval in range(plan.exchanged + 1, last + 1) if self._exchanges else ():
            exchange = self._record.exchanges.get(life, {}).get(interval)
            if exchange is None:
                raise RunError(
                    f"the run cannot be replayed: exchange {interval} of incarnation {life.incarnation} of network "
                    f"{life.network_id} is not recorded; the process died before the row was written"
                )
            for scion in exchange.scions:
                self._use(scion.version, f"gave network {life.network_id} a scion in interval {interval}")
        plan.exchanged = max(plan.exchanged, last)


def plan_replay(record: RunRecord, checkpoints: Iterable[tuple[int, CheckpointId]]) -> ReplayPlan:
    """Return what a replay has to repeat in order to make some checkpoints.

    Args:
        record: What the run's folder records.
        checkpoints: Network and id of each checkpoint. It need not be in the folder.

    Raises:
        RunError: The record lacks something, or a guest contributed. The message names it.
    """
    planner = _Planner(record)
    for network_id, checkpoint in checkpoints:
        planner.need(network_id, checkpoint)
    return ReplayPlan(lives=planner.lives, uses=planner.uses)
