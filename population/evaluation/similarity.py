"""Measure the similarity of networks, in their predictions and in their weights."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from inarch.population.state.state_dict import State

LEAST_NORM = 1e-8
"""Least norm that a network's weights are divided by, as in torch's cosine_similarity."""


def agreement(predictions: Sequence[Tensor]) -> float | None:
    """Return the share of equal predictions of two networks, averaged over all pairs.

    Args:
        predictions: Predictions of each network, as from `Evaluator.predictions`, shape (images,).

    Returns:
        A share in [0, 1], or None for fewer than two networks.
    """
    count = len(predictions)
    if count < 2:
        return None
    stacked = torch.stack([prediction.flatten() for prediction in predictions])
    values, places = torch.unique(stacked, return_inverse=True)
    num_images = places.shape[1]
    images = torch.arange(num_images, device=places.device)
    # How many networks give one prediction of one image. Each two of them agree.
    _, equal = torch.unique(images * len(values) + places, return_counts=True)
    return float((equal * (equal - 1)).double().sum()) / (num_images * count * (count - 1))


def mean_cosine(states: Sequence[State], names: Collection[str]) -> float | None:
    """Return the cosine similarity of two networks' weights, averaged over all pairs.

    All weights of a network form one vector. It holds no buffers, such as batch norm's statistics and masks.

    Args:
        states: State dict of each network, all of one structure, at least one.
        names: Names of the network's parameters.

    Returns:
        A cosine in [-1, 1], or None for fewer than two networks.
    """
    count = len(states)
    if count < 2:
        return None
    keys = [key for key, value in states[0].items() if key in names and value.is_floating_point()]
    # The squared norm of the sum of all unit vectors gives the sum of all cosines. One network is copied at a time.
    total, squares = torch.zeros((), dtype=torch.float64), 0.0
    for state in states:
        vector = torch.cat([state[key].double().flatten() for key in keys])
        unit = vector / vector.norm().clamp_min(LEAST_NORM)
        total = total + unit
        squares += float(unit.square().sum())
    return (float(total.square().sum()) - squares) / (count * (count - 1))
