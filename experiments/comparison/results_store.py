"""What a comparison keeps of each run, small enough to be committed: scores, curves, alphas, similarities."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from inarch.experiments.comparison.arms import AS_THEY_COME, Arm, Comparison
from inarch.experiments.comparison.editions import EDITION, means_the_same
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


def fingerprint(config: RunConfig) -> str:
    """Tells one arm's configuration and data from another's, in whatever folder and under whatever name it runs. A file
    of images counts by its name and size, a folder by its path's last two names. What departs from the defaults of the
    first records counts; where a default has changed since, these keep their fingerprints."""
    plain = to_dict(dataclasses.replace(config, name=None, storage="runs", address=None, seed=0, detach=False))
    for images in ("train", "test", "query"):
        plain["data"][images] = _identity(plain["data"][images] or "")
    told = _departures(plain, to_dict(RunConfig(staleness=AS_THEY_COME)))
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]


def _identity(images: str) -> str:
    path = Path(images)
    if path.is_file():
        return f"{path.name}, {path.stat().st_size} bytes"
    return "/".join(path.parts[-2:] if path.is_dir() else path.parts[-1:])


def _departures(values: dict[str, Any], usual: dict[str, Any]) -> dict[str, Any]:
    """What is not as it is by default: a field that is new, and left at its default, makes no other configuration."""
    found = {
        key: _departures(value, usual[key]) if isinstance(value, dict) else value
        for key, value in values.items()
        if value != usual[key]
    }
    return {key: value for key, value in found.items() if value != {}}


class Record:
    """The Parquet files of one comparison in a folder. It may hold runs of other configurations, of earlier times; they
    are not shown."""

    def __init__(self, folder: Path, comparison: Comparison) -> None:
        """Args: where it lies; whose arms count, as they are configured now."""
        self.folder = folder
        self._configs = {arm.name: arm.config for arm in comparison.arms}
        self._fingerprints = {name: fingerprint(config) for name, config in self._configs.items()}

    def rows(self, table: str) -> list[dict[str, Any]]:
        """The rows of one of TABLES, of the arms as they are configured now."""
        runs = self._runs()
        return [row for row in read_rows(self.folder, table) if (row["arm"], row["seed"]) in runs]

    def has(self, arm: str, seed: int) -> bool:
        """Whether a run is in it, with the arm's configuration as it is now."""
        return (arm, seed) in self._runs()

    def _runs(self) -> set[tuple[str, int]]:
        return {
            (row["arm"], row["seed"])
            for row in read_rows(self.folder, "scores")
            if self._fingerprints.get(row["arm"]) == row["fingerprint"]
        }

    def is_of_today(self, row: Mapping[str, Any]) -> bool:
        """Whether the run of a row of scores would be trained and judged the same way now."""
        return means_the_same(self._configs[row["arm"]], edition=edition_of(row))

    def borrow(self, arm: str, seed: int) -> bool:
        """Take a run of the same configuration, data and seed from a record beside this one: it would be the same run,
        unless an edition of the code since has changed what that configuration means.

        Returns whether there is one; `taken_from` in its scores then names the comparison that made it.
        """
        wanted = self._fingerprints[arm], seed
        beside = sorted({path.parent for path in self.folder.parent.glob("*/scores.parquet")} - {self.folder})
        for folder in beside:
            rows = [row for row in read_rows(folder, "scores") if (row["fingerprint"], row["seed"]) == wanted]
            owners = [row for row in rows if means_the_same(self._configs[arm], edition=edition_of(row))]
            if owners:
                found = {table: _rows_of(folder, table, owners[0]["arm"], seed) for table in TABLES}
                found["scores"][0]["taken_from"] = owners[0]["taken_from"] or folder.name
                self.add(arm, seed, found)
                return True
        return False

    def add(self, arm: str, seed: int, found: Rows) -> None:
        """Put a run in, in place of an earlier one of the same arm and seed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for table in reversed(TABLES):
            before = read_rows(self.folder, table)
            kept = [row for row in before if (row["arm"], row["seed"]) != (arm, seed)]
            rows = kept + [{"arm": arm, "seed": seed, **row} for row in found.get(table, ())]
            if rows:
                names = dict.fromkeys(name for row in rows for name in row)  # an older row may have fewer
                whole = pa.Table.from_pylist([{name: row.get(name) for name in names} for row in rows])
                pq.write_table(whole, self.folder / f"{table}.parquet", compression="zstd")
            elif before:
                (self.folder / f"{table}.parquet").unlink()


def edition_of(row: Mapping[str, Any]) -> int:
    """Of the code that made a row of scores."""
    return row.get("edition") or 0


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
        "fingerprint": fingerprint(arm.config),
        "edition": EDITION,
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
