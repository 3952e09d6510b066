"""What a network has to tell of its training, kept until a checkpoint hands it in."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from inarch.population.exchange import Contribution, graft_rows
from inarch.population.fusion import LayerFusion
from inarch.population.persistence.history import TABLES, Rows
from inarch.population.persistence.interval_report import IntervalReport
from inarch.population.state.snapshot import SnapshotInfo


class HistoryBuffer:
    """Rows of `population.history.TABLES`, of one network."""

    def __init__(self, network_id: int, incarnation: int) -> None:
        """Args: whose, and which process of it writes."""
        self._network, self._incarnation = network_id, incarnation
        self._rows = _empty()

    def add_interval(self, report: IntervalReport, *, time: float) -> None:
        """An interval that is over; `time` in seconds of the host's clock."""
        self._rows["metrics"].append(report.row(time=time))

    def add_grafts(self, own: SnapshotInfo, taken: Sequence[Contribution]) -> None:
        """What was taken in at the end of an interval."""
        self._rows["grafts"] += graft_rows(own, taken)

    def add_filters(self, interval: int, found: Iterable[Mapping[str, Any]]) -> None:
        """How the filters of the convolutions stand after an interval's training."""
        self._rows["filters"] += [self._key(interval) | dict(row) for row in found]

    def add_fusion(self, interval: int, epoch: int, found: Iterable[LayerFusion]) -> None:
        """How a compact network mixes its filters from the beginning of an epoch, in the interval that is under way."""
        self._rows["fusion"] += [self._key(interval) | {"epoch": epoch} | dataclasses.asdict(one) for one in found]

    def drain(self) -> Rows:
        """All that was noted since the last time."""
        rows, self._rows = self._rows, _empty()
        return rows

    def _key(self, interval: int) -> dict[str, Any]:
        return {"network": self._network, "interval": interval, "incarnation": self._incarnation}


def _empty() -> dict[str, list[dict[str, Any]]]:
    return {table: [] for table in TABLES}
