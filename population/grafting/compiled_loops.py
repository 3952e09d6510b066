"""The compiled loops of a graft, if they were built and give the same bits here as torch does.

They are built when the package is installed where there is a C compiler. Without them grafts take twice as long.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

DISABLED = "INARCH_COMPILED_LOOPS"
"""Environment variable. `off`: the compiled loops are not used."""

MOST_MOVED = 16
"""Most tensors that follow a blend in one compiled call."""

BlendLoop = Callable[[Tensor, Tensor, Tensor | None, Sequence[Tensor], Tensor | None, float], None]
CountLoop = Callable[[Tensor, int], "np.ndarray | None"]


def _load() -> Any:
    """Return the extension, or None if it was not built, is disabled, or rounds otherwise than torch does."""
    if os.environ.get(DISABLED, "").lower() == "off":
        return None
    try:
        extension = importlib.import_module("inarch.population.grafting._loops")
    except ImportError:
        return None
    return extension if _equals_torch(extension) else None


def _equals_torch(extension: Any) -> bool:
    """Return whether blends by the extension, with and without a past, have the same bits as those by torch."""
    values = torch.linspace(-1.0, 1.0, 1003).square().sin()
    scion, past = values.flip(0) * 1.1, values * 0.9
    results = [values.add(scion - past, alpha=1.0 - 0.3), values * 0.3 + scion * (1.0 - 0.3)]
    for address, expected in zip((past.data_ptr(), 0), results, strict=True):
        own, moved = values.clone(), past.clone()
        noted = torch.empty_like(own)
        followers = ((moved.data_ptr(),), noted.data_ptr())
        extension.blend(own.data_ptr(), scion.data_ptr(), address, *followers, 0.3, 1.0 - 0.3, own.numel())
        is_equal = torch.equal(own, expected) and torch.equal(noted, own)
        if not (is_equal and torch.equal(moved, past + (expected - values))):
            return False
    return True


def _blend(
    own: Tensor, scion: Tensor, past: Tensor | None, moved: Sequence[Tensor], noted: Tensor | None, alpha: float
) -> None:
    if len(moved) > MOST_MOVED:
        raise ValueError(f"at most {MOST_MOVED} tensors can be moved, got {len(moved)}")
    _EXTENSION.blend(
        own.data_ptr(),
        scion.data_ptr(),
        past.data_ptr() if past is not None else 0,
        tuple(tensor.data_ptr() for tensor in moved),
        noted.data_ptr() if noted is not None else 0,
        alpha,
        1.0 - alpha,
        own.numel(),
    )


def _count(values: Tensor, bins: int) -> np.ndarray | None:
    above, extremes = np.zeros(bins + 1, dtype=np.int64), np.empty(2, dtype=np.float32)
    above[0] = values.numel()
    inner = above[1:].ctypes.data
    if not _EXTENSION.count(values.data_ptr(), values.numel(), bins, inner, extremes.ctypes.data):
        return None
    if extremes[0] == extremes[1]:
        above[1:] = 0  # a constant layer lies in one cell
    return above


_EXTENSION = _load()

blend: BlendLoop | None = _blend if _EXTENSION is not None else None
"""Blend float32 tensors: own, scion, past, moved, noted, alpha, as in `blending.Blend`. Their values must lie in one
order in memory, without gaps. None: not available."""

count: CountLoop | None = _count if _EXTENSION is not None else None
"""Count the float32 values of a tensor without gaps at or above each edge of 2 to 256 equal cells between the least and
the greatest. Returns int64 counts, the last of which is 0, or None if a value is not finite. None: not available."""

MOST_BINS = 256
"""Most cells that `count` takes."""


def path_taken() -> str:
    """Return which code grafts on the CPU: `compiled` or `torch`."""
    return "torch" if _EXTENSION is None else "compiled"
