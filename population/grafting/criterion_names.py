"""The criteria by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from inarch.population.extension.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor


class Criterion(Protocol):
    """Measures the information of a layer."""

    def __call__(self, weight: Tensor, *, bins: int, name: str) -> Tensor | float:
        """Return the information of a layer. More is better.

        Args:
            weight: The layer's weights, shape (filters, ...).
            bins: graft.bins.
            name: The layer's name, for errors.
        """
        ...


CRITERIA: Registry[Criterion] = Registry("criterion", "graft.criterion")
"""Criteria that need only the layer's weights, by name."""

OTHER_CRITERIA = ("batch_norm", "constant", "random")
"""Criteria that need something else, or nothing."""


def check_criterion(criterion: str) -> None:
    """Raise ConfigError if there is no criterion of this name."""
    if criterion not in OTHER_CRITERIA:
        CRITERIA.check(criterion)


NAMES = (
    *("entropy", "l1", "summed_entropy", "robust_entropy", "differential_entropy", "orthogonality"),
    "effective_rank",
)
"""Names of the library's own criteria that need only the layer's weights."""

CRITERIA.add_paths({name: f"inarch.population.grafting.criteria:by_{name}" for name in NAMES})
