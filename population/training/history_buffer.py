"""History rows of one network, held until its next checkpoint commits them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from inarch.population.exchange import Contribution, ExchangeResult, graft_rows
from inarch.population.fusion import LayerFusion
from inarch.population.persistence.history_schemas import EARLY_TABLES, TABLES, Rows
from inarch.population.persistence.interval_report import IntervalReport
from inarch.population.state.snapshot_info import SnapshotInfo
from inarch.population.training.birth import Birth


class HistoryBuffer:
    """Collects one network's rows of the tables in `population.persistence.history_schemas.TABLES`."""

    def __init__(self, network_id: int, incarnation: int) -> None:
        """Create an empty buffer.

        Args:
            network_id: Id of the network.
            incarnation: Number of its process, from 1.
        """
        self._network, self._incarnation = network_id, incarnation
        self._rows = _empty()
        self._num_early = dict.fromkeys(EARLY_TABLES, 0)

    def add_interval(self, report: IntervalReport, *, time: float) -> None:
        """Add the metrics of a completed interval.

        Args:
            report: Report of the interval, after its exchange.
            time: Seconds of the runtime's clock.
        """
        self._rows["metrics"].append(report.row(time=time))

    def add_grafts(self, own: SnapshotInfo, contributions: Sequence[Contribution]) -> None:
        """Add the grafts of an exchange.

        Args:
            own: Progress of the network before the exchange.
            contributions: Contribution of each source.
        """
        self._rows["grafts"] += graft_rows(own, contributions)

    def add_exchange(self, own: SnapshotInfo, result: ExchangeResult, *, weights: bytes, time: float) -> None:
        """Add the scions of an exchange, in the order in which the rule took them.

        Args:
            own: Progress of the network before the exchange.
            result: How the exchange ended.
            weights: Hashes of the weights that the network published, as `Snapshot.hashes`.
            time: Seconds of the runtime's clock.
        """
        common = self._key(own.interval) | {"outcome": result.outcome.value, "time": time}
        scions = [
            {
                "scion": scion.network_id,
                "scion_version": scion.interval,
                "scion_incarnation": scion.incarnation,
                "scion_time": scion.created_at,
            }
            for scion in result.admitted
        ]
        self._rows["exchanges"] += [
            common | {"position": position, "weights": None if position else weights} | row
            for position, row in enumerate(scions or [{}])
        ]

    def add_birth(self, birth: Birth) -> None:
        """Add how this process of the network began.

        Args:
            birth: All that a repetition of its training needs.
        """
        self._rows["births"].append(self._key(birth.start.interval) | birth.row())

    def early(self) -> Rows:
        """Return the births and exchanges since the last call. They stay in the buffer."""
        rows = {table: self._rows[table][seen:] for table, seen in self._num_early.items()}
        self._num_early = {table: len(self._rows[table]) for table in EARLY_TABLES}
        return rows

    def add_filters(self, interval: int, layer_rows: Iterable[Mapping[str, Any]]) -> None:
        """Add the statistics of the convolutions' filters after an interval's training.

        Args:
            interval: Intervals completed.
            layer_rows: Rows of `FilterNorms`, one for each layer.
        """
        self._rows["filters"] += [self._key(interval) | dict(row) for row in layer_rows]

    def add_fusion(self, interval: int, epoch: int, records: Iterable[LayerFusion]) -> None:
        """Add the mixture of a compact network's filters that holds from the beginning of an epoch.

        Args:
            interval: Number of the interval in progress, from 1.
            epoch: Number of the epoch, from 0.
            records: Record of each fused layer.
        """
        self._rows["fusion"] += [
            self._key(interval) | {"epoch": epoch} | dataclasses.asdict(record) for record in records
        ]

    def drain(self) -> Rows:
        """Return the rows since the last call, and empty the buffer."""
        rows, self._rows = self._rows, _empty()
        self._num_early = dict.fromkeys(EARLY_TABLES, 0)
        return rows

    def _key(self, interval: int) -> dict[str, Any]:
        return {"network": self._network, "interval": interval, "incarnation": self._incarnation}


def _empty() -> dict[str, list[dict[str, Any]]]:
    return {table: [] for table in TABLES}
