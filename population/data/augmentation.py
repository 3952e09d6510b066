"""Crop and mirror whole batches at random. CPU and device give the same images for the same draws."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Draws:
    """The random choices for one batch."""

    top: np.ndarray
    """First row of each crop in the padded image, shape (batch,)."""
    left: np.ndarray
    """First column of each crop in the padded image, shape (batch,)."""
    mirrored: np.ndarray
    """Whether each image is mirrored. Booleans, shape (batch,)."""


def draw(num_images: int, *, padding: int, mirror: bool, seed: int, step: int) -> Draws:
    """Return the random choices for one step.

    They are a pure function of the arguments, so that a resumed network repeats them.

    Args:
        num_images: Images in the batch.
        padding: Zero pixels on each side of an image, at least 0. Crops start at 0 to 2 * padding.
        mirror: Whether to mirror each image with probability 0.5.
        seed: Key of the random generator.
        step: Training step, at least 0.
    """
    random = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 0, step]))
    top, left = random.integers(0, 2 * padding + 1, (2, num_images))
    mirrored = random.random(num_images) < 0.5 if mirror else np.zeros(num_images, dtype=bool)
    return Draws(top=top, left=left, mirrored=mirrored)


def crop_flip(images: np.ndarray, indices: np.ndarray, draws: Draws, *, padding: int) -> np.ndarray:
    """Gather images, pad them with zeros, crop and mirror them on the CPU.

    Args:
        images: All images, shape (images, channels, height, width). Only read.
        indices: Images of the batch, shape (batch,).
        draws: Random choices, one for each image of the batch.
        padding: Padding from which the draws were made, in pixels.

    Returns:
        A copy, shape (batch, channels, height, width), in the order of `indices`.
    """
    if padding == 0 and not draws.mirrored.any():
        return images[indices]
    batch, (channels, height, width) = len(indices), images.shape[1:]
    padded = np.zeros((batch, channels, height + 2 * padding, width + 2 * padding), dtype=images.dtype)
    padded[:, :, padding : padding + height, padding : padding + width] = images[indices]
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(2, 3))
    out = np.empty((batch, channels, height, width), dtype=images.dtype)
    plain = np.flatnonzero(~draws.mirrored)
    flipped = np.flatnonzero(draws.mirrored)
    out[plain] = windows[plain, :, draws.top[plain], draws.left[plain]]
    out[flipped] = windows[flipped, :, draws.top[flipped], draws.left[flipped], :, ::-1]
    return out


def crop_flip_on_device(images: Tensor, draws: Tensor, *, padding: int) -> Tensor:
    """Pad a batch with zeros, crop and mirror it on its device.

    Args:
        images: Images of the batch, shape (batch, channels, height, width). Only read.
        draws: The random choices as rows top, left and mirrored, shape (3, batch), int64, on the same device.
        padding: Padding from which the draws were made, in pixels.

    Returns:
        Shape (batch, channels, height, width), equal to the result of `crop_flip`.
    """
    batch, _, height, width = images.shape
    padded = torch.nn.functional.pad(images, (padding, padding, padding, padding))
    top, left, mirrored = draws[0], draws[1], draws[2].bool()
    rows = top[:, None] + torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device).expand(batch, width)
    columns = left[:, None] + torch.where(mirrored[:, None], width - 1 - columns, columns)
    image_index = torch.arange(batch, device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[image_index, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def normalize(images: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """Return (images - mean) / deviation for each channel, as new float32 values.

    Args:
        images: Images of any type, shape (batch, channels, height, width). Only read.
        mean: Mean of each channel, shape (channels,).
        deviation: Standard deviation of each channel, shape (channels,).
    """
    scale = 1.0 / deviation
    return images.to(torch.float32, copy=True).mul_(scale[:, None, None]).sub_((mean * scale)[:, None, None])
