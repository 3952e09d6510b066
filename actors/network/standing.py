"""How a network stands, for the coordinator."""

from __future__ import annotations

from typing import NamedTuple

from inarch.actors.messages import References
from inarch.population.membership.snapshot_index import PublishedSnapshot
from inarch.population.persistence.interval_report import IntervalReport


class NetworkDescription(NamedTuple):
    """A network's process, and what it has built."""

    structure: str
    """Fingerprint of its snapshots."""
    interval: int
    """Intervals completed."""
    process: int
    """Process id."""
    node: str
    """Id of the Ray node."""
    damages: tuple[str, ...] = ()
    """Damaged checkpoints that it passed over when it resumed, with the reason."""


class NetworkStanding(NamedTuple):
    """How a network stands, for a restarted coordinator."""

    report: IntervalReport | None
    """Newest report."""
    published: list[PublishedSnapshot[References]]
    """Its snapshots in the coordinator's index."""
    description: NetworkDescription
