"""Named numbers that an evaluation gives, and how they are read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from inarch.population.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric that a task names. The first metric of a task is its primary metric, which ranks networks."""

    name: str
    """Name in the result and, after `validation_`, in the history. A Python identifier."""
    heading: str = ""
    """Heading of its column in tables. Empty: the name."""
    higher_is_better: bool = True
    """Direction. False for losses and errors."""
    form: str = "{:.4f}"
    """Format of its values in tables, for `str.format`."""
    in_training: bool = True
    """Whether the evaluations during training give it too. Otherwise only the evaluation of the whole run does."""

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise ConfigError(f"a metric's name must be a Python identifier, got {self.name!r}")
        try:
            self.form.format(0.5)
        except (ValueError, LookupError) as error:
            raise ConfigError(f"the form of metric {self.name} cannot show a number: {self.form!r} ({error})") from None

    @property
    def title(self) -> str:
        """Heading of its column in tables."""
        return self.heading or self.name

    def text(self, value: float | None) -> str:
        """Return a value as text, empty for None.

        Args:
            value: Value of the metric.
        """
        return "" if value is None else self.form.format(value)

    def score(self, value: float) -> float:
        """Return the score of a value: the value, or its negative if lower is better. The function is its own inverse.

        Args:
            value: Value of the metric, or a score.
        """
        return value if self.higher_is_better else -value


def rank(score: float | None, network_id: int) -> tuple[float, int]:
    """Return a key that sorts networks by score, the best last. Of equal scores, the smaller id is better.

    Args:
        score: Score of the network, of which the greatest is the best. None, the worst: it was not evaluated. NaN is
            as bad.
        network_id: Id of the network.
    """
    return (-math.inf if score is None or math.isnan(score) else score), -network_id


class Metrics(Mapping[str, Any]):
    """Metrics by name, as a mapping and as attributes: `metrics["accuracy"]` and `metrics.accuracy`."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        """Wrap a mapping.

        Args:
            values: Metrics by name. Values are numbers, or None for a metric that does not apply.
        """
        self._values = dict(values)

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_") and name in self._values:
            return self._values[name]
        raise AttributeError(f"there is no metric {name!r}; there are {', '.join(self.__dict__.get('_values', {}))}")

    def __dir__(self) -> list[str]:
        return sorted([*super().__dir__(), *self._values])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self._values.items())})"


class Scores(Metrics):
    """Metrics of a network, ensemble or soup on one split of the data."""

    def __init__(self, values: Mapping[str, float | None], *, score: float, examples: int) -> None:
        """Create the scores.

        Args:
            values: Metrics by name. None for a metric that was not computed.
            score: Score that ranks networks, of which the greatest is the best.
            examples: Number of examples evaluated.
        """
        super().__init__(values)
        self.score, self.examples = score, examples

    @classmethod
    def of(cls, metrics: Sequence[Metric], values: Mapping[str, float | None], *, examples: int) -> Scores:
        """Return the scores of a task with these metrics. The first metric must have a value.

        Args:
            metrics: Metrics of the task.
            values: Metrics by name.
            examples: Number of examples evaluated.
        """
        primary = values[metrics[0].name]
        if primary is None:
            raise ValueError(f"the primary metric {metrics[0].name!r} has no value")
        return cls(values, score=metrics[0].score(primary), examples=examples)

    def row(self) -> dict[str, Any]:
        """Return the metrics and the number of examples, as JSON types."""
        return {**self, "examples": self.examples}
