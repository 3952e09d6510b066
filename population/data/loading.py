"""Read the parts of a data set, match their classes by name, hold out validation images, and decode or stream them."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np

from inarch.population.config import DataConfig, height_and_width
from inarch.population.data.holdout import held_out, holdout_notes
from inarch.population.data.loader.order import window_notes
from inarch.population.data.reading.encoded_images import EncodedImages, UnreadableImages
from inarch.population.data.reading.images import Array, ImageSet, with_set_channels
from inarch.population.data.reading.labels import check_classes, numbered_as
from inarch.population.data.reading.sources import decode_all, holds_parts, only_readable, open_images
from inarch.population.data.report import DataReport, Resize, augmentation_text, counts_of
from inarch.population.data.splits import MemorySplits, Splits, StreamSplits, streamed_channels
from inarch.population.data.streaming import STREAMED_SIZE, streams
from inarch.population.data.streaming_batches import stream_statistics
from inarch.population.errors import DataError

Images = ImageSet | EncodedImages

PIXEL_LIMIT = 32.0
"""A float above this means that white is 255. Normalized floats are well below it."""


def load_splits(config: DataConfig, *, seed: int, same_classes: bool = True) -> Splits:
    """Read a data set and hold out its validation images.

    Classes of the parts are matched by name. A class that has only a number is named by that number.

    Args:
        config: Sources of the parts, share to hold out, and whether to decode or to stream.
        seed: Seed of the choice of held-out images.
        same_classes: Whether validation and test images must belong to classes of the training images, as in
            classification.

    Raises:
        DataError: A part cannot be read, its labels cannot be matched, or all training images are of one class.
    """
    if config.query is not None and holds_parts(config.query):
        raise DataError(
            f"data.query={config.query!r} stands for training and test images; name a file or a folder of queries"
        )
    train = limited(open_images(config.train, split="train", config=config), config.train_limit)
    test_source = config.test or (config.train if holds_parts(config.train) else None)
    sources = {"validation": config.validation_set, "test": test_source, "query": config.query}
    parts: dict[str, Images] = {"train": train}
    for part, source in sources.items():
        if source is not None:
            images = open_images(source, split=part, config=config)
            parts[part] = limited(images, config.test_limit if part != "validation" else None)
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
        shown = ", ".join(name for name in parts if name not in encoded)
        raise DataError(
            f"data.stream=always: the {shown or 'other'} images are already decoded and cannot be streamed; use auto"
        )
    decoded = {name: _decoded(part, config, unreadable) for name, part in parts.items()}
    return memory_splits(
        decoded.pop("train"),
        decoded.get("test"),
        config,
        seed=seed,
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
) -> MemorySplits:
    """Return the splits of decoded images.

    Args:
        train: Training images.
        test: Test images. In retrieval they are the gallery. None: there are none.
        config: Share to hold out, and number of channels.
        seed: Seed of the choice of held-out images.
        query: Queries of retrieval. None: there are none of their own.
        validation: Validation images from a source of their own. None: they are held out of the training images.

    Raises:
        DataError: The augmentation needs streamed images, all training images are of one class, or the parts differ
            in shape or in the scale of their pixels.
    """
    if config.augmentation == "imagenet":
        raise DataError(
            "data.augmentation=imagenet: crops of random size need streamed images; set data.stream=always with a "
            "folder or a Parquet file, or data.augmentation=crop_flip"
        )
    parts = [part for part in (train, validation, test, query) if part is not None]
    channels = {"gray": 1, "rgb": 3}.get(config.channels, max(part.shape[0] for part in parts))
    train = with_set_channels(train, channels)
    validation, test, query = (
        None if part is None else with_set_channels(part, channels) for part in (validation, test, query)
    )
    check_classes(train.labels, train.class_names)
    for name, part in (("validation", validation), ("test", test), ("query", query)):
        if part is not None:
            _check_alike(part, train, name=name)
    notes = [note for part in parts for note in part.notes]
    training, held = train, validation
    if validation is None:
        held_mask = held_out(train.labels, config.validation, seed=seed)
        training = train.select(np.flatnonzero(~held_mask)) if held_mask.any() else train
        held = train.select(np.flatnonzero(held_mask)) if held_mask.any() else None
        notes += holdout_notes(train.labels, held_mask, train.class_names)
    mean, deviation = training.statistics()
    white = _white_of(train.images)
    final_parts = {"train": training, "validation": held, "test": test, "query": query}
    digest = "".join(part.fingerprint() for part in final_parts.values() if part is not None)
    return MemorySplits(
        train=training,
        validation=held,
        test=test,
        query=query,
        mean=mean,
        deviation=deviation,
        fingerprint=hashlib.sha256(digest.encode()).hexdigest(),
        report=DataReport(
            class_names=train.class_names,
            class_counts=counts_of(train.labels, train.num_classes),
            sizes={name: len(part) for name, part in final_parts.items() if part is not None},
            image_shape=train.shape,
            mean=tuple(float(value) / white for value in mean),
            deviation=tuple(float(value) / white for value in deviation),
            white=white,
            is_pixels=_are_pixels(train.images),
            resize=_resize(config),
            augmentation=augmentation_text(config),
            notes=tuple(dict.fromkeys(notes)),
            unreadable=tuple(message for part in parts for message in part.unreadable),
        ),
    )


def _check_alike(part: ImageSet, train: ImageSet, *, name: str) -> None:
    """Raise DataError if a part differs from the training images in shape or in the scale of pixels."""
    if part.shape != train.shape:
        raise DataError(
            f"{name} images have shape {part.shape}, training images {train.shape} (channels, height, width); "
            "give all parts one shape"
        )
    white, other = _white_of(train.images), _white_of(part.images)
    if other != white:
        raise DataError(
            f"{name} images are {part.images.dtype} with white at {other:g}, training images {train.images.dtype} with "
            f"white at {white:g}; give all parts in one scale"
        )


def _white_of(images: Array) -> float:
    """Return the value of white: 255 for 8-bit images and for floats above PIXEL_LIMIT, else 1."""
    return 255.0 if images.dtype == np.uint8 or float(images.max()) > PIXEL_LIMIT else 1.0


def _are_pixels(images: Array) -> bool:
    """Return whether all values lie between 0 and white. Normalized floats do not."""
    is_8_bit = images.dtype == np.uint8
    return is_8_bit or (float(images.min()) >= 0.0 and float(images.max()) <= _white_of(images))


def _resize(config: DataConfig) -> Resize:
    if config.image_size is None:
        return "none"
    return "shorter side" if isinstance(config.image_size, int) else "whole"


def limited(images: Images, limit: int | None) -> Images:
    """Return at most `limit` images, evenly from the classes, in their original order.

    The first image of each class (and camera) is taken, then the second image of each, and so on.

    Args:
        images: The images. Not changed.
        limit: Greatest number of images. None: no limit.
    """
    if limit is None or limit >= len(images.labels):
        return images
    cameras = np.zeros_like(images.labels) if images.cameras is None else images.cameras
    groups = np.unique(np.stack([images.labels, cameras]), axis=1, return_inverse=True)[1].reshape(-1)
    rank = np.empty(len(groups), dtype=np.int64)
    for group in np.unique(groups):
        indices = np.flatnonzero(groups == group)
        rank[indices] = np.arange(len(indices))
    return images.select(np.sort(np.argsort(rank, kind="stable")[:limit]))


def _matched(images: Images, known: Images) -> Images:
    """Renumber images by the classes of other images, with `numbered_as`."""
    labels, names = numbered_as(images.labels, images.class_names, known.class_names)
    return dataclasses.replace(images, labels=labels, class_names=names)


def _with_classes_of(images: Images, train: Images, *, source: str) -> Images:
    """Renumber images by the classes of the training images.

    Args:
        images: The images.
        train: The training images.
        source: Name of the images' source, for errors.

    Raises:
        DataError: An image is of a class that the training images lack.
    """
    matched, num_known = _matched(images, train), len(train.class_names)
    unknown = np.unique(matched.labels[matched.labels >= num_known])
    if len(unknown):
        shown = ", ".join(repr(matched.class_names[label]) for label in unknown[:5])
        known = ", ".join(repr(name) for name in train.class_names[:5]) + (", ..." if num_known > 5 else "")
        are_numbers = all(matched.class_names[label].isdigit() for label in unknown)
        are_numbers = are_numbers and not all(name.isdigit() for name in train.class_names)
        remedy = "; name the classes of numbered labels by data.class_names" if are_numbers else ""
        raise DataError(
            f"{source} has images of classes that the training images lack: {shown}; the training images have {known}"
            f"{remedy}"
        )
    return dataclasses.replace(matched, class_names=train.class_names)


def _decoded(images: Images, config: DataConfig, unreadable: UnreadableImages) -> ImageSet:
    """Return images in memory, decoded if they are not."""
    if isinstance(images, EncodedImages):
        return decode_all(images, image_size=config.image_size, channels=config.channels, unreadable=unreadable)
    size = config.image_size
    if size is not None and images.shape[1:] != height_and_width(size):
        shown = "x".join(map(str, images.shape[1:]))
        raise DataError(f"data.image_size={size}: these images are already decoded ({shown}) and cannot be resized")
    return images


def _stream_splits(
    parts: dict[str, EncodedImages], config: DataConfig, *, seed: int, unreadable: UnreadableImages
) -> StreamSplits:
    """Return the splits of encoded images, without the unreadable ones if some may be left out."""
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
    if held.any() and len(np.unique(train.labels[held])) < len(np.unique(train.labels)):
        digest.update(held.data)  # the classes that are validated are drawn, since 0.1.0
    channels = streamed_channels(config)
    mean, deviation = stream_statistics(channels)
    sizes = {"train": int((~held).sum()), "validation": int(held.sum()) if validation is None else len(validation)}
    sizes |= {name: len(part) for name, part in parts.items() if name in ("test", "query")}
    resize = _resize(dataclasses.replace(config, image_size=config.image_size or STREAMED_SIZE))
    if config.augmentation == "imagenet" and resize == "shorter side":
        resize = "margin"
    notes = [note for part in parts.values() for note in part.notes]
    groups = None if train.groups is None else train.groups[~held]
    notes += window_notes(train.labels[~held], groups, window=config.shuffle_window)
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
            augmentation=augmentation_text(config),
            is_streamed=True,
            notes=tuple(dict.fromkeys([*notes, *holdout_notes(train.labels, held, train.class_names)])),
            unreadable=tuple(message for part in parts.values() for message in part.unreadable),
        ),
    )
