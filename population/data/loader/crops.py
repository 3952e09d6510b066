"""Resize, crop and mirror single 8-bit images. Random choices are functions of seed, epoch and image number."""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from inarch.population.config import ImageSize, height_and_width
from inarch.population.data.reading.decoding import margin

AREA = (0.08, 1.0)
"""Least and greatest share of an image's area in a random resized crop."""

ASPECT = (3 / 4, 4 / 3)
"""Least and greatest width of a random resized crop, divided by its height."""

ATTEMPTS = 10
"""Crops that are drawn until one lies within the image. After that, the largest central crop is taken."""

STORED_ASPECT = 4 / 3
"""Width divided by height of an image that is stored with its shorter side at the margin's size."""


@dataclass(frozen=True, kw_only=True)
class DecodingSpec:
    """How encoded images are decoded and cropped."""

    image_size: ImageSize
    """Pixels a side, or height and width, as in data.image_size."""
    channels: int = 3
    """1 (gray) or 3 (RGB)."""
    has_margin: bool
    """Whether to crop as usual for ImageNet: training crops of random size and shape, and evaluation crops with a
    margin."""


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """The random changes of one training pass."""

    seed: int
    """Seed of the network's augmentation."""
    epoch: int
    """Number of the pass, from 0."""
    padding: int
    """Greatest shift of a random crop, in pixels. 0: no shift."""
    mirror: bool
    """Whether to mirror each image with probability 0.5."""


def evaluation_picture(picture: np.ndarray, spec: DecodingSpec) -> np.ndarray:
    """Resize a picture without random choices. No value differs by more than 1 from Pillow's resizing.

    Args:
        picture: Pixels, uint8, shape (height, width, channels).
        spec: Size and margin.

    Returns:
        Pixels, uint8, shape (channels, height, width).
    """
    size = spec.image_size
    if not isinstance(size, int):
        return _scaled(picture, *size)
    height, width = picture.shape[:2]
    if not spec.has_margin and (height, width) == (size, size):
        return _scaled(picture, size, size)
    shorter, target = min(height, width), margin(size) if spec.has_margin else size
    scaled = _scaled(picture, int(target * height / shorter), int(target * width / shorter))
    if spec.has_margin:  # Pillow's way crops twice, and rounds twice
        scaled = _center(scaled, target)
    return _center(scaled, size)


def stored_area(spec: DecodingSpec) -> int:
    """Return the most pixels of a stored training image, before crops of random size.

    Args:
        spec: Size of the crops.
    """
    height, width = (margin(side) for side in height_and_width(spec.image_size))
    return int(height * width * STORED_ASPECT)


def stored_picture(picture: np.ndarray, spec: DecodingSpec) -> np.ndarray:
    """Shrink a picture, in its own shape, to the area that is stored. Smaller pictures are not changed.

    Args:
        picture: Pixels, uint8, shape (height, width, channels).
        spec: Size of the crops that will be taken from it.
    """
    height, width = picture.shape[:2]
    factor = math.sqrt(stored_area(spec) / (height * width))
    if factor >= 1.0:
        return picture
    scaled = _scaled(picture, max(1, int(height * factor)), max(1, int(width * factor)))
    return np.ascontiguousarray(scaled.transpose(1, 2, 0))


def random_resized_crop(
    picture: np.ndarray, spec: DecodingSpec, augmentation: Augmentation, *, number: int
) -> np.ndarray:
    """Cut a crop of random size, shape and place out of a picture, resize it, and mirror it at random.

    Args:
        picture: Pixels, uint8, shape (height, width, channels).
        spec: Size of the result.
        augmentation: The random changes.
        number: Number of the image in its data set.

    Returns:
        Pixels, uint8, shape (channels, height, width).
    """
    height, width = picture.shape[:2]
    for attempt in range(ATTEMPTS):
        is_mirrored, *draws = _uniform(augmentation, number, attempt)
        box = _crop(height, width, draws)
        if box is not None:
            break
    else:
        is_mirrored, box = _uniform(augmentation, number, 0)[0], _central_crop(height, width)
    top, left, rows, columns = box
    crop = _scaled(picture[top : top + rows, left : left + columns], *height_and_width(spec.image_size))
    return _mirrored(crop) if augmentation.mirror and is_mirrored < 0.5 else crop


def random_shift(picture: np.ndarray, augmentation: Augmentation, *, number: int) -> np.ndarray:
    """Shift a picture at random, with zeros beyond its edges, and mirror it at random.

    Args:
        picture: Pixels, uint8, shape (channels, height, width).
        augmentation: The random changes.
        number: Number of the image in its data set.

    Returns:
        Pixels, uint8, shape (channels, height, width).
    """
    padding = augmentation.padding
    if not padding and not augmentation.mirror:
        return picture
    is_mirrored, vertical, horizontal, *_ = _uniform(augmentation, number, 0)
    if padding:
        height, width = picture.shape[1:]
        top, left = (int(draw * (2 * padding + 1)) for draw in (vertical, horizontal))
        padded = np.pad(picture, ((0, 0), (padding, padding), (padding, padding)))
        picture = padded[:, top : top + height, left : left + width]
    if augmentation.mirror and is_mirrored < 0.5:
        return _mirrored(picture)
    return np.ascontiguousarray(picture)


def _uniform(augmentation: Augmentation, number: int, attempt: int) -> tuple[float, ...]:
    """Return five numbers in [0, 1) for an image of a pass.

    A hash takes 2 us, a new generator of NumPy 10 us and more.
    """
    key = struct.pack("<16sqqq", augmentation.seed.to_bytes(16, "little"), augmentation.epoch, number, attempt)
    return tuple(
        (word >> 11) * 2.0**-53 for word in struct.unpack("<5Q", hashlib.blake2b(key, digest_size=40).digest())
    )


def _crop(height: int, width: int, draws: Sequence[float]) -> tuple[int, int, int, int] | None:
    """Return top, left, height and width of a random crop. None: it does not fit.

    Args:
        height: Rows of the picture.
        width: Columns of the picture.
        draws: Uniform numbers for area, aspect, top and left.
    """
    area, aspect, vertical, horizontal = draws
    crop_area = height * width * (AREA[0] + area * (AREA[1] - AREA[0]))
    ratio = ASPECT[0] * (ASPECT[1] / ASPECT[0]) ** aspect
    crop_height, crop_width = round(math.sqrt(crop_area / ratio)), round(math.sqrt(crop_area * ratio))
    if not (1 <= crop_height <= height and 1 <= crop_width <= width):
        return None
    top, left = int(vertical * (height - crop_height + 1)), int(horizontal * (width - crop_width + 1))
    return top, left, crop_height, crop_width


def _central_crop(height: int, width: int) -> tuple[int, int, int, int]:
    """Return the largest central crop of an allowed shape, as `_crop` does."""
    crop_height = min(height, max(1, round(width / ASPECT[0])))
    crop_width = min(width, max(1, round(height * ASPECT[1])))
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


def _scaled(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize a picture (height, width, channels), with antialiasing, to shape (channels, height, width)."""
    if picture.shape[:2] == (height, width):
        return np.ascontiguousarray(picture.transpose(2, 0, 1))
    image = torch.from_numpy(picture).permute(2, 0, 1)[None]
    return F.interpolate(image, size=(height, width), mode="bilinear", antialias=True)[0].contiguous().numpy()


def _center(picture: np.ndarray, size: int) -> np.ndarray:
    """Return the central square of a picture (channels, height, width), placed as `decoding.center` places it."""
    top, left = (round((side - size) / 2) for side in picture.shape[1:])
    return np.ascontiguousarray(picture[:, top : top + size, left : left + size])


def _mirrored(picture: np.ndarray) -> np.ndarray:
    return torch.from_numpy(picture).flip(2).numpy()  # six times as fast as NumPy's copy with a negative stride
