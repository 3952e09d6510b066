"""Pictures of a comparison: accuracy, entropy and invalid filters, alpha by layer, similarity, and fusion."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib import color_sequences
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from inarch.experiments.comparison.arms import Comparison
from inarch.experiments.comparison.results_store import ResultsStore
from inarch.experiments.comparison.statistics import Estimate, paired
from inarch.population.training.schedule import Schedule

matplotlib.use("Agg")

Row = dict[str, Any]


SCORE = "last_mean_accuracy"
"""Score of which the gain is drawn: that of the last weights, because the choice of the best weights is noisy."""


class Gain(NamedTuple):
    """What exchange gains in one regime."""

    train_loss: float
    """Training loss of the baseline in its last interval, in nats."""
    decay_time: float
    estimate: Estimate
    """Gain in points, paired by seed, with its 95 % interval."""


def draw(comparison: Comparison, record: ResultsStore) -> None:
    """Draw the pictures of a comparison and save them beside its results. A picture without rows is left out.

    Args:
        comparison: The comparison. If it is timed, accuracy is also drawn by wall time.
        record: Its results.
    """
    order = [arm.name for arm in comparison.arms]
    filters, layers, similarity = (
        by_epoch(comparison, record.rows(table), record.rows("scores")) for table in ("filters", "layers", "similarity")
    )
    _accuracy(order, record)
    if comparison.is_timed:
        _time(order, record)
    _filters(order, record, filters)
    _layers(order, record, layers)
    _alpha(order, record)
    _similarity(order, record, similarity)
    _fusion(order, record)
    _gain(comparison, record)


def by_epoch(comparison: Comparison, rows: list[Row], scores: list[Row]) -> list[Row]:
    """Return rows with the column `epoch`, the epochs that were trained by the end of their interval.

    Arms may have intervals of different lengths, so that the numbers of intervals cannot be compared.

    Args:
        comparison: The comparison.
        rows: Rows of a table with the columns `arm`, `seed` and `interval`.
        scores: Its table of scores.
    """
    configs = {arm.name: arm.config.schedule for arm in comparison.arms}
    steps = {(row["arm"], row["seed"]): row.get("steps") for row in scores}

    def epoch(row: Row) -> float:
        config = configs[row["arm"]]
        steps_per_epoch = (steps[row["arm"], row["seed"]] or config.epochs) // config.epochs  # old rows have no steps
        return Schedule(config=config, steps_per_epoch=steps_per_epoch).end(row["interval"]) / steps_per_epoch

    return [{**row, "epoch": epoch(row)} for row in rows]


def gains(comparison: Comparison, rows: list[Row]) -> dict[str, list[Gain]]:
    """Return the points of the picture of gains, by series, in the order of the arms.

    Args:
        comparison: The comparison.
        rows: Its table of scores.
    """
    by_arm: dict[str, dict[int, Row]] = defaultdict(dict)
    for row in rows:
        if row.get("train_loss") is not None and row.get("decay_time") is not None:
            by_arm[row["arm"]][row["seed"]] = row
    result: dict[str, list[Gain]] = defaultdict(list)
    for arm in comparison.arms:
        own, base = by_arm[arm.name], by_arm[comparison.baseline_of(arm)]
        if arm.series is None or not own.keys() & base.keys():
            continue
        scores, others = ({seed: 100 * row[SCORE] for seed, row in rows.items()} for rows in (own, base))
        losses = [row["train_loss"] for row in base.values()]
        decay = float(np.mean([row["decay_time"] for row in own.values()]))
        result[arm.series].append(Gain(float(np.mean(losses)), decay, paired(scores, others)))
    return dict(result)


def _gain(comparison: Comparison, record: ResultsStore) -> None:
    """Draw the gain over the baseline against the baseline's training loss, and against the decay time."""
    series = gains(comparison, record.rows("scores"))
    if not series:
        return
    figure, panels = _figure(2)
    every = [point for points in series.values() for point in points]
    spans = [float(np.ptp([p.train_loss for p in every])), float(np.ptp([p.decay_time for p in every]))]
    colors = _colors(len(series))
    for number, ((name, points), color) in enumerate(zip(series.items(), colors, strict=False)):
        shift = 0.008 * (number - 0.5 * (len(series) - 1))  # so that the intervals of the methods lie side by side
        losses = [point.train_loss - shift * spans[0] for point in points]
        times = [point.decay_time + shift * spans[1] for point in points]
        for axes, places in zip(panels, (losses, times), strict=True):
            halves = [point.estimate.half if np.isfinite(point.estimate.half) else 0.0 for point in points]
            means = [point.estimate.mean for point in points]
            axes.errorbar(places, means, yerr=halves, label=name, color=to_hex(color), capsize=2, marker="o", ms=3)
    for axes, across in zip(panels, ("training loss without exchange, nats", "D, decay time"), strict=True):
        axes.axhline(0.0, color="gray", lw=0.8)
        _name(axes, across, "gain over no exchange, test accuracy in points")
    panels[0].invert_xaxis()  # to the right, networks fit better
    panels[0].legend(fontsize=7)
    _save(figure, record, "gain")


def _accuracy(order: list[str], record: ResultsStore) -> None:
    rows = record.rows("curves")
    if not rows:
        return
    figure, (by_epoch, loss) = _figure(2)
    for arm, color in _arms(order, rows):
        of_arm = [row for row in rows if row["arm"] == arm]
        _band(by_epoch, of_arm, "epoch", lambda row: 100 * row["validation_accuracy"], label=arm, color=color)
        _band(loss, of_arm, "epoch", lambda row: row["train_loss"], label=arm, color=color)
    _name(by_epoch, "epoch", "validation accuracy, %")
    _name(loss, "epoch", "training loss, nats")
    by_epoch.legend(fontsize=7)
    _save(figure, record, "accuracy")


def _time(order: list[str], record: ResultsStore) -> None:
    rows = [row for row in record.rows("curves") if row["time"] is not None]
    if not rows:
        return
    figure, (axes,) = _figure(1)
    for arm, color in _arms(order, rows):
        series: dict[tuple[int, int], list[Row]] = defaultdict(list)
        for row in sorted((row for row in rows if row["arm"] == arm), key=lambda row: row["time"]):
            series[row["seed"], row["network"]].append(row)
        for number, run in enumerate(series.values()):
            label = arm if number == 0 else None
            accuracies = [100 * row["validation_accuracy"] for row in run]
            axes.step([row["time"] for row in run], accuracies, where="post", color=color, lw=0.9, label=label)
    _name(axes, "seconds; one line for each network and seed", "validation accuracy, %")
    axes.legend(fontsize=7)
    _save(figure, record, "time")


def _filters(order: list[str], record: ResultsStore, rows: list[Row]) -> None:
    if not rows:
        return
    figure, (entropy, invalid, empty) = _figure(3)
    for arm, color in _arms(order, rows):
        of_arm = [row for row in rows if row["arm"] == arm]
        _band(entropy, of_arm, "epoch", lambda row: row["entropy"], label=arm, color=color)
        _band(invalid, of_arm, "epoch", lambda row: 100 * row["invalid_1"], label=arm, color=color)
        _band(empty, of_arm, "epoch", lambda row: 100 * row["invalid_0_1"], label=arm, color=color)
    _name(entropy, "epoch", "mean entropy of the layers, nats")
    _name(invalid, "epoch", "filters with l1 norm below 1, %")
    _name(empty, "epoch", "filters with l1 norm below 0.1, %")
    entropy.legend(fontsize=7)
    _save(figure, record, "filters")


def _layers(order: list[str], record: ResultsStore, rows: list[Row]) -> None:
    """Draw the share of invalid filters by layer and epoch, with one panel for each arm."""
    if not rows:
        return
    layers = list(dict.fromkeys(row["layer"] for row in rows))
    arms = [arm for arm, _ in _arms(order, rows)]
    figure = Figure(figsize=(1.0 + 2.6 * len(arms), 1.0 + 0.28 * len(layers)), layout="constrained")
    panels = [figure.add_subplot(1, len(arms), place + 1) for place in range(len(arms))]
    image = None
    for arm, axes in zip(arms, panels, strict=True):
        shares: dict[tuple[str, float], list[float]] = defaultdict(list)
        for row in rows:
            if row["arm"] == arm:
                shares[row["layer"], row["epoch"]].append(100 * row["invalid_1"])
        epochs = sorted({epoch for _, epoch in shares})
        means = [[np.mean(shares.get((layer, epoch), [np.nan])) for epoch in epochs] for layer in layers]
        extent = (0.0, epochs[-1], len(layers) - 0.5, -0.5)
        image = axes.imshow(
            means, aspect="auto", vmin=0.0, vmax=100.0, cmap="viridis", extent=extent, interpolation="nearest"
        )
        axes.set_title(arm, fontsize=7)
        axes.set_xlabel("epoch")
        axes.set_yticks(range(len(layers)), [layer.removesuffix(".weight") for layer in layers], fontsize=6)
    if image is not None:
        figure.colorbar(image, ax=panels, label="filters with l1 norm below 1, %")
    _save(figure, record, "layers")


def _alpha(order: list[str], record: ResultsStore) -> None:
    rows = [row for row in record.rows("alphas") if row["layer"] != "*"]
    if not rows:
        return
    figure, (axes,) = _figure(1)
    layers = list(dict.fromkeys(row["layer"] for row in rows))
    for arm, color in _arms(order, rows):
        by_layer: dict[str, list[Row]] = defaultdict(list)
        for row in rows:
            if row["arm"] == arm:
                by_layer[row["layer"]].append(row)
        places = [place for place, layer in enumerate(layers) if layer in by_layer]
        means, spread = (
            [np.mean([row[name] for row in by_layer[layers[place]]]) for place in places]
            for name in ("alpha", "alpha_deviation")
        )
        axes.errorbar(places, means, yerr=spread, label=arm, color=color, capsize=2, marker="o", ms=3)
    axes.set_xticks(range(len(layers)), [layer.removesuffix(".weight") for layer in layers], rotation=70, fontsize=6)
    _name(axes, "", "alpha: mean, standard deviation")
    axes.legend(fontsize=7)
    _save(figure, record, "alpha")


def _similarity(order: list[str], record: ResultsStore, rows: list[Row]) -> None:
    rows = [row for row in rows if row["agreement"] is not None]
    if not rows:
        return
    figure, (agreement, cosine) = _figure(2)
    for arm, color in _arms(order, rows):
        of_arm = [row for row in rows if row["arm"] == arm]
        _band(agreement, of_arm, "epoch", lambda row: 100 * row["agreement"], label=arm, color=color)
        known = [row for row in of_arm if row["cosine"] is not None]
        _band(cosine, known, "epoch", lambda row: row["cosine"], label=arm, color=color)
    _name(agreement, "epoch", "same predictions after the exchange, %")
    _name(cosine, "epoch", "cosine of the weights after the exchange")
    agreement.legend(fontsize=7)
    _save(figure, record, "similarity")


def _fusion(order: list[str], record: ResultsStore) -> None:
    rows = record.rows("fusion")
    if not rows:
        return
    figure, (effective, gradient, changed) = _figure(3)
    for arm, color in _arms(order, rows):
        of_arm = [row for row in rows if row["arm"] == arm]
        _band(effective, of_arm, "epoch", lambda row: row["effective"], label=arm, color=color)
        known = [row for row in of_arm if row["discarded_gradient"] is not None]
        _band(gradient, known, "epoch", lambda row: 100 * row["discarded_gradient"], label=arm, color=color)
        later = [row for row in of_arm if row["epoch"] > 0]
        _band(changed, later, "epoch", lambda row: 100 * row["changed"] / row["kept"], label=arm, color=color)
    effective.set_yscale("log")
    _name(effective, "epoch", "filters mixed into a fused filter: mean, range")
    _name(gradient, "epoch", "gradient to discarded filters, last step, %")
    _name(changed, "epoch", "kept filters that were discarded before, %")
    effective.legend(fontsize=7)
    _save(figure, record, "fusion")


def _band(
    axes: Axes, rows: Iterable[Row], along: str, value: Callable[[Row], float], *, label: str, color: str
) -> None:
    """Draw the mean over networks and seeds as a line, and the range from least to greatest as a band."""
    values: dict[float, list[float]] = defaultdict(list)
    for row in rows:
        values[round(float(row[along]), 2)].append(value(row))
    places = sorted(values)
    axes.plot(places, [np.mean(values[place]) for place in places], label=label, color=color, lw=1.5)
    axes.fill_between(
        places,
        [min(values[place]) for place in places],
        [max(values[place]) for place in places],
        color=color,
        alpha=0.1,
    )


def _colors(count: int) -> Iterator[Any]:
    """Return at least as many colors, which repeat only above twenty."""
    return itertools.cycle(color_sequences["tab10" if count <= len(color_sequences["tab10"]) else "tab20"])


def _arms(order: list[str], rows: list[Row]) -> Iterable[tuple[str, str]]:
    """Return the arms that have rows, each with its color. The color of an arm is the same in every picture."""
    colors = _colors(len(order))
    present = {row["arm"] for row in rows}
    arm_colors = itertools.islice(colors, len(order))
    return [(arm, to_hex(color)) for arm, color in zip(order, arm_colors, strict=True) if arm in present]


def _figure(count: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(6.0 * count, 4.0), layout="constrained")
    return figure, [figure.add_subplot(1, count, index + 1) for index in range(count)]


def _name(axes: Axes, across: str, up: str) -> None:
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.grid(alpha=0.3)


def _save(figure: Figure, record: ResultsStore, name: str) -> None:
    figure.savefig(record.folder / f"{name}.png", dpi=90)
