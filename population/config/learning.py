"""What one network learns, from what, and how."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from inarch.population.config.checks import finite, one_of, require


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Which architecture every network of the population has."""

    architecture: str = "resnet20"
    """A built-in name (resnet20, mobilenetv2, vgg16, ...), torchvision:NAME, or module:function of your own."""
    leaky: bool = False
    """CIFAR ResNets only: leaky ReLU (slope 0.01) in place of ReLU."""
    weights: str | None = None
    """Trained weights that every network begins with: a safetensors file, as `inarch export` writes it, or
    torchvision's name of them (DEFAULT, IMAGENET1K_V1), which it fetches. A classifier of another width begins anew.
    A file must stay where it is while the run may be resumed. Weights that were trained on these images with another
    seed have learned images that are held out here. None: random ones."""

    def __post_init__(self) -> None:
        require(bool(self.architecture), "network.architecture", "name an architecture", self.architecture)


ImageSize = int | tuple[int, int]
"""Pixels: of both sides, or (height, width)."""


def height_and_width(size: ImageSize) -> tuple[int, int]:
    """Of an image of a size."""
    return (size, size) if isinstance(size, int) else size


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where images come from, and how they are split and augmented."""

    train: str = "digits"
    """Training images: digits, cifar10, cifar100; a Parquet, Arrow or CSV file, a folder of Parquet shards or a pattern
    of them (train-*.parquet), a folder that datasets.save_to_disk wrote; or a folder (a subfolder for each class,
    torchvision's CIFAR format, files named as Market-1501's, or images with a metadata.csv). Paths and URIs."""
    test: str | None = None
    """Test images, in the same forms; None where `train` holds both (digits, cifar10, cifar100, a folder of Parquet
    shards named by their parts). In retrieval the gallery; its classes may be others than the training images'."""
    validation_set: str | None = None
    """Validation images of their own, in the same forms; then none are held out of the training images."""
    query: str | None = None
    """Images that ask the gallery, with task=retrieval; None: every test image asks all others."""
    validation: float = 0.1
    """Part of the training images held out, in [0, 0.5], evenly from the classes; they choose checkpoints and soups. 0:
    the last checkpoint is kept. Not used with validation_set."""
    image_size: ImageSize | None = None
    """Pixels a side: images are scaled to it and their center cut out; or height and width: they are scaled to that as
    a whole. None: as found (they must then be of one size); of streamed images 224."""
    channels: Literal["auto", "gray", "rgb"] = "auto"
    """What images become: auto: gray where all of them are gray, else RGB (streamed images are RGB)."""
    image_column: str | None = None
    """Tables: column of the images (encoded bytes, or paths); None: image, img, file_name and the like."""
    label_column: str | None = None
    """Tables: column of the labels; None: label, labels, fine_label and the like."""
    image_folder: str | None = None
    """Tables: folder that image paths in rows are relative to; None: the table's own folder."""
    class_names: tuple[str, ...] = ()
    """Names of the classes by number, for parts whose labels are numbers without names."""
    skip_unreadable: int = 0
    """Images that may be left out because they cannot be read, over all parts; one more is an error. Where it is above
    0, streamed images are all read once before training."""
    train_limit: int | None = None
    """Training images used at most, evenly from the classes, before validation images are held out; None: all."""
    test_limit: int | None = None
    """Test images used at most, and queries; None: all."""
    augmentation: Literal["none", "crop", "crop_flip", "imagenet"] = "crop_flip"
    """Of training images: zero-padded random crop, with or without mirror; imagenet: random resized crop and mirror, of
    images that are streamed."""
    padding: int = 4
    """Zero pixels around an image before the random crop, at least 0."""
    stream: Literal["auto", "never", "always"] = "auto"
    """Whether images are decoded by loader workers as they are needed, in place of once into the object store."""
    memory_gib: float = 4.0
    """With stream=auto: decoded images above this many GiB are streamed."""
    workers: int = 2
    """Loader processes for each network where images are streamed."""

    def __post_init__(self) -> None:
        require(bool(self.train), "data.train", "name a data set", self.train)
        require(0 <= self.validation <= 0.5, "data.validation", "lie in [0, 0.5]", self.validation)
        is_size = self.image_size is None or min(height_and_width(self.image_size)) >= 1
        require(is_size, "data.image_size", "be at least 1", self.image_size)
        require(self.query is None or self.test is not None, "data.query", "come with data.test", self.query)
        one_of(self.channels, Literal["auto", "gray", "rgb"], "data.channels")
        require(self.skip_unreadable >= 0, "data.skip_unreadable", "be at least 0", self.skip_unreadable)
        is_unique = len(set(self.class_names)) == len(self.class_names)
        require(is_unique, "data.class_names", "name each class once", self.class_names)
        for name in ("train_limit", "test_limit"):
            limit = getattr(self, name)
            require(limit is None or limit >= 2, f"data.{name}", "be at least 2", limit)
        one_of(self.augmentation, Literal["none", "crop", "crop_flip", "imagenet"], "data.augmentation")
        require(self.padding >= 0, "data.padding", "be at least 0", self.padding)
        one_of(self.stream, Literal["auto", "never", "always"], "data.stream")
        require(self.memory_gib > 0, "data.memory_gib", "be above 0", self.memory_gib)
        require(self.workers >= 0, "data.workers", "be at least 0", self.workers)


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
    evaluate: Literal["interval", "epoch"] = "interval"
    """When networks are judged on the validation images: after every interval, or after those in which an epoch ended
    (for intervals much shorter than an epoch); after the last in any case."""
    statistics_batches: int = 0
    """Batches of training images, augmented as in training, by which batch norm's statistics are measured anew before
    each evaluation, at least 0; 0: they stay as training and grafts left them."""
    shape: Literal["constant", "step", "cosine"] = "step"
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
        one_of(self.evaluate, Literal["interval", "epoch"], "schedule.evaluate")
        require(self.statistics_batches >= 0, "schedule.statistics_batches", "be at least 0", self.statistics_batches)
        one_of(self.shape, Literal["constant", "step", "cosine"], "schedule.shape")
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
    """Of the teachers' loss beside the labels', at least 0; of the peers' with exchange.rule mutual."""

    def __post_init__(self) -> None:
        require(0 < self.temperature < math.inf, "distillation.temperature", "be above 0", self.temperature)
        require(0 <= self.weight < math.inf, "distillation.weight", "be at least 0", self.weight)


@dataclass(frozen=True, kw_only=True)
class AveragingConfig:
    """A mean of each network's own weights over time, judged and saved in their place; exchanges do not see it."""

    kind: Literal["none", "ema", "swa"] = "none"
    """ema: exponential, after every step; swa: equal, after every epoch of the schedule's last part."""
    decay: float = 0.99
    """ema: what is kept of the mean at each step, in [0, 1)."""
    start: float = 0.75
    """swa: part of the schedule after which it begins, in [0, 1)."""

    def __post_init__(self) -> None:
        one_of(self.kind, Literal["none", "ema", "swa"], "averaging.kind")
        require(0 <= self.decay < 1, "averaging.decay", "lie in [0, 1)", self.decay)
        require(0 <= self.start < 1, "averaging.start", "lie in [0, 1)", self.start)


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
