"""How the exchange of an interval can end."""

from __future__ import annotations

from enum import StrEnum


class ExchangeOutcome(StrEnum):
    """How the exchange of an interval ended. Counted in the history. None of them is an error."""

    GRAFTED = "grafted"
    """The rule changed the network, or gave it peers."""
    UNCHANGED = "unchanged"
    """The rule left the network as it was. In async mode, also the outcome of the last interval."""
    OFF = "off"
    """The run has no exchange rule."""
    NO_NEIGHBOR = "no_neighbor"
    """The topology gives the network no neighbor."""
    NOTHING_YET = "nothing_yet"
    """No neighbor has published a snapshot."""
    TOO_STALE = "too_stale"
    """Every snapshot is further behind than the limit."""
    STRUCTURE = "structure"
    """The scion, or what was published with it, has a form that no network of this run has: other tensors, other
    information, or more training than the schedule has."""
    NOT_FINITE = "not_finite"
    """The scion holds NaN or infinity, or a variance of batch norm below zero."""
    DIVERGING = "diverging"
    """The scion's weights are finite, but more than ten times as large as the network's own."""
    GONE = "gone"
    """The scion was lost with the process that owned it."""
    LATE = "late"
    """The scion, or the coordinator's answer, had not arrived in time."""
    BARRIER_TIMEOUT = "barrier_timeout"
    """lockstep: other networks did not reach the barrier before its deadline."""
    STOPPING = "stopping"
    """The run is stopping."""

    @property
    def is_refusal(self) -> bool:
        """Whether the network wanted a scion and got none."""
        return self not in (ExchangeOutcome.GRAFTED, ExchangeOutcome.UNCHANGED, ExchangeOutcome.OFF)
