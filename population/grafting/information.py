"""What a filter or a layer carries: its l1 norm, and the entropy of its weights.

Entropy is that of a histogram of equal cells between the least and the greatest weight. On the CPU the layer is read
in blocks that stay in cache and each block is compared with every edge, which is faster than torch.histc and, unlike
an index computed by scaling, puts every weight into the cell whose edges it lies between (docs/decisions.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from inarch.population.errors import NotFiniteError
from inarch.population.state.state_dict import is_convolution

BLOCK_VALUES = 65_536
"""Weights compared at a time on the CPU; 256 KiB of float32 stay in the second-level cache."""


ROBUST_TAIL = 0.01
"""Part of a layer's weights that lies beyond each end of the robust range."""

SMALLEST_WIDTH = 1e-12
"""Of a cell: a constant layer's differential entropy is finite."""


def l1_norm(weight: Tensor) -> Tensor:
    """Sum of absolute weights of each filter.

    Args:
        weight: Filters of one layer, shape (filters, ...).

    Returns:
        Shape (filters,), in the weight's float type.

    Source: Meng et al. 2020 (arXiv:2001.05868), eq. 3.
    """
    _check_shape(weight)
    return weight.detach().abs().flatten(1).sum(1) if weight.dim() > 1 else weight.detach().abs()


def filter_entropy(weight: Tensor, bins: int = 10) -> Tensor:
    """Entropy of each filter's own weight histogram; a constant filter has 0.

    Args:
        weight: Filters of one layer, shape (filters, ...), finite floats on any device.
        bins: Equal cells between a filter's least and greatest weight; at least 2.

    Returns:
        Nats, float64, shape (filters,), between 0 and log(bins).

    Raises:
        ValueError: fewer than 2 bins, or a weight without filters.
        NotFiniteError: a weight is NaN or infinite.

    Source: Meng et al. 2020 (arXiv:2001.05868), eq. 4; 10 bins in the authors' code.
    """
    _check_bins(bins)
    _check_shape(weight)
    flat = _computable(weight.detach()).reshape(weight.shape[0], -1)
    low, high = torch.aminmax(flat, dim=1, keepdim=True)
    _check_finite(float(low.min()), float(high.max()), "weight")
    edges = _edges(low, high, bins)
    above = torch.stack([(flat >= edge).sum(1) for edge in edges], dim=1)
    above[:, -1] = 0  # the last cell is closed: no weight lies above the last edge
    cells = (above[:, :-1] - above[:, 1:]).to(torch.float64) / flat.shape[1]
    entropy = -torch.special.xlogy(cells, cells).sum(1)
    return torch.where((low == high).flatten(), torch.zeros_like(entropy), entropy.clamp_min(0.0))


def summed_filter_entropy(weight: Tensor, bins: int = 10) -> Tensor:
    """Sum of the entropies of a layer's filters, nats, 0-dimensional float64.

    Takes, raises: as `filter_entropy`. Source: Meng et al. 2020 (arXiv:2001.05868), eq. 5, which the paper sets aside
    because it ignores how filters relate.
    """
    return filter_entropy(weight, bins).sum()


def layer_entropy(weight: Tensor, bins: int = 10, *, name: str = "weight") -> Tensor:
    """Entropy of the histogram of a whole layer's weights; a constant layer has 0.

    Args:
        weight: A layer's weights, any shape with at least one value, finite floats on any device.
        bins: Equal cells between the least and the greatest weight; at least 2.
        name: The layer's name, for the error.

    Returns:
        Nats, float64, 0-dimensional, between 0 and log(bins), on the weight's device.

    Raises:
        ValueError: fewer than 2 bins, or an empty weight.
        NotFiniteError: a weight is NaN or infinite; names the layer.

    Source: Meng et al. 2020 (arXiv:2001.05868), eq. 6.
    """
    _check_bins(bins)
    if weight.numel() == 0:
        raise ValueError(f"{name} must have at least one value, got shape {tuple(weight.shape)}")
    flat = _in_memory_order(weight.detach())
    low, high = torch.aminmax(flat)
    low, high = _computable(low), _computable(high)
    _check_finite(float(low), float(high), name)
    if bool(low == high):
        return torch.zeros((), dtype=torch.float64, device=weight.device)
    if flat.device.type == "cpu":
        above = torch.from_numpy(_count_above_in_blocks(flat, low.numpy(), high.numpy(), bins))
    else:
        above = _count_above(flat, _edges(low, high, bins))
    cells = (above[:-1] - above[1:]).to(torch.float64) / flat.numel()
    return -torch.special.xlogy(cells, cells).sum()


def invalid_filters(state: Mapping[str, Tensor], threshold: float) -> dict[str, Tensor]:
    """Filters whose l1 norm lies below a threshold, of each convolution of a state dict.

    Args:
        state: A state dict; its entries of three dimensions and more are convolutions.
        threshold: At least 0; the papers tabulate 1, 0.1, 0.01 and 0.001.

    Returns:
        For each convolution's key, booleans of shape (filters,), true where the filter is invalid.

    Raises:
        ValueError: a negative threshold.

    Source: Meng et al. 2020 (arXiv:2001.05868), section 4.4.
    """
    if not threshold >= 0:
        raise ValueError(f"threshold must be at least 0, got {threshold!r}")
    return {key: l1_norm(weight) < threshold for key, weight in state.items() if is_convolution(weight)}


def robust_entropy(weight: Tensor, bins: int = 10, *, tail: float = ROBUST_TAIL, name: str = "weight") -> Tensor:
    """Entropy of a whole layer's weights on cells between two quantiles, so that no single weight decides the range.

    Args:
        weight: As `layer_entropy`.
        bins: Equal cells between the quantiles, at least 2; what lies beyond falls into the first and last.
        tail: Part of the weights beyond each quantile, in [0, 0.5).
        name: The layer's name, for the error.

    Returns, raises: as `layer_entropy`. Not the papers'.
    """
    clipped, _ = _clipped(weight, tail, name)
    return layer_entropy(clipped, bins, name=name)


def differential_entropy(weight: Tensor, bins: int = 10, *, tail: float = ROBUST_TAIL, name: str = "weight") -> Tensor:
    """Robust entropy plus the logarithm of a cell's width: a histogram's estimate of differential entropy. Unlike the
    papers' it tells a layer from a shrunken copy of itself.

    Args, raises: as `robust_entropy`.

    Returns:
        Nats, float64, 0-dimensional, any sign; that of a width of 1e-12 where the layer is constant.
    """
    clipped, width = _clipped(weight, tail, name)
    return layer_entropy(clipped, bins, name=name) + math.log(max(width / bins, SMALLEST_WIDTH))


def orthogonality(weight: Tensor) -> Tensor:
    """How little the filters of a layer overlap: 1 less the mean absolute cosine between two of them.

    Args:
        weight: Filters of one layer, shape (filters, ...); one filter overlaps with none.

    Returns:
        Float64, 0-dimensional, in [0, 1]; a filter of zeros overlaps with none.

    Source: after Prakash et al. 2019 (arXiv:1811.07275), RePr, which ranks filters by their rows of this matrix.
    """
    _check_shape(weight)
    filters = torch.nn.functional.normalize(weight.detach().flatten(1).double(), dim=1)
    num = len(filters)
    overlap = (filters @ filters.T).abs().fill_diagonal_(0.0).sum()
    return 1.0 - overlap / max(1, num * (num - 1))


def _clipped(weight: Tensor, tail: float, name: str) -> tuple[Tensor, float]:
    """The weights with what lies beyond their quantiles moved onto them, and how far the quantiles are apart."""
    if not 0 <= tail < 0.5:
        raise ValueError(f"tail must lie in [0, 0.5), got {tail!r}")
    flat = _computable(weight.detach()).reshape(-1)
    least, greatest = torch.aminmax(flat)
    _check_finite(float(least), float(greatest), name)
    cut = int(tail * flat.numel())
    low = flat.kthvalue(cut + 1).values
    high = flat.kthvalue(flat.numel() - cut).values
    return flat.clamp(low, high), float(high) - float(low)


def _check_bins(bins: int) -> None:
    if bins < 2:
        raise ValueError(f"bins must be at least 2, got {bins}")


def _check_shape(weight: Tensor) -> None:
    if weight.dim() < 1 or weight.numel() == 0:
        raise ValueError(f"weight must have shape (filters, ...) with at least one value, got {tuple(weight.shape)}")


def _check_finite(low: float, high: float, name: str) -> None:
    """aminmax hands NaN on, so two numbers tell of every weight."""
    if not (math.isfinite(low) and math.isfinite(high)):
        raise NotFiniteError(f"{name} has a weight that is NaN or infinite")


def _computable(weight: Tensor) -> Tensor:
    """Half precision is compared in float32, exactly."""
    return weight.float() if weight.dtype in (torch.float16, torch.bfloat16) else weight


def _in_memory_order(weight: Tensor) -> Tensor:
    """All values as one dimension, without a copy where they lie densely: their order does not matter here."""
    if weight.is_contiguous():
        return weight.view(-1)
    if weight.is_contiguous(memory_format=torch.channels_last) if weight.dim() == 4 else False:
        return weight.permute(0, 2, 3, 1).reshape(-1)
    return weight.reshape(-1)


def _edges(low: Tensor, high: Tensor, bins: int) -> list[Tensor]:
    """bins + 1 edges, low + i * width, in the weights' own precision as the reference computes them."""
    width = (high - low) / bins
    return [low + index * width for index in range(bins + 1)]


def _count_above(flat: Tensor, edges: list[Tensor]) -> Tensor:
    """How many values are at least each edge, on the values' device. But as published, the last cell is closed: nothing
    lies above the last edge."""
    above = torch.stack([(flat >= edge).sum() for edge in edges])
    above[0] = flat.numel()
    above[-1] = 0
    return above


def _count_above_in_blocks(flat: Tensor, low: np.ndarray, high: np.ndarray, bins: int) -> np.ndarray:
    """The same on the CPU, in blocks that stay in cache; numpy counts booleans six times faster than torch does."""
    is_half = flat.dtype in (torch.float16, torch.bfloat16)
    values = None if is_half else flat.numpy()
    edges = list(low + np.arange(bins + 1, dtype=low.dtype) * ((high - low) / low.dtype.type(bins)))
    above = np.zeros(bins + 1, dtype=np.int64)
    above[0] = flat.numel()
    mask = np.empty(min(BLOCK_VALUES, flat.numel()), dtype=bool)
    for start in range(0, flat.numel(), BLOCK_VALUES):
        stop = min(start + BLOCK_VALUES, flat.numel())
        block = flat[start:stop].float().numpy() if values is None else values[start:stop]
        hit = mask[: stop - start]
        for index in range(1, bins):
            np.greater_equal(block, edges[index], out=hit)
            above[index] += np.count_nonzero(hit)
    return above
