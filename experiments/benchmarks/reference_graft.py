"""The graft as its authors published it, written from its description: what `exchange` is to beat.

Left out, in its favor: the sleep of 10 s between looks for the neighbor's file. The least weight is sought anew at
both edges of each cell and the masks are multiplied and summed as floats, as there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor


def published_alphas(own: Mapping[str, Tensor], scion: Mapping[str, Tensor]) -> dict[str, float]:
    """Alpha of each key with the word conv, as the public code finds it: both entropies anew, two decimals.

    a = 0.4, c = 500, 10 bins, the defaults of the authors' code. Source: Meng et al. 2020 (arXiv:2001.05868), eq. 6, 7.
    """
    alphas = {}
    for key in own:
        if "conv" in key:
            difference = published_entropy(own[key]) - published_entropy(scion[key])
            alphas[key] = round(0.4 / math.pi * math.atan(500.0 * difference) + 0.5, 2)
    return alphas


def published_entropy(weight: Tensor, bins: int = 10) -> float:
    """Entropy of a layer in nats, a mask for each half-open cell, as the public code counts."""
    flat = weight.reshape(-1)
    width = (flat.max() - flat.min()) / bins
    total = 0.0
    for cell in range(bins):
        inside = (flat >= flat.min() + cell * width) * (flat < flat.min() + (cell + 1) * width)
        part = float(inside.sum(dtype=torch.float)) / len(flat)
        total -= part * math.log(part) if part else 0.0
    return total


def published_blend(
    own: Mapping[str, Tensor], scion: Mapping[str, Tensor], alphas: Mapping[str, float]
) -> dict[str, Tensor]:
    """Every entry with the alpha of the last key that has one, in new tensors; the first key has one."""
    blended, alpha = {}, 1.0
    for key, weight in own.items():
        alpha = alphas.get(key, alpha)
        blended[key] = weight * alpha + scion[key] * (1 - alpha)
    return blended
