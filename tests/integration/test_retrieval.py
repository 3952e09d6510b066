"""Populations that learn to retrieve images."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from inarch.actors import PopulationRun
from inarch.population import (
    DataConfig,
    ExchangeConfig,
    ModelConfig,
    OptimizerConfig,
    PopulationConfig,
    RunConfig,
    ScheduleConfig,
)
from inarch.population.tasks.image_classification import ImageClassification
from inarch.population.tasks.image_task import run_splits

pytestmark = [pytest.mark.ray]


PHOTOGRAPHS = os.environ.get("INARCH_TEST_PHOTOGRAPHS")
"""Folder with the photographs cifar100-train-5k.parquet and cifar100-test-1k.parquet, which are not part of this
repository: random subsets of CIFAR-100 with the columns image and label."""


@pytest.mark.slow
def test_population_run_improves_retrieval_of_digits(cluster: str, tmp_path: Path) -> None:
    config = RunConfig(
        name="finds",
        task="retrieval",
        storage=str(tmp_path),
        model=ModelConfig(architecture="resnet8"),
        data=DataConfig(train="digits", augmentation="crop", padding=1),
        population=PopulationConfig(size=2, cpus=1.0, same_initial_weights=True),
        schedule=ScheduleConfig(epochs=4, batch_size=64, lr_decay="cosine"),
        optimizer=OptimizerConfig(learning_rate=0.1),
        address=cluster,
    )
    run = PopulationRun.start(config)
    table = run.wait().table
    run.close()
    assert table is not None and table["evaluated_on"] == "test"
    task = ImageClassification(config, run_splits(config))
    part = task.part("test")
    assert part is not None
    before = part.evaluator.evaluate(task.build(0), part.batches())
    for metrics in (table["mean"], table["ensemble"], table["soup"]):
        assert metrics["mean_average_precision"] > (before.mean_average_precision or 1.0) + 0.1
        assert 0.8 < metrics["accuracy"] <= metrics["top5"] <= 1.0 and metrics.get("loss") is None
    scores = [row["validation_score"] for row in table["networks"]]
    assert table["best"] == scores.index(max(scores)) and 0 < table["agreement"] <= 1


@pytest.mark.slow
@pytest.mark.skipif(PHOTOGRAPHS is None, reason="INARCH_TEST_PHOTOGRAPHS names no folder of photographs")
@pytest.mark.timeout(600)
def test_population_run_improves_retrieval_of_unseen_classes(cluster: str, tmp_path: Path) -> None:
    """The run trains on 80 classes of a 5k subset of CIFAR-100.

    The evaluation set holds test images of the other 20 classes, and half of these images are queries.
    """
    assert PHOTOGRAPHS is not None
    photographs = Path(PHOTOGRAPHS)
    known = pq.read_table(photographs / "cifar100-train-5k.parquet")
    pq.write_table(known.filter(pc.field("label") < 80), tmp_path / "train.parquet")
    unseen = pq.read_table(photographs / "cifar100-test-1k.parquet").filter(pc.field("label") >= 80)
    for name, first in (("gallery", 0), ("query", 1)):
        pq.write_table(unseen.take(np.arange(first, len(unseen), 2)), tmp_path / f"{name}.parquet")
    train, test, query = (str(tmp_path / f"{name}.parquet") for name in ("train", "gallery", "query"))
    config = RunConfig(
        name="unseen",
        task="retrieval",
        storage=str(tmp_path),
        model=ModelConfig(architecture="resnet8"),
        data=DataConfig(train=train, test=test, query=query),
        population=PopulationConfig(size=2, cpus=1.0),
        schedule=ScheduleConfig(epochs=5, batch_size=64, lr_decay="cosine"),
        optimizer=OptimizerConfig(learning_rate=0.1),
        exchange=ExchangeConfig(rule="papa"),
        address=cluster,
    )
    task = ImageClassification(config, run_splits(config))
    part = task.part("test")
    assert part is not None
    before = part.evaluator.evaluate(task.build(0), part.batches())
    assert before.examples == 100 and before.mean_average_precision is not None
    run = PopulationRun.start(config)
    table = run.wait().table
    run.close()
    assert table is not None
    assert table["mean"]["mean_average_precision"] > 1.2 * before.mean_average_precision
