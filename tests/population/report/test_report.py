"""The report of a run: what it holds, how large it is, and that it needs nothing from elsewhere."""

from __future__ import annotations

import dataclasses
import html.parser
import itertools
import json
import math
import re
import shutil
import subprocess
from pathlib import Path

import pyarrow as pa
import pytest

from inarch.population.config import RunConfig, to_dict
from inarch.population.persistence.history import read_table
from inarch.population.persistence.storage import Storage
from inarch.population.report.content import MAX_COLUMNS, grid, read_content
from inarch.population.report.page import render, write_report
from tests.fakes.run_folder import METRIC, run_folder


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


def test_page_of_a_stopped_run_does_not_call_it_finished(tmp_path: Path) -> None:
    storage = run_folder(tmp_path)
    assert read_content(storage).state == "finished"
    storage.delete("result.json")
    assert read_content(storage).state == "stopped"


def test_exchanges_have_the_mean_alpha_of_their_layers(tmp_path: Path) -> None:
    storage = run_folder(tmp_path, networks=3, intervals=4, layers=5)
    rows: dict[tuple[int, int, int], list[float]] = {}
    for row in read_table(storage, "grafts").to_pylist():
        rows.setdefault((row["rootstock"], row["interval"], row["scion"]), []).append(row["alpha"])
    found = read_content(storage).exchanges
    assert [(row["rootstock"], row["interval"], row["scion"]) for row in found] == list(rows)
    assert [row["alpha"] for row in found] == pytest.approx([sum(alphas) / len(alphas) for alphas in rows.values()])
    assert rows and all(row["staleness_intervals"] is not None for row in found)


def test_page_shows_no_html_of_the_folder_and_no_nan(tmp_path: Path) -> None:
    storage = run_folder(tmp_path)
    evil = "<script>alert(1)</script>"
    content = read_content(storage)
    name = f"validation_{METRIC.name}"
    values = itertools.cycle((math.nan, 0.5, math.inf))
    rows = tuple({**row, name: next(values)} for row in content.rows)
    event = next(row for row in content.events if row["network_id"] >= 0)
    content = dataclasses.replace(
        content,
        config={**content.config, "mode": evil},
        result={**(content.result or {}), "evaluated_on": evil},
        events=(*content.events, {**event, "kind": f'"{evil}'}),
        rows=rows,
    )
    page = render(content)
    assert "<script" not in page and "nan" not in page.lower().replace("finance", "") and page.count("&lt;script") >= 2


def test_page_of_a_thousand_networks_has_no_table_of_pairs(tmp_path: Path) -> None:
    page = render(read_content(run_folder(tmp_path, networks=150, intervals=3, layers=2)))
    assert "More than 100 networks" in page and len(page.encode()) < 2**20


def test_grid_averages_networks_and_neighboring_intervals() -> None:
    cells = [("a", interval, float(network)) for network in (1, 3) for interval in range(1, 2 * MAX_COLUMNS + 1)]
    columns = zip(*cells, ("b", 1, None), ("c", 3, 5.0), strict=True)
    found = grid(*(pa.chunked_array([pa.array(list(column))]) for column in columns))
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
