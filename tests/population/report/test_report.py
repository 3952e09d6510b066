"""The report of a run: what it holds, how large it is, and that it needs nothing from elsewhere."""

from __future__ import annotations

import dataclasses
import html.parser
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from inarch.population.config import RunConfig, to_dict
from inarch.population.evaluation.metrics import Metric
from inarch.population.persistence.history import to_parquet
from inarch.population.persistence.storage import Storage
from inarch.population.report.content import MAX_COLUMNS, grid, read_content
from inarch.population.report.page import render, write_report

METRIC = Metric(name="accuracy", form="{:.2%}")


def run_folder(folder: Path, *, networks: int = 3, intervals: int = 8, layers: int = 4) -> Storage:
    """Write the files of a finished run, in which network 1 restarted at interval 5."""
    storage = Storage(str(folder))
    names = [f"layer{number}.weight" for number in range(layers)]
    rows: dict[str, list[dict[str, Any]]] = {"metrics": [], "grafts": [], "filters": []}
    for network in range(networks):
        for interval in range(1, intervals + 1):
            incarnation = 2 if network == 1 and interval >= 5 else 1
            key = {"network": network, "interval": interval, "incarnation": incarnation}
            progress = interval / intervals
            rows["metrics"].append(
                key
                | {"epoch": float(interval), "step": 3 * interval, "learning_rate": 0.1 * (1.0 - progress)}
                | {"train_loss": 2.0 - progress, "validation_accuracy": 0.5 + 0.4 * progress, "examples": 96}
                | {"examples_per_second": 100.0, "seconds_steps": 0.9, "outcome": "grafted", "grafts": interval}
                | {"time": 1000.0 + interval}
            )
            common = {"rootstock": network, "scion": (network - 1) % networks, "interval": interval}
            common |= {"incarnation": incarnation, "staleness_intervals": 0.5}
            rows["grafts"] += [common | {"layer": name, "alpha": 0.6} for name in names]
            measured = {"filters": 8, "invalid_0_1": 2, "mean_l1": 1.0}
            rows["filters"] += [key | measured | {"layer": name, "entropy": 1.5} for name in names]
    for table, content in rows.items():
        storage.write(f"{table}/all.parquet", to_parquet(content, table))
    info = {"metrics": [dataclasses.asdict(METRIC)], "parameters": 1234, "description": ["data: 96 train"]}
    config = to_dict(RunConfig(name="shown"))
    storage.write("config.json", json.dumps({"config": config, "info": info, "model": "resnet8"}).encode())
    events = [
        {"seconds": 1004.5, "kind": "loss", "network_id": 1, "detail": {"reason": "the node <died>"}},
        {"seconds": 1004.6, "kind": "restart", "network_id": 1, "detail": {"incarnation": 2}},
    ]
    members = [{"id": network, "state": "done"} for network in range(networks)]
    record = {"state": "finished", "message": "", "members": members, "events": events}
    storage.write("members/00000000.json", json.dumps(record).encode())
    results = [
        {
            "network": network,
            "ended": "done",
            "interval": intervals,
            "best_interval": intervals,
            "validation_score": 0.9,
            "grafts": intervals,
            "best": {"accuracy": 0.8125 + 0.01 * network},
            "last": {"accuracy": 0.8},
        }
        for network in range(networks)
    ]
    result = {
        "evaluated_on": "test",
        "networks": results,
        "mean": {"accuracy": 0.8225},
        "best": networks - 1,
        "ensemble": {"accuracy": 0.8765},
        "soup": {"accuracy": 0.8432},
        "last": {"agreement": 0.91, "cosine": 0.987},
    }
    storage.write("result.json", json.dumps(result).encode())
    return storage


class Text(html.parser.HTMLParser):
    """Collects the text of a page, its tags, and the places from which it loads something."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text, self.loaded, self.open = "", [], []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loaded += [value for name, value in attrs if name in ("src", "href", "action") and value]
        self.open += [tag] if tag not in ("meta", "br") else []

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        self.text += f" {data}"


def test_page_holds_results_faults_and_configuration(tmp_path: Path) -> None:
    storage = run_folder(tmp_path)
    write_report(storage)
    page = Text(storage.read("report.html").decode())
    for expected in (
        "81.25%",
        "83.25%",
        "87.65%",
        "84.32%",
        "91.0% of the predictions agree",
        "cosine of the weights 0.987",
    ):
        assert expected in page.text, expected
    assert "network 1: loss (reason the node <died>)" in page.text
    assert "Who took from whom" in page.text and "layer0.weight" in page.text and "data: 96 train" in page.text
    assert page.open == []


def test_page_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    page = render(read_content(run_folder(tmp_path)))
    assert all(place.startswith("data:image/png;base64,") for place in Text(page).loaded)
    assert "http://" not in page and "https://" not in page and "<script" not in page and "@import" not in page


def test_page_of_a_large_run_is_below_a_mebibyte(tmp_path: Path) -> None:
    page = render(read_content(run_folder(tmp_path, networks=20, intervals=200, layers=50)))
    assert len(page.encode()) < 2**20


def test_page_of_a_run_that_has_only_begun_is_whole(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    info = {"metrics": [dataclasses.asdict(METRIC)], "parameters": 1234}
    config = to_dict(RunConfig(name="new"))
    storage.write("config.json", json.dumps({"config": config, "info": info, "model": "resnet8"}).encode())
    page = render(read_content(storage), refresh_seconds=5)
    assert "No network has completed an interval" in page and '<meta http-equiv="refresh" content="5">' in page


def test_grid_averages_networks_and_neighboring_intervals() -> None:
    cells = [("a", interval, float(network)) for network in (1, 3) for interval in range(1, 2 * MAX_COLUMNS + 1)]
    found = grid([*cells, ("b", 1, None), ("c", 3, 5.0)])
    assert found.layers == ("a", "c")
    assert len(found.intervals) == MAX_COLUMNS and found.intervals[:2] == (1, 3)
    assert found.values[0] == (2.0,) * MAX_COLUMNS
    assert found.values[1][:3] == (None, 5.0, None)


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no Chromium on this machine")
def test_page_opens_in_a_browser(tmp_path: Path) -> None:
    storage = run_folder(tmp_path / "run")
    write_report(storage)
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    options += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=2000", "--dump-dom"]
    command = ["chromium", *options, f"file://{tmp_path / 'run' / 'report.html'}"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
    result = json.loads(storage.read("result.json"))
    for row in result["networks"]:
        assert METRIC.text(row["best"]["accuracy"]) in shown
    assert METRIC.text(result["ensemble"]["accuracy"]) in shown
    assert len(re.findall("<svg", shown)) >= 8 and len(re.findall("<polyline", shown)) >= 9
