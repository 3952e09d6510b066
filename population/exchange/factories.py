"""The library's own exchange rules, made from a run's configuration. Their arguments are those of a `RuleFactory`."""

from __future__ import annotations

from collections.abc import Callable

from inarch.population.config import RunConfig
from inarch.population.config.per_network import number_fields
from inarch.population.exchange.dml import DmlRule
from inarch.population.exchange.graft import GraftRule
from inarch.population.exchange.graft_published import PublishedGraftRule
from inarch.population.exchange.papa import PapaRule
from inarch.population.exchange.pbt import PbtRule
from inarch.population.exchange.protocol import ExchangeRule
from inarch.population.exchange.wash import WashRule
from inarch.population.grafting.channels import Channels
from inarch.population.grafting.criterion_names import check_criterion


def graft(config: RunConfig, find: Callable[[], Channels]) -> ExchangeRule:
    """Return the rule that grafts by filters or layers."""
    check_criterion(config.graft.criterion)
    needs_channels = config.graft.level == "filter" or config.graft.channel_matching != "none"
    return GraftRule(config.graft, config.staleness, find() if needs_channels else None)


def graft_published(config: RunConfig, find: Callable[[], Channels]) -> ExchangeRule:
    """Return the rule of the published code."""
    return PublishedGraftRule(config.graft, config.staleness)


def papa(config: RunConfig, find: Callable[[], Channels]) -> ExchangeRule:
    """Return the PAPA rule."""
    return PapaRule(config.papa)


def wash(config: RunConfig, find: Callable[[], Channels]) -> ExchangeRule:
    """Return the WASH rule."""
    return WashRule(config.wash)


def pbt(config: RunConfig, find: Callable[[], Channels]) -> ExchangeRule:
    """Return the rule of population based training."""
    return PbtRule(config.pbt, {item.name: item.rule for item in number_fields(config)})


def dml(config: RunConfig, find: Callable[[], Channels]) -> ExchangeRule:
    """Return the rule of deep mutual learning."""
    return DmlRule()


def none(config: RunConfig, find: Callable[[], Channels]) -> None:
    """Return None: networks exchange nothing."""
    return
