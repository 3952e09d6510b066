"""What every kind of evaluation provides: scores, a measure, and the data that it is applied to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from inarch.population.data import Batch


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


class Evaluator(Protocol):
    """How networks are judged on one part of the data: alone, together, and against each other."""

    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> Scores:
        """What is needed while a network trains; its mode is put back."""
        ...

    def outputs(self, model: nn.Module, batches: Iterable[Batch]) -> tuple[Tensor, Tensor]:
        """What a network says of each image, (images, ...), and labels (images,), on the CPU."""
        ...

    def ensemble(self, outputs: Sequence[Tensor]) -> Tensor:
        """What several networks say as one: their ensemble."""
        ...

    def scores(self, outputs: Tensor, labels: Tensor) -> Scores:
        """All scores."""
        ...

    def predictions(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """What each image is taken for, one integer each: what two networks agree in."""
        ...


@dataclass(frozen=True, kw_only=True)
class EvaluationSet:
    """Images that judge, and by what measure."""

    batches: Callable[[], Iterable[Batch]]
    """From the beginning with each call."""
    measure: Evaluator
