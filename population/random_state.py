"""A random state that a network keeps to itself and saves with its checkpoint."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import torch
from torch import Tensor


class RandomState(contextlib.AbstractContextManager):
    """A random state of its own: torch's global one is exchanged on entry and put back on exit."""

    def __init__(self, seed: int, device: torch.device) -> None:
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
        """For a checkpoint."""
        return {name: state.clone() for name, state in self._own.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """From a checkpoint; one made on another kind of device leaves this device's state."""
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
