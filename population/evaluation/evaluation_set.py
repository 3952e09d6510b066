"""Which images judge, and by what measure: the parts of a run's data."""

from __future__ import annotations

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

LEAST_BATCH = 256
"""Images that are judged at a time, at least."""


def evaluation_set(config: RunConfig, splits: Splits, name: str, *, device: torch.device | str) -> EvaluationSet | None:
    """The images of a part and how they judge; in retrieval the queries come before their gallery.

    Args:
        config: The run's.
        splits: Its data.
        name: validation or test.
        device: Where the images are judged.

    Returns:
        None where the part has no images.

    Raises:
        ConfigError: of query and gallery only one tells its cameras.
    """
    found = splits.batches(name, device)
    if found is None:
        return None
    size = max(LEAST_BATCH, config.schedule.batch_size)
    if config.task == "classification":
        return EvaluationSet(batches=lambda: found.in_order(batch_size=size), measure=ClassificationEvaluator())
    query = splits.batches("query", device) if name == "test" else None
    return EvaluationSet(
        batches=lambda: itertools.chain(
            () if query is None else query.in_order(batch_size=size), found.in_order(batch_size=size)
        ),
        measure=RetrievalEvaluator(_roles(splits, name)),
    )


def check_queries(splits: Splits) -> None:
    """Raises ConfigError where a part that judges has no query with an image of its class to find."""
    for name in ("validation", "test"):
        labels = splits.labels(name)
        asking = splits.labels("query") if name == "test" else labels[:0]
        all_labels = torch.from_numpy(np.concatenate([asking, labels]))
        if len(labels) and not num_answerable(all_labels, _roles(splits, name)):
            more = "a larger data.validation, or 0" if name == "validation" else "other data.test or data.query"
            raise ConfigError(
                f"retrieval: none of the {name} images that ask has another of its class (by another camera, where "
                f"cameras are known) to find; give {more}"
            )


def _roles(splits: Splits, name: str) -> QueryGallery:
    """Who asks whom among the images of a part, queries before it where there are any."""
    cameras, num_images = splits.cameras(name), len(splits.labels(name))
    num_queries = len(splits.labels("query")) if name == "test" else 0
    if not num_queries:
        return all_vs_all(num_images, _tensor(cameras))
    asking = splits.cameras("query")
    if (asking is None) != (cameras is None):
        raise ConfigError("data.query and data.test must both tell their cameras, or neither")
    both = None if asking is None or cameras is None else np.concatenate([asking, cameras])
    return query_and_gallery(num_queries, num_images, _tensor(both))


def _tensor(array: np.ndarray | None) -> Tensor | None:
    return None if array is None else torch.from_numpy(array.copy())
