"""Filter proxies, and which filters matter: what each filter of a layer would be as a mixture of all of them.

Proxies follow from distances between filters and a temperature: low, and each is a mean of all; high, and each is
itself. Everything is O(filters^2) in memory; the published code builds a cube of filters^3.
"""

from __future__ import annotations

import torch
from torch import Tensor

from inarch.population.errors import NotFiniteError


def filter_distances(weight: Tensor) -> Tensor:
    """Euclidean distance between every two filters of a layer.

    Args:
        weight: Filters, shape (filters, ...), finite floats.

    Returns:
        Float64, shape (filters, filters), symmetric, zeros on the diagonal.

    Raises:
        NotFiniteError: a weight is NaN or infinite.
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
    """Distances in units of their mean over pairs of different filters; zeros where all filters are equal."""
    count = len(distances)
    mean = distances.sum() / max(1, count * (count - 1))
    return distances / mean if float(mean) > 0 else torch.zeros_like(distances)


def log_proxies(distances: Tensor, temperature: float) -> Tensor:
    """Logarithms of the proxies: log softmax of -temperature * distance along each row.

    Args:
        distances: Shape (filters, filters).
        temperature: At least 0; 0 gives uniform proxies.

    Returns:
        Shape (filters, filters), finite for finite distances; row j is filter j's proxy.

    Source: Lin et al. 2021 (arXiv:2107.06916), DCFF, with temperature = 1/t.
    """
    return torch.log_softmax(-temperature * distances, dim=1)


def importance(log_p: Tensor) -> Tensor:
    """How unlike all other proxies each filter's is: the sum of its Kullback-Leibler divergences to them.

    With the sums exchanged this is filters * (sum_p P_jp log P_jp - sum_p P_jp mean_k log P_kp) / filters: two products
    of matrix and vector in place of a cube.

    Args:
        log_p: `log_proxies`.

    Returns:
        Shape (filters,), at least 0 and finite; the mean over p of the published formula, so divided by the filters.

    Source: DCFF, eq. of filter importance.
    """
    p = log_p.exp()
    own = torch.special.xlogy(p, p).sum(1)
    return (own - p @ log_p.mean(0)).clamp_min(0.0)


def effective_filters(log_p: Tensor) -> Tensor:
    """How many filters each proxy mixes: exp of its entropy, shape (filters,), from 1 to filters."""
    p = log_p.exp()
    return (-(p * log_p.clamp_min(torch.finfo(log_p.dtype).min)).sum(1)).exp()
