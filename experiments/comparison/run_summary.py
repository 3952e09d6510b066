"""What a comparison records of one finished run: scores, curves, alphas, filters and similarities."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch

from inarch.experiments.comparison.arms import Arm
from inarch.experiments.comparison.results_store import Rows, code_version, comparable_config, data_identity
from inarch.experiments.saved_runs import similarity_over_time
from inarch.population.config import RunConfig, to_dict
from inarch.population.errors import ConfigError
from inarch.population.evaluation.filter_statistics import filter_density
from inarch.population.persistence.checkpoint import CheckpointStore
from inarch.population.persistence.history import read_table
from inarch.population.persistence.history_schemas import THRESHOLDS
from inarch.population.persistence.storage import Storage
from inarch.population.tasks.image_classification import ImageClassification
from inarch.population.tasks.image_task import run_splits
from inarch.population.tasks.run_folder import read_config, recorded_config

DENSITIES = {"": 0.1, "_1": 1.0}
"""Suffixes of the density columns, with the l1 norm below which a filter of the baseline counts as invalid.

Source: Grafting+, Cheng et al. 2020 (arXiv:2004.12311)."""


SESSIONS = "comparison.json"
"""File in the folder of a run: the versions of the code that trained it, one for each time it was begun or resumed."""


def note_session(storage: Storage, config: RunConfig, *, is_resumed: bool) -> None:
    """Record that a run has begun or is to be resumed, with this version of the code and what identifies its data.

    Args:
        storage: Folder of the run.
        config: Its configuration.
        is_resumed: Whether it is to be resumed.
    """
    earlier = _sessions(storage) if is_resumed else []
    content = {"code": [*earlier, code_version()], "data": data_identity(to_dict(config)["data"])}
    storage.replace(SESSIONS, json.dumps(content).encode())


def trained_on(storage: Storage) -> dict[str, str] | None:
    """Return what identifies the data that a run was begun with, as `data_identity`. None: it was not recorded.

    Args:
        storage: Folder of the run.
    """
    return json.loads(storage.read(SESSIONS)).get("data") if storage.exists(SESSIONS) else None


def _sessions(storage: Storage) -> list[str]:
    """Return the versions of the code of each session of a run. The version of a run without a record has no commit."""
    if storage.exists(SESSIONS):
        return json.loads(storage.read(SESSIONS))["code"]
    return [read_config(storage).get("versions", {}).get("inarch", "unknown")]


def summarize(arm: Arm, result: dict[str, Any], folder: str, *, baseline: Storage) -> Rows:
    """Return the rows of each table for one finished run.

    Args:
        arm: Arm of the run.
        result: Contents of the run's result.json.
        folder: Folder of the run, with checkpoints and history.
        baseline: Folder of the baseline's run, which decides which filters are valid. It may be empty.
    """
    storage = Storage(folder)
    sessions = _sessions(storage)
    scores = _scores(arm, result, storage) | _density(storage, baseline)
    scores["code"] = ", then ".join(dict.fromkeys(sessions))
    curves = _curves(storage)
    if len(sessions) > 1:  # the pause counts in the times, and only the last session in the seconds
        scores["train_seconds"] = None
        curves = [row | {"time": None} for row in curves]
    return {
        "scores": [scores],
        "curves": curves,
        "filters": _filters(storage),
        "layers": _layers(storage),
        "alphas": _alphas(storage),
        "similarity": _similarity(storage),
        "fusion": _fusion(storage),
    }


def _scores(arm: Arm, result: dict[str, Any], storage: Storage) -> dict[str, Any]:
    metrics = read_table(storage, "metrics")
    outcomes = metrics["outcome"].to_pylist()
    regime, fit, judged = (result.get(name) or {} for name in ("regime", "train", "validation"))
    row: dict[str, Any] = {
        "config": comparable_config(arm.config),
        "taken_from": "",
        "networks": len(result["networks"]),
        "evaluated_on": result["evaluated_on"],
        "steps": regime.get("steps"),
        "decay_time": statistics.fmean(regime["decay_times"]) if regime else None,
        "planned_exchanges": regime.get("num_exchanges"),
        "total_pull": regime.get("total_pull"),
        "remaining": regime.get("remaining"),
        "train_loss": fit.get("loss"),
        "train_accuracy": fit.get("accuracy"),
        "unfinished": sum(network["ended"] not in ("done", "retired") for network in result["networks"]),
        "validation_accuracy": _validation(metrics, "validation_accuracy"),
        "validation_mean_average_precision": _validation(metrics, "validation_mean_average_precision"),
    }
    primary = result["metrics"][0]["name"]
    row[f"last_validation_{primary}"] = result["last"].get("validation_score")
    best = next(network for network in result["networks"] if network["network"] == result["best"])
    kinds = {
        "mean": result["mean"],
        "by_validation": _mean_of([network.get("by_validation") or {} for network in result["networks"]]),
        "best": best["best"],
        "ensemble": result["ensemble"],
        "soup": result["soup"],
        "greedy_soup": result["greedy_soup"] or {},
        "last_mean": result["last"]["mean"],
        "last_ensemble": result["last"]["ensemble"],
        "last_soup": result["last"].get("soup") or {},
        **{f"validation_{name}": judged.get(name) or {} for name in ("ensemble", "soup")},
    }
    for kind, scores in kinds.items():
        for name in ("accuracy", "mean_average_precision", "loss", "top5", "calibration_error"):
            row[f"{kind}_{name}"] = scores.get(name)
    return row | {
        "agreement": result["last"]["agreement"],
        "cosine": result["last"]["cosine"],
        "images": sum(metrics["examples"].to_pylist()),
        "exchanges": outcomes.count("grafted"),
        "refusals": sum(outcome not in ("grafted", "unchanged", "off") for outcome in outcomes),
        "train_seconds": result["seconds"],
    }


def _mean_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the mean of each number over the rows that have numbers."""
    known = [row for row in rows if row]
    names = [name for name in (known[0] if known else ()) if all(row.get(name) is not None for row in known)]
    return {name: statistics.fmean(row[name] for row in known) for name in names}


def _validation(metrics: pa.Table, name: str) -> float | None:
    """Return the mean over networks of the best validation score of any evaluation."""
    if name not in metrics.schema.names:
        return None
    best = metrics.group_by("network", use_threads=False).aggregate([(name, "max")]).to_pylist()
    scores = [row[f"{name}_max"] for row in best if row[f"{name}_max"] is not None]
    return statistics.mean(scores) if scores else None


def _density(storage: Storage, baseline: Storage) -> dict[str, float | None]:
    """Return the mean number and l1 norm of valid and invalid filters, over the networks' newest checkpoints.

    A filter is valid if it is valid in the baseline's network of the same id, which has the same initial weights.
    Values are None if there is no run of the baseline, or if its networks have another structure.
    """
    pairs = []
    if baseline.exists("config.json"):
        baseline_store, own_store = CheckpointStore(baseline), CheckpointStore(storage)
        for network_id in own_store.networks():
            own, base = (
                own_store.newest(network_id),
                baseline_store.newest(network_id) if network_id in baseline_store.networks() else None,
            )
            if own is not None and base is not None and _shapes(own.model) == _shapes(base.model):
                pairs.append((own.model, base.model))
    row: dict[str, float | None] = {}
    for suffix, threshold in DENSITIES.items():
        densities = [filter_density(own, base, threshold) for own, base in pairs]
        for name, values in {
            "valid_l1": [density.valid for density in densities],
            "invalid_l1": [density.invalid for density in densities],
            "valid_filters": [float(density.num_valid) for density in densities],
            "invalid_filters": [float(density.num_invalid) for density in densities],
        }.items():
            known = [value for value in values if value is not None]
            row[f"{name}{suffix}"] = statistics.mean(known) if known else None
    return row


def _shapes(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in state.items()}


def _curves(storage: Storage) -> list[dict[str, Any]]:
    """Return one row per evaluated interval. `time` is in seconds since the first network began its first interval."""
    names = ["network", "epoch", "images", "train_loss", "validation_accuracy", "time"]
    table = read_table(storage, "metrics")
    table = table.rename_columns(["images" if name == "examples" else name for name in table.schema.names])
    phases = [name for name in table.schema.names if name.startswith("seconds_")]
    durations = [sum(row[phase] or 0.0 for phase in phases) for row in table.select(phases).to_pylist()]
    rows = table.select(names).to_pylist()
    start = min(row["time"] - seconds for row, seconds in zip(rows, durations, strict=True))
    return [row | {"time": row["time"] - start} for row in rows if row["validation_accuracy"] is not None]


def _filters(storage: Storage) -> list[dict[str, Any]]:
    """Return one row per network and evaluated interval: mean entropy of the layers, and share of invalid filters."""
    table = read_table(storage, "filters")
    sums = table.group_by(["network", "interval"], use_threads=False).aggregate(
        [("entropy", "mean"), ("filters", "sum"), *((name, "sum") for name in THRESHOLDS)]
    )
    return [
        {
            "network": row["network"],
            "interval": row["interval"],
            "entropy": row["entropy_mean"],
            **{name: row[f"{name}_sum"] / row["filters_sum"] for name in THRESHOLDS},
        }
        for row in sums.sort_by([("network", "ascending"), ("interval", "ascending")]).to_pylist()
    ]


def _layers(storage: Storage) -> list[dict[str, Any]]:
    """Return one row per evaluated interval and layer: share of invalid filters over all networks."""
    sums = (
        read_table(storage, "filters")
        .group_by(["interval", "layer"], use_threads=False)
        .aggregate([("filters", "sum"), *((name, "sum") for name in THRESHOLDS)])
    )
    return [
        {
            "interval": row["interval"],
            "layer": row["layer"],
            **{name: row[f"{name}_sum"] / row["filters_sum"] for name in THRESHOLDS},
        }
        for row in sums.sort_by("interval").to_pylist()
    ]


def _alphas(storage: Storage) -> list[dict[str, Any]]:
    """Return one row per layer, over all exchanges: mean and standard deviation of alpha, and mean staleness."""
    table = read_table(storage, "grafts")
    if not len(table):
        return []
    spread = pc.VarianceOptions(ddof=0)
    by_layer = table.group_by("layer", use_threads=False).aggregate(
        [("alpha", "mean"), ("alpha", "stddev", spread), ("staleness_intervals", "mean"), ("alpha", "count")]
    )
    return by_layer.rename_columns(["layer", "alpha", "alpha_deviation", "staleness_intervals", "grafts"]).to_pylist()


def _fusion(storage: Storage) -> list[dict[str, Any]]:
    """Return one row per network, epoch and layer, with the fields of `population.fusion.LayerFusion`."""
    names = [
        "network",
        "epoch",
        "layer",
        "filters",
        "kept",
        "temperature",
        "effective",
        "changed",
        "discarded_gradient",
    ]
    return read_table(storage, "fusion").select(names).to_pylist()


def _similarity(storage: Storage) -> list[dict[str, Any]]:
    """Return the networks' similarity at every second interval that all networks saved, counted from the last."""
    config = _config_of(storage)
    return similarity_over_time(storage, ImageClassification(config, run_splits(config), begins_trained=False), every=2)


def _config_of(storage: Storage) -> RunConfig:
    recorded = read_config(storage)
    if recorded["model"] == "callable":
        raise ConfigError("an arm must train a named architecture, not a callable")
    return recorded_config(storage, recorded)
