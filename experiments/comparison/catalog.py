"""Find comparisons by name: those of this project, and the published tables."""

from __future__ import annotations

import dataclasses

from inarch.experiments import recipes
from inarch.experiments.comparison.arms import Arm, Comparison
from inarch.experiments.comparison.comparisons import COMPARISONS
from inarch.experiments.comparison.published_tables import PAPER_TABLES
from inarch.population.config import DataConfig
from inarch.population.data import holds_parts
from inarch.population.errors import ConfigError

OTHER_DATA = {
    "paper-table-imagenet": recipes.imagenet("resnet50").data,
    "paper-table-dcff-imagenet": recipes.imagenet("resnet50").data,
    "paper-table-persons": recipes.persons("resnet50").data,
    "paper-table-cultivation": DataConfig(train="cifar100"),
    "paper-table-teachers": DataConfig(train="cifar100"),
    "quickstart": recipes.digits().data,
}
"""Data of the comparisons that are not about CIFAR-10."""

TRIAL_BATCH = 8
TRIAL_TEST_IMAGES = 32


def usual_data(name: str, *, train: str | None, test: str | None, query: str | None) -> DataConfig:
    """Return the data that a comparison trains on.

    Args:
        name: Name of the comparison.
        train: Path of the training images. None: those of the published table, digits for quickstart, or CIFAR-10.
        test: Path of the test images. None: those of the published table, if `train` is None too.
        query: Path of the query images. None: those of the published table, if `train` is None too.
    """
    if train is not None:
        return DataConfig(train=train, test=test, query=query)
    usual = OTHER_DATA.get(name, DataConfig(train="cifar10"))
    return DataConfig(train=usual.train, test=test or usual.test, query=query or usual.query)


def trial(asked: Comparison) -> Comparison:
    """Return a comparison whose arms train only two steps and exchange once, to test that all of them run.

    The arms train on a few images, from random weights, with one seed.

    Args:
        asked: The whole comparison.

    Raises:
        ConfigError: There are no test images. A trial holds out no validation images in their place.
    """
    data = asked.arms[0].config.data
    if data.test is None and not holds_parts(data.train):
        raise ConfigError("a smoke test needs test images; give --test")

    def short(arm: Arm) -> Arm:
        config = arm.config
        data = dataclasses.replace(
            config.data, train_limit=2 * TRIAL_BATCH, test_limit=TRIAL_TEST_IMAGES, validation=0.0
        )
        schedule = dataclasses.replace(config.schedule, epochs=1, batch_size=TRIAL_BATCH, warmup_epochs=0)
        if config.mode == "async":  # the last interval has no exchange
            schedule = dataclasses.replace(schedule, interval_steps=1)
        model = dataclasses.replace(config.model, weights=None)
        return dataclasses.replace(arm, config=dataclasses.replace(config, data=data, schedule=schedule, model=model))

    return dataclasses.replace(asked, arms=tuple(short(arm) for arm in asked.arms), seeds=(0,), does_equal_work=False)


def comparison(name: str, data: DataConfig, *, epochs: int | None = None) -> Comparison:
    """Return a comparison by its name.

    Args:
        name: A name in COMPARISONS or PAPER_TABLES.
        data: Data that the networks train on.
        epochs: Epochs of each network in a population. None: those of the comparison.

    Raises:
        ConfigError: There is no such comparison, or `epochs` is below 1. The message lists all names.
    """
    if epochs is not None and epochs < 1:
        raise ConfigError(f"epochs must be at least 1, got {epochs}")
    if name in COMPARISONS:
        _, make, usual_epochs = COMPARISONS[name]
        return make(data, usual_epochs if epochs is None else epochs)
    if name in PAPER_TABLES:
        return PAPER_TABLES[name][1](data, epochs)
    raise ConfigError(f"there is no comparison {name!r}; there are {', '.join([*COMPARISONS, *PAPER_TABLES])}")
