"""Averages of several networks' weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from inarch.population.state.state_dict import State, is_structural


def soup(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Mean of the weights of several networks of one structure; entries that are no
    weights are the first's.

    Source: Wortsman et al. 2022 (arXiv:2203.05482), uniform soup.
    """
    first = states[0]
    return {
        key: torch.stack([state[key].double() for state in states]).mean(0).to(value.dtype)
        if value.is_floating_point() and not is_structural(key)
        else value.clone()
        for key, value in first.items()
    }


def with_statistics(network_id: nn.Module, images: Iterable[Tensor]) -> nn.Module:
    """A copy of a network whose batch norm statistics are measured anew, from batches of images: an average's are not
    the averages'."""
    fresh = copy.deepcopy(network_id)
    torch.optim.swa_utils.update_bn(images, fresh)
    return fresh


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One network's weights."""

    network_id: int
    state: State
    validation_score: float | None = None
    """As `Scores.score`; None where nothing is held out."""


def greedy_soup(
    candidates: Sequence[Candidate], score: Callable[[State], float]
) -> tuple[dict[str, Tensor], tuple[int, ...]]:
    """Average networks one by one, best by validation first, and keep each that does not lower the soup's score.

    Args:
        candidates: At least one, with validation accuracies.
        score: Of weights on the validation images.

    Returns:
        The soup and the ids that are in it.

    Source: Wortsman et al. 2022 (arXiv:2203.05482), recipe 1.
    """
    ranked = sorted(candidates, key=lambda one: (-(one.validation_score or 0.0), one.network_id))
    kept = [ranked[0]]
    reached = score(soup([ranked[0].state]))
    for candidate in ranked[1:]:
        tried = score(soup([*(one.state for one in kept), candidate.state]))
        if tried >= reached:
            kept.append(candidate)
            reached = tried
    return soup([one.state for one in kept]), tuple(one.network_id for one in kept)
