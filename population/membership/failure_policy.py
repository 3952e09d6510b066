"""The failure policy: whether a network whose process ended is restarted, marked failed, or ignored."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from inarch.population.errors import DataError, InarchError, StorageError, UnreadableImageError
from inarch.population.membership.members import OUTSIDE, MemberState


class FailureDecision(StrEnum):
    """What to do about a network whose process ended."""

    RESTART = "restart"
    """Start a new incarnation from the newest checkpoint."""
    FAIL = "fail"
    """Mark the network failed. The others continue."""
    IGNORE = "ignore"
    """The network was to end anyway, or another incarnation has taken its place."""


@dataclass(frozen=True, kw_only=True)
class NetworkExit:
    """How a network's process ended without finishing its work."""

    error: Exception | None = None
    """What the network's code raised. None if the process died or lost contact with the coordinator."""

    @property
    def may_be_temporary(self) -> bool:
        """Whether the cause may be gone after a restart, whatever the network did before."""
        if isinstance(self.error, UnreadableImageError):
            return False
        return self.error is None or isinstance(self.error, (StorageError, DataError))


@dataclass(frozen=True, kw_only=True)
class NetworkHistory:
    """What is known of a network when its process ends."""

    state: MemberState
    is_current: bool = True
    """Whether the process was the network's newest incarnation."""
    is_run_open: bool = True
    """Whether networks of the run may still start."""
    has_worked: bool = False
    """Whether it has completed an interval, or trained before a restart."""
    restarts: int = 0
    """Restarts without progress."""
    max_restarts: int = 3


def decide(exit: NetworkExit, history: NetworkHistory) -> FailureDecision:
    """Decide what to do about a network whose process ended.

    A dead process, failing storage and data that cannot be reached may work after a restart. So may the network's own
    code if it has worked before, for example after a device was lost. An error that inarch found stays an error, and so
    does an image that cannot be decoded.

    Args:
        exit: How the process ended.
        history: What is known of the network.
    """
    if not history.is_current or history.state in OUTSIDE:
        return FailureDecision.IGNORE
    is_users_error = exit.error is not None and not isinstance(exit.error, InarchError)
    if not (exit.may_be_temporary or (is_users_error and history.has_worked)):
        return FailureDecision.FAIL
    if history.state is MemberState.LEAVING or not history.is_run_open:
        return FailureDecision.IGNORE
    return FailureDecision.FAIL if history.restarts >= history.max_restarts else FailureDecision.RESTART
