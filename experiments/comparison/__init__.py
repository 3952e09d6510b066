"""`inarch compare`: arms that do equal work, over seeds, with their differences and how sure they are."""

from experiments.comparison.arms import COMPARISONS, Arm, Comparison, comparison
from experiments.comparison.record import Record
from experiments.comparison.runner import report, run_comparison
from experiments.comparison.statistics import Estimate, interval, paired

__all__ = [
    "COMPARISONS",
    "Arm",
    "Comparison",
    "Estimate",
    "Record",
    "comparison",
    "interval",
    "paired",
    "report",
    "run_comparison",
]
