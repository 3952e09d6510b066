"""Claims on a run's folder. Only the start with the newest claim may write into the folder.

    claims/<generation>-<token>.json     process that made the claim, and time of the claim

The first start of a run makes generation 1, and each resume makes the next one. A claim is withdrawn when the run ends.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from inarch.population.errors import RunExistsError, StorageError
from inarch.population.persistence.storage import Storage

FOLDER = "claims"
"""Folder of the claims, relative to the run's folder."""


@dataclass(frozen=True, kw_only=True, order=True)
class Claim:
    """The claim of one start on a run's folder. Claims are ordered by generation."""

    generation: int
    """Number of the claim, at least 1. The claim with the largest number is valid."""
    token: str
    """Random hexadecimal digits that identify the start."""

    @property
    def path(self) -> str:
        """Path of the claim's file, relative to the run's folder."""
        return f"{FOLDER}/{self.generation:04d}-{self.token}.json"


def claims(storage: Storage) -> list[Claim]:
    """Return all claims on a folder, oldest generation first.

    Args:
        storage: The run's folder.

    Raises:
        StorageError: The claims cannot be listed.
    """
    parsed = []
    for name in storage.names(FOLDER):
        generation, _, token = name.removesuffix(".json").partition("-")
        if generation.isdecimal() and token:
            parsed.append(Claim(generation=int(generation), token=token))
    return sorted(parsed)


def holds(storage: Storage, token: str) -> bool:
    """Return whether the newest claim on a folder has this token.

    Args:
        storage: The run's folder.
        token: Token of the claim.

    Raises:
        StorageError: The claims cannot be listed.
    """
    by_generation = claims(storage)
    return bool(by_generation) and by_generation[-1].token == token


def check_holds(storage: Storage, token: str | None) -> None:
    """Raise RunExistsError if another start has claimed the folder since, or if its claims are gone.

    Args:
        storage: The run's folder.
        token: Token of this start's claim. None: this start has no claim, and nothing is checked.

    Raises:
        RunExistsError: The newest claim has another token, or there is none.
        StorageError: The claims cannot be listed.
    """
    if token is not None and not holds(storage, token):
        raise RunExistsError(
            f"{storage.uri} is not this run's folder any more: another start has claimed it, or it was deleted"
        )


def withdraw(storage: Storage, token: str | None) -> None:
    """Delete the claims that have this token.

    Args:
        storage: The run's folder.
        token: Token of the claims. None: no claim is deleted.

    Raises:
        StorageError: A claim cannot be deleted.
    """
    for claim in claims(storage):
        if claim.token == token:
            storage.delete(claim.path)


def withdraw_at_end(storage: Storage, token: str | None) -> None:
    """Delete the claim of a run that ends, and what processes left in its folder when they were killed.

    These are parts of files, and the claims of earlier starts. Earlier claims are deleted first. An earlier claim that
    remained would become the newest, and a process that is left of that start could write into the folder again.

    Args:
        storage: The run's folder.
        token: Token of the run's claim. None, or without such a claim: nothing is deleted. Parts stay if another start
            has claimed the folder since, because they may be of that start.

    Raises:
        StorageError: A claim cannot be deleted.
    """
    known = claims(storage)
    own = [claim for claim in known if claim.token == token]
    if own and own[-1] == known[-1]:
        with contextlib.suppress(StorageError):  # the claims matter more; the next start tries again
            storage.delete_parts()
    for claim in known:
        if own and claim <= own[-1]:
            storage.delete(claim.path)
