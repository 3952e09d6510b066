from .dml import DmlRule
from .exchanger import Exchanger, ExchangeResult, graft_rows, training_behind
from .graft import GraftRule
from .graft_published import PublishedGraftRule
from .papa import PapaRule
from .pbt import PbtRule
from .protocol import Contribution, ExchangeRule, Rootstock, Scion
from .rules import RULES, RuleFactory, check_rule, exchange_rule
from .wash import WashRule

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
