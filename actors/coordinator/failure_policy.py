"""Whether a network that failed is restarted from its newest checkpoint, or given up."""

from __future__ import annotations

from ray.exceptions import RayError

from inarch.population.errors import DataError, InarchError, StorageError, UnreadableImageError


def is_worth_a_restart(error: BaseException, *, has_worked: bool) -> bool:
    """Decide by what ended the network.

    A lost process, storage that fails and data that cannot be reached may work again. So may the network's own code
    where it has worked before, as when a device is lost. What inarch found wrong stays wrong, and so does an image that
    cannot be decoded.

    Args:
        error: What the network raised, or Ray's error about its process.
        has_worked: Whether the network has completed an interval.
    """
    if isinstance(error, UnreadableImageError):
        return False
    if isinstance(error, InarchError):
        return isinstance(error, (StorageError, DataError))
    return isinstance(error, RayError) or has_worked
