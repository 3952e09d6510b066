"""Let networks that share a GPU use NVIDIA's Multi-Process Service (MPS), so that their operations overlap.

The service is a daemon on each node. A process joins it when CUDA begins, if the environment names the daemon's folder.
A daemon that was there before is used and left alone. Otherwise the first network starts one, and a guardian
(`mps_guardian`) quits it when the last network of this user on the node has ended, however it ended.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path

from inarch.actors.network import mps_guardian
from inarch.actors.network.mps_guardian import CONTROL, ask, environment, starting, variables
from inarch.population.errors import ConfigError

START_SECONDS = 30.0
"""Longest wait for the daemon to start."""


@dataclass(frozen=True, kw_only=True)
class Mps:
    """Whether a process uses the service."""

    is_used: bool
    description: str
    """Which daemon is used, or why there is none."""
    user: TextIOWrapper | None = None
    """Open file whose lock shows that this process lives. None: the daemon is not inarch's own."""

    def __bool__(self) -> bool:
        return self.is_used


class _UnavailableError(Exception):
    """There is no daemon, and none can be started. The message says why."""


def join_mps(mode: str, *, folder: Path | None = None) -> Mps:
    """Let this process use the service. CUDA must not have begun in it.

    Args:
        mode: As `DeviceConfig.mps`.
        folder: Folder for a daemon of inarch's own. None: one of this user, in the system's folder for temporary files.

    Returns:
        The membership, which must be kept as long as the process lives.

    Raises:
        ConfigError: The mode is `on`, and there is no daemon.
    """
    if mode == "off":
        return Mps(is_used=False, description="device.mps is off")
    try:
        return _join(folder or Path(tempfile.gettempdir(), f"inarch-mps-{os.getuid()}"))
    except _UnavailableError as error:
        if mode == "on":
            raise ConfigError(
                f"device.mps=on needs NVIDIA's Multi-Process Service on each node with a GPU: {error}; with auto the "
                "networks share the GPU without it"
            ) from None
        return Mps(is_used=False, description=str(error))


def _join(folder: Path) -> Mps:
    control, named = shutil.which(CONTROL), os.environ.get("CUDA_MPS_PIPE_DIRECTORY")
    if named is not None:
        if control is not None and ask(control, "get_server_list", None) is None:
            raise _UnavailableError(f"CUDA_MPS_PIPE_DIRECTORY is {named}, where no daemon answers")
        return Mps(is_used=True, description=f"the daemon at {named}, which the environment names")
    if control is None:
        raise _UnavailableError(f"{CONTROL} is not on the PATH of this node")
    if ask(control, "get_server_list", None) is not None:
        return Mps(is_used=True, description="the daemon of this node, which was not started by inarch")
    _make(folder)
    with starting(folder):
        user = (folder / "users").open("a")
        fcntl.flock(user, fcntl.LOCK_SH)
        try:
            if ask(control, "get_server_list", folder) is None:
                _start(control, folder)
            _ensure_guardian(control, folder)
        except BaseException:
            user.close()
            raise
    os.environ.update(variables(folder))
    return Mps(is_used=True, description=f"a daemon of inarch at {folder}", user=user)


def _make(folder: Path) -> None:
    """Create the folders of the daemon, which belong to this user alone."""
    try:
        for path in (folder, folder / "pipe", folder / "log"):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise _UnavailableError(f"{folder} cannot be created: {error}") from None
    if folder.stat().st_uid != os.getuid():
        raise _UnavailableError(f"{folder} belongs to another user")


def _start(control: str, folder: Path) -> None:
    """Start the daemon and wait until it answers."""
    # Ray shows each actor its own GPU. The daemon must serve all of them.
    own = {name: value for name, value in environment(folder).items() if name != "CUDA_VISIBLE_DEVICES"}
    deadline = time.monotonic() + START_SECONDS
    try:
        status = subprocess.run(
            [control, "-d"],
            env=own,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=START_SECONDS,
        ).returncode
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _UnavailableError(f"{control} -d did not start a daemon: {error}") from None
    if status != 0:
        raise _UnavailableError(f"{control} -d ended with status {status}; {folder / 'log'} may say why")
    while ask(control, "get_server_list", folder) is None:
        if time.monotonic() > deadline:
            raise _UnavailableError(f"the daemon did not answer within {START_SECONDS:.0f} s of its start")
        time.sleep(0.1)


def _ensure_guardian(control: str, folder: Path) -> None:
    """Start the guardian, unless one waits already. It inherits the lock that shows this."""
    with (folder / "guardian").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        subprocess.run(
            [sys.executable, "-I", "-S", mps_guardian.__file__, control, str(folder), str(lock.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(lock.fileno(),),
            timeout=START_SECONDS,
            check=True,
        )
