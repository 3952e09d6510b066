"""After a run has trained: evaluate every network, their ensemble and their soups."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from inarch.population.data import Splits
from inarch.population.errors import RunError
from inarch.population.evaluation.population import EvaluationData, evaluate_population
from inarch.population.evaluation.soups import Candidate
from inarch.population.persistence.checkpoint import CheckpointStore
from inarch.population.persistence.history import read_table
from inarch.population.persistence.storage import Storage
from inarch.population.tasks.image_classification import ImageClassification
from inarch.population.tasks.run_spec import RunSpec


def evaluate_run(
    spec: RunSpec, splits: Splits, ended: Mapping[int, str], reasons: Mapping[int, str], seconds: float
) -> dict[str, Any]:
    """Judge every network on the test images, or on the validation images where there are none.

    Each network is judged twice: with the weights that were best by validation and with its last; ensemble, soups and
    similarities too (the latter under `last`, without soups).

    Args:
        spec: The run.
        splits: Its data.
        ended: How each member ended, by id.
        reasons: Why networks were given up, by id.
        seconds: Of training.

    Raises:
        RunError: no network left a checkpoint.
    """
    storage = Storage(spec.folder, deadline_seconds=spec.config.timeouts.storage_seconds)
    checkpoints = CheckpointStore(storage, keep=spec.config.checkpoint.keep)
    checkpoints.flush_history()
    task = ImageClassification(spec.config, splits, factory=spec.factory, begins_trained=False)
    best, last, rows = [], [], []
    for network_id in checkpoints.networks():
        found, newest = checkpoints.best(network_id), checkpoints.newest(network_id)
        if found is None or newest is None:
            continue
        state, score, interval = found
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
                "validation_score": score,
                "grafts": newest.training["grafts"],
                "reason": reasons.get(network_id, ""),
            }
        )
    if not rows:
        raise RunError(f"no network of {spec.name} left a checkpoint; its logs are in {spec.folder}/logs")
    parts, part = _parts(task)
    lost = [_lost_row(network_id, how, reasons) for network_id, how in ended.items() if how in LOST]
    lost = [row for row in lost if row["network"] not in {kept["network"] for kept in rows}]
    every = sorted([*rows, *lost], key=lambda row: row["network"])
    result: dict[str, Any] = {"run": spec.name, "judged_on": part, "networks": every}
    if parts is not None:
        module = task.build(0)
        of_best = evaluate_population(module, _aligned(task, best), parts)
        of_last = evaluate_population(module, _aligned(task, last), parts, with_soups=False)
        for row, one, other in zip(rows, of_best.pop("each"), of_last.pop("each"), strict=True):
            row["best"], row["last"] = one, other
        result |= of_best | {"last": of_last}
    return result | {"seconds": seconds, "seconds_by_phase": _phases(storage)}


LOST = frozenset({"failed", "lost"})
"""How members ended that have a row in the result even if they left no checkpoint."""


def _lost_row(network_id: int, how: str, reasons: Mapping[int, str]) -> dict[str, Any]:
    """The row of a network that left no checkpoint: it has no scores, and no part in the mean."""
    empty = {"interval": 0, "best_interval": None, "validation_score": None, "grafts": 0, "best": None, "last": None}
    return {"network": network_id, "ended": how, **empty, "reason": reasons.get(network_id, "")}


def _aligned(task: ImageClassification, candidates: Sequence[Candidate]) -> list[Candidate]:
    states = task.align_states([one.state for one in candidates])
    return [dataclasses.replace(one, state=state) for one, state in zip(candidates, states, strict=True)]


def _parts(task: ImageClassification) -> tuple[EvaluationData | None, str | None]:
    """The images that judge, and which part of the data they are; None where there are neither test nor validation
    images."""
    validation, test = task.part("validation"), task.part("test")
    judged, name = (test, "test") if test is not None else (validation, "validation")
    if judged is None:
        return None, None
    return EvaluationData(
        judged=judged,
        validation=validation,
        statistics=task.batch_norm_images,
    ), name


def _phases(storage: Storage) -> dict[str, float]:
    """Seconds that all networks spent in each phase."""
    table = read_table(storage, "metrics")
    names = [name for name in table.schema.names if name.startswith("seconds_")]
    return {name.removeprefix("seconds_"): float(sum(table[name].to_pylist())) for name in names}
