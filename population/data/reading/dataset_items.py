"""Read the items of PyTorch and Hugging Face Datasets once, into an ImageSet."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader, IterableDataset, Subset

from inarch.population.config import DataConfig
from inarch.population.data.reading.decoding import as_shown, resized, stacked, with_channels
from inarch.population.data.reading.encoded_images import UnreadableImages
from inarch.population.data.reading.images import ImageSet, image_set
from inarch.population.data.reading.labels import encode_labels
from inarch.population.errors import DataError, UnreadableImageError
from inarch.population.extension.user_code import user_code

IMAGE_KEYS = ("image", "img", "pixel_values", "picture", "x", "input", "inputs")
"""Usual keys of the image in items that are mappings, the most likely first."""

LABEL_KEYS = ("label", "fine_label", "labels", "target", "class", "y")
"""Usual keys of the label in items that are mappings, the most likely first."""

READ_TWICE = 64
"""Number of items that are read twice, to detect Datasets that return a different image each time."""


def from_dataset(
    items: Any,
    config: DataConfig | None = None,
    *,
    class_names: Sequence[str] | None = None,
    name: str,
    unreadable: UnreadableImages | None = None,
    is_training: bool = True,
) -> ImageSet:
    """Read a map-style Dataset into an ImageSet.

    Args:
        items: A Dataset whose items are pairs (image, label), or mappings with an image and a label. Images are PIL
            pictures, arrays or tensors. A DataLoader is replaced by its Dataset.
        config: Size and channels of PIL pictures, and names of columns and classes. None: the defaults.
        class_names: Names by label. None: the Dataset's own (`classes`, `features`).
        name: Name of the Dataset, for error messages.
        unreadable: Counter of the unreadable items that are left out. None: the first such item is an error.
        is_training: Whether these are training images, as in `encode_labels`.

    Raises:
        DataError: The Dataset cannot be indexed, returns a different image each time, has images of several shapes, or
            has labels that cannot be used.
        UserCodeError: The Dataset raised an exception.
    """
    config = config or DataConfig()
    notes: tuple[str, ...] = ()
    if isinstance(items, DataLoader):
        items = items.dataset
        notes = (f"{name}: only the Dataset of the DataLoader is used; schedule.batch_size sets the size of batches",)
    if isinstance(items, IterableDataset) or not (hasattr(items, "__len__") and hasattr(items, "__getitem__")):
        raise DataError(f"{name} must be a map-style Dataset with a length, got {type(items).__name__}")
    reader = _Items(items, config, name)
    pictures: list[Any] = []
    labels: list[Any] = []
    left_out: list[str] = []
    for index in range(len(items)):
        try:
            picture, label = reader.item(index)
        except UnreadableImageError as error:
            if unreadable is None:
                raise
            left_out.append(unreadable.add(error))
            continue
        if label is None:
            raise DataError(f"{name}: item {index} has no label")
        pictures.append(picture)
        labels.append(label)
    if not pictures:
        raise DataError(f"{name} has no images")
    reader.check_repeats()
    names = class_names or reader.class_names() or configured_names(labels, config)
    numbers, encoded_names = encode_labels(labels, name=name, class_names=names, unit="item", is_training=is_training)
    images = image_set(_stacked(pictures, name), numbers, class_names=encoded_names, name=name, is_training=is_training)
    return dataclasses.replace(images, notes=notes, unreadable=tuple(left_out))


class _Items:
    """Reader of a Dataset's items, one by one."""

    def __init__(self, items: Any, config: DataConfig, name: str) -> None:
        self._items, self._config, self._name = items, config, name

    def item(self, index: int) -> tuple[Any, Any]:
        """Return the picture and the label of an item.

        Args:
            index: Number of the item.

        Returns:
            The picture as an array or as a PIL picture of mode L or RGB, and the label. The label is a number, a
            string, or None if the item has none.

        Raises:
            UnreadableImageError: The item has no image, or its image cannot be read.
            DataError: The item has no known form, or several labels.
            UserCodeError: The Dataset raised an exception.
        """
        name = f"{self._name}[{index}]"
        with user_code(f"{name}: the Dataset"):
            try:
                item = self._items[index]
            except (OSError, SyntaxError) as error:  # what PIL raises about a file
                if self._config.skip_unreadable:
                    raise UnreadableImageError(f"{name} cannot be read: {error}") from error
                raise
        image, label = self._pair(item, name)
        return self._picture(image, name), _plain_label(label, name)

    def class_names(self) -> Sequence[str] | None:
        """Return the class names of the Dataset, or None if it has none. A Subset has those of its Dataset.

        Raises:
            DataError: The Datasets of a ConcatDataset name different classes.
        """
        return self._names_of(self._items)

    def _names_of(self, items: Any) -> list[str] | None:
        """Return the class names of a Dataset or of a Dataset within it."""
        names = getattr(items, "classes", None)
        if isinstance(names, (list, tuple, np.ndarray)) and len(names):
            return [str(name) for name in names]
        if isinstance(items, ConcatDataset):
            names_by_part = [self._names_of(part) for part in items.datasets]
            if any(names != names_by_part[0] for names in names_by_part):
                raise DataError(
                    f"{self._name}: the joined Datasets name different classes: {names_by_part[0]}, {names_by_part[1:]}"
                )
            return names_by_part[0]
        if isinstance(items, Subset):
            return self._names_of(items.dataset)
        features = getattr(items, "features", None)
        if isinstance(features, Mapping):
            key = self._key(features, self._config.label_column, LABEL_KEYS, "label", self._name)
            names = getattr(features[key], "names", None)
            return [str(name) for name in names] if names else None
        return None

    def check_repeats(self) -> None:
        """Raise DataError if an item is a different image when it is read again."""
        if isinstance(self._items, (list, tuple)):
            return
        for index in range(min(READ_TWICE, len(self._items))):
            try:
                first, second = (np.asarray(self.item(index)[0]) for _ in range(2))
            except UnreadableImageError:
                continue
            if first.shape != second.shape or not np.array_equal(first, second, equal_nan=first.dtype.kind == "f"):
                raise DataError(
                    f"{self._name}[{index}] is a different image each time it is read. Images are read once and shared "
                    "by all networks, so that random transforms would be applied only once; pass the Dataset without "
                    "them, and set data.augmentation (none, crop, crop_flip)"
                )

    def _pair(self, item: Any, name: str) -> tuple[Any, Any]:
        """Return the image and the label of an item."""
        if isinstance(item, Mapping):
            image = self._key(item, self._config.image_column, IMAGE_KEYS, "image", name)
            label = self._key(item, self._config.label_column, LABEL_KEYS, "label", name)
            return item[image], item[label]
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            length = f" of {len(item)}" if isinstance(item, (tuple, list)) else ""
            raise DataError(f"{name} must be (image, label) or a mapping of both, got {type(item).__name__}{length}")
        return item[0], item[1]

    @staticmethod
    def _key(item: Mapping[Any, Any], given: str | None, usual: Sequence[str], kind: str, name: str) -> str:
        """Return the configured key of image or label, or the most likely one if none is configured."""
        chosen = given if given in item else next((key for key in usual if key in item), None)
        if chosen is None or (given is not None and given not in item):
            raise DataError(
                f"{name} has no {kind} under the keys {', '.join([given] if given else usual)}; it has "
                f"{', '.join(map(str, item))}; name the key in data.{kind}_column"
            )
        return chosen

    def _picture(self, image: Any, name: str) -> Any:
        """Return an image as an array, or as a resized PIL picture of mode L or RGB."""
        if image is None:
            raise UnreadableImageError(f"{name} has no image")
        if isinstance(image, (str, os.PathLike, bytes, Mapping)):
            kind = "a path" if isinstance(image, (str, os.PathLike)) else "encoded bytes"
            raise DataError(f"{name} is {kind}, not a decoded image; decode it, for example by PIL.Image.open")
        if isinstance(image, Image.Image):
            shown = with_channels(as_shown(image, name), self._config.channels)
            return resized(shown, self._config.image_size)
        return as_array(image)


def as_array(image: Any) -> np.ndarray:
    """Convert an array or tensor to a NumPy array.

    Args:
        image: An array, or a tensor on any device. Float types that NumPy lacks become float32.
    """
    if isinstance(image, torch.Tensor):
        tensor = image.detach().cpu()
        is_rare = tensor.is_floating_point() and tensor.dtype not in (torch.float16, torch.float32, torch.float64)
        return (tensor.float() if is_rare else tensor).numpy()
    return np.asarray(image)


def _stacked(pictures: list[Any], name: str) -> np.ndarray:
    """Return pictures as a single array, or raise DataError if they differ in size."""
    if all(isinstance(picture, Image.Image) for picture in pictures):
        sizes = {picture.size for picture in pictures}
        if len(sizes) > 1:
            sizes_shown = " and ".join(f"{width}x{height}" for width, height in sorted(sizes)[:2])
            raise DataError(f"{name} has images of {len(sizes)} sizes, {sizes_shown} among them; give data.image_size")
        return stacked(pictures)
    arrays = [np.asarray(picture) for picture in pictures]
    shapes = {array.shape for array in arrays}
    if len(shapes) != 1:
        raise DataError(f"{name} must have images of one shape, got {len(shapes)} shapes: {sorted(shapes)[:2]}")
    return np.stack(arrays)


def _plain_label(label: Any, name: str) -> Any:
    """Convert a label to a Python number or string. A one-hot row becomes the index of its 1."""
    if isinstance(label, torch.Tensor):
        label = label.detach().cpu().numpy()
    if isinstance(label, (list, tuple)):
        label = np.asarray(label)
    if isinstance(label, np.ndarray):
        if label.size == 1:
            return label.reshape(-1)[0].item()
        if label.ndim == 1 and np.isin(label, (0, 1)).all() and label.sum() == 1:
            return int(label.argmax())
        raise DataError(f"{name} has several labels (multi-label); each image must have one class")
    if isinstance(label, np.generic):
        return label.item()
    return label


def configured_names(labels: Any, config: DataConfig) -> Sequence[str] | None:
    """Return data.class_names if the labels are numbers, else None.

    Args:
        labels: Labels of a part. The first label decides.
        config: Configuration of the data.
    """
    is_several = isinstance(labels, Iterable) and getattr(labels, "ndim", 1) != 0
    first = next(iter(labels), None) if is_several else None
    return config.class_names if config.class_names and not isinstance(first, str) else None
