"""Evaluate the networks of a finished or stopped run from its folder, without a cluster."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

from inarch.population.errors import CheckpointError, ConfigError, StructureError
from inarch.population.evaluation.similarity import agreement, mean_cosine
from inarch.population.models import ModelFactory
from inarch.population.persistence.checkpoint import CheckpointStore
from inarch.population.persistence.storage import Storage
from inarch.population.state.state_dict import load_tensors
from inarch.population.tasks.built_in import task_of
from inarch.population.tasks.named_code import EVALUATION_FIELDS, check_config_trusted, named_code
from inarch.population.tasks.protocol import BoundTask, Task
from inarch.population.tasks.run_evaluation import evaluate_run
from inarch.population.tasks.run_folder import (
    failure_reasons,
    find_run,
    read_config,
    read_members,
    read_result,
    recorded_config,
    with_own_data,
)
from inarch.population.tasks.run_spec import RunSpec

logger = logging.getLogger(__name__)


def evaluate_again(
    path: str, *, model: ModelFactory | None = None, task: Task | None = None, trust: bool = False
) -> dict[str, Any]:
    """Evaluate a run's networks again, from their checkpoints.

    Args:
        path: Folder of the run.
        model: The model factory that the run was started with, if it was a callable.
        task: The task that the run was started with, if it was the caller's own.
        trust: Whether code that the folder names may be imported from the working directory.

    Returns:
        The contents of result.json, evaluated anew. Under the key `similarity` are also the rows of
        `similarity_over_time`, one for each interval whose checkpoints were kept.

    Raises:
        ConfigError: The run was started with a callable and `model` is None, or with a task of the caller and `task`
            is None.
        StructureError: The data are not those that the run was started with.
        UntrustedError: As `open_run`.
    """
    storage, spec, recorded = open_run(path, model, task, trust=trust)
    run_task = task_of(spec)
    data = run_task.load_data(spec.config)
    bound = run_task.bind(spec.config, data, model=model, begins_trained=False)
    if bound.describe().data_fingerprint != recorded["info"]["data_fingerprint"]:
        raise StructureError(f"run {spec.name} was started with other data than those that its task loads now")
    record = read_members(storage) or {"members": []}
    end_states = {member["id"]: member["state"] for member in record["members"]}
    earlier = read_result(storage) or {}
    reasons = failure_reasons(record) | {
        row["network"]: row["reason"] for row in earlier.get("networks", ()) if row.get("reason")
    }
    result = evaluate_run(spec, data, end_states, reasons, earlier.get("seconds"))
    return result | {"similarity": similarity_over_time(storage, bound)}


@torch.no_grad()
def similarity_over_time(storage: Storage, task: BoundTask, *, every: int = 1) -> list[dict[str, Any]]:
    """Return how similar the networks of a run were after the exchange of each interval.

    Args:
        storage: Folder of the run. `checkpoint.keep` decides how many intervals have checkpoints.
        task: Task of the run, on the CPU.
        every: Take every n-th of the intervals that all networks saved, counted back from the last.

    Returns:
        One row per interval: interval, agreement (share of validation data with equal predictions) and cosine (of
        the weights). Networks without a checkpoint and intervals with a damaged one are left out. Empty for a single
        network, without validation data, or if the task has no predictions to compare.
    """
    checkpoints = CheckpointStore(storage)
    every_network = {
        network_id: {
            checkpoint.interval: checkpoint for checkpoint in checkpoints.list(network_id) if not checkpoint.step
        }
        for network_id in checkpoints.networks()
    }
    saved = {network_id: intervals for network_id, intervals in every_network.items() if intervals}
    shared = sorted(set.intersection(*(set(intervals) for intervals in saved.values()))) if len(saved) > 1 else []
    validation = task.part("validation")
    if validation is None:
        return []
    module, rows = task.build(0), []
    names = {name for name, _ in module.named_parameters()}
    for interval in shared[::-every][::-1]:
        try:
            models = [checkpoints.load(network_id, own[interval]).model for network_id, own in saved.items()]
        except CheckpointError as error:
            logger.warning("interval %d is left out of the similarities: %s", interval, error)
            continue
        states = task.align_states(models)
        predictions: list[Tensor | None] = []
        for state in states:
            load_tensors(module, state)
            outputs, targets = validation.evaluator.outputs(module, validation.batches())
            predictions.append(validation.evaluator.predictions(outputs, targets))
        known = [prediction for prediction in predictions if prediction is not None]
        if len(known) == len(states):
            rows.append({"interval": interval, "agreement": agreement(known), "cosine": mean_cosine(states, names)})
    return rows


def open_run(
    path: str,
    model: ModelFactory | None,
    task: Task | None = None,
    *,
    trust: bool = False,
) -> tuple[Storage, RunSpec, dict[str, Any]]:
    """Return the storage of a run, its specification and the contents of its config.json.

    Args:
        path: Folder of the run.
        model: The model factory that the run was started with, if it was a callable.
        task: The task that the run was started with, if it was the caller's own.
        trust: Whether code that the folder names may be imported from the working directory.

    Raises:
        RunNotFoundError: There is no run at `path`.
        ConfigError: The run was started with a callable and `model` is None, or with a task of the caller and `task`
            is None.
        UntrustedError: The folder names code of the working directory that the user has never named, and `trust` is
            false.
    """
    storage = find_run(path)
    recorded = read_config(storage)
    config = with_own_data(recorded_config(storage, recorded), storage)
    if recorded["model"] == "callable" and model is None:
        raise ConfigError(
            "this run was started with a callable that builds its model; give it again: model=... in Python, --model "
            "module:function on the command line"
        )
    if config.task == "callable" and task is None:
        raise ConfigError(
            "this run was started with a task of the caller; give it again: task=... in Python, --task module:object "
            "on the command line"
        )
    spec = RunSpec(name=str(config.name), folder=storage.uri, config=config, factory=model, task=task)
    check_config_trusted(named_code(config, EVALUATION_FIELDS, given=spec.given), storage, trust=trust)
    return storage, spec, recorded
