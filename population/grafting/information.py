"""Measure the information of a filter or a layer: its l1 norm, or the entropy of its weights.

The entropy is that of a histogram with equal cells between the least and the greatest weight. On the CPU the layer is
read in blocks that stay in cache, and each block is compared with every edge. This is faster than torch.histc. It also
puts every weight into the cell whose edges enclose it, which an index computed by scaling does not always do
(docs/development/decisions, 0031).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from inarch.population.errors import NotFiniteError
from inarch.population.grafting import compiled_loops
from inarch.population.state.memory_order import has_same_order, in_memory_order
from inarch.population.state.state_dict import is_convolution

BLOCK_VALUES = 65_536
"""Weights compared at a time on the CPU. 256 KiB of float32 stay in the second-level cache."""


GROUP_VALUES = 1 << 25
"""Most weights measured at once on a GPU. They take a gigabyte of its memory for the moment."""

ROBUST_TAIL = 0.01
"""Share of a layer's weights that lies beyond each end of the robust range."""

SMALLEST_WIDTH = 1e-12
"""Least width of a cell. It keeps the differential entropy of a constant layer finite."""


def l1_norm(weight: Tensor) -> Tensor:
    """Return the sum of absolute weights of each filter.

    Args:
        weight: Filters of one layer, shape (filters, ...).

    Returns:
        Shape (filters,), in the weight's float type.

    Raises:
        ValueError: The weight has no dimension or no value.

    Source: Meng et al. 2020 (arXiv:2001.05868), eq. 3.
    """
    _check_shape(weight)
    return weight.detach().abs().flatten(1).sum(1) if weight.dim() > 1 else weight.detach().abs()


def filter_entropy(weight: Tensor, bins: int = 10) -> Tensor:
    """Return the entropy of each filter's own weight histogram. A constant filter has 0.

    Args:
        weight: Filters of one layer, shape (filters, ...), finite floats on any device.
        bins: Equal cells between a filter's least and greatest weight, at least 2.

    Returns:
        Nats, float64, shape (filters,), between 0 and log(bins).

    Raises:
        ValueError: There are fewer than 2 bins, or the weight has no dimension or no value.
        NotFiniteError: A weight is NaN or infinite.

    Source: Meng et al. 2020 (arXiv:2001.05868), eq. 4, with 10 bins in the authors' code.
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
    """Return the sum of the entropies of a layer's filters.

    Args:
        weight: Filters of one layer, shape (filters, ...), finite floats on any device.
        bins: Equal cells between a filter's least and greatest weight, at least 2.

    Returns:
        Nats, float64, 0-dimensional, at least 0.

    Raises:
        ValueError: There are fewer than 2 bins, or the weight has no dimension or no value.
        NotFiniteError: A weight is NaN or infinite.

    Source: Meng et al. 2020 (arXiv:2001.05868), eq. 5. The paper sets it aside, because it ignores how filters relate
    to each other.
    """
    return filter_entropy(weight, bins).sum()


def layer_entropy(weight: Tensor, bins: int = 10, *, name: str = "weight") -> Tensor:
    """Return the entropy of the histogram of a whole layer's weights. A constant layer has 0.

    Args:
        weight: A layer's weights, any shape with at least one value, finite floats on any device.
        bins: Equal cells between the least and the greatest weight, at least 2.
        name: The layer's name, for the error.

    Returns:
        Nats, float64, 0-dimensional, between 0 and log(bins), on the weight's device.

    Raises:
        ValueError: There are fewer than 2 bins, or the weight has no value.
        NotFiniteError: A weight is NaN or infinite. The message names the layer.

    Source: Meng et al. 2020 (arXiv:2001.05868), eq. 6.
    """
    _check_bins(bins)
    if weight.numel() == 0:
        raise ValueError(f"{name} must have at least one value, got shape {tuple(weight.shape)}")
    if weight.device.type == "cpu" and _is_compiled([weight], bins):
        return _entropy_of(torch.from_numpy(_count_compiled(weight, bins, name)))
    flat = in_memory_order(weight.detach())
    low, high = torch.aminmax(flat)
    low, high = _computable(low), _computable(high)
    _check_finite(float(low), float(high), name)
    if bool(low == high):
        return torch.zeros((), dtype=torch.float64, device=weight.device)
    if flat.device.type == "cpu":
        above = torch.from_numpy(_count_above_in_blocks(flat, low.numpy(), high.numpy(), bins))
    else:
        above = _count_above(_computable(flat), _edges(low, high, bins))
    return _entropy_of(above)


def layer_entropies(
    weights: Sequence[Tensor], bins: int = 10, *, names: Sequence[str] | None = None
) -> tuple[float, ...]:
    """Return the entropies of many layers, as `layer_entropy` of each.

    On a GPU, all layers are measured at once, so that the CPU waits once and not four times a layer. The ranges of a
    GPU may differ from the CPU's in the last bit, and the entropies then by about 1e-6.

    Args:
        weights: Weights of each layer, on one device.
        bins: Equal cells between a layer's least and greatest weight, at least 2.
        names: Names of the layers, for the error. None: numbers.

    Returns:
        Nats, each between 0 and log(bins).

    Raises:
        ValueError: There are fewer than 2 bins, or a weight has no value.
        NotFiniteError: A weight is NaN or infinite. The message names the layer.
    """
    names = [f"layer {index}" for index in range(len(weights))] if names is None else names
    if weights and weights[0].device.type != "cpu":
        return entropies_on_device(weights, bins, names)
    if not (weights and _is_compiled(weights, bins)):
        return tuple(float(layer_entropy(weight, bins, name=name)) for weight, name in zip(weights, names, strict=True))
    above = np.empty((len(weights), bins + 1), dtype=np.int64)
    for index, (weight, name) in enumerate(zip(weights, names, strict=True)):
        above[index] = _count_compiled(weight, bins, name)
    return tuple(_entropy_of(torch.from_numpy(above)).tolist())


def _is_compiled(weights: Sequence[Tensor], bins: int) -> bool:
    """Return whether the compiled loop can count the weights of layers on the CPU."""
    has_loop = compiled_loops.count is not None and 2 <= bins <= compiled_loops.MOST_BINS
    return has_loop and all(weight.dtype == torch.float32 and weight.numel() > 0 for weight in weights)


def _count_compiled(weight: Tensor, bins: int, name: str) -> np.ndarray:
    assert compiled_loops.count is not None
    flat = weight.detach()
    above = compiled_loops.count(flat if has_same_order(flat, flat) else flat.reshape(-1), bins)
    if above is None:
        raise NotFiniteError(f"{name} has a weight that is NaN or infinite")
    return above


def _entropy_of(above: Tensor) -> Tensor:
    """Return the entropies of layers from their counts at or above each edge, int64, shape (..., bins + 1)."""
    cells = (above[..., :-1] - above[..., 1:]).to(torch.float64) / above[..., :1]
    return -torch.special.xlogy(cells, cells).sum(-1)


def entropies_on_device(weights: Sequence[Tensor], bins: int, names: Sequence[str]) -> tuple[float, ...]:
    """Return the entropies of many layers with few operations, as `layer_entropies` does on a GPU.

    Args:
        weights: Weights of each layer, on any one device.
        bins: Equal cells between a layer's least and greatest weight, at least 2.
        names: Names of the layers, for the error.

    Raises:
        ValueError: There are fewer than 2 bins, or a weight has no value.
        NotFiniteError: A weight is NaN or infinite. The message names the layer.
    """
    _check_bins(bins)
    groups: dict[torch.dtype, list[list[int]]] = {}
    sizes: dict[torch.dtype, int] = {}
    for index, (weight, name) in enumerate(zip(weights, names, strict=True)):
        if weight.numel() == 0:
            raise ValueError(f"{name} must have at least one value, got shape {tuple(weight.shape)}")
        batches = groups.setdefault(weight.dtype, [])
        if not batches or sizes[weight.dtype] + weight.numel() > GROUP_VALUES:
            batches.append([])
            sizes[weight.dtype] = 0
        batches[-1].append(index)
        sizes[weight.dtype] += weight.numel()
    chosen = [indices for batches in groups.values() for indices in batches]
    found = torch.cat([_entropies_of_group([weights[index] for index in indices], bins) for indices in chosen], dim=1)
    entropies = [0.0] * len(weights)
    for index, (entropy, low, high) in zip(
        (index for indices in chosen for index in indices), found.T.tolist(), strict=True
    ):
        _check_finite(low, high, names[index])
        entropies[index] = entropy
    return tuple(entropies)


def _entropies_of_group(weights: Sequence[Tensor], bins: int) -> Tensor:
    """Return entropy, least and greatest value of each layer, float64, shape (3, layers). Nothing waits for the device.

    A value's cell is computed by scaling, and corrected by comparisons with the edges of the cell, because the product
    may be off by one.
    """
    device = weights[0].device
    flat = _computable(torch.cat([in_memory_order(weight.detach()) for weight in weights]))
    counts = torch.tensor([weight.numel() for weight in weights])
    lengths = counts.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else counts
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
    share = _counts(cell, len(weights) * bins).view(-1, bins) / lengths[:, None]
    entropy = -torch.special.xlogy(share, share).sum(1)
    return torch.stack([entropy.clamp_min(0.0), low.double(), high.double()])


def _counts(cell: Tensor, num_cells: int) -> Tensor:
    """Return how often each number below `num_cells` occurs, float64.

    On a GPU, bincount waits for the device and histc does not. But histc is refused where PyTorch must be
    deterministic, although counts in float64 are exact in any order.
    """
    if torch.are_deterministic_algorithms_enabled():
        return torch.bincount(cell, minlength=num_cells).double()
    return torch.histc(cell.double(), bins=num_cells, min=0, max=num_cells)


def invalid_filters(state: Mapping[str, Tensor], threshold: float) -> dict[str, Tensor]:
    """Mark the filters of each convolution whose l1 norm lies below a threshold.

    Args:
        state: A state dict. Its float entries of three dimensions and more are taken for convolutions.
        threshold: At least 0. The papers tabulate 1, 0.1, 0.01 and 0.001.

    Returns:
        For each convolution's key, booleans of shape (filters,), true where the filter is invalid.

    Raises:
        ValueError: The threshold is negative.

    Source: Meng et al. 2020 (arXiv:2001.05868), section 4.4.
    """
    if not threshold >= 0:
        raise ValueError(f"threshold must be at least 0, got {threshold!r}")
    return {key: l1_norm(weight) < threshold for key, weight in state.items() if is_convolution(weight)}


def robust_entropy(weight: Tensor, bins: int = 10, *, tail: float = ROBUST_TAIL, name: str = "weight") -> Tensor:
    """Return the entropy of a whole layer's weights, with cells between two quantiles.

    No single weight decides the range of the cells. The papers do not have this criterion.

    Args:
        weight: A layer's weights, any shape with at least one value, finite floats on any device.
        bins: Equal cells between the quantiles, at least 2. Weights beyond them fall into the first and the last cell.
        tail: Share of the weights beyond each quantile, in [0, 0.5).
        name: The layer's name, for the error.

    Returns:
        Nats, float64, 0-dimensional, between 0 and log(bins), on the weight's device.

    Raises:
        ValueError: There are fewer than 2 bins, or `tail` lies outside [0, 0.5).
        NotFiniteError: A weight is NaN or infinite. The message names the layer.
    """
    clipped, _ = _clipped(weight, tail, name)
    return layer_entropy(clipped, bins, name=name)


def differential_entropy(weight: Tensor, bins: int = 10, *, tail: float = ROBUST_TAIL, name: str = "weight") -> Tensor:
    """Return robust entropy plus the logarithm of a cell's width, which estimates differential entropy.

    The papers' entropy is the same for a layer and a shrunken copy of it. Differential entropy is not.

    Args:
        weight: A layer's weights, any shape with at least one value, finite floats on any device.
        bins: Equal cells between the quantiles, at least 2. Weights beyond them fall into the first and the last cell.
        tail: Share of the weights beyond each quantile, in [0, 0.5).
        name: The layer's name, for the error.

    Returns:
        Nats, float64, 0-dimensional, of any sign. A constant layer has the logarithm of SMALLEST_WIDTH, 1e-12.

    Raises:
        ValueError: There are fewer than 2 bins, or `tail` lies outside [0, 0.5).
        NotFiniteError: A weight is NaN or infinite. The message names the layer.
    """
    clipped, width = _clipped(weight, tail, name)
    return layer_entropy(clipped, bins, name=name) + math.log(max(width / bins, SMALLEST_WIDTH))


def orthogonality(weight: Tensor) -> Tensor:
    """Return 1 minus the mean absolute cosine between two filters of a layer.

    Args:
        weight: Filters of one layer, shape (filters, ...).

    Returns:
        Float64, 0-dimensional, in [0, 1]. A layer of one filter has 1. A filter of zeros counts as orthogonal to all.

    Raises:
        ValueError: The weight has no dimension or no value.

    Source: after Prakash et al. 2019 (arXiv:1811.07275), RePr. RePr ranks filters by their rows of the matrix of
    cosines.
    """
    _check_shape(weight)
    filters = torch.nn.functional.normalize(weight.detach().flatten(1).double(), dim=1)
    num = len(filters)
    overlap = (filters @ filters.T).abs().fill_diagonal_(0.0).sum()
    return 1.0 - overlap / max(1, num * (num - 1))


def _clipped(weight: Tensor, tail: float, name: str) -> tuple[Tensor, float]:
    """Clip the weights to two quantiles. Return them with the distance between the quantiles."""
    if not 0 <= tail < 0.5:
        raise ValueError(f"tail must lie in [0, 0.5), got {tail!r}")
    flat = _computable(weight.detach()).reshape(-1)
    least, greatest = torch.aminmax(flat)
    _check_finite(float(least), float(greatest), name)
    num_beyond = int(tail * flat.numel())
    low = flat.kthvalue(num_beyond + 1).values
    high = flat.kthvalue(flat.numel() - num_beyond).values
    return flat.clamp(low, high), float(high) - float(low)


def _check_bins(bins: int) -> None:
    if bins < 2:
        raise ValueError(f"bins must be at least 2, got {bins}")


def _check_shape(weight: Tensor) -> None:
    if weight.dim() < 1 or weight.numel() == 0:
        raise ValueError(f"weight must have shape (filters, ...) with at least one value, got {tuple(weight.shape)}")


def _check_finite(low: float, high: float, name: str) -> None:
    """Check the least and the greatest weight. aminmax propagates NaN, so the two cover every weight."""
    if not (math.isfinite(low) and math.isfinite(high)):
        raise NotFiniteError(f"{name} has a weight that is NaN or infinite")


def _computable(weight: Tensor) -> Tensor:
    """Convert half precision to float32, in which comparisons are exact."""
    return weight.float() if weight.dtype in (torch.float16, torch.bfloat16) else weight


def _edges(low: Tensor, high: Tensor, bins: int) -> list[Tensor]:
    """Return bins + 1 edges low + i * width, in the weights' own precision as in the reference."""
    width = (high - low) / bins
    return [low + index * width for index in range(bins + 1)]


def _count_above(flat: Tensor, edges: list[Tensor]) -> Tensor:
    """Count the values at or above each edge, on the values' device.

    The last cell is closed, as published. The last edge therefore counts 0.
    """
    above = torch.stack([(flat >= edge).sum() for edge in edges])
    above[0] = flat.numel()
    above[-1] = 0
    return above


def _count_above_in_blocks(flat: Tensor, low: np.ndarray, high: np.ndarray, bins: int) -> np.ndarray:
    """Count as `_count_above` does, on the CPU and in blocks that stay in cache.

    numpy counts booleans six times faster than torch does.
    """
    is_half = flat.dtype in (torch.float16, torch.bfloat16)
    values = None if is_half else flat.numpy()
    edges = list(low + np.arange(bins + 1, dtype=low.dtype) * ((high - low) / low.dtype.type(bins)))
    above = np.zeros(bins + 1, dtype=np.int64)
    above[0] = flat.numel()
    mask = np.empty(min(BLOCK_VALUES, flat.numel()), dtype=bool)
    for start in range(0, flat.numel(), BLOCK_VALUES):
        stop = min(start + BLOCK_VALUES, flat.numel())
        block = flat[start:stop].float().numpy() if values is None else values[start:stop]
        is_above = mask[: stop - start]
        for index in range(1, bins):
            np.greater_equal(block, edges[index], out=is_above)
            above[index] += np.count_nonzero(is_above)
    return above
