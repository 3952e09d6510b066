"""Compute the regime of a run from its configuration: decay times, and how strongly its exchanges mix the networks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from inarch.population.config import RunConfig
from inarch.population.config.exchange import WHOLE_TOPOLOGIES
from inarch.population.config.per_network import number
from inarch.population.grafting.units import GraftUnit
from inarch.population.state.hyperparameters import network_config
from inarch.population.state.state_dict import BATCH_NORM_STATISTICS, is_structural
from inarch.population.tasks.regime import Regime
from inarch.population.training.schedule import Schedule

UNKNOWN_UNITS = 100
"""Units of equal size in place of those of a model that is not known."""


def regime(config: RunConfig, *, steps_per_epoch: int, unit_sizes: Sequence[int] = ()) -> Regime:
    """Return the regime of a run.

    Args:
        config: Configuration of the run.
        steps_per_epoch: Training steps of an epoch, at least 1.
        unit_sizes: Weights in each unit of the network, as from `sizes_of`. Only the rule wash needs them. Empty: the
            network is not known, and its units count as equal.
    """
    schedule = Schedule(config=config.schedule, steps_per_epoch=steps_per_epoch)
    factors = sum(schedule.factor(step) for step in range(schedule.num_steps))
    times = [decay_time(config, factors, network_id=network_id) for network_id in range(config.population.size)]
    count = num_exchanges(config, schedule)
    fields: dict[str, float | bool | None] = {}
    if count and config.exchange.rule == "papa":
        pulls = papa_pulls(config, schedule, count)
        sees_all = config.topology.name in WHOLE_TOPOLOGIES or config.population.size == 2
        is_whole = sees_all and config.exchange.donor_limit >= config.population.size - 1
        fields = {
            "pull": config.papa.pull,
            "pull_falls": config.papa.follows_rate and config.schedule.lr_decay != "constant",
            "total_pull": sum(pulls),
            "remaining": math.prod(1.0 - pull for pull in pulls) if is_whole else None,
        }
    elif count and config.exchange.rule == "wash":
        total, remaining = wash_shares(config.wash.probability, count, unit_sizes or [1] * UNKNOWN_UNITS)
        fields = {"total_pull": total, "remaining": remaining}
    elif count and config.exchange.rule in ("graft", "graft_published") and config.graft.scion == "external":
        fields = {"total_pull": 0.5 * count}
    return Regime(
        steps=schedule.num_steps,
        decay_times=(min(times), max(times)),
        rule=config.exchange.rule,
        num_exchanges=count,
        **fields,  # pyright: ignore[reportArgumentType] # the keys decide the types
    )


def decay_time(config: RunConfig, factors: float, *, network_id: int) -> float:
    """Return the decay time D of a network: the norm of a weight without gradient falls as exp(-D).

    With SGD, D is the sum over steps of learning rate * weight decay / (1 - momentum), because momentum repeats each
    step 1 / (1 - momentum) times. With AdamW, whose weight decay is decoupled, D is the sum of learning rate * weight
    decay. Both hold for learning rate * weight decay far below 1 and for schedules much longer than 1 / (1 - momentum)
    steps.

    Args:
        config: Configuration of the run.
        factors: Sum over all steps of `Schedule.factor`.
        network_id: Id of the network, which decides its hyperparameters.

    Returns:
        A number without unit, at least 0.
    """
    settings = network_config(config, network_id).optimizer
    repeats = 1.0 / (1.0 - number(settings.momentum)) if settings.name == "sgd" else 1.0
    return number(settings.learning_rate) * factors * number(settings.weight_decay) * repeats


def num_exchanges(config: RunConfig, schedule: Schedule) -> int:
    """Return the number of exchanges of a network. In async mode the last interval has none.

    Args:
        config: Configuration of the run.
        schedule: Its schedule.
    """
    takes_from_others = config.exchange.rule != "graft" or config.graft.scion == "external"
    if config.exchange.rule == "none" or (config.population.size == 1 and takes_from_others):
        return 0
    return schedule.num_intervals - (config.mode == "async")


def papa_pulls(config: RunConfig, schedule: Schedule, count: int) -> list[float]:
    """Return the weight of the mean in each exchange of the rule papa, as `PapaRule` computes it.

    Args:
        config: Configuration of the run.
        schedule: Its schedule.
        count: Number of exchanges.
    """
    last_steps = [max(0, schedule.end(interval) - 1) for interval in range(1, count + 1)]
    return [config.papa.pull * (schedule.factor(step) if config.papa.follows_rate else 1.0) for step in last_steps]


def wash_shares(probability: float, count: int, unit_sizes: Sequence[int]) -> tuple[float, float]:
    """Return how often a weight changes place in the mean, and the share of the weights that never do.

    A weight that is drawn twice in an exchange changes place once, so that it does so with the chance 1 - exp(-p).

    Args:
        probability: Probability in the first unit. It falls linearly to 0 in the last.
        count: Number of exchanges.
        unit_sizes: Weights in each unit, in order, at least one.
    """
    last, total = max(1, len(unit_sizes) - 1), max(1, sum(unit_sizes))
    draws = [(size / total, probability * (1.0 - depth / last)) for depth, size in enumerate(unit_sizes)]
    changes = sum(share * count * -math.expm1(-draw) for share, draw in draws)
    return changes, sum(share * math.exp(-count * draw) for share, draw in draws)


def sizes_of(units: Sequence[GraftUnit], tensors: Mapping[str, Tensor]) -> list[int]:
    """Return the number of values in each unit that the rule wash may move.

    Args:
        units: Units of a network. Keys of the optimizer's running averages in them are left out.
        tensors: Its tensors by name.
    """
    return [
        sum(
            tensors[key].numel()
            for key in unit.keys
            if key in tensors
            and tensors[key].is_floating_point()
            and not is_structural(key)
            and not key.endswith(BATCH_NORM_STATISTICS)
        )
        for unit in units
    ]
