"""Interfaces of evaluation: evaluators and evaluation sets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from inarch.population.evaluation.metrics import Scores


class Evaluator(Protocol):
    """Evaluates networks on one split of the data: alone, as an ensemble, and for their agreement."""

    def evaluate(self, model: nn.Module, batches: Iterable[Any]) -> Scores:
        """Return the metrics that are needed during training.

        Args:
            model: The network. Its former mode is restored.
            batches: Batches of the task.
        """
        ...

    def outputs(self, model: nn.Module, batches: Iterable[Any]) -> tuple[Tensor, Tensor]:
        """Return a network's outputs, shape (examples, ...), and the targets, shape (examples, ...), on the CPU.

        Args:
            model: The network. It may be left in evaluation mode.
            batches: Batches of the task.
        """
        ...

    def ensemble(self, outputs: Sequence[Tensor]) -> Tensor | None:
        """Combine the outputs of several networks into the output of their ensemble.

        Args:
            outputs: The output of each network, as from `outputs`.

        Returns:
            The ensemble's output, or None if the task has no ensemble.
        """
        ...

    def scores(self, outputs: Tensor, targets: Tensor) -> Scores:
        """Return all metrics of an output.

        Args:
            outputs: Output of a network or an ensemble.
            targets: Targets, as from `outputs`.
        """
        ...

    def predictions(self, outputs: Tensor, targets: Tensor) -> Tensor | None:
        """Return the predictions that the agreement of two networks compares: integers, one for each example or query.

        Args:
            outputs: Output of a network or an ensemble.
            targets: Targets, as from `outputs`.

        Returns:
            The predictions, or None if the outputs are not discrete.
        """
        ...


@runtime_checkable
class ScoresExamples(Protocol):
    """An evaluator whose primary metric is a mean over examples. Its noise is then known."""

    def example_scores(self, outputs: Tensor, targets: Tensor) -> Tensor | None:
        """Return the score of each example. Their mean is the score of the outputs.

        Args:
            outputs: Output of a network or an ensemble.
            targets: Targets, as from `Evaluator.outputs`.

        Returns:
            Scores, of which greater ones are better, shape (examples,). None if they are not known.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class EvaluationSet:
    """Data for an evaluation, and their evaluator."""

    batches: Callable[[], Iterable[Any]]
    """Returns the batches. Each call starts from the first batch."""
    evaluator: Evaluator
    """Evaluator of the task."""
