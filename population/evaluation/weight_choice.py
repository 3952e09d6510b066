"""Choose between a network's best weights by validation and its last ones.

The best of many evaluations is partly the luckiest one. With few validation examples, its weights may be worse than
the last ones of a schedule whose learning rate decays.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

from inarch.population.evaluation.deployment import NOISE
from inarch.population.evaluation.population import outputs_of
from inarch.population.evaluation.protocol import EvaluationSet, ScoresExamples
from inarch.population.evaluation.recommendation import paired_error
from inarch.population.evaluation.soups import Candidate
from inarch.population.state.state_dict import State

Weights = Literal["best", "last"]


@torch.no_grad()
def choose_weights(
    module: nn.Module, best: Sequence[Candidate], last: Sequence[Candidate], validation: EvaluationSet | None
) -> list[Weights]:
    """Return which weights of each network to use.

    The best weights are used if their score on the validation data is higher than that of the last ones by more than
    `NOISE` standard errors of the difference, paired by example, otherwise the last. If the noise of the metric is not
    known, a higher score is enough.

    Args:
        module: Model with the networks' structure. Its weights are overwritten.
        best: Weights of each network with the best validation score.
        last: Last weights of the same networks.
        validation: The validation data. None: there are none, and the last weights are used.
    """
    if validation is None:
        return ["last"] * len(last)
    pairs = list(zip(best, last, strict=True))
    different = [pair for pair in pairs if not _are_equal(pair[0].state, pair[1].state)]
    outputs = outputs_of(module, [candidate.state for pair in different for candidate in pair], validation)
    is_better = {
        pair[0].network_id: _is_better(validation, first, second)
        for pair, first, second in zip(different, outputs[::2], outputs[1::2], strict=True)
    }
    return ["best" if is_better.get(candidate.network_id, False) else "last" for candidate in last]


@torch.no_grad()
def scored_again(
    module: nn.Module, candidates: Sequence[Candidate], validation: EvaluationSet | None
) -> list[Candidate]:
    """Return the candidates with the validation scores of their weights, measured now.

    Args:
        module: Model with the networks' structure. Its weights are overwritten.
        candidates: Weights of networks whose recorded scores are those of other weights.
        validation: The validation data. None: there are none, and the candidates keep their scores.
    """
    if validation is None:
        return list(candidates)
    outputs = outputs_of(module, [candidate.state for candidate in candidates], validation)
    return [
        dataclasses.replace(candidate, validation_score=validation.evaluator.scores(output, targets).score)
        for candidate, (output, targets) in zip(candidates, outputs, strict=True)
    ]


def _is_better(
    validation: EvaluationSet, best: tuple[torch.Tensor, torch.Tensor], last: tuple[torch.Tensor, torch.Tensor]
) -> bool:
    """Return whether the best weights are better by more than the noise, from outputs and targets."""
    evaluator, targets = validation.evaluator, best[1]
    best_score, last_score = (evaluator.scores(output, targets).score for output, _ in (best, last))
    if not math.isfinite(last_score):  # the network diverged
        return math.isfinite(best_score)
    error = None
    if isinstance(evaluator, ScoresExamples):
        examples = [evaluator.example_scores(output, targets) for output in (best[0], last[0])]
        if examples[0] is not None and examples[1] is not None:
            error = paired_error(examples[0], examples[1])
    return best_score - last_score > NOISE * (error or 0.0)


def _are_equal(first: State, second: State) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())
