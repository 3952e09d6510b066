"""The benchmark of elastic populations: what it computes from a run's rows. The trial itself is a slow test."""

from __future__ import annotations

import dataclasses
import json

import pyarrow as pa
import pytest

from inarch.experiments.benchmarks.elastic.benchmark import notes, parsed, rows
from inarch.experiments.benchmarks.elastic.measures import PHASES, Measures, measures
from inarch.experiments.benchmarks.elastic.trial import Times

TIMES = Times(
    nodes_added=20.0,
    node_removed=60.0,
    lost=(2, 3, 4),
    accuracies={0: 96.0, 1: 98.0, 2: 95.0, 3: 96.0, 4: 97.0, 5: 98.5},
)


def history(ends: dict[int, list[tuple[int, float]]]) -> pa.Table:
    """Return rows whose intervals took 2 s. `ends` has pairs of interval and time by network."""
    parts = {"steps": 1.5, "evaluate": 0.3, "graft": 0.2}
    return pa.Table.from_pylist(
        [
            {"network": network_id, "interval": interval, "time": time}
            | {f"seconds_{phase}": parts.get(phase, 0.0 if phase != "fetch" else None) for phase in PHASES}
            for network_id, pairs in ends.items()
            for interval, time in pairs
        ]
    )


def paced(first: int, began: float, last: int, seconds: float = 2.0) -> list[tuple[int, float]]:
    return [(number, began + (number - first + 1) * seconds) for number in range(first, last + 1)]


def trial() -> Measures:
    """Founders with 2 s an interval, but 4 s from 20 s to 40 s. Newcomers begin at 30 s and 38 s, three are lost."""
    founder = paced(1, 0.0, 10) + paced(11, 20.0, 15, seconds=4.0) + paced(16, 40.0, 45)
    newcomers = {number: paced(13, 30.0 + 4 * (number - 3), 20) + paced(21, 100.0, 45) for number in (3, 4, 5)}
    table = history({0: founder, 1: founder, 2: paced(14, 38.0, 20), **newcomers})
    return measures(TIMES, table, step_seconds=0.1)


def test_first_steps_are_those_of_newcomers() -> None:
    assert trial().first_step == pytest.approx(30.0 + 0.1 - 20.0)
    assert trial().all_steps == pytest.approx(38.0 + 0.1 - 20.0)


def test_pace_is_that_of_the_others_in_each_phase() -> None:
    assert trial().pace == pytest.approx(0.5)
    assert trial().pace_growing == pytest.approx(0.25)
    assert trial().pace_together == pytest.approx((0.475 + 10.0) / 21.9, rel=1e-3)
    lost = dataclasses.replace(TIMES, lost=(2, 3, 5), accuracies=TIMES.accuracies)
    assert measures(lost, history({n: paced(1, 0.0, 60) for n in range(6)}), step_seconds=0.1).pace_after_loss == 0.5


def test_accuracies_are_by_what_befell_a_network() -> None:
    assert (trial().founders, trial().stayed, trial().returned) == (97.0, 98.5, 96.0)


def test_network_without_rows_is_named() -> None:
    with pytest.raises(ValueError, match=r"networks without rows: \[1, 2, 3, 4, 5\]"):
        measures(TIMES, history({0: paced(1, 0.0, 9)}), step_seconds=0.1)


def test_rows_compare_with_the_pace_before() -> None:
    by_name = {row.what: row for row in rows([trial(), trial()])}
    growing = by_name["pace of the founders while four join / alone"]
    assert growing.values == pytest.approx((0.5, 0.5)) and growing.reached is False
    assert by_name["nodes appear to the first newcomer's step"].reached is True
    assert notes([trial(), trial()])[1].endswith("the founders: -1.00 ± 0.00 points (95 %)")


def test_times_survive_the_way_through_json() -> None:
    assert parsed(f"words of Ray\n{json.dumps(dataclasses.asdict(TIMES))}\n") == TIMES
