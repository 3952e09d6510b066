"""The whole configuration of a run: frozen values, checked when they are made, written beside every result.

Longer than other files: it is a list of fields, and a reader looks for a field in one place.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from population.errors import ConfigError

Mode = Literal["async", "lockstep"]
Criterion = Literal["entropy", "l1"]
TopologyName = Literal[
    "ring",
    "bidirectional_ring",
    "complete",
    "star",
    "torus",
    "exponential",
    "random_regular",
    "one_peer",
    "edges",
]


def _require(claim: bool, name: str, rule: str, value: object) -> None:
    if not claim:
        raise ConfigError(f"{name} must {rule}, got {value!r}")


def _one_of(value: str, options: Any, name: str) -> None:
    allowed = typing.get_args(options)
    _require(value in allowed, name, f"be one of {', '.join(allowed)}", value)


def _finite(value: float, name: str) -> None:
    _require(math.isfinite(value), name, "be a finite number", value)


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Which architecture every network of the population has."""

    architecture: str = "resnet20"
    """A built-in name (resnet20, mobilenetv2, vgg16, ...), torchvision:NAME, or module:function of your own."""
    leaky: bool = False
    """CIFAR ResNets only: leaky ReLU (slope 0.01) in place of ReLU."""

    def __post_init__(self) -> None:
        _require(bool(self.architecture), "network.architecture", "name an architecture", self.architecture)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where images come from, and how they are split and augmented."""

    train: str = "digits"
    """digits, cifar10, cifar100, a Parquet file, or a folder (torchvision's CIFAR format, or a folder of classes)."""
    test: str | None = None
    """Test images, in the same forms; None where `train` names both (digits, cifar10, cifar100)."""
    validation: float = 0.1
    """Part of the training images held out, in [0, 0.5]; they choose checkpoints and soups. 0: the last one is kept."""
    image_size: int | None = None
    """Pixels a side; images of several sizes are resized to it. None: as found (they must then be of one size)."""
    augmentation: Literal["none", "crop", "crop_flip", "imagenet"] = "crop_flip"
    """Of training images: zero-padded random crop, with or without mirror; imagenet: random resized crop and mirror."""
    padding: int = 4
    """Zero pixels around an image before the random crop, at least 0."""
    stream: Literal["auto", "never", "always"] = "auto"
    """Whether images are decoded by loader workers as they are needed, in place of once into the object store."""
    memory_gib: float = 4.0
    """With stream=auto: decoded images above this many GiB are streamed."""
    workers: int = 2
    """Loader processes for each network where images are streamed."""

    def __post_init__(self) -> None:
        _require(bool(self.train), "data.train", "name a data set", self.train)
        _require(0 <= self.validation <= 0.5, "data.validation", "lie in [0, 0.5]", self.validation)
        _require(
            self.image_size is None or self.image_size >= 1,
            "data.image_size",
            "be at least 1",
            self.image_size,
        )
        _one_of(self.augmentation, Literal["none", "crop", "crop_flip", "imagenet"], "data.augmentation")
        _require(self.padding >= 0, "data.padding", "be at least 0", self.padding)
        _one_of(self.stream, Literal["auto", "never", "always"], "data.stream")
        _require(self.memory_gib > 0, "data.memory_gib", "be above 0", self.memory_gib)
        _require(self.workers >= 0, "data.workers", "be at least 0", self.workers)


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
        _require(self.size >= 1, "population.size", "be at least 1", self.size)
        if self.min_size is not None:
            _require(
                1 <= self.min_size <= self.size,
                "population.min_size",
                "lie in [1, population.size]",
                self.min_size,
            )
        if self.max_size is not None:
            _require(
                self.max_size >= self.size,
                "population.max_size",
                "be at least population.size",
                self.max_size,
            )
        _require(self.cpus is None or self.cpus > 0, "population.cpus", "be above 0", self.cpus)
        _require(self.gpus is None or self.gpus >= 0, "population.gpus", "be at least 0", self.gpus)
        if self.gpus is not None and self.gpus > 1:
            _require(float(self.gpus).is_integer(), "population.gpus", "be whole above 1", self.gpus)
        _one_of(self.newcomers, Literal["clone", "fresh"], "population.newcomers")
        _require(self.restarts >= 0, "population.restarts", "be at least 0", self.restarts)


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """How long networks train, how the learning rate falls, and how often they exchange."""

    epochs: int = 200
    """Passes over the training images, at least 1."""
    batch_size: int = 256
    """Images a step; the last, smaller batch of an epoch is trained on too."""
    interval_epochs: int = 1
    """Epochs between exchanges, at least 1."""
    interval_steps: int | None = None
    """Steps between exchanges, in place of interval_epochs."""
    shape: Literal["constant", "step", "cosine"] = "step"
    """How the learning rate falls."""
    step_epochs: int = 60
    """step: epochs between falls, at least 1."""
    step_factor: float = 0.1
    """step: what the learning rate is multiplied by at each fall, in (0, 1]."""
    warmup_epochs: int = 0
    """Epochs over which the learning rate rises linearly from zero, at least 0."""

    def __post_init__(self) -> None:
        _require(self.epochs >= 1, "schedule.epochs", "be at least 1", self.epochs)
        _require(self.batch_size >= 1, "schedule.batch_size", "be at least 1", self.batch_size)
        _require(self.interval_epochs >= 1, "schedule.interval_epochs", "be at least 1", self.interval_epochs)
        if self.interval_steps is not None:
            _require(self.interval_steps >= 1, "schedule.interval_steps", "be at least 1", self.interval_steps)
        _one_of(self.shape, Literal["constant", "step", "cosine"], "schedule.shape")
        _require(self.step_epochs >= 1, "schedule.step_epochs", "be at least 1", self.step_epochs)
        _require(0 < self.step_factor <= 1, "schedule.step_factor", "lie in (0, 1]", self.step_factor)
        _require(self.warmup_epochs >= 0, "schedule.warmup_epochs", "be at least 0", self.warmup_epochs)


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The optimizer of each network; the papers' values are the defaults."""

    name: Literal["sgd", "adamw"] = "sgd"
    """SGD with momentum, or AdamW."""
    learning_rate: float = 0.1
    """Initial learning rate, above 0."""
    learning_rates: Literal["same", "spread"] | tuple[float, ...] = "same"
    """Diversity: the same for all; spread as in the paper, lr (1 + cos(pi (N - i) / N)) / 2; or one given for each."""
    momentum: float = 0.9
    """SGD's, in [0, 1)."""
    weight_decay: float = 5e-4
    """At least 0."""
    nesterov: bool = False
    """SGD with Nesterov's momentum."""
    label_smoothing: float = 0.0
    """In [0, 1)."""

    def __post_init__(self) -> None:
        _one_of(self.name, Literal["sgd", "adamw"], "optimizer.name")
        _finite(self.learning_rate, "optimizer.learning_rate")
        _require(self.learning_rate > 0, "optimizer.learning_rate", "be above 0", self.learning_rate)
        if isinstance(self.learning_rates, str):
            _one_of(self.learning_rates, Literal["same", "spread"], "optimizer.learning_rates")
        else:
            positive = bool(self.learning_rates) and all(
                rate > 0 and math.isfinite(rate) for rate in self.learning_rates
            )
            _require(positive, "optimizer.learning_rates", "be same, spread or rates above 0", self.learning_rates)
        _require(0 <= self.momentum < 1, "optimizer.momentum", "lie in [0, 1)", self.momentum)
        _require(self.weight_decay >= 0, "optimizer.weight_decay", "be at least 0", self.weight_decay)
        _require(
            not self.nesterov or self.momentum > 0,
            "optimizer.nesterov",
            "come with momentum above 0",
            self.nesterov,
        )
        _require(0 <= self.label_smoothing < 1, "optimizer.label_smoothing", "lie in [0, 1)", self.label_smoothing)


@dataclass(frozen=True, kw_only=True)
class GraftConfig:
    """How a scion is grafted. Source: Meng et al. 2020 (arXiv:2001.05868), eq. 2, 3, 6, 7."""

    enabled: bool = True
    """False: networks train side by side and exchange nothing."""
    criterion: Criterion = "entropy"
    """What a layer's information is: the entropy of its weights (eq. 6), or their l1 norm (eq. 3)."""
    a: float = 0.4
    """Range of alpha, in [0, 1]: alpha lies in 0.5 -+ a/2. 0 is plain averaging."""
    c: float = 500.0
    """How sharply alpha answers a difference of information, at least 0."""
    bins: int = 10
    """Cells of the histogram, at least 2."""
    units: Literal["convolutions", "matrices"] = "convolutions"
    """What shares one alpha: a convolution with what follows it, or every weight matrix with what follows it."""
    momentum: Literal["keep", "blend", "reset"] = "keep"
    """What a graft does to the optimizer's running averages."""
    batch_norm: Literal["blend", "keep"] = "blend"
    """What a graft does to batch norm's running mean and variance."""
    reference: bool = False
    """As published: half-open cells, alpha rounded to two decimals, num_batches_tracked blended and truncated."""

    def __post_init__(self) -> None:
        _one_of(self.criterion, Criterion, "graft.criterion")
        _require(0 <= self.a <= 1, "graft.a", "lie in [0, 1]", self.a)
        _require(self.c >= 0 and math.isfinite(self.c), "graft.c", "be finite and at least 0", self.c)
        _require(self.bins >= 2, "graft.bins", "be at least 2", self.bins)
        _one_of(self.units, Literal["convolutions", "matrices"], "graft.units")
        _one_of(self.momentum, Literal["keep", "blend", "reset"], "graft.momentum")
        _one_of(self.batch_norm, Literal["blend", "keep"], "graft.batch_norm")


@dataclass(frozen=True, kw_only=True)
class AgeConfig:
    """What the age of a scion does to its part, and when it is too old."""

    policy: Literal["none", "polynomial", "exponential"] = "none"
    """How the scion's part 1 - alpha falls with its age in intervals: not, as (1 + age)^-rate, or as exp(-rate age)."""
    rate: float = 0.5
    """At least 0."""
    cutoff_intervals: float = 8.0
    """exponential: above this age the scion has no part."""
    limit_intervals: float | None = None
    """A scion that trails by more is refused; None: a twentieth of the schedule, at least one interval."""

    def __post_init__(self) -> None:
        _one_of(self.policy, Literal["none", "polynomial", "exponential"], "age.policy")
        _require(self.rate >= 0 and math.isfinite(self.rate), "age.rate", "be finite and at least 0", self.rate)
        _require(self.cutoff_intervals >= 0, "age.cutoff_intervals", "be at least 0", self.cutoff_intervals)
        limit = self.limit_intervals
        _require(limit is None or limit >= 0, "age.limit_intervals", "be at least 0", limit)


@dataclass(frozen=True, kw_only=True)
class TopologyConfig:
    """Who may donate to whom."""

    name: TopologyName = "ring"
    """The paper's ring takes from the network before."""
    degree: int = 2
    """random_regular: neighbors of each network, at least 1."""
    edges: tuple[tuple[int, int], ...] = ()
    """edges: pairs of ids, donor then rootstock."""

    def __post_init__(self) -> None:
        _one_of(self.name, TopologyName, "topology.name")
        _require(self.degree >= 1, "topology.degree", "be at least 1", self.degree)
        _require(
            self.name != "edges" or bool(self.edges),
            "topology.edges",
            "be given for topology edges",
            self.edges,
        )
        loops = [edge for edge in self.edges if edge[0] == edge[1]]
        _require(not loops, "topology.edges", "join different networks", loops)


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """What is kept of each network."""

    keep: int = 2
    """Newest checkpoints kept of each network, at least 2 (lockstep resumes from the interval that all have)."""
    every: int = 1
    """Intervals between checkpoints, at least 1; the last interval always has one."""

    def __post_init__(self) -> None:
        _require(self.keep >= 2, "checkpoint.keep", "be at least 2", self.keep)
        _require(self.every >= 1, "checkpoint.every", "be at least 1", self.every)


@dataclass(frozen=True, kw_only=True)
class DeviceConfig:
    """How a network uses its device."""

    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the forward pass; auto: bfloat16 autocast on a GPU that has it, else float32."""
    channels_last: Literal["auto", "on", "off"] = "auto"
    """Memory format of convolutions; auto: on a GPU."""
    compile: bool = False
    """torch.compile the network."""
    deterministic: bool = False
    """Use only deterministic algorithms (slower on a GPU)."""

    def __post_init__(self) -> None:
        _one_of(self.precision, Literal["auto", "float32", "bfloat16", "float16"], "device.precision")
        _one_of(self.channels_last, Literal["auto", "on", "off"], "device.channels_last")


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

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            _require(value > 0 and math.isfinite(value), f"patience.{item.name}", "be above 0", value)


@dataclass(frozen=True, kw_only=True)
class PaceConfig:
    """Slower steps, on purpose: to see what a straggler does to the others."""

    step_seconds: float = 0.0
    """Every step is padded to at least this length, at least 0."""
    slowdowns: tuple[float, ...] = ()
    """What step_seconds is multiplied by for each network, by id; 1 for those not named."""

    def __post_init__(self) -> None:
        _require(0 <= self.step_seconds < math.inf, "pace.step_seconds", "be at least 0", self.step_seconds)
        positive = all(0 < factor < math.inf for factor in self.slowdowns)
        _require(positive, "pace.slowdowns", "be above 0", self.slowdowns)

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
    mode: Mode = "async"
    """async: nobody waits; lockstep: the papers' barrier at each interval."""
    detach: bool = False
    """The run outlives this driver; needs a cluster that outlives it too."""
    address: str | None = None
    """Address of a Ray cluster; None: RAY_ADDRESS, else a Ray of this machine for this run."""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    data: DataConfig = field(default_factory=DataConfig)
    population: PopulationConfig = field(default_factory=PopulationConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    graft: GraftConfig = field(default_factory=GraftConfig)
    age: AgeConfig = field(default_factory=AgeConfig)
    topology: TopologyConfig = field(default_factory=TopologyConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    device: DeviceConfig = field(default_factory=DeviceConfig)
    patience: PatienceConfig = field(default_factory=PatienceConfig)
    pace: PaceConfig = field(default_factory=PaceConfig)

    def __post_init__(self) -> None:
        _one_of(self.mode, Mode, "mode")
        _require(bool(self.storage), "storage", "name a folder or a URI", self.storage)
        _require(0 <= self.seed < 2**63, "seed", "lie in [0, 2**63)", self.seed)
        if self.name is not None:
            plain = (
                bool(self.name) and all(char.isalnum() or char in "-_." for char in self.name) and self.name[0] != "."
            )
            _require(plain, "name", "consist of letters, digits, '-', '_' and '.'", self.name)
        rates = self.optimizer.learning_rates
        if not isinstance(rates, str):
            fits = len(rates) == self.population.size
            _require(fits, "optimizer.learning_rates", f"have {self.population.size} rates, one a network", rates)


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
