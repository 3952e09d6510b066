"""Named numbers that an evaluation gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


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
        return f"Metrics({', '.join(f'{name}={value!r}' for name, value in self._values.items())})"
