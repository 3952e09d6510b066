"""Images per second of networks that share a GPU on Ray, with and without NVIDIA's Multi-Process Service."""

from __future__ import annotations

import dataclasses
import importlib.util
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.fs as pafs

from inarch.actors.network.mps_guardian import CONTROL
from inarch.experiments.benchmarks.gpu.sizes import Sizes
from inarch.experiments.benchmarks.harness import Must, Row, ratio
from inarch.experiments.benchmarks.input.benchmark import synthetic_images
from inarch.experiments.benchmarks.runs import Track, own_ray, rates, run_to_end
from inarch.experiments.benchmarks.speed.plain_loop import training_config
from inarch.population.config import CheckpointConfig, DeviceConfig, ExchangeConfig, PopulationConfig, RunConfig

NOT_SLOWER = Must(rule="at least", limit=1.0)
FASTER_WITH_MPS = Must(rule="at least", limit=2.0)

SHARED_EPOCHS = 4
"""Epochs of each network. The first does not count."""


def sharing_rows(
    sizes: Sizes, *, is_gpu: bool, deadline: float, run: Callable[[RunConfig], list[Track]] = run_to_end
) -> tuple[list[Row], list[str]]:
    """Train one network alone, several that share the GPU, and the same with MPS.

    Args:
        sizes: Network, images and number of networks.
        is_gpu: Whether the networks train on a GPU. Otherwise they train on the CPU, for tests.
        deadline: Time on the monotonic clock after which no further run begins.
        run: Trains a population and returns the track of each network.

    Returns:
        Rows, and notes on what was left out.
    """
    if importlib.util.find_spec("psutil") is None:
        return [], ["sharing was left out: it needs psutil (pip install 'inarch[bench]')"]
    share, notes, speeds = 1.0 / sizes.sharing, [], {}
    with_mps = DeviceConfig(mps="on" if is_gpu else "auto")
    cases = {
        "alone": _config(sizes, networks=1, gpus=1.0 if is_gpu else 0.0),
        "shared": _config(sizes, networks=sizes.sharing, gpus=share if is_gpu else 0.0),
        "shared with MPS": dataclasses.replace(
            _config(sizes, networks=sizes.sharing, gpus=share if is_gpu else 0.0), device=with_mps
        ),
    }
    if is_gpu and shutil.which(CONTROL) is None:
        del cases["shared with MPS"]
        notes.append(f"sharing with MPS was left out: {CONTROL} is not on the PATH")
    with tempfile.TemporaryDirectory() as folder, own_ray():
        path = Path(folder, "train.arrow")
        write_images(path, sizes.shared.images)
        for name, config in cases.items():
            if time.monotonic() >= deadline:
                notes.append(f"sharing: {name} was left out, because the time was over")
                continue
            located = dataclasses.replace(
                config,
                name=f"bench-gpu-{time.time_ns()}",
                storage=folder,
                data=dataclasses.replace(config.data, train=str(path)),
            )
            speeds[name] = rates(run(located)).images_per_second
    count = sizes.sharing
    names = {"alone": "alone", "shared": f"{count} at once", "shared with MPS": f"{count} at once with MPS"}
    what = sizes.shared.name
    rows = [Row(what=f"{what}: {names[name]}", unit="images/s", values=(speed,)) for name, speed in speeds.items()]
    for name, must in (("shared", NOT_SLOWER), ("shared with MPS", FASTER_WITH_MPS)):
        if name in speeds and "alone" in speeds:
            rows.append(ratio(f"{what}: {names[name]} / alone", [speeds[name]], [speeds["alone"]], must))
    return rows, notes


def write_images(path: Path, num_images: int) -> None:
    """Write random images of CIFAR's shape, from which Ray's tasks read.

    Args:
        path: The Arrow file to write.
        num_images: Number of images.
    """
    from inarch.population.data import write_arrow

    write_arrow(synthetic_images(num_images, seed=3), pafs.LocalFileSystem(), str(path))


def _config(sizes: Sizes, *, networks: int, gpus: float) -> RunConfig:
    training = sizes.shared
    return training_config(
        training.architecture,
        {"epochs": SHARED_EPOCHS, "batch_size": training.batch_size, "drop_last": "on"},
        population=PopulationConfig(size=networks, gpus=gpus),
        exchange=ExchangeConfig(rule="graft" if networks > 1 else "none"),
        checkpoint=CheckpointConfig(),
    )
