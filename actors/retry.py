"""Storage that fails for a while is asked again; what it says for certain is not."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from inarch.population.errors import CheckpointError, MissingError, StorageError

RETRY_SECONDS = 2.0
"""Between attempts to reach what does not answer."""

T = TypeVar("T")


def retry(call: Callable[[], T], *, seconds: float, logger: logging.Logger | None = None) -> T:
    """What a call of storage gives, tried again while storage fails, for so long.

    Raises:
        CheckpointError, MissingError: what is asked for is damaged or not there; at once.
        StorageError: storage failed for all that time.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            return call()
        except (CheckpointError, MissingError):
            raise
        except StorageError as error:
            if logger is not None:
                logger.warning("storage failed: %s", error)
            if time.monotonic() > deadline:
                raise
            time.sleep(RETRY_SECONDS)
