"""What a run recommends to deploy: the noise of the validation data, the cost, and the words."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch
from torch import Tensor

from inarch.population.evaluation.classification import METRICS, ClassificationEvaluator
from inarch.population.evaluation.deployment import (
    NOISE,
    Deployment,
    DeployOption,
    InferenceCost,
    chosen,
    deployment_of,
)
from inarch.population.evaluation.metrics import Metric, Scores, rank
from inarch.population.evaluation.recommendation import JudgedOutput, paired_error, recommend
from inarch.population.evaluation.retrieval import RetrievalEvaluator, all_vs_all
from inarch.population.training.progress import Progress

COST = InferenceCost(parameters=1000, multiply_adds=50)


def output(num_right: int, *, first: int = 0, examples: int = 100) -> Tensor:
    """Return log-probabilities of two classes that are right for some examples in a row. Class 0 is the right one."""
    is_right = (torch.arange(examples) >= first) & (torch.arange(examples) < first + num_right)
    return torch.stack([is_right.double(), 1.0 - is_right.double()], 1).mul(0.8).add(0.1).log()


def deployment(network: int, soup: int, ensemble: int, *, examples: int = 100) -> Deployment:
    judged = [
        JudgedOutput(name="network", networks=(2,), output=output(network, examples=examples)),
        JudgedOutput(name="soup", networks=(1, 2), output=output(soup, examples=examples)),
        JudgedOutput(name="ensemble", networks=(1, 2), output=output(ensemble, examples=examples)),
    ]
    targets = torch.zeros(examples, dtype=torch.int64)
    return recommend(METRICS[0], ClassificationEvaluator(), judged, targets, cost=COST)


@pytest.mark.parametrize(
    ("network", "soup", "ensemble", "expected", "reason"),
    [
        (80, 70, 83, "network", "3.00 points better, which is within 2 standard errors (3.43 points) of 100"),
        (80, 70, 86, "ensemble", "6.00 points better than network 2, which is more than 2 standard errors (4.77"),
        (80, 84, 84, "soup", "the ensemble is not better and costs 2 forward passes"),
        (80, 80, 79, "network", "the ensemble is not better"),
    ],
)
def test_ensemble_must_beat_the_noise(network: int, soup: int, ensemble: int, expected: str, reason: str) -> None:
    found = deployment(network, soup, ensemble)
    assert found.recommended == expected and reason in found.reason
    assert found.choice is not None and found.choice.gain == 0


def test_paired_error_equals_that_of_the_differing_examples() -> None:
    first, second = torch.zeros(100), torch.zeros(100)
    first[:9], second[9:13] = 1.0, 1.0
    variance = (13 / 100 - (5 / 100) ** 2) * 100 / 99
    assert paired_error(first, second) == pytest.approx(math.sqrt(variance / 100))
    assert paired_error(first, first) == 0 and paired_error(first[:1], second[:1]) is None


@pytest.mark.parametrize(("gain", "least", "greatest"), [(0.0, 0.005, 0.05), (0.04, 0.9, 1.0)])
def test_noise_keeps_equal_options_apart(gain: float, least: float, greatest: float) -> None:
    """Two networks that agree on most of 1,000 images: of equal ones, one seldom beats the noise."""
    random = torch.Generator().manual_seed(0)
    wins = 0
    for _ in range(400):
        common, own, other = torch.rand(3, 1000, generator=random)
        differs = own < 0.1
        first = torch.where(differs, other < 0.6, common < 0.7).double()
        second = torch.where(differs, (1 - other) < 0.6 + 10 * gain, common < 0.7).double()
        error = paired_error(second, first)
        assert error is not None
        wins += float(second.mean() - first.mean()) > NOISE * error
    assert least <= wins / 400 <= greatest


def test_lines_state_gain_noise_and_cost_of_each_option() -> None:
    lines = deployment(80, 70, 83).lines()
    assert lines[0] == (
        "to deploy: network 2: accuracy 80.00% on validation (1 forward pass, 1,000 parameters, 50 multiply-adds an "
        "example)"
    )
    assert lines[2:] == [
        "  instead, soup of networks 1, 2: accuracy 70.00% on validation (10.00 points worse, standard error 3.02 "
        "points), at the same cost",
        "  instead, ensemble of networks 1, 2: accuracy 83.00% on validation (3.00 points better, standard error 1.71 "
        "points), at 2 times the cost",
    ]
    assert deployment(80, 70, 90).lines()[-1].endswith("at 1/2 of the cost")


def test_deployment_survives_json() -> None:
    found = deployment(80, 70, 86)
    content = {"metrics": [dataclasses.asdict(metric) for metric in METRICS], "deploy": found.to_dict()}
    assert deployment_of(json.loads(json.dumps(content))) == found
    assert deployment_of({"metrics": content["metrics"]}) is None


class LossEvaluator:
    """An evaluator that gives no scores of examples."""

    def __init__(self) -> None:
        self._evaluator = ClassificationEvaluator()
        self.evaluate, self.outputs = self._evaluator.evaluate, self._evaluator.outputs
        self.ensemble, self.scores = self._evaluator.ensemble, self._evaluator.scores
        self.predictions = self._evaluator.predictions


def test_metric_with_unknown_noise_recommends_one_network() -> None:
    judged = [
        JudgedOutput(name="network", networks=(0,), output=output(50)),
        JudgedOutput(name="ensemble", networks=(0, 1), output=output(90)),
    ]
    targets = torch.zeros(100, dtype=torch.int64)
    metric = Metric(name="loss", higher_is_better=False)
    found = recommend(metric, LossEvaluator(), judged, targets, cost=COST)
    assert found.recommended == "network" and "the noise of this metric is not known" in found.reason
    assert found.options[1].gain > 0 and found.options[1].standard_error is None


@pytest.mark.parametrize("network", [0.8, math.nan])
def test_ensemble_without_a_finite_score_is_not_recommended(network: float) -> None:
    options = [
        DeployOption(name="network", networks=(0,), forward_passes=1, validation=network),
        DeployOption(name="soup", networks=(0, 1), forward_passes=1, validation=0.7),
        DeployOption(name="ensemble", networks=(0, 1), forward_passes=2, validation=math.nan),
    ]
    name, reason = chosen(METRICS[0], options, noise=0.01, examples=100)
    assert name == ("soup" if math.isnan(network) else "network") and "not better" in reason


def test_scores_that_are_not_finite_rank_last() -> None:
    scores = {0: math.nan, 1: 0.3, 2: None, 3: 0.9}
    assert max(scores, key=lambda network_id: rank(scores[network_id], network_id)) == 3
    progress = Progress()
    for interval, score in enumerate((0.5, 0.9, math.nan, 0.3), start=1):
        progress.interval = interval
        progress.record_scores(Scores({"rmse": score}, score=score, examples=1))
        progress.update_best()
        assert (progress.score is None) == math.isnan(score)
    assert (progress.best_score, progress.best_interval) == (0.9, 2)


def test_nothing_is_recommended_without_validation_data() -> None:
    (line,) = Deployment(metric=METRICS[0]).lines()
    assert line.startswith("to deploy: nothing is recommended, because there are no validation data")


def test_queries_of_retrieval_have_average_precisions() -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(12, 4, generator=generator), dim=1)
    labels = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 6])
    evaluator = RetrievalEvaluator(all_vs_all(12))
    precisions = evaluator.example_scores(vectors, labels)
    assert len(precisions) == 10, "the last two have no match"
    assert float(precisions.mean()) == pytest.approx(evaluator.scores(vectors, labels).score)
