"""The report of a run as one page of HTML, which holds everything that it shows."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from inarch.population.config import RunConfig, from_dict, to_dict
from inarch.population.persistence.history_schemas import is_hyperparameter
from inarch.population.persistence.storage import Storage
from inarch.population.report.content import Row, RunContent, read_content
from inarch.population.report.parts import card, names_of, rows_by_network, table_row, text
from inarch.population.report.pictures import Points, color, heat_map, line_chart, matrix, time_line
from inarch.population.report.result_section import result_section
from inarch.population.tasks.regime import Regime

MAX_POINTS, MAX_POINTS_OF_ALL = 400, 40_000
"""Most points of a line and of a chart. Of more, every n-th is drawn, and the last."""

MAX_NETWORKS = 100
"""Networks up to which a table shows who took from whom. Its size is the square of their number."""

NOT_SHOWN = (
    f"More than {MAX_NETWORKS} networks: the table grafts of the run's folder has rootstock and scion of each graft."
)

STYLE = """
:root { color-scheme: light dark; --ink: #1b1e23; --soft: #667; --line: #dde; --back: #fff; --card: #f7f8fa;
  --accent: #4269d0; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8ec; --soft: #99a; --line: #334; --back: #14161a;
  --card: #1d2026; --accent: #8fa8ec; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 16px; max-width: 1240px; background: var(--back); color: var(--ink);
  font: 15px/1.45 system-ui, sans-serif; }
h1 { font-size: 1.5em; margin: 0 0 4px; overflow-wrap: anywhere; } h2 { font-size: 1.15em; margin: 28px 0 8px; }
h3 { font-size: 1em; margin: 0 0 6px; } p { margin: 4px 0; } .soft, .empty { color: var(--soft); }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 380px), 1fr)); gap: 14px; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 12px; min-width: 0; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 3px 9px; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } tr.best { font-weight: 650; }
svg { width: 100%; max-width: 720px; height: auto; display: block; } svg text { font-size: 12px; fill: var(--soft); }
.line { fill: none; stroke-width: 1.6; } .line:hover { stroke-width: 4; } .grid { stroke: var(--line); }
.cells { image-rendering: pixelated; } .scale { color: var(--soft); font-size: 12px; }
.scale span { display: inline-block; width: 14px; height: 10px; }
.count { background: color-mix(in srgb, var(--accent) calc(var(--share) * 70%), transparent); text-align: center; }
.mark { fill: var(--soft); } .mark.join, .mark.done { fill: #3ca951; } .mark.restart { fill: #efb118; }
.mark.loss, .mark.failure, .mark.storage, .mark.damage { fill: #e5484d; }
.legend span { white-space: nowrap; margin-right: 12px; }
.legend i { display: inline-block; width: 10px; height: 10px; border-radius: 5px; margin-right: 4px; }
.fault { color: #e5484d; } details { margin-top: 8px; } pre { overflow-x: auto; font-size: 12px; }
"""


REPORT = "report.html"
"""Name of the report in a run's folder."""


FAULTS = frozenset({"loss", "restart", "failure", "storage", "damage"})
"""Kinds of events that are listed as faults."""


def write_report(storage: Storage, *, state: str | None = None) -> None:
    """Write the report of a run into its folder.

    Args:
        storage: The run's folder.
        state: Phase of the run to show. None: the one that was recorded last.

    Raises:
        RunError: config.json is damaged.
        StorageError: A file cannot be read or written.
    """
    content = read_content(storage)
    storage.write(REPORT, render(dataclasses.replace(content, state=state or content.state)).encode())


def render(content: RunContent, *, refresh_seconds: int | None = None) -> str:
    """Return the report of a run. It loads nothing from elsewhere.

    Args:
        content: What it shows.
        refresh_seconds: Whether the browser reads the file again, and after how long. None: it does not.
    """
    refresh = f'<meta http-equiv="refresh" content="{refresh_seconds}">' if refresh_seconds else ""
    sections = [
        _header(content),
        result_section(content),
        _curves(content),
        _exchange(content),
        _layers(content),
        _faults(content),
        _configuration(content),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">{refresh}'
        f"<title>{text(content.name)}: inarch report</title><style>{STYLE}</style></head>"
        f"<body>{''.join(sections)}</body></html>\n"
    )


def _header(content: RunContent) -> str:
    states: dict[str, int] = {}
    for member in content.members:
        states[member.state.value] = states.get(member.state.value, 0) + 1
    counts = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    rule = content.config["exchange"]["rule"]
    topology, mode = content.config["topology"]["name"], content.config["mode"]
    lines = [
        f"<h1>{text(content.name)}</h1>",
        f'<p class="soft">{text(content.state)}; networks: {text(counts) or "none"}; '
        f"{content.info['parameters']:,} parameters each; rule {text(rule)}, "
        f"topology {text(topology)}, {text(mode)}</p>",
    ]
    if content.info.get("regime"):
        planned: Regime = from_dict(Regime, content.info["regime"])
        lines += [f'<p class="soft">{text(line)}</p>' for line in planned.lines()]
    if content.message:
        lines.append(f'<p class="fault">{text(content.message)}</p>')
    names = names_of(content)
    legend = "".join(
        f'<span><i style="background:{color(network_id)}"></i>{text(name)}</span>'
        for network_id, name in list(names.items())[:40]
    )
    return "".join([*lines, f'<p class="legend">{legend}</p>'])


# Curves.


def _curves(content: RunContent) -> str:
    rows = rows_by_network(content.rows)
    names = names_of(content)
    metrics = [metric for metric in content.metrics if metric.in_training]
    columns = [(f"validation_{metric.name}", f"{metric.title} on validation data") for metric in metrics]
    columns += [("train_loss", "Training loss"), ("learning_rate", "Learning rate")]
    numbers = sorted({name for row in content.rows for name in row if is_hyperparameter(name)})
    columns += [(name, name) for name in numbers if len({row.get(name) for row in content.rows}) > 1]
    columns += [("examples_per_second", "Examples a second")]
    charts = [
        card(title, line_chart(_lines(rows, names, column), x_title="interval"))
        for column, title in columns
        if any(row.get(column) is not None for row in content.rows)
    ]
    return f'<h2>Curves</h2><div class="cards">{"".join(charts)}</div>' if charts else ""


def _lines(rows: Mapping[int, Sequence[Row]], names: Mapping[int, str], column: str) -> dict[str, tuple[str, Points]]:
    lines: dict[str, tuple[str, Points]] = {}
    for network_id, own in rows.items():
        known = [(row["interval"], row[column]) for row in own if row.get(column) is not None]
        points = [(interval, value) for interval, value in known if math.isfinite(value)]
        if points:
            lines[names.get(network_id, str(network_id))] = color(network_id), _thinned(points, len(rows))
    return lines


def _thinned(points: Sequence[tuple[float, float]], num_lines: int) -> Points:
    step = -(-len(points) // max(2, min(MAX_POINTS, MAX_POINTS_OF_ALL // num_lines)))
    return [*points[:-1:step], points[-1]]


# Exchange.


def _exchange(content: RunContent) -> str:
    if not content.exchanges:
        return ""
    names = names_of(content)
    ids = sorted(names)
    place = {network_id: index for index, network_id in enumerate(ids)}
    counts = [[0] * len(ids) for _ in ids]
    for row in content.exchanges:
        if row["rootstock"] in place and row["scion"] in place:
            counts[place[row["rootstock"]]][place[row["scion"]]] += 1
    grafts: dict[int, list[Row]] = {}
    for row in content.exchanges:
        grafts.setdefault(row["rootstock"], []).append(row)
    is_small = len(ids) <= MAX_NETWORKS
    takers = matrix([names[network_id] for network_id in ids], counts) if is_small else f"<p>{NOT_SHOWN}</p>"
    cards = [
        card("Who took from whom", takers),
        card(
            "Staleness of the scions, in intervals",
            line_chart(_lines(grafts, names, "staleness_intervals"), x_title="interval"),
        ),
        card(
            "Share of its own weights that a network kept (alpha)",
            line_chart(_lines(grafts, names, "alpha"), x_title="interval"),
        ),
        card("How exchanges ended", _outcomes(content.rows)),
    ]
    return f'<h2>Exchange</h2><div class="cards">{"".join(cards)}</div>'


def _outcomes(rows: Iterable[Row]) -> str:
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["outcome"]] = counts.get(row["outcome"], 0) + 1
    cells = "".join(table_row(name, [str(count)]) for name, count in sorted(counts.items(), key=lambda item: -item[1]))
    return f"<table>{cells}</table>"


def _layers(content: RunContent) -> str:
    cards: list[str] = []
    if content.alpha.layers:
        cards.append(card("Alpha by layer, mean of the networks", heat_map(content.alpha, low=0.0, high=1.0)))
    entropies = [value for row in content.entropy.values for value in row if value is not None]
    if entropies:
        picture = heat_map(content.entropy, low=min(entropies), high=max(entropies))
        cards.append(card("Entropy by layer in nats, mean of the networks", picture))
        shares = [value for row in content.invalid.values for value in row if value is not None]
        picture = heat_map(content.invalid, low=0.0, high=max([*shares, 0.01]), form="{:.0%}")
        cards.append(card("Filters with an l1 norm below 0.1", picture))
    return f'<h2>Layers</h2><div class="cards">{"".join(cards)}</div>' if cards else ""


# Faults.


def _faults(content: RunContent) -> str:
    names = names_of(content)
    place = {network_id: index for index, network_id in enumerate(sorted(names))}
    times = [row["time"] - _seconds(row) for row in content.rows] + [event["seconds"] for event in content.events]
    if not times:
        return ""
    start = min(times)
    spans: dict[tuple[int, int], tuple[float, float]] = {}
    for row in content.rows:
        key, end = (row["network"], row["incarnation"]), row["time"] - start
        before = spans.get(key, (end - _seconds(row), end))
        spans[key] = min(before[0], end - _seconds(row)), max(before[1], end)
    marks = [
        (place[event["network_id"]], event["seconds"] - start, event["kind"], _event_text(event))
        for event in content.events
        if event["network_id"] in place
    ]
    bars = [(place[network_id], *span) for (network_id, _), span in spans.items() if network_id in place]
    picture = time_line([names[network_id] for network_id in sorted(names)], bars, marks)
    faults = [event for event in content.events if event["kind"] in FAULTS]
    items = "".join(f"<li>{event['seconds'] - start:.0f} s: {text(_event_text(event))}</li>" for event in faults[-200:])
    listed = (
        f"<ul>{items}</ul>"
        if items
        else '<p class="soft">No network was lost, restarted or marked failed, and storage worked.</p>'
    )
    return f'<h2>Faults and restarts</h2><div class="card">{picture}{listed}</div>'


def _seconds(row: Row) -> float:
    return sum(value or 0.0 for name, value in row.items() if name.startswith("seconds_"))


def _event_text(event: Row) -> str:
    detail: Mapping[str, Any] = event["detail"]
    shown = ", ".join(f"{name} {value}" for name, value in detail.items() if value is not None)
    owner = "run" if event["network_id"] is None else f"network {event['network_id']}"
    return f"{owner}: {event['kind']}" + (f" ({shown})" if shown else "")


# Configuration.


def _configuration(content: RunContent) -> str:
    defaults = _flat(to_dict(RunConfig()))
    own = _flat(json.loads(json.dumps(content.config)))
    plain = {name: json.loads(json.dumps(value)) for name, value in defaults.items()}
    changed = "".join(table_row(name, [str(value)]) for name, value in own.items() if plain.get(name) != value)
    whole = json.dumps(content.config, indent=2)
    described = "".join(f"<p>{text(line)}</p>" for line in content.info.get("description", ()))
    return (
        f'<h2>Configuration</h2><div class="card">{described}<div class="scroll"><table>{changed}</table></div>'
        '<p class="soft">Fields that differ from the defaults.</p>'
        f"<details><summary>The whole configuration</summary><pre>{text(whole)}</pre></details></div>"
    )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
