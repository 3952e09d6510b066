"""Shut a driver down cleanly: SIGTERM and Ctrl-C stop its runs, and every network writes a checkpoint.

`ray.init` replaces the handler of SIGTERM, and Ray's C++ core then aborts the process (status 134). `connect` therefore
restores the caller's handler. If the caller had none, `connect` installs a handler that raises `Terminated`. Runs that
are still live when the process exits are stopped at exit.
"""

from __future__ import annotations

import atexit
import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Protocol

import ray

INTERRUPTED_STATUS, TERMINATED_STATUS = 130, 143
"""Exit statuses after Ctrl-C and SIGTERM: 128 plus the signal's number, as a shell reports them."""

EXIT_SECONDS = 25.0
"""Seconds in which runs that are live at exit write their checkpoints. Kubernetes kills 30 s after SIGTERM."""


class Terminated(SystemExit):
    """Exception that ends the process after SIGTERM."""

    def __init__(self) -> None:
        """Set the exit status of SIGTERM."""
        super().__init__(TERMINATED_STATUS)


def exit_status(error: BaseException) -> int:
    """Return the exit status of a process that an interruption ends.

    Args:
        error: The interruption: `Terminated` for SIGTERM, any other exception for Ctrl-C.
    """
    return TERMINATED_STATUS if isinstance(error, Terminated) else INTERRUPTED_STATUS


class _Stoppable(Protocol):
    """Interface of a run that can be stopped at exit."""

    name: str

    @property
    def path(self) -> str: ...

    def is_live(self) -> bool: ...

    def ask_to_stop(self) -> None: ...

    def stop(self, *, seconds: float = ...) -> object: ...


_runs: list[_Stoppable] = []

_signals: list[int] = []
"""SIGTERMs that this process has received, as signal numbers."""


def stop_at_exit(run: _Stoppable) -> None:
    """Register a run to be stopped, with checkpoints, if this process exits before the run ends.

    Args:
        run: The run. It stays registered until `forget` removes it.
    """
    if not _runs:
        atexit.unregister(_stop_runs)
        atexit.register(_stop_runs)  # registered after Ray's own shutdown, hence run before it
    _runs.append(run)


def forget(run: _Stoppable) -> None:
    """Leave a run alone at exit, because the user wants the process to end at once.

    Args:
        run: The run. Nothing happens if it is not registered.
    """
    if run in _runs:
        _runs.remove(run)


def _stop_runs() -> None:
    """Stop all live runs at the same time, within one deadline. An interruption ends the wait."""
    deadline = time.monotonic() + EXIT_SECONDS
    with contextlib.suppress(KeyboardInterrupt, SystemExit):
        live_runs = []
        for run in _runs:
            with contextlib.suppress(Exception):
                if ray.is_initialized() and run.is_live():
                    run.ask_to_stop()
                    live_runs.append(run)
        for run in live_runs:
            with contextlib.suppress(Exception):
                run.stop(seconds=max(0.1, deadline - time.monotonic()))
                print(f"run {run.name} stopped; resume it by: inarch resume {run.path}", file=sys.stderr)


@contextlib.contextmanager
def as_terminated() -> Iterator[None]:
    """Raise `Terminated` again if a call of Ray within this context has converted it to a plain SystemExit."""
    try:
        yield
    except SystemExit as error:
        if isinstance(error, Terminated) or not _signals:
            raise
        raise Terminated from None


@contextlib.contextmanager
def own_sigterm() -> Iterator[None]:
    """Restore the caller's SIGTERM handler after `ray.init`, or install one that raises `Terminated`."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python sets signal handlers in the main thread only
        return
    previous_handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as error:
        raise Terminated from error  # raised by the handler that Ray has while it starts
    finally:
        is_default = previous_handler in (signal.SIG_DFL, None) or getattr(
            previous_handler, "__module__", ""
        ).startswith("ray")
        signal.signal(signal.SIGTERM, _raise_terminated if is_default else previous_handler)


def _raise_terminated(number: int, frame: FrameType | None) -> None:
    _signals.append(number)
    raise Terminated


class Interruptions:
    """Context that handles SIGINT and SIGTERM while a command runs.

    Each signal raises its exception. The exception is also recorded, because Python loses an exception that is raised
    inside a hook of `os.fork`.
    """

    def __init__(self) -> None:
        """Create a context that has seen no signal."""
        self._noted: BaseException | None = None

    def __enter__(self) -> Interruptions:
        self._before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raise the recorded exception of a signal, in case Python has lost it. Do nothing if no signal has arrived."""
        if self._noted is not None:
            raise self._noted

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGTERM:
            _signals.append(number)
        self._noted = KeyboardInterrupt() if number == signal.SIGINT else Terminated()
        raise self._noted
