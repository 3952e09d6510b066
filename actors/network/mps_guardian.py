"""The process that ends a node's MPS daemon when the last network that uses it has ended.

It is a program of its own, because a network may be killed and then cannot clean up. Networks hold a shared lock on the
file `users` for as long as they live. The guardian waits for an exclusive lock on it, and then quits the daemon.

It runs by its path, with the standard library alone: `python -I -S mps_guardian.py CONTROL FOLDER LOCK`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

CONTROL = "nvidia-cuda-mps-control"
"""NVIDIA's program that starts the daemon and sends it commands."""

ANSWER_SECONDS = 10.0
"""Longest wait for an answer of the daemon."""

QUIT_SECONDS = 30.0
"""Longest wait for the end of the daemon."""


def environment(folder: Path | None) -> dict[str, str]:
    """Return the environment in which a daemon is found.

    Args:
        folder: Folder of inarch's own daemon. None: the environment as it is.
    """
    if folder is None:
        return dict(os.environ)
    return dict(os.environ) | variables(folder)


def variables(folder: Path) -> dict[str, str]:
    """Return the variables by which CUDA finds inarch's own daemon.

    Args:
        folder: Folder of the daemon.
    """
    return {"CUDA_MPS_PIPE_DIRECTORY": str(folder / "pipe"), "CUDA_MPS_LOG_DIRECTORY": str(folder / "log")}


def ask(control: str, command: str, folder: Path | None) -> str | None:
    """Send a command to a daemon and return its answer. None if no daemon answers.

    Args:
        control: Path of NVIDIA's program.
        command: The command.
        folder: As in `environment`.
    """
    try:
        done = subprocess.run(
            [control],
            input=f"{command}\n",
            env=environment(folder),
            capture_output=True,
            text=True,
            timeout=ANSWER_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 and "Cannot find" not in done.stdout + done.stderr else None


@contextlib.contextmanager
def starting(folder: Path) -> Iterator[None]:
    """Hold the lock under which the daemon is started and ended.

    Args:
        folder: Folder of the daemon.

    Yields:
        Nothing.
    """
    with (folder / "starting").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def guard(control: str, folder: Path, lock: int) -> None:
    """Wait until no network uses the daemon, and quit it.

    Args:
        control: Path of NVIDIA's program.
        folder: Folder of the daemon.
        lock: Open file that shows networks that there is a guardian. It is closed.
    """
    with (folder / "users").open("a") as users:
        while True:
            fcntl.flock(users, fcntl.LOCK_EX)
            fcntl.flock(users, fcntl.LOCK_UN)
            with starting(folder):  # no network joins meanwhile
                try:
                    fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                quit_daemon(control, folder)
                os.close(lock)
                return


def quit_daemon(control: str, folder: Path) -> None:
    """Quit inarch's own daemon, and wait until it has ended, but not forever.

    Args:
        control: Path of NVIDIA's program.
        folder: Folder of the daemon.
    """
    deadline = time.monotonic() + QUIT_SECONDS
    ask(control, f"quit -t {ANSWER_SECONDS:.0f}", folder)
    while time.monotonic() < deadline and ask(control, "get_server_list", folder) is not None:
        time.sleep(0.1)


if __name__ == "__main__":
    if os.fork() == 0:  # a grandchild, because Ray ends the children of a process with it
        os.setsid()
        guard(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
