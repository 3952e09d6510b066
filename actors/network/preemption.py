"""Handle SIGTERM, which a cloud sends to a process before it takes the machine back."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType


def handle_sigterm(move: Callable[[], bool]) -> bool:
    """Call a function at SIGTERM, in place of the previous handler. Ray's own handler ends the process at once.

    Python runs the function in the main thread, within a second or so, because Ray's main loop looks for signals.

    Args:
        move: Lets the network write a checkpoint and end. If the network does not train, it returns False, and the
            previous handler is called.

    Returns:
        Whether the handler was installed. Python allows that only in the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        return False
    previous, owner = signal.getsignal(signal.SIGTERM), os.getpid()

    def handle(number: int, frame: FrameType | None) -> None:
        if os.getpid() == owner and move():
            return
        if callable(previous):
            previous(number, frame)
        else:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, handle)
    return True
