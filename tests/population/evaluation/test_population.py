"""Evaluation of populations: soups, agreement and cosine similarity against values computed by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from inarch.population.evaluation.classification import ClassificationEvaluator, score_probabilities
from inarch.population.evaluation.similarity import agreement, mean_cosine
from inarch.population.evaluation.soups import Candidate, greedy_soup, soup


def state(*values: float) -> dict[str, Tensor]:
    return {"weight": torch.tensor(values), "bn.running_mean": torch.tensor([9.0, -9.0]), "count": torch.tensor(3)}


def test_mean_cosine_matches_names_and_ignores_statistics() -> None:
    weights = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3.0]), "bn.running_mean": torch.tensor([5.0])}
    reordered_weights = {
        "b": torch.tensor([3.0]),
        "bn.running_mean": torch.tensor([-5.0]),
        "a": torch.tensor([1.0, 2.0]),
    }
    assert mean_cosine([weights, reordered_weights]) == pytest.approx(1.0)
    assert mean_cosine([state(1.0, 0.0), state(0.0, 1.0), state(1.0, 0.0)]) == pytest.approx(1 / 3)
    assert mean_cosine([weights]) is None


def test_agreement_is_the_share_of_equal_predictions() -> None:
    probabilities = torch.tensor([[0.9, 0.1], [0.2, 0.8]]), torch.tensor([[0.6, 0.4], [0.7, 0.3]])
    predictions, other_predictions = (
        ClassificationEvaluator().predictions(each, torch.tensor([0, 0])) for each in probabilities
    )
    assert agreement([predictions, other_predictions]) == 0.5 and agreement([predictions]) is None


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


def test_soup_is_the_mean_of_the_weights() -> None:
    assert soup([state(0.0, 4.0), state(2.0, 0.0)])["weight"].tolist() == [1.0, 2.0]


def test_score_probabilities_match_values_by_hand() -> None:
    predicted = torch.zeros(4, 6, dtype=torch.float64) + 0.02
    predicted[:, 0] = 0.9
    scores = score_probabilities(predicted, torch.tensor([0, 0, 0, 5]))
    assert scores.accuracy == 0.75 and scores.examples == 4
    assert scores.calibration_error == pytest.approx(0.15, abs=1e-6)
    assert scores.top5 in (0.75, 1.0)
    overflown = predicted.clone()
    overflown[0] = torch.nan
    assert math.isnan(score_probabilities(overflown, torch.tensor([0, 0, 0, 5])).calibration_error)
    few = score_probabilities(torch.tensor([[0.6, 0.4]], dtype=torch.float64), torch.tensor([0]))
    assert few.top5 is None and few.loss == pytest.approx(-torch.tensor(0.6).log().item(), rel=1e-6)
