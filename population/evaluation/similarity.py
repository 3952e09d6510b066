"""How alike networks are: in their predictions, and in their weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from inarch.population.state.state_dict import BATCH_NORM_STATISTICS, State, is_structural


def agreement(predictions: Sequence[Tensor]) -> float | None:
    """Part of the images that two networks take for the same, a mean over pairs; None for one network.

    Args:
        choices: Of each network, shape (images,), as `Evaluator.predictions`.
    """
    pairs = [
        float((one == other).double().mean())
        for index, one in enumerate(predictions)
        for other in predictions[index + 1 :]
    ]
    return sum(pairs) / len(pairs) if pairs else None


def mean_cosine(states: Sequence[State]) -> float | None:
    """Cosine between two networks' weights as one vector, a mean over pairs; None for one network. Batch norm's
    statistics are no weights."""
    flat = [
        torch.cat([state[key].double().flatten() for key, value in states[0].items() if _is_weight(key, value)])
        for state in states
    ]
    pairs = [
        float(torch.nn.functional.cosine_similarity(one, other, dim=0))
        for index, one in enumerate(flat)
        for other in flat[index + 1 :]
    ]
    return sum(pairs) / len(pairs) if pairs else None


def _is_weight(key: str, value: Tensor) -> bool:
    return value.is_floating_point() and not is_structural(key) and not key.endswith(BATCH_NORM_STATISTICS)
