"""Measure training steps on the CPU: inarch against a plain PyTorch loop, and what precision and memory format gain."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

import torch

from inarch.experiments.benchmarks.harness import Measurement, Must, Row, one_thread, ratio
from inarch.experiments.benchmarks.input.benchmark import synthetic_images
from inarch.experiments.benchmarks.speed.plain_loop import PlainLoop, TimedRuntime, training_config
from inarch.population.config import DataConfig, DeviceConfig, ExchangeConfig, PopulationConfig, RunConfig
from inarch.population.data import MemorySplits, memory_splits
from inarch.population.state.precision import computes_bfloat16
from inarch.population.tasks.image_classification import ImageClassification
from inarch.population.training.trainer import Trainer

BESIDE_PLAIN = Must(rule="at least", limit=0.98)
CHANNELS_LAST = Must(rule="at least", limit=1.2)
BFLOAT16 = Must(rule="at least", limit=1.8)
DEFAULT_ORDER = DeviceConfig(precision="float32", channels_last="off")
FLOAT32 = DeviceConfig(precision="float32", channels_last="auto")
AUTO = DeviceConfig()


def training(*, repeats: int = 5, architecture: str = "resnet20", batch_size: int = 128, steps: int = 8) -> Measurement:
    """Measure images per CPU second of training on one thread, in turns.

    Each side trains the same network on the same batches of CIFAR's shape, without evaluation and exchange. inarch's
    side is a whole `Trainer`, with its losses, accuracies and reports.

    Args:
        repeats: Number of turns. One more turn before them is not counted.
        architecture: Name of the architecture.
        batch_size: Images in a batch.
        steps: Steps of each turn.
    """
    sizes = {"architecture": architecture, "batch_size": batch_size, "steps": steps}
    num_images = batch_size * steps
    sides: dict[str, Iterator[float]] = {
        "plain loop, float32": _plain(_config(DEFAULT_ORDER, **sizes), num_images),
        "inarch, float32": _inarch(_config(DEFAULT_ORDER, **sizes), num_images),
        "inarch, float32, channels-last": _inarch(_config(FLOAT32, **sizes), num_images),
        "plain loop, as auto": _plain(_config(AUTO, **sizes), num_images),
        "inarch, auto": _inarch(_config(AUTO, **sizes), num_images),
    }
    rates: dict[str, list[float]] = {name: [] for name in sides}
    with one_thread():
        for turn in range(repeats + 1):
            for name, side in list(sides.items())[:: 1 if turn % 2 else -1]:  # so that no side is always the first
                rate = next(side)
                if turn:
                    rates[name].append(rate)
    has_bfloat16 = computes_bfloat16(torch.device("cpu"))
    rows = (
        *(Row(what=name, unit="images/CPU s", values=tuple(values)) for name, values in rates.items()),
        ratio("inarch / plain loop, float32", rates["inarch, float32"], rates["plain loop, float32"], BESIDE_PLAIN),
        ratio("inarch / plain loop, as auto", rates["inarch, auto"], rates["plain loop, as auto"], BESIDE_PLAIN),
        ratio(
            "channels-last / default order, float32",
            rates["inarch, float32, channels-last"],
            rates["inarch, float32"],
            CHANNELS_LAST,
        ),
        ratio(
            "auto / float32 in default order",
            rates["inarch, auto"],
            rates["inarch, float32"],
            BFLOAT16 if has_bfloat16 else None,
        ),
    )
    auto = "bfloat16" if has_bfloat16 else "float32, because this CPU does not compute in bfloat16"
    return Measurement(name="training", repeats=repeats, rows=rows, setting=sizes, notes=(f"auto: {auto}",))


def _config(device: DeviceConfig, *, architecture: str, batch_size: int, steps: int) -> RunConfig:
    schedule = {"epochs": 10_000, "batch_size": batch_size, "interval_steps": steps, "eval_every": "epoch"}
    return training_config(
        architecture,
        schedule,
        data=DataConfig(validation=0.0),
        population=PopulationConfig(size=1),
        exchange=ExchangeConfig(rule="none"),
        device=device,
    )


def _images(config: RunConfig, num_images: int) -> MemorySplits:
    return memory_splits(synthetic_images(num_images, seed=2), None, config.data, seed=0)


def _inarch(config: RunConfig, num_images: int) -> Iterator[float]:
    """Yield the images per CPU second of each interval of a trainer."""
    trainer = Trainer(ImageClassification(config, _images(config, num_images)), config, network_id=0)
    intervals = trainer.intervals(TimedRuntime())
    while True:
        start = time.thread_time()
        next(intervals)
        yield num_images / (time.thread_time() - start)


def _plain(config: RunConfig, num_images: int) -> Iterator[float]:
    """Yield the images per CPU second of each epoch of a plain loop with the same settings."""
    loop = PlainLoop(config, _images(config, num_images))
    for epoch in itertools.count():
        start = time.thread_time()
        loop.train(epoch)
        yield num_images / (time.thread_time() - start)
