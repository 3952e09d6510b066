"""Evaluate a run after training: each network, the ensemble and the soups."""

from __future__ import annotations

import collections
import dataclasses
import logging
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import compress
from typing import Any, Literal, TypeVar

import torch
from torch import nn

from inarch.population.errors import RunError
from inarch.population.evaluation.deployment import Deployment, InferenceCost
from inarch.population.evaluation.population import EvaluationData, evaluate_population
from inarch.population.evaluation.protocol import EvaluationSet
from inarch.population.evaluation.soups import Candidate
from inarch.population.evaluation.weight_choice import Weights, choose_weights, scored_again
from inarch.population.persistence.checkpoint import CheckpointStore
from inarch.population.persistence.history import damaged_files, read_table
from inarch.population.persistence.paths import joined
from inarch.population.persistence.storage import Storage
from inarch.population.tasks.built_in import task_of
from inarch.population.tasks.chosen_weights import staying
from inarch.population.tasks.protocol import BoundTask
from inarch.population.tasks.run_folder import read_config, read_members
from inarch.population.tasks.run_spec import RunSpec

logger = logging.getLogger("inarch")

T = TypeVar("T")


def where_it_fits(evaluate: Callable[[torch.device | str], T], device: torch.device | str) -> T:
    """Return what an evaluation gives on a device, or on the CPU if the device has too little memory.

    Args:
        evaluate: Evaluates on the device that it is given.
        device: Device that is tried first.
    """
    try:
        return evaluate(device)
    except torch.OutOfMemoryError as error:
        logger.warning("%s ran out of memory, so the CPU evaluates: %s", device, error)
    return evaluate("cpu")  # after the handler, so that the error's frames hold no memory


def evaluate_run(
    spec: RunSpec,
    data: Any,
    ended: Mapping[int, str],
    reasons: Mapping[int, str],
    seconds: float | None,
    *,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """Evaluate every network on the test data, or on the validation data if there are no test data.

    In lockstep mode the networks exchange once more after their last evaluation, and networks that did not end their
    schedule may have trained or exchanged after theirs. The validation scores of their last weights are measured again.

    Each network is evaluated twice: with the weights that `checkpoint.weights` chooses, and with its last weights. So
    are the ensemble, the similarities and the uniform soup. The greedy soup is evaluated only with the chosen weights.
    Networks that left before the end have scores of their own, but no part in the mean, the ensemble and the soups.

    Args:
        spec: The run.
        data: Data of the run, as from `Task.load_data`.
        ended: State in which each member ended, by id.
        reasons: Reasons why networks failed, by id.
        seconds: Duration of the training, in seconds. None: not known.
        device: Device on which the networks run.

    Returns:
        The result of the run, as JSON types. `metrics` describes the task's metrics, the primary one first. `networks`
        has a row for each network. `best` has the scores of the chosen weights, `last` those of the last weights,
        `by_validation` those of the weights with the best validation score, and `weights` says which were chosen. The
        other keys of `evaluate_population` are at the top level for the chosen weights, and under `last` for the last
        weights. Without test and validation data,
        `evaluated_on` is None and there are no scores. A network without a readable checkpoint has a row without them.
        `train` has the training loss and metrics of the last epoch.
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
    is_older: list[bool] = []
    exchanges_at_end = spec.config.mode == "lockstep" and spec.config.exchange.rule != "none"
    fits = fit_at_end(storage)
    failures = storage_failures(read_members(storage) or {})
    for network_id in checkpoints.networks():
        best_weights, newest = checkpoints.best(network_id), checkpoints.newest(network_id)
        if best_weights is None or newest is None:
            continue  # `_rows_without_scores` has a row for it
        (state, score, interval), last_score = best_weights, newest.training.get("score")
        best.append(Candidate(network_id=network_id, state=state, validation_score=score))
        last.append(Candidate(network_id=network_id, state=newest.evaluated_state, validation_score=last_score))
        is_last = ended.get(network_id) == "done" and not newest.id.step
        is_older.append(not is_last or exchanges_at_end)  # the score is that of earlier weights
        rows.append(
            {
                "network": network_id,
                "ended": ended.get(network_id, "unknown"),
                "interval": newest.id.interval,
                "best_interval": interval,
                "validation_score": None if score is None else primary.score(score),
                "last_validation_score": None if last_score is None else primary.score(last_score),
                "train": fits.get(network_id),
                "grafts": newest.training["grafts"],
                "hyperparameters": newest.training.get("hyperparameters") or {},
                "reason": reasons.get(network_id, ""),
                "storage_failures": failures[network_id],
            }
        )
    if any(is_older):
        again = iter(scored_again(task.build(0), list(compress(last, is_older)), task.part("validation")))
        last = [next(again) if older else candidate for candidate, older in zip(last, is_older, strict=True)]
        for row, candidate in zip(rows, last, strict=True):
            score = candidate.validation_score
            row["last_validation_score"] = None if score is None else primary.score(score)
    if not rows:
        raise RunError(f"no network of {spec.name} left a checkpoint; its logs are in {joined(spec.folder, 'logs')}")
    info = read_config(storage)["info"] if storage.exists("config.json") else {}
    evaluation_data, split = _parts(task, info)
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
        "regime": info.get("regime"),
        "deploy": Deployment(metric=primary).to_dict(),
        "damaged_files": sorted({*damaged_files(storage), *checkpoints.passed_over}),
    }
    if evaluation_data is not None:
        module = task.build(0)
        weights = _choose(spec.config.checkpoint.weights, module, best, last, evaluation_data.validation)
        chosen = [last[place] if name == "last" else best[place] for place, name in enumerate(weights)]
        stayed = staying(rows)
        gone = [place for place, has_stayed in enumerate(stayed) if not has_stayed]
        others = [(place, "by_validation", best[place]) for place, name in enumerate(weights) if name == "last"]
        others += [(place, "best", chosen[place]) for place in gone] + [(place, "last", last[place]) for place in gone]
        scores = evaluate_population(
            module,
            _aligned(task, list(compress(chosen, stayed))),
            evaluation_data,
            last=_aligned(task, list(compress(last, stayed))),
            others=[candidate for _, _, candidate in others],
        )
        for (place, name, _), found in zip(others, scores.pop("others"), strict=True):
            rows[place][name] = found
        ends = zip(compress(rows, stayed), scores.pop("each"), scores["last"].pop("each"), strict=True)
        for row, chosen_scores, last_scores in ends:
            row.update(best=chosen_scores, last=last_scores)
        for row, name in zip(rows, weights, strict=True):
            row["weights"] = name
            row.setdefault("by_validation", row["best"])
            if name == "last":
                row.update(best_interval=row["interval"], validation_score=row["last_validation_score"])
        scores["last"]["validation_score"] = _mean(row["last_validation_score"] for row in compress(rows, stayed))
        result |= scores
    known = [row["train"] for row in compress(rows, staying(rows)) if row["train"]]
    shared = [name for name in (known[0] if known else ()) if all(name in fit for fit in known)]
    result["train"] = {name: statistics.fmean(fit[name] for fit in known) for name in shared}
    return result | {"seconds": seconds, "seconds_by_phase": _phases(storage)}


def _choose(
    policy: Literal["auto", "best", "last"],
    module: nn.Module,
    best: Sequence[Candidate],
    last: Sequence[Candidate],
    validation: EvaluationSet | None,
) -> list[Weights]:
    """Return which weights of each network are used by `checkpoint.weights`."""
    if policy != "auto":
        return [policy] * len(best)
    return choose_weights(module, best, last, validation)


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


ROUNDING = 1e-6
"""Epochs by which the end of an interval may miss the end of an epoch, because epochs are counted in floats."""


def fit_at_end(storage: Storage) -> dict[int, dict[str, float]]:
    """Return the training loss and the training metrics of each network in its last epoch, by name.

    They are means over the intervals of that epoch. An interval that is longer than an epoch counts as a whole.

    Args:
        storage: The run's folder.
    """
    table = read_table(storage, "metrics")
    columns = [name for name in table.schema.names if name.startswith("train_")]
    rows: dict[int, list[dict[str, Any]]] = collections.defaultdict(list)
    for row in table.select(["network", "interval", "epoch", "examples", *columns]).sort_by("interval").to_pylist():
        if any(row[name] is not None for name in columns):
            rows[row["network"]].append(row)
    return {network_id: _fit(found, columns) for network_id, found in rows.items()}


def _fit(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> dict[str, float]:
    """Return the means of the columns over a network's intervals that ended in its last epoch."""
    end = rows[-1]["epoch"]
    last = [row for row in rows if row is rows[-1] or (end and (row["epoch"] or 0.0) > end - 1.0 + ROUNDING)]
    fit = {}
    for name in columns:
        known = [(row[name], row["examples"] or 1) for row in last if row[name] is not None]
        if known:
            weight = sum(count for _, count in known)
            fit[name.removeprefix("train_")] = sum(value * count for value, count in known) / weight
    return fit


def _mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of the values that are known. None if there are none."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _parts(task: BoundTask, info: Mapping[str, Any]) -> tuple[EvaluationData | None, str | None]:
    """Return the data for the evaluation and the name of their split. None and None if there are no such data.

    Args:
        task: The run's task.
        info: Facts about data and model in config.json. Empty if it is not there.
    """
    validation, test = task.part("validation"), task.part("test")
    selected, split = (test, "test") if test is not None else (validation, "validation")
    if selected is None:
        return None, None
    return EvaluationData(
        evaluated=selected,
        validation=validation,
        statistics=task.batch_norm_inputs,
        metric=task.metrics[0],
        cost=_cost(task, info),
    ), split


def _cost(task: BoundTask, info: Mapping[str, Any]) -> InferenceCost:
    """Return what one network costs, in its compact form if it has one. Without facts, only parameters are counted."""
    if info.get("compact_parameters"):
        return InferenceCost(parameters=info["compact_parameters"], multiply_adds=info["compact_multiply_adds"])
    if "parameters" in info:
        return InferenceCost(parameters=info["parameters"], multiply_adds=info.get("multiply_adds"))
    return InferenceCost(parameters=sum(parameter.numel() for parameter in task.build(0).parameters()))


def _phases(storage: Storage) -> dict[str, float]:
    """Return the seconds that all networks together spent in each phase. A phase that a guest does not report is 0."""
    table = read_table(storage, "metrics")
    names = [name for name in table.schema.names if name.startswith("seconds_")]
    return {name.removeprefix("seconds_"): sum(filter(None, table[name].to_pylist())) for name in names}
