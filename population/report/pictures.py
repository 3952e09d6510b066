"""Pictures of the report as inline SVG: line charts, heat maps, and a time line.

Drawn here, because the charting libraries that were looked at need a script of megabytes (plotly, bokeh), or give
fonts and paths of a megabyte for a page of this size (matplotlib).
"""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from inarch.population.report.content import Grid

WIDTH, HEIGHT = 460, 230
LEFT, RIGHT, TOP, BOTTOM = 52, 10, 10, 26

COLORS = (
    "#4269d0",
    "#efb118",
    "#ff725c",
    "#6cc5b0",
    "#3ca951",
    "#ff8ab7",
    "#a463f2",
    "#97bbf5",
    "#9c6b4e",
    "#9498a0",
)
"""Observable's ten colors, which differ for most kinds of color blindness."""

Points = Sequence[tuple[float, float]]


def color(number: int) -> str:
    """Return the color of a network.

    Args:
        number: Id of the network.
    """
    return COLORS[number % len(COLORS)]


def line_chart(series: Mapping[str, tuple[str, Points]], *, x_title: str) -> str:
    """Return a line chart. Hovering over a line shows its name.

    Args:
        series: Color and points (x, y) of each line, by its name. Points must be finite.
        x_title: Title of the horizontal axis.

    Returns:
        SVG. A sentence if there are no points.
    """
    points = [point for _, line in series.values() for point in line]
    if not points:
        return EMPTY
    x_low, x_high = _range([x for x, _ in points])
    y_low, y_high = _range([y for _, y in points])
    parts = [_axes((x_low, x_high), (y_low, y_high), x_title)]
    for name, (stroke, line) in series.items():
        path = " ".join(
            f"{_scale(x, x_low, x_high, LEFT, WIDTH - RIGHT):.1f},{_scale(y, y_low, y_high, HEIGHT - BOTTOM, TOP):.1f}"
            for x, y in line
        )
        title = f"<title>{html.escape(name)}</title>"
        if len(line) == 1:
            x, y = path.split(",")
            parts.append(f'<circle cx="{x}" cy="{y}" r="2.5" fill="{stroke}">{title}</circle>')
        else:
            parts.append(f'<polyline points="{path}" stroke="{stroke}" class="line">{title}</polyline>')
    return _svg(parts, WIDTH, HEIGHT)


def heat_map(grid: Grid, *, low: float, high: float, form: str = "{:.2f}") -> str:
    """Return a heat map of layers over intervals, with a scale.

    Args:
        grid: The values.
        low: Value of the darkest color.
        high: Value of the brightest color.
        form: Format of the values at the scale, for `str.format`.

    Returns:
        HTML. A sentence if there are no values.
    """
    if not grid.layers:
        return EMPTY
    values = np.array([[np.nan if value is None else value for value in row] for row in grid.values])
    share = np.clip((values - low) / (high - low if high > low else 1.0), 0.0, 1.0)
    pixels = _colors(share)
    sink = io.BytesIO()
    Image.fromarray(pixels, mode="RGBA").save(sink, format="PNG")
    picture = base64.b64encode(sink.getvalue()).decode()
    row = max(4.0, min(16.0, 420 / len(grid.layers)))
    height = row * len(grid.layers)
    labels = ""
    if row >= 9:
        labels = "".join(
            f'<text x="128" y="{row * (index + 0.5) + 3:.1f}" text-anchor="end">{html.escape(_short(layer))}'
            f"<title>{html.escape(layer)}</title></text>"
            for index, layer in enumerate(grid.layers)
        )
    else:
        labels = f'<text x="128" y="10" text-anchor="end">{len(grid.layers)} layers</text>'
    image = (
        f'<image x="134" y="0" width="{WIDTH - 144}" height="{height:.1f}" preserveAspectRatio="none" '
        f'class="cells" href="data:image/png;base64,{picture}"/>'
    )
    axis = (
        f'<text x="134" y="{height + 14:.1f}">{grid.intervals[0]}</text>'
        f'<text x="{WIDTH - 10}" y="{height + 14:.1f}" text-anchor="end">interval {grid.intervals[-1]}</text>'
    )
    scale = "".join(f'<span style="background:{_css(step / 10)}"></span>' for step in range(11))
    legend = f'<div class="scale">{form.format(low)} {scale} {form.format(high)}</div>'
    return _svg([labels, image, axis], WIDTH, height + 20) + legend


def matrix(rows: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """Return a table of counts, whose cells are shaded by their share of the greatest.

    Args:
        rows: Names of rows and columns.
        counts: A row of counts for each name.

    Returns:
        HTML.
    """
    most = max((count for row in counts for count in row), default=0) or 1
    head = "".join(f"<th>{html.escape(name)}</th>" for name in rows)
    body = "".join(
        f"<tr><th>{html.escape(name)}</th>"
        + "".join(f'<td style="--share:{count / most:.2f}" class="count">{count or ""}</td>' for count in row)
        + "</tr>"
        for name, row in zip(rows, counts, strict=True)
    )
    return f'<div class="scroll"><table class="matrix"><tr><th>takes from</th>{head}</tr>{body}</table></div>'


def time_line(
    names: Sequence[str], spans: Sequence[tuple[int, float, float]], marks: Sequence[tuple[int, float, str, str]]
) -> str:
    """Return a time line: for each network the times in which it trained, and marks for events.

    Args:
        names: Names of the networks.
        spans: Row, start and end in seconds since the start of the run.
        marks: Row, time in seconds, class of the mark (join, loss, restart, leave, done, failure), and its text.

    Returns:
        SVG. A sentence if there is nothing to show.
    """
    if not names or not (spans or marks):
        return EMPTY
    end = max([*(stop for _, _, stop in spans), *(time for _, time, _, _ in marks), 1e-9])
    row = max(7.0, min(18.0, 600 / len(names)))
    height = row * len(names)
    parts: list[str] = []
    step = max(1, math.ceil(9 / row))
    for index, name in enumerate(names):
        if index % step == 0:
            parts.append(f'<text x="94" y="{row * (index + 0.5) + 3:.1f}" text-anchor="end">{html.escape(name)}</text>')
    for index, start, stop in spans:
        x, far = (_scale(value, 0.0, end, 100, WIDTH - RIGHT) for value in (start, stop))
        parts.append(
            f'<rect x="{x:.1f}" y="{row * (index + 0.2):.1f}" width="{max(1.0, far - x):.1f}" '
            f'height="{row * 0.6:.1f}" fill="{color(index)}" opacity="0.55"/>'
        )
    for index, time, kind, text in marks:
        x = _scale(time, 0.0, end, 100, WIDTH - RIGHT)
        parts.append(
            f'<circle cx="{x:.1f}" cy="{row * (index + 0.5):.1f}" r="3.5" class="mark {html.escape(kind)}">'
            f"<title>{html.escape(text)}</title></circle>"
        )
    parts.append(f'<text x="100" y="{height + 14:.1f}">0 s</text>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{height + 14:.1f}" text-anchor="end">{end:.0f} s</text>')
    return _svg(parts, WIDTH, height + 20)


EMPTY = '<p class="empty">Nothing was recorded.</p>'


def _axes(x_range: tuple[float, float], y_range: tuple[float, float], x_title: str) -> str:
    parts: list[str] = []
    for value in _ticks(*y_range):
        y = _scale(value, *y_range, HEIGHT - BOTTOM, TOP)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{y + 3:.1f}" text-anchor="end">{value:.6g}</text>')
    for value in _ticks(*x_range):
        x = _scale(value, *x_range, LEFT, WIDTH - RIGHT)
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 14}" text-anchor="middle">{value:.6g}</text>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 1}" text-anchor="end">{html.escape(x_title)}</text>')
    return "".join(parts)


def _ticks(low: float, high: float) -> list[float]:
    """Return about four round values of a range."""
    step = 10.0 ** math.floor(math.log10((high - low) / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 5)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Return a range that holds all values and is not empty."""
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - (abs(low) or 1.0) * 0.5, high + (abs(high) or 1.0) * 0.5)


def _scale(value: float, low: float, high: float, start: float, end: float) -> float:
    return start + (value - low) / (high - low) * (end - start)


def _svg(parts: Sequence[str], width: float, height: float) -> str:
    return f'<svg viewBox="0 0 {width:g} {height:.0f}" role="img">{"".join(parts)}</svg>'


_STOPS = np.array([[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]], dtype=np.float64)
"""Five colors of matplotlib's viridis."""


def _colors(share: np.ndarray) -> np.ndarray:
    """Return RGBA pixels of shares in [0, 1], transparent for NaN. Shape (rows, columns) to (rows, columns, 4)."""
    known = ~np.isnan(share)
    place = np.where(known, share, 0.0) * (len(_STOPS) - 1)
    channels = [np.interp(place, np.arange(len(_STOPS)), _STOPS[:, channel]) for channel in range(3)]
    return np.stack([*channels, np.where(known, 255.0, 0.0)], axis=-1).astype(np.uint8)


def _css(share: float) -> str:
    red, green, blue, _ = _colors(np.array([[share]]))[0, 0]
    return f"rgb({red},{green},{blue})"


def _short(name: str) -> str:
    return name if len(name) <= 20 else f"...{name[-18:]}"
