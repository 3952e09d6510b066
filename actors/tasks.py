"""What a run does once, as retryable Ray tasks: read the data and check the network before training, judge the
networks after it. Nothing here knows of actors."""

from __future__ import annotations

import dataclasses
import json
import time
from typing import Any

import ray
import torch

from actors.spec import Facts, RunSpec
from population.checkpoint import CheckpointStore
from population.config import RunConfig
from population.data import MemorySplits, Splits, load_splits
from population.errors import RunError
from population.evaluation import Scores, evaluate, probabilities, score_probabilities, soup, with_statistics
from population.history import read_table
from population.layers import load_entries
from population.networks import NetworkFactory
from population.storage import Storage
from population.task import ImageClassification
from population.training import Trainer

JUDGING_BATCH = 512


def prepare(spec: RunSpec) -> tuple[Splits, Facts]:
    """Read the data, hold out validation images, build the network once and check that they fit.

    Raises:
        InarchError: the data or the network cannot be used; nothing was started.
    """
    splits = load_splits(spec.config.data, seed=spec.config.seed)
    return splits, facts_of(spec.config, splits, spec.factory)


def facts_of(config: RunConfig, splits: Splits, factory: NetworkFactory | None) -> Facts:
    """Build a network and tell what is known of the run; raises ConfigError where network and data do not fit."""
    task = ImageClassification(config, splits, factory=factory)
    trainer = Trainer(
        task, dataclasses.replace(config, device=dataclasses.replace(config.device, compile=False)), network=0
    )
    task.check(trainer.module)
    train = splits.batches("train", "cpu")
    return Facts(
        num_classes=splits.num_classes,
        image_shape=splits.image_shape,
        train_images=0 if train is None else len(train),
        data_bytes=splits.nbytes if isinstance(splits, MemorySplits) else 0,
        data_fingerprint=splits.fingerprint,
        structure=trainer.layout.fingerprint,
        snapshot_bytes=trainer.layout.nbytes,
        parameters=sum(parameter.numel() for parameter in trainer.module.parameters()),
        num_intervals=trainer.schedule.num_intervals,
        steps_per_epoch=trainer.schedule.steps_per_epoch,
    )


def judge(spec: RunSpec, splits: Splits, ended: dict[int, str], seconds: float) -> dict[str, Any]:
    """Judge every network on the test images, or on the validation images where there are none.

    Each network is judged twice: with the weights that were best by validation and with its last. Ensemble and soup
    are those of the best weights.

    Args:
        spec: The run.
        splits: Its data.
        ended: How each member ended, by id.
        seconds: Of training.

    Raises:
        RunError: no network left a checkpoint.
    """
    storage = Storage(spec.folder, deadline_seconds=spec.config.patience.storage_seconds)
    checkpoints = CheckpointStore(storage, keep=spec.config.checkpoint.keep)
    checkpoints.hand_in_all()
    task = ImageClassification(spec.config, splits, factory=spec.factory)
    part = "test" if splits.batches("test", "cpu") is not None else "validation"
    images = splits.batches(part, "cpu")
    module = task.build(0)
    networks, states, outputs, labels = [], [], [], torch.empty(0)
    for network in checkpoints.networks():
        best, newest = checkpoints.best(network), checkpoints.newest(network)
        if best is None or newest is None:
            continue
        row: dict[str, Any] = {
            "network": network,
            "ended": ended.get(network, "unknown"),
            "interval": newest.id.interval,
            "best_interval": best[2],
            "validation_accuracy": best[1],
            "grafts": newest.training["grafts"],
        }
        if images is not None:
            load_entries(module, newest.model)
            row["last"] = _plain(evaluate(module, images.in_order(batch_size=JUDGING_BATCH)))
            load_entries(module, best[0])
            predicted, labels = probabilities(module, images.in_order(batch_size=JUDGING_BATCH))
            row["best"] = _plain(score_probabilities(predicted, labels))
            outputs.append(predicted)
        networks.append(row)
        states.append(best[0])
    if not networks:
        raise RunError(f"no network of {spec.name} left a checkpoint; its logs are in {spec.folder}/logs")
    result: dict[str, Any] = {
        "run": spec.name,
        "judged_on": part if images is not None else None,
        "networks": networks,
    }
    if outputs and images is not None:
        load_entries(module, soup(states))
        averaged = with_statistics(module, _plain_training_batches(task))
        ensemble = score_probabilities(torch.stack(outputs).mean(0), labels)
        result |= {
            "mean": _mean([row["best"] for row in networks]),
            "mean_last": _mean([row["last"] for row in networks]),
            "best": max(networks, key=lambda row: (row["validation_accuracy"] or 0.0, -row["network"]))["network"],
            "ensemble": _plain(ensemble),
            "soup": _plain(evaluate(averaged, images.in_order(batch_size=JUDGING_BATCH))),
        }
    return result | {"seconds": seconds, "seconds_by_phase": _phases(storage), "finished": time.time()}


@ray.remote(num_cpus=0, max_retries=3, num_returns=2)
def prepare_task(spec: RunSpec):
    """`prepare` on the cluster: the splits become one object in the store, which Ray can make again if a node dies."""
    return prepare(spec)


@ray.remote(num_cpus=0, max_retries=3)
def judge_task(spec: RunSpec, splits: Splits, ended: dict[int, str], seconds: float):
    """`judge` on the cluster, and result.json written."""
    result = judge(spec, splits, ended, seconds)
    storage = Storage(spec.folder, deadline_seconds=spec.config.patience.storage_seconds)
    storage.write("result.json", json.dumps(result, indent=2).encode())
    return result


def _plain_training_batches(task: ImageClassification):
    """Training images for batch norm's statistics: in order, not augmented, at most 10,000."""
    train = task.splits.batches("train", task.device)
    for index, batch in enumerate(train.in_order(batch_size=256) if train is not None else ()):
        if index >= 40:
            return
        yield batch


def _plain(scores: Scores) -> dict[str, float | int]:
    return dataclasses.asdict(scores)


def _mean(scores: list[dict[str, float]]) -> dict[str, float]:
    return {name: sum(score[name] for score in scores) / len(scores) for name in ("loss", "accuracy")}


def _phases(storage: Storage) -> dict[str, float]:
    """Seconds that all networks spent in each phase."""
    table = read_table(storage, "metrics")
    names = [name for name in table.schema.names if name.startswith("seconds_")]
    return {name.removeprefix("seconds_"): float(sum(table[name].to_pylist())) for name in names}
