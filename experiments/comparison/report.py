"""The report of a comparison: what was asked, with what it was made, means with intervals, paired differences."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from inarch.experiments.comparison.arms import Comparison
from inarch.experiments.comparison.results_store import DENSITIES, ResultsStore
from inarch.experiments.comparison.statistics import Estimate, interval, paired
from inarch.population.config import DataConfig
from inarch.population.persistence.history import THRESHOLDS

SHOWN = {
    "mean": "mean network",
    "best": "best network",
    "ensemble": "ensemble",
    "soup": "soup",
    "greedy_soup": "greedy soup",
    "last_mean": "mean at the end",
    "validation": "mean on validation images",
}
"""Columns: the result's kinds, and what they are called."""

PICTURES = ("accuracy", "time", "filters", "layers", "alpha", "similarity", "fusion")

WHEN: dict[str, Callable[[int], int]] = {
    "first interval": lambda count: 0,
    "half way": lambda count: count // 2,
    "at the end": lambda count: count - 1,
}
"""Of so many evaluated intervals, which one."""

DENSE = ("valid_filters", "invalid_filters", "valid_l1", "invalid_l1")

Row = dict[str, Any]


def write_report(comparison: Comparison, record: ResultsStore, *, command: str) -> None:
    """README.md beside the record."""
    rows = record.rows("scores")
    names = [arm.name for arm in comparison.arms if any(row["arm"] == arm.name for row in rows)]
    parts = [
        f"# {comparison.name}",
        comparison.question,
        f"Made by `{command}`.",
        _setting(comparison, rows),
        "Weights are those that were best on the validation images, before that interval's exchange; soups have their "
        "batch norm measured anew. Intervals are 95 % over seeds (Student's t), in percent and points.",
        *(
            part
            for score in _scores(rows)
            for part in (_means(names, rows, score), _differences(comparison, names, rows, score))
        ),
        "## Beside accuracy",
        _others(comparison, names, rows),
        _invalid(names, record.rows("filters"), rows),
        _fused(names, record.rows("fusion")),
        _timed(comparison, names, record.rows("curves")) if comparison.is_timed else "",
        "## Arms",
        "\n".join(f"- **{arm.name}**: {arm.description}" for arm in comparison.arms if arm.name in names),
        _taken(rows),
        _versions(rows),
        _missing(comparison, rows),
        "\n".join(f"![{name}]({name}.png)" for name in PICTURES if (record.folder / f"{name}.png").exists()),
    ]
    (record.folder / "README.md").write_text("\n\n".join(part for part in parts if part) + "\n")


def _setting(comparison: Comparison, rows: Sequence[Row]) -> str:
    config = comparison.arms[0].config
    images = ", ".join(f"{count:,}" for count in sorted({int(row["images"]) for row in rows}))
    if not comparison.does_equal_work:
        lengths = " and ".join(str(one) for one in sorted({arm.config.schedule.epochs for arm in comparison.arms}))
        return (
            f"Networks, rates and batches as published, {config.mode}, {lengths} epochs, on {_data(config.data)}; arms "
            f"do not do equal work: {images} images trained on."
        )
    schedule, optimizer = config.schedule, config.optimizer
    return (
        f"{config.model.architecture} on {_data(config.data)}; batch {schedule.batch_size}, {optimizer.name}, "
        f"learning rate {optimizer.learning_rate:g} ({schedule.lr_decay}), weight decay {optimizer.weight_decay:g}, "
        f"forward pass in {config.device.precision}; {comparison.arms[0].work} epochs of one network in each arm "
        f"({images} images trained on)."
    )


def _data(data: DataConfig) -> str:
    judged = f", judged on {data.test.rpartition('/')[2]}" if data.test else ""
    return f"{data.train.rpartition('/')[2]} ({data.validation:.0%} of it held out){judged}"


def _values(name: str, rows: Sequence[Row], column: str) -> dict[int, float]:
    """By seed, in percent."""
    return {row["seed"]: 100.0 * row[column] for row in rows if row["arm"] == name and row.get(column) is not None}


def _scores(rows: Sequence[Row]) -> dict[str, str]:
    """What is told of each arm, and what it is called."""
    if any(row.get("mean_mean_average_precision") is not None for row in rows):
        return {"mean_average_precision": "Mean average precision", "accuracy": "CMC rank-1"}
    return {"accuracy": "Accuracy"}


def _means(names: Sequence[str], rows: Sequence[Row], score: str) -> str:
    table = [["arm", "seeds", *SHOWN.values()]]
    for name in names:
        found = [_values(name, rows, f"{kind}_{score}") for kind in SHOWN]
        table.append(
            [name, str(len(found[0])), *(_format_estimate(interval(list(of.values()))) if of else "" for of in found)]
        )
    judged = " and ".join(sorted({row.get("judged_on") or "test" for row in rows}))
    return f"{_scores(rows)[score]} on the {judged} images:\n\n{_markdown(table)}"


def _differences(comparison: Comparison, names: Sequence[str], rows: Sequence[Row], score: str) -> str:
    """Each arm with the one that it is compared with, where both ran."""
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
            mine, theirs = (_values(arm, rows, f"{kind}_{score}") for arm in (name, against))
            line.append(_difference(mine, theirs, num_comparisons=len(pairs)))
        table.append(line)
    to = f" to *{against_all.pop()}*" if len(against_all) == 1 else ""
    description = (
        f"Differences{to}, paired by seed, in points; the interval holds for all {len(pairs)} together (Bonferroni). "
        "**Bold** where it excludes zero."
    )
    return f"{description}\n\n{_markdown(table)}"


def _difference(mine: dict[int, float], theirs: dict[int, float], *, num_comparisons: int) -> str:
    """Of values by seed, bold where its interval excludes zero; empty where no seed is in both."""
    if not mine.keys() & theirs.keys():
        return ""
    found = paired(mine, theirs, num_comparisons=num_comparisons)
    description = _format_estimate(found, sign="+")
    return f"**{description}**" if found.excludes_zero else description


def _others(comparison: Comparison, names: Sequence[str], rows: Sequence[Row]) -> str:
    seconds = "seconds of training" if comparison.is_timed else "seconds of training (shared machine)"
    columns = {
        "mean_loss": ("mean loss, nats", 1.0),
        "mean_calibration_error": ("mean calibration error, %", 100.0),
        "ensemble_calibration_error": ("ensemble's, %", 100.0),
        "agreement": ("agreement at the end, %", 100.0),
        "cosine": ("cosine at the end", 1.0),
        "exchanges": ("exchanges", 1.0),
        "refusals": ("refused", 1.0),
        "train_seconds": (seconds, 1.0),
    }
    table = [["arm", *(description for description, _ in columns.values())]]
    for name in names:
        line = [name]
        for column, (_, scale) in columns.items():
            found = [scale * row[column] for row in rows if row["arm"] == name and row.get(column) is not None]
            line.append(_format_estimate(interval(found)) if found else "")
        table.append(line)
    return _markdown(table)


def _invalid(names: Sequence[str], rows: Sequence[Row], scores: Sequence[Row]) -> str:
    """Filters below the papers' thresholds over training, and how dense those are that the baseline has below them."""
    if not rows:
        return ""
    shown = list(itertools.product(("invalid_1", "invalid_0_1"), WHEN))
    table = [["arm", *(f"below {THRESHOLDS[name]:g}, {when}, %" for name, when in shown)]]
    for arm in names:
        of_arm = [row for row in rows if row["arm"] == arm]
        intervals = sorted({row["interval"] for row in of_arm})
        line = [arm]
        for name, when in shown:
            of: dict[int, list[float]] = defaultdict(list)
            for row in of_arm:
                if row["interval"] == intervals[WHEN[when](len(intervals))]:
                    of[row["seed"]].append(100 * row[name])
            line.append(_format_estimate(interval([sum(found) / len(found) for found in of.values()])) if of else "")
        table.append(line)
    description = f"## Invalid filters\n\nPart of all filters, by l1 norm; means over networks.\n\n{_markdown(table)}"
    columns = {
        f"{name}{end}": f"{name.replace('_', ' ')} ({below:g})" for end, below in DENSITIES.items() for name in DENSE
    }
    dense = [["arm", *columns.values()]]
    for arm in names:
        of_arm = [row for row in scores if row["arm"] == arm]
        values = [[row[column] for row in of_arm if row.get(column) is not None] for column in columns]
        if any(values):
            dense.append([arm, *(_format_estimate(interval(found)) if found else "" for found in values)])
    if not any(row.get(f"invalid_filters{end}") for row in scores for end in DENSITIES):
        return description
    return (
        f"{description}\n\nFilters that are valid and invalid in the baseline's network at its end (l1 norm below 0.1, and "
        f"below 1): how many, and their mean l1 norm in each arm's.\n\n{_markdown(dense)}"
    )


def _fused(names: Sequence[str], rows: Sequence[Row]) -> str:
    """How filters are fused at some epochs: means over layers, networks and seeds."""
    if not rows:
        return ""
    last = max(row["epoch"] for row in rows)
    epochs = sorted({0, 1, 2, last // 2, last})
    table = [["arm", "", *(f"epoch {epoch}" for epoch in epochs)]]
    shown: dict[str, Callable[[Row], float | None]] = {
        "filters mixed into a fused one": lambda row: row["effective"],
        "gradient to filters not kept, %": lambda row: (
            None if row["discarded_gradient"] is None else 100 * row["discarded_gradient"]
        ),
        "kept and not kept before, %": lambda row: 100 * row["changed"] / row["kept"] if row["epoch"] else None,
    }
    for name in names:
        for description, value in shown.items():
            cells = []
            for epoch in epochs:
                found = [value(row) for row in rows if row["arm"] == name and row["epoch"] == epoch]
                known = [one for one in found if one is not None]
                cells.append(f"{sum(known) / len(known):.2f}" if known else "")
            if any(cells):
                table.append([name, description, *cells])
    when = "when an epoch begins; the gradient is that of the last step before it"
    return f"## How filters are fused\n\nMeans over layers, networks and seeds {when}.\n\n{_markdown(table)}"


def _timed(comparison: Comparison, names: Sequence[str], rows: Sequence[Row]) -> str:
    """Validation accuracy of all networks at quarters of the time in which all runs of the fastest arm ended, and when
    networks ended; differences to the baseline."""
    runs: dict[tuple[str, int], dict[int, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in sorted(rows, key=lambda row: row["time"]):
        runs[row["arm"], row["seed"]][row["network"]].append(row)
    ends = {key: sorted(network_id[-1]["time"] for network_id in networks.values()) for key, networks in runs.items()}
    if not ends:
        return ""
    whole = min(max(end[-1] for (arm, _), end in ends.items() if arm == name) for name in {arm for arm, _ in ends})
    marks = [whole * quarter / 4 for quarter in (1, 2, 3, 4)]
    table = [["arm", *(f"at {mark:.0f} s, %" for mark in marks), "first network ended, s", "last network ended, s"]]
    gained = [["arm", *(f"at {mark:.0f} s" for mark in marks)]]
    reached = {key: [_reached(networks.values(), mark) for mark in marks] for key, networks in runs.items()}

    def at(name: str, place: int) -> dict[int, float]:
        """By seed, in percent; empty where a network of a run had no evaluation yet."""
        found = {seed: values[place] for (arm, seed), values in reached.items() if arm == name}
        known = {seed: 100 * value for seed, value in found.items() if value is not None}
        return known if len(known) == len(found) else {}

    others = [name for name in names if name != comparison.baseline]
    for name in names:
        scores = [at(name, place) for place in range(len(marks))]
        line = [name, *(_format_estimate(interval(list(found.values()))) if found else "" for found in scores)]
        for place in (0, -1):
            line.append(_format_estimate(interval([end[place] for (arm, _), end in ends.items() if arm == name])))
        table.append(line)
        if name in others:
            theirs = [at(comparison.baseline, place) for place in range(len(marks))]
            pairs = zip(scores, theirs, strict=True)
            gained.append([name, *(_difference(mine, other, num_comparisons=len(others)) for mine, other in pairs)])
    description = (
        "Mean validation accuracy of all networks, each at its newest evaluation by that time (seconds since the first "
        "began to train); blank where a network had none yet."
    )
    differences = (
        f"Differences to *{comparison.baseline}* at these times, paired by seed, in points; the interval holds for all "
        f"{len(others)} arms together (Bonferroni)."
    )
    return f"## By wall time\n\n{description}\n\n{_markdown(table)}\n\n{differences}\n\n{_markdown(gained)}"


def _reached(networks: Iterable[Sequence[Row]], mark: float) -> float | None:
    """Mean over networks of the newest accuracy at a time."""
    newest = [[row["validation_accuracy"] for row in rows if row["time"] <= mark] for rows in networks]
    return sum(found[-1] for found in newest) / len(newest) if all(newest) else None


def _taken(rows: Sequence[Row]) -> str:
    taken = _seeds((f"{row['arm']} (from {row['taken_from']})", row["seed"]) for row in rows if row["taken_from"])
    return f"Runs of another table, with the same configuration, data and seed: {taken}." if taken else ""


def _versions(rows: Sequence[Row]) -> str:
    """The versions of the code that made the runs."""
    by_version: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for row in rows:
        by_version[row["code"]].append((row["arm"], row["seed"]))
    text = "; ".join(f"**{version}**: {_seeds(by_version[version])}" for version in sorted(by_version))
    return f"Made by these versions of the code: {text}."


def _missing(comparison: Comparison, rows: Sequence[Row]) -> str:
    there = {(row["arm"], row["seed"]) for row in rows}
    every = itertools.product((arm.name for arm in comparison.arms), comparison.seeds)
    missing = _seeds(run for run in every if run not in there)
    return f"Not run: {missing}." if missing else ""


def _seeds(runs: Iterable[tuple[str, int]]) -> str:
    """Runs by name: each with its seeds."""
    found: dict[str, list[int]] = {}
    for name, seed in runs:
        found.setdefault(name, []).append(seed)
    return "; ".join(
        f"{name} seed{'s' if len(of) > 1 else ''} {', '.join(map(str, sorted(of)))}" for name, of in found.items()
    )


def _format_estimate(found: Estimate, *, sign: str = "") -> str:
    digits = 3 if abs(found.mean) < 10 and not sign else 2
    half = "" if math.isinf(found.half) else f" ± {found.half:.{digits}f}"
    return f"{found.mean:{sign}.{digits}f}{half}"


def _markdown(table: Sequence[Sequence[str]]) -> str:
    head, *rest = table
    return "\n".join(
        [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}", *(f"| {' | '.join(row)} |" for row in rest)]
    )
