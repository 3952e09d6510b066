"""Build the evaluation sets of a run: images of a split, and the evaluator of the task."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import torch
from torch import Tensor

from inarch.population.config import RunConfig
from inarch.population.data import Splits
from inarch.population.errors import ConfigError
from inarch.population.evaluation.classification import ClassificationEvaluator
from inarch.population.evaluation.protocol import EvaluationSet
from inarch.population.evaluation.retrieval import (
    QueryGallery,
    RetrievalEvaluator,
    all_vs_all,
    num_answerable,
    query_and_gallery,
)
from inarch.population.state.precision import autocast

LEAST_BATCH = 256
"""Minimum number of images in a batch of an evaluation."""


def evaluation_set(config: RunConfig, splits: Splits, name: str, *, device: torch.device | str) -> EvaluationSet | None:
    """Return the evaluation set of a split. In retrieval, queries precede their gallery.

    Args:
        config: Configuration of the run.
        splits: Data of the run.
        name: Split: validation or test.
        device: Device on which networks are evaluated.

    Returns:
        The evaluation set, or None if the split has no images.

    Raises:
        ConfigError: Cameras are known for the queries or for the gallery, but not for both.
    """
    images = splits.batches(name, device)
    if images is None:
        return None
    size = max(LEAST_BATCH, config.schedule.batch_size)
    precision = functools.partial(autocast, config.device.precision, torch.device(device), on_cpu=True)
    if config.task != "retrieval":
        evaluator = ClassificationEvaluator(precision)
        return EvaluationSet(batches=lambda: images.in_order(batch_size=size), evaluator=evaluator)
    query = splits.batches("query", device) if name == "test" else None
    return EvaluationSet(
        batches=lambda: itertools.chain(
            () if query is None else query.in_order(batch_size=size), images.in_order(batch_size=size)
        ),
        evaluator=RetrievalEvaluator(_roles(splits, name), precision),
    )


def check_queries(splits: Splits) -> None:
    """Raise ConfigError if a split for evaluation has images, but no query has a matching gallery image.

    Args:
        splits: Data of a run whose task is retrieval.

    Raises:
        ConfigError: No query has a match, or cameras are known for only one of query and gallery.
    """
    for name in ("validation", "test"):
        labels = splits.labels(name)
        query_labels = splits.labels("query") if name == "test" else labels[:0]
        all_labels = torch.from_numpy(np.concatenate([query_labels, labels]))
        if len(labels) and not num_answerable(all_labels, _roles(splits, name)):
            remedy = "a larger data.validation, or 0" if name == "validation" else "another data.test or data.query"
            raise ConfigError(
                f"retrieval: no {name} query has a matching gallery image (same class, another camera if cameras are "
                f"known); give {remedy}"
            )


def _roles(splits: Splits, name: str) -> QueryGallery:
    """Return the queries and the gallery of a split. Separate queries precede the gallery's images."""
    cameras, num_images = splits.cameras(name), len(splits.labels(name))
    num_queries = len(splits.labels("query")) if name == "test" else 0
    if not num_queries:
        return all_vs_all(num_images, _tensor(cameras))
    query_cameras = splits.cameras("query")
    if (query_cameras is None) != (cameras is None):
        raise ConfigError("data.query and data.test must both have cameras, or neither")
    all_cameras = None if query_cameras is None or cameras is None else np.concatenate([query_cameras, cameras])
    return query_and_gallery(num_queries, num_images, _tensor(all_cameras))


def _tensor(array: np.ndarray | None) -> Tensor | None:
    return None if array is None else torch.from_numpy(array.copy())
