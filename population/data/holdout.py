"""Hold training images out for validation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from inarch.population.errors import DataError


def held_out(labels: np.ndarray, fraction: float, *, seed: int) -> np.ndarray:
    """Choose images to hold out: the same fraction of each class, and exactly that fraction of all.

    Each class that has two images or more gives at least one where the number in all allows it, and keeps at least one.

    Args:
        labels: Shape (images,).
        fraction: Of all images, in [0, 0.5].
        seed: Decides which.

    Returns:
        Booleans, shape (images,).

    Raises:
        DataError: a fraction above 0 leaves training or validation empty.
    """
    random = np.random.default_rng([seed, 0x5EED])
    held = np.zeros(len(labels), dtype=bool)
    present, counts = np.unique(labels, return_counts=True)
    for label, quota in zip(present, _quotas(counts, fraction), strict=True):
        places = np.flatnonzero(labels == label)
        held[random.permutation(places)[:quota]] = True
    if fraction and (not held.any() or held.all()):
        raise DataError(f"data.validation {fraction} of {len(labels)} training images leaves one side empty")
    return held


def _quotas(counts: np.ndarray, fraction: float) -> np.ndarray:
    """Return how many images each class gives: its fraction rounded, then adjusted until the sum is right."""
    exact = fraction * counts
    least, most = np.minimum(counts - 1, 1), counts - 1
    if not fraction:
        return np.zeros_like(counts)
    total = round(fraction * int(counts.sum()))
    quotas = np.clip(np.rint(exact).astype(np.int64), least, most)
    while quotas.sum() > total:
        can_give = quotas > least
        bound = can_give if can_give.any() else quotas > 0
        quotas[np.argmax(np.where(bound, quotas - exact, -np.inf))] -= 1
    while quotas.sum() < total and (quotas < most).any():
        quotas[np.argmax(np.where(quotas < most, exact - quotas, -np.inf))] += 1
    return quotas


def holdout_notes(labels: np.ndarray, held: np.ndarray, class_names: Sequence[str]) -> list[str]:
    """Return a warning about classes that the validation images lack."""
    present, counts = np.unique(labels, return_counts=True)
    missing = np.setdiff1d(present, labels[held])
    if not held.any() or not len(missing):
        return []
    alone = sum(int(count) == 1 for label, count in zip(present, counts, strict=True) if label in missing)
    shown = ", ".join(repr(class_names[label]) for label in missing[:3]) + (", ..." if len(missing) > 3 else "")
    why = f", {alone} of which have a single image" if alone else ""
    return [
        f"warning: the {int(held.sum())} validation images lack {len(missing)} of {len(present)} classes ({shown}){why}"
    ]
