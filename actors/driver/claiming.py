"""Claim a run's folder, so that only one of two starts of the same name proceeds.

Neither object stores nor pyarrow have an exclusive create. A start therefore lists the claims, checks that the process
of each is gone, writes its own claim, and lists all claims again. Every claim that it has not checked is a rival. A
start that sees no rival holds the folder, because every start that writes later must see this claim. If several starts
see each other, the start with the smallest claim waits, and the others withdraw.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from inarch.actors.driver.process_start import is_same_process, process_start
from inarch.population.errors import DamagedError, MissingError, RunExistsError, StorageError
from inarch.population.persistence.claim import Claim, claims, holds, withdraw
from inarch.population.persistence.json_files import read_json, to_json
from inarch.population.persistence.storage import Storage

WITHDRAW_SECONDS = 5.0
"""Seconds in which a rival must withdraw its claim. A rival that does not holds the folder."""

WRITE_SECONDS = 2.0
"""Seconds in which a claim must be completely written. After that, its process counts as dead."""

POLL_SECONDS = 0.2
"""Pause in seconds between two looks at the claims."""


CLAIM_FIELDS: dict[str, type | tuple[type, ...]] = {
    "host": str,
    "process": int,
    "process_started": (int, float, type(None)),
    "seconds": (int, float),
}
"""Fields of a claim, with their types."""


def claim_new_folder(storage: Storage, *, is_detached: bool = False) -> Claim:
    """Claim a folder for a new run. The claim is the first file that a start writes into it.

    Args:
        storage: The run's folder.
        is_detached: Whether the run outlives this process.

    Raises:
        RunExistsError: The folder holds a run, or another start holds the folder.
    """
    if storage.exists("config.json") or storage.exists("cluster.json"):
        raise RunExistsError(
            f"there is a run at {storage.uri}; choose another name, or resume it: inarch resume {storage.uri}"
        )
    earlier_claims = claims(storage)
    for claim in reversed(earlier_claims):
        content = _read(storage, claim)
        if content is not None and (content["host"] != socket.gethostname() or _is_alive(content)):
            raise _taken(storage, content)
    return _claim(storage, after=earlier_claims, is_detached=is_detached)


def claim_existing_folder(storage: Storage, *, is_detached: bool = False) -> Claim:
    """Claim the folder of a run that is not live, to resume it. Earlier starts can commit nothing from then on.

    Args:
        storage: The run's folder.
        is_detached: Whether the resumed run outlives this process.

    Raises:
        RunExistsError: A living process on this machine holds the folder, or another start claims it now.
    """
    earlier_claims = claims(storage)
    content = _read(storage, earlier_claims[-1]) if earlier_claims else None
    if content is not None and content["host"] == socket.gethostname() and _drives(content):
        raise _taken(storage, content)
    return _claim(storage, after=earlier_claims, is_detached=is_detached)


def _drives(content: dict[str, Any]) -> bool:
    """Return whether the process of a claim is another process that drives the run. A detached run needs no driver."""
    return content["process"] != os.getpid() and not content.get("is_detached", False) and _is_alive(content)


@dataclass(frozen=True, kw_only=True)
class FolderContents:
    """Contents of a folder before a start. A start that fails restores them."""

    existed: bool
    names: frozenset[str]
    """Names in the folder."""
    in_data: frozenset[str]
    """Names in its folder `data`."""

    @classmethod
    def of(cls, storage: Storage) -> FolderContents:
        """Record the present contents of a run's folder."""
        names = frozenset(storage.names(""))
        in_data = frozenset(storage.names("data")) if "data" in names else frozenset()
        return cls(existed=storage.exists(""), names=names, in_data=in_data)

    def restore(self, storage: Storage, claim: Claim) -> None:
        """Delete the files that a start has written, and nothing else.

        Args:
            storage: The run's folder.
            claim: Claim of the start. Nothing is deleted if another start has claimed the folder since.
        """
        if not holds(storage, claim.token):
            return
        for name in {"cluster.json", "data", "config.json", "members", "logs", "networks"} - self.names:
            storage.delete(name)
        if "data" in self.names:
            for name in set(storage.names("data")) - self.in_data:
                storage.delete(f"data/{name}")
        withdraw(storage, claim.token)
        if not claims(storage) and "claims" not in self.names:
            storage.delete("claims")
            if not self.existed and not storage.names(""):
                storage.delete("")


@contextlib.contextmanager
def new_folder(storage: Storage, *, is_detached: bool = False) -> Generator[Claim]:
    """Claim a folder for a new run while the run starts. If the block raises, the folder is as it was before.

    Args:
        storage: The run's folder.
        is_detached: Whether the run outlives this process.

    Yields:
        The claim.

    Raises:
        RunExistsError: As `claim_new_folder`.
    """
    contents_before = FolderContents.of(storage)
    claim = claim_new_folder(storage, is_detached=is_detached)
    try:
        yield claim
    except BaseException:
        contents_before.restore(storage, claim)
        raise


def _claim(storage: Storage, *, after: list[Claim], is_detached: bool) -> Claim:
    """Write a claim, and return it once no rival is left. Raise RunExistsError if a rival holds the folder.

    Then delete the parts of files that processes of earlier starts left, none of which may write any more.
    The claims in `after` were checked: none of their processes uses the folder. Every other claim is a rival.
    """
    claim = Claim(generation=after[-1].generation + 1 if after else 1, token=secrets.token_hex(8))
    content = {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "process_started": process_start(os.getpid()),
        "seconds": time.time(),
        "is_detached": is_detached,
    }
    storage.write(claim.path, to_json(content))
    deadline = time.monotonic() + WITHDRAW_SECONDS
    while True:
        rivals = [other for other in claims(storage) if other not in after and other != claim]
        if not rivals:
            with contextlib.suppress(StorageError):  # the end of the run deletes what remains
                storage.delete_parts()
            return claim
        if rivals[0] < claim or time.monotonic() > deadline:
            withdraw(storage, claim.token)
            raise _taken(storage, _read(storage, rivals[-1]))
        time.sleep(POLL_SECONDS)


def _taken(storage: Storage, content: dict[str, Any] | None) -> RunExistsError:
    """Return the error for a folder in use. It names the process of the holder's claim, if the claim can be read."""
    holder = "another start"
    if content is not None:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(content["seconds"]))
        holder = f"process {content['process']} on {content['host']} since {when}"
    return RunExistsError(
        f"{storage.uri} is in use by {holder}; choose another name, or delete the folder if that process is gone"
    )


def _read(storage: Storage, claim: Claim) -> dict[str, Any] | None:
    """Return the content of a claim. None if it is withdrawn, or if its process died while writing it."""
    deadline = time.monotonic() + WRITE_SECONDS
    while claim in claims(storage):
        with contextlib.suppress(MissingError, DamagedError):
            return read_json(storage, claim.path, fields=CLAIM_FIELDS)
        if time.monotonic() > deadline:
            break
        time.sleep(POLL_SECONDS)
    return None


def _is_alive(content: dict[str, Any]) -> bool:
    """Return whether the process of a claim lives on this machine."""
    return is_same_process(content["process"], content["process_started"])
