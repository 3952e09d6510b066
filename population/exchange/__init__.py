"""Exchange rules: how networks use each other's snapshots. They are grafting and the rules that it is compared with."""

from collections.abc import Callable

from inarch.population.config import RunConfig
from inarch.population.exchange.dml import DmlRule
from inarch.population.exchange.exchanger import Exchanger, ExchangeResult, graft_rows, training_behind
from inarch.population.exchange.graft import GraftRule
from inarch.population.exchange.graft_published import PublishedGraftRule
from inarch.population.exchange.papa import PapaRule
from inarch.population.exchange.pbt import PbtRule
from inarch.population.exchange.protocol import Contribution, ExchangeRule, Rootstock, Scion
from inarch.population.exchange.wash import WashRule
from inarch.population.grafting.channels import Channels
from inarch.population.grafting.criteria import check_criterion


def exchange_rule(config: RunConfig, find: Callable[[], Channels]) -> ExchangeRule | None:
    """Return the exchange rule of a run, or None if its networks exchange nothing.

    Args:
        config: The run's configuration.
        find: Returns the channels of the network. Called only if the rule needs them.

    Raises:
        ConfigError: The rule needs channels and `find` cannot determine them.
    """
    match config.exchange.rule:
        case "graft":
            graft = config.graft
            check_criterion(graft.criterion)
            needs_channels = graft.level == "filter" or graft.channel_matching != "none"
            return GraftRule(graft, config.staleness, find() if needs_channels else None)
        case "graft_published":
            return PublishedGraftRule(config.graft, config.staleness)
        case "papa":
            return PapaRule(config.papa)
        case "wash":
            return WashRule(config.wash)
        case "pbt":
            return PbtRule(config.pbt)
        case "dml":
            return DmlRule()
        case "none":
            return None


__all__ = [
    "Contribution",
    "DmlRule",
    "ExchangeResult",
    "ExchangeRule",
    "Exchanger",
    "GraftRule",
    "PapaRule",
    "PbtRule",
    "PublishedGraftRule",
    "Rootstock",
    "Scion",
    "WashRule",
    "exchange_rule",
    "graft_rows",
    "training_behind",
]
