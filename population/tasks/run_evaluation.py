"""Evaluate a run after training: each network, the ensemble and the soups."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from inarch.population.errors import RunError
from inarch.population.evaluation.population import EvaluationData, evaluate_population
from inarch.population.evaluation.soups import Candidate
from inarch.population.persistence.checkpoint import CheckpointStore
from inarch.population.persistence.history import damaged_files, read_table
from inarch.population.persistence.storage import Storage
from inarch.population.tasks.built_in import task_of
from inarch.population.tasks.protocol import BoundTask
from inarch.population.tasks.run_folder import read_config, read_members
from inarch.population.tasks.run_spec import RunSpec


def evaluate_run(
    spec: RunSpec,
    data: Any,
    ended: Mapping[int, str],
    reasons: Mapping[int, str],
    seconds: float,
    *,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """Evaluate every network on the test data, or on the validation data if there are no test data.

    Each network is evaluated twice: with its best weights by validation score, and with its last weights. So are the
    ensemble and the similarities. Soups are evaluated only with the best weights.

    Args:
        spec: The run.
        data: Data of the run, as from `Task.load_data`.
        ended: State in which each member ended, by id.
        reasons: Reasons why networks failed, by id.
        seconds: Duration of the training, in seconds.
        device: Device on which the networks run.

    Returns:
        The result of the run, as JSON types. `metrics` describes the task's metrics, the primary one first. `networks`
        has a row for each network, with its scores under `best` and `last`. The other keys of `evaluate_population` are
        at the top level for the best weights, and under `last` for the last weights. Without test and validation data,
        `evaluated_on` is None and there are no scores. A network without a readable checkpoint has a row without them.
        `damaged_files` names the files that were left out.

    Raises:
        RunError: No network left a checkpoint.
        StorageError: The run's folder cannot be read.
    """
    storage = Storage(spec.folder, deadline_seconds=spec.config.timeouts.storage_seconds)
    checkpoints = CheckpointStore(storage, keep=spec.config.checkpoint.keep)
    checkpoints.flush_history()
    task = task_of(spec).bind(spec.config, data, model=spec.factory, device=device, begins_trained=False)
    primary = task.metrics[0]
    best, last, rows = [], [], []
    failures = storage_failures(read_members(storage) or {})
    for network_id in checkpoints.networks():
        best_weights, newest = checkpoints.best(network_id), checkpoints.newest(network_id)
        if best_weights is None or newest is None:
            continue  # `_rows_without_scores` has a row for it
        state, score, interval = best_weights
        best.append(Candidate(network_id=network_id, state=state, validation_score=score))
        last.append(
            Candidate(
                network_id=network_id, state=newest.evaluated_state, validation_score=newest.training.get("score")
            )
        )
        rows.append(
            {
                "network": network_id,
                "ended": ended.get(network_id, "unknown"),
                "interval": newest.id.interval,
                "best_interval": interval,
                "validation_score": None if score is None else primary.score(score),
                "grafts": newest.training["grafts"],
                "reason": reasons.get(network_id, ""),
                "storage_failures": failures[network_id],
            }
        )
    if not rows:
        raise RunError(f"no network of {spec.name} left a checkpoint; its logs are in {spec.folder}/logs")
    evaluation_data, split = _parts(task)
    without_scores = {network_id: ended.get(network_id, "unknown") for network_id in checkpoints.networks()}
    without_scores |= {network_id: end for network_id, end in ended.items() if end in LOST or end == "done"}
    for row in rows:
        without_scores.pop(row["network"], None)
    lost_rows = [_lost_row(network_id, end, reasons, storage) for network_id, end in without_scores.items()]
    all_rows = sorted([*rows, *lost_rows], key=lambda row: row["network"])
    result: dict[str, Any] = {
        "run": spec.name,
        "task": spec.config.task,
        "metrics": [dataclasses.asdict(metric) for metric in task.metrics],
        "evaluated_on": split,
        "networks": all_rows,
        "damaged_files": sorted({*damaged_files(storage), *checkpoints.passed_over}),
    }
    recorded = read_config(storage)["info"] if storage.exists("config.json") else {}
    result["regime"] = recorded.get("regime")
    if evaluation_data is not None:
        module = task.build(0)
        scores = evaluate_population(module, _aligned(task, best), evaluation_data, last=_aligned(task, last))
        for row, best_scores, last_scores in zip(rows, scores.pop("each"), scores["last"].pop("each"), strict=True):
            row["best"], row["last"] = best_scores, last_scores
        result |= scores
    return result | {"seconds": seconds, "seconds_by_phase": _phases(storage)}


LOST = frozenset({"failed", "lost"})
"""Final states of members that have a row in the result even if they left no checkpoint."""


def _lost_row(network_id: int, how: str, reasons: Mapping[int, str], storage: Storage) -> dict[str, Any]:
    """Return the row of a network without a readable checkpoint. It has no scores and does not count in the mean."""
    empty = {"interval": 0, "best_interval": None, "validation_score": None, "grafts": 0, "best": None, "last": None}
    reason = reasons.get(network_id, "")
    if not reason:
        has_any = bool(CheckpointStore(storage).list(network_id))
        reason = "none of its checkpoints can be read" if has_any else "it left no checkpoint"
    return {"network": network_id, "ended": how, **empty, "reason": reason}


def storage_failures(record: Mapping[str, Any]) -> collections.Counter[int]:
    """Return how often storage began to fail for each network.

    Args:
        record: Record of the members, as from `read_members`.
    """
    events = [
        event for event in record.get("events", ()) if event["kind"] == "storage" and event["detail"]["is_failing"]
    ]
    return collections.Counter(event["network_id"] for event in events)


def _aligned(task: BoundTask, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the candidates with their channels in a common order, if grafts may have matched channels."""
    states = task.align_states([candidate.state for candidate in candidates])
    return [dataclasses.replace(candidate, state=state) for candidate, state in zip(candidates, states, strict=True)]


def _parts(task: BoundTask) -> tuple[EvaluationData | None, str | None]:
    """Return the data for the evaluation and the name of their split. None and None if there are no such data."""
    validation, test = task.part("validation"), task.part("test")
    selected, split = (test, "test") if test is not None else (validation, "validation")
    if selected is None:
        return None, None
    return EvaluationData(
        evaluated=selected,
        validation=validation,
        statistics=task.batch_norm_inputs,
    ), split


def _phases(storage: Storage) -> dict[str, float]:
    """Return the seconds that all networks together spent in each phase. A phase that a guest does not report is 0."""
    table = read_table(storage, "metrics")
    names = [name for name in table.schema.names if name.startswith("seconds_")]
    return {name.removeprefix("seconds_"): sum(filter(None, table[name].to_pylist())) for name in names}
