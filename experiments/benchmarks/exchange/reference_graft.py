"""The graft as its authors published it: the reference of the benchmark `exchange`.

It is written from the description of the authors' code. One part is left out, which makes the reference faster: the
sleep of 10 s between checks for the neighbor's file. As in the authors' code, the least weight is computed anew at both
edges of each cell, and masks are multiplied and summed as floats.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor


def published_alphas(own: Mapping[str, Tensor], scion: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the alphas that the public code computes, by key. Only keys that contain `conv` have one.

    Both entropies are measured anew, and alpha is rounded to two decimals. The constants are a = 0.4, c = 500 and 10
    bins, which are the defaults of the authors' code.

    Args:
        own: State of the rootstock.
        scion: State of the scion, with the same keys.

    Source: Meng et al. 2020 (arXiv:2001.05868), eq. 6, 7.
    """
    alphas = {}
    for key in own:
        if "conv" in key:
            difference = published_entropy(own[key]) - published_entropy(scion[key])
            alphas[key] = round(0.4 / math.pi * math.atan(500.0 * difference) + 0.5, 2)
    return alphas


def published_entropy(weight: Tensor, bins: int = 10) -> float:
    """Return the entropy of a layer as the public code computes it, with one mask for each cell.

    The cells are half-open, so that the greatest weight is in none of them.

    Args:
        weight: Weights of the layer, of any shape.
        bins: Number of cells.

    Returns:
        Nats.
    """
    flat = weight.reshape(-1)
    width = (flat.max() - flat.min()) / bins
    total = 0.0
    for cell in range(bins):
        inside = (flat >= flat.min() + cell * width) * (flat < flat.min() + (cell + 1) * width)
        share = float(inside.sum(dtype=torch.float)) / len(flat)
        total -= share * math.log(share) if share else 0.0
    return total


def published_blend(
    own: Mapping[str, Tensor], scion: Mapping[str, Tensor], alphas: Mapping[str, float]
) -> dict[str, Tensor]:
    """Return the blend of two states in new tensors.

    Each entry is blended with the alpha of its own key, or of the last key before it that has one.

    Args:
        own: State of the rootstock.
        scion: State of the scion, with the same keys.
        alphas: Alphas by key. The first key of `own` must have one.
    """
    blended, alpha = {}, 1.0
    for key, weight in own.items():
        alpha = alphas.get(key, alpha)
        blended[key] = weight * alpha + scion[key] * (1 - alpha)
    return blended
