"""What networks do with each other's snapshots: grafting and the rules that it is compared with."""

from collections.abc import Callable

from inarch.population.channels import Channels
from inarch.population.config import RunConfig
from inarch.population.exchange.averaging import Averaging
from inarch.population.exchange.exchanger import Exchanged, Exchanger, graft_rows, training_behind
from inarch.population.exchange.exploiting import Exploiting
from inarch.population.exchange.grafting import Grafting
from inarch.population.exchange.mutual import Mutual
from inarch.population.exchange.rule import Arrival, ExchangeRule, Rootstock, Taken
from inarch.population.exchange.shuffling import Shuffling


def exchange_rule(config: RunConfig, find: Callable[[], Channels]) -> ExchangeRule | None:
    """The rule of a run; None: networks exchange nothing.

    Args:
        config: The run's.
        find: Finds the network's channels; called where the rule needs them.

    Raises:
        ConfigError: it needs them, and they cannot be found.
    """
    match config.exchange.rule:
        case "graft":
            graft = config.graft
            by_filters = graft.level == "filter" and not graft.reference
            needs_them = by_filters or graft.alignment != "none"
            return Grafting(graft, config.age, find() if needs_them else None)
        case "average":
            return Averaging(config.average)
        case "shuffle":
            return Shuffling(config.shuffle)
        case "exploit":
            return Exploiting(config.exploit)
        case "mutual":
            return Mutual()
    return None


__all__ = [
    "Arrival",
    "Averaging",
    "ExchangeRule",
    "Exchanged",
    "Exchanger",
    "Exploiting",
    "Grafting",
    "Mutual",
    "Rootstock",
    "Shuffling",
    "Taken",
    "exchange_rule",
    "graft_rows",
    "training_behind",
]
