"""Evaluate a population: each network, the ensemble, the soups, and the similarity of the networks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from inarch.population.evaluation.metrics import Scores
from inarch.population.evaluation.protocol import EvaluationSet
from inarch.population.evaluation.similarity import agreement, mean_cosine
from inarch.population.evaluation.soups import Candidate, by_score, greedy_soup, soup, with_statistics
from inarch.population.state.state_dict import State, load_tensors


@dataclass(frozen=True, kw_only=True)
class EvaluationData:
    """Data that the evaluation of a population needs."""

    evaluated: EvaluationSet
    """Test data, or validation data if there are no test data."""
    validation: EvaluationSet | None
    """Data that select the members of the greedy soup. None if no data are held out."""
    statistics: Callable[[], Iterable[Tensor]]
    """Returns batches of training inputs, augmented as in training, to measure the batch norm statistics of averaged
    weights. Each call starts from the first batch."""


@torch.no_grad()
def evaluate_population(
    module: nn.Module, candidates: Sequence[Candidate], data: EvaluationData, *, with_soups: bool = True
) -> dict[str, Any]:
    """Return the scores of several networks, each alone and combined, as JSON types.

    Args:
        module: Model with the networks' structure. Its weights are overwritten.
        candidates: Weights of the networks, at least one.
        data: Data for the evaluation.
        with_soups: Whether to evaluate averaged weights too.

    Returns:
        A dict with these keys:

        - each: Scores of each network, in order.
        - mean: Means of these scores.
        - best: Id of the network with the best validation score.
        - ensemble: Scores of the ensemble. None if the task has none.
        - agreement: Share of equal predictions, the mean over pairs. None for one network, or if
          the task has no predictions to compare.
        - cosine: Cosine similarity of the weights, the mean over pairs. None for one network.
        - soup: Scores of the uniform soup. Only with `with_soups`.
        - greedy_soup: Scores of the greedy soup, and its members. None without validation data. Only with
          `with_soups`.
    """
    evaluator = data.evaluated.evaluator
    outputs: list[Tensor] = []
    targets = torch.empty(0)
    for candidate in candidates:
        load_tensors(module, candidate.state)
        output, targets = evaluator.outputs(module, data.evaluated.batches())
        outputs.append(output)
    each = [evaluator.scores(output, targets) for output in outputs]
    best = max(candidates, key=by_score)
    states = [candidate.state for candidate in candidates]
    combined = evaluator.ensemble(outputs)
    predictions = [evaluator.predictions(output, targets) for output in outputs]
    results = {
        "each": [scores.row() for scores in each],
        "mean": _mean(each),
        "best": best.network_id,
        "ensemble": None if combined is None else evaluator.scores(combined, targets).row(),
        "agreement": agreement([prediction for prediction in predictions if prediction is not None]),
        "cosine": mean_cosine(states),
    }
    if with_soups:
        results["soup"] = _scores_of(module, soup(states), data)
        results["greedy_soup"] = _greedy(module, candidates, data)
    return results


def _greedy(module: nn.Module, candidates: Sequence[Candidate], data: EvaluationData) -> dict[str, Any] | None:
    """Return the scores and the members of the greedy soup. None without validation data."""
    validation = data.validation
    if validation is None:
        return None

    def score(state: State) -> float:
        load_tensors(module, state)
        return validation.evaluator.evaluate(with_statistics(module, data.statistics()), validation.batches()).score

    state, members = greedy_soup(candidates, score)
    return _scores_of(module, state, data) | {"members": list(members)}


def _scores_of(module: nn.Module, state: State, data: EvaluationData) -> dict[str, Any]:
    """Return the scores of averaged weights, after measuring their batch norm statistics."""
    load_tensors(module, state)
    evaluator = data.evaluated.evaluator
    output, targets = evaluator.outputs(with_statistics(module, data.statistics()), data.evaluated.batches())
    return evaluator.scores(output, targets).row()


def _mean(scores: Sequence[Scores]) -> dict[str, float]:
    """Return the mean of each score that the task has."""
    names = [name for name, value in scores[0].items() if value is not None]
    return {name: sum(row[name] for row in scores) / len(scores) for name in names}
