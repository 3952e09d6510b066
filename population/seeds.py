"""The seed tree: one root, a branch for each network, a leaf for each use. Equal inputs give equal seeds."""

from __future__ import annotations

from typing import Literal

import numpy as np

Use = Literal["weights", "order", "augmentation", "training", "exchange"]

_LEAVES: dict[Use, int] = {"weights": 0, "order": 1, "augmentation": 2, "training": 3, "exchange": 4}


def leaf(root: int, network: int, use: Use) -> int:
    """The seed of one network for one use: initial weights, data order, augmentation, torch's
    state in training, or what an exchange draws.

    Args:
        root: The run's seed, at least 0.
        network: The network's id.
        use: What it is for.

    Returns:
        An integer in [0, 2**63).
    """
    sequence = np.random.SeedSequence(entropy=root, spawn_key=(network, _LEAVES[use]))
    return int(sequence.generate_state(1, np.uint64)[0] >> 1)


def generator(root: int, network: int, use: Use, *, counter: int) -> np.random.Generator:
    """Random numbers of one network for one use, anew for each value of a counter."""
    return np.random.Generator(np.random.Philox(key=leaf(root, network, use), counter=[0, 0, 0, counter]))
