"""Pictures of a comparison: accuracy with its spread, entropy and invalid filters, alpha by layer, similarity."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import matplotlib
import numpy as np
from matplotlib import color_sequences
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from inarch.experiments.comparison.arms import Comparison
from inarch.experiments.comparison.results_store import ResultsStore

matplotlib.use("Agg")

Row = dict[str, Any]


def draw(comparison: Comparison, record: ResultsStore) -> None:
    """Pictures beside the record: accuracy (by time too where that counts), filters, alpha, similarity, fusion; those
    without rows are left out."""
    order = [arm.name for arm in comparison.arms]
    _accuracy(order, record)
    if comparison.is_timed:
        _time(order, record)
    _filters(order, record)
    _layers(order, record)
    _alpha(order, record)
    _similarity(order, record)
    _fusion(order, record)


def _accuracy(order: list[str], record: ResultsStore) -> None:
    rows = record.rows("curves")
    if not rows:
        return
    figure, (by_epoch, loss) = _figure(2)
    for arm, color in _arms(order, rows):
        of = [row for row in rows if row["arm"] == arm]
        _band(by_epoch, of, "epoch", lambda row: 100 * row["validation_accuracy"], label=arm, color=color)
        _band(loss, of, "epoch", lambda row: row["train_loss"], label=arm, color=color)
    _name(by_epoch, "epoch", "validation accuracy, %")
    _name(loss, "epoch", "training loss, nats")
    by_epoch.legend(fontsize=7)
    _save(figure, record, "accuracy")


def _time(order: list[str], record: ResultsStore) -> None:
    rows = record.rows("curves")
    if not rows:
        return
    figure, (axes,) = _figure(1)
    for arm, color in _arms(order, rows):
        series: dict[tuple[int, int], list[Row]] = defaultdict(list)
        for row in sorted((row for row in rows if row["arm"] == arm), key=lambda row: row["time"]):
            series[row["seed"], row["network"]].append(row)
        for number, of in enumerate(series.values()):
            label = arm if number == 0 else None
            accuracies = [100 * row["validation_accuracy"] for row in of]
            axes.step([row["time"] for row in of], accuracies, where="post", color=color, lw=0.9, label=label)
    _name(axes, "seconds, a line for each network and seed", "validation accuracy, %")
    axes.legend(fontsize=7)
    _save(figure, record, "time")


def _filters(order: list[str], record: ResultsStore) -> None:
    rows = record.rows("filters")
    if not rows:
        return
    figure, (entropy, invalid, empty) = _figure(3)
    for arm, color in _arms(order, rows):
        of = [row for row in rows if row["arm"] == arm]
        _band(entropy, of, "interval", lambda row: row["entropy"], label=arm, color=color)
        _band(invalid, of, "interval", lambda row: 100 * row["invalid_1"], label=arm, color=color)
        _band(empty, of, "interval", lambda row: 100 * row["invalid_0_1"], label=arm, color=color)
    _name(entropy, "interval", "mean entropy of the layers, nats")
    _name(invalid, "interval", "filters with l1 norm below 1, %")
    _name(empty, "interval", "filters with l1 norm below 0.1, %")
    entropy.legend(fontsize=7)
    _save(figure, record, "filters")


def _layers(order: list[str], record: ResultsStore) -> None:
    """Invalid filters by layer over training, a panel for each arm."""
    rows = record.rows("layers")
    if not rows:
        return
    layers, intervals = (list(dict.fromkeys(row[name] for row in rows)) for name in ("layer", "interval"))
    arms = [arm for arm, _ in _arms(order, rows)]
    figure = Figure(figsize=(1.0 + 2.6 * len(arms), 1.0 + 0.28 * len(layers)), layout="constrained")
    panels = [figure.add_subplot(1, len(arms), place + 1) for place in range(len(arms))]
    shown = None
    for arm, axes in zip(arms, panels, strict=True):
        found: dict[tuple[str, int], list[float]] = defaultdict(list)
        for row in rows:
            if row["arm"] == arm:
                found[row["layer"], row["interval"]].append(100 * row["invalid_1"])
        parts = [[np.mean(found.get((layer, at), [np.nan])) for at in sorted(intervals)] for layer in layers]
        shown = axes.imshow(parts, aspect="auto", vmin=0.0, vmax=100.0, cmap="viridis")
        axes.set_title(arm, fontsize=7)
        axes.set_xlabel("evaluated interval")
        axes.set_yticks(range(len(layers)), [layer.removesuffix(".weight") for layer in layers], fontsize=6)
    if shown is not None:
        figure.colorbar(shown, ax=panels, label="filters with l1 norm below 1, %")
    _save(figure, record, "layers")


def _alpha(order: list[str], record: ResultsStore) -> None:
    rows = [row for row in record.rows("alphas") if row["layer"] != "*"]
    if not rows:
        return
    figure, (axes,) = _figure(1)
    layers = list(dict.fromkeys(row["layer"] for row in rows))
    for arm, color in _arms(order, rows):
        of: dict[str, list[Row]] = defaultdict(list)
        for row in rows:
            if row["arm"] == arm:
                of[row["layer"]].append(row)
        places = [place for place, layer in enumerate(layers) if layer in of]
        means, spread = (
            [np.mean([row[name] for row in of[layers[place]]]) for place in places]
            for name in ("alpha", "alpha_deviation")
        )
        axes.errorbar(places, means, yerr=spread, label=arm, color=color, capsize=2, marker="o", ms=3)
    axes.set_xticks(range(len(layers)), [layer.removesuffix(".weight") for layer in layers], rotation=70, fontsize=6)
    _name(axes, "", "alpha: mean and deviation over exchanges")
    axes.legend(fontsize=7)
    _save(figure, record, "alpha")


def _similarity(order: list[str], record: ResultsStore) -> None:
    rows = [row for row in record.rows("similarity") if row["agreement"] is not None]
    if not rows:
        return
    figure, (agreement, cosine) = _figure(2)
    for arm, color in _arms(order, rows):
        of = [row for row in rows if row["arm"] == arm]
        _band(agreement, of, "interval", lambda row: 100 * row["agreement"], label=arm, color=color)
        known = [row for row in of if row["cosine"] is not None]
        _band(cosine, known, "interval", lambda row: row["cosine"], label=arm, color=color)
    _name(agreement, "interval", "same prediction after the exchange, %")
    _name(cosine, "interval", "cosine of the weights after the exchange")
    agreement.legend(fontsize=7)
    _save(figure, record, "similarity")


def _fusion(order: list[str], record: ResultsStore) -> None:
    rows = record.rows("fusion")
    if not rows:
        return
    figure, (effective, gradient, changed) = _figure(3)
    for arm, color in _arms(order, rows):
        of = [row for row in rows if row["arm"] == arm]
        _band(effective, of, "epoch", lambda row: row["effective"], label=arm, color=color)
        known = [row for row in of if row["discarded_gradient"] is not None]
        _band(gradient, known, "epoch", lambda row: 100 * row["discarded_gradient"], label=arm, color=color)
        later = [row for row in of if row["epoch"] > 0]
        _band(changed, later, "epoch", lambda row: 100 * row["changed"] / row["kept"], label=arm, color=color)
    effective.set_yscale("log")
    _name(effective, "epoch", "filters mixed into one: mean, range")
    _name(gradient, "epoch", "gradient to filters not kept, step before, %")
    _name(changed, "epoch", "kept, not kept before, %")
    effective.legend(fontsize=7)
    _save(figure, record, "fusion")


def _band(
    axes: Axes, rows: Iterable[Row], along: str, value: Callable[[Row], float], *, label: str, color: str
) -> None:
    """Mean over networks and seeds, with the range from the least to the greatest."""
    found: dict[float, list[float]] = defaultdict(list)
    for row in rows:
        found[round(float(row[along]), 2)].append(value(row))
    places = sorted(found)
    axes.plot(places, [np.mean(found[place]) for place in places], label=label, color=color, lw=1.5)
    axes.fill_between(
        places, [min(found[place]) for place in places], [max(found[place]) for place in places], color=color, alpha=0.1
    )


def _arms(order: list[str], rows: list[Row]) -> Iterable[tuple[str, str]]:
    """Arms that have rows, each with its color, the same in every picture."""
    colors = itertools.cycle(color_sequences["tab10"])
    there = {row["arm"] for row in rows}
    chosen = itertools.islice(colors, len(order))
    return [(arm, to_hex(color)) for arm, color in zip(order, chosen, strict=True) if arm in there]


def _figure(count: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(6.0 * count, 4.0), layout="constrained")
    return figure, [figure.add_subplot(1, count, index + 1) for index in range(count)]


def _name(axes: Axes, across: str, up: str) -> None:
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.grid(alpha=0.3)


def _save(figure: Figure, record: ResultsStore, name: str) -> None:
    figure.savefig(record.folder / f"{name}.png", dpi=90)
