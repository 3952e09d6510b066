"""The typed result of a run."""

from __future__ import annotations

import pytest

from inarch.actors.driver.run_result import RunResult
from inarch.population.evaluation.metrics import Metrics

TABLE = {
    "networks": [
        {
            "network": 0,
            "ended": "done",
            "interval": 4,
            "best_interval": 3,
            "validation_score": 0.5,
            "grafts": 3,
            "reason": "",
            "best": {"accuracy": 0.75, "loss": 0.5},
            "last": {"accuracy": 0.5, "loss": 0.75},
        },
        {
            "network": 1,
            "ended": "failed",
            "interval": 0,
            "best_interval": None,
            "validation_score": None,
            "grafts": 0,
            "reason": "it diverged",
            "best": None,
            "last": None,
        },
    ],
    "mean": {"accuracy": 0.75},
    "best": 0,
    "ensemble": {"accuracy": 0.875},
    "soup": {"accuracy": 0.25},
    "greedy_soup": None,
    "seconds": 12.5,
    "train": {"loss": 0.125},
    "metrics": [{"name": "accuracy", "form": "{:.2%}"}],
    "deploy": {"recommended": None, "reason": "no data", "examples": 0, "options": []},
}


def test_result_gives_networks_and_metrics_as_attributes() -> None:
    result = RunResult(path="runs/x", table=TABLE)
    assert result.ensemble is not None and result.ensemble.accuracy == 0.875
    assert result.networks[0].best is not None and result.networks[0].best.loss == 0.5
    assert (result.networks[1].network_id, result.networks[1].reason) == (1, "it diverged")
    assert result.best_network == result.networks[0] and result.seconds == 12.5
    assert result.train is not None and result.train.loss == 0.125 and result.networks[0].train is None
    assert result.deploy is not None and result.deploy.lines()[0].endswith("because no data")
    assert result.greedy_soup is None and not result.is_complete, "network 1 failed"


def test_result_of_a_stopped_run_is_empty() -> None:
    result = RunResult(path="runs/x", table=None)
    assert result.networks == () and result.ensemble is None and result.deploy is None and not result.is_complete


def test_metrics_are_a_mapping_and_name_what_there_is() -> None:
    metrics = Metrics({"accuracy": 0.5, "loss": 1.0})
    assert dict(metrics) == {"accuracy": 0.5, "loss": 1.0} and metrics["loss"] == metrics.loss
    with pytest.raises(AttributeError, match="there is no metric 'perplexity'; there are accuracy, loss"):
        _ = metrics.perplexity
