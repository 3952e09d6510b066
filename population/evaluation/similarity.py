"""Measure the similarity of networks, in their predictions and in their weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from inarch.population.state.state_dict import BATCH_NORM_STATISTICS, State, is_structural


def agreement(predictions: Sequence[Tensor]) -> float | None:
    """Return the share of equal predictions of two networks, averaged over all pairs.

    Args:
        predictions: Predictions of each network, as from `Evaluator.predictions`, shape (images,).

    Returns:
        A share in [0, 1], or None for fewer than two networks.
    """
    pairs = [
        float((first == second).double().mean())
        for index, first in enumerate(predictions)
        for second in predictions[index + 1 :]
    ]
    return sum(pairs) / len(pairs) if pairs else None


def mean_cosine(states: Sequence[State]) -> float | None:
    """Return the cosine similarity of two networks' weights, averaged over all pairs.

    All weights of a network form one vector. It holds no batch norm statistics and no structural buffers.

    Args:
        states: State dict of each network, all of one structure, at least one.

    Returns:
        A cosine in [-1, 1], or None for fewer than two networks.
    """
    flat = [
        torch.cat([state[key].double().flatten() for key, value in states[0].items() if _is_weight(key, value)])
        for state in states
    ]
    pairs = [
        float(torch.nn.functional.cosine_similarity(first, second, dim=0))
        for index, first in enumerate(flat)
        for second in flat[index + 1 :]
    ]
    return sum(pairs) / len(pairs) if pairs else None


def _is_weight(key: str, value: Tensor) -> bool:
    return value.is_floating_point() and not is_structural(key) and not key.endswith(BATCH_NORM_STATISTICS)
