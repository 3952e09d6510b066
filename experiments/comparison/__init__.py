"""`inarch compare`: arms that do equal work, over seeds, with their differences and how sure they are."""

from inarch.experiments.comparison.arms import Arm, Comparison
from inarch.experiments.comparison.catalog import comparison, trial, usual_data
from inarch.experiments.comparison.comparisons import COMPARISONS
from inarch.experiments.comparison.costs import costs
from inarch.experiments.comparison.papers import PAPER_TABLES
from inarch.experiments.comparison.record import Record
from inarch.experiments.comparison.runner import narrowed, report, run_comparison
from inarch.experiments.comparison.statistics import Estimate, interval, paired

__all__ = [
    "COMPARISONS",
    "PAPER_TABLES",
    "Arm",
    "Comparison",
    "Estimate",
    "Record",
    "comparison",
    "costs",
    "interval",
    "narrowed",
    "paired",
    "report",
    "run_comparison",
    "trial",
    "usual_data",
]
