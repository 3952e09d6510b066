"""How each network is trained: schedule, optimizer, distillation and weight averaging."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from inarch.population.config.checks import check_types, one_of, require
from inarch.population.config.per_network import NumberRule, PerNetwork, check_numbers, is_positive, number, per_network

SHARE = NumberRule(high=1.0, includes_high=True)
"""Rule of probabilities."""


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Length of training, decay of the learning rate, and how often networks exchange and are evaluated."""

    epochs: int = 200
    """Passes over the training images, at least 1."""
    batch_size: int = 256
    """Images per training step, at least 1."""
    drop_last: Literal["auto", "on", "off"] = "auto"
    """Whether to drop the last batch of an epoch if it is smaller than the others. auto: only if it has a single image,
    because batch norm cannot compute statistics from one image."""
    interval_epochs: int = 1
    """Epochs between exchanges, at least 1."""
    interval_steps: int | None = None
    """Training steps between exchanges, at least 1. Replaces schedule.interval_epochs."""
    eval_every: Literal["interval", "epoch"] = "interval"
    """When networks are evaluated on the validation images. interval: after every interval. epoch: after each interval
    in which an epoch ended, for intervals much shorter than an epoch. Both evaluate after the last interval."""
    batch_norm_batches: int = 0
    """Batches of training images from which batch norm's statistics are measured again before each evaluation, at least
    0. The images are augmented as in training. 0: the statistics stay as training and grafts left them."""
    lr_decay: Literal["constant", "step", "cosine"] = "step"
    """How the learning rate decays: not at all (constant), in steps, or along a cosine."""
    step_epochs: int = 60
    """lr_decay step only: epochs between two decays, at least 1."""
    step_at: tuple[int, ...] = ()
    """lr_decay step only: epochs after which the learning rate decays, ascending. Replaces schedule.step_epochs."""
    step_factor: float = 0.1
    """lr_decay step only: factor of the learning rate at each decay, in (0, 1]."""
    warmup_epochs: int = 0
    """Epochs in which the learning rate rises linearly from zero, at least 0 and less than schedule.epochs."""

    def __post_init__(self) -> None:
        check_types(self, "schedule.")
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
        rises = all(earlier < later for earlier, later in zip((0, *self.step_at), self.step_at, strict=False))
        require(rises, "schedule.step_at", "be ascending epochs from 1", self.step_at)
        require(0 < self.step_factor <= 1, "schedule.step_factor", "lie in (0, 1]", self.step_factor)
        is_part = self.warmup_epochs == 0 or 0 < self.warmup_epochs < self.epochs
        require(is_part, "schedule.warmup_epochs", "be at least 0 and fewer than epochs", self.warmup_epochs)


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The optimizer of each network. The defaults are the papers' values."""

    name: Literal["sgd", "adamw"] = "sgd"
    """Optimizer: SGD with momentum, or AdamW."""
    learning_rate: PerNetwork = field(default=0.1, metadata=per_network(NumberRule(includes_low=False)))
    """Initial learning rate, above 0. One number, a list with one for each network, or a distribution."""
    momentum: PerNetwork = field(default=0.9, metadata=per_network(NumberRule(high=1.0, perturbs="distance_to_1")))
    """sgd only: momentum, in [0, 1). One number, a list with one for each network, or a distribution."""
    weight_decay: PerNetwork = field(default=5e-4, metadata=per_network(NumberRule()))
    """Weight decay, at least 0. One number, a list with one for each network, or a distribution."""
    nesterov: bool = False
    """sgd only: use Nesterov momentum."""
    label_smoothing: PerNetwork = field(default=0.0, metadata=per_network(NumberRule(high=1.0)))
    """Label smoothing of the cross-entropy loss, in [0, 1). One number, a list with one for each network, or a
    distribution."""

    def __post_init__(self) -> None:
        check_types(self, "optimizer.")
        one_of(self.name, Literal["sgd", "adamw"], "optimizer.name")
        check_numbers(self, "optimizer")
        require(
            not self.nesterov or is_positive(self.momentum),
            "optimizer.nesterov",
            "be False unless optimizer.momentum is above 0 in every network",
            self.nesterov,
        )


@dataclass(frozen=True, kw_only=True)
class RegularizationConfig:
    """Random mixtures of training images, and rectangles that are erased in them. For image tasks only.

    Each step mixes all images of its batch in the same way, each with another image of the batch. Label smoothing is
    optimizer.label_smoothing. Each field is one number, a list with one for each network, or a distribution.
    """

    mixup: PerNetwork = field(default=0.0, metadata=per_network(NumberRule()))
    """Strength of mixup, at least 0: both parameters (alpha in the paper) of the beta distribution from which a batch's
    share is drawn. 1: every share is equally likely. Below 1: most images stay nearly whole. 0: off. Classification
    only, because a mixture has two classes. Source: Zhang et al. 2018 (arXiv:1710.09412)."""
    cutmix: PerNetwork = field(default=0.0, metadata=per_network(NumberRule()))
    """Strength of CutMix, at least 0: as regularization.mixup, for the share of an image that a rectangle of another
    image does not cover. 0: off. Classification only. Source: Yun et al. 2019 (arXiv:1905.04899)."""
    cutmix_share: PerNetwork = field(default=0.5, metadata=per_network(SHARE))
    """With mixup and CutMix both on: probability that a mixed batch is mixed by CutMix, in [0, 1]."""
    mix_probability: PerNetwork = field(default=1.0, metadata=per_network(SHARE))
    """Probability that a batch is mixed, in [0, 1]. The other batches have whole images."""
    erasing: PerNetwork = field(default=0.0, metadata=per_network(SHARE))
    """Probability that a random rectangle of 2 to 33 % of an image is erased, in [0, 1]. It gets the color that
    normalization makes 0. Each image is drawn for itself, after it was mixed. 0: off. Source: Zhong et al. 2020
    (arXiv:1708.04896)."""

    def __post_init__(self) -> None:
        check_types(self, "regularization.")
        check_numbers(self, "regularization")

    @property
    def mixes(self) -> bool:
        """Whether a network's batches are mixed, so that images have shares of several classes."""
        return (number(self.mixup) > 0 or number(self.cutmix) > 0) and number(self.mix_probability) > 0

    @property
    def is_on(self) -> bool:
        """Whether batches are mixed or erased."""
        return self.mixes or number(self.erasing) > 0

    @property
    def cutmix_chance(self) -> float:
        """Probability that a mixed batch is mixed by CutMix and not by mixup."""
        if number(self.mixup) > 0 and number(self.cutmix) > 0:
            return number(self.cutmix_share)
        return 1.0 if number(self.cutmix) > 0 else 0.0


@dataclass(frozen=True, kw_only=True)
class DistillationConfig:
    """Learning from the predictions of trained teachers. Source: Cheng et al. 2020 (arXiv:2004.12311), Grafting+."""

    teachers: tuple[str, ...] = ()
    """Teachers, each a network of an earlier run. A run's folder: its best network. folder#id: the network with this
    id. folder#id@interval: its weights after this interval, if the run kept that checkpoint. Every node must reach the
    folders. Use teachers of the same seed, because the seed decides which images are held out for validation. Teachers
    of another seed have learned this run's validation images, which makes its validation scores too good."""
    temperature: float = 2.0
    """Divides the logits of teachers and student, which softens their probabilities. Above 0."""
    weight: float = 1.0
    """Weight of the teachers' loss, at least 0. The labels' loss has weight 1. With exchange.rule dml, the
    peers' loss has this weight too."""

    def __post_init__(self) -> None:
        check_types(self, "distillation.")
        require(0 < self.temperature < math.inf, "distillation.temperature", "be above 0", self.temperature)
        require(0 <= self.weight < math.inf, "distillation.weight", "be at least 0", self.weight)


@dataclass(frozen=True, kw_only=True)
class WeightAveragingConfig:
    """A running mean of each network's own weights, evaluated and saved instead of them. Exchanges do not use it."""

    kind: Literal["none", "ema", "swa"] = "none"
    """How the weights are averaged. ema: exponential moving average, updated after every step. swa: equal mean, updated
    after every epoch in the last part of the schedule."""
    decay: float = 0.99
    """ema only: share of the old mean that remains at each step, in [0, 1)."""
    start: float = 0.75
    """swa only: share of the schedule after which averaging starts, in [0, 1)."""

    def __post_init__(self) -> None:
        check_types(self, "weight_averaging.")
        one_of(self.kind, Literal["none", "ema", "swa"], "weight_averaging.kind")
        require(0 <= self.decay < 1, "weight_averaging.decay", "lie in [0, 1)", self.decay)
        require(0 <= self.start < 1, "weight_averaging.start", "lie in [0, 1)", self.start)
