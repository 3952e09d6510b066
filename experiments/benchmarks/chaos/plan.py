"""The plan of a chaos run, which follows from a seed: the faults in their order, and how long each lasts."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from inarch.population.errors import ConfigError


class FaultKind(StrEnum):
    """A kind of fault."""

    KILL_NETWORK = "kill network"
    """SIGKILL of a network's process."""
    FREEZE_NETWORK = "freeze network"
    """SIGSTOP of a network's process, and SIGCONT later."""
    KILL_COORDINATOR = "kill coordinator"
    FREEZE_COORDINATOR = "freeze coordinator"
    SCALE_UP = "scale up"
    SCALE_DOWN = "scale down"
    STOP = "stop and resume"
    """`inarch stop`, then `inarch resume`."""
    TERMINATE_DRIVER = "terminate driver and resume"
    """SIGTERM of the driver, then `inarch resume`."""
    KILL_DRIVER = "kill driver and resume"
    """SIGKILL of the driver, then `inarch resume` at once."""
    GUEST = "guest joins and dies"
    """A training loop of the user's own joins, exchanges, and is killed."""
    FULL_STORAGE = "storage full"
    """Nothing can be written into the run's folder for a while."""
    SLOW_STORAGE = "storage slow"
    """The write of one file of a checkpoint hangs for a while, and then succeeds."""
    NODE = "node added and removed"
    """A node joins the cluster, the population grows onto it, and the node is lost."""


Cluster = Literal["own", "separate"]
Mode = Literal["async", "lockstep"]
Task = Literal["images", "text"]


@dataclass(frozen=True, kw_only=True)
class ChaosSetting:
    """What a chaos run trains, and for how long faults are injected."""

    seed: int
    """Seed of the plan, at least 0."""
    minutes: float = 1.5
    """Minutes in which faults are injected, above 0. The time that a resume takes does not count."""
    population: int = 3
    """Networks at the start, at least 2."""
    cluster: Cluster = "own"
    """own: each driver starts a Ray of its own, which ends with it. separate: the cluster outlives the drivers."""
    mode: Mode = "async"
    task: Task = "images"

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ConfigError(f"seed must be at least 0, got {self.seed}")
        if not 0 < self.minutes <= 24 * 60:
            raise ConfigError(f"minutes must be above 0 and at most a day, got {self.minutes:g}")
        if self.population < 2:
            raise ConfigError(f"population must be at least 2, got {self.population}")

    @property
    def name(self) -> str:
        """The setting in a few words, for tables."""
        return f"{self.cluster}, {self.mode}, {self.task}"


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One fault of a plan."""

    kind: FaultKind
    gap_seconds: float
    """Seconds of training between the fault before and this one."""
    duration_seconds: float = 0.0
    """How long it lasts. 0: it happens at once and leaves nothing that must be undone."""
    choice: float = 0.0
    """Number in [0, 1) that selects the victim among those that live at that time."""


WEIGHTS: dict[FaultKind, float] = {
    FaultKind.KILL_NETWORK: 5,
    FaultKind.FREEZE_NETWORK: 3,
    FaultKind.KILL_COORDINATOR: 2,
    FaultKind.FREEZE_COORDINATOR: 2,
    FaultKind.SCALE_UP: 3,
    FaultKind.SCALE_DOWN: 3,
    FaultKind.STOP: 1,
    FaultKind.TERMINATE_DRIVER: 1,
    FaultKind.KILL_DRIVER: 1,
    FaultKind.GUEST: 1,
    FaultKind.FULL_STORAGE: 1,
    FaultKind.SLOW_STORAGE: 1,
    FaultKind.NODE: 2,
}
"""How often each kind is drawn, relative to the others."""

DURATIONS: dict[FaultKind, tuple[float, float]] = {
    FaultKind.FREEZE_NETWORK: (2.0, 40.0),
    FaultKind.FREEZE_COORDINATOR: (2.0, 25.0),
    FaultKind.GUEST: (15.0, 30.0),
    FaultKind.FULL_STORAGE: (3.0, 15.0),
    FaultKind.SLOW_STORAGE: (3.0, 15.0),
    FaultKind.NODE: (15.0, 30.0),
}
"""Least and most seconds of the kinds that last. With the lease of a chaos run, 10 s, some outlast three leases."""

LONG_FREEZE, LONG_FREEZE_SECONDS = 0.15, 70.0
"""Share of the coordinator's freezes that outlast the limit of a call, and their duration in seconds."""

GAPS = (3.0, 11.0)
"""Least and most seconds of training between two faults."""


def kinds_of(setting: ChaosSetting) -> list[FaultKind]:
    """Return the kinds of faults that a setting can have.

    Args:
        setting: The setting. Only a separate cluster has nodes, and guests cannot join a run in lockstep.
    """
    absent = {FaultKind.NODE} if setting.cluster == "own" else set()
    absent |= {FaultKind.GUEST} if setting.mode == "lockstep" else set()
    return [kind for kind in FaultKind if kind not in absent]


def plan(setting: ChaosSetting) -> tuple[Fault, ...]:
    """Return the faults of a chaos run in the order of their time, at least one.

    Equal settings give equal plans.

    Args:
        setting: The setting.
    """
    words = (setting.seed, setting.minutes, setting.cluster, setting.mode, setting.task, setting.population)
    draw = random.Random("|".join(map(str, words)))
    kinds = kinds_of(setting)
    faults: list[Fault] = []
    seconds = 0.0
    while True:
        kind = draw.choices(kinds, [WEIGHTS[kind] for kind in kinds])[0]
        gap, choice = draw.uniform(*GAPS), draw.random()
        duration = draw.uniform(*DURATIONS[kind]) if kind in DURATIONS else 0.0
        if kind is FaultKind.FREEZE_COORDINATOR and draw.random() < LONG_FREEZE:
            duration = LONG_FREEZE_SECONDS
        seconds += gap
        if faults and seconds > 60.0 * setting.minutes:
            return tuple(faults)
        faults.append(Fault(kind=kind, gap_seconds=gap, duration_seconds=duration, choice=choice))
