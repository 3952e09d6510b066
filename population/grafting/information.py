"""Measure the information of a filter or a layer: its l1 norm, or the entropy of its weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from inarch.population.grafting.histogram import (
    check_bins,
    check_finite,
    computable,
    count_layer,
    entropies_at_once,
    entropy_of_counts,
)
from inarch.population.state.state_dict import is_convolution

GROUP_VALUES = 1 << 25
"""Most weights whose entropies are computed at once on a GPU, because that takes some 50 bytes of memory for each."""

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
    check_bins(bins)
    _check_shape(weight)
    flat = computable(weight.detach()).reshape(weight.shape[0], -1)
    low, high = torch.aminmax(flat, dim=1, keepdim=True)
    check_finite(float(low.min()), float(high.max()), "weight")
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
    _check_layer(weight, bins, name)
    if weight.device.type == "cpu":
        return entropy_of_counts(count_layer(weight, bins, name=name))
    entropy, low, high = entropies_at_once([weight], bins)[:, 0]
    check_finite(float(low), float(high), name)
    return entropy


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
    if not weights:
        return ()
    if weights[0].device.type != "cpu":
        return entropies_on_device(weights, bins, names)
    counts = []
    for weight, name in zip(weights, names, strict=True):
        _check_layer(weight, bins, name)
        counts.append(count_layer(weight, bins, name=name))
    return tuple(entropy_of_counts(torch.stack(counts)).tolist())


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
    groups: dict[torch.dtype, list[list[int]]] = {}
    sizes: dict[torch.dtype, int] = {}
    for index, (weight, name) in enumerate(zip(weights, names, strict=True)):
        _check_layer(weight, bins, name)
        batches = groups.setdefault(weight.dtype, [])
        if not batches or sizes[weight.dtype] + weight.numel() > GROUP_VALUES:
            batches.append([])
            sizes[weight.dtype] = 0
        batches[-1].append(index)
        sizes[weight.dtype] += weight.numel()
    chosen = [indices for batches in groups.values() for indices in batches]
    found = torch.cat([entropies_at_once([weights[index] for index in indices], bins) for indices in chosen], dim=1)
    entropies = [0.0] * len(weights)
    for index, (entropy, low, high) in zip(
        (index for indices in chosen for index in indices), found.T.tolist(), strict=True
    ):
        check_finite(low, high, names[index])
        entropies[index] = entropy
    return tuple(entropies)


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


def effective_rank(weight: Tensor) -> Tensor:
    """Return how evenly a layer uses its directions: the entropy of its singular values as shares of their sum.

    The weight counts as a matrix with one row for each filter. Filters that are zero or copies of others lower the
    result, and a factor for the whole layer does not change it. The papers do not have this criterion.

    Args:
        weight: Filters of one layer, shape (filters, ...), finite floats.

    Returns:
        Nats, float64, 0-dimensional, in [0, log(rank)]. A layer of zeros has 0.

    Raises:
        ValueError: The weight has no dimension or no value.

    Source: Roy and Vetterli 2007, "The effective rank", which is the exponential of this number.
    """
    _check_shape(weight)
    matrix = weight.detach().reshape(len(weight), -1).double()
    products = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    values = torch.linalg.eigvalsh(products).clamp(min=0.0).sqrt()
    shares = values / values.sum().clamp(min=torch.finfo(torch.float64).tiny)
    return torch.special.entr(shares).sum()


def _clipped(weight: Tensor, tail: float, name: str) -> tuple[Tensor, float]:
    """Clip the weights to two quantiles. Return them with the distance between the quantiles."""
    if not 0 <= tail < 0.5:
        raise ValueError(f"tail must lie in [0, 0.5), got {tail!r}")
    flat = computable(weight.detach()).reshape(-1)
    least, greatest = torch.aminmax(flat)
    check_finite(float(least), float(greatest), name)
    num_beyond = int(tail * flat.numel())
    low = flat.kthvalue(num_beyond + 1).values
    high = flat.kthvalue(flat.numel() - num_beyond).values
    return flat.clamp(low, high), float(high) - float(low)


def _check_layer(weight: Tensor, bins: int, name: str) -> None:
    check_bins(bins)
    if weight.numel() == 0:
        raise ValueError(f"{name} must have at least one value, got shape {tuple(weight.shape)}")


def _check_shape(weight: Tensor) -> None:
    if weight.dim() < 1 or weight.numel() == 0:
        raise ValueError(f"weight must have shape (filters, ...) with at least one value, got {tuple(weight.shape)}")


def _edges(low: Tensor, high: Tensor, bins: int) -> list[Tensor]:
    """Return bins + 1 edges low + i * width, in the weights' own precision as in the reference."""
    width = (high - low) / bins
    return [low + index * width for index in range(bins + 1)]
