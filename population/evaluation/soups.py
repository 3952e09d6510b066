"""Soups: averages of the weights of several networks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.spectral_norm import SpectralNorm

from inarch.population.evaluation.metrics import rank
from inarch.population.state.precision import TrainingInput, measure_batch_norm
from inarch.population.state.state_dict import State, is_structural, weight_hooks


def soup(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean of the weights of several networks.

    Integer entries and structural buffers are copied from the first network.

    Args:
        states: State dict of each network, all of one structure, at least one.

    Returns:
        New tensors.

    Source: Wortsman et al. 2022 (arXiv:2203.05482), uniform soup.
    """
    first = states[0]
    return {
        key: torch.stack([state[key].double() for state in states]).mean(0).to(value.dtype)
        if value.is_floating_point() and not is_structural(key)
        else value.clone()
        for key, value in first.items()
    }


def with_statistics(model: nn.Module, inputs: Iterable[TrainingInput]) -> nn.Module:
    """Return a copy of a network with batch norm statistics measured on training inputs, and new spectral norms.

    The statistics of averaged weights differ from the average of the networks' statistics.

    Args:
        model: The network, an nn.Module. It is not changed.
        inputs: Batches of inputs of the model, as for `measure_batch_norm`.
    """
    fresh = copy_of(model)
    _estimate_spectral_norms(fresh)
    measure_batch_norm(inputs, fresh)
    return fresh


POWER_ITERATIONS = 30
"""Steps in which the spectral norms of averaged weights are estimated anew."""


@torch.no_grad()
def _estimate_spectral_norms(model: nn.Module) -> None:
    """Estimate the singular vectors of weights with spectral norm, in place. In training mode, each access is a step.

    Args:
        model: The network. It keeps its mode.
    """
    was_training = model.training
    model.train()
    for owner in model.modules():
        for name, parametrizations in getattr(owner, "parametrizations", {}).items():
            if any(type(item).__name__ == "_SpectralNorm" for item in parametrizations):
                for _ in range(POWER_ITERATIONS):
                    getattr(owner, name)
        for hook in weight_hooks(owner):
            if isinstance(hook, SpectralNorm):
                for _ in range(POWER_ITERATIONS):
                    hook(owner, ())
    model.train(was_training)


def copy_of(model: nn.Module) -> nn.Module:
    """Return a copy of a network, whose results of a former forward pass are copied without their gradients.

    `copy.deepcopy` alone fails for modules that keep such results, as with the old torch.nn.utils.weight_norm.

    Args:
        model: The network. It is not changed.
    """
    attributes = [value for module in model.modules() for value in vars(module).values() if isinstance(value, Tensor)]
    return copy.deepcopy(model, {id(value): value.detach().clone() for value in attributes if not value.is_leaf})


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """Weights of one network, and its validation score."""

    network_id: int
    """Id of the network."""
    state: State
    """State dict of the network."""
    validation_score: float | None = None
    """Validation score, as `Scores.score`. None if no data are held out."""


def by_score(candidate: Candidate) -> tuple[float, int]:
    """Return a key that sorts networks by validation score, the best last. Of equal scores, the smaller id is better.

    Args:
        candidate: Weights of a network.
    """
    return rank(candidate.validation_score, candidate.network_id)


def greedy_soup(
    candidates: Sequence[Candidate], score: Callable[[State], float]
) -> tuple[dict[str, Tensor], tuple[int, ...]]:
    """Return the greedy soup: add networks in order of validation score, and keep each that does not lower the score.

    Args:
        candidates: Networks with validation scores, at least one.
        score: Returns the validation score of weights.

    Returns:
        The soup, and the ids of its members.

    Source: Wortsman et al. 2022 (arXiv:2203.05482), recipe 1.
    """
    ranked = sorted(candidates, key=by_score, reverse=True)
    members = [ranked[0]]
    best_score = score(soup([ranked[0].state]))
    for candidate in ranked[1:]:
        new_score = score(soup([*(member.state for member in members), candidate.state]))
        if new_score >= best_score:
            members.append(candidate)
            best_score = new_score
    return soup([member.state for member in members]), tuple(member.network_id for member in members)
