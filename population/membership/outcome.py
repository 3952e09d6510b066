"""How an exchange can end."""

from __future__ import annotations

from enum import StrEnum


class Refusal(StrEnum):
    """Why a network took no scion this time. Counted in the history; never an error."""

    NO_NEIGHBOR = "no_neighbor"
    """It is alone, or its topology gives it nobody."""
    NOTHING_YET = "nothing_yet"
    """No neighbor has a snapshot."""
    TOO_OLD = "too_old"
    """Every snapshot trails by more than the limit."""
    STRUCTURE = "structure"
    """The scion is of another structure."""
    NOT_FINITE = "not_finite"
    """The scion holds NaN or infinity."""
    GONE = "gone"
    """The scion vanished with its owner."""
    LATE = "late"
    """The scion, or the coordinator's answer, had not arrived when it was needed."""
    BARRIER_TIMEOUT = "barrier_timeout"
    """lockstep: others did not reach the barrier before its deadline."""
    STOPPING = "stopping"
    """The run is being stopped."""
