"""What a run's folder records of its networks' processes and exchanges."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from inarch.population.errors import RunError
from inarch.population.persistence.checkpoint import CheckpointId, CheckpointStore
from inarch.population.persistence.history import read_table
from inarch.population.persistence.storage import Storage
from inarch.population.tasks.run_folder import members_of, read_members
from inarch.population.training.birth import Birth, Environment, StartPoint


class Life(NamedTuple):
    """One process of a network."""

    network_id: int
    incarnation: int


class Version(NamedTuple):
    """A snapshot that a process published."""

    life: Life
    interval: int


@dataclass(frozen=True, kw_only=True)
class RecordedScion:
    """A scion of a recorded exchange."""

    version: Version
    time: float
    """Time at which it was staged, in seconds of its runtime's clock."""


@dataclass(frozen=True, kw_only=True)
class RecordedExchange:
    """An exchange of the history."""

    outcome: str
    """A value of `ExchangeOutcome`."""
    scions: tuple[RecordedScion, ...]
    """The scions that were admitted, in the order in which the rule took them."""
    weights: bytes
    """Hashes of the weights that the network published in this interval, as `Snapshot.hashes`."""
    time: float
    """Seconds of the runtime's clock."""


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """All that a replay needs of a run's folder."""

    births: Mapping[Life, Birth]
    exchanges: Mapping[Life, Mapping[int, RecordedExchange]]
    """Exchanges of each process by interval."""
    checkpoints: Mapping[int, tuple[CheckpointId, ...]]
    """Checkpoints of each network that are still in the folder, oldest first."""
    guests: Mapping[int, str]
    """Names of the guests by id: training loops of the caller's own, which no replay can repeat."""

    @property
    def all_checkpoints(self) -> list[tuple[int, CheckpointId]]:
        """All checkpoints that are still in the folder, each with its network."""
        return [(network_id, item) for network_id, items in self.checkpoints.items() for item in items]


def read_record(storage: Storage) -> RunRecord:
    """Read what a run's folder records.

    Args:
        storage: The run's folder.

    Raises:
        RunError: An earlier version of inarch recorded the run, without births.
        StorageError: The folder cannot be read.
    """
    births = {_life(row): _birth(row) for row in read_table(storage, "births").to_pylist()}
    if not births:
        raise RunError(f"run {storage.uri} cannot be replayed: its folder has no table of births, or an empty one")
    exchanges: dict[Life, dict[int, list[dict[str, Any]]]] = {}
    for row in read_table(storage, "exchanges", all_incarnations=True).to_pylist():
        exchanges.setdefault(_life(row), {}).setdefault(row["interval"], []).append(row)
    members = members_of(read_members(storage) or {"members": []})
    checkpoints = CheckpointStore(storage)
    return RunRecord(
        births=births,
        exchanges={
            life: {interval: _exchange(rows) for interval, rows in intervals.items()}
            for life, intervals in exchanges.items()
        },
        checkpoints={network_id: tuple(checkpoints.list(network_id)) for network_id in checkpoints.networks()},
        guests={member.id: member.name for member in members if member.name is not None},
    )


def _life(row: Mapping[str, Any]) -> Life:
    return Life(row["network"], row["incarnation"])


def _birth(row: Mapping[str, Any]) -> Birth:
    start, environment = (
        {field.name: row[field.name] for field in dataclasses.fields(kind)} for kind in (StartPoint, Environment)
    )
    return Birth(start=StartPoint(**start), environment=Environment(**environment), time=row["time"])


def _exchange(rows: list[dict[str, Any]]) -> RecordedExchange:
    ordered = sorted(rows, key=lambda row: row["position"])
    return RecordedExchange(
        outcome=ordered[0]["outcome"],
        scions=tuple(
            RecordedScion(
                version=Version(Life(row["scion"], row["scion_incarnation"]), row["scion_version"]),
                time=row["scion_time"],
            )
            for row in ordered
            if row["scion"] is not None
        ),
        weights=ordered[0]["weights"] or b"",
        time=ordered[0]["time"],
    )
