"""The parts of a data set: training, validation (held out of training), test; in retrieval the test images are the
gallery, and there may be queries."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import TypeGuard

import numpy as np
import torch

from population.config import DataConfig, height_and_width
from population.data.batches import Batches, MemoryBatches
from population.data.images import Array, ImageSet, check_classes, held_out
from population.data.sources import CIFAR, EncodedImages, decode_all, open_images, resized
from population.data.streams import StreamBatches
from population.errors import DataError

STREAMED_SIZE = 224
"""Pixels a side of streamed images, where data.image_size does not say."""

BOTH_IN_ONE = frozenset({"digits", *CIFAR})
"""Names that stand for training and test images alike."""


@dataclass(frozen=True, kw_only=True)
class MemorySplits:
    """Decoded images: what goes into the object store once."""

    train: ImageSet
    validation: ImageSet | None
    test: ImageSet | None
    query: ImageSet | None = None
    mean: Array
    """Of the training images' channels."""
    deviation: Array
    """Of the training images' channels."""
    fingerprint: str
    """Tells one data set and split from another."""

    @property
    def nbytes(self) -> int:
        """Bytes of all images."""
        parts = (self.train, self.validation, self.test, self.query)
        return sum(part.images.nbytes for part in parts if part is not None)

    @property
    def num_classes(self) -> int:
        return self.train.num_classes

    @property
    def in_channels(self) -> int:
        return self.train.shape[0]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.train.shape

    def batches(self, part: str, device: torch.device | str) -> Batches | None:
        """The batches of train, validation, test or query on a device; None where that part is empty."""
        images = getattr(self, part)
        return (
            None if images is None else MemoryBatches(images, mean=self.mean, deviation=self.deviation, device=device)
        )

    def labels(self, part: str) -> Array:
        """Of a part's images, shape (images,); empty where it has none."""
        images = getattr(self, part)
        return np.empty(0, dtype=np.int64) if images is None else images.labels

    def cameras(self, part: str) -> Array | None:
        """What took each image of a part, shape (images,); None where that is not known."""
        images = getattr(self, part)
        return None if images is None else images.cameras


@dataclass(frozen=True, kw_only=True)
class StreamSplits:
    """Images that each network decodes as it goes."""

    config: DataConfig
    train: EncodedImages
    train_indices: Array
    validation_indices: Array
    test: EncodedImages | None
    query: EncodedImages | None = None
    fingerprint: str
    """Tells one list of labels and split from another; pixels are not read for it."""

    @property
    def num_classes(self) -> int:
        return len(self.train.class_names)

    @property
    def in_channels(self) -> int:
        return 3

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return (3, *height_and_width(self.config.image_size or STREAMED_SIZE))

    def batches(self, part: str, device: torch.device | str) -> Batches | None:
        """The batches of train, validation, test or query on a device; None where that part is empty."""
        images, indices = self._part(part)
        if images is None or len(indices) == 0:
            return None
        size = self.config.image_size or STREAMED_SIZE
        return StreamBatches(
            images,
            indices,
            image_size=size,
            resizes=self.config.augmentation == "imagenet",
            workers=self.config.workers,
            device=device,
        )

    def labels(self, part: str) -> Array:
        """Of a part's images, shape (images,); empty where it has none."""
        images, indices = self._part(part)
        return np.empty(0, dtype=np.int64) if images is None else images.labels[indices]

    def cameras(self, part: str) -> Array | None:
        """What took each image of a part, shape (images,); None where that is not known."""
        images, indices = self._part(part)
        return None if images is None or images.cameras is None else images.cameras[indices]

    def _part(self, part: str) -> tuple[EncodedImages | None, Array]:
        if part in ("test", "query"):
            images = self.test if part == "test" else self.query
            return images, np.arange(0 if images is None else len(images.labels))
        return self.train, self.train_indices if part == "train" else self.validation_indices


Splits = MemorySplits | StreamSplits


def load_splits(config: DataConfig, *, seed: int, same_classes: bool = True) -> Splits:
    """Read a data set and hold out its validation images.

    Args:
        config: Where it lies, what is held out, whether it is decoded at once.
        seed: Decides which images are held out.
        same_classes: Whether the test images' classes must be the training images', as in classification.

    Raises:
        DataError: it cannot be read, labels are out of range, or there is one class only.
    """
    train = limited(open_images(config.train, split="train"), config.train_limit)
    source = config.test or (config.train if config.train in BOTH_IN_ONE or _is_cifar(train, config) else None)
    test = limited(open_images(source, split="test"), config.test_limit) if source else None
    if config.query in BOTH_IN_ONE:
        raise DataError(f"data.query {config.query!r} names training and test images; name a file or a folder")
    query = limited(open_images(config.query, split="query"), config.test_limit) if config.query else None
    if test is not None and same_classes:
        test = _numbered_as(test, train)
        _check_known(test, train, name=f"data.test {source}")
    if test is not None and query is not None:
        query = _numbered_as(query, test)
    parts = train, test, query
    if isinstance(train, EncodedImages) and _are_encoded(parts) and _streams(train, config):
        return _stream_splits(*parts, config, seed=seed)
    decoded, gallery, asking = (None if part is None else _decoded(part, config) for part in parts)
    assert decoded is not None
    return memory_splits(decoded, gallery, config, seed=seed, query=asking)


def memory_splits(
    train: ImageSet, test: ImageSet | None, config: DataConfig, *, seed: int, query: ImageSet | None = None
) -> MemorySplits:
    """Splits of images that are decoded already; checks as `load_splits`."""
    if config.augmentation == "imagenet":
        raise DataError(
            "data.augmentation imagenet (crops of random size) needs images that are decoded as they are needed: "
            "data.stream always, of a folder or a Parquet file; crop_flip does without"
        )
    check_classes(train.labels, train.class_names)
    for name, part in (("test", test), ("query", query)):
        if part is not None and part.shape != train.shape:
            raise DataError(f"{name} images are {part.shape}, training images {train.shape} (channels, height, width)")
    held_mask = held_out(train.labels, config.validation, seed=seed)
    kept = train.select(np.flatnonzero(~held_mask)) if held_mask.any() else train
    held = train.select(np.flatnonzero(held_mask)) if held_mask.any() else None
    mean, deviation = kept.statistics()
    parts = [part.fingerprint() for part in (kept, held, test, query) if part is not None]
    return MemorySplits(
        train=kept,
        validation=held,
        test=test,
        query=query,
        mean=mean,
        deviation=deviation,
        fingerprint=hashlib.sha256("".join(parts).encode()).hexdigest(),
    )


Images = ImageSet | EncodedImages


def limited(images: Images, limit: int | None) -> Images:
    """At most so many of the images: the first of each class (and camera), then the second of each, and so on; in their
    order."""
    if limit is None or limit >= len(images.labels):
        return images
    cameras = np.zeros_like(images.labels) if images.cameras is None else images.cameras
    groups = np.unique(np.stack([images.labels, cameras]), axis=1, return_inverse=True)[1].reshape(-1)
    turn = np.empty(len(groups), dtype=np.int64)
    for group in np.unique(groups):
        places = np.flatnonzero(groups == group)
        turn[places] = np.arange(len(places))
    return images.select(np.sort(np.argsort(turn, kind="stable")[:limit]))


def _numbered_as(images: Images, known: Images) -> Images:
    """Images with other images' numbers for their classes, by name where both have names; classes that those have not
    get numbers above."""
    names = known.class_names
    if _is_unnamed(images) or _is_unnamed(known) or images.class_names == names:
        return images
    names += tuple(name for name in images.class_names if name not in names)
    numbers = {name: number for number, name in enumerate(names)}
    labels = np.asarray([numbers[name] for name in images.class_names], dtype=np.int64)[images.labels]
    return dataclasses.replace(images, labels=labels, class_names=names)


def _is_unnamed(images: Images) -> bool:
    return images.class_names == tuple(str(number) for number in range(len(images.class_names)))


def _check_known(test: Images, train: Images, *, name: str) -> None:
    """Raises DataError where test images are of a class that the training images have not."""
    unknown = np.unique(test.labels[test.labels >= len(train.class_names)])
    if len(unknown):
        told = ", ".join(test.class_names[label] for label in unknown[:5])
        raise DataError(f"{name} has images of classes that the training images have not: {told}")


def _is_cifar(train: Images, config: DataConfig) -> bool:
    """A folder in torchvision's CIFAR format holds the test images too."""
    return isinstance(train, ImageSet) and not config.train.endswith(".arrow")


def _streams(train: EncodedImages, config: DataConfig) -> bool:
    if config.stream != "auto":
        return config.stream == "always"
    if config.augmentation == "imagenet":
        return True
    width, height = resized(train.read(0), config.image_size).size
    return 3 * width * height * len(train.labels) > config.memory_gib * 2**30


def _are_encoded(
    parts: tuple[Images | None, Images | None, Images | None],
) -> TypeGuard[tuple[EncodedImages, EncodedImages | None, EncodedImages | None]]:
    return all(part is None or isinstance(part, EncodedImages) for part in parts)


def _decoded(images: Images, config: DataConfig) -> ImageSet:
    if isinstance(images, EncodedImages):
        return decode_all(images, image_size=config.image_size)
    size = config.image_size
    if size is not None and images.shape[1:] != height_and_width(size):
        told = "x".join(map(str, images.shape[1:]))
        raise DataError(f"data.image_size {size} cannot be had of images that come decoded, as {told}")
    return images


def _stream_splits(
    train: EncodedImages,
    test: EncodedImages | None,
    query: EncodedImages | None,
    config: DataConfig,
    *,
    seed: int,
) -> StreamSplits:
    check_classes(train.labels, train.class_names)
    held = held_out(train.labels, config.validation, seed=seed)
    indices = np.arange(len(train.labels))
    digest = hashlib.sha256(repr((train.class_names, config.validation, seed)).encode())
    digest.update(np.ascontiguousarray(train.labels).data)
    return StreamSplits(
        config=config,
        train=train,
        train_indices=indices[~held],
        validation_indices=indices[held],
        test=test,
        query=query,
        fingerprint=digest.hexdigest(),
    )
