"""Decide which start may write into a run's folder: the one with the newest claim.

    claims/<generation>-<token>.json     which process made the claim, and when

A start makes generation 1, and each resume the next generation. A claim is withdrawn when the run ends.
"""

from __future__ import annotations

from dataclasses import dataclass

from inarch.population.errors import RunExistsError
from inarch.population.persistence.storage import Storage

FOLDER = "claims"


@dataclass(frozen=True, kw_only=True, order=True)
class Claim:
    """The claim of one start on a folder."""

    generation: int
    """From 1; the greatest counts."""
    token: str
    """Random hexadecimal digits."""

    @property
    def path(self) -> str:
        """Its file, relative to the run's folder."""
        return f"{FOLDER}/{self.generation:04d}-{self.token}.json"


def claims(storage: Storage) -> list[Claim]:
    """Return all claims on a folder, oldest generation first."""
    found = []
    for name in storage.names(FOLDER):
        generation, _, token = name.removesuffix(".json").partition("-")
        if generation.isdigit() and token:
            found.append(Claim(generation=int(generation), token=token))
    return sorted(found)


def holds(storage: Storage, token: str) -> bool:
    """Whether the newest claim on a folder has this token."""
    found = claims(storage)
    return bool(found) and found[-1].token == token


def check_holds(storage: Storage, token: str | None) -> None:
    """Raise RunExistsError where another start has claimed the folder since, or its claims are gone.

    Args:
        storage: The run's folder.
        token: Of the claim; None: nothing was claimed, and nothing is checked.
    """
    if token is not None and not holds(storage, token):
        raise RunExistsError(
            f"{storage.uri} is not this run's folder any more: another start has claimed it, or it was deleted"
        )


def withdraw(storage: Storage, token: str | None) -> None:
    """Delete the claims that have this token."""
    for claim in claims(storage):
        if claim.token == token:
            storage.delete(claim.path)
