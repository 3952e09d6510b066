"""`inarch compare`: arms that do equal work, over seeds, with their differences and how sure they are."""

from experiments.comparison.arms import Arm, Comparison
from experiments.comparison.catalog import comparison, trial, usual_data
from experiments.comparison.comparisons import COMPARISONS
from experiments.comparison.costs import costs
from experiments.comparison.papers import PAPER_TABLES
from experiments.comparison.record import Record
from experiments.comparison.runner import narrowed, report, run_comparison
from experiments.comparison.statistics import Estimate, interval, paired

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
