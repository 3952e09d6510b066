"""Where training, validation and test data come from."""

from __future__ import annotations

from collections.abc import KeysView, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from inarch.population.config.checks import check_types, one_of, require

ImageSize = int | tuple[int, int]
"""Size in pixels: of both sides, or (height, width)."""


def height_and_width(size: ImageSize) -> tuple[int, int]:
    """Return the height and the width of an image size, in pixels.

    Args:
        size: Pixels of both sides, or (height, width).
    """
    return (size, size) if isinstance(size, int) else size


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Source of the images, and how they are split, resized and augmented."""

    train: str = "digits"
    """Training images: a name (digits, cifar10, cifar100), or a path or URI. Tables: a Parquet, Arrow or CSV file, a
    folder of Parquet shards, a pattern (train-*.parquet), or a folder written by datasets.save_to_disk. Folders: a
    subfolder for each class, torchvision's CIFAR format, file names as in Market-1501, or images with a
    metadata.csv. Or module:function, which returns what PopulationRun.start takes as data."""
    test: str | None = None
    """Test images, in the same forms as data.train, but no function. None: taken from data.train if it holds both
    training and test images (digits, cifar10, cifar100, a folder of Parquet shards named by split). In retrieval they
    are the gallery, whose classes may differ from the training classes."""
    validation_set: str | None = None
    """Separate validation images, in the same forms as data.train. None: they are held out from the training images."""
    query: str | None = None
    """Retrieval only: query images, in the same forms as data.train. None: each test image is a query to all others."""
    validation: float = 0.1
    """Share of the training images held out for validation, in [0, 0.5], evenly from all classes. They select
    checkpoints and soups. 0: the last checkpoint is used. Ignored if data.validation_set is given."""
    image_size: ImageSize | None = None
    """Size in pixels. One number: the shorter side is scaled to it, and the center square is cut out. Height and width:
    the whole image is scaled to them. None: images keep their size and must all have the same. Streamed images then
    have 224 pixels a side."""
    channels: Literal["auto", "gray", "rgb"] = "auto"
    """Channels that images are converted to. auto: RGB, but gray if all images are gray and they are not streamed."""
    image_column: str | None = None
    """Tables only: column with the images, as encoded bytes or paths. None: image, img, file_name or similar."""
    label_column: str | None = None
    """Tables only: column with the labels. None: label, labels, fine_label or similar."""
    image_folder: str | None = None
    """Tables only: folder or URI to which the image paths are relative. None: the folder of the table."""
    class_names: tuple[str, ...] = ()
    """Names of the classes, in the order of their numbers. For images whose labels are numbers without names."""
    skip_unreadable: int = 0
    """Most unreadable images that may be skipped, counted over all splits together. One more is an error. If
    above 0, all streamed images are read once before training."""
    train_limit: int | None = None
    """Most training images used, at least 2, evenly from all classes. Counted before the hold-out. None: all."""
    test_limit: int | None = None
    """Most test images used, and most query images, each at least 2. None: all."""
    augmentation: Literal["none", "crop", "crop_flip", "imagenet"] = "crop_flip"
    """Augmentation of training images. crop: zero padding and a random crop. crop_flip: crop, and a random mirror
    image. imagenet: random resized crop and mirror image, for streamed images only."""
    padding: int = 4
    """Width in pixels of the zero padding before the random crop, at least 0."""
    stream: Literal["auto", "never", "always"] = "auto"
    """Whether loader workers decode images when they are needed, instead of once into the object store. auto: only if
    the decoded images exceed data.memory_gib, or with data.augmentation imagenet."""
    memory_gib: float = 4.0
    """With data.stream auto: images are streamed if they need more than this many GiB when decoded."""
    workers: int = 2
    """Loader processes of each network for streamed images, at least 0."""
    shuffle_window: int = 8192
    """Streamed tables only: images that are shuffled together, at least 1. Each network holds at most so many encoded
    images in memory, and three row groups more. Files that are ordered by class need some 20 classes' images."""
    cache: Literal["off", "on"] = "off"
    """Streamed images only: whether the networks of a node share decoded training and validation images in a file, so
    that each image is decoded once. The last network removes the file. With data.augmentation imagenet, training
    images are stored with at most 4/3 as many pixels as a square of 8/7 of data.image_size (256 for 224)."""
    cache_folder: str | None = None
    """With data.cache on: folder of the decoded images, on a disk of each node. None: the system's folder for temporary
    files. An image of 224 pixels takes 150 kB, and 260 kB with data.augmentation imagenet."""

    def __post_init__(self) -> None:
        given: Any = self.class_names
        if isinstance(given, (Sequence, KeysView)) and not isinstance(given, str):
            names = tuple(str(name) if isinstance(name, int) else name for name in given)
            object.__setattr__(self, "class_names", names)
        check_types(self, "data.")
        require(bool(self.train), "data.train", "name a data set", self.train)
        require(0 <= self.validation <= 0.5, "data.validation", "lie in [0, 0.5]", self.validation)
        is_size = self.image_size is None or min(height_and_width(self.image_size)) >= 1
        require(is_size, "data.image_size", "be at least 1", self.image_size)
        require(
            self.query is None or self.test is not None, "data.query", "be None unless data.test is set", self.query
        )
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
        require(self.shuffle_window >= 1, "data.shuffle_window", "be at least 1", self.shuffle_window)
        one_of(self.cache, Literal["off", "on"], "data.cache")
