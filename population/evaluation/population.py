"""Evaluate a population: each network, the ensemble, the soups, and the similarity of the networks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from inarch.population.evaluation.protocol import EvaluationSet, Scores
from inarch.population.evaluation.similarity import agreement, mean_cosine
from inarch.population.evaluation.soups import Candidate, greedy_soup, soup, with_statistics
from inarch.population.state.state_dict import State, load_tensors


@dataclass(frozen=True, kw_only=True)
class EvaluationData:
    """Images that the evaluation of a population needs."""

    judged: EvaluationSet
    """Test images, or validation images if there are no test images."""
    validation: EvaluationSet | None
    """Images that select the members of the greedy soup. None if no images are held out."""
    statistics: Callable[[], Iterable[Tensor]]
    """Returns batches of training images, augmented as in training, to measure the batch norm statistics of averaged
    weights. Each call starts from the first batch."""


@torch.no_grad()
def evaluate_population(
    module: nn.Module, candidates: Sequence[Candidate], parts: EvaluationData, *, with_soups: bool = True
) -> dict[str, Any]:
    """Return the scores of several networks, each alone and combined, as JSON types.

    Args:
        module: Model with the networks' structure. Its weights are overwritten.
        candidates: Weights of the networks, at least one.
        parts: Images for the evaluation.
        with_soups: Whether to evaluate averaged weights too.

    Returns:
        A dict with these keys:

        - each: Scores of each network, in order.
        - mean: Means of these scores.
        - best: Id of the network with the best validation score.
        - ensemble: Scores of the ensemble.
        - agreement: Share of equal predictions, the mean over pairs. None for one network.
        - cosine: Cosine similarity of the weights, the mean over pairs. None for one network.
        - soup: Scores of the uniform soup. Only with `with_soups`.
        - greedy_soup: Scores of the greedy soup, and its members. None without validation images. Only with
          `with_soups`.
    """
    evaluator = parts.judged.measure
    outputs, labels = [], torch.empty(0)
    for candidate in candidates:
        load_tensors(module, candidate.state)
        output, labels = evaluator.outputs(module, parts.judged.batches())
        outputs.append(output)
    each = [evaluator.scores(output, labels) for output in outputs]
    best = max(candidates, key=lambda candidate: (candidate.validation_score or 0.0, -candidate.network_id))
    states = [candidate.state for candidate in candidates]
    results = {
        "each": [dataclasses.asdict(scores) for scores in each],
        "mean": _mean(each),
        "best": best.network_id,
        "ensemble": dataclasses.asdict(evaluator.scores(evaluator.ensemble(outputs), labels)),
        "agreement": agreement([evaluator.predictions(output, labels) for output in outputs]),
        "cosine": mean_cosine(states),
    }
    if with_soups:
        results["soup"] = _scores_of(module, soup(states), parts)
        results["greedy_soup"] = _greedy(module, candidates, parts)
    return results


def _greedy(module: nn.Module, candidates: Sequence[Candidate], parts: EvaluationData) -> dict[str, Any] | None:
    """Return the scores and the members of the greedy soup. None without validation images."""
    validation = parts.validation
    if validation is None:
        return None

    def score(state: State) -> float:
        load_tensors(module, state)
        return validation.measure.evaluate(with_statistics(module, parts.statistics()), validation.batches()).score

    state, members = greedy_soup(candidates, score)
    return _scores_of(module, state, parts) | {"members": list(members)}


def _scores_of(module: nn.Module, state: State, parts: EvaluationData) -> dict[str, Any]:
    """Return the scores of averaged weights, after measuring their batch norm statistics."""
    load_tensors(module, state)
    evaluator = parts.judged.measure
    output, labels = evaluator.outputs(with_statistics(module, parts.statistics()), parts.judged.batches())
    return dataclasses.asdict(evaluator.scores(output, labels))


def _mean(scores: Sequence[Scores]) -> dict[str, float]:
    """Return the mean of each score that the task has."""
    names = [field.name for field in dataclasses.fields(Scores) if field.name != "images"]
    rows = [dataclasses.asdict(row) for row in scores]
    return {name: sum(row[name] for row in rows) / len(rows) for name in names if rows[0][name] is not None}
