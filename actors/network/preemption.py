"""Notice that this process is to end: SIGTERM, as a cloud sends it before it takes a machine back."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType


def handle_sigterm(move: Callable[[], bool]) -> bool:
    """Call a function at SIGTERM, in place of the handler so far. Ray's handler ends the process at once.

    Python runs the function in the main thread, within a second or so, because Ray's main loop looks for signals.

    Args:
        move: Lets the network write a checkpoint and end. It returns False if the network does not train. The handler
            so far is then called.

    Returns:
        Whether the handler was installed. Python allows that only in the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        return False
    earlier, owner = signal.getsignal(signal.SIGTERM), os.getpid()

    def handle(number: int, frame: FrameType | None) -> None:
        if os.getpid() == owner and move():
            return
        if callable(earlier):
            earlier(number, frame)
        else:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, handle)
    return True
