"""The configuration of one run: its name, task and mode, and a section for each part."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from inarch.population.config.checks import check_types, one_of, require
from inarch.population.config.data import DataConfig
from inarch.population.config.exchange import ExchangeConfig, PapaConfig, PbtConfig, TopologyConfig, WashConfig
from inarch.population.config.fusion import FusionConfig
from inarch.population.config.grafting import GraftConfig
from inarch.population.config.model import ModelConfig
from inarch.population.config.per_network import is_positive, number_fields
from inarch.population.config.population import PopulationConfig
from inarch.population.config.runtime import (
    MAX_LABELED_NETWORKS,
    CheckpointConfig,
    DebugConfig,
    DeviceConfig,
    MetricsConfig,
    TimeoutsConfig,
)
from inarch.population.config.staleness import StalenessConfig
from inarch.population.config.text import TextConfig
from inarch.population.config.training import (
    DistillationConfig,
    OptimizerConfig,
    RegularizationConfig,
    ScheduleConfig,
    WeightAveragingConfig,
)

Mode = Literal["async", "lockstep"]

IMAGE_TASKS = ("classification", "retrieval")
"""Names of the tasks that use data.*."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Configuration of one run of a population."""

    name: str | None = None
    """Name of the run and of its folder. None: the recipe's name and the time."""
    storage: str = "runs"
    """Folder or URI (s3://, gs://) that holds the folders of runs. Every node of the cluster must reach it."""
    seed: int = 0
    """Root of the seed tree, from which each network derives its own seeds. In [0, 2**63)."""
    task: str = "classification"
    """What networks learn. classification: the classes of images. retrieval: the same, but networks are evaluated by
    how well an image's embedding finds other images of the same class, for example of the same person. language: the
    next character of a text. Or module:object for a task of your own, a subclass of inarch.TensorTask."""
    mode: Mode = "async"
    """async: networks do not wait for each other. lockstep: they meet at a barrier after each interval, as in the
    papers."""
    callbacks: tuple[str, ...] = ()
    """Callbacks that follow the run in the driver's process, each as module:object: a RunCallback class, or a function
    that returns an instance."""
    track: tuple[str, ...] = ()
    """Trackers that the driver's process feeds: tensorboard, mlflow, wandb. Each may be followed by = and its target: a
    folder, a tracking URI, or a project."""
    detach: bool = False
    """Whether the run continues after this driver process ends. Needs a Ray cluster that also outlives the driver."""
    address: str | None = None
    """Address of a Ray cluster. None: the environment variable RAY_ADDRESS if set, otherwise a local Ray started
    for this run."""
    model: ModelConfig = field(default_factory=ModelConfig)
    fusion: FusionConfig = field(default_factory=FusionConfig)
    data: DataConfig = field(default_factory=DataConfig)
    text: TextConfig = field(default_factory=TextConfig)
    population: PopulationConfig = field(default_factory=PopulationConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    regularization: RegularizationConfig = field(default_factory=RegularizationConfig)
    distillation: DistillationConfig = field(default_factory=DistillationConfig)
    weight_averaging: WeightAveragingConfig = field(default_factory=WeightAveragingConfig)
    exchange: ExchangeConfig = field(default_factory=ExchangeConfig)
    graft: GraftConfig = field(default_factory=GraftConfig)
    papa: PapaConfig = field(default_factory=PapaConfig)
    wash: WashConfig = field(default_factory=WashConfig)
    pbt: PbtConfig = field(default_factory=PbtConfig)
    staleness: StalenessConfig = field(default_factory=StalenessConfig)
    topology: TopologyConfig = field(default_factory=TopologyConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    device: DeviceConfig = field(default_factory=DeviceConfig)
    timeouts: TimeoutsConfig = field(default_factory=TimeoutsConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    debug: DebugConfig = field(default_factory=DebugConfig)

    def __post_init__(self) -> None:
        check_types(self)
        one_of(self.mode, Mode, "mode")
        require(bool(self.task), "task", "name a task", self.task)
        is_full = self.model.weights is None or self.fusion.mode == "off"
        require(is_full, "model.weights", "be None unless fusion.mode is off", self.model.weights)
        is_used = self.data.query is None or self.task == "retrieval"
        require(is_used, "data.query", "be None unless task is retrieval", self.data.query)
        for name in ("mixup", "cutmix"):
            strength = getattr(self.regularization, name)
            is_usable = self.task != "retrieval" or strength == 0
            require(is_usable, f"regularization.{name}", "be 0 with task=retrieval", strength)
        self._check_exchange()
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
        size = max(self.population.size, self.population.max_size or 0)
        is_bounded = not self.population.is_elastic or self.population.max_size is not None
        text = "be off without population.scale_to size and without population.max_size"
        require(is_bounded or not self.metrics.per_network, "metrics.per_network", text, self.metrics.per_network)
        is_small = not self.metrics.per_network or size <= MAX_LABELED_NETWORKS
        text = f"be off for more than {MAX_LABELED_NETWORKS} networks, because each would have metrics of its own"
        require(is_small, "metrics.per_network", text, self.metrics.per_network)
        is_async = self.mode == "async" or not self.checkpoint.every_seconds
        require(is_async, "checkpoint.every_seconds", "be 0 with mode=lockstep", self.checkpoint.every_seconds)
        is_async = self.mode == "async" or not self.population.time_slicing
        require(is_async, "population.time_slicing", "be off with mode=lockstep", self.population.time_slicing)
        gpus = self.population.gpus
        is_shared = self.device.mps != "on" or gpus is None or 0 < gpus < 1
        require(is_shared, "device.mps", f"be off or auto with population.gpus {gpus}", self.device.mps)
        for item in number_fields(self):
            fits = not isinstance(item.value, tuple) or len(item.value) >= self.population.size
            rule = f"have at least {self.population.size} numbers, one for each network, or be one number"
            require(fits, item.name, rule, item.value)

    def _check_exchange(self) -> None:
        """Check the fields that depend on the exchange rule."""
        rule, compensation = self.exchange.rule, self.staleness.compensation_intervals
        has_images = self.data.validation > 0 or self.data.validation_set is not None
        has_scores = rule != "pbt" or has_images or self.task not in IMAGE_TASKS
        require(has_scores, "data.validation", "be above 0 with exchange.rule pbt", self.data.validation)
        is_usable = self._grafts_external_scions or not compensation
        text = "be 0 or None unless exchange.rule is graft and graft.scion is external"
        require(is_usable, "staleness.compensation_intervals", text, compensation)
        has_donors = rule != "graft" or self.graft.scion == "external" or self.exchange.num_donors is None
        text = f"be None with graft.scion {self.graft.scion}"
        require(has_donors, "exchange.num_donors", text, self.exchange.num_donors)
        if rule == "graft_published":
            is_one = self.exchange.donor_limit == 1
            require(is_one, "exchange.num_donors", "be 1 with exchange.rule graft_published", self.exchange.num_donors)
            self.graft.check_published()
        is_plain = rule != "pbt" or self.weight_averaging.kind == "none"
        text = "be none with exchange.rule pbt, because a copied network has no average of its own"
        require(is_plain, "weight_averaging.kind", text, self.weight_averaging.kind)
        is_plain = self.graft.momentum != "blend" or not compensation
        text = "be keep or reset with staleness.compensation_intervals"
        require(is_plain, "graft.momentum", text, self.graft.momentum)
        momentum = self.optimizer.momentum
        have_averages = not isinstance(momentum, (str, tuple)) or is_positive(momentum)
        text = "be keep or reset if optimizer.momentum is 0 in some networks only"
        require(have_averages or self.graft.momentum != "blend", "graft.momentum", text, self.graft.momentum)

    @property
    def compensation(self) -> int:
        """Most intervals that delay compensation covers. 0: there is no compensation."""
        if self.staleness.compensation_intervals is not None:
            return self.staleness.compensation_intervals
        return 2 if self._grafts_external_scions and self.mode == "async" and self.graft.momentum != "blend" else 0

    @property
    def _grafts_external_scions(self) -> bool:
        return self.exchange.rule == "graft" and self.graft.scion == "external"
