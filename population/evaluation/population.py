"""A population judged: every network, their mean, the best, ensemble and soups, and how alike they are."""

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
    """The images that judge."""

    judged: EvaluationSet
    """Test images, or validation images where there are none."""
    validation: EvaluationSet | None
    """Choose the greedy soup; None where nothing is held out."""
    statistics: Callable[[], Iterable[Tensor]]
    """Training images, augmented as in training, for the batch norm of averaged weights; from the beginning with each
    call."""


@torch.no_grad()
def evaluate_population(
    module: nn.Module, candidates: Sequence[Candidate], parts: EvaluationData, *, with_soups: bool = True
) -> dict[str, Any]:
    """Scores of several networks together and one by one, in JSON's types.

    Args:
        module: Of their structure; its weights are written over.
        candidates: At least one.
        parts: The images.
        with_soups: Whether averaged weights are judged too.

    Returns:
        each (a row a network, in order), mean, best (id, by validation), ensemble, soup (uniform), greedy_soup (with
        its members; None without validation images), agreement and cosine (means over pairs; None for one network).
    """
    measure = parts.judged.measure
    outputs, labels = [], torch.empty(0)
    for candidate in candidates:
        load_tensors(module, candidate.state)
        said, labels = measure.outputs(module, parts.judged.batches())
        outputs.append(said)
    each = [measure.scores(said, labels) for said in outputs]
    best = max(candidates, key=lambda one: (one.validation_score or 0.0, -one.network_id))
    states = [candidate.state for candidate in candidates]
    found = {
        "each": [dataclasses.asdict(scores) for scores in each],
        "mean": _mean(each),
        "best": best.network_id,
        "ensemble": dataclasses.asdict(measure.scores(measure.ensemble(outputs), labels)),
        "agreement": agreement([measure.predictions(said, labels) for said in outputs]),
        "cosine": mean_cosine(states),
    }
    if with_soups:
        found["soup"] = _scores_of(module, soup(states), parts)
        found["greedy_soup"] = _greedy(module, candidates, parts)
    return found


def _greedy(module: nn.Module, candidates: Sequence[Candidate], parts: EvaluationData) -> dict[str, Any] | None:
    validation = parts.validation
    if validation is None:
        return None

    def score(state: State) -> float:
        load_tensors(module, state)
        return validation.measure.evaluate(with_statistics(module, parts.statistics()), validation.batches()).score

    state, members = greedy_soup(candidates, score)
    return _scores_of(module, state, parts) | {"members": list(members)}


def _scores_of(module: nn.Module, state: State, parts: EvaluationData) -> dict[str, Any]:
    """Of averaged weights, their batch norm's statistics measured anew."""
    load_tensors(module, state)
    measure = parts.judged.measure
    said, labels = measure.outputs(with_statistics(module, parts.statistics()), parts.judged.batches())
    return dataclasses.asdict(measure.scores(said, labels))


def _mean(scores: Sequence[Scores]) -> dict[str, float]:
    names = [field.name for field in dataclasses.fields(Scores) if field.name != "images"]
    rows = [dataclasses.asdict(one) for one in scores]
    return {name: sum(row[name] for row in rows) / len(rows) for name in names if rows[0][name] is not None}
