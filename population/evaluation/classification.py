"""How good networks are: one by one, as an ensemble, and averaged into one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inarch.population.data import Batch
from inarch.population.evaluation.protocol import Scores


class ClassificationEvaluator:
    """Images are given to classes; an ensemble is the mean of its networks' probabilities."""

    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> Scores:
        return evaluate(model, batches)

    def outputs(self, model: nn.Module, batches: Iterable[Batch]) -> tuple[Tensor, Tensor]:
        return probabilities(model, batches)

    def ensemble(self, outputs: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(outputs)).mean(0)

    def scores(self, outputs: Tensor, labels: Tensor) -> Scores:
        return score_probabilities(outputs, labels)

    def predictions(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return outputs.argmax(1)


@torch.no_grad()
def evaluate(model: nn.Module, batches: Iterable[Batch]) -> Scores:
    """Scores of a network in evaluation mode; its mode is put back. Waits for the device once, at the end."""
    was_training = model.training
    model.eval()
    loss: Tensor | float = 0.0
    correct: Tensor | int = 0
    count = 0
    for images, labels in batches:
        logits = model(images).float()
        loss = loss + F.cross_entropy(logits, labels, reduction="sum")
        correct = correct + (logits.argmax(1) == labels).sum()
        count += len(labels)
    model.train(was_training)
    return Scores(loss=float(loss) / count, accuracy=int(correct) / count, images=count)


@torch.no_grad()
def probabilities(model: nn.Module, batches: Iterable[Batch]) -> tuple[Tensor, Tensor]:
    """Class probabilities (images, classes), float64, and labels (images,), on the CPU."""
    model.eval()
    outputs = [(model(images).double().softmax(1).cpu(), labels.cpu()) for images, labels in batches]
    return torch.cat([output for output, _ in outputs]), torch.cat([labels for _, labels in outputs])


def score_probabilities(predicted: Tensor, labels: Tensor) -> Scores:
    """All scores of class probabilities (images, classes) for labels (images,)."""
    from torchmetrics.functional import classification  # takes a second to import; networks that train never do

    num_classes = predicted.shape[1]
    chosen = predicted.gather(1, labels[:, None]).squeeze(1).clamp_min(1e-300)
    calibration = classification.multiclass_calibration_error(predicted, labels, num_classes, n_bins=15, norm="l1")
    top5 = (predicted.topk(5, dim=1).indices == labels[:, None]).any(1) if num_classes > 5 else None
    return Scores(
        loss=float(-chosen.log().mean()),
        accuracy=float((predicted.argmax(1) == labels).double().mean()),
        images=len(labels),
        top5=None if top5 is None else float(top5.double().mean()),
        calibration_error=float(calibration),
    )
