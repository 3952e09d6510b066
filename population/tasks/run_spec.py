"""Values that describe a run: its folder and configuration, and the facts about its data and its model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from inarch.population.config import OpenConfig, RunConfig
from inarch.population.evaluation.metrics import Metric
from inarch.population.extension.registry import Registration
from inarch.population.models.model_names import ModelFactory
from inarch.population.tasks.protocol import Task
from inarch.population.tasks.regime import Regime


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """Description of a run that every one of its processes receives."""

    name: str
    """Name of the run, unique among the live runs of a cluster."""
    folder: str
    """Path or URI of the run's folder."""
    config: RunConfig
    """The whole configuration."""
    factory: ModelFactory | None = None
    """Model factory. None: the model of config.model."""
    task: Task | None = None
    """The caller's task. None: config.task names it."""
    registrations: tuple[Registration, ...] = ()
    """Objects that the configuration names and that the driver registered."""
    open: OpenConfig | None = None
    """Settings of a run without networks of its own, whose members are training loops of the caller's. None: the run
    has networks of its own."""
    token: str | None = None
    """Token of this start's claim on the folder (population/persistence/claim.py). None: nothing is claimed."""
    is_resumed: bool = False
    """Whether this start resumes an earlier one."""
    is_detached: bool = False
    """Whether the run continues when its driver ends."""

    @property
    def given(self) -> frozenset[str]:
        """Fields of the configuration whose objects the caller has passed. The names that they hold are not used."""
        objects = {"model.architecture": self.factory, "task": self.task}
        return frozenset(field for field, value in objects.items() if value is not None)


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """Facts about a run's data and model, known once the data are read and the model is built."""

    metrics: tuple[Metric, ...]
    """Metrics of the task. The first ranks networks."""
    train_examples: int
    """Training examples, without those held out for validation."""
    data_bytes: int
    """Bytes of the data in the object store. 0 if networks read the data themselves."""
    data_fingerprint: str
    """Hash of the data and of their split."""
    structure: str
    """Fingerprint of the layout of a network's snapshots."""
    snapshot_bytes: int
    """Bytes of a snapshot."""
    parameters: int
    """Parameters of a network."""
    num_intervals: int
    """Intervals of the schedule."""
    steps_per_epoch: int
    """Training steps of one epoch. 0 in an open run."""
    interval_steps: int = 0
    """Steps between two exchanges. 0 if that is not known yet, as in an open run before the first member joins."""
    multiply_adds: int | None = None
    """Multiply-adds for one example, as in `population.models.complexity.ModelComplexity`. None: not counted."""
    compact_parameters: int | None = None
    """Parameters of the compact form of a network that fuses its filters. None without fusion."""
    compact_multiply_adds: int | None = None
    """Multiply-adds of the compact form for one example. None without fusion."""
    regime: Regime | None = None
    """How far weight decay and exchanges change the weights over the schedule. None in an open run."""
    description: tuple[str, ...] = ()
    """Lines that describe the data."""
    unreadable: tuple[str, ...] = ()
    """Names of examples that were left out because they cannot be read."""
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Facts that the task needs again to read the run's folder, as JSON types."""

    @property
    def is_open_run(self) -> bool:
        """Whether the run has no networks of its own."""
        return self.steps_per_epoch == 0
