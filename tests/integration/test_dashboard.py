"""What Ray's dashboard and Prometheus show of a real run."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from inarch.experiments.grafana import dashboard

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Shown:
    """A finished run, what Ray showed of it, and the Prometheus that scraped it."""

    def __init__(self, folder: Path, facts: dict[str, Any], prometheus: int | None, scraped: str) -> None:
        self.folder, self.facts, self.prometheus, self.scraped = folder, facts, prometheus, scraped

    def query(self, expression: str) -> list[Any]:
        """Evaluate an expression over the time of the run, and return the series that have values."""
        end = time.time()
        query = urllib.parse.urlencode({"query": expression, "start": end - 90, "end": end, "step": 5})
        with urllib.request.urlopen(f"http://127.0.0.1:{self.prometheus}/api/v1/query_range?{query}") as answer:
            return json.load(answer)["data"]["result"]


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    """Train a population on a Ray of its own, with a dashboard, while a Prometheus scrapes it."""
    folder = tmp_path_factory.mktemp("dashboard")
    metrics, web = free_port(), free_port()
    prometheus = None
    if shutil.which("prometheus"):
        config = folder / "prometheus.yml"
        config.write_text(
            "global: {scrape_interval: 1s}\n"
            f"scrape_configs: [{{job_name: ray, static_configs: [{{targets: ['127.0.0.1:{metrics}']}}]}}]\n"
        )
        options = [f"--config.file={config}", f"--storage.tsdb.path={folder / 'tsdb'}"]
        prometheus = subprocess.Popen(
            ["prometheus", *options, f"--web.listen-address=127.0.0.1:{web}", "--log.level=error"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / ".package"), str(ROOT)])}
    program = [sys.executable, "-m", "tests.integration.dashboard_run", str(folder), str(metrics)]
    process = subprocess.Popen(
        program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        line = next((line for line in process.stdout if line.startswith('{"actors"')), "")
        with urllib.request.urlopen(f"http://127.0.0.1:{metrics}/metrics") as answer:
            scraped = answer.read().decode()
        yield Shown(folder, json.loads(line), web if prometheus else None, scraped)
    finally:
        process.stdin.close()
        process.wait(timeout=60)
        if prometheus is not None:
            prometheus.send_signal(signal.SIGTERM)
            prometheus.wait(timeout=30)


@pytest.mark.timeout(300)
def test_finished_actors_have_exited_as_intended(shown: Shown) -> None:
    actors = {actor["name"]: actor for actor in shown.facts["actors"]}
    assert set(actors) == {"shown/coordinator", "shown/0/1", "shown/1/1"}
    assert {actor["class"] for actor in actors.values()} == {"Coordinator", "Network"}
    for name, actor in actors.items():
        assert actor["state"] == "DEAD", name
        assert "ray.kill" not in actor["cause"] and "INTENDED" in actor["cause"], (name, actor["cause"])


def test_network_processes_carry_run_and_id(shown: Shown) -> None:
    assert {"ray::shown/0 train", "ray::shown/1 train"} <= set(shown.facts["running"])


def test_lines_of_each_actor_are_on_its_log_page(shown: Shown) -> None:
    errors = list(shown.facts["errors"].values())
    for number in (0, 1):
        pages = [text for text in errors if f"network {number}, incarnation 1" in text]
        assert len(pages) == 1 and "interval 16: loss" in pages[0]
        in_folder = (shown.folder / "shown" / "logs" / f"network-{number}.log").read_text()
        assert "interval 16: loss" in in_folder
    (coordinator,) = [text for text in errors if "network 1: joins, incarnation 1" in text]
    assert "network 0: done" in coordinator and "finished" in coordinator
    assert "DeprecationWarning" not in coordinator
    assert "network 0: done" in (shown.folder / "shown" / "logs" / "coordinator.log").read_text()


def test_exported_families_are_those_of_the_docs(shown: Shown) -> None:
    page = (ROOT / "docs" / "reference" / "metrics.md").read_text()
    documented = {
        row[0]: set(re.findall(r"`(\w+)`", row[1]))
        for row in re.findall(r"^\| `(\w+)` \| [^|]* \| ([^|]*) \|", page, re.M)
    }
    assert len(documented) > 20
    exported: dict[str, set[str]] = {}
    for name, labels in re.findall(r"^(ray_inarch_\w+?)(?:_bucket|_sum|_count)?\{(.*?)\}", shown.scraped, re.MULTILINE):
        exported.setdefault(name, set()).update(re.findall(r'(\w+)="', labels))
    after_failures = {f"ray_inarch_{name}_total" for name in ("losses", "restarts", "failures", "storage_failures")}
    after_leaving = {"ray_inarch_leaves_total"}
    assert set(exported) <= set(documented)
    assert set(documented) - set(exported) <= after_failures | after_leaving
    own_labels = {"run", "state", "of", "metric", "outcome", "phase", "network"}
    for name, labels in exported.items():
        assert labels & own_labels == documented[name], name


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="needs the program prometheus, for example from Debian")
def test_every_panel_of_the_grafana_dashboard_has_data(shown: Shown) -> None:
    expressions = [(panel["title"], target["expr"]) for panel in dashboard()["panels"] for target in panel["targets"]]
    assert len(expressions) >= 12
    empty = [
        (title, expression)
        for title, expression in expressions
        if not shown.query(expression.replace("$__rate_interval", "15s").replace("$run", "shown"))
    ]
    assert empty == []


def test_run_trains_when_the_dashboard_cannot_start(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "if any(word.endswith('dashboard/dashboard.py') for word in sys.orig_argv):\n"
        "    raise SystemExit('no dashboard')\n"
    )
    options = ["--schedule.epochs", "1", "--population.size", "1", "--name", "blocked", "--storage", str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT / ".package")])}
    environment.pop("RAY_ADDRESS", None)
    result = subprocess.run(
        [sys.executable, "-m", "inarch.experiments.cli", "train", *options],
        capture_output=True,
        text=True,
        env=environment,
        timeout=140,
    )
    assert result.returncode == 0, result.stderr
    assert "dashboard: none on this cluster; the run trains without it" in result.stdout
    assert "trained in" in result.stdout
