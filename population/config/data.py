"""Where training, validation and test data come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from inarch.population.config.checks import one_of, require

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
