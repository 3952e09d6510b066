"""Mix and erase batches of training images at random: mixup, CutMix and random erasing.

The random choices are a pure function of the network's augmentation seed, the epoch and the step. They are drawn on the
CPU, so that no step waits for a GPU. With the same choices, the transforms of `torchvision.transforms.v2` give the same
images and labels up to rounding. They are not used, because they draw from torch's global generator. They also run
after normalization, where they reach half of the plain pipeline's speed on a CPU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from inarch.population.config import RegularizationConfig
from inarch.population.config.per_network import number
from inarch.population.data.augmentation import normalize

ERASED_SHARE = (0.02, 0.33)
"""Least and greatest share of an image that a rectangle erases, as in the paper and in torchvision."""

ASPECT_RATIO = (0.3, 3.3)
"""Least and greatest ratio of a rectangle's height to its width, as in torchvision."""

TRIES = 10
"""Rectangles that are tried for an image until one fits, as in torchvision. An image that none fits stays whole."""

MIXTURES, RECTANGLES = 1, 2
"""Words of the random generators' counters. They separate these choices from each other and from those of crops (0)."""


@dataclass(frozen=True, kw_only=True)
class Regularization:
    """How one network's training batches are mixed and erased."""

    config: RegularizationConfig
    """Strengths of the network. At least one is above 0."""
    num_classes: int
    """Number of classes, for the labels of mixed images."""
    seed: int
    """Key of the random generators."""


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """How each image of a batch is mixed with the image before it. The first is mixed with the last."""

    share: float
    """Share that an image's own label keeps, in [0, 1]. With mixup, its pixels have the same share, at least 0.5."""
    box: tuple[int, int, int, int] | None
    """CutMix: rectangle that the image before fills: top, left, bottom, right. Mixup: None."""


class Regularizer:
    """Mixes and erases the batches of one pass over the training images."""

    def __init__(
        self, regularization: Regularization, *, epoch: int, steps: int, device: torch.device | str = "cpu"
    ) -> None:
        """Draw how the batches are mixed.

        Args:
            regularization: Strengths and seed.
            epoch: Number of the pass, from 0.
            steps: Batches of the pass.
            device: Device of the batches.
        """
        self._config, self._seed = regularization.config, regularization.seed
        self._first_step = epoch * steps
        self._mixtures = MixtureDraws(self._config, epoch=epoch, steps=steps, seed=self._seed)
        self._num_classes = regularization.num_classes

    def finish(
        self, pixels: Tensor, labels: Tensor, *, mean: Tensor, deviation: Tensor, index: int
    ) -> tuple[Tensor, Tensor]:
        """Mix a batch, normalize it, then erase rectangles.

        Args:
            pixels: Images of any type, shape (batch, channels, height, width). CutMix changes them.
            labels: Classes of the images, int64, shape (batch,). Only read.
            mean: Mean of each channel, shape (channels,).
            deviation: Standard deviation of each channel, shape (channels,).
            index: Number of the batch in the pass, from 0.

        Returns:
            Normalized images, float32, and labels. The labels of a mixed batch are shares of the classes, float32,
            shape (batch, classes). Those of another batch are `labels`.
        """
        height, width = pixels.shape[-2:]
        mixture = self._mixtures.mixture(index, height=height, width=width)
        if mixture is not None and mixture.box is None:
            images = normalized_mixup(pixels, mean, deviation, share=mixture.share)
        else:
            if mixture is not None and mixture.box is not None:
                paste_previous(pixels, mixture.box)
            images = normalize(pixels, mean, deviation)
        if number(self._config.erasing):
            step = self._first_step + index
            shape = len(images), height, width
            erase(images, draw_rectangles(shape, chance=number(self._config.erasing), seed=self._seed, step=step))
        if mixture is None:
            return images, labels
        rows = torch.zeros(len(labels), self._num_classes, device=labels.device)
        return images, mixed_labels(rows.scatter_(1, labels.unsqueeze(1), 1.0), share=mixture.share)


class MixtureDraws:
    """How the batches of one pass are mixed. Drawing them together takes less time than one generator for each."""

    def __init__(self, config: RegularizationConfig, *, epoch: int, steps: int, seed: int) -> None:
        """Draw the choices.

        Args:
            config: Strengths of mixup and CutMix, and their chances.
            epoch: Number of the pass, from 0.
            steps: Batches of the pass.
            seed: Key of the random generator.

        Source: Zhang et al. 2018 (arXiv:1710.09412), mixup. Yun et al. 2019 (arXiv:1905.04899), CutMix.
        """
        self._is_mixed = np.zeros(steps, dtype=bool)
        if not config.mixes:
            return
        random = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, MIXTURES, epoch]))
        self._is_mixed = random.random(steps) < number(config.mix_probability)
        self._is_cutmix = random.random(steps) < config.cutmix_chance
        self._centers = random.random((2, steps))
        strengths = np.where(self._is_cutmix, number(config.cutmix), number(config.mixup))
        self._shares = random.beta(strengths, strengths)

    def mixture(self, index: int, *, height: int, width: int) -> Mixture | None:
        """Return how a batch is mixed, or None if it is not.

        Args:
            index: Number of the batch in the pass, from 0.
            height: Rows of an image.
            width: Columns of an image.
        """
        if not self._is_mixed[index]:
            return None
        share = float(self._shares[index])
        if not self._is_cutmix[index]:
            # The other share would give the same mixtures, with each label at the other of its two images.
            return Mixture(share=max(share, 1.0 - share), box=None)
        half = 0.5 * math.sqrt(1.0 - share)
        (top, bottom), (left, right) = (
            _side(int(center * size), int(half * size), size)
            for center, size in zip(self._centers[:, index].tolist(), (height, width), strict=True)
        )
        covered = (bottom - top) * (right - left) / (height * width)
        return Mixture(share=1.0 - covered, box=(top, left, bottom, right))


def _side(center: int, half: int, size: int) -> tuple[int, int]:
    """Return the first row of a rectangle and the first after it, or the columns, within the image."""
    return max(center - half, 0), min(center + half, size)


def draw_rectangles(shape: tuple[int, int, int], *, chance: float, seed: int, step: int) -> np.ndarray:
    """Return the rectangle that is erased in each image of a step's batch.

    Args:
        shape: Images in the batch, and their height and width.
        chance: Probability that an image loses a rectangle, in [0, 1].
        seed: Key of the random generator.
        step: Training step, at least 0.

    Returns:
        Rows top, left, bottom and right, shape (4, batch), int64. They are 0 for an image that stays whole.

    Source: Zhong et al. 2020 (arXiv:1708.04896).
    """
    num_images, height, width = shape
    random = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, RECTANGLES, step]))
    drawn = np.flatnonzero(random.random(num_images) < chance)
    areas = height * width * random.uniform(*ERASED_SHARE, (TRIES, len(drawn)))
    least, greatest = (math.log(ratio) for ratio in ASPECT_RATIO)
    ratios = np.exp(random.uniform(least, greatest, (TRIES, len(drawn))))
    sides = np.rint(np.sqrt(np.stack([areas * ratios, areas / ratios])))
    limits = np.array([height, width])[:, None]
    fits = (sides < limits[:, None]).all(axis=0)
    sides = sides[:, fits.argmax(axis=0), np.arange(len(drawn))]
    corners = np.floor(random.random((2, len(drawn))) * (limits - sides + 1))
    rectangles = np.zeros((4, num_images), dtype=np.int64)
    rectangles[:, drawn] = np.concatenate([corners, corners + sides]) * fits.any(axis=0)
    return rectangles


def paste_previous(images: Tensor, box: tuple[int, int, int, int]) -> None:
    """Fill a rectangle of each image with that of the image before it, in place.

    Args:
        images: Shape (batch, channels, height, width).
        box: Top, left, bottom and right of the rectangle.
    """
    top, left, bottom, right = box
    if images.device.type == "cpu":  # numpy copies short rows in half of torch's time
        pixels = images.numpy()
        before = pixels.copy()[..., top:bottom, left:right]
        pixels[1:, :, top:bottom, left:right] = before[:-1]
        pixels[0, :, top:bottom, left:right] = before[-1]
        return
    pasted = images[..., top:bottom, left:right]
    pasted.copy_(pasted.roll(1, 0))


def normalized_mixup(images: Tensor, mean: Tensor, deviation: Tensor, *, share: float) -> Tensor:
    """Return `normalize` of the sum of share times each image, and 1 - share times the image before it.

    Args:
        images: Images of any type, shape (batch, channels, height, width). Only read.
        mean: Mean of each channel, shape (channels,).
        deviation: Standard deviation of each channel, shape (channels,).
        share: Share of each image, in [0.5, 1].

    Returns:
        float32, of the shape of `images`.
    """
    mixed = images.to(torch.float32, copy=True)
    previous = images[:-1].to(torch.float32)  # faster than a copy of `mixed`, which may have four times the bytes
    # The share comes with the scale below, because a sum takes less time than an interpolation.
    weight = (1.0 - share) / share
    mixed[0].add_(mixed[-1], alpha=weight)
    mixed[1:].add_(previous, alpha=weight)
    scale = 1.0 / deviation
    return mixed.mul_((share * scale)[:, None, None]).sub_((mean * scale)[:, None, None])


def mixed_labels(own: Tensor, *, share: float) -> Tensor:
    """Return the classes' shares of images that are mixed with the image before them.

    Args:
        own: Classes' shares of the images, float32, shape (batch, classes). Only read.
        share: Share of each image, in [0, 1].

    Returns:
        float32, shape (batch, classes). Each row adds up to 1.
    """
    return own.roll(1, 0).lerp_(own, share)


def erase(images: Tensor, rectangles: np.ndarray) -> None:
    """Set a rectangle of each image to 0, which is the mean after normalization, in place.

    Args:
        images: Shape (batch, channels, height, width).
        rectangles: As from `draw_rectangles`.
    """
    if images.device.type == "cpu":
        pixels = images.numpy()
        for index in np.flatnonzero(rectangles[2]).tolist():
            top, left, bottom, right = rectangles[:, index].tolist()
            pixels[index, :, top:bottom, left:right] = 0
        return
    erase_on_device(images, torch.from_numpy(rectangles).pin_memory().to(images.device, non_blocking=True))


def erase_on_device(images: Tensor, rectangles: Tensor) -> None:
    """Erase rectangles of a batch on its device, in place, with the result of `erase`.

    Args:
        images: Shape (batch, channels, height, width).
        rectangles: As from `draw_rectangles`, int64, on the same device.
    """
    top, left, bottom, right = rectangles[:, :, None]
    rows, columns = (torch.arange(size, device=images.device) for size in images.shape[-2:])
    in_rows, in_columns = (rows >= top) & (rows < bottom), (columns >= left) & (columns < right)
    images.masked_fill_((in_rows[:, :, None] & in_columns[:, None, :])[:, None], 0.0)
