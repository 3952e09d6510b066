"""Alpha: the share of its own weights that a layer of the rootstock keeps."""

from __future__ import annotations

import math
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

GRID = 2.0**40
"""Alpha lies on a grid of 2**-40, so that the alphas of two networks that graft each other add up to exactly 1."""


@overload
def adaptive_weight(own: float, scion: float, a: float = ..., c: float = ..., *, reference: bool = ...) -> float: ...


@overload
def adaptive_weight(own: Tensor, scion: Tensor, a: float = ..., c: float = ..., *, reference: bool = ...) -> Tensor: ...


@overload
def adaptive_weight(
    own: np.ndarray, scion: np.ndarray, a: float = ..., c: float = ..., *, reference: bool = ...
) -> np.ndarray: ...


def adaptive_weight(own: Any, scion: Any, a: float = 0.4, c: float = 500.0, *, reference: bool = False) -> Any:
    """Alpha, the part of its own weights that a layer keeps: 0.5 + (a / pi) arctan(c (own - scion)).

    Args:
        own: Information of the rootstock's layer; a float, or a tensor or array of them.
        scion: Information of the scion's layer, alike.
        a: Range in [0, 1]; alpha lies in [0.5 - a/2, 0.5 + a/2].
        c: Sharpness, at least 0.
        reference: As published, rounded to two decimals.

    Returns:
        Alpha, of the arguments' kind. Unrounded, it lies on a grid of 2**-40: alpha(x, y) + alpha(y, x) is exactly 1.

    Source: Meng et al. 2020 (arXiv:2001.05868), eq. 7 with the 1/pi that the printed equation lacks and the public
    code and the paper's own figure have.
    """
    if not 0 <= a <= 1:
        raise ValueError(f"a must lie in [0, 1], got {a!r}")
    if not c >= 0:
        raise ValueError(f"c must be at least 0, got {c!r}")
    if isinstance(own, Tensor) or isinstance(scion, Tensor):
        difference = torch.as_tensor(own, dtype=torch.float64) - torch.as_tensor(scion, dtype=torch.float64)
        values = difference.numpy(force=True)
        alpha = adaptive_weight(values, np.zeros_like(values), a, c, reference=reference)
        return torch.as_tensor(alpha, device=difference.device)
    if isinstance(own, np.ndarray) or isinstance(scion, np.ndarray):
        shift = a / np.pi * np.arctan(c * np.subtract(own, scion, dtype=np.float64))
        return np.round(shift + 0.5, 2) if reference else 0.5 + np.round(shift * GRID) / GRID
    shift = a / math.pi * math.atan(c * (own - scion))
    return round(shift + 0.5, 2) if reference else 0.5 + round(shift * GRID) / GRID
