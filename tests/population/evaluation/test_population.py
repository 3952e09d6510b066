"""Evaluation of populations: soups, agreement and cosine similarity against values computed by hand."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from inarch.population.evaluation.classification import METRICS, ClassificationEvaluator, score_probabilities
from inarch.population.evaluation.deployment import InferenceCost
from inarch.population.evaluation.population import EvaluationData, evaluate_population, outputs_of
from inarch.population.evaluation.protocol import EvaluationSet
from inarch.population.evaluation.similarity import agreement, mean_cosine
from inarch.population.evaluation.soups import Candidate, greedy_soup, soup, with_statistics
from inarch.population.state.state_dict import constant_buffers, is_structural, load_tensors, named_tensors


def state(*values: float) -> dict[str, Tensor]:
    return {"weight": torch.tensor(values), "bn.running_mean": torch.tensor([9.0, -9.0]), "count": torch.tensor(3)}


def test_mean_cosine_matches_names_and_ignores_buffers() -> None:
    weights = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3.0]), "bn.running_mean": torch.tensor([5.0])}
    reordered_weights = {
        "b": torch.tensor([3.0]),
        "bn.running_mean": torch.tensor([-5.0]),
        "a": torch.tensor([1.0, 2.0]),
    }
    assert mean_cosine([weights, reordered_weights], {"a", "b"}) == pytest.approx(1.0)
    assert mean_cosine([state(1.0, 0.0), state(0.0, 1.0), state(1.0, 0.0)], {"weight"}) == pytest.approx(1 / 3)
    assert mean_cosine([weights], {"a", "b"}) is None


def test_agreement_is_the_share_of_equal_predictions() -> None:
    probabilities = torch.tensor([[0.9, 0.1], [0.2, 0.8]]), torch.tensor([[0.6, 0.4], [0.7, 0.3]])
    predictions, other_predictions = (
        ClassificationEvaluator().predictions(each, torch.tensor([0, 0])) for each in probabilities
    )
    assert agreement([predictions, other_predictions]) == 0.5 and agreement([predictions]) is None
    random = torch.Generator().manual_seed(0)
    several = [torch.randint(0, 3, (7, 5), generator=random) for _ in range(6)]  # of 7 texts of 5 characters
    pairs = [float((one == two).double().mean()) for one, two in itertools.combinations(several, 2)]
    assert agreement(several) == pytest.approx(sum(pairs) / len(pairs))
    states = [{"weight": torch.randn(4, 3, generator=random)} for _ in range(6)]
    flat = [state["weight"].flatten().double() for state in states]
    cosines = [float(torch.cosine_similarity(one, two, dim=0)) for one, two in itertools.combinations(flat, 2)]
    assert mean_cosine(states, {"weight"}) == pytest.approx(sum(cosines) / len(cosines))
    assert mean_cosine([{"weight": torch.zeros(3)}, {"weight": torch.ones(3)}], {"weight"}) == 0.0


def test_greedy_soup_adds_members_that_do_not_lower_the_score() -> None:
    candidates = [
        Candidate(network_id=0, state=state(0.0, 0.0), validation_score=0.5),
        Candidate(network_id=1, state=state(4.0, 0.0), validation_score=0.9),
        Candidate(network_id=2, state=state(2.0, 2.0), validation_score=0.7),
    ]
    scored_weights = []

    def score(tried) -> float:
        scored_weights.append(tried["weight"].tolist())
        return -abs(float(tried["weight"][0]) - 3.0)

    soup_state, members = greedy_soup(candidates, score)
    assert scored_weights == [[4.0, 0.0], [3.0, 1.0], [2.0, pytest.approx(2 / 3)]]
    assert members == (1, 2) and soup_state["weight"].tolist() == [3.0, 1.0]
    assert int(soup_state["count"]) == 3


class CountedPasses:
    """A part of the data that counts its passes and batches."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.images, self.labels = torch.randn(10, 6, generator=generator), torch.arange(10) % 4
        self.passes = self.num_batches = 0

    def __call__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.passes += 1
        for start in range(0, 10, 4):
            self.num_batches += 1
            yield self.images[start : start + 4], self.labels[start : start + 4]


def networks_of(count: int) -> tuple[nn.Module, list[dict[str, Tensor]]]:
    torch.manual_seed(0)
    modules = [nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)) for _ in range(count)]
    return modules[0], [{name: value.clone() for name, value in module.state_dict().items()} for module in modules]


@pytest.mark.parametrize(("together_bytes", "passes"), [(2**20, 1), (2 * 4 * 92, 2), (1, 3)])
def test_networks_are_evaluated_together(together_bytes: int, passes: int) -> None:
    module, states = networks_of(3)
    batches = CountedPasses()
    evaluated = EvaluationSet(batches=batches, evaluator=ClassificationEvaluator())
    outputs = outputs_of(module, states, evaluated, together_bytes=together_bytes)
    assert batches.passes == passes and batches.num_batches == 3 * passes
    for state_dict, (output, targets) in zip(states, outputs, strict=True):
        module.load_state_dict(state_dict)
        assert torch.equal(targets, batches.labels)
        torch.testing.assert_close(output, module.eval()(batches.images).log_softmax(1))


def test_population_is_scored_in_one_pass() -> None:
    module, states = networks_of(4)
    batches, validation = CountedPasses(), CountedPasses()
    evaluator = ClassificationEvaluator()
    data = EvaluationData(
        evaluated=EvaluationSet(batches=batches, evaluator=evaluator),
        validation=EvaluationSet(batches=validation, evaluator=evaluator),
        statistics=lambda: iter([batches.images]),
        metric=METRICS[0],
        cost=InferenceCost(parameters=92, multiply_adds=80),
    )
    best, last = (
        [Candidate(network_id=place, state=state_dict, validation_score=place / 10) for place, state_dict in chosen]
        for chosen in (list(enumerate(states[:2])), list(enumerate(states[2:])))
    )
    results = evaluate_population(module, best, data, last=last)
    assert batches.passes == 1

    def scores(state_dict: dict[str, Tensor]) -> dict[str, float | None]:
        module.load_state_dict(state_dict)
        with torch.no_grad():
            predicted = module.eval()(batches.images).double().softmax(1)
        return score_probabilities(predicted, batches.labels).row()

    for rows, chosen in ((results["each"], states[:2]), (results["last"]["each"], states[2:])):
        assert [pytest.approx(row) for row in rows] == [scores(state_dict) for state_dict in chosen]
    assert results["soup"] == pytest.approx(scores(soup(states[:2])))
    assert results["best"] == 1 and results["greedy_soup"]["members"][0] == 1
    with torch.no_grad():
        each = []
        for state_dict in states[:2]:
            module.load_state_dict(state_dict)
            each.append(module(batches.images).double().softmax(1))
    assert results["ensemble"] == pytest.approx(score_probabilities(torch.stack(each).mean(0), batches.labels).row())
    assert results["last"]["soup"] == pytest.approx(scores(soup(states[2:])))
    assert results["validation"]["mean"]["accuracy"] == pytest.approx(results["mean"]["accuracy"])


def test_improbable_classes_keep_their_loss() -> None:
    images, labels = torch.zeros(1, 2), torch.tensor([1])
    module = nn.Linear(2, 2)
    with torch.no_grad():
        module.bias.copy_(torch.tensor([300.0, 0.0]))
    output, targets = ClassificationEvaluator().outputs(module, [(images, labels)])
    assert ClassificationEvaluator().scores(output, targets).loss == pytest.approx(300.0)


def test_networks_whose_outputs_are_nan_are_never_right() -> None:
    module = nn.Linear(2, 3)
    with torch.no_grad():
        module.weight.fill_(torch.nan)
    batches = [(torch.zeros(4, 2), torch.tensor([0, 0, 1, 2]))]
    evaluator = ClassificationEvaluator()
    outputs, targets = evaluator.outputs(module, batches)
    assert evaluator.evaluate(module, batches).accuracy == 0.0
    assert evaluator.example_scores(outputs, targets).tolist() == [0.0] * 4


NORMS = {
    "parametrization": (spectral_norm, "parametrizations.weight.original", "parametrizations.weight.0._u"),
    "hook": (nn.utils.spectral_norm, "weight_orig", "weight_u"),
}
"""Both functions of torch for spectral norm, each with the keys of the weight and of a singular vector."""


def spectral_network(norm: Any, seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    module = nn.Sequential(norm(nn.Linear(6, 12)), nn.ReLU(), nn.Linear(12, 2))
    for _ in range(50):  # each step estimates the singular vectors a little better
        module(torch.randn(4, 6))
    return module


@pytest.mark.parametrize(("norm", "weight_key", "vector_key"), NORMS.values(), ids=NORMS)
def test_soup_of_spectral_norms_has_the_norm_of_its_weights(norm: Any, weight_key: str, vector_key: str) -> None:
    networks = [spectral_network(norm, seed) for seed in range(3)]
    mean = soup([dict(named_tensors(network)) for network in networks])
    module = spectral_network(norm, 3)
    load_tensors(module, mean)
    fresh: Any = with_statistics(module, ()).eval()
    fresh(torch.randn(4, 6))
    weight = mean[f"0.{weight_key}"]
    expected = weight / torch.linalg.matrix_norm(weight, ord=2)
    torch.testing.assert_close(fresh[0].weight, expected, rtol=1e-3, atol=1e-4)
    key = f"0.{vector_key}"
    assert is_structural(key) or key in constant_buffers(module), "no exchange takes a mean of vectors"


def test_soup_is_the_mean_of_the_weights() -> None:
    assert soup([state(0.0, 4.0), state(2.0, 0.0)])["weight"].tolist() == [1.0, 2.0]


def test_score_probabilities_match_values_by_hand() -> None:
    predicted = torch.zeros(4, 6, dtype=torch.float64) + 0.02
    predicted[:, 0] = 0.9
    scores = score_probabilities(predicted, torch.tensor([0, 0, 0, 5]))
    assert scores.accuracy == 0.75 and scores.examples == 4
    assert scores.calibration_error == pytest.approx(0.15, abs=1e-6)
    predicted[3, 5] = 0.01  # the sixth
    assert score_probabilities(predicted, torch.tensor([0, 0, 0, 5])).top5 == 0.75
    assert score_probabilities(predicted, torch.tensor([0, 0, 0, 0])).top5 == 1.0
    overflown = predicted.clone()
    overflown[0] = torch.nan
    nan_scores = score_probabilities(overflown, torch.tensor([0, 0, 0, 5]))
    assert math.isnan(nan_scores.calibration_error) and nan_scores.accuracy == 0.5, "NaN is no prediction of class 0"
    few = score_probabilities(torch.tensor([[0.6, 0.4]], dtype=torch.float64), torch.tensor([0]))
    assert few.top5 is None and few.loss == pytest.approx(-torch.tensor(0.6).log().item(), rel=1e-6)
