"""Retry calls to storage that may fail for a while. A missing or damaged file is an answer and is not retried."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from inarch.population.errors import CheckpointError, DamagedError, MissingError, StorageError

RETRY_SECONDS = 2.0
"""Pause in seconds between two attempts to reach storage or an actor that does not answer."""

T = TypeVar("T")


def retry(call: Callable[[], T], *, seconds: float, logger: logging.Logger | None = None) -> T:
    """Return the result of a call to storage, and repeat the call while storage fails.

    Args:
        call: The call. It raises StorageError if storage fails.
        seconds: Time after which a failure is raised instead of retried.
        logger: Logger that receives a warning for each failure. None: nothing is logged.

    Raises:
        CheckpointError, DamagedError, MissingError: The file is damaged or does not exist. This is raised at once.
        StorageError: Storage still failed after `seconds`.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            return call()
        except (CheckpointError, DamagedError, MissingError):
            raise
        except StorageError as error:
            if logger is not None:
                logger.warning("storage failed: %s", error)
            if time.monotonic() > deadline:
                raise
            time.sleep(RETRY_SECONDS)
