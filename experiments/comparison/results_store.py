"""Results of a comparison, small enough to be committed: scores, curves, alphas and similarities of each run."""

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
from inarch.population.tasks.image_classification import ImageClassification, run_splits

TABLES = ("scores", "curves", "filters", "layers", "alphas", "similarity", "fusion")
"""Files of a comparison's results, keyed by arm and seed."""

DENSITIES = {"": 0.1, "_1": 1.0}
"""Ends of the columns of densities, and the l1 norm below which a filter of the baseline is invalid there, as in
Grafting+."""

Rows = dict[str, list[dict[str, Any]]]


def comparable_config(config: RunConfig) -> str:
    """Return a configuration as JSON without what does not change a result: name, folder, address and seed.

    A file of images counts by its name and size, a folder by the last two names of its path.
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
    """Return whether a recorded configuration is the current one. Fields added since count with their defaults.

    Args:
        recorded: JSON beside a row, or None where it is not known.
        current: `comparable_config` of an arm.
    """
    if recorded is None or recorded == current:
        return recorded == current
    defaults = json.loads(json.dumps(to_dict(RunConfig())))
    return _with_defaults(json.loads(recorded), defaults) == json.loads(current)


def _with_defaults(values: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    filled = {key: value for key, value in defaults.items() if key not in values}
    for key, value in values.items():
        nested = isinstance(value, dict) and isinstance(defaults.get(key), dict)
        filled[key] = _with_defaults(value, defaults[key]) if nested else value
    return filled


def code_version() -> str:
    """Return the version of inarch, with the commit if it is installed from a git checkout."""
    version = importlib.metadata.version("inarch")
    command = ["git", "-C", str(Path(__file__).resolve().parent), "describe", "--always", "--dirty", "--exclude", "*"]
    try:
        commit = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return version
    return f"{version}+{commit}"


class ResultsStore:
    """The Parquet files of one comparison in a folder.

    It may also hold runs of other configurations, made earlier. They are kept but not shown.
    """

    def __init__(self, folder: Path, comparison: Comparison) -> None:
        """Open the store; nothing is written yet.

        Args:
            folder: Where the files lie.
            comparison: Arms whose runs count, as they are configured now.
        """
        self.folder = folder
        self._configs = {arm.name: comparable_config(arm.config) for arm in comparison.arms}

    def rows(self, table: str) -> list[dict[str, Any]]:
        """Return the rows of one of TABLES that belong to the arms as they are configured now."""
        runs = self._runs()
        return [row for row in read_rows(self.folder, table) if (row["arm"], row["seed"]) in runs]

    def has(self, arm: str, seed: int) -> bool:
        """Return whether the store holds a run of an arm with its present configuration."""
        return (arm, seed) in self._runs()

    def _runs(self) -> set[tuple[str, int]]:
        return {
            (row["arm"], row["seed"])
            for row in read_rows(self.folder, "scores")
            if row["arm"] in self._configs and is_same_config(row["config"], self._configs[row["arm"]])
        }

    def reuse(self, arm: str, seed: int) -> bool:
        """Copy a run of equal configuration, data and seed from a store beside this one, if there is one.

        `taken_from` in its scores then names the comparison that made it, and `code` the version that ran it.

        Returns:
            Whether there was one.
        """
        config = self._configs[arm]
        beside = sorted({path.parent for path in self.folder.parent.glob("*/scores.parquet")} - {self.folder})
        for folder in beside:
            rows = read_rows(folder, "scores")
            equal = [row for row in rows if row["seed"] == seed and is_same_config(row["config"], config)]
            if equal:
                run = {table: _rows_of(folder, table, equal[0]["arm"], seed) for table in TABLES}
                run["scores"][0]["taken_from"] = equal[0]["taken_from"] or folder.name
                self.add(arm, seed, run)
                return True
        return False

    def add(self, arm: str, seed: int, run: Rows) -> None:
        """Add a run, in place of an earlier one of the same arm and seed.

        Args:
            arm: Name of the arm.
            seed: Seed of the run.
            run: Rows of each table.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for table in reversed(TABLES):
            before = read_rows(self.folder, table)
            others = [row for row in before if (row["arm"], row["seed"]) != (arm, seed)]
            rows = others + [{"arm": arm, "seed": seed, **row} for row in run.get(table, ())]
            if rows:
                names = dict.fromkeys(name for row in rows for name in row)  # an older row may have fewer
                whole = pa.Table.from_pylist([{name: row.get(name) for name in names} for row in rows])
                pq.write_table(whole, self.folder / f"{table}.parquet", compression="zstd")
            elif before:
                (self.folder / f"{table}.parquet").unlink()


def read_rows(folder: Path, table: str) -> list[dict[str, Any]]:
    """All rows of one of TABLES in a folder."""
    path = folder / f"{table}.parquet"
    return pq.read_table(path).to_pylist() if path.exists() else []


def _rows_of(folder: Path, table: str, arm: str, seed: int) -> list[dict[str, Any]]:
    """One run's rows of a table, without the run's name."""
    rows = [row for row in read_rows(folder, table) if (row["arm"], row["seed"]) == (arm, seed)]
    return [{key: value for key, value in row.items() if key not in ("arm", "seed")} for row in rows]


def summarize(arm: Arm, result: dict[str, Any], folder: str, *, baseline: Storage) -> Rows:
    """What is kept of one run.

    Args:
        arm: Its arm.
        result: Its result.json.
        folder: Its folder, checkpoints and history.
        baseline: The folder of the run that decides which filters are valid, where there is one.
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
        "judged_on": result["judged_on"],
        "validation_accuracy": _validation(metrics, "validation_accuracy"),
        "validation_mean_average_precision": _validation(metrics, "validation_mean_average_precision"),
    }
    chosen = next(one for one in result["networks"] if one["network"] == result["best"])
    kinds = {
        "mean": result["mean"],
        "best": chosen["best"],
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
        "images": sum(metrics["images"].to_pylist()),
        "exchanges": outcomes.count("grafted"),
        "refusals": sum(outcome not in ("grafted", "unchanged", "off") for outcome in outcomes),
        "train_seconds": result["seconds"],
    }


def _validation(metrics: pa.Table, name: str) -> float | None:
    """Mean over the networks of their best score on the validation images: what decides about a default."""
    best = metrics.group_by("network").aggregate([(name, "max")]).to_pylist()
    found = [row[f"{name}_max"] for row in best if row[f"{name}_max"] is not None]
    return statistics.mean(found) if found else None


def _density(storage: Storage, baseline: Storage) -> dict[str, float | None]:
    """Mean l1 norm of the filters that are valid and invalid in the baseline's network of the same id (and beginning),
    over the networks as they ended; None where the baseline's run is not there or has another structure."""
    pairs = []
    if baseline.exists("config.json"):
        theirs, own = CheckpointStore(baseline), CheckpointStore(storage)
        for network_id in own.networks():
            mine, other = own.newest(network_id), theirs.newest(network_id) if network_id in theirs.networks() else None
            if mine is not None and other is not None and _shapes(mine.model) == _shapes(other.model):
                pairs.append((mine.model, other.model))
    found: dict[str, float | None] = {}
    for end, threshold in DENSITIES.items():
        densities = [filter_density(mine, other, threshold) for mine, other in pairs]
        for name, values in {
            "valid_l1": [one.valid for one in densities],
            "invalid_l1": [one.invalid for one in densities],
            "valid_filters": [float(one.num_valid) for one in densities],
            "invalid_filters": [float(one.num_invalid) for one in densities],
        }.items():
            known = [value for value in values if value is not None]
            found[f"{name}{end}"] = statistics.mean(known) if known else None
    return found


def _shapes(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in state.items()}


def _curves(storage: Storage) -> list[dict[str, Any]]:
    """By evaluated interval; time in seconds since the first network began its first."""
    names = ["network", "epoch", "images", "train_loss", "validation_accuracy", "time"]
    table = read_table(storage, "metrics")
    phases = [name for name in table.schema.names if name.startswith("seconds_")]
    spent = [sum(row[phase] or 0.0 for phase in phases) for row in table.select(phases).to_pylist()]
    rows = table.select(names).to_pylist()
    began = min(row["time"] - seconds for row, seconds in zip(rows, spent, strict=True))
    return [row | {"time": row["time"] - began} for row in rows if row["validation_accuracy"] is not None]


def _filters(storage: Storage) -> list[dict[str, Any]]:
    """By evaluated interval: mean entropy of the layers, and the part of the filters that is invalid."""
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
    """By evaluated interval and layer, over networks: the part of the filters that is invalid."""
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
    """By layer, over all exchanges: mean and standard deviation of alpha, and the mean age of the scions."""
    table = read_table(storage, "grafts")
    if not len(table):
        return []
    spread = pc.VarianceOptions(ddof=0)
    found = table.group_by("layer").aggregate(
        [("alpha", "mean"), ("alpha", "stddev", spread), ("staleness_intervals", "mean"), ("alpha", "count")]
    )
    return found.rename_columns(["layer", "alpha", "alpha_deviation", "staleness_intervals", "grafts"]).to_pylist()


def _fusion(storage: Storage) -> list[dict[str, Any]]:
    """By epoch and layer, of every network: as `population.fusion.LayerFusion`."""
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
    """By every second interval that all networks saved, the last too."""
    config = _config_of(storage)
    return similarity_over_time(storage, ImageClassification(config, run_splits(config), begins_trained=False), every=2)


def _config_of(storage: Storage) -> RunConfig:
    recorded = json.loads(storage.read("config.json"))
    if recorded["model"] == "callable":
        raise ConfigError("arms are named architectures, not callables")
    return from_dict(RunConfig, recorded["config"])
