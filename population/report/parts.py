"""Parts of the report that its sections share."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from inarch.population.report.content import Row, RunContent


def names_of(content: RunContent) -> dict[int, str]:
    """Return the names of the networks by id. The name of a guest follows its id.

    Args:
        content: What the report shows.
    """
    ids = {row["network"] for row in content.rows} | {member.id for member in content.members}
    guests = {member.id: member.name for member in content.members if member.name}
    return {
        network_id: f"{network_id} {guests[network_id]}" if network_id in guests else str(network_id)
        for network_id in sorted(ids)
    }


def rows_by_network(rows: Iterable[Row]) -> dict[int, list[Row]]:
    """Return the rows of the table `metrics` of each network.

    Args:
        rows: Rows of all networks, in order.
    """
    grouped: dict[int, list[Row]] = {}
    for row in rows:
        grouped.setdefault(row["network"], []).append(row)
    return grouped


def card(title: str, body: str) -> str:
    """Return a box with a heading.

    Args:
        title: The heading, plain text.
        body: HTML.
    """
    return f'<div class="card"><h3>{text(title)}</h3>{body}</div>'


def table_row(name: str, cells: Sequence[str], *, is_best: bool = False) -> str:
    """Return a row of a table.

    Args:
        name: First cell, plain text.
        cells: Further cells, plain text.
        is_best: Whether the row is emphasized.
    """
    mark = ' class="best"' if is_best else ""
    return f"<tr{mark}><td>{text(name)}</td>{''.join(f'<td>{text(cell)}</td>' for cell in cells)}</tr>"


def text(value: object) -> str:
    """Return a value as HTML text.

    Args:
        value: Any value.
    """
    return html.escape(str(value))
