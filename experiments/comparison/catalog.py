"""Comparisons by name: those of this project, and the published tables."""

from __future__ import annotations

import dataclasses

from inarch.experiments import recipes
from inarch.experiments.comparison.arms import Arm, Comparison
from inarch.experiments.comparison.comparisons import COMPARISONS
from inarch.experiments.comparison.published_tables import PAPER_TABLES
from inarch.population.config import DataConfig
from inarch.population.data import holds_parts
from inarch.population.errors import ConfigError

LARGE = {
    "paper-table-imagenet": recipes.imagenet("resnet50").data,
    "paper-table-dcff-imagenet": recipes.imagenet("resnet50").data,
    "paper-table-persons": recipes.persons("resnet50").data,
    "paper-table-cultivation": DataConfig(train="cifar100"),
    "paper-table-teachers": DataConfig(train="cifar100"),
}
"""What tables are trained on that are not about CIFAR-10."""

TRIAL_BATCH = 8
TRIAL_TEST_IMAGES = 32


def usual_data(name: str, *, train: str | None, test: str | None, query: str | None) -> DataConfig:
    """The data that were named, or those of the published table; CIFAR-10 for the others."""
    if train is not None:
        return DataConfig(train=train, test=test, query=query)
    found = LARGE.get(name, DataConfig(train="cifar10"))
    return DataConfig(train=found.train, test=test or found.test, query=query or found.query)


def trial(asked: Comparison) -> Comparison:
    """The same arms for two steps of a few images and an exchange, from random weights: whether all of it runs.

    Raises:
        ConfigError: there are no test images, and none are held out of so few.
    """
    data = asked.arms[0].config.data
    if data.test is None and not holds_parts(data.train):
        raise ConfigError("a trial needs test images: give --test")

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
    """A comparison on some data.

    Args:
        name: Of COMPARISONS or PAPER_TABLES.
        data: What its networks train on.
        epochs: Of each network where it trains in a population; None: the comparison's own.

    Raises:
        ConfigError: an unknown name; the message lists what there is.
    """
    if name in COMPARISONS:
        _, make, usual = COMPARISONS[name]
        return make(data, usual if epochs is None else epochs)
    if name in PAPER_TABLES:
        return PAPER_TABLES[name][1](data, epochs)
    raise ConfigError(f"there is no comparison {name!r}; there are {', '.join([*COMPARISONS, *PAPER_TABLES])}")
