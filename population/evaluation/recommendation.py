"""Recommend what to deploy, from the outputs on the validation data of each network and of the soups."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from inarch.population.evaluation.deployment import Deployment, DeployOption, InferenceCost, best_single, chosen
from inarch.population.evaluation.metrics import Metric
from inarch.population.evaluation.protocol import Evaluator, ScoresExamples


@dataclass(frozen=True, kw_only=True)
class JudgedOutput:
    """The output of an option on the validation data."""

    name: str
    """network, soup, greedy_soup or ensemble."""
    networks: tuple[int, ...]
    """Ids of its networks."""
    output: Tensor
    """Outputs for all examples, as from `Evaluator.outputs`."""
    test: Mapping[str, Any] | None = None
    """Scores on the test data. None if there are none."""


def recommend(
    metric: Metric,
    evaluator: Evaluator,
    judged: Sequence[JudgedOutput],
    targets: Tensor,
    *,
    cost: InferenceCost,
) -> Deployment:
    """Return the option to deploy, as `deployment.chosen` decides.

    The validation data have already chosen the interval of each network's weights, the best network and the members of
    the greedy soup. Their scores are therefore too good by a little, and those of the soup and the ensemble are not.

    Args:
        metric: Primary metric of the task.
        evaluator: Evaluator of the validation data.
        judged: The best network, and further options, with their outputs on the validation data.
        targets: Targets of the validation data, as from `Evaluator.outputs`.
        cost: What one network costs.
    """
    scored = [evaluator.scores(option.output, targets) for option in judged]
    options = [
        _option(option, scores[metric.name], metric, cost) for option, scores in zip(judged, scored, strict=True)
    ]
    outcomes = {option.name: _example_scores(evaluator, option.output, targets) for option in judged}
    best = best_single(metric, options)
    noise = _noise(outcomes.get("ensemble"), outcomes[best.name])
    name, reason = chosen(metric, options, noise=noise, examples=scored[0].examples)
    choice = next(option for option in options if option.name == name)
    return Deployment(
        metric=metric,
        examples=scored[0].examples,
        recommended=name,
        reason=reason,
        options=tuple(
            replace(
                option,
                gain=metric.score(option.validation) - metric.score(choice.validation),
                standard_error=_noise(outcomes[option.name], outcomes[name]),
            )
            for option in options
        ),
    )


def _option(judged: JudgedOutput, value: float, metric: Metric, cost: InferenceCost) -> DeployOption:
    passes = len(judged.networks) if judged.name == "ensemble" else 1
    return DeployOption(
        name=judged.name,
        networks=judged.networks,
        validation=value,
        test=None if judged.test is None else judged.test[metric.name],
        forward_passes=passes,
        parameters=passes * cost.parameters,
        multiply_adds=None if cost.multiply_adds is None else passes * cost.multiply_adds,
    )


def _example_scores(evaluator: Evaluator, output: Tensor, targets: Tensor) -> Tensor | None:
    """Return the score of each example. None if the evaluator does not give them."""
    return evaluator.example_scores(output, targets) if isinstance(evaluator, ScoresExamples) else None


def _noise(first: Tensor | None, second: Tensor | None) -> float | None:
    """Return the standard error of the difference of two means, paired by example. None if it is not known."""
    return None if first is None or second is None else paired_error(first, second)


def paired_error(first: Tensor, second: Tensor) -> float | None:
    """Return the standard error of the difference of two means over the same examples.

    Args:
        first: Score of each example, shape (examples,).
        second: The same of another network.

    Returns:
        The standard deviation of the differences, divided by the root of their number. None for fewer than two.
    """
    differences = first.double() - second.double()
    return float(differences.std()) / math.sqrt(len(differences)) if len(differences) > 1 else None
