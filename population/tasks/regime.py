"""The regime of a run: how far weight decay and the exchanges change a network's weights over the whole schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Regime:
    """What a configuration amounts to over the whole schedule, for each network. `population.training.regime` fills it.

    The numbers are those that the configuration plans. Refused exchanges and rates that PBT changes are not in them.
    """

    steps: int
    """Training steps of a network."""
    decay_times: tuple[float, float]
    """Least and greatest decay time D of the networks. The norm of a weight without gradient falls as exp(-D)."""
    rule: str
    """Exchange rule."""
    num_exchanges: int
    """Exchanges of a network. 0 if it is alone, or if the rule is none."""
    pull: float | None = None
    """papa: weight of the mean at the first exchange."""
    pull_falls: bool = False
    """papa: whether that weight falls with the learning rate."""
    total_pull: float | None = None
    """papa: weights of the mean, summed over the exchanges. wash: how often a weight changes place, a mean over the
    weights. graft: sum of 1 - alpha, if alpha is 0.5 in the mean and scions are fresh. None: the rule moves no weights,
    or it is not known how many."""
    remaining: float | None = None
    """papa: share of a network's difference to the mean that remains, if nothing but the pulls changes it. None if a
    network does not see the whole population. wash: share of the weights that never change place."""

    @property
    def decay_time(self) -> float:
        """Mean of the least and the greatest decay time."""
        return sum(self.decay_times) / 2

    def lines(self) -> tuple[str, str]:
        """Return a line on weight decay and a line on the exchanges."""
        return f"weight decay: {self._decay_text()}", f"exchange: {self.exchange_text()}"

    def _decay_text(self) -> str:
        least, greatest = self.decay_times
        if greatest == 0:
            return "none (D = 0)"
        spread = decay_time_text(self.decay_times)
        kept = " to ".join(dict.fromkeys(share_text(math.exp(-time)) for time in (greatest, least)))
        return f"D = {spread} over {self.steps:,} steps; a weight without gradient keeps {kept} of its size"

    def exchange_text(self) -> str:
        """Return how strongly the exchanges mix a network with the others, in words."""
        times = f"{self.num_exchanges:,} times"
        if not self.num_exchanges:
            return "none"
        if self.rule == "papa":
            return f"papa pulls {times} by {self._pull_text()}{self._remaining_text()}"
        if self.rule == "wash" and self.total_pull is not None:
            return (
                f"wash shuffles {times}; a weight changes place {self.total_pull:.2g} times in the mean, and "
                f"{share_text(self.remaining or 0.0)} of the weights never do"
            )
        if self.total_pull is not None:
            half = f"about half of the weights each time, {self.total_pull:,.1f} times all in sum"
            return f"{self.rule} {times}, {half} (less for stale scions)"
        own = ", with nothing from other networks" if self.rule == "graft" else ""
        return f"{self.rule} {times}{own}"

    def _pull_text(self) -> str:
        falls = ", falling with the learning rate" if self.pull_falls else ""
        total = 100 * (self.total_pull or 0.0)
        total_text = f"{total:,.0f}" if total >= 100 else f"{total:.3g}"
        return f"{100 * (self.pull or 0.0):.3g} %{falls} (in sum {total_text} %)"

    def _remaining_text(self) -> str:
        if self.remaining is None:
            return ", each toward the mean of its own neighbors"
        return f"; {share_text(self.remaining)} of a difference to the mean would remain without training"


def decay_time_text(decay_times: tuple[float, float]) -> str:
    """Return the range of decay times, or a single one if they are equal.

    Args:
        decay_times: The least and the greatest.
    """
    return " to ".join(dict.fromkeys(f"{time:.3g}" for time in decay_times))


def share_text(share: float) -> str:
    """Return a share in percent, with more digits if it is small.

    Args:
        share: A number in [0, 1].
    """
    return f"{share:.0%}" if share >= 0.01 or share == 0 else f"{share:.1%}" if share >= 0.001 else "less than 0.1%"
