"""A Grafana dashboard of the metrics that runs export."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

SELECTED = 'run=~"$run"'
"""Label matcher of the runs that are selected in Grafana."""

WIDTH, HEIGHT, COLUMNS = 8, 8, 3
"""Size of a panel in units of Grafana's grid, which is 24 wide, and panels in a row."""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One graph."""

    title: str
    queries: tuple[tuple[str, str], ...]
    """PromQL expressions, each with the legend of its series."""
    unit: str = "short"
    """Unit, by Grafana's name."""
    description: str = ""


def _rate(metric: str, by: str = "") -> str:
    grouping = f"by ({by}) " if by else ""
    return f"sum {grouping}(rate({metric}{{{SELECTED}}}[$__rate_interval]))"


def _total(metric: str) -> str:
    """An expression for a counter that has no series before its first event."""
    return f"sum({metric}{{{SELECTED}}}) or vector(0)"


def _of(metric: str, labels: str = "run, of") -> str:
    """An expression for a gauge. A coordinator that Ray has restarted begins new series, hence the maximum."""
    return f"max by ({labels}) ({metric}{{{SELECTED}}})"


PANELS = (
    Panel(
        title="Networks by state",
        queries=((_of("ray_inarch_networks", "run, state"), "{{run}} {{state}}"),),
        description="Members of the population. A state that emptied stays at 0.",
    ),
    Panel(
        title="Intervals",
        queries=(
            (_of("ray_inarch_intervals"), "{{run}} {{of}}"),
            (_of("ray_inarch_intervals_scheduled", "run"), "{{run}} scheduled"),
        ),
        description="Intervals completed by the slowest, the median and the fastest network.",
    ),
    Panel(
        title="Validation metric",
        queries=((_of("ray_inarch_validation_metric", "run, metric, of"), "{{run}} {{metric}} {{of}}"),),
        description="Primary metric of the task: best, mean and worst network.",
    ),
    Panel(title="Training loss", queries=((_of("ray_inarch_train_loss"), "{{run}} {{of}}"),)),
    Panel(
        title="Training speed",
        queries=((_of("ray_inarch_examples_per_second", "run"), "{{run}} examples/s"),),
        description="All networks together.",
    ),
    Panel(
        title="Exchanges by outcome",
        queries=((_rate("ray_inarch_exchanges_total", "run, outcome"), "{{run}} {{outcome}}"),),
        unit="ops",
    ),
    Panel(
        title="Share of exchanges that grafted",
        queries=(
            (
                f'sum by (run) (rate(ray_inarch_exchanges_total{{{SELECTED}, outcome="grafted"}}[$__rate_interval]))'
                f" / {_rate('ray_inarch_exchanges_total', 'run')}",
                "{{run}}",
            ),
        ),
        unit="percentunit",
    ),
    Panel(
        title="Staleness of scions",
        queries=((_of("ray_inarch_scion_staleness_intervals"), "{{run}} {{of}}"),),
        description="How far the scions grafted last were behind, in intervals.",
    ),
    Panel(
        title="Duration of an exchange by phase, 95th percentile",
        queries=(
            (
                f"histogram_quantile(0.95, {_rate('ray_inarch_exchange_seconds_bucket', 'run, phase, le')})",
                "{{run}} {{phase}}",
            ),
        ),
        unit="s",
    ),
    Panel(
        title="Published bytes",
        queries=((_rate("ray_inarch_published_bytes_total", "run"), "{{run}}"),),
        unit="Bps",
    ),
    Panel(
        title="Joins, losses, restarts, leaves, failures",
        queries=tuple(
            (_total(f"ray_inarch_{name}_total"), name) for name in ("joins", "losses", "restarts", "leaves", "failures")
        ),
        description="Since the start of the coordinator.",
    ),
    Panel(
        title="Checkpoints and failures of storage",
        queries=(
            (_total("ray_inarch_checkpoints_total"), "checkpoints"),
            (_total("ray_inarch_storage_failures_total"), "failures"),
        ),
    ),
    Panel(
        title="Age of what storage does not take",
        queries=((_of("ray_inarch_unwritten_seconds"), "{{run}}"),),
        unit="s",
        description="Seconds since the oldest rows and weights that could not be written. 0 while storage works.",
    ),
    Panel(
        title="Longest silence of a training network",
        queries=((_of("ray_inarch_silent_seconds"), "{{run}}"),),
        unit="s",
        description="Seconds since its last heartbeat. A third of the lease is normal.",
    ),
    Panel(
        title="CPU of each network",
        queries=(('max by (Component) (ray_component_cpu_percentage{Component=~"ray::($run)/.*"})', "{{Component}}"),),
        unit="percent",
    ),
    Panel(
        title="Memory of each network",
        queries=(('max by (Component) (ray_component_uss_mb{Component=~"ray::($run)/.*"})', "{{Component}}"),),
        unit="decmbytes",
    ),
)
"""All panels, in reading order."""


def dashboard() -> dict[str, Any]:
    """Return the dashboard as the JSON that Grafana imports. Its variables select the data source and the runs."""
    source = {"type": "prometheus", "uid": "${datasource}"}
    panels = [
        {
            "id": number + 1,
            "type": "timeseries",
            "title": panel.title,
            "description": panel.description,
            "datasource": source,
            "gridPos": {
                "x": number % COLUMNS * WIDTH,
                "y": number // COLUMNS * HEIGHT,
                "w": WIDTH,
                "h": HEIGHT,
            },
            "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
            "targets": [
                {"refId": chr(ord("A") + index), "datasource": source, "expr": expression, "legendFormat": legend}
                for index, (expression, legend) in enumerate(panel.queries)
            ],
        }
        for number, panel in enumerate(PANELS)
    ]
    run = {
        "name": "run",
        "type": "query",
        "datasource": source,
        "query": {"query": "label_values(ray_inarch_networks, run)", "refId": "runs"},
        "includeAll": True,
        "multi": True,
        "refresh": 2,
        "current": {"text": "All", "value": "$__all"},
    }
    return {
        "title": "inarch",
        "uid": "inarch",
        "schemaVersion": 39,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "templating": {"list": [{"name": "datasource", "type": "datasource", "query": "prometheus"}, run]},
        "panels": panels,
    }
