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
CountLoop = Callable[[np.ndarray, np.ndarray], np.ndarray]


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
    """Return whether a blend by the extension has the same bits as one by torch."""
    values = torch.linspace(-1.0, 1.0, 1003).square().sin()
    own, scion, past = values.clone(), values.flip(0) * 1.1, values * 0.9
    expected = own + 0.0
    expected.add_(scion - past, alpha=1.0 - 0.3)
    extension.blend(own.data_ptr(), scion.data_ptr(), past.data_ptr(), (), 0, 0.3, 1.0 - 0.3, own.numel())
    return torch.equal(own, expected)


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


def _count_above(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    edges, counts = np.ascontiguousarray(edges, dtype=np.float32), np.zeros(len(edges), dtype=np.int64)
    _EXTENSION.count_above(values.ctypes.data, values.size, edges.ctypes.data, len(edges), counts.ctypes.data)
    return counts


_EXTENSION = _load()

blend: BlendLoop | None = _blend if _EXTENSION is not None else None
"""Blend flat float32 tensors: own, scion, past, moved, noted, alpha, as in `blending.Blend`. None: not available."""

count_above: CountLoop | None = _count_above if _EXTENSION is not None else None
"""Count contiguous float32 values at or above each edge. Returns int64 counts. None: not available."""


def path_taken() -> str:
    """Return which code grafts on the CPU: `compiled` or `torch`."""
    return "torch" if _EXTENSION is None else "compiled"
