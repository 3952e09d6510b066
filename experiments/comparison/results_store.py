"""Results of a comparison, small enough to commit to git: scores, curves, alphas and similarities of each run."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import statistics
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from inarch.experiments.comparison.arms import Arm, Comparison
from inarch.experiments.saved_runs import similarity_over_time
from inarch.population.config import RunConfig, from_dict, to_dict
from inarch.population.errors import ConfigError
from inarch.population.evaluation.filter_statistics import filter_density
from inarch.population.persistence.checkpoint import CheckpointStore
from inarch.population.persistence.history import THRESHOLDS, read_table
from inarch.population.persistence.storage import Storage
from inarch.population.tasks.image_classification import ImageClassification
from inarch.population.tasks.image_task import run_splits

TABLES = ("scores", "curves", "filters", "layers", "alphas", "similarity", "fusion")
"""Files of a comparison's results, keyed by arm and seed."""

DENSITIES = {"": 0.1, "_1": 1.0}
"""Suffixes of the density columns, with the l1 norm below which a filter of the baseline counts as invalid.

Source: Grafting+, Cheng et al. 2020 (arXiv:2004.12311)."""

Rows = dict[str, list[dict[str, Any]]]


def comparable_config(config: RunConfig) -> str:
    """Return a configuration as JSON, for comparing runs.

    The JSON leaves out fields that do not change a result (name, folder, address, detach), and the seed. A file of
    images is identified by its name and size, a folder by the last two names of its path.

    Args:
        config: The configuration.
    """
    plain = to_dict(dataclasses.replace(config, name=None, storage="runs", address=None, seed=0, detach=False))
    for images in ("train", "test", "query"):
        if plain["data"][images]:
            plain["data"][images] = _identity(plain["data"][images])
    return json.dumps(plain, sort_keys=True)


def _identity(images: str) -> str:
    path = Path(images)
    if path.is_file():
        return f"{path.name}, {path.stat().st_size} bytes"
    return "/".join(path.parts[-2:] if path.is_dir() else path.parts[-1:])


def is_same_config(recorded: str | None, current: str) -> bool:
    """Return whether a recorded configuration equals the current one.

    Fields that are newer than the recorded configuration have their defaults in it.

    Args:
        recorded: JSON that is recorded with a row. None if it is not known, which equals no configuration.
        current: `comparable_config` of an arm.
    """
    if recorded is None or recorded == current:
        return recorded == current
    defaults = json.loads(json.dumps(to_dict(RunConfig())))
    return _with_defaults(json.loads(recorded), defaults) == json.loads(current)


def _with_defaults(values: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    filled = {key: value for key, value in defaults.items() if key not in values}
    for key, value in values.items():
        is_nested = isinstance(value, dict) and isinstance(defaults.get(key), dict)
        filled[key] = _with_defaults(value, defaults[key]) if is_nested else value
    return filled


def code_version() -> str:
    """Return the version of inarch, followed by the git commit if inarch is installed from a checkout."""
    version = importlib.metadata.version("inarch")
    command = ["git", "-C", str(Path(__file__).resolve().parent), "describe", "--always", "--dirty", "--exclude", "*"]
    try:
        commit = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return version
    return f"{version}+{commit}"


class ResultsStore:
    """The Parquet files of one comparison in a folder.

    The files may also hold earlier runs with other configurations. The store keeps them but does not return them.
    """

    def __init__(self, folder: Path, comparison: Comparison) -> None:
        """Open the store. Nothing is written yet.

        Args:
            folder: Folder of the files. It need not exist.
            comparison: Comparison whose arms define the current configurations.
        """
        self.folder = folder
        self._configs = {arm.name: comparable_config(arm.config) for arm in comparison.arms}

    def rows(self, table: str) -> list[dict[str, Any]]:
        """Return the rows of runs whose configuration is the current one of their arm.

        Args:
            table: One of TABLES.
        """
        runs = self._runs()
        return [row for row in read_rows(self.folder, table) if (row["arm"], row["seed"]) in runs]

    def has(self, arm: str, seed: int) -> bool:
        """Return whether the store holds a run of an arm with its current configuration.

        Args:
            arm: Name of the arm.
            seed: Seed of the run.
        """
        return (arm, seed) in self._runs()

    def _runs(self) -> set[tuple[str, int]]:
        return {
            (row["arm"], row["seed"])
            for row in read_rows(self.folder, "scores")
            if row["arm"] in self._configs and is_same_config(row["config"], self._configs[row["arm"]])
        }

    def reuse(self, arm: str, seed: int) -> bool:
        """Copy a run of equal configuration, data and seed from a folder beside this one, if there is such a run.

        In the copied scores `taken_from` names the comparison that made the run, and `code` the version of inarch.

        Args:
            arm: Name of the arm.
            seed: Seed of the run.

        Returns:
            Whether a run was copied.
        """
        config = self._configs[arm]
        other_folders = sorted({path.parent for path in self.folder.parent.glob("*/scores.parquet")} - {self.folder})
        for folder in other_folders:
            rows = read_rows(folder, "scores")
            equal = [row for row in rows if row["seed"] == seed and is_same_config(row["config"], config)]
            if equal:
                run = {table: _rows_of(folder, table, equal[0]["arm"], seed) for table in TABLES}
                run["scores"][0]["taken_from"] = equal[0]["taken_from"] or folder.name
                self.add(arm, seed, run)
                return True
        return False

    def add(self, arm: str, seed: int, run: Rows) -> None:
        """Add a run. It replaces an earlier run of the same arm and seed.

        Args:
            arm: Name of the arm.
            seed: Seed of the run.
            run: Rows by table, without the columns `arm` and `seed`.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for table in reversed(TABLES):
            earlier = read_rows(self.folder, table)
            others = [row for row in earlier if (row["arm"], row["seed"]) != (arm, seed)]
            rows = others + [{"arm": arm, "seed": seed, **row} for row in run.get(table, ())]
            if rows:
                names = dict.fromkeys(name for row in rows for name in row)  # older rows may have fewer columns
                columns = pa.Table.from_pylist([{name: row.get(name) for name in names} for row in rows])
                pq.write_table(columns, self.folder / f"{table}.parquet", compression="zstd")
            elif earlier:
                (self.folder / f"{table}.parquet").unlink()


def read_rows(folder: Path, table: str) -> list[dict[str, Any]]:
    """Return all rows of a table, whatever their configuration. Empty if there is no file.

    Args:
        folder: Folder of the files.
        table: One of TABLES.
    """
    path = folder / f"{table}.parquet"
    return pq.read_table(path).to_pylist() if path.exists() else []


def _rows_of(folder: Path, table: str, arm: str, seed: int) -> list[dict[str, Any]]:
    """Return the rows of one run, without the columns `arm` and `seed`."""
    rows = [row for row in read_rows(folder, table) if (row["arm"], row["seed"]) == (arm, seed)]
    return [{key: value for key, value in row.items() if key not in ("arm", "seed")} for row in rows]


def summarize(arm: Arm, result: dict[str, Any], folder: str, *, baseline: Storage) -> Rows:
    """Return the rows of each table for one finished run.

    Args:
        arm: Arm of the run.
        result: Contents of the run's result.json.
        folder: Folder of the run, with checkpoints and history.
        baseline: Folder of the baseline's run, which decides which filters are valid. It may be empty.
    """
    storage = Storage(folder)
    return {
        "scores": [_scores(arm, result, storage) | _density(storage, baseline)],
        "curves": _curves(storage),
        "filters": _filters(storage),
        "layers": _layers(storage),
        "alphas": _alphas(storage),
        "similarity": _similarity(storage),
        "fusion": _fusion(storage),
    }


def _scores(arm: Arm, result: dict[str, Any], storage: Storage) -> dict[str, Any]:
    metrics = read_table(storage, "metrics")
    outcomes = metrics["outcome"].to_pylist()
    row: dict[str, Any] = {
        "config": comparable_config(arm.config),
        "code": code_version(),
        "taken_from": "",
        "networks": len(result["networks"]),
        "evaluated_on": result["evaluated_on"],
        "validation_accuracy": _validation(metrics, "validation_accuracy"),
        "validation_mean_average_precision": _validation(metrics, "validation_mean_average_precision"),
    }
    best = next(network for network in result["networks"] if network["network"] == result["best"])
    kinds = {
        "mean": result["mean"],
        "best": best["best"],
        "ensemble": result["ensemble"],
        "soup": result["soup"],
        "greedy_soup": result["greedy_soup"] or {},
        "last_mean": result["last"]["mean"],
        "last_ensemble": result["last"]["ensemble"],
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


def _validation(metrics: pa.Table, name: str) -> float | None:
    """Return the mean over networks of their best validation score. Defaults are chosen by it."""
    if name not in metrics.schema.names:
        return None
    best = metrics.group_by("network").aggregate([(name, "max")]).to_pylist()
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
    sums = table.group_by(["network", "interval"]).aggregate(
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
    by_layer = table.group_by("layer").aggregate(
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
    recorded = json.loads(storage.read("config.json"))
    if recorded["model"] == "callable":
        raise ConfigError("an arm must train a named architecture, not a callable")
    return from_dict(RunConfig, recorded["config"])
