"""What a script and a notebook see of a run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from inarch.actors import Event, NetworkStatus, RunStatus
from inarch.actors.driver.progress_lines import ProgressLines
from inarch.actors.driver.status_html import MAX_ROWS, status_html
from inarch.population.errors import RunNotFoundError
from inarch.population.evaluation.metrics import Metric

METRIC = Metric(name="accuracy", form="{:.1%}")


def events() -> Iterator[Event]:
    detail = {"interval": 3, "loss": 0.5, "validation": {"accuracy": 0.75}}
    yield Event(number=1, kind="join", network_id=0, seconds=0.0, detail={"incarnation": 1})
    yield Event(number=2, kind="interval", network_id=0, seconds=1.0, detail=detail)
    yield Event(number=3, kind="commit", network_id=0, seconds=1.0, detail={"row": {}})
    raise RunNotFoundError("the coordinator has ended")


def test_lines_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    ProgressLines(events(), lambda: (METRIC,)).finish()
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines() == [
        "network 0: joins, incarnation 1",
        "network 0: interval 3, loss 0.5000, validation accuracy 75.0%",
    ]


def test_html_has_a_row_for_each_network_and_escapes_text() -> None:
    networks = [
        NetworkStatus(
            network_id=number, state="training", incarnation=1, interval=2, name="<b>" if number == 0 else None
        )
        for number in range(MAX_ROWS + 2)
    ]
    page = status_html(
        RunStatus(
            name="run",
            state="training",
            num_intervals=8,
            epochs=8,
            networks=tuple(networks),
            seconds=3.0,
            metrics=(METRIC,),
            message="a < b",
        )
    )
    assert page.count("<tr>") == MAX_ROWS + 1
    assert "0 &lt;b&gt;" in page and "a &lt; b" in page and "2/8" in page and "2 more networks" in page
