"""Derive seeds from a tree with one root, a branch for each network and a leaf for each use.

Equal inputs give equal seeds.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Use = Literal["weights", "order", "augmentation", "training", "exchange", "hyperparameters"]

_LEAVES: dict[Use, int] = {
    "weights": 0,
    "order": 1,
    "augmentation": 2,
    "training": 3,
    "exchange": 4,
    "hyperparameters": 5,
}


def derive_seed(root: int, network_id: int, use: Use) -> int:
    """Return the seed of one network for one use.

    Args:
        root: The run's seed, at least 0.
        network_id: The network's id, at least 0.
        use: Purpose of the seed: initial weights, data order, augmentation, torch's random state in training, random
            numbers of an exchange, or the numbers that a network draws from the configuration's distributions.

    Returns:
        An integer in [0, 2**63).
    """
    sequence = np.random.SeedSequence(entropy=root, spawn_key=(network_id, _LEAVES[use]))
    return int(sequence.generate_state(1, np.uint64)[0]) >> 1


def generator(root: int, network_id: int, use: Use, *, counter: int) -> np.random.Generator:
    """Return a random generator for one network and one use, independent for each value of a counter.

    Args:
        root: The run's seed, at least 0.
        network_id: The network's id, at least 0.
        use: Purpose of the random numbers.
        counter: Number of the repetition, such as the interval, at least 0.
    """
    return np.random.Generator(np.random.Philox(key=derive_seed(root, network_id, use), counter=[0, 0, 0, counter]))


class RandomState(contextlib.AbstractContextManager["RandomState"]):
    """A private random state of torch, as a context manager.

    On entry it replaces torch's global state. On exit it is saved, and the global state is restored.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        """Create the state without changing the global one.

        Args:
            seed: Seed of the state.
            device: Device whose generator belongs to the state, besides the CPU's.
        """
        self._device = device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            self._own = self._current()
        self._others: dict[str, Tensor] | None = None

    def __enter__(self) -> RandomState:
        self._others = self._current()
        self._set(self._own)
        return self

    def __exit__(self, *exception: object) -> None:
        self._own = self._current()
        if self._others is not None:
            self._set(self._others)

    def tensors(self) -> dict[str, Tensor]:
        """Return copies of the generators' states for a checkpoint."""
        return {name: state.clone() for name, state in self._own.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the state from a checkpoint.

        Args:
            tensors: Tensors of the checkpoint. A generator that the checkpoint lacks, because it was saved on another
                kind of device, keeps its state.
        """
        self._own |= {name: tensors[name] for name in self._own if name in tensors}

    def _current(self) -> dict[str, Tensor]:
        states = {"random.cpu": torch.get_rng_state()}
        if self._device.type == "cuda":
            states["random.cuda"] = torch.cuda.get_rng_state(self._device)
        return states

    def _set(self, states: Mapping[str, Tensor]) -> None:
        torch.set_rng_state(states["random.cpu"])
        if "random.cuda" in states:
            torch.cuda.set_rng_state(states["random.cuda"], self._device)
