"""Fixtures of all tests: reference vectors, small data, and one Ray cluster per session."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings

os.environ.setdefault("RAY_AUTH_MODE", "disabled")

from inarch.population import (
    DataConfig,
    DeviceConfig,
    ImageClassification,
    ModelConfig,
    OptimizerConfig,
    PopulationConfig,
    RunConfig,
    ScheduleConfig,
)
from inarch.population.data import MemorySplits, image_set, memory_splits
from inarch.population.persistence.interval_report import IntervalReport

ROOT = Path(__file__).resolve().parents[1]

settings.register_profile("busy machine", deadline=None)
settings.load_profile("busy machine")

CACHES = {".pytest_cache", ".hypothesis", ".ruff_cache", ".coverage", "htmlcov", "build"}
"""What test tools may leave in the root of the checkout."""


@pytest.fixture(scope="session", autouse=True)
def clean_checkout() -> Iterator[None]:
    """Fail if the tests leave files in the root of the checkout, as MLflow does with its artifacts."""
    before = set(os.listdir(ROOT))
    yield
    assert set(os.listdir(ROOT)) - before - CACHES == set()


@pytest.fixture(scope="session", autouse=True)
def named_by_tests(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Let the tests and their processes remember what they name in a folder of their own, not in that of the user."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def vectors() -> dict[str, np.ndarray]:
    """Values that the public reference code of the papers computes."""
    with np.load(Path(__file__).parent / "vectors" / "reference_vectors.npz") as archive:
        return {name: archive[name] for name in archive.files}


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Iterator[str]:
    """Address of a Ray cluster that belongs to this test session. It has GPUs only if the GPU tests were asked for."""
    import ray

    wants_gpus = request.config.getoption("markexpr") == "gpu"
    ray.init(
        address="local",
        num_cpus=8,
        num_gpus=None if wants_gpus else 0,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=512 * 2**20,
        namespace="inarch",
    )
    yield str(ray.get_runtime_context().gcs_address)
    ray.shutdown()


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """Start a local S3 service, and yield the query string that its URLs need."""
    from moto.server import ThreadedMotoServer

    keys = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}
    before = {name: os.environ.get(name) for name in keys}
    os.environ.update(keys)
    num_threads = threading.active_count()
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    query = f"?endpoint_override=http%3A%2F%2F{host}%3A{port}&region=us-east-1&allow_bucket_creation=true"
    yield query
    server.stop()
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    assert threading.active_count() < num_threads + 50


def small_config(**changes: Any) -> RunConfig:
    """Configure a run of two small networks over four short epochs.

    They compute in float32 and default order, so that each value can be compared with one computed by hand.
    """
    fields: dict = {
        "device": DeviceConfig(precision="float32", channels_last="off"),
        "model": ModelConfig(architecture="resnet8"),
        "data": DataConfig(augmentation="crop", padding=1),
        "population": PopulationConfig(size=2),
        "schedule": ScheduleConfig(epochs=4, batch_size=32, lr_decay="cosine"),
        "optimizer": OptimizerConfig(learning_rate=0.05),
    }
    return RunConfig(**(fields | changes))


def tiny_splits(config: RunConfig, *, images: int = 96, classes: int = 4, seed: int = 0) -> MemorySplits:
    """Return images whose class decides which quadrant is bright. A network learns them in one or two epochs."""
    random = np.random.default_rng(seed)
    labels = np.arange(images) % classes
    pixels = random.integers(0, 60, (images, 1, 8, 8))
    for index, label in enumerate(labels):
        row, column = divmod(int(label), 2)
        pixels[index, 0, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 150
    whole = image_set(pixels.astype(np.uint8), labels)
    return memory_splits(whole, whole, config.data, seed=config.seed)


def tiny_task(config: RunConfig, splits: MemorySplits | None = None) -> ImageClassification:
    return ImageClassification(config, splits or tiny_splits(config))


def losses(reports: Iterable[IntervalReport]) -> list[float]:
    """Training losses of intervals, all of which must have one."""
    values = [report.train_loss for report in reports]
    assert None not in values
    return [value for value in values if value is not None]
