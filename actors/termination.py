"""End a driver in order: SIGTERM and Ctrl-C stop its runs with a checkpoint of every network.

`ray.init` replaces the handler of SIGTERM, and its C++ core then aborts the process (status 134). `connect` therefore
puts the caller's handler back, or, where there was none, one that raises `Terminated`. Runs that are still live when
the process exits are stopped at exit.
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
"""Exit statuses after Ctrl-C and SIGTERM: 128 and the signal's number, as a shell reports them."""

EXIT_SECONDS = 25.0
"""Runs that are live at exit have so long to write their checkpoints: Kubernetes kills 30 s after SIGTERM."""


class Terminated(SystemExit):
    """SIGTERM asked the process to end."""

    def __init__(self) -> None:
        super().__init__(TERMINATED_STATUS)


def exit_status(error: BaseException) -> int:
    """Return the exit status for an interruption."""
    return TERMINATED_STATUS if isinstance(error, Terminated) else INTERRUPTED_STATUS


class _Stoppable(Protocol):
    """What the stop at exit needs of a run."""

    name: str

    @property
    def path(self) -> str: ...

    def is_live(self) -> bool: ...

    def ask_to_stop(self) -> None: ...

    def stop(self, *, seconds: float = ...) -> None: ...


_runs: list[_Stoppable] = []

_signals: list[int] = []
"""SIGTERMs that have come."""


def stop_at_exit(run: _Stoppable) -> None:
    """Stop a run in order if this process exits before the run ends."""
    if not _runs:
        atexit.unregister(_stop_runs)
        atexit.register(_stop_runs)  # after Ray registered its own shutdown, so that it runs before
    _runs.append(run)


def forget(run: _Stoppable) -> None:
    """Do not stop a run at exit, because the user asked to leave at once."""
    if run in _runs:
        _runs.remove(run)


def _stop_runs() -> None:
    """Stop all live runs together within one deadline. An interruption ends the wait."""
    deadline = time.monotonic() + EXIT_SECONDS
    with contextlib.suppress(KeyboardInterrupt, SystemExit):
        live = []
        for run in _runs:
            with contextlib.suppress(Exception):
                if ray.is_initialized() and run.is_live():
                    run.ask_to_stop()
                    live.append(run)
        for run in live:
            with contextlib.suppress(Exception):
                run.stop(seconds=max(0.1, deadline - time.monotonic()))
                print(f"run {run.name} stopped; resume it by: inarch resume {run.path}", file=sys.stderr)


@contextlib.contextmanager
def as_terminated() -> Iterator[None]:
    """Restore `Terminated` around a call of Ray, which converts it to a SystemExit of its own."""
    try:
        yield
    except SystemExit as error:
        if isinstance(error, Terminated) or not _signals:
            raise
        raise Terminated from None


@contextlib.contextmanager
def own_sigterm() -> Iterator[None]:
    """Restore the caller's SIGTERM handler after `ray.init`, or raise `Terminated` if there was none."""
    if threading.current_thread() is not threading.main_thread():
        yield  # handlers belong to the main thread
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as error:
        raise Terminated from error  # Ray's own handler, while it starts
    finally:
        is_default = before in (signal.SIG_DFL, None) or getattr(before, "__module__", "").startswith("ray")
        signal.signal(signal.SIGTERM, _raise_terminated if is_default else before)


def _raise_terminated(number: int, frame: FrameType | None) -> None:
    _signals.append(number)
    raise Terminated


class Interruptions:
    """SIGINT and SIGTERM while a command runs. Each raises its exception and is recorded, since an exception that is
    raised inside a hook of `os.fork` is lost."""

    def __init__(self) -> None:
        self._noted: BaseException | None = None

    def __enter__(self) -> Interruptions:
        self._before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raise the exception of a signal that arrived, if its own was lost."""
        if self._noted is not None:
            raise self._noted

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGTERM:
            _signals.append(number)
        self._noted = KeyboardInterrupt() if number == signal.SIGINT else Terminated()
        raise self._noted
