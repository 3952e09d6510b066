"""The exchange rules by name."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeGuard, cast

from inarch.population.config import RunConfig
from inarch.population.exchange.protocol import ExchangeRule
from inarch.population.extension.registry import Registry
from inarch.population.extension.user_code import user_code

if TYPE_CHECKING:
    from inarch.population.grafting.channels import Channels

RuleFactory = Callable[["RunConfig", Callable[[], "Channels"]], "ExchangeRule | None"]
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
    RULES.check(name)


NAMES = ("graft", "graft_published", "papa", "wash", "pbt", "dml", "none")
"""Names of the library's own rules."""

RULES.add_paths({name: f"inarch.population.exchange.factories:{name}" for name in NAMES})
