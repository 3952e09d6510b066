"""The two Ray tasks of a run: one prepares it before training, the other evaluates its networks after training.

Ray retries both. They use no actors. The coordinator imports this file, so that only the tasks themselves import torch.
"""

from __future__ import annotations

import logging
import os
import time
from typing import Any

import ray

from inarch.actors.registrations import register_all
from inarch.population.errors import DataError, StorageError
from inarch.population.persistence.claim import check_holds
from inarch.population.persistence.history import fold_history
from inarch.population.persistence.json_files import to_json
from inarch.population.persistence.storage import Storage
from inarch.population.report.page import write_report
from inarch.population.tasks.run_folder import RESULT
from inarch.population.tasks.run_spec import RunInfo, RunSpec

logger = logging.getLogger("inarch")

EVALUATION_THREADS = 8
"""Most threads of the evaluation. One core is left to others: threads of torch wait for each other, so that on two busy
cores two threads take three times as long as one."""


READ_AGAIN_SECONDS = 5.0
"""Pause before data are read again that could not be read."""


@ray.remote(num_cpus=0, max_retries=3, num_returns=2)
def prepare_run(spec: RunSpec, patience_seconds: float = 0.0):
    """Call `prepare` on the cluster.

    The data become one object in Ray's object store. If the node that holds it dies, Ray runs the task again.

    Args:
        spec: The run.
        patience_seconds: As in `prepare_patiently`.

    Returns:
        Two references: one to the data, one to the facts about data and model.

    Raises:
        InarchError: As `prepare`.
    """
    return prepare_patiently(spec, patience_seconds)


def prepare_patiently(spec: RunSpec, patience_seconds: float) -> tuple[Any, RunInfo]:
    """Call `prepare`, and again if the data cannot be read.

    Args:
        spec: The run.
        patience_seconds: Seconds after which an error is raised. 0: at once, because the caller may have named wrong
            data. Above 0 for data that were read before, so that the cause is likely to pass.

    Raises:
        InarchError: As `prepare`.
    """
    from inarch.population.training.run_preparation import prepare

    register_all(spec.registrations)
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            return prepare(spec)
        except (DataError, StorageError) as error:
            if time.monotonic() > deadline - READ_AGAIN_SECONDS:
                raise
            logger.warning("run %s: its data cannot be read now, and are read again: %s", spec.name, error)
            time.sleep(READ_AGAIN_SECONDS)


_ON_RAY: dict[str, Any] = {"num_cpus": 0, "max_retries": 3, "retry_exceptions": [StorageError]}


@ray.remote(**_ON_RAY)
def evaluate_run_task(spec: RunSpec, data: Any, ended: dict[int, str], reasons: dict[int, str], seconds: float):
    """Call `evaluate_run` on the cluster, on the GPU that Ray gives to the task if there is one, and write result.json.

    If the GPU has too little memory, the CPU evaluates. Ray limits a task to one thread. The evaluation raises that
    limit, because training is over. Ray repeats the task if storage fails.

    Args:
        spec: The run.
        data: Data of the run, as from `Task.load_data`.
        ended: State in which each member ended, by id.
        reasons: Reasons why networks failed, by id.
        seconds: Duration of the training, in seconds.

    Returns:
        The result of the run, as JSON types.

    Raises:
        RunError: No network left a checkpoint.
        RunExistsError: Another start has claimed the folder.
        StorageError: Storage failed in every attempt.
    """
    import torch

    from inarch.population.tasks.run_evaluation import evaluate_run, where_it_fits

    register_all(spec.registrations)
    torch.set_num_threads(max(1, min(EVALUATION_THREADS, (os.cpu_count() or 1) - 1)))
    device = "cuda:0" if ray.get_gpu_ids() else "cpu"  # Ray shows the task no other GPU
    result = where_it_fits(lambda place: evaluate_run(spec, data, ended, reasons, seconds, device=place), device)
    result["finished"] = time.time()
    storage = Storage(spec.folder, deadline_seconds=spec.config.timeouts.storage_seconds)
    check_holds(storage, spec.token)
    storage.replace(RESULT, to_json(result))
    _complete_folder(storage)
    return result


def _complete_folder(storage: Storage) -> None:
    """Fold the history and write the report. The result matters more than both, so any error is only logged."""
    try:
        fold_history(storage)
        write_report(storage, state="finished")
    except Exception:
        logger.exception("the history could not be folded, or the report not written")
