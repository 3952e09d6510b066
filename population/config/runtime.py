"""Devices, checkpoints, time limits and debugging aids of a run."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Literal

from inarch.population.config.checks import check_types, one_of, require

CompileMode = Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]
Mps = Literal["off", "auto", "on"]


@dataclass(frozen=True, kw_only=True)
class DeviceConfig:
    """How a network uses its CPU or GPU."""

    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the forward pass. auto: bfloat16 autocast on a GPU that computes in it, and for images on a CPU that
    does (AVX-512 BF16), else float32. Weights, gradients and optimizer are float32 in any case."""
    channels_last: Literal["auto", "on", "off"] = "auto"
    """Whether convolutions use the channels-last memory format. auto: if the network can compute in it. One that
    takes views of images, such as x.view(len(x), -1), cannot."""
    compile: bool = False
    """Whether to compile the network with torch.compile."""
    compile_mode: CompileMode = "default"
    """Mode of torch.compile. reduce-overhead and max-autotune replay CUDA graphs, which saves a small network the time
    to start its operations. Only with device.compile."""
    mps: Mps = "off"
    """Whether networks that share a GPU (population.gpus below 1) do so through NVIDIA's Multi-Process Service, so that
    their operations overlap. auto: where a node has nvidia-cuda-mps-control and its daemon starts. on: a network
    without a daemon fails. A daemon that runs already is used and never ended."""
    deterministic: bool = False
    """Whether to use only deterministic algorithms. They are slower on a GPU."""

    def __post_init__(self) -> None:
        check_types(self, "device.")
        one_of(self.precision, Literal["auto", "float32", "bfloat16", "float16"], "device.precision")
        one_of(self.channels_last, Literal["auto", "on", "off"], "device.channels_last")
        one_of(self.compile_mode, CompileMode, "device.compile_mode")
        one_of(self.mps, Mps, "device.mps")
        is_used = self.compile or self.compile_mode == "default"
        require(is_used, "device.compile_mode", "be default unless device.compile is on", self.compile_mode)


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """How often checkpoints are written, and how many are kept."""

    keep: int = 2
    """Number of newest checkpoints kept for each network. At least 2, because lockstep resumes from an interval that
    all networks have saved."""
    every: int = 1
    """Evaluations (schedule.eval_every) from one checkpoint to the next, at least 1. The last interval always ends
    with a checkpoint."""
    every_seconds: float = 0.0
    """Least seconds from one checkpoint to the next, at least 0, for intervals that are shorter than it is worth to
    repeat them. Only with mode=async, because lockstep resumes from an interval that all networks have saved."""
    weights: Literal["auto", "best", "last"] = "auto"
    """Which weights of a network the result, the soups and the exports use. best: those with the best score on the
    validation data. last: those at the end. auto: the best, if the validation data tell them from the last ones (by
    more than two standard errors, or at all if the task gives no scores of examples), otherwise the last."""

    def __post_init__(self) -> None:
        check_types(self, "checkpoint.")
        require(self.keep >= 2, "checkpoint.keep", "be at least 2", self.keep)
        require(self.every >= 1, "checkpoint.every", "be at least 1", self.every)
        is_valid = 0 <= self.every_seconds < math.inf
        require(is_valid, "checkpoint.every_seconds", "be at least 0", self.every_seconds)
        one_of(self.weights, Literal["auto", "best", "last"], "checkpoint.weights")


@dataclass(frozen=True, kw_only=True)
class TimeoutsConfig:
    """Time limits. Every wait has one."""

    lease_seconds: float = 30.0
    """A network that receives no answer from the coordinator for this long commits a checkpoint and ends. In a
    run with population.size above 200, the lease is three times as long, so that they call less often."""
    fetch_seconds: float = 10.0
    """Limit for fetching the snapshots of an exchange, or more for large ones: at least a second for every 50 MB. A
    snapshot that takes longer is refused as late."""
    barrier_seconds: float = 600.0
    """lockstep only: a barrier that has waited this long is released with the outcome barrier_timeout. For a network
    without a process, for which there may be no place, it waits three leases at most."""
    start_seconds: float = 300.0
    """Limit for reading the data and for placing networks. The run fails if fewer than population.min_size networks
    (in lockstep: fewer than all) are placed within this time. Later, if no network trains, the networks that are still
    starting are marked failed after this time."""
    storage_seconds: float = 120.0
    """Limit for each call to the run's folder. For a large file it holds for each part of 4 to 64 MB. A call that takes
    longer fails."""
    progress_seconds: float = 7200.0
    """A network restarts from its newest checkpoint if it completes neither a step nor an interval for this long.
    Must exceed the longest evaluation."""

    def __post_init__(self) -> None:
        check_types(self, "timeouts.")
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            require(value > 0 and math.isfinite(value), f"timeouts.{item.name}", "be above 0", value)


MAX_LABELED_NETWORKS = 64
"""Most networks of a population with `metrics.per_network`."""


@dataclass(frozen=True, kw_only=True)
class MetricsConfig:
    """Metrics that the coordinator exports for Ray's dashboard and Prometheus."""

    per_network: bool = False
    """Whether interval, loss, validation metric, speed and staleness are exported for each network. For populations of
    at most 64 networks."""

    def __post_init__(self) -> None:
        check_types(self, "metrics.")


@dataclass(frozen=True, kw_only=True)
class StragglerConfig:
    """Deliberately slow steps, to measure how a straggler affects the other networks."""

    step_seconds: float = 0.0
    """Minimum duration of a training step, at least 0. Shorter steps are padded."""
    slowdowns: tuple[float, ...] = ()
    """Factors for step_seconds, above 0. The first is for network 0. Networks without a factor have 1."""

    def __post_init__(self) -> None:
        check_types(self, "debug.straggler.")
        require(0 <= self.step_seconds < math.inf, "debug.straggler.step_seconds", "be at least 0", self.step_seconds)
        positive = all(0 < factor < math.inf for factor in self.slowdowns)
        require(positive, "debug.straggler.slowdowns", "be above 0", self.slowdowns)

    def seconds(self, network_id: int) -> float:
        """Return the minimum duration of a network's steps, in seconds.

        Args:
            network_id: Id of the network.
        """
        return self.step_seconds * (self.slowdowns[network_id] if network_id < len(self.slowdowns) else 1.0)


@dataclass(frozen=True, kw_only=True)
class DebugConfig:
    """Aids for tests and benchmarks. A normal run does not need them."""

    straggler: StragglerConfig = field(default_factory=StragglerConfig)

    def __post_init__(self) -> None:
        check_types(self, "debug.")
