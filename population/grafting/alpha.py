"""Alpha: the share of its own weights that a layer of the rootstock keeps."""

from __future__ import annotations

import math
from typing import overload

import numpy as np

GRID = 2.0**40
"""Alpha lies on a grid of 2**-40, so that the alphas of two networks that graft each other add up to exactly 1."""


@overload
def adaptive_weight(own: float, scion: float, a: float = ..., c: float = ...) -> float: ...
@overload
def adaptive_weight(own: np.ndarray, scion: np.ndarray, a: float = ..., c: float = ...) -> np.ndarray: ...


def adaptive_weight(
    own: float | np.ndarray, scion: float | np.ndarray, a: float = 0.4, c: float = 500.0
) -> float | np.ndarray:
    """Return alpha = 0.5 + (a / pi) arctan(c (own - scion)).

    Args:
        own: Information of the rootstock's layer, a float or an array of floats.
        scion: Information of the scion's layer, of the same shape.
        a: Range, in [0, 1]. Alpha lies in [0.5 - a/2, 0.5 + a/2].
        c: Sharpness, at least 0.

    Returns:
        Alpha, of the arguments' kind, on a grid of 2**-40: alpha(x, y) + alpha(y, x) is exactly 1.

    Raises:
        ValueError: a lies outside [0, 1], or c is negative.

    Source: Meng et al. 2020 (arXiv:2001.05868), eq. 7 with the factor 1/pi that the printed equation lacks and that
    the public code and the paper's own figure have.
    """
    if not 0 <= a <= 1:
        raise ValueError(f"a must lie in [0, 1], got {a!r}")
    if not c >= 0:
        raise ValueError(f"c must be at least 0, got {c!r}")
    if isinstance(own, np.ndarray) or isinstance(scion, np.ndarray):
        shift = a / np.pi * np.arctan(c * np.subtract(own, scion, dtype=np.float64))
        return 0.5 + np.round(shift * GRID) / GRID
    return 0.5 + round(a / math.pi * math.atan(c * (own - scion)) * GRID) / GRID
