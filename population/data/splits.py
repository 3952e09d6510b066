"""The parts of a data set: training, validation (held out of training), test; in retrieval the test images are the
gallery, and there may be queries."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from population.config import DataConfig, height_and_width
from population.data.batches import Batches, MemoryBatches
from population.data.encoded import EncodedImages, UnreadableImages
from population.data.holdout import held_out, holdout_notes
from population.data.images import Array, ImageSet, with_set_channels
from population.data.labels import check_classes, numbered_as
from population.data.pictures import resized
from population.data.report import DataReport, Resize, augmentation_told, counts_of
from population.data.sources import decode_all, holds_parts, only_readable, open_images
from population.data.streams import StreamBatches, stream_statistics
from population.errors import DataError, UnreadableImageError

STREAMED_SIZE = 224
"""Pixels a side of streamed images, where data.image_size does not say."""

Images = ImageSet | EncodedImages

PIXEL_LIMIT = 32.0
"""Floats above this are taken for pixels up to 255; normalized ones are well below."""


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
    report: DataReport
    """What was read."""

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
    validation: EncodedImages | None = None
    """Validation images of their own; None: `validation_indices` of the training images."""
    fingerprint: str
    """Tells one list of labels and split from another; pixels are not read for it."""
    report: DataReport
    """What was read."""

    @property
    def num_classes(self) -> int:
        return len(self.train.class_names)

    @property
    def in_channels(self) -> int:
        return _streamed_channels(self.config)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return (self.in_channels, *height_and_width(self.config.image_size or STREAMED_SIZE))

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
            channels=self.in_channels,
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
        if part in ("test", "query") or (part == "validation" and self.validation is not None):
            images = {"test": self.test, "query": self.query, "validation": self.validation}[part]
            return images, np.arange(0 if images is None else len(images))
        return self.train, self.train_indices if part == "train" else self.validation_indices


Splits = MemorySplits | StreamSplits


def load_splits(config: DataConfig, *, seed: int, same_classes: bool = True) -> Splits:
    """Read a data set and hold out its validation images.

    Classes are matched between the parts by name; numbers without names are their own names.

    Args:
        config: Where it lies, what is held out, whether it is decoded at once.
        seed: Decides which images are held out.
        same_classes: Whether the classes of test and validation images must be the training images', as in
            classification.

    Raises:
        DataError: it cannot be read, labels cannot be matched, or there is one class only.
    """
    if config.query is not None and holds_parts(config.query):
        raise DataError(f"data.query {config.query!r} names training and test images; name a file or a folder")
    train = limited(open_images(config.train, split="train", config=config), config.train_limit)
    test_source = config.test or (config.train if holds_parts(config.train) else None)
    sources = {"validation": config.validation_set, "test": test_source, "query": config.query}
    parts: dict[str, Images] = {"train": train}
    for part, source in sources.items():
        if source is not None:
            found = open_images(source, split=part, config=config)
            parts[part] = limited(found, config.test_limit if part != "validation" else None)
    for part in ("validation", "test") if same_classes else ():
        if part in parts:
            parts[part] = _with_classes_of(parts[part], train, source=f"data.{part} {sources[part]}")
    if "query" in parts:
        parts["query"] = _matched(parts["query"], parts["test"])
    unreadable = UnreadableImages(config.skip_unreadable)
    encoded = {name: part for name, part in parts.items() if isinstance(part, EncodedImages)}
    if len(encoded) == len(parts) and streams(encoded["train"], config):
        return _stream_splits(encoded, config, seed=seed, unreadable=unreadable)
    if config.stream == "always":
        told = ", ".join(name for name, part in parts.items() if name not in encoded)
        raise DataError(
            f"data.stream always: the {told or 'other'} images come decoded and cannot be streamed; use auto"
        )
    decoded = {name: _decoded(part, config, unreadable) for name, part in parts.items()}
    return memory_splits(
        decoded.pop("train"),
        decoded.get("test"),
        config,
        seed=seed,
        unreadable=tuple(unreadable.found),
        **{name: part for name, part in decoded.items() if name != "test"},
    )


def memory_splits(
    train: ImageSet,
    test: ImageSet | None,
    config: DataConfig,
    *,
    seed: int,
    query: ImageSet | None = None,
    validation: ImageSet | None = None,
    unreadable: tuple[str, ...] = (),
) -> MemorySplits:
    """Splits of images that are decoded already; checks as `load_splits`.

    Args:
        train, test, query: The parts.
        config: What is held out, channels.
        seed: Decides which images are held out.
        validation: Validation images of their own; None: they are held out of the training images.
        unreadable: Messages about images that were left out.
    """
    if config.augmentation == "imagenet":
        raise DataError(
            "data.augmentation imagenet (crops of random size) needs images that are decoded as they are needed: "
            "data.stream always, of a folder or a Parquet file; crop_flip does without"
        )
    parts = [part for part in (train, validation, test, query) if part is not None]
    channels = {"gray": 1, "rgb": 3}.get(config.channels, max(part.shape[0] for part in parts))
    train = with_set_channels(train, channels)
    validation, test, query = (
        None if part is None else with_set_channels(part, channels) for part in (validation, test, query)
    )
    check_classes(train.labels, train.class_names)
    for name, part in (("validation", validation), ("test", test), ("query", query)):
        if part is not None and part.shape != train.shape:
            raise DataError(f"{name} images are {part.shape}, training images {train.shape} (channels, height, width)")
        if part is not None and _white_of(part.images) != _white_of(train.images):
            raise DataError(
                f"{name} images are {part.images.dtype} of a white of {_white_of(part.images):g}, training images "
                f"{train.images.dtype} of {_white_of(train.images):g}; give all parts in one scale"
            )
    notes = [note for part in parts for note in part.notes]
    kept, held = train, validation
    if validation is None:
        held_mask = held_out(train.labels, config.validation, seed=seed)
        kept = train.select(np.flatnonzero(~held_mask)) if held_mask.any() else train
        held = train.select(np.flatnonzero(held_mask)) if held_mask.any() else None
        notes += holdout_notes(train.labels, held_mask, train.class_names)
    mean, deviation = kept.statistics()
    named = {"train": kept, "validation": held, "test": test, "query": query}
    digest = "".join(part.fingerprint() for part in named.values() if part is not None)
    return MemorySplits(
        train=kept,
        validation=held,
        test=test,
        query=query,
        mean=mean,
        deviation=deviation,
        fingerprint=hashlib.sha256(digest.encode()).hexdigest(),
        report=DataReport(
            class_names=train.class_names,
            class_counts=counts_of(train.labels, train.num_classes),
            sizes={name: len(part) for name, part in named.items() if part is not None},
            image_shape=train.shape,
            **_scale(kept.images, mean, deviation),
            resize=_resize(config),
            augmentation=augmentation_told(config),
            notes=tuple(dict.fromkeys(notes)),
            unreadable=unreadable,
        ),
    )


def _scale(images: Array, mean: Array, deviation: Array) -> dict[str, Any]:
    """What a report says of pixel values."""
    white, is_pixels = 255.0, True
    if images.dtype != np.uint8:
        low, high = float(images.min()), float(images.max())
        white, is_pixels = (1.0 if high <= 1.0 else 255.0), low >= 0.0 and high <= 255.0
        white = white if is_pixels else 1.0
    return {
        "mean": tuple(float(value) / white for value in mean),
        "deviation": tuple(float(value) / white for value in deviation),
        "white": white,
        "is_pixels": is_pixels,
    }


def _white_of(images: Array) -> float:
    """The value of white: 255 for 8-bit images and for floats above 1, else 1."""
    return 255.0 if images.dtype == np.uint8 or float(images.max()) > PIXEL_LIMIT else 1.0


def _resize(config: DataConfig) -> Resize:
    if config.image_size is None:
        return "none"
    return "shorter side" if isinstance(config.image_size, int) else "whole"


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


def _matched(images: Images, known: Images) -> Images:
    """Images with other images' numbers for their classes; classes that those lack get numbers above."""
    labels, names = numbered_as(images.labels, images.class_names, known.class_names)
    return dataclasses.replace(images, labels=labels, class_names=names)


def _with_classes_of(images: Images, train: Images, *, source: str) -> Images:
    """Images with the training images' numbers for their classes.

    Raises:
        DataError: an image is of a class that the training images lack.
    """
    found, num_known = _matched(images, train), len(train.class_names)
    unknown = np.unique(found.labels[found.labels >= num_known])
    if len(unknown):
        told = ", ".join(repr(found.class_names[label]) for label in unknown[:5])
        known = ", ".join(repr(name) for name in train.class_names[:5]) + (", ..." if num_known > 5 else "")
        are_numbers = all(found.class_names[label].isdigit() for label in unknown)
        are_numbers = are_numbers and not all(name.isdigit() for name in train.class_names)
        remedy = "; name the classes of numbered labels by data.class_names" if are_numbers else ""
        raise DataError(
            f"{source} has images of classes that the training images lack: {told}; the training images have {known}"
            f"{remedy}"
        )
    return dataclasses.replace(found, class_names=train.class_names)


def streams(train: EncodedImages, config: DataConfig) -> bool:
    """Whether images are decoded as they are needed, and not once."""
    if config.stream != "auto":
        return config.stream == "always"
    if config.augmentation == "imagenet":
        return True
    for index in range(min(len(train), config.skip_unreadable + 1)):
        try:
            width, height = resized(train.read(index), config.image_size).size
        except UnreadableImageError:
            continue
        return 3 * width * height * len(train) > config.memory_gib * 2**30
    return False


def _decoded(images: Images, config: DataConfig, unreadable: UnreadableImages) -> ImageSet:
    if isinstance(images, EncodedImages):
        return decode_all(images, image_size=config.image_size, channels=config.channels, unreadable=unreadable)
    size = config.image_size
    if size is not None and images.shape[1:] != height_and_width(size):
        told = "x".join(map(str, images.shape[1:]))
        raise DataError(f"data.image_size {size}: these images are decoded already ({told}) and cannot be resized")
    return images


def _streamed_channels(config: DataConfig) -> int:
    return 1 if config.channels == "gray" else 3


def _stream_splits(
    parts: dict[str, EncodedImages], config: DataConfig, *, seed: int, unreadable: UnreadableImages
) -> StreamSplits:
    if unreadable.limit:
        parts = {name: only_readable(part, unreadable) for name, part in parts.items()}
    train, validation = parts["train"], parts.get("validation")
    check_classes(train.labels, train.class_names)
    held = np.zeros(len(train), dtype=bool) if validation else held_out(train.labels, config.validation, seed=seed)
    indices = np.arange(len(train))
    digest = hashlib.sha256(repr((train.class_names, config.validation, seed)).encode())
    digest.update(np.ascontiguousarray(train.labels).data)
    if validation is not None:
        digest.update(np.ascontiguousarray(validation.labels).data)
    channels = _streamed_channels(config)
    mean, deviation = stream_statistics(channels)
    sizes = {"train": int((~held).sum()), "validation": int(held.sum()) if validation is None else len(validation)}
    sizes |= {name: len(part) for name, part in parts.items() if name in ("test", "query")}
    resize = _resize(dataclasses.replace(config, image_size=config.image_size or STREAMED_SIZE))
    if config.augmentation == "imagenet" and resize == "shorter side":
        resize = "margin"
    notes = [note for part in parts.values() for note in part.notes]
    return StreamSplits(
        config=config,
        train=train,
        train_indices=indices[~held],
        validation_indices=indices[held],
        validation=validation,
        test=parts.get("test"),
        query=parts.get("query"),
        fingerprint=digest.hexdigest(),
        report=DataReport(
            class_names=train.class_names,
            class_counts=counts_of(train.labels, len(train.class_names)),
            sizes={name: size for name, size in sizes.items() if size},
            image_shape=(channels, *height_and_width(config.image_size or STREAMED_SIZE)),
            mean=mean,
            deviation=deviation,
            white=255.0,
            is_pixels=True,
            resize=resize,
            augmentation=augmentation_told(config),
            is_streamed=True,
            notes=tuple(dict.fromkeys([*notes, *holdout_notes(train.labels, held, train.class_names)])),
            unreadable=tuple(unreadable.found),
        ),
    )
