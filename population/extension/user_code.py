"""Report errors of the caller's own functions and data sets briefly, with the last frames of the caller's code."""

from __future__ import annotations

import contextlib
import os
import sysconfig
import traceback
from collections.abc import Generator
from pathlib import Path

from inarch.population.errors import InarchError, UserCodeError

FRAMES = 4
"""Maximum number of frames of the caller's code in a message."""

LINES, LINE_LENGTH = 4, 400
"""Maximum number of lines of an error's own message in a report, and of characters in each line."""

LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
"""Folders of Python's own modules and of installed packages."""

_OWN = Path(__file__).parents[2]
_OWN_PACKAGES = tuple(f"{_OWN / name}{os.sep}" for name in ("population", "actors", "experiments"))


@contextlib.contextmanager
def user_code(what: str, *, remedy: str = "") -> Generator[None]:
    """Convert exceptions of the caller's code to UserCodeError.

    Args:
        what: Subject of the message, such as "the network function make_network".
        remedy: Advice for the end of the message. Empty for none.

    Raises:
        UserCodeError: The code raised an exception. An InarchError passes unchanged.
    """
    try:
        yield
    except InarchError:
        raise
    except Exception as error:  # the caller's code may raise anything
        raise UserCodeError(described(error, what, remedy=remedy)) from error


def described(error: BaseException, what: str, *, remedy: str = "") -> str:
    """Return a message about an error of the caller's code, with the last frames of that code.

    Args:
        error: The exception that the code raised.
        what: Subject of the message, such as "the network function make_network".
        remedy: Advice for the end of the message. Empty for none.
    """
    frames = frames_of(error)
    message = f"{what} raised {type(error).__name__}: {shortened(str(error))}"
    message += f"; {remedy}" if remedy else ""
    return f"{message}\n{frames}" if frames else message


def shortened(message: str) -> str:
    """Return an error message cut to LINES lines of LINE_LENGTH characters. A cut message ends with an ellipsis.

    Args:
        message: The message.
    """
    lines = message.strip().splitlines()[:LINES]
    short = "\n".join(line[:LINE_LENGTH] for line in lines)
    return short if short == message.strip() else f"{short} ..."


def place_of(error: BaseException) -> str:
    """Return the innermost file, line and function of the caller's code in an error's traceback.

    Args:
        error: The exception.

    Returns:
        "at <file>:<line> in <function>". Empty if the traceback has no frame of the caller's code.
    """
    own = _frames(error)[0]
    return f"at {own[-1].filename}:{own[-1].lineno} in {own[-1].name}" if own else ""


def frames_of(error: BaseException) -> str:
    """Format the last frames of the caller's code in an error's traceback, or of libraries if there are none.

    Args:
        error: The exception.

    Returns:
        At most FRAMES frames with two lines each, in Python's format. Empty without frames.
    """
    own, libraries = _frames(error)
    return "\n".join(
        f'  File "{frame.filename}", line {frame.lineno}, in {frame.name}\n    {frame.line}'
        for frame in (own or libraries)[-FRAMES:]
    )


def _frames(error: BaseException) -> tuple[list[traceback.FrameSummary], list[traceback.FrameSummary]]:
    """Return an error's frames in the caller's code, and those in libraries."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(_OWN_PACKAGES) and not frame.filename.startswith("<")
    ]
    own = [frame for frame in frames if not frame.filename.startswith(LIBRARIES)]
    return own, [frame for frame in frames if frame.filename.startswith(LIBRARIES)]
