"""Convert data passed from Python (arrays, lists, Datasets) to images, with or without separate parts."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from inarch.population.config import DataConfig
from inarch.population.data.reading.dataset_items import as_array, configured_names, from_dataset
from inarch.population.data.reading.encoded_images import UnreadableImages
from inarch.population.data.reading.images import ImageSet, image_set
from inarch.population.errors import DataError

PART_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""Accepted keys of a mapping of parts, and the part that each key means."""

FORMS = (
    "data must be a path, a pair (images, labels) of arrays or lists, a torch or Hugging Face Dataset, or parts of "
    "these: (train, test), (train, validation, test), or a mapping with the keys train, validation and test"
)
"""Accepted forms of data, for error messages."""


def parts_of(data: Any) -> dict[str, Any]:
    """Split data into the parts train, validation and test.

    Args:
        data: Data in a form that `FORMS` lists.

    Returns:
        The data of each part by name. Only train is always present.

    Raises:
        DataError: The data has none of these forms, or no training part.
    """
    if isinstance(data, Mapping):
        unknown = [key for key in data if key not in PART_NAMES]
        if unknown or not data:
            raise DataError(f"{FORMS}; got a mapping with the keys {', '.join(map(str, data)) or 'none'}")
        return _with_train({PART_NAMES[key]: part for key, part in data.items()})
    if isinstance(data, (tuple, list)) and not _is_arrays(data) and not _is_items(data):
        if len(data) == 2:
            names = ("train", "test")
        elif len(data) == 3:
            names = ("train", "validation", "test")
        else:
            raise DataError(f"{FORMS}; got a {type(data).__name__} of {len(data)}")
        return _with_train(dict(zip(names, data, strict=True)))
    return {"train": data}


def _with_train(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parts that are not None, or raise DataError if there is no training part."""
    if parts.get("train") is None:
        raise DataError("data must have a part train, which is not None")
    return {name: part for name, part in parts.items() if part is not None}


def is_path(data: Any) -> bool:
    """Return whether a part is a path or a name.

    Args:
        data: Data of one part.
    """
    return isinstance(data, (str, os.PathLike))


def to_images(
    data: Any,
    config: DataConfig,
    *,
    name: str,
    unreadable: UnreadableImages | None = None,
    is_training: bool = True,
) -> ImageSet:
    """Convert one part to decoded images.

    Args:
        data: An ImageSet, a pair (images, labels), or a Dataset.
        config: Size, channels, and names of columns and classes.
        name: Name of the part, for error messages.
        unreadable: Counter of the unreadable items that are left out. None: the first such item is an error.
        is_training: Whether these are training images, as in `encode_labels`.

    Raises:
        DataError: The part has no known form, or its images or labels cannot be used.
        UserCodeError: The Dataset raised an exception.
    """
    if isinstance(data, ImageSet):
        return data
    if isinstance(data, (tuple, list)) and _is_arrays(data):
        images, labels = data
        if hasattr(images, "shape"):
            names = configured_names(labels, config)
            return image_set(as_array(images), labels, class_names=names, name=name, is_training=is_training)
        labels = _plain_labels(labels, name)
        if len(images) != len(labels):
            raise DataError(f"{name}: {len(images)} images need as many labels, got {len(labels)}")
        data = list(zip(images, labels, strict=True))
    return from_dataset(data, config, name=name, unreadable=unreadable, is_training=is_training)


def _plain_labels(labels: Any, name: str) -> Sequence[Any]:
    """Return the labels of a list of images as a list."""
    if isinstance(labels, (list, tuple)):
        return labels
    rows = np.asarray(labels)
    if rows.ndim == 0:
        raise DataError(f"{name}: labels must be a list or an array of shape (images,), got {type(labels).__name__}")
    return list(rows)


def _is_arrays(data: Sequence[Any]) -> bool:
    """Return whether a sequence is a pair (images, labels), not two parts."""
    if len(data) != 2 or _is_items(data) or _is_pair(data[0]):
        return False
    images = data[0]
    if isinstance(images, ImageSet) or hasattr(images, "column_names"):  # the first of two parts
        return False
    if isinstance(images, (np.ndarray, torch.Tensor)) or hasattr(images, "__array__"):
        return True
    return isinstance(images, Sequence) and len(images) > 0 and _is_picture(images[0])  # a column of datasets too


def _is_pair(value: Any) -> bool:
    """Return whether a value is (images, labels): an array of images and as many labels."""
    if not isinstance(value, (tuple, list)) or len(value) != 2 or getattr(value[0], "ndim", 0) < 3:
        return False
    images, labels = value
    return np.ndim(labels) > 0 and len(images) == len(labels)


def _is_items(data: Sequence[Any]) -> bool:
    """Return whether a sequence holds items (image, label), not parts."""
    first = data[0] if len(data) else None
    if isinstance(first, Mapping):
        return not set(first) <= set(PART_NAMES) and not any(is_path(value) for value in first.values())
    if not isinstance(first, (tuple, list)) or len(first) != 2 or _is_pair(first):
        return False
    image, label = first
    if not _is_picture(image) or isinstance(image, Image.Image):
        return isinstance(image, Image.Image)
    return isinstance(label, (str, int)) or np.ndim(label) == 0 or (np.ndim(label) == 1 and len(label) != len(image))


def _is_picture(value: Any) -> bool:
    """Return whether a value is a single image."""
    return isinstance(value, Image.Image) or (hasattr(value, "shape") and len(value.shape) in (2, 3))
