"""Hyperparameters of a network: the numbers of the configuration that may differ between networks."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping

from inarch.population.config import RunConfig
from inarch.population.config.per_network import (
    LEARNING_RATE,
    Distribution,
    NumberField,
    number_fields,
    with_numbers,
)
from inarch.population.state.seeding import generator

Hyperparameters = Mapping[str, float]
"""Numbers of one network by field, such as `optimizer.weight_decay`: those that the configuration gives as a list or a
distribution, and the learning rate, which an exchange rule may change."""


def hyperparameters(config: RunConfig, network_id: int) -> dict[str, float]:
    """Return the hyperparameters with which a network begins. They depend on nothing but the arguments.

    Networks beyond the end of a list take its numbers in turn.

    Args:
        config: Configuration of the run.
        network_id: Id of the network, at least 0.
    """
    return {
        item.name: _value(item, config, network_id)
        for item in number_fields(config)
        if not item.is_single or item.name == LEARNING_RATE
    }


def network_config(config: RunConfig, network_id: int) -> RunConfig:
    """Return the configuration of one network, in which every field is one number.

    Args:
        config: Configuration of the run.
        network_id: Id of the network, at least 0.
    """
    return with_numbers(config, hyperparameters(config, network_id))


def _value(item: NumberField, config: RunConfig, network_id: int) -> float:
    """Return a network's number of one field.

    Source: spread, the public code of Meng et al. 2020: a (1 + cos(pi (N - i) / N)) / 2 for network i = 1..N.
    """
    if isinstance(item.value, tuple):
        return float(item.value[network_id % len(item.value)])
    if not isinstance(item.value, str):
        return float(item.value)
    distribution = Distribution.parse(item.value)
    numbers, size = distribution.numbers, config.population.size
    if distribution.name == "spread":
        index = network_id % size
        return numbers[0] * (1.0 + math.cos(math.pi * (size - index - 1) / size)) / 2.0
    # The field's name decides the draw, so that it does not depend on which other fields are distributions.
    random = generator(config.seed, network_id, "hyperparameters", counter=zlib.crc32(item.name.encode()))
    if distribution.name == "choice":
        return float(random.choice(numbers))
    low, high = numbers
    if distribution.name == "uniform":
        return float(random.uniform(low, high))
    value = math.exp(random.uniform(math.log(low), math.log(high)))
    return min(max(value, low), high)  # exp of log may differ in the last bit
