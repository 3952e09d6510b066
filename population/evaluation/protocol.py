"""Interfaces of evaluation: scores, evaluators, and evaluation sets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from inarch.population.data import Batch


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Scores of a network, ensemble or soup on one split of the data."""

    loss: float | None
    """Mean cross-entropy in nats. None in retrieval."""
    accuracy: float
    """Share of the images whose class is predicted correctly, in [0, 1]. In retrieval: share of the queries whose
    nearest image is of their class (CMC rank-1)."""
    images: int
    """Number of images evaluated. In retrieval: queries with a matching image."""
    top5: float | None = None
    """Share of the images whose class is among the five most probable. In retrieval: share of the queries with an
    image of their class among the five nearest (CMC rank-5). None if not computed, or with at most five classes."""
    calibration_error: float | None = None
    """Expected calibration error (l1, 15 bins), in [0, 1]. None if not computed, and in retrieval."""
    mean_average_precision: float | None = None
    """Mean average precision, in [0, 1]. None in classification."""

    @property
    def score(self) -> float:
        """Score that ranks networks: mean average precision in retrieval, otherwise accuracy."""
        return self.accuracy if self.mean_average_precision is None else self.mean_average_precision


class Evaluator(Protocol):
    """Evaluates networks on one split of the data: alone, as an ensemble, and for their agreement."""

    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> Scores:
        """Return the scores that are needed during training.

        Args:
            model: The network. Its former mode is restored.
            batches: Images and labels.
        """
        ...

    def outputs(self, model: nn.Module, batches: Iterable[Batch]) -> tuple[Tensor, Tensor]:
        """Return a network's output for each image, (images, ...), and labels (images,), on the CPU.

        Args:
            model: The network. It may be left in evaluation mode.
            batches: Images and labels.
        """
        ...

    def ensemble(self, outputs: Sequence[Tensor]) -> Tensor:
        """Combine the outputs of several networks into the output of their ensemble.

        Args:
            outputs: The output of each network, as from `outputs`.
        """
        ...

    def scores(self, outputs: Tensor, labels: Tensor) -> Scores:
        """Return all scores of an output.

        Args:
            outputs: Output of a network or an ensemble.
            labels: Labels of the images, shape (images,).
        """
        ...

    def predictions(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the predictions that the agreement of two networks compares: one integer for each image or query.

        Args:
            outputs: Output of a network or an ensemble.
            labels: Labels of the images, shape (images,).
        """
        ...


@dataclass(frozen=True, kw_only=True)
class EvaluationSet:
    """Images for an evaluation, and their evaluator."""

    batches: Callable[[], Iterable[Batch]]
    """Returns the batches. Each call starts from the first batch."""
    measure: Evaluator
    """Evaluator of the task."""
