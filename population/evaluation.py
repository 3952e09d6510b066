"""How good networks are: one by one, as an ensemble, and averaged into one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from inarch.population.data import Batch
from inarch.population.layers import is_private
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Of one network, ensemble or soup on one part of the data."""

    loss: float | None
    """Mean cross-entropy, nats; None in retrieval."""
    accuracy: float
    """Part of the images whose class is right; in retrieval, whose nearest image is of their class (CMC rank-1)."""
    images: int
    """How many were judged; in retrieval, how many asked."""
    top5: float | None = None
    """Part whose class is among the five most probable, or among those of the five nearest images (CMC rank-5); None
    where it was not asked, or classes are no more."""
    calibration_error: float | None = None
    """Expected calibration error (l1, 15 bins), in [0, 1]; None where it was not asked, and in retrieval."""
    mean_average_precision: float | None = None
    """In [0, 1]; None in classification."""

    @property
    def score(self) -> float:
        """What networks are ranked by: mean average precision in retrieval, else accuracy."""
        return self.accuracy if self.mean_average_precision is None else self.mean_average_precision


class Measure(Protocol):
    """How networks are judged on one part of the data: alone, together, and against each other."""

    def judge(self, network: nn.Module, batches: Iterable[Batch]) -> Scores:
        """What is needed while a network trains; its mode is put back."""
        ...

    def outputs(self, network: nn.Module, batches: Iterable[Batch]) -> tuple[Tensor, Tensor]:
        """What a network says of each image, (images, ...), and labels (images,), on the CPU."""
        ...

    def together(self, outputs: Sequence[Tensor]) -> Tensor:
        """What several networks say as one: their ensemble."""
        ...

    def scores(self, outputs: Tensor, labels: Tensor) -> Scores:
        """All scores."""
        ...

    def choices(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """What each image is taken for, one integer each: what two networks agree in."""
        ...


@dataclass(frozen=True, kw_only=True)
class Part:
    """Images that judge, and by what measure."""

    batches: Callable[[], Iterable[Batch]]
    """From the beginning with each call."""
    measure: Measure


class ClassificationMeasure:
    """Images are given to classes; an ensemble is the mean of its networks' probabilities."""

    def judge(self, network: nn.Module, batches: Iterable[Batch]) -> Scores:
        return evaluate(network, batches)

    def outputs(self, network: nn.Module, batches: Iterable[Batch]) -> tuple[Tensor, Tensor]:
        return probabilities(network, batches)

    def together(self, outputs: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(outputs)).mean(0)

    def scores(self, outputs: Tensor, labels: Tensor) -> Scores:
        return score_probabilities(outputs, labels)

    def choices(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return outputs.argmax(1)


@torch.no_grad()
def evaluate(network: nn.Module, batches: Iterable[Batch]) -> Scores:
    """Scores of a network in evaluation mode; its mode is put back. Waits for the device once, at the end."""
    was_training = network.training
    network.eval()
    loss: Tensor | float = 0.0
    correct: Tensor | int = 0
    count = 0
    for images, labels in batches:
        logits = network(images).float()
        loss = loss + F.cross_entropy(logits, labels, reduction="sum")
        correct = correct + (logits.argmax(1) == labels).sum()
        count += len(labels)
    network.train(was_training)
    return Scores(loss=float(loss) / count, accuracy=int(correct) / count, images=count)


@torch.no_grad()
def probabilities(network: nn.Module, batches: Iterable[Batch]) -> tuple[Tensor, Tensor]:
    """Class probabilities (images, classes), float64, and labels (images,), on the CPU."""
    network.eval()
    outputs = [(network(images).double().softmax(1).cpu(), labels.cpu()) for images, labels in batches]
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


def soup(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Mean of the weights of several networks of one structure; entries that are no
    weights are the first's.

    Source: Wortsman et al. 2022 (arXiv:2203.05482), uniform soup.
    """
    first = states[0]
    return {
        key: torch.stack([state[key].double() for state in states]).mean(0).to(value.dtype)
        if value.is_floating_point() and not is_private(key)
        else value.clone()
        for key, value in first.items()
    }


def with_statistics(network: nn.Module, images: Iterable[Tensor]) -> nn.Module:
    """A copy of a network whose batch norm statistics are measured anew, from batches of images: an average's are not
    the averages'."""
    fresh = copy.deepcopy(network)
    torch.optim.swa_utils.update_bn(images, fresh)
    return fresh
