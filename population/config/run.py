"""One run: its population, its modes, and how all of it becomes JSON and back."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from inarch.population.config.checks import one_of, require
from inarch.population.config.exchange import (
    AgeConfig,
    AverageConfig,
    ExchangeConfig,
    ExploitConfig,
    GraftConfig,
    ShuffleConfig,
    TopologyConfig,
)
from inarch.population.config.fusion import FusionConfig
from inarch.population.config.learning import (
    AveragingConfig,
    DataConfig,
    DeviceConfig,
    DistillationConfig,
    NetworkConfig,
    OptimizerConfig,
    ScheduleConfig,
)
from inarch.population.errors import ConfigError

Mode = Literal["async", "lockstep"]

TaskName = Literal["classification", "retrieval"]


@dataclass(frozen=True, kw_only=True)
class PopulationConfig:
    """How many networks there are, and what each of them gets."""

    size: int = 4
    """Networks wanted, at least 1."""
    min_size: int | None = None
    """The run starts when this many are placed and grows as nodes appear; None: `size`."""
    max_size: int | None = None
    """The most that `scale` may ask for; None: no limit."""
    cpus: float | None = None
    """CPUs of each network, fractions too; None: an equal share of the cluster's."""
    gpus: float | None = None
    """GPUs of each network, fractions too; None: one where the cluster has GPUs, else none."""
    newcomers: Literal["clone", "fresh"] = "clone"
    """What a network that joins later begins with: a living network's weights, or weights of its own."""
    same_initial_weights: bool = False
    """Whether all networks begin with the same weights."""
    restarts: int = 3
    """How often one network that died is brought back from its newest checkpoint before it is given up."""

    def __post_init__(self) -> None:
        require(self.size >= 1, "population.size", "be at least 1", self.size)
        if self.min_size is not None:
            require(
                1 <= self.min_size <= self.size,
                "population.min_size",
                "lie in [1, population.size]",
                self.min_size,
            )
        if self.max_size is not None:
            require(
                self.max_size >= self.size,
                "population.max_size",
                "be at least population.size",
                self.max_size,
            )
        require(self.cpus is None or self.cpus > 0, "population.cpus", "be above 0", self.cpus)
        require(self.gpus is None or self.gpus >= 0, "population.gpus", "be at least 0", self.gpus)
        if self.gpus is not None and self.gpus > 1:
            require(float(self.gpus).is_integer(), "population.gpus", "be whole above 1", self.gpus)
        one_of(self.newcomers, Literal["clone", "fresh"], "population.newcomers")
        require(self.restarts >= 0, "population.restarts", "be at least 0", self.restarts)


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """What is kept of each network."""

    keep: int = 2
    """Newest checkpoints kept of each network, at least 2 (lockstep resumes from the interval that all have)."""
    every: int = 1
    """Judged intervals (schedule.evaluate) between checkpoints, at least 1; the last interval always has one."""

    def __post_init__(self) -> None:
        require(self.keep >= 2, "checkpoint.keep", "be at least 2", self.keep)
        require(self.every >= 1, "checkpoint.every", "be at least 1", self.every)


@dataclass(frozen=True, kw_only=True)
class PatienceConfig:
    """How long anything waits. Every wait has an end."""

    lease_seconds: float = 30.0
    """A network that hears from no coordinator for so long commits a checkpoint and ends."""
    pull_seconds: float = 10.0
    """A scion that has not arrived by then is refused."""
    barrier_seconds: float = 600.0
    """lockstep: a barrier that has waited so long opens with the outcome barrier_timeout."""
    start_seconds: float = 300.0
    """Networks that are not placed by then fail the start, unless population.min_size are; later, networks that nobody
    trains beside are given up after so long."""
    storage_seconds: float = 120.0
    """A storage call that takes longer fails."""
    progress_seconds: float = 7200.0
    """A network that trains and for so long has come to no next step and no end of an interval (longer than any
    evaluation takes) is ended, and comes back from its newest checkpoint."""

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            require(value > 0 and math.isfinite(value), f"patience.{item.name}", "be above 0", value)


@dataclass(frozen=True, kw_only=True)
class PaceConfig:
    """Slower steps, on purpose: to see what a straggler does to the others."""

    step_seconds: float = 0.0
    """Every step is padded to at least this length, at least 0."""
    slowdowns: tuple[float, ...] = ()
    """What step_seconds is multiplied by for each network, by id; 1 for those not named."""

    def __post_init__(self) -> None:
        require(0 <= self.step_seconds < math.inf, "pace.step_seconds", "be at least 0", self.step_seconds)
        positive = all(0 < factor < math.inf for factor in self.slowdowns)
        require(positive, "pace.slowdowns", "be above 0", self.slowdowns)

    def seconds(self, network: int) -> float:
        """Least length of a network's steps."""
        return self.step_seconds * (self.slowdowns[network] if network < len(self.slowdowns) else 1.0)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One run of a population."""

    name: str | None = None
    """Name of the run and of its folder; None: the recipe's name and the time."""
    storage: str = "runs"
    """Folder or URI (s3://, gs://) that holds runs; every node of the cluster must reach it."""
    seed: int = 0
    """Root of the seed tree; each network has its own branch."""
    task: TaskName = "classification"
    """What networks are judged by: classes of images, or how well the images of a class (of a person) are found by each
    other's embeddings. Both learn the training images' classes by cross-entropy."""
    mode: Mode = "async"
    """async: nobody waits; lockstep: the papers' barrier at each interval."""
    detach: bool = False
    """The run outlives this driver; needs a cluster that outlives it too."""
    address: str | None = None
    """Address of a Ray cluster; None: RAY_ADDRESS, else a Ray of this machine for this run."""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    fusion: FusionConfig = field(default_factory=FusionConfig)
    data: DataConfig = field(default_factory=DataConfig)
    population: PopulationConfig = field(default_factory=PopulationConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    distillation: DistillationConfig = field(default_factory=DistillationConfig)
    averaging: AveragingConfig = field(default_factory=AveragingConfig)
    exchange: ExchangeConfig = field(default_factory=ExchangeConfig)
    graft: GraftConfig = field(default_factory=GraftConfig)
    average: AverageConfig = field(default_factory=AverageConfig)
    shuffle: ShuffleConfig = field(default_factory=ShuffleConfig)
    exploit: ExploitConfig = field(default_factory=ExploitConfig)
    age: AgeConfig = field(default_factory=AgeConfig)
    topology: TopologyConfig = field(default_factory=TopologyConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    device: DeviceConfig = field(default_factory=DeviceConfig)
    patience: PatienceConfig = field(default_factory=PatienceConfig)
    pace: PaceConfig = field(default_factory=PaceConfig)

    def __post_init__(self) -> None:
        one_of(self.mode, Mode, "mode")
        one_of(self.task, TaskName, "task")
        is_full = self.network.weights is None or self.fusion.mode == "off"
        require(is_full, "network.weights", "be given with fusion.mode off only", self.network.weights)
        asks = self.data.query is None or self.task == "retrieval"
        require(asks, "data.query", "be given with task=retrieval only", self.data.query)
        is_ranked = self.exchange.rule != "exploit" or self.data.validation > 0
        require(is_ranked, "data.validation", "be above 0 with exchange.rule exploit", self.data.validation)
        told = "be 0 but with exchange.rule graft, graft.scion external"
        require(self._grafts_others or not self.age.compensation, "age.compensation", told, self.age.compensation)
        has_donors = self.exchange.rule != "graft" or self.graft.scion == "external" or self.exchange.donors is None
        told = f"not be given with graft.scion {self.graft.scion}"
        require(has_donors, "exchange.donors", told, self.exchange.donors)
        is_one = not (self._grafts_others and self.graft.reference) or self.exchange.num_donors == 1
        require(is_one, "exchange.donors", "be 1 with graft.reference", self.exchange.donors)
        is_plain = self.exchange.rule != "exploit" or self.averaging.kind == "none"
        told = "be none with exchange.rule exploit, whose copies have no mean of their own"
        require(is_plain, "averaging.kind", told, self.averaging.kind)
        is_plain = self.graft.momentum != "blend" or not self.age.compensation
        require(is_plain, "graft.momentum", "be keep or reset with age.compensation", self.graft.momentum)
        require(bool(self.storage), "storage", "name a folder or a URI", self.storage)
        require(0 <= self.seed < 2**63, "seed", "lie in [0, 2**63)", self.seed)
        if self.name is not None:
            plain = (
                bool(self.name)
                and self.name.isascii()
                and all(char.isalnum() or char in "-_." for char in self.name)
                and self.name[0] != "."
            )
            require(plain, "name", "consist of the letters a to z and A to Z, digits, '-', '_' and '.'", self.name)
        rates = self.optimizer.learning_rates
        if not isinstance(rates, str):
            fits = len(rates) == self.population.size
            require(fits, "optimizer.learning_rates", f"have {self.population.size} rates, one a network", rates)

    @property
    def compensation(self) -> int:
        """Intervals of own training by which an old scion may be brought forward."""
        if self.age.compensation is not None:
            return self.age.compensation
        return 2 if self._grafts_others and self.mode == "async" and self.graft.momentum != "blend" else 0

    @property
    def _grafts_others(self) -> bool:
        return self.exchange.rule == "graft" and self.graft.scion == "external"


def to_dict(config: Any) -> dict[str, Any]:
    """The configuration as JSON's types."""
    return dataclasses.asdict(config)


def from_dict(kind: type, values: Mapping[str, Any], path: str = "") -> Any:
    """A configuration from JSON's types.

    Raises:
        ConfigError: an unknown field, or a value that its check refuses; the message names it.
    """
    hints = typing.get_type_hints(kind)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise ConfigError(f"{path or 'the configuration'} has no field {unknown[0]!r}; it has {', '.join(hints)}")
    made = {name: _revive(hints[name], value, f"{path}{name}.") for name, value in values.items()}
    return kind(**made)


def _revive(hint: Any, value: Any, path: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return from_dict(typing.cast(type, hint), value, path)
    if isinstance(value, list):
        return tuple(_revive(None, item, path) for item in value)
    if isinstance(hint, types.UnionType) and isinstance(value, int) and float in typing.get_args(hint):
        return value if int in typing.get_args(hint) or isinstance(value, bool) else float(value)
    return value
