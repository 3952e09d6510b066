"""Describe the data of a run. The report is printed before training, recorded in config.json, and used to predict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from inarch.population.config import DataConfig, from_dict

Resize = Literal["none", "shorter side", "margin", "whole"]


@dataclass(frozen=True, kw_only=True)
class DataReport:
    """Description of a run's data: classes, sizes, pixels, and the images that were left out."""

    class_names: tuple[str, ...]
    """Names of the classes, by label."""
    class_counts: tuple[int, ...]
    """Training images of each class, before validation images are held out."""
    sizes: dict[str, int]
    """Number of images in train, validation, test and query. Absent parts have no entry."""
    image_shape: tuple[int, int, int]
    """Channels, height and width of the images that networks receive."""
    mean: tuple[float, ...]
    """Mean of each channel, with white as 1. A pixel becomes (pixel / white - mean) / deviation."""
    deviation: tuple[float, ...]
    """Standard deviation of each channel, with white as 1."""
    white: float
    """Value of a white pixel as read: 255 for 8-bit images, 1 or 255 for floats."""
    is_pixels: bool
    """Whether all values lie between 0 and white. Floats in another range are not pixels."""
    resize: Resize
    """How images are resized. shorter side: the shorter side is scaled to the size, and the center is cropped. margin:
    the shorter side is scaled to 8/7 of the size, and the center is cropped. whole: height and width are scaled
    independently. none: images are not resized."""
    augmentation: str
    """Augmentation of the training images, in words."""
    is_streamed: bool = False
    """Whether loader workers decode images as they are needed."""
    notes: tuple[str, ...] = ()
    """Warnings, and notes on files and images that were left out."""
    unreadable: tuple[str, ...] = field(default=())
    """A message for each unreadable image that was left out, at most data.skip_unreadable."""

    def lines(self) -> list[str]:
        """Return the report as lines of text."""
        sizes = ", ".join(f"{count} {part}" for part, count in self.sizes.items())
        missing = [part for part in ("validation", "test") if part not in self.sizes]
        sizes += f" (no {' and no '.join(missing)} images)" if missing else ""
        channels, height, width = self.image_shape
        counts = [count for count in self.class_counts if count]
        empty = tuple(name for name, count in zip(self.class_names, self.class_counts, strict=True) if not count)
        per_class = f"{min(counts)} to {max(counts)}" if min(counts) < max(counts) else str(min(counts))
        notice = f", {len(empty)} of them without training images ({_few(empty)})" if empty else ""
        statistics = [", ".join(f"{value:.3f}" for value in values) for values in (self.mean, self.deviation)]
        color = "gray" if channels == 1 else "RGB"
        return [
            f"data: {sizes}; {height}x{width} pixels, {color}{', streamed' if self.is_streamed else ''}",
            f"classes: {len(self.class_names)}{notice} ({_few(self.class_names)}); {per_class} training images each",
            f"pixels: mean {statistics[0]} and deviation {statistics[1]} of white ({self.white:g})",
            f"augmentation: {self.augmentation}",
            *self.notes,
            *([f"left out images that cannot be read: {len(self.unreadable)}"] if self.unreadable else []),
        ]


def report_from(values: Mapping[str, Any]) -> DataReport:
    """Return the report that was recorded as JSON.

    Args:
        values: The recorded object, field by field.
    """
    return from_dict(DataReport, values, "info.data.")


def augmentation_text(config: DataConfig) -> str:
    """Return a description of the augmentation that the configuration sets."""
    crop = (
        f"random crops of images padded by {config.padding} pixel{'s' * (config.padding != 1)}"
        if config.padding
        else ""
    )
    return {
        "none": "none",
        "crop": crop or "none",
        "crop_flip": " and ".join(part for part in (crop, "random mirror images") if part),
        "imagenet": "random resized crops and random mirror images",
    }[config.augmentation]


def counts_of(labels: np.ndarray, num_classes: int) -> tuple[int, ...]:
    """Return the number of images of each class.

    Args:
        labels: Label of each image, shape (images,).
        num_classes: Number of classes.
    """
    return tuple(int(count) for count in np.bincount(labels, minlength=num_classes))


def _few(names: tuple[str, ...]) -> str:
    shown = [name.encode(errors="backslashreplace").decode().replace("\n", "\\n") for name in names]
    return ", ".join(shown if len(shown) <= 12 else [*shown[:10], "...", shown[-1]])
