"""Configuration of a run whose networks are training loops of the caller's own."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields

from inarch.population.config.checks import check_types, require
from inarch.population.config.exchange import ExchangeConfig, PapaConfig, PbtConfig, TopologyConfig, WashConfig
from inarch.population.config.grafting import GraftConfig
from inarch.population.config.run import RunConfig
from inarch.population.config.runtime import TimeoutsConfig
from inarch.population.config.staleness import StalenessConfig


@dataclass(frozen=True, kw_only=True)
class OpenConfig:
    """What the members of a run have in common if each is a training loop of the caller's own."""

    every: int | None = None
    """Optimizer steps from one exchange to the next, at least 1. None: as the first loop that joins asks."""
    num_intervals: int | None = None
    """Intervals that a loop trains in all, at least 1. A twentieth of them, but at least 2, is the default of
    staleness.max_intervals. None: not known."""
    metric: str = "score"
    """Name of the validation metric that the loops report. A Python identifier."""
    lower_is_better: bool = False
    """Whether a lower value of the metric is better, as for a loss."""
    idle_seconds: float = 3600.0
    """The run ends when it has had no member for this long, also before the first one has joined. Above 0."""
    seed: int = 0
    """Seed of random topologies and of the exchange rules' random numbers. In [0, 2**63)."""
    exchange: ExchangeConfig = field(default_factory=ExchangeConfig)
    graft: GraftConfig = field(default_factory=GraftConfig)
    papa: PapaConfig = field(default_factory=PapaConfig)
    wash: WashConfig = field(default_factory=WashConfig)
    pbt: PbtConfig = field(default_factory=PbtConfig)
    staleness: StalenessConfig = field(default_factory=StalenessConfig)
    topology: TopologyConfig = field(default_factory=TopologyConfig)
    timeouts: TimeoutsConfig = field(default_factory=TimeoutsConfig)

    def __post_init__(self) -> None:
        check_types(self)
        require(self.every is None or self.every >= 1, "every", "be at least 1", self.every)
        is_known = self.num_intervals is None or self.num_intervals >= 1
        require(is_known, "num_intervals", "be at least 1", self.num_intervals)
        require(self.metric.isidentifier(), "metric", "be a Python identifier", self.metric)
        require(0 < self.idle_seconds < math.inf, "idle_seconds", "be above 0", self.idle_seconds)
        is_measured = self.graft.batch_norm == "reset"
        rule = "be blend or keep in an open run, which has no data to measure the statistics on"
        require(not is_measured, "graft.batch_norm", rule, self.graft.batch_norm)
        self.run_config("run")

    def run_config(
        self, name: str, *, storage: str = "runs", address: str | None = None, detach: bool = False
    ) -> RunConfig:
        """Return the configuration of a run with these settings. Its fields about data and model are not used.

        Args:
            name: Name of the run.
            storage: Folder or URI that holds the folders of runs.
            address: Address of the Ray cluster, as `RunConfig.address`.
            detach: Whether the run continues when its driver ends.

        Raises:
            ConfigError: The settings do not fit together.
        """
        sections = {section: getattr(self, section) for section in SECTIONS}
        return RunConfig(name=name, storage=storage, address=address, detach=detach, seed=self.seed, **sections)


SECTIONS = ("exchange", "graft", "papa", "wash", "pbt", "staleness", "topology", "timeouts")
"""Sections that an `OpenConfig` shares with a `RunConfig`."""


def first_difference(config: OpenConfig, run: RunConfig) -> tuple[str, object, object] | None:
    """Return the first setting of the exchange in which a run differs from a configuration, or None.

    Timeouts and exchange.precision are not compared, because a loop takes those of the run.

    Args:
        config: What a training loop expects.
        run: Configuration of the run that it joins.

    Returns:
        Name of the field with its section, the value in `config`, and the value in `run`.
    """
    if config.seed != run.seed:
        return "seed", config.seed, run.seed
    for section in SECTIONS:
        if section == "timeouts":
            continue
        own, other = getattr(config, section), getattr(run, section)
        for item in fields(own):
            name, values = f"{section}.{item.name}", (getattr(own, item.name), getattr(other, item.name))
            if values[0] != values[1] and name != "exchange.precision":
                return name, *values
    return None
