"""Which weights of a network are used: the best by validation, or the last."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from inarch.population.evaluation.classification import ClassificationEvaluator
from inarch.population.evaluation.metrics import Metric, Scores
from inarch.population.evaluation.protocol import EvaluationSet
from inarch.population.evaluation.soups import Candidate
from inarch.population.evaluation.weight_choice import choose_weights, scored_again

EXAMPLES = 100


class Answers(nn.Module):
    """A network whose only weight says for how many of the examples it predicts the right class, 0."""

    def __init__(self) -> None:
        super().__init__()
        self.right = nn.Parameter(torch.tensor(0.0))

    def forward(self, numbers: Tensor) -> Tensor:
        """Return logits (batch, 2)."""
        margin = (self.right - numbers[:, 0] - 0.5) * 4.0
        return torch.stack([margin, torch.zeros_like(margin)], dim=1)


def candidate(right: float, *, network_id: int = 0) -> Candidate:
    return Candidate(network_id=network_id, state={"right": torch.tensor(right)})


def examples(evaluator: object | None = None) -> EvaluationSet:
    numbers = torch.arange(EXAMPLES, dtype=torch.float32)[:, None]
    batches = [(numbers, torch.zeros(EXAMPLES, dtype=torch.long))]
    return EvaluationSet(batches=lambda: batches, evaluator=evaluator or ClassificationEvaluator())  # pyright: ignore[reportArgumentType] # some tests give a simpler one


class Loss:
    """An evaluator without scores of examples, whose metric is a loss."""

    metrics = (Metric(name="wrong", higher_is_better=False),)

    def outputs(self, model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        return model(batches[0][0]), batches[0][1]

    def scores(self, outputs: Tensor, targets: Tensor) -> Scores:
        wrong = float(outputs[:, 0].sum() * 0 + (outputs[:, 0] <= 0).sum())
        return Scores.of(self.metrics, {"wrong": wrong}, examples=len(targets))


@pytest.mark.parametrize(
    ("best", "last", "expected"),
    [
        (53, 50, "last"),  # 3 of 100 examples differ: a gain of 3 points with a standard error of 1.7
        (55, 50, "best"),  # a gain of 5 points with a standard error of 2.2
        (50, 50, "last"),
        (50, 60, "last"),
        (90, float("-inf"), "best"),
    ],
)
def test_best_weights_are_used_beyond_two_standard_errors(best: float, last: float, expected: str) -> None:
    assert choose_weights(Answers(), [candidate(best)], [candidate(last)], examples()) == [expected]


def test_each_network_has_its_own_choice_in_order() -> None:
    best = [candidate(80.0, network_id=0), candidate(40.0, network_id=5), candidate(70.0, network_id=7)]
    last = [candidate(50.0, network_id=0), candidate(40.0, network_id=5), candidate(30.0, network_id=7)]
    assert choose_weights(Answers(), best, last, examples()) == ["best", "last", "best"]


def test_last_weights_are_used_without_validation_data() -> None:
    assert choose_weights(Answers(), [candidate(90.0)], [candidate(10.0)], None) == ["last"]


def test_any_gain_counts_if_the_noise_is_not_known() -> None:
    chosen = [
        choose_weights(Answers(), [candidate(best)], [candidate(last)], examples(Loss()))[0]
        for best, last in ((51.0, 50.0), (50.0, 51.0), (51.0, float("nan")), (float("nan"), float("nan")))
    ]
    assert chosen == ["best", "last", "best", "last"]


def test_candidates_are_scored_by_their_own_weights() -> None:
    recorded = [Candidate(network_id=3, state={"right": torch.tensor(70.0)}, validation_score=0.2)]
    assert [found.validation_score for found in scored_again(Answers(), recorded, examples())] == [0.7]
    assert scored_again(Answers(), recorded, None) == recorded
