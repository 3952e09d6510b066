"""The report of a comparison: question, setting, means with confidence intervals, and paired differences.

Longer than 300 lines: one function a table of the report, in the order of the report.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from inarch.experiments.comparison.arms import Comparison
from inarch.experiments.comparison.results_store import DENSITY_COLUMNS, ResultsStore
from inarch.experiments.comparison.run_summary import DENSITIES
from inarch.experiments.comparison.statistics import Estimate, detectable, interval, paired
from inarch.population.config import DataConfig, height_and_width
from inarch.population.config.per_network import text_of
from inarch.population.persistence.history_schemas import THRESHOLDS

SHOWN = {
    "mean": "mean network",
    "best": "best network",
    "ensemble": "ensemble",
    "soup": "soup",
    "greedy_soup": "greedy soup",
    "by_validation": "mean, best weights by validation",
    "last_mean": "mean at the end",
    "last_ensemble": "ensemble at the end",
    "last_soup": "soup at the end",
    "validation": "mean of the best score of any evaluation, on validation images",
    "last_validation": "mean at the end, on validation images",
    "train": "mean in the last epoch, on training images",
}
"""Columns of the score tables: the kind of result and the heading. Records of earlier versions lack some of them."""

PICTURES = ("gain", "accuracy", "time", "filters", "layers", "alpha", "similarity", "fusion")

WHEN: dict[str, Callable[[int], int]] = {
    "first interval": lambda count: 0,
    "half way": lambda count: count // 2,
    "at the end": lambda count: count - 1,
}
"""Times at which filters are shown: label, and a function from the number of evaluated intervals to an index."""

Row = dict[str, Any]


def write_report(comparison: Comparison, record: ResultsStore, *, command: str) -> None:
    """Write the report as README.md beside the results.

    Args:
        comparison: The comparison.
        record: Its results.
        command: Command line that made the results.
    """
    rows = record.rows("scores")
    names = [arm.name for arm in comparison.arms if any(row["arm"] == arm.name for row in rows)]
    parts = [
        f"# {comparison.name}",
        comparison.question,
        f"Made by `{command}`.",
        _setting(comparison, rows),
        "Scores are those of the weights that `checkpoint.weights` chooses: by default the last, unless the validation "
        "images tell the best ones from them. The best weights are taken before the exchange of their interval. "
        "The batch norm of soups is measured anew. Means are in percent and differences in percentage points, both "
        "with 95 % confidence intervals over seeds (Student's t).",
        *(
            part
            for score in _scores(rows)
            for part in (_means(names, rows, score), _differences(comparison, names, rows, score))
        ),
        "## Other measures",
        "D is the sum over steps of learning rate * weight decay / (1 - momentum): the norm of a weight without "
        "gradient falls as exp(-D). Training losses and scores are means over the last epoch, with augmentation. "
        "The total pull is the sum of the shares that others have in the weights after each exchange. For PAPA it is "
        "the sum of the shares of the mean, to which the network itself belongs, and for WASH how often a weight "
        "changes place. What remains is, for PAPA, the share of a difference to the mean, and for WASH the share of "
        "weights that never move. Cells are empty where an earlier version did not record a number.",
        _others(comparison, names, rows),
        _invalid(names, record.rows("filters"), rows),
        _fused(names, record.rows("fusion")),
        _timed(comparison, names, record.rows("curves")) if comparison.is_timed else "",
        "## Arms",
        "\n".join(f"- **{arm.name}**: {arm.description}" for arm in comparison.arms if arm.name in names),
        _unfinished(rows),
        _taken(rows),
        _versions(rows),
        _missing(comparison, rows),
        "\n".join(f"![{name}]({name}.png)" for name in PICTURES if (record.folder / f"{name}.png").exists()),
    ]
    (record.folder / "README.md").write_text("\n\n".join(part for part in parts if part) + "\n")


def _setting(comparison: Comparison, rows: Sequence[Row]) -> str:
    config = comparison.arms[0].config
    images = ", ".join(f"{count:,}" for count in sorted({int(row["images"]) for row in rows}))
    lengths = " and ".join(str(count) for count in sorted({arm.config.schedule.epochs for arm in comparison.arms}))
    if comparison.is_published:
        return (
            f"Networks, learning rates and batch sizes are as published. Mode {config.mode}, {lengths} epochs, on "
            f"{_data(config.data)}. The arms do not do equal work: they train on {images} images."
        )
    schedule, optimizer = config.schedule, config.optimizer
    setting = (
        f"{config.model.architecture} on {_data(config.data)}; batch {schedule.batch_size}, {optimizer.name}, "
        f"learning rate {text_of(optimizer.learning_rate)} ({schedule.lr_decay}), "
        f"weight decay {text_of(optimizer.weight_decay)}, "
        f"forward pass in {config.device.precision}, unless an arm says otherwise."
    )
    if not comparison.does_equal_work:
        return f"{setting} The arms do not do equal work: each network trains for {lengths} epochs."
    return f"{setting} The networks of each arm train together for {comparison.arms[0].work} epochs ({images} images)."


def _data(data: DataConfig) -> str:
    limit = "" if data.train_limit is None else f", the first {data.train_limit:,} evenly from all classes"
    size = ""
    if data.image_size is not None:
        size = f", scaled to {' x '.join(map(str, height_and_width(data.image_size)))} pixels"
    evaluated = f", evaluated on {data.test.rpartition('/')[2]}" if data.test else ""
    name = data.train.rpartition("/")[2]
    return f"{name}{limit}{size} ({data.validation:.0%} held out for validation){evaluated}"


def _values(name: str, rows: Sequence[Row], column: str) -> dict[int, float]:
    """Return a column of an arm by seed, in percent."""
    return {row["seed"]: 100.0 * row[column] for row in rows if row["arm"] == name and row.get(column) is not None}


def _scores(rows: Sequence[Row]) -> dict[str, str]:
    """Return the scores that are reported, with their headings."""
    if any(row.get("mean_mean_average_precision") is not None for row in rows):
        return {"mean_average_precision": "Mean average precision", "accuracy": "CMC rank-1"}
    return {"accuracy": "Accuracy"}


def _means(names: Sequence[str], rows: Sequence[Row], score: str) -> str:
    table = [["arm", "seeds", *SHOWN.values()]]
    for name in names:
        columns = [_values(name, rows, f"{kind}_{score}") for kind in SHOWN]
        table.append(
            [
                name,
                str(len(columns[0])),
                *(_format_estimate(interval(list(values.values()))) if values else "" for values in columns),
            ]
        )
    images = " and ".join(sorted({row.get("evaluated_on") or "test" for row in rows}))
    heading = f"{_scores(rows)[score]} on the {images} images, unless a column says otherwise:"
    return f"{heading}\n\n{_markdown(table)}"


def _differences(comparison: Comparison, names: Sequence[str], rows: Sequence[Row], score: str) -> str:
    """Return the table of differences between each arm and its baseline, for the arms of which both ran."""
    pairs = [
        (arm.name, against)
        for arm in comparison.arms
        if (against := comparison.baseline_of(arm)) != arm.name and {arm.name, against} <= set(names)
    ]
    if not pairs:
        return ""
    against_all = {against for _, against in pairs}
    table = [["arm", *SHOWN.values()]]
    for name, against in pairs:
        line = [name if len(against_all) == 1 else f"{name} - {against}"]
        for kind in SHOWN:
            values, baseline = (_values(arm, rows, f"{kind}_{score}") for arm in (name, against))
            line.append(_difference(values, baseline, num_comparisons=len(pairs)))
        table.append(line)
    power = _power(pairs, rows, score)
    baseline_name = f" to *{against_all.pop()}*" if len(against_all) == 1 else ""
    description = (
        f"Differences{baseline_name}, paired by seed, in percentage points. The intervals of a column hold for all "
        f"{len(pairs)} together (Bonferroni). A difference is **bold** if its interval excludes zero."
    )
    return f"{description}{power}\n\n{_markdown(table)}"


def _power(pairs: Sequence[tuple[str, str]], rows: Sequence[Row], score: str) -> str:
    """Return a sentence on the differences of the mean network that so many seeds can show. Empty for one seed."""
    variances: list[float] = []
    counts: list[int] = []
    for name, against in pairs:
        mine, theirs = (_values(arm, rows, f"mean_{score}") for arm in (name, against))
        differences = [mine[seed] - theirs[seed] for seed in sorted(mine.keys() & theirs.keys())]
        if len(differences) > 1 and all(map(math.isfinite, differences)):
            variances.append(statistics.variance(differences))
            counts.append(len(differences))
    if not counts:
        return ""
    deviation = math.sqrt(statistics.fmean(variances))
    seeds = max(counts, key=lambda count: (counts.count(count), count))
    least = deviation * detectable(seeds, num_comparisons=len(pairs))
    fewer = sum(count < seeds for count in counts)
    others = f" {fewer} of the {len(counts)} differences have fewer seeds." if fewer else ""
    return (
        f" The standard deviation of a difference of the mean network over seeds is {deviation:.2f} points. With "
        f"{seeds} seeds, a true difference of {least:.1f} points is found with a probability of 80 %.{others}"
    )


def _difference(mine: dict[int, float], theirs: dict[int, float], *, num_comparisons: int) -> str:
    """Return the difference of values by seed, bold if it excludes zero. Empty if they share no seed."""
    if not mine.keys() & theirs.keys():
        return ""
    difference = paired(mine, theirs, num_comparisons=num_comparisons)
    description = _format_estimate(difference, sign="+")
    return f"**{description}**" if difference.excludes_zero else description


def _others(comparison: Comparison, names: Sequence[str], rows: Sequence[Row]) -> str:
    seconds = "seconds of training" if comparison.is_timed else "seconds of training (shared machine)"
    columns = {
        "steps": ("steps of a network", 1.0),
        "decay_time": ("D, midpoint of the networks", 1.0),
        "train_loss": ("training loss in the last epoch, nats", 1.0),
        "mean_loss": ("mean loss, nats", 1.0),
        "mean_calibration_error": ("mean calibration error, %", 100.0),
        "ensemble_calibration_error": ("ensemble calibration error, %", 100.0),
        "agreement": ("agreement at the end, %", 100.0),
        "cosine": ("cosine at the end", 1.0),
        "exchanges": ("exchanges of all networks", 1.0),
        "total_pull": ("total pull of a network", 1.0),
        "remaining": ("share that remains", 1.0),
        "refusals": ("refused, of all networks", 1.0),
        "train_seconds": (seconds, 1.0),
    }
    table = [["arm", *(description for description, _ in columns.values())]]
    for name in names:
        line = [name]
        for column, (_, scale) in columns.items():
            values = [scale * row[column] for row in rows if row["arm"] == name and row.get(column) is not None]
            line.append(_format_estimate(interval(values)) if values else "")
        table.append(line)
    return _markdown(table)


def _invalid(names: Sequence[str], rows: Sequence[Row], scores: Sequence[Row]) -> str:
    """Return the section on invalid filters: their share during training, and their mean l1 norm at the end."""
    if not rows:
        return ""
    headings = list(itertools.product(("invalid_1", "invalid_0_1"), WHEN))
    table = [["arm", *(f"below {THRESHOLDS[name]:g}, {when}, %" for name, when in headings)]]
    for arm in names:
        of_arm = [row for row in rows if row["arm"] == arm]
        intervals = sorted({row["interval"] for row in of_arm})
        line = [arm]
        for name, when in headings:
            by_seed: dict[int, list[float]] = defaultdict(list)
            for row in of_arm:
                if row["interval"] == intervals[WHEN[when](len(intervals))]:
                    by_seed[row["seed"]].append(100 * row[name])
            line.append(
                _format_estimate(interval([sum(shares) / len(shares) for shares in by_seed.values()]))
                if by_seed
                else ""
            )
        table.append(line)
    description = (
        "## Invalid filters\n\nShare of the filters whose l1 norm is below a threshold; means over networks.\n\n"
        f"{_markdown(table)}"
    )
    columns = {
        f"{name}{end}": f"{name.replace('_', ' ')} ({below:g})"
        for end, below in DENSITIES.items()
        for name in DENSITY_COLUMNS
    }
    dense = [["arm", *columns.values()]]
    for arm in names:
        of_arm = [row for row in scores if row["arm"] == arm]
        values = [[row[column] for row in of_arm if row.get(column) is not None] for column in columns]
        if any(values):
            dense.append([arm, *(_format_estimate(interval(column)) if column else "" for column in values)])
    if not any(row.get(f"invalid_filters{end}") for row in scores for end in DENSITIES):
        return description
    return (
        f"{description}\n\nA filter is invalid if its l1 norm in the baseline's final network is below a threshold "
        "(0.1 or 1), otherwise valid. The table has the numbers of valid and invalid filters, and their mean l1 norm "
        f"in the networks of each arm.\n\n{_markdown(dense)}"
    )


def _fused(names: Sequence[str], rows: Sequence[Row]) -> str:
    """Return the section on fusion: how filters are mixed at some epochs, as means over layers, networks and seeds."""
    if not rows:
        return ""
    last = max(row["epoch"] for row in rows)
    epochs = sorted({0, 1, 2, last // 2, last})
    table = [["arm", "", *(f"epoch {epoch}" for epoch in epochs)]]
    measures: dict[str, Callable[[Row], float | None]] = {
        "filters mixed into a fused one": lambda row: row["effective"],
        "gradient to filters not kept, %": lambda row: (
            None if row["discarded_gradient"] is None else 100 * row["discarded_gradient"]
        ),
        "kept and not kept before, %": lambda row: 100 * row["changed"] / row["kept"] if row["epoch"] else None,
    }
    for name in names:
        for description, value in measures.items():
            cells = []
            for epoch in epochs:
                values = [value(row) for row in rows if row["arm"] == name and row["epoch"] == epoch]
                known = [number for number in values if number is not None]
                cells.append(f"{sum(known) / len(known):.2f}" if known else "")
            if any(cells):
                table.append([name, description, *cells])
    when = "at the start of each epoch. The gradient is that of the last step before it"
    return f"## How filters are fused\n\nMeans over layers, networks and seeds {when}.\n\n{_markdown(table)}"


def _timed(comparison: Comparison, names: Sequence[str], rows: Sequence[Row]) -> str:
    """Return the section on wall time: validation accuracy at four times, when networks ended, and differences.

    The times are the quarters of the time in which all runs of the fastest arm ended.
    """
    runs: dict[tuple[str, int], dict[int, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in sorted((row for row in rows if row["time"] is not None), key=lambda row: row["time"]):
        runs[row["arm"], row["seed"]][row["network"]].append(row)
    ends = {key: sorted(network_id[-1]["time"] for network_id in networks.values()) for key, networks in runs.items()}
    if not ends:
        return ""
    names = [name for name in names if any(arm == name for arm, _ in ends)]
    whole = min(max(end[-1] for (arm, _), end in ends.items() if arm == name) for name in {arm for arm, _ in ends})
    marks = [whole * quarter / 4 for quarter in (1, 2, 3, 4)]
    table = [["arm", *(f"at {mark:.0f} s, %" for mark in marks), "first network ended, s", "last network ended, s"]]
    gained = [["arm", *(f"at {mark:.0f} s" for mark in marks)]]
    reached = {key: [_reached(networks.values(), mark) for mark in marks] for key, networks in runs.items()}

    def at(name: str, place: int) -> dict[int, float]:
        """Return percent by seed, or nothing if a network of some run had no evaluation yet."""
        accuracies = {seed: values[place] for (arm, seed), values in reached.items() if arm == name}
        known = {seed: 100 * accuracy for seed, accuracy in accuracies.items() if accuracy is not None}
        return known if len(known) == len(accuracies) else {}

    others = [name for name in names if name != comparison.baseline]
    for name in names:
        scores = [at(name, place) for place in range(len(marks))]
        line = [name, *(_format_estimate(interval(list(by_seed.values()))) if by_seed else "" for by_seed in scores)]
        for place in (0, -1):
            line.append(_format_estimate(interval([end[place] for (arm, _), end in ends.items() if arm == name])))
        table.append(line)
        if name in others:
            baseline_scores = [at(comparison.baseline, place) for place in range(len(marks))]
            pairs = zip(scores, baseline_scores, strict=True)
            gained.append(
                [name, *(_difference(values, baseline, num_comparisons=len(others)) for values, baseline in pairs)]
            )
    description = (
        "Mean validation accuracy of all networks, each with its newest evaluation at that time. Times are in seconds "
        "since the first network began to train. A cell is blank if a network had no evaluation yet. Runs that were "
        "interrupted and resumed do not count here."
    )
    differences = (
        f"Differences to *{comparison.baseline}* at these times, paired by seed, in percentage points. The intervals "
        f"hold for all {len(others)} arms together (Bonferroni)."
    )
    return f"## By wall time\n\n{description}\n\n{_markdown(table)}\n\n{differences}\n\n{_markdown(gained)}"


def _reached(networks: Iterable[Sequence[Row]], mark: float) -> float | None:
    """Return the mean over networks of the newest accuracy at a time, or None if a network has none yet."""
    so_far = [[row["validation_accuracy"] for row in rows if row["time"] <= mark] for rows in networks]
    return sum(accuracies[-1] for accuracies in so_far) / len(so_far) if all(so_far) else None


def _unfinished(rows: Sequence[Row]) -> str:
    """Return a sentence on runs in which a network failed or was lost. Its last checkpoint counts in the scores."""
    runs = _seeds((row["arm"], row["seed"]) for row in rows if row.get("unfinished"))
    return (
        f"**Some networks did not end their schedule**, and count with their last checkpoint: {runs}." if runs else ""
    )


def _taken(rows: Sequence[Row]) -> str:
    copied = _seeds((f"{row['arm']} (from {row['taken_from']})", row["seed"]) for row in rows if row["taken_from"])
    return (
        f"Runs copied from another comparison with the same configuration, data and seed: {copied}." if copied else ""
    )


def _versions(rows: Sequence[Row]) -> str:
    """Return the versions of the code that made the runs."""
    by_version: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for row in rows:
        by_version[row["code"]].append((row["arm"], row["seed"]))
    text = "; ".join(f"**{version}**: {_seeds(by_version[version])}" for version in sorted(by_version))
    return f"Made by these versions of the code: {text}."


def _missing(comparison: Comparison, rows: Sequence[Row]) -> str:
    recorded = {(row["arm"], row["seed"]) for row in rows}
    planned = itertools.product((arm.name for arm in comparison.arms), comparison.seeds)
    missing = _seeds(run for run in planned if run not in recorded)
    return f"Not run: {missing}." if missing else ""


def _seeds(runs: Iterable[tuple[str, int]]) -> str:
    """Return a text that lists the names of runs, each with its seeds."""
    by_name: dict[str, list[int]] = {}
    for name, seed in runs:
        by_name.setdefault(name, []).append(seed)
    return "; ".join(
        f"{name} seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, sorted(seeds)))}"
        for name, seeds in by_name.items()
    )


def _format_estimate(estimate: Estimate, *, sign: str = "") -> str:
    digits = 3 if abs(estimate.mean) < 10 and not sign else 2
    half = "" if math.isinf(estimate.half) else f" ± {estimate.half:.{digits}f}"
    return f"{estimate.mean:{sign}.{digits}f}{half}"


def _markdown(table: Sequence[Sequence[str]]) -> str:
    head, *rest = table
    return "\n".join(
        [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}", *(f"| {' | '.join(row)} |" for row in rest)]
    )
