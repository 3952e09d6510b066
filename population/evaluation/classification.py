"""Evaluate classification: loss, accuracy, top-5 accuracy and calibration of a network or an ensemble."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inarch.population.data import Batch
from inarch.population.evaluation.metrics import Metric, Scores
from inarch.population.state.precision import Precision

METRICS = (
    Metric(name="accuracy", form="{:.2%}"),
    Metric(name="top5", heading="top-5", form="{:.2%}", in_training=False),
    Metric(name="loss", higher_is_better=False),
    Metric(name="calibration_error", heading="calibration", higher_is_better=False, form="{:.2%}", in_training=False),
)
"""Metrics of classification.

- accuracy: share of the images whose class is predicted correctly, in [0, 1].
- top5: share of the images whose class is among the five most probable. None with at most five classes.
- loss: mean cross-entropy in nats.
- calibration_error: expected calibration error (l1, 15 bins), in [0, 1].
"""


class ClassificationEvaluator:
    """Evaluates the classes that a network predicts. An ensemble is the mean of its networks' class probabilities."""

    def __init__(self, precision: Precision = contextlib.nullcontext) -> None:
        """Create the evaluator.

        Args:
            precision: Returns the context in which networks run.
        """
        self._precision = precision

    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> Scores:
        """Return the metrics that are needed while a network trains."""
        return evaluate(model, batches, precision=self._precision)

    def outputs(self, model: nn.Module, batches: Iterable[Batch]) -> tuple[Tensor, Tensor]:
        """Return the logarithms of the class probabilities (images, classes), float32, and the labels, on the CPU."""
        return log_probabilities(model, batches, precision=self._precision)

    def ensemble(self, outputs: Sequence[Tensor]) -> Tensor:
        """Return the outputs of the ensemble, whose class probabilities are the mean of the networks'."""
        total = sum(output.double().exp() for output in outputs)
        return torch.as_tensor(total).div(len(outputs)).log().float()

    def scores(self, outputs: Tensor, targets: Tensor) -> Scores:
        """Return all scores of outputs."""
        return score_probabilities(outputs.double().exp(), targets)

    def example_scores(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return 1 for each image whose class is predicted correctly, and 0 for the others."""
        return _are_right(outputs, targets).double()

    def predictions(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return one integer per image."""
        return outputs.argmax(1)


@torch.no_grad()
def evaluate(model: nn.Module, batches: Iterable[Batch], *, precision: Precision = contextlib.nullcontext) -> Scores:
    """Return the loss and accuracy of a network in evaluation mode.

    The function waits for the device only once, at the end.

    Args:
        model: The network. Its former mode is restored.
        batches: Images and labels, at least one batch.
        precision: Returns the context in which the network runs.
    """
    was_training = model.training
    model.eval()
    loss: Tensor | float = 0.0
    correct: Tensor | int = 0
    count = 0
    for images, labels in batches:
        with precision():
            logits = model(images)
        logits = logits.float()
        loss = loss + F.cross_entropy(logits, labels, reduction="sum")
        correct = correct + _are_right(logits, labels).sum()
        count += len(labels)
    model.train(was_training)
    correct_sum, loss_sum = torch.stack([torch.as_tensor(correct).double(), torch.as_tensor(loss).double()]).tolist()
    return Scores.of(METRICS, {"accuracy": correct_sum / count, "loss": loss_sum / count}, examples=count)


def _are_right(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return whether the class with the greatest output is the label. Outputs that are NaN are wrong."""
    return (outputs.argmax(1) == labels) & ~outputs.isnan().any(1)


@torch.no_grad()
def log_probabilities(
    model: nn.Module, batches: Iterable[Batch], *, precision: Precision = contextlib.nullcontext
) -> tuple[Tensor, Tensor]:
    """Return the logarithms of class probabilities (images, classes), float32, and labels (images,), on the CPU.

    Args:
        model: The network. It is left in evaluation mode.
        batches: Images and labels, at least one batch.
        precision: Returns the context in which the network runs.
    """
    model.eval()
    outputs = []
    for images, labels in batches:
        with precision():
            logits = model(images)
        outputs.append((logits.double().log_softmax(1).float().cpu(), labels.cpu()))
    return torch.cat([output for output, _ in outputs]), torch.cat([labels for _, labels in outputs])


def score_probabilities(predicted: Tensor, labels: Tensor) -> Scores:
    """Return all scores of class probabilities.

    Args:
        predicted: Class probabilities, shape (images, classes).
        labels: True classes, shape (images,).
    """
    num_classes = predicted.shape[1]
    true_probabilities = predicted.gather(1, labels[:, None]).squeeze(1).clamp_min(1e-300)
    is_prediction = ~predicted.isnan().any(1)
    among_five = (predicted.topk(min(5, num_classes), dim=1).indices == labels[:, None]).any(1) & is_prediction
    top5 = among_five if num_classes > 5 else None
    values = {
        "accuracy": float(_are_right(predicted, labels).double().mean()),
        "top5": None if top5 is None else float(top5.double().mean()),
        "loss": float(-true_probabilities.log().mean()),
        "calibration_error": calibration_error(predicted, labels),
    }
    return Scores.of(METRICS, values, examples=len(labels))


def calibration_error(predicted: Tensor, labels: Tensor, *, bins: int = 15) -> float:
    """Return the expected calibration error: the mean distance of confidence and accuracy over bins of confidence.

    Args:
        predicted: Class probabilities, shape (images, classes).
        labels: True classes, shape (images,).
        bins: Bins of equal width in [0, 1].

    Returns:
        The error, in [0, 1]. NaN if a probability is not finite.

    Source: Guo et al. 2017 (arXiv:1706.04599), eq. 3.
    """
    if not bool(torch.isfinite(predicted).all()):
        return math.nan
    confidence, predictions = predicted.double().max(1)
    is_right = (predictions == labels).double()
    bin_of = (confidence * bins).long().clamp_max(bins - 1)
    gaps = torch.zeros(bins, dtype=torch.float64).index_add_(0, bin_of, confidence - is_right)
    return float(gaps.abs().sum() / len(labels))
