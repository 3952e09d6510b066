"""Filter proxies, and the importance of filters. A proxy describes a filter as a mixture of all filters of its layer.

Proxies follow from the distances between filters and from a temperature. At a low temperature each proxy is the mean of
all filters. At a high temperature each proxy is the filter itself. Everything takes O(filters^2) memory, where the
published code builds a cube of filters^3.
"""

from __future__ import annotations

import torch
from torch import Tensor

from inarch.population.errors import NotFiniteError


def filter_distances(weight: Tensor) -> Tensor:
    """Return the Euclidean distance between every two filters of a layer.

    Args:
        weight: Filters, shape (filters, ...), finite floats.

    Returns:
        Float64, shape (filters, filters), symmetric, zeros on the diagonal.

    Raises:
        NotFiniteError: A weight is NaN or infinite.
    """
    flat = weight.detach().flatten(1).double()
    if not bool(torch.isfinite(flat).all()):
        raise NotFiniteError("a filter has a weight that is NaN or infinite")
    scale = flat.abs().max().clamp_min(torch.finfo(torch.float64).tiny)
    flat = flat / scale
    squares = (flat * flat).sum(1)
    gaps = (squares[:, None] + squares - 2.0 * (flat @ flat.T)).clamp_min(0.0)
    gaps = (gaps + gaps.T) / 2
    return gaps.fill_diagonal_(0.0).sqrt() * scale


def normalized(distances: Tensor) -> Tensor:
    """Return distances in units of their mean over pairs of different filters.

    Args:
        distances: Shape (filters, filters), zeros on the diagonal.

    Returns:
        The same shape. All zeros if all filters are equal.
    """
    count = len(distances)
    mean = distances.sum() / max(1, count * (count - 1))
    return distances / mean if float(mean) > 0 else torch.zeros_like(distances)


def log_proxies(distances: Tensor, temperature: float) -> Tensor:
    """Return the logarithms of the proxies: log softmax of -temperature * distance along each row.

    Args:
        distances: Shape (filters, filters).
        temperature: At least 0. 0 gives uniform proxies.

    Returns:
        Shape (filters, filters), finite for finite distances. Row j is the proxy of filter j.

    Source: Lin et al. 2021 (arXiv:2107.06916), DCFF, with temperature = 1/t.
    """
    return torch.log_softmax(-temperature * distances, dim=1)


def importance(log_p: Tensor) -> Tensor:
    """Return how much each proxy differs from the others: its mean Kullback-Leibler divergence to all proxies.

    The published formula sums over k and takes the mean over p, which gives the same value. With the sums exchanged,
    the importance of filter j is sum_p P_jp log P_jp - sum_p P_jp mean_k log P_kp. That needs two products of matrix
    and vector in place of a cube.

    Args:
        log_p: Logarithms of the proxies, as from `log_proxies`, shape (filters, filters).

    Returns:
        Shape (filters,), at least 0 and finite.

    Source: Lin et al. 2021 (arXiv:2107.06916), DCFF, equation of filter importance.
    """
    p = log_p.exp()
    own = torch.special.xlogy(p, p).sum(1)
    return (own - p @ log_p.mean(0)).clamp_min(0.0)


def effective_filters(log_p: Tensor) -> Tensor:
    """Return the number of filters that each proxy mixes: exp of its entropy.

    Args:
        log_p: Logarithms of proxies, shape (proxies, filters).

    Returns:
        Shape (proxies,), from 1 to filters.
    """
    p = log_p.exp()
    return (-(p * log_p.clamp_min(torch.finfo(log_p.dtype).min)).sum(1)).exp()
