"""Measure the similarity of networks, in their predictions and in their weights."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from inarch.population.state.state_dict import State


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


def mean_cosine(states: Sequence[State], names: Collection[str]) -> float | None:
    """Return the cosine similarity of two networks' weights, averaged over all pairs.

    All weights of a network form one vector. It holds no buffers, such as batch norm's statistics and masks.

    Args:
        states: State dict of each network, all of one structure, at least one.
        names: Names of the network's parameters.

    Returns:
        A cosine in [-1, 1], or None for fewer than two networks.
    """
    keys = [key for key, value in states[0].items() if key in names and value.is_floating_point()]
    flat = [torch.cat([state[key].double().flatten() for key in keys]) for state in states]
    pairs = [
        float(torch.nn.functional.cosine_similarity(first, second, dim=0))
        for index, first in enumerate(flat)
        for second in flat[index + 1 :]
    ]
    return sum(pairs) / len(pairs) if pairs else None
