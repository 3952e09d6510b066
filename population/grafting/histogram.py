"""Count the weights of layers by the cells of histograms, and compute the entropy of the counts.

A histogram has equal cells between the least and the greatest weight. On the CPU a compiled loop counts. Where it was
not built, numpy compares blocks that stay in cache with every edge, which is faster than torch.histc
(docs/development/decisions, 0031). On a GPU all layers are counted at once. Each way puts a weight into the cell whose
edges enclose it, which an index computed by scaling does not always do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from inarch.population.errors import NotFiniteError
from inarch.population.grafting import compiled_loops
from inarch.population.state.memory_order import in_memory_order, is_dense

BLOCK_VALUES = 65_536
"""Weights compared at a time on the CPU. 256 KiB of float32 stay in the second-level cache."""


def count_layer(weight: Tensor, bins: int, *, name: str) -> Tensor:
    """Count the weights of a layer on the CPU at or above each edge.

    The last cell is closed, as published, so that no weight counts as above the last edge. A constant layer lies in one
    cell.

    Args:
        weight: A layer's weights, any shape with at least one value, on the CPU.
        bins: Cells, at least 2.
        name: The layer's name, for the error.

    Returns:
        Shape (bins + 1,), int64.

    Raises:
        NotFiniteError: A weight is NaN or infinite. The message names the layer.
    """
    values = weight.detach()
    if compiled_loops.count is not None and values.dtype == torch.float32 and bins <= compiled_loops.MOST_BINS:
        above = compiled_loops.count(values if is_dense(values) else values.reshape(-1), bins)
        if above is None:
            raise _not_finite(name)
        return torch.from_numpy(above)
    flat = in_memory_order(values)
    low, high = (computable(extreme) for extreme in torch.aminmax(flat))
    check_finite(float(low), float(high), name)
    return torch.from_numpy(_count_in_blocks(flat, low.numpy(), high.numpy(), bins))


def entropy_of_counts(above: Tensor) -> Tensor:
    """Return the entropies of layers, in nats.

    Args:
        above: Counts at or above each edge, as from `count_layer`, shape (..., bins + 1).

    Returns:
        Float64, shape (...).
    """
    cells = (above[..., :-1] - above[..., 1:]).to(torch.float64) / above[..., :1]
    return -torch.special.xlogy(cells, cells).sum(-1)


def entropies_at_once(weights: Sequence[Tensor], bins: int) -> Tensor:
    """Return entropy, least and greatest value of each layer, with few operations, and without a wait for the device.

    A weight's cell is computed by scaling, and corrected by comparisons with the edges of the cell, because the product
    may be off by one. This takes some 50 bytes of memory for each weight.

    Args:
        weights: Weights of each layer, at least one value in each, of one type and on one device.
        bins: Cells, at least 2.

    Returns:
        Float64, shape (3, layers), on the weights' device. If a value is NaN or infinite, so is the least or the
        greatest value, and the entropy has no meaning.
    """
    device = weights[0].device
    flat = computable(torch.cat([in_memory_order(weight.detach()) for weight in weights]))
    sizes = torch.tensor([weight.numel() for weight in weights])
    lengths = sizes.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else sizes
    low, high = (torch.segment_reduce(flat, kind, lengths=lengths, axis=0, unsafe=True) for kind in ("min", "max"))
    width = (high - low) / bins
    edges = (low[:, None] + torch.arange(bins + 1, device=device, dtype=flat.dtype) * width[:, None]).view(-1)
    largest = torch.finfo(flat.dtype).max
    scale = torch.where(width > 0, (1.0 / width).clamp_max(largest), torch.zeros_like(width))
    layer = torch.arange(len(weights), device=device).repeat_interleave(lengths, output_size=flat.numel())
    cell = ((flat - low[layer]) * scale[layer]).long().clamp_(0, bins - 1)
    first = layer * (bins + 1)
    cell = (cell + (flat >= edges[first + cell + 1])).clamp_(max=bins - 1)
    cell -= (flat < edges[first + cell]).long()
    cell += layer * bins
    share = _occurrences(cell, len(weights) * bins).view(-1, bins) / lengths[:, None]
    entropy = -torch.special.xlogy(share, share).sum(1)
    return torch.stack([entropy.clamp_min(0.0), low.double(), high.double()])


def check_bins(bins: int) -> None:
    """Raise ValueError if a histogram would have fewer than 2 cells."""
    if bins < 2:
        raise ValueError(f"bins must be at least 2, got {bins}")


def check_finite(low: float, high: float, name: str) -> None:
    """Raise NotFiniteError if the least or the greatest weight is NaN or infinite.

    The two cover every weight, because aminmax and segment_reduce propagate NaN.

    Args:
        low: Least weight.
        high: Greatest weight.
        name: The layer's name, for the error.
    """
    if not (math.isfinite(low) and math.isfinite(high)):
        raise _not_finite(name)


def computable(weight: Tensor) -> Tensor:
    """Convert half precision to float32, in which comparisons are exact.

    Args:
        weight: A tensor of any float type.
    """
    return weight.float() if weight.dtype in (torch.float16, torch.bfloat16) else weight


def _not_finite(name: str) -> NotFiniteError:
    return NotFiniteError(f"{name} has a weight that is NaN or infinite")


def _occurrences(numbers: Tensor, count: int) -> Tensor:
    """Return how often each number below `count` occurs, float64.

    On a GPU, bincount waits for the device and histc does not. But histc is refused where PyTorch must be
    deterministic, although sums of ones in float64 are exact in any order.
    """
    if torch.are_deterministic_algorithms_enabled():
        return torch.bincount(numbers, minlength=count).double()
    return torch.histc(numbers.double(), bins=count, min=0, max=count)


def _count_in_blocks(flat: Tensor, low: np.ndarray, high: np.ndarray, bins: int) -> np.ndarray:
    """Count as `count_layer`, in numpy, which counts booleans six times faster than torch does."""
    above = np.zeros(bins + 1, dtype=np.int64)
    above[0] = flat.numel()
    if low == high:
        return above
    is_half = flat.dtype in (torch.float16, torch.bfloat16)
    values = None if is_half else flat.numpy()
    edges = list(low + np.arange(bins + 1, dtype=low.dtype) * ((high - low) / low.dtype.type(bins)))
    mask = np.empty(min(BLOCK_VALUES, flat.numel()), dtype=bool)
    for start in range(0, flat.numel(), BLOCK_VALUES):
        stop = min(start + BLOCK_VALUES, flat.numel())
        block = flat[start:stop].float().numpy() if values is None else values[start:stop]
        is_above = mask[: stop - start]
        for index in range(1, bins):
            np.greater_equal(block, edges[index], out=is_above)
            above[index] += np.count_nonzero(is_above)
    return above
