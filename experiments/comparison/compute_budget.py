"""Estimate the cost of a comparison before it starts."""

from __future__ import annotations

import dataclasses
import statistics
from collections import defaultdict
from pathlib import Path

from rich.table import Table

from inarch.experiments.comparison.arms import Arm, Comparison
from inarch.experiments.comparison.results_store import ResultsStore
from inarch.experiments.comparison.statistics import detectable
from inarch.population.config import DataConfig, RunConfig, height_and_width
from inarch.population.data import ImageSet, open_images
from inarch.population.data.memory_batches import epoch_steps
from inarch.population.grafting.units import graft_units
from inarch.population.models import build
from inarch.population.models.complexity import ModelComplexity, complexity_of
from inarch.population.state.state_dict import named_tensors
from inarch.population.tasks.regime import Regime, decay_time_text
from inarch.population.training.regime import regime, sizes_of

KNOWN = {
    "digits": (1438, (1, 8, 8), 10),
    "cifar10": (50_000, (3, 32, 32), 10),
    "cifar100": (50_000, (3, 32, 32), 100),
    "imagenet/train": (1_281_167, (3, 224, 224), 1000),
    "Market-1501-v15.09.15/bounding_box_train": (12_936, (3, 256, 128), 751),
}
"""Number of training images, their shape and number of classes, by the recipes' names of data sets.

The cost of a comparison on them can be estimated without the data."""

REACHED = 10e12
"""Floating-point operations per second of the device for which hours are estimated."""


def costs(comparison: Comparison) -> tuple[Table, str]:
    """Return a table of the cost of each arm for one seed, and a text with the total cost over all seeds.

    Args:
        comparison: The comparison.
    """
    table = Table(title=f"{comparison.name}: what one seed costs", title_justify="left")
    for name in ("arm", "networks", "epochs", "parameters", "multiply-adds an image", "images", "operations"):
        table.add_column(name, justify="left" if name == "arm" else "right")
    sizes: dict[str, tuple[int, ModelComplexity]] = {}
    total = 0.0
    for arm in comparison.arms:
        images, cost = _size(arm, sizes)
        trained = images * arm.work
        operations = trained * cost.training_flops
        total += operations
        table.add_row(
            arm.name,
            str(arm.config.population.size),
            str(arm.config.schedule.epochs),
            f"{cost.parameters:,}",
            f"{cost.multiply_adds:,}",
            f"{trained:,}",
            f"{operations:.2e}",
        )
    total *= len(comparison.seeds)
    description = (
        f"{len(comparison.arms)} arms x {len(comparison.seeds)} seeds: {total:.2e} floating-point operations, "
        f"{total / REACHED / 3600:,.1f} hours of a device that sustains {REACHED / 1e12:g} TFLOP/s. Multiply-adds are "
        "counted by torch.utils.flop_counter. Its counts of compact networks are up to 1.6 % below the published ones. "
        "The teachers' forward passes are not counted."
    )
    return table, description


def regimes(comparison: Comparison, record: ResultsStore) -> Table:
    """Return a table of the regime of each arm: steps, decay time, training loss, and how strongly its networks mix.

    The training loss to expect is that of the arm's recorded runs, or of its baseline's if it has none.

    Args:
        comparison: The comparison.
        record: Its results so far.

    Raises:
        DataError: The training images cannot be read.
    """
    table = Table(title=f"{comparison.name}: the regime of each network", title_justify="left")
    for name in ("arm", "steps", "D", "training loss", "exchanges", "in words"):
        table.add_column(name, justify="left" if name in ("arm", "in words") else "right")
    counts: dict[str, int] = {}
    losses: dict[str, list[float]] = defaultdict(list)
    for row in record.rows("scores"):
        if row.get("train_loss") is not None:
            losses[row["arm"]].append(row["train_loss"])
    for arm in comparison.arms:
        planned = planned_regime(arm, counts)
        known = losses.get(arm.name) or losses.get(comparison.baseline_of(arm))
        decay = decay_time_text(planned.decay_times)
        loss = f"{statistics.fmean(known):.2f}" if known else "not recorded"
        table.add_row(
            arm.name, f"{planned.steps:,}", decay, loss, f"{planned.num_exchanges:,}", planned.exchange_text()
        )
    return table


def power_text(comparison: Comparison) -> str:
    """Return which differences the design can find, in words.

    Args:
        comparison: The comparison, with the seeds that are to be run.
    """
    names = {arm.name for arm in comparison.arms}
    count = sum(comparison.baseline_of(arm) in names - {arm.name} for arm in comparison.arms)
    seeds = len(comparison.seeds)
    if not count:
        return "No arm is selected together with the one that it is compared with, so there is no difference to find."
    if seeds < 2:
        return "One seed shows no difference, because its noise is not known."
    single, together = (detectable(seeds, num_comparisons=number) for number in (1, count))
    return (
        f"With {seeds} seeds, a difference is found with a probability of 80 % if it is {single:.1f} times the "
        f"standard deviation of a paired difference over seeds, and {together:.1f} times if the intervals of all "
        f"{count} differences are to hold together."
    )


def planned_regime(arm: Arm, counts: dict[str, int]) -> Regime:
    """Return the regime of an arm's run.

    Args:
        arm: The arm.
        counts: Training images by configuration of the data. Those that are missing are counted and added.
    """
    data = arm.config.data
    key = repr(data)
    if key not in counts:
        counts[key] = max(1, _num_train(_images(data)[0], data))
    steps = epoch_steps(counts[key], arm.config.schedule)
    return regime(arm.config, steps_per_epoch=steps, unit_sizes=_unit_sizes(arm.config))


def _unit_sizes(config: RunConfig) -> list[int]:
    """Return the number of weights in each unit of an arm's network. Only the rule wash needs them."""
    if config.exchange.rule != "wash":
        return []
    _, shape, classes = _images(config.data)
    model = dataclasses.replace(config.model, weights=None)
    module = build(model, num_classes=classes, in_channels=shape[0], image_shape=shape, seed=0, fusion=config.fusion)
    return sizes_of(graft_units(module), named_tensors(module))


def _num_train(num_images: int, data: DataConfig) -> int:
    """Return the number of images that are not held out for validation."""
    return num_images if data.validation_set else round(num_images * (1 - data.validation))


def _size(arm: Arm, known: dict[str, tuple[int, ModelComplexity]]) -> tuple[int, ModelComplexity]:
    """Return the number of training images and the cost of the network. `known` holds the results of earlier arms."""
    config = arm.config
    key = repr((config.model, config.fusion, config.data))
    if key not in known:
        images, shape, classes = _images(config.data)
        cost = complexity_of(config.model, config.fusion, num_classes=classes, image_shape=shape)
        known[key] = _num_train(images, config.data), cost
    return known[key]


def _images(data: DataConfig) -> tuple[int, tuple[int, int, int], int]:
    is_there = "/" in data.train and Path(data.train).exists()
    count, shape, classes = _read(data) if is_there or data.train not in KNOWN else KNOWN[data.train]
    if data.image_size is not None:
        shape = (shape[0], *height_and_width(data.image_size))
    return min(count, data.train_limit or count), shape, classes


def _read(data: DataConfig) -> tuple[int, tuple[int, int, int], int]:
    images = open_images(data.train, split="train")
    if isinstance(images, ImageSet):
        shape = images.shape
    elif data.image_size is None:
        picture = images.read(0)
        shape = (1 if picture.mode == "L" else 3, picture.height, picture.width)
    else:
        shape = (3, *height_and_width(data.image_size))
    return len(images.labels), shape, len(images.class_names)
