"""What a run does once, as retryable Ray tasks: read the data and check the network before training, judge the
networks after it. Nothing here knows of actors."""

from __future__ import annotations

import json
import os
import time
from typing import Any

import ray
import torch

from inarch.population.data import Splits
from inarch.population.errors import StorageError
from inarch.population.persistence.claim import check_holds
from inarch.population.persistence.storage import Storage
from inarch.population.tasks.run_evaluation import evaluate_run
from inarch.population.tasks.run_spec import RunSpec
from inarch.population.training.run_preparation import prepare

JUDGING_THREADS = 8


@ray.remote(num_cpus=0, max_retries=3, num_returns=2)
def prepare_run(spec: RunSpec):
    """`prepare` on the cluster: the splits become one object in the store, which Ray can make again if a node dies."""
    return prepare(spec)


_ON_RAY: dict[str, Any] = {"num_cpus": 0, "max_retries": 3, "retry_exceptions": [StorageError]}


@ray.remote(**_ON_RAY)
def evaluate_run_task(spec: RunSpec, splits: Splits, ended: dict[int, str], reasons: dict[int, str], seconds: float):
    """`evaluate_run` on the cluster, and result.json written. Ray gives a task one thread; training is over by now."""
    torch.set_num_threads(min(JUDGING_THREADS, os.cpu_count() or 1))
    result = evaluate_run(spec, splits, ended, reasons, seconds) | {"finished": time.time()}
    storage = Storage(spec.folder, deadline_seconds=spec.config.timeouts.storage_seconds)
    check_holds(storage, spec.token)
    storage.write("result.json", json.dumps(result, indent=2).encode())
    return result
