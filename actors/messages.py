"""What the processes of a run tell each other: small frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, NamedTuple

import ray

from inarch.population.tasks.run_spec import RunSpec

NAMESPACE = "inarch"
"""Ray namespace of all runs; a run's name tells its actors apart."""


def coordinator_name(run: str) -> str:
    """The coordinator's actor name."""
    return f"{run}/coordinator"


def network_name(run: str, network_id: int, incarnation: int) -> str:
    """A network's actor name."""
    return f"{run}/{network_id}/{incarnation}"


class Command(StrEnum):
    """What the coordinator wants of a network."""

    CONTINUE = "go_on"
    LEAVE = "leave"
    """Finish the interval, commit, end."""
    STOP = "stop"
    """Commit at the next step, end."""
    FENCED = "fenced"
    """A later incarnation took over: end, commit nothing."""


class ExitReason(StrEnum):
    """How a network's run ended."""

    DONE = "done"
    LEFT = "left"
    STOPPED = "stopped"
    ORPHANED = "orphaned"
    """No coordinator was heard from for the lease time."""
    FENCED = "fenced"


References = list[ray.ObjectRef]
"""What lies on the board: one reference in a list, which Ray does not resolve when it is passed on."""

StartMode = Literal["initial", "joined", "resumed"]


class StartPlan(NamedTuple):
    """How a member begins."""

    mode: StartMode
    at_most_interval: int | None = None
    """lockstep: a checkpoint of no later interval counts."""


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """What one network is told."""

    run: RunSpec
    network_id: int
    incarnation: int
    mode: StartMode
    threads: int
    gpus: float
    at_most_interval: int | None = None
    """lockstep: resume from no later checkpoint than this."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened in a run."""

    number: int
    """Counts from 1 within one life of the coordinator."""
    kind: Literal[
        "interval",
        "graft",
        "refusal",
        "join",
        "loss",
        "restart",
        "leave",
        "done",
        "failure",
        "stop",
        "finish",
    ]
    network_id: int | None
    seconds: float
    """Of the coordinator's clock."""
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class NetworkStatus:
    """One network as the coordinator last heard of it."""

    network_id: int
    state: str
    incarnation: int
    interval: int = 0
    epoch: float = 0.0
    train_loss: float | None = None
    validation_accuracy: float | None = None
    images_per_second: float | None = None
    grafts: int = 0
    outcome: str = ""
    """Of the newest interval's exchange."""
    scion: int | None = None
    staleness_intervals: float | None = None
    """Of the scion last grafted."""
    staleness_seconds: float | None = None
    silent_seconds: float = 0.0
    """Since the network was last heard from."""
    process: int | None = None
    node: str | None = None
    """Ray's id of the node that it runs on."""


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """A run as its coordinator sees it."""

    name: str
    state: Literal["starting", "training", "stopping", "finishing", "finished", "failed"]
    num_intervals: int
    epochs: int
    networks: tuple[NetworkStatus, ...]
    seconds: float
    """Since the start of training."""
    message: str = ""
    """Why it failed."""
    coordinator_process: int = 0
    refusals: Mapping[str, int] = field(default_factory=dict)
    """Counts by name."""
