"""Report what was read. The report is printed before training, recorded in config.json, and used for prediction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from inarch.population.config import DataConfig, from_dict

Resize = Literal["none", "shorter side", "margin", "whole"]


@dataclass(frozen=True, kw_only=True)
class DataReport:
    """The data of a run: classes, sizes, pixels, and what was left out."""

    class_names: tuple[str, ...]
    """By label."""
    class_counts: tuple[int, ...]
    """Training images of each class, before validation images are held out."""
    sizes: dict[str, int]
    """Images of train, validation, test and query; parts that are not there are missing."""
    image_shape: tuple[int, int, int]
    """Channels, height and width that networks get."""
    mean: tuple[float, ...]
    """Of each channel, where white is 1: a pixel becomes (pixel / white - mean) / deviation."""
    deviation: tuple[float, ...]
    """Of each channel, where white is 1."""
    white: float
    """The value of a white pixel as it was read: 255 for 8-bit images, 1 or 255 for floats."""
    is_pixels: bool
    """Whether values are pixels between 0 and white; floats of another range are not."""
    resize: Resize
    """How an image gets its size. shorter side: that side is scaled and the center cut out. margin: the same, scaled to
    an eighth more. whole: height and width are scaled each by itself. none: images have the size already."""
    augmentation: str
    """Describe the augmentation of training images."""
    is_streamed: bool = False
    notes: tuple[str, ...] = ()
    """What was left out, and warnings."""
    unreadable: tuple[str, ...] = field(default=())
    """Images that could not be read and were left out, up to data.skip_unreadable."""

    def lines(self) -> list[str]:
        """The report as lines of text."""
        sizes = ", ".join(f"{count} {part}" for part, count in self.sizes.items())
        missing = [part for part in ("validation", "test") if part not in self.sizes]
        sizes += f" (no {' and no '.join(missing)} images)" if missing else ""
        channels, height, width = self.image_shape
        counts = [count for count in self.class_counts if count]
        empty = tuple(name for name, count in zip(self.class_names, self.class_counts, strict=True) if not count)
        each = f"{min(counts)} to {max(counts)}" if min(counts) < max(counts) else str(min(counts))
        present = f", {len(empty)} of them without training images ({_few(empty)})" if empty else ""
        statistics = [", ".join(f"{value:.3f}" for value in values) for values in (self.mean, self.deviation)]
        color = "gray" if channels == 1 else "RGB"
        return [
            f"data: {sizes}; {height}x{width} pixels, {color}{', streamed' if self.is_streamed else ''}",
            f"classes: {len(self.class_names)}{present} ({_few(self.class_names)}); {each} training images each",
            f"pixels: mean {statistics[0]} and deviation {statistics[1]} of white ({self.white:g})",
            f"augmentation: {self.augmentation}",
            *self.notes,
            *([f"left out images that cannot be read: {len(self.unreadable)}"] if self.unreadable else []),
        ]


def report_from(values: Mapping[str, Any]) -> DataReport:
    """Restore a report from JSON's types."""
    return from_dict(DataReport, values, "facts.data.")


def augmentation_text(config: DataConfig) -> str:
    """Describe the augmentation of training images."""
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
    """Count the images of each class."""
    return tuple(int(count) for count in np.bincount(labels, minlength=num_classes))


def _few(names: tuple[str, ...]) -> str:
    shown = [name.encode(errors="backslashreplace").decode().replace("\n", "\\n") for name in names]
    return ", ".join(shown if len(shown) <= 12 else [*shown[:10], "...", shown[-1]])
