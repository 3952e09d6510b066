"""Exchange rules: how networks use each other's snapshots. They are grafting and the rules that it is compared with."""

import copy
from collections.abc import Callable
from typing import TypeGuard, cast

from inarch.population.config import RunConfig
from inarch.population.exchange.dml import DmlRule
from inarch.population.exchange.exchanger import Exchanger, ExchangeResult, graft_rows, training_behind
from inarch.population.exchange.graft import GraftRule
from inarch.population.exchange.graft_published import PublishedGraftRule
from inarch.population.exchange.papa import PapaRule
from inarch.population.exchange.pbt import PbtRule
from inarch.population.exchange.protocol import Contribution, ExchangeRule, Rootstock, Scion
from inarch.population.exchange.wash import WashRule
from inarch.population.extension.registry import Registry
from inarch.population.extension.user_code import user_code
from inarch.population.grafting.channels import Channels
from inarch.population.grafting.criteria import check_criterion

RuleFactory = Callable[[RunConfig, Callable[[], Channels]], ExchangeRule | None]
"""Returns the rule of one network. Its arguments are the run's configuration, and a function that traces the network's
channels, which a rule calls only if it needs them. None: the networks exchange nothing."""


def _is_rule(target: object) -> TypeGuard[ExchangeRule]:
    return isinstance(target, ExchangeRule) and not isinstance(target, type)


RULES: Registry[RuleFactory | ExchangeRule] = Registry(
    "exchange rule",
    "exchange.rule",
    accepts=lambda target: callable(target) or _is_rule(target),
    form="a rule with takes_scions, information_measure and apply, or a function that returns one",
)
"""Exchange rules by name: factories, or rules, of which each network gets a copy."""


def exchange_rule(config: RunConfig, find: Callable[[], Channels]) -> ExchangeRule | None:
    """Return the exchange rule of a run, or None if its networks exchange nothing.

    Args:
        config: The run's configuration.
        find: Returns the channels of the network. Called only if the rule needs them.

    Raises:
        ConfigError: There is no such rule, or the rule needs channels and `find` cannot determine them.
        UserCodeError: The caller's factory raised.
    """
    target = RULES.resolve(config.exchange.rule)
    with user_code(f"exchange.rule {config.exchange.rule}"):
        return copy.deepcopy(target) if _is_rule(target) else cast("RuleFactory", target)(config, find)


def check_rule(name: str) -> None:
    """Raise ConfigError if there is no exchange rule of this name.

    Args:
        name: A name in RULES, or module:object.
    """
    RULES.resolve(name)


@RULES.register("graft")
def _graft(config: RunConfig, find: Callable[[], Channels]) -> ExchangeRule:
    check_criterion(config.graft.criterion)
    needs_channels = config.graft.level == "filter" or config.graft.channel_matching != "none"
    return GraftRule(config.graft, config.staleness, find() if needs_channels else None)


@RULES.register("graft_published")
def _graft_published(config: RunConfig, find: Callable[[], Channels]) -> ExchangeRule:
    return PublishedGraftRule(config.graft, config.staleness)


@RULES.register("papa")
def _papa(config: RunConfig, find: Callable[[], Channels]) -> ExchangeRule:
    return PapaRule(config.papa)


@RULES.register("wash")
def _wash(config: RunConfig, find: Callable[[], Channels]) -> ExchangeRule:
    return WashRule(config.wash)


@RULES.register("pbt")
def _pbt(config: RunConfig, find: Callable[[], Channels]) -> ExchangeRule:
    return PbtRule(config.pbt)


@RULES.register("dml")
def _dml(config: RunConfig, find: Callable[[], Channels]) -> ExchangeRule:
    return DmlRule()


@RULES.register("none")
def _none(config: RunConfig, find: Callable[[], Channels]) -> None:
    return None


RULES.close_built_in()

__all__ = [
    "RULES",
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
    "RuleFactory",
    "Scion",
    "WashRule",
    "check_rule",
    "exchange_rule",
    "graft_rows",
    "training_behind",
]
