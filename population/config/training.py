"""What one network learns, from what, and how."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from inarch.population.config.checks import finite, one_of, require


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """How long networks train, how the learning rate falls, and how often they exchange."""

    epochs: int = 200
    """Passes over the training images, at least 1."""
    batch_size: int = 256
    """Images a step."""
    drop_last: Literal["auto", "on", "off"] = "auto"
    """Whether the last, smaller batch of an epoch is left out; auto: only where it has a single image, by which batch
    norm cannot be measured."""
    interval_epochs: int = 1
    """Epochs between exchanges, at least 1."""
    interval_steps: int | None = None
    """Steps between exchanges, in place of interval_epochs."""
    eval_every: Literal["interval", "epoch"] = "interval"
    """When networks are judged on the validation images: after every interval, or after those in which an epoch ended
    (for intervals much shorter than an epoch); after the last in any case."""
    batch_norm_batches: int = 0
    """Batches of training images, augmented as in training, by which batch norm's statistics are measured anew before
    each evaluation, at least 0; 0: they stay as training and grafts left them."""
    lr_decay: Literal["constant", "step", "cosine"] = "step"
    """How the learning rate falls."""
    step_epochs: int = 60
    """step: epochs between falls, at least 1."""
    step_at: tuple[int, ...] = ()
    """step: epochs after which the learning rate falls, ascending, in place of every step_epochs."""
    step_factor: float = 0.1
    """step: what the learning rate is multiplied by at each fall, in (0, 1]."""
    warmup_epochs: int = 0
    """Epochs over which the learning rate rises linearly from zero, at least 0."""

    def __post_init__(self) -> None:
        require(self.epochs >= 1, "schedule.epochs", "be at least 1", self.epochs)
        require(self.batch_size >= 1, "schedule.batch_size", "be at least 1", self.batch_size)
        require(self.interval_epochs >= 1, "schedule.interval_epochs", "be at least 1", self.interval_epochs)
        if self.interval_steps is not None:
            require(self.interval_steps >= 1, "schedule.interval_steps", "be at least 1", self.interval_steps)
        one_of(self.drop_last, Literal["auto", "on", "off"], "schedule.drop_last")
        one_of(self.eval_every, Literal["interval", "epoch"], "schedule.eval_every")
        require(self.batch_norm_batches >= 0, "schedule.batch_norm_batches", "be at least 0", self.batch_norm_batches)
        one_of(self.lr_decay, Literal["constant", "step", "cosine"], "schedule.lr_decay")
        require(self.step_epochs >= 1, "schedule.step_epochs", "be at least 1", self.step_epochs)
        rises = all(one < other for one, other in zip((0, *self.step_at), self.step_at, strict=False))
        require(rises, "schedule.step_at", "be ascending epochs from 1", self.step_at)
        require(0 < self.step_factor <= 1, "schedule.step_factor", "lie in (0, 1]", self.step_factor)
        is_part = self.warmup_epochs == 0 or 0 < self.warmup_epochs < self.epochs
        require(is_part, "schedule.warmup_epochs", "be at least 0 and fewer than epochs", self.warmup_epochs)


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
        one_of(self.name, Literal["sgd", "adamw"], "optimizer.name")
        finite(self.learning_rate, "optimizer.learning_rate")
        require(self.learning_rate > 0, "optimizer.learning_rate", "be above 0", self.learning_rate)
        if isinstance(self.learning_rates, str):
            one_of(self.learning_rates, Literal["same", "spread"], "optimizer.learning_rates")
        else:
            positive = bool(self.learning_rates) and all(
                rate > 0 and math.isfinite(rate) for rate in self.learning_rates
            )
            require(positive, "optimizer.learning_rates", "be same, spread or rates above 0", self.learning_rates)
        require(0 <= self.momentum < 1, "optimizer.momentum", "lie in [0, 1)", self.momentum)
        require(self.weight_decay >= 0, "optimizer.weight_decay", "be at least 0", self.weight_decay)
        require(
            not self.nesterov or self.momentum > 0,
            "optimizer.nesterov",
            "come with momentum above 0",
            self.nesterov,
        )
        require(0 <= self.label_smoothing < 1, "optimizer.label_smoothing", "lie in [0, 1)", self.label_smoothing)


@dataclass(frozen=True, kw_only=True)
class DistillationConfig:
    """Teachers whose predictions each network learns from. Source: Cheng et al. 2020 (arXiv:2004.12311), Grafting+."""

    teachers: tuple[str, ...] = ()
    """Folders of runs (each its best network), folder#id, or folder#id@interval (as it was then, where the run kept
    that checkpoint); every node must reach them. Which images are held out follows from the seed: teachers of another
    seed have learned validation images of these networks, whose validation scores then are too good."""
    temperature: float = 2.0
    """Softens teachers' and student's probabilities, above 0."""
    weight: float = 1.0
    """Of the teachers' loss beside the labels', at least 0; of the peers' with exchange.rule dml."""

    def __post_init__(self) -> None:
        require(0 < self.temperature < math.inf, "distillation.temperature", "be above 0", self.temperature)
        require(0 <= self.weight < math.inf, "distillation.weight", "be at least 0", self.weight)


@dataclass(frozen=True, kw_only=True)
class WeightAveragingConfig:
    """A mean of each network's own weights over time, judged and saved in their place; exchanges do not see it."""

    kind: Literal["none", "ema", "swa"] = "none"
    """ema: exponential, after every step; swa: equal, after every epoch of the schedule's last part."""
    decay: float = 0.99
    """ema: what is kept of the mean at each step, in [0, 1)."""
    start: float = 0.75
    """swa: part of the schedule after which it begins, in [0, 1)."""

    def __post_init__(self) -> None:
        one_of(self.kind, Literal["none", "ema", "swa"], "weight_averaging.kind")
        require(0 <= self.decay < 1, "weight_averaging.decay", "lie in [0, 1)", self.decay)
        require(0 <= self.start < 1, "weight_averaging.start", "lie in [0, 1)", self.start)
