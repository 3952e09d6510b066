"""`inarch compare`: compare methods at equal compute over several seeds, with confidence intervals."""

from inarch.experiments.comparison.arms import Arm, Comparison
from inarch.experiments.comparison.catalog import comparison, trial, usual_data
from inarch.experiments.comparison.comparisons import COMPARISONS
from inarch.experiments.comparison.compute_budget import costs, power_text, regimes
from inarch.experiments.comparison.published_tables import PAPER_TABLES
from inarch.experiments.comparison.results_store import ResultsStore
from inarch.experiments.comparison.runner import make_report, narrowed, run_comparison
from inarch.experiments.comparison.statistics import Estimate, interval, paired

__all__ = [
    "COMPARISONS",
    "PAPER_TABLES",
    "Arm",
    "Comparison",
    "Estimate",
    "ResultsStore",
    "comparison",
    "costs",
    "interval",
    "make_report",
    "narrowed",
    "paired",
    "power_text",
    "regimes",
    "run_comparison",
    "trial",
    "usual_data",
]
