"""Devices, checkpoints, time limits and debugging aids of a run."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Literal

from inarch.population.config.checks import one_of, require


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
        one_of(self.precision, Literal["auto", "float32", "bfloat16", "float16"], "device.precision")
        one_of(self.channels_last, Literal["auto", "on", "off"], "device.channels_last")


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """What is kept of each network."""

    keep: int = 2
    """Newest checkpoints kept of each network, at least 2 (lockstep resumes from the interval that all have)."""
    every: int = 1
    """Judged intervals (schedule.eval_every) between checkpoints, at least 1; the last interval always has one."""

    def __post_init__(self) -> None:
        require(self.keep >= 2, "checkpoint.keep", "be at least 2", self.keep)
        require(self.every >= 1, "checkpoint.every", "be at least 1", self.every)


@dataclass(frozen=True, kw_only=True)
class TimeoutsConfig:
    """How long anything waits. Every wait has an end."""

    lease_seconds: float = 30.0
    """A network that hears from no coordinator for so long commits a checkpoint and ends."""
    fetch_seconds: float = 10.0
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
            require(value > 0 and math.isfinite(value), f"timeouts.{item.name}", "be above 0", value)


@dataclass(frozen=True, kw_only=True)
class StragglerConfig:
    """Slower steps, on purpose: to see what a straggler does to the others."""

    step_seconds: float = 0.0
    """Every step is padded to at least this length, at least 0."""
    slowdowns: tuple[float, ...] = ()
    """What step_seconds is multiplied by for each network, by id; 1 for those not named."""

    def __post_init__(self) -> None:
        require(0 <= self.step_seconds < math.inf, "debug.straggler.step_seconds", "be at least 0", self.step_seconds)
        positive = all(0 < factor < math.inf for factor in self.slowdowns)
        require(positive, "debug.straggler.slowdowns", "be above 0", self.slowdowns)

    def seconds(self, network_id: int) -> float:
        """Least length of a network's steps."""
        return self.step_seconds * (self.slowdowns[network_id] if network_id < len(self.slowdowns) else 1.0)


@dataclass(frozen=True, kw_only=True)
class DebugConfig:
    """Aids for tests and benchmarks; a normal run leaves them alone."""

    straggler: StragglerConfig = field(default_factory=StragglerConfig)
