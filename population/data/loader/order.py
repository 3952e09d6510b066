"""The order of streamed images: shuffled within a window, so that each Parquet row group is read once."""

from __future__ import annotations

import numpy as np

WINDOWS_INSPECTED = 32
"""Windows whose labels are compared with the labels of all images."""

TOLERANCE = 0.2
"""Distance between the labels of a window and of all images, beyond that of a random choice, that is reported."""


def shuffled_order(groups: np.ndarray | None, num_images: int, *, window: int, seed: int, epoch: int) -> np.ndarray:
    """Return the images in the order of a training pass.

    Without groups, every order is equally likely. With groups, these are shuffled first, and then each image moves by
    up to `window` places. At most `window` images and one group are then in memory, if groups are read when they are
    first needed and images are dropped when they were used.

    Args:
        groups: Group of each image, shape (images,). None: each image is read alone.
        num_images: Number of images.
        window: Images that are shuffled together, at least 1.
        seed: Seed of the network's order.
        epoch: Number of the pass, from 0.

    Returns:
        Each number from 0 to num_images - 1 once, int64.
    """
    random = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 0, epoch]))
    if groups is None or window >= num_images:
        return random.permutation(num_images)
    sequence = _group_by_group(groups, random)
    earliest = np.maximum(np.arange(num_images) - window, 0)
    return sequence[np.argsort(earliest + random.random(num_images) * window, kind="stable")]


def _group_by_group(groups: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return the images group by group. The groups are in random order."""
    present, places = np.unique(groups, return_inverse=True)
    return np.argsort(random.permutation(len(present))[places], kind="stable")


def window_notes(labels: np.ndarray, groups: np.ndarray | None, *, window: int) -> list[str]:
    """Return a warning if the images of a window have other classes than all images, as in files ordered by class.

    Args:
        labels: Label of each training image, shape (images,).
        groups: Group of each image, shape (images,). None: each image is read alone.
        window: Images that are shuffled together.
    """
    if groups is None or window >= len(labels):
        return []
    sequence = labels[_group_by_group(groups, np.random.default_rng(0))]
    shares = np.bincount(sequence) / len(sequence)
    starts = np.linspace(0, len(sequence) - window, WINDOWS_INSPECTED).astype(np.int64)
    counts = [np.bincount(sequence[start : start + window], minlength=len(shares)) for start in starts]
    distance = np.mean([np.abs(count / window - shares).sum() / 2 for count in counts])
    # Mean absolute deviation of a binomial share, in its normal approximation.
    expected = np.sqrt(2 * shares * (1 - shares) / (np.pi * window)).sum() / 2
    if distance <= expected + TOLERANCE:
        return []
    held = round(float(np.median([np.count_nonzero(count) for count in counts])))
    return [
        f"warning: the training files are ordered by class: {window:,} images that are shuffled together have "
        f"{held:,} of {np.count_nonzero(shares):,} classes; shuffle the rows of the files once, or raise "
        "data.shuffle_window"
    ]
