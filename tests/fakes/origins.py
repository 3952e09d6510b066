"""Identity and progress of snapshots that no network made."""

from __future__ import annotations

from inarch.population.state.snapshot_info import SnapshotInfo


def origin(interval: int, *, network_id: int = 0, incarnation: int = 1) -> SnapshotInfo:
    """A network that has trained a step in each interval, from its own initial weights."""
    return SnapshotInfo(
        network_id=network_id,
        incarnation=incarnation,
        interval=interval,
        step=interval,
        trained_intervals=float(interval),
        trained_steps=float(interval),
        created_at=float(interval),
        structure="structure",
    )
