"""How an exchange of a member ended, what follows from it, and how long its phases took."""

from __future__ import annotations

import time
from dataclasses import dataclass

from inarch.population.exchange import ExchangeResult
from inarch.population.membership.outcome import ExchangeOutcome
from inarch.population.training.progress import Progress


@dataclass(frozen=True, kw_only=True)
class ExchangeSummary:
    """How an exchange of a member ended."""

    outcome: ExchangeOutcome
    scions: tuple[int, ...] = ()
    """Ids of the donors."""
    staleness_intervals: float | None = None
    """How far the first donor's snapshot was behind, in intervals. None without a donor."""
    alpha: float | None = None
    """Share that the model kept of its own weights, a mean over layers. None without a graft."""
    seconds: float = 0.0
    """Duration of the exchange, in seconds."""


@dataclass(frozen=True, kw_only=True)
class ExchangeEffects:
    """What every rank must do after an exchange."""

    progress: Progress
    must_stop: bool
    resets_momentum: bool
    rate_factor: float


class PhaseClock:
    """Measures the phases of an exchange."""

    def __init__(self) -> None:
        """Start the clock."""
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, phase: str) -> None:
        """Record the end of a phase, in `seconds`.

        Args:
            phase: Name of the phase.
        """
        now = time.perf_counter()
        self.seconds[phase], self._last = now - self._last, now


def summary_of(result: ExchangeResult) -> ExchangeSummary:
    """Return how an exchange ended.

    Args:
        result: Result of the exchange rule.
    """
    scions = [item.scion for item in result.contributions if item.scion is not None]
    return ExchangeSummary(
        outcome=result.outcome,
        scions=tuple(scion.snapshot.origin.network_id for scion in scions),
        staleness_intervals=scions[0].staleness.intervals if scions else None,
        alpha=1.0 - sum(item.scion_weight for item in result.contributions) if result.contributions else None,
    )
