"""Messages between the processes of a run: small frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, NamedTuple

import ray

from inarch.population.config import RunConfig
from inarch.population.evaluation.metrics import Metric
from inarch.population.extension.registry import Registration
from inarch.population.tasks.run_spec import RunInfo, RunSpec

HEARTBEATS = 6
"""Heartbeats in a lease."""

LARGE_POPULATION = 200
"""Networks above which calls to the coordinator are few, because each costs a millisecond or two of CPU time in Ray."""

HEARTBEATS_OF_LARGE = 2
"""Heartbeats in a lease in a large population. Reports wait for the next heartbeat or snapshot."""

LEASE_OF_LARGE = 3.0
"""Length of the lease in a large population, as a multiple of timeouts.lease_seconds. With the default, a network that
publishes at least every 45 s then sends no heartbeats."""


def lease_seconds(config: RunConfig) -> float:
    """Return how long a member and the coordinator may be silent to each other.

    Args:
        config: Configuration of the run.
    """
    return config.timeouts.lease_seconds * (LEASE_OF_LARGE if _is_large(config) else 1.0)


def heartbeat_seconds(config: RunConfig) -> float:
    """Return the longest time between two calls of a member to the coordinator.

    Args:
        config: Configuration of the run.
    """
    return lease_seconds(config) / (HEARTBEATS_OF_LARGE if _is_large(config) else HEARTBEATS)


def _is_large(config: RunConfig) -> bool:
    return config.population.size > LARGE_POPULATION


NAMESPACE = "inarch"
"""Ray namespace of all runs. The names of a run's actors begin with the name of the run."""


def coordinator_name(run: str) -> str:
    """Return the actor name of a run's coordinator.

    Args:
        run: Name of the run.
    """
    return f"{run}/coordinator"


def network_name(run: str, network_id: int, incarnation: int) -> str:
    """Return the actor name of a network.

    Args:
        run: Name of the run.
        network_id: Id of the network.
        incarnation: Number of the network's process, from 1.
    """
    return f"{run}/{network_id}/{incarnation}"


class Command(StrEnum):
    """Command of the coordinator to a network."""

    CONTINUE = "continue"
    LEAVE = "leave"
    """Finish the interval, write a checkpoint, end."""
    STOP = "stop"
    """Write a checkpoint at the next step, end."""
    MOVE = "move"
    """Write a checkpoint at the next step, end, and continue elsewhere: the place is about to be taken back."""
    PAUSE = "pause"
    """Finish the interval, write a checkpoint, end, and continue in a later turn: another network needs the place."""
    FENCED = "fenced"
    """A later incarnation has taken over. End without a checkpoint."""


class ExitReason(StrEnum):
    """Reason why a network ended its training."""

    DONE = "done"
    """The network completed its schedule."""
    LEFT = "left"
    """The coordinator directed the network to leave the population."""
    STOPPED = "stopped"
    """The run was stopped."""
    MOVED = "moved"
    """The network's place is about to be taken back. It continues elsewhere from the checkpoint that it wrote."""
    PAUSED = "paused"
    """The network has given its place to another one. It continues in its next turn from its checkpoint."""
    ORPHANED = "orphaned"
    """The network had no contact with the coordinator for the lease time."""
    FENCED = "fenced"
    """A later incarnation of the network has taken over."""


References = list[ray.ObjectRef]
"""Payload of a published snapshot: one object reference in a list. Ray would resolve a bare reference in a call."""

StartMode = Literal["initial", "joined", "resumed"]
"""How a network starts.

initial: with its own initial weights. resumed: from its newest checkpoint, or like initial if it has none. joined: from
its newest checkpoint. A network without one begins as the coordinator decides, with the weights of a parent, or at a
later interval with its own initial weights.
"""


class StartPlan(NamedTuple):
    """How a member of the population starts."""

    mode: StartMode
    at_most_interval: int | None = None
    """Lockstep only: the latest interval whose checkpoint the member may resume from. None: any interval."""


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """Everything that the actor of a network needs to start."""

    run: RunSpec
    network_id: int
    incarnation: int
    """Number of the network's process, from 1."""
    mode: StartMode
    threads: int
    """Threads that the network computes with."""
    gpus: float
    """GPUs that Ray reserves. The network trains on the CPU if this is 0."""
    at_most_interval: int | None = None
    """As in `StartPlan`."""


@dataclass(frozen=True, kw_only=True)
class GuestTerms:
    """What a training loop of the caller's own must know before it joins a run."""

    config: RunConfig
    """Configuration of the run."""
    info: RunInfo
    """What is known of the run's networks."""
    registrations: tuple[Registration, ...]
    """Objects that the configuration names and that the run's driver registered."""
    is_open_run: bool
    """Whether the run has no networks of its own, so that its metric is that of an `OpenConfig`."""


@dataclass(frozen=True, kw_only=True)
class GuestApplication:
    """What a training loop of the caller's own states when it joins a run."""

    name: str
    """Name of the guest. One that has been a member before gets the same id and a new incarnation."""
    structure: str
    """Fingerprint of its snapshots."""
    snapshot_bytes: int
    """Bytes of a snapshot."""
    parameters: int
    """Parameters of its model."""
    every: int | None
    """Optimizer steps from one exchange to the next. None: as the run."""
    process: int
    """Process id."""
    node: str
    """Id of the Ray node."""


@dataclass(frozen=True, kw_only=True)
class Enrollment:
    """A guest's place in a run."""

    network_id: int
    incarnation: int
    """Number of the guest's process, counted from 1."""
    every: int
    """Optimizer steps from one exchange to the next. 0 if no member has stated it."""
    num_intervals: int
    """Intervals of the schedule. 0 if its length is not known."""
    metrics: tuple[Metric, ...]
    """Metrics of the task. The first is the one that a guest reports."""


EventKind = Literal[
    "interval",
    "commit",
    "graft",
    "refusal",
    "join",
    "loss",
    "restart",
    "pause",
    "leave",
    "done",
    "failure",
    "storage",
    "damage",
    "stop",
    "finish",
]
"""Kind of an event. pause: a network gives its place to another one, and continues later. storage: storage begins to
fail, or works again. damage: a damaged file was passed over."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """An event of a run."""

    number: int
    """Number of the event, from 1. A coordinator that restarts begins again at 1."""
    kind: EventKind
    network_id: int | None
    """Id of the network. None if the event concerns the whole run."""
    seconds: float
    """Time of the event on the coordinator's wall clock, in seconds since 1970."""
    detail: Mapping[str, Any] = field(default_factory=dict)
    """Further values by name. The names depend on the kind."""


@dataclass(frozen=True, kw_only=True)
class NetworkStatus:
    """State of a network, as last reported to the coordinator."""

    network_id: int
    state: str
    """A value of `MemberState`."""
    incarnation: int
    name: str | None = None
    """Name of a guest. None: a network of the run."""
    interval: int = 0
    """Intervals completed."""
    epoch: float | None = 0.0
    """Epochs completed. None if they are not counted."""
    train_loss: float | None = None
    validation_metrics: Mapping[str, float | None] = field(default_factory=dict[str, float | None])
    """Metrics of the newest evaluation by name. Empty before the first."""
    examples_per_second: float | None = None
    grafts: int = 0
    """Grafts so far."""
    outcome: str = ""
    """How the newest exchange ended, a value of `ExchangeOutcome`. Empty before the first exchange."""
    scion: int | None = None
    """Id of the last donor."""
    staleness_intervals: float | None = None
    """Staleness of the scion grafted last, in intervals."""
    staleness_seconds: float | None = None
    """Age of that scion at the time of the graft."""
    silent_seconds: float = 0.0
    """Seconds since the network's last heartbeat."""
    storage_failure: str = ""
    """Why the network's newest checkpoint could not be written so far. Empty: storage works."""
    unwritten_seconds: float = 0.0
    """Age of the oldest rows and weights that are not written, while storage fails. 0 otherwise."""
    hyperparameters: Mapping[str, float] = field(default_factory=dict[str, float])
    """The network's own numbers by field of the configuration. Empty before its first interval."""
    process: int | None = None
    """Process id of the network's actor."""
    node: str | None = None
    """Ray's id of the node that the network runs on."""


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """State of a run, as its coordinator knows it."""

    name: str
    state: Literal["starting", "training", "stopping", "finishing", "finished", "failed"]
    num_intervals: int
    epochs: int
    networks: tuple[NetworkStatus, ...]
    seconds: float
    """Seconds since training began."""
    metrics: tuple[Metric, ...] = ()
    """Metrics of the task, the primary one first. Empty while the run starts."""
    message: str = ""
    """Newest failure of the run, of a network or of storage. Empty if there was none."""
    coordinator_process: int = 0
    """Process id of the coordinator."""
    refusals: Mapping[str, int] = field(default_factory=dict)
    """Numbers of refused exchanges, by `ExchangeOutcome`."""
