"""Random crops and mirrors of whole batches, on the CPU and on a device, from the same draws."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Draws:
    """One batch's random choices."""

    top: np.ndarray
    """Shape (batch,): first row of each crop in the padded image."""
    left: np.ndarray
    """Shape (batch,): first column."""
    mirrored: np.ndarray
    """Shape (batch,): booleans."""


def draw(num_images: int, *, padding: int, mirror: bool, seed: int, step: int) -> Draws:
    """The choices for one step: a pure function of seed and step, so that a resumed network draws the same."""
    random = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 0, step]))
    top, left = random.integers(0, 2 * padding + 1, (2, num_images))
    mirrored = random.random(num_images) < 0.5 if mirror else np.zeros(num_images, dtype=bool)
    return Draws(top=top, left=left, mirrored=mirrored)


def crop_flip(images: np.ndarray, indices: np.ndarray, draws: Draws, *, padding: int) -> np.ndarray:
    """Gather images, pad them with zeros, crop and mirror; on the CPU.

    Args:
        images: Shape (images, channels, height, width); only read.
        indices: Shape (batch,).
        draws: One choice for each of the batch.
        padding: As the draws were made with.

    Returns:
        Shape (batch, channels, height, width), in the order of `indices`.
    """
    if padding == 0 and not draws.mirrored.any():
        return images[indices]
    batch, (channels, height, width) = len(indices), images.shape[1:]
    padded = np.zeros((batch, channels, height + 2 * padding, width + 2 * padding), dtype=images.dtype)
    padded[:, :, padding : padding + height, padding : padding + width] = images[indices]
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(2, 3))
    out = np.empty((batch, channels, height, width), dtype=images.dtype)
    plain = np.flatnonzero(~draws.mirrored)
    turned = np.flatnonzero(draws.mirrored)
    out[plain] = windows[plain, :, draws.top[plain], draws.left[plain]]
    out[turned] = windows[turned, :, draws.top[turned], draws.left[turned], :, ::-1]
    return out


def crop_flip_on_device(images: Tensor, draws: Draws, *, padding: int) -> Tensor:
    """The same for a batch (batch, channels, height, width) that lies on a device already."""
    batch, _, height, width = images.shape
    padded = torch.nn.functional.pad(images, (padding, padding, padding, padding))
    top = torch.from_numpy(draws.top).to(images.device, non_blocking=True)
    left = torch.from_numpy(draws.left).to(images.device, non_blocking=True)
    mirrored = torch.from_numpy(draws.mirrored).to(images.device, non_blocking=True)
    rows = top[:, None] + torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device).expand(batch, width)
    columns = left[:, None] + torch.where(mirrored[:, None], width - 1 - columns, columns)
    place = torch.arange(batch, device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[place, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def normalize(images: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """(images - mean) / deviation for each channel, float32; images (batch, channels, height, width) of any type."""
    scale = 1.0 / deviation
    return images.to(torch.float32, copy=True).mul_(scale[:, None, None]).sub_((mean * scale)[:, None, None])
