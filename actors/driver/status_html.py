"""The state of a run as HTML, for notebooks."""

from __future__ import annotations

import html
import importlib
import time
from collections.abc import Callable, Sequence
from typing import Any

from inarch.actors.messages import NetworkStatus, RunStatus
from inarch.population.evaluation.metrics import Metric

SHOW_SECONDS = 1.0
"""Pause in seconds between two updates of the table."""

MAX_ROWS = 50
"""Most networks in the table."""


def status_html(status: RunStatus) -> str:
    """Return a heading and a table with a row for each network.

    Args:
        status: State of the run.
    """
    primary = status.metrics[0] if status.metrics else None
    heading = primary.title if primary else "validation"
    names = ("network", "interval", "loss", heading, "examples/s", "grafts", "scion", "behind", "state")
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    rows = "".join(_row(network, status.num_intervals, primary) for network in status.networks[:MAX_ROWS])
    more = len(status.networks) - MAX_ROWS
    rest = f"<p>{more} more networks</p>" if more > 0 else ""
    message = f"<p>{html.escape(status.message)}</p>" if status.message else ""
    title = f"<b>{html.escape(status.name)}</b>: {status.state}, {status.seconds:.0f} s"
    return f"<div><p>{title}</p>{message}<table><tr>{head}</tr>{rows}</table>{rest}</div>"


def show_in_notebook(find_status: Callable[[], RunStatus]) -> bool:
    """Show a table in a notebook and update it until the run ends.

    Args:
        find_status: Returns the present state of the run.

    Returns:
        Whether this process belongs to a notebook or an IPython shell. Otherwise nothing is shown.
    """
    try:
        if importlib.import_module("IPython").get_ipython() is None:
            return False
    except ImportError:
        return False
    display: Any = importlib.import_module("IPython.display")
    table = display.display(display.HTML(status_html(find_status())), display_id=True)
    while True:
        status = find_status()
        table.update(display.HTML(status_html(status)))
        if status.state in ("finished", "failed"):
            return True
        time.sleep(SHOW_SECONDS)


def _row(network: NetworkStatus, num_intervals: int, primary: Metric | None) -> str:
    value = network.validation_metrics.get(primary.name) if primary else None
    cells: Sequence[str] = (
        str(network.network_id) if network.name is None else f"{network.network_id} {network.name}",
        f"{network.interval}/{num_intervals}" if num_intervals else str(network.interval),
        "" if network.train_loss is None else f"{network.train_loss:.4f}",
        primary.text(value) if primary else "",
        "" if network.examples_per_second is None else f"{network.examples_per_second:.0f}",
        str(network.grafts),
        "" if network.scion is None else str(network.scion),
        "" if network.staleness_intervals is None else f"{network.staleness_intervals:.1f}",
        network.state,
    )
    return f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells)}</tr>"
