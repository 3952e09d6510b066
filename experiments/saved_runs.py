"""From a run's folder, without a cluster: its networks judged again, its best network exported."""

from __future__ import annotations

import json
from typing import Any

import torch

from inarch.actors import RunSpec, find_run
from inarch.actors.coordinator.run_metadata import read_config, read_members
from inarch.actors.driver.inputs import with_own_data
from inarch.population.config import RunConfig, from_dict
from inarch.population.errors import ConfigError, StructureError
from inarch.population.evaluation.similarity import agreement, mean_cosine
from inarch.population.models import ModelFactory
from inarch.population.persistence.checkpoint import CheckpointStore
from inarch.population.persistence.storage import Storage
from inarch.population.state.state_dict import load_tensors
from inarch.population.tasks.image_classification import ImageClassification, run_splits
from inarch.population.tasks.run_evaluation import evaluate_run


def judge_again(path: str, *, model: ModelFactory | None = None) -> dict[str, Any]:
    """A run's result table, computed anew from its checkpoints, with the networks' similarity over the intervals whose
    checkpoints are kept.

    Args:
        path: The run's folder.
        model: The callable that the run was begun with, where it was one.

    Raises:
        ConfigError: the run was begun with a callable and none is given.
        StructureError: the images are not those that the run was begun with.
    """
    storage, spec, recorded = open_run(path, model)
    splits = run_splits(spec.config)
    if splits.fingerprint != recorded["info"]["data_fingerprint"]:
        raise StructureError(f"{spec.config.data.train!r} has other images now than run {spec.name} was begun with")
    record = read_members(storage) or {"members": []}
    ended = {member["id"]: member["state"] for member in record["members"]}
    seconds = json.loads(storage.read("result.json"))["seconds"] if storage.exists("result.json") else float("nan")
    known = json.loads(storage.read("result.json"))["networks"] if storage.exists("result.json") else []
    reasons = {row["network"]: row.get("reason", "") for row in known}
    result = evaluate_run(spec, splits, ended, reasons, seconds)
    return result | {
        "similarity": similarity_over_time(
            storage, ImageClassification(spec.config, splits, factory=model, begins_trained=False)
        )
    }


@torch.no_grad()
def similarity_over_time(storage: Storage, task: ImageClassification, *, every: int = 1) -> list[dict[str, Any]]:
    """How alike the networks were: agreement on the validation images and cosine of the weights, after the exchange.

    Args:
        storage: The run's folder; `checkpoint.keep` decides how far back its checkpoints go.
        task: The run's, on the CPU.
        every: Of the intervals that all networks saved; the last is among them.

    Returns:
        A row an interval: interval, agreement, cosine; none for one network, or without validation images.
    """
    checkpoints = CheckpointStore(storage)
    saved = {
        network: {found.interval: found for found in checkpoints.list(network) if not found.step}
        for network in checkpoints.networks()
    }
    shared = sorted(set.intersection(*(set(found) for found in saved.values()))) if len(saved) > 1 else []
    validation = task.part("validation")
    if validation is None:
        return []
    module, rows = task.build(0), []
    for interval in shared[::-every][::-1]:
        states = task.align_states(
            [checkpoints.load(network, found[interval]).model for network, found in saved.items()]
        )
        predictions = []
        for state in states:
            load_tensors(module, state)
            said, labels = validation.measure.outputs(module, validation.batches())
            predictions.append(validation.measure.predictions(said, labels))
        rows.append({"interval": interval, "agreement": agreement(predictions), "cosine": mean_cosine(states)})
    return rows


def open_run(path: str, model: ModelFactory | None) -> tuple[Storage, RunSpec, dict[str, Any]]:
    """A run's folder, its specification and its config.json.

    Args:
        path: The run's folder.
        model: The callable that the run was begun with, where it was one.

    Raises:
        RunNotFoundError: no run lies there.
        ConfigError: the run was begun with a callable and none is given.
    """
    storage = find_run(path)
    recorded = read_config(storage)
    config = with_own_data(from_dict(RunConfig, recorded["config"]), storage)
    if recorded["model"] == "callable" and model is None:
        raise ConfigError(
            "this run was begun with a callable, which is needed again: model=... in Python, --model "
            "module:function on the command line"
        )
    return (
        storage,
        RunSpec(name=str(config.name), folder=storage.uri, config=config, factory=model),
        recorded,
    )
