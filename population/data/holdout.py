"""Hold training images out for validation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from inarch.population.errors import DataError


def held_out(labels: np.ndarray, fraction: float, *, seed: int) -> np.ndarray:
    """Choose the training images to hold out for validation.

    The fraction applies to each class. The total is exactly the fraction of all images, rounded. Each class with two
    or more images keeps at least one, and gives at least one if the total allows it.

    Args:
        labels: Label of each image, shape (images,).
        fraction: Share of the images to hold out, in [0, 0.5].
        seed: Seed of the choice.

    Returns:
        Whether each image is held out. Booleans, shape (images,).

    Raises:
        DataError: The fraction is above 0 and leaves no images for training or for validation.
    """
    random = np.random.default_rng([seed, 0x5EED])
    held = np.zeros(len(labels), dtype=bool)
    present, counts = np.unique(labels, return_counts=True)
    places = np.random.default_rng([seed, 0x71E5]).permutation(len(present))
    for label, quota in zip(present, _quotas(counts, fraction, places), strict=True):
        indices = np.flatnonzero(labels == label)
        held[random.permutation(indices)[:quota]] = True
    if fraction and (not held.any() or held.all()):
        raise DataError(
            f"data.validation={fraction}: this share of {len(labels)} training images leaves training or validation "
            "empty; change it, or set 0 to hold out no images"
        )
    return held


def _quotas(counts: np.ndarray, fraction: float, places: np.ndarray) -> np.ndarray:
    """Return the number of images that each class gives: its rounded fraction, adjusted until the total is right.

    If not every class can give an image, those with the lowest places give none.
    """
    exact = fraction * counts
    least, most = np.minimum(counts - 1, 1), counts - 1
    if not fraction:
        return np.zeros_like(counts)
    total = round(fraction * int(counts.sum()))
    quotas = np.clip(np.rint(exact).astype(np.int64), least, most)
    while quotas.sum() > total:
        can_give = quotas > least
        excess = np.where(can_give if can_give.any() else quotas > 0, quotas - exact, -np.inf)
        greatest = np.flatnonzero(excess == excess.max())
        quotas[greatest[0] if can_give.any() else greatest[np.argmin(places[greatest])]] -= 1
    while quotas.sum() < total and (quotas < most).any():
        quotas[np.argmax(np.where(quotas < most, exact - quotas, -np.inf))] += 1
    return quotas


def holdout_notes(labels: np.ndarray, held: np.ndarray, class_names: Sequence[str]) -> list[str]:
    """Return a warning about classes without validation images, or no notes if every class has some.

    Args:
        labels: Label of each training image, shape (images,).
        held: Whether each image is held out. Booleans, shape (images,).
        class_names: Names by label.
    """
    present, counts = np.unique(labels, return_counts=True)
    missing = np.setdiff1d(present, labels[held])
    if not held.any() or not len(missing):
        return []
    num_single = sum(int(count) == 1 for label, count in zip(present, counts, strict=True) if label in missing)
    shown = ", ".join(repr(class_names[label]) for label in missing[:3]) + (", ..." if len(missing) > 3 else "")
    reason = f", {num_single} of which have a single image" if num_single else ""
    return [
        f"warning: the {int(held.sum())} validation images lack {len(missing)} of {len(present)} classes "
        f"({shown}){reason}"
    ]
