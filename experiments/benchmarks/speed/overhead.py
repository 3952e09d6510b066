"""Measure what grafting costs: the same two networks with grafting, without it, and in plain PyTorch loops."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import multiprocessing
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow.fs as pafs
import torch

from inarch.experiments.benchmarks.harness import Measurement, Must, Row, ratio
from inarch.experiments.benchmarks.input.benchmark import synthetic_images
from inarch.experiments.benchmarks.runs import Rates, Track, own_ray, rates, run_to_end
from inarch.experiments.benchmarks.speed.plain_loop import PlainLoop, training_config
from inarch.population.config import CheckpointConfig, DataConfig, ExchangeConfig, PopulationConfig, RunConfig
from inarch.population.data import load_splits, write_arrow

BESIDE_NO_GRAFTING = Must(rule="at least", limit=0.97)
BESIDE_PLAIN = Must(rule="at least", limit=0.95)
NETWORKS = 2
"""Number of networks, one for each of two cores."""


def overhead(
    *, repeats: int = 5, architecture: str = "resnet20", num_images: int = 2560, epochs: int = 4
) -> Measurement:
    """Measure images per second and CPU seconds per image of two networks with one thread each.

    An interval counts as a whole: steps, evaluation, staging, publishing, fetching, graft and checkpoint. The first
    epoch does not count, and neither does the time in which only one network trains.

    Args:
        repeats: Number of turns. Each turn measures grafting, no grafting and plain loops.
        architecture: Name of the architecture.
        num_images: Number of random images of CIFAR's shape. A tenth of them is held out. An epoch of CIFAR has 20
            times as many images, so that the cost of a graft is 20 times as visible here.
        epochs: Epochs of each network, at least 3.
    """
    results: dict[str, list[Rates]] = {"grafting": [], "no grafting": [], "plain PyTorch": []}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "train.arrow")
        write_arrow(synthetic_images(num_images, seed=2), pafs.LocalFileSystem(), str(path))
        config = _config(folder, str(path), architecture=architecture, epochs=epochs)
        for _ in range(repeats):
            with own_ray():
                results["grafting"].append(rates(run_to_end(_named(config, is_grafting=True))))
                results["no grafting"].append(rates(run_to_end(_named(config, is_grafting=False))))
            results["plain PyTorch"].append(rates(plain_loops(config)))
    setting = {"architecture": architecture, "networks": NETWORKS, "images": num_images, "epochs": epochs}
    return Measurement(name="overhead", repeats=repeats, rows=_rows(results), setting=setting)


def plain_loops(config: RunConfig) -> list[Track]:
    """Train the same networks on the same batches, each in its own process with a plain PyTorch loop.

    Args:
        config: Configuration of the run. Exchange and other parts of the runtime are not used.

    Returns:
        The track of each network.
    """
    context = multiprocessing.get_context("spawn")
    size = config.population.size
    with concurrent.futures.ProcessPoolExecutor(max_workers=size, mp_context=context) as processes:
        return list(processes.map(plain_loop, [config] * size, range(size)))


def plain_loop(config: RunConfig, network: int) -> Track:
    """Train one network with a plain loop: in each epoch all steps, then an evaluation.

    Args:
        config: Configuration of the run.
        network: Id of the network. It is also the seed of its initial weights, order and augmentation.
    """
    torch.set_num_threads(1)
    loop = PlainLoop(config, load_splits(config.data, seed=config.seed), network_id=network)
    seconds, images, cpu, count = [], [], [], 0
    for epoch in range(config.schedule.epochs):
        count += loop.train(epoch)
        loop.evaluate()
        seconds.append(time.time())
        images.append(count)
        cpu.append(time.process_time())
    times = np.array(seconds)
    return Track(seconds=times, images=np.array(images), cpu_at=times, cpu=np.array(cpu))


def _config(folder: str, path: str, *, architecture: str, epochs: int) -> RunConfig:
    return training_config(
        architecture,
        {"epochs": epochs, "batch_size": 128},
        storage=folder,
        data=DataConfig(train=path, augmentation="crop_flip"),
        population=PopulationConfig(size=NETWORKS),
        checkpoint=CheckpointConfig(),
    )


def _named(config: RunConfig, *, is_grafting: bool) -> RunConfig:
    exchange = ExchangeConfig(rule="graft" if is_grafting else "none")
    return dataclasses.replace(config, name=f"bench-overhead-{time.time_ns()}", exchange=exchange)


def _rows(rates: dict[str, list[Rates]]) -> tuple[Row, ...]:
    speed = {name: [turn.images_per_second for turn in turns] for name, turns in rates.items()}
    cost = {name: [1e3 * turn.cpu_seconds_per_image for turn in turns] for name, turns in rates.items()}
    grafting = "grafting"
    return (
        *(Row(what=name, unit="images/s", values=tuple(values)) for name, values in speed.items()),
        ratio("images/s: grafting / no grafting", speed[grafting], speed["no grafting"], BESIDE_NO_GRAFTING),
        ratio("images/s: grafting / plain PyTorch", speed[grafting], speed["plain PyTorch"], BESIDE_PLAIN),
        *(Row(what=name, unit="CPU ms an image", values=tuple(values)) for name, values in cost.items()),
        ratio("CPU an image: grafting / no grafting", cost[grafting], cost["no grafting"]),
        ratio("CPU an image: grafting / plain PyTorch", cost[grafting], cost["plain PyTorch"]),
    )
