"""Evaluate retrieval: rank gallery images by embedding, and compute mean average precision and CMC."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inarch.population.data import Batch
from inarch.population.errors import ConfigError, DataError
from inarch.population.evaluation.metrics import Metric, Scores
from inarch.population.state.precision import Precision, without_compilation

METRICS = (
    Metric(name="mean_average_precision", heading="mAP", form="{:.2%}"),
    Metric(name="accuracy", heading="rank-1", form="{:.2%}"),
    Metric(name="top5", heading="rank-5", form="{:.2%}"),
)
"""Metrics of retrieval, over the queries with a matching image, each in [0, 1].

- mean_average_precision: mean over the queries.
- accuracy: share of the queries whose nearest image is of their class (CMC rank-1).
- top5: share of the queries with an image of their class among the five nearest (CMC rank-5).
"""

QUERIES_AT_ONCE = 512
"""Rows of the similarity matrix that are in memory at a time."""


@dataclass(frozen=True, kw_only=True)
class QueryGallery:
    """Queries and gallery among the images of one split, in their order."""

    queries: Tensor
    """Whether an image is a query. Booleans, shape (images,)."""
    gallery: Tensor
    """Whether an image is in the gallery. Booleans, shape (images,). No query is matched with itself."""
    cameras: Tensor | None = None
    """Camera of each image, shape (images,). A gallery image with the class and the camera of the query does not count,
    because it would be too easy to find. None: every image counts."""


def all_vs_all(num_images: int, cameras: Tensor | None = None) -> QueryGallery:
    """Return roles in which each image is a query, and all other images are its gallery.

    Args:
        num_images: Images of the split.
        cameras: Camera of each image, shape (num_images,), if known.
    """
    every_image = torch.ones(num_images, dtype=torch.bool)
    return QueryGallery(queries=every_image, gallery=every_image, cameras=cameras)


def query_and_gallery(num_queries: int, num_gallery: int, cameras: Tensor | None = None) -> QueryGallery:
    """Return roles in which the first images are queries and the others are the gallery.

    Args:
        num_queries: Number of queries.
        num_gallery: Number of gallery images.
        cameras: Camera of each image, queries first, shape (num_queries + num_gallery,), if known.
    """
    is_query = torch.arange(num_queries + num_gallery) < num_queries
    return QueryGallery(queries=is_query, gallery=~is_query, cameras=cameras)


def num_answerable(labels: Tensor, roles: QueryGallery) -> int:
    """Return the number of queries that have a matching gallery image.

    Args:
        labels: Class of each image, shape (images,).
        roles: Queries and gallery.
    """
    gallery, queries = roles.gallery.nonzero()[:, 0], roles.queries.nonzero()[:, 0]
    count = 0
    for query_chunk in queries.split(QUERIES_AT_ONCE):
        is_match, is_ignored = _answers(query_chunk, gallery, labels, roles)
        count += int((is_match & ~is_ignored).any(1).sum())
    return count


class RetrievalEvaluator:
    """Ranks images by cosine similarity. An ensemble's similarity is the mean of its networks' similarities."""

    def __init__(self, roles: QueryGallery, precision: Precision = contextlib.nullcontext) -> None:
        """Create the evaluator.

        Args:
            roles: Queries and gallery among the images of the evaluation set.
            precision: Returns the context in which networks run.
        """
        self.roles, self._precision = roles, precision

    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> Scores:
        """Return the metrics that are needed while a network trains."""
        was_training = model.training
        scores = self.scores(*self.outputs(model, batches))
        model.train(was_training)
        return scores

    def outputs(self, model: nn.Module, batches: Iterable[Batch]) -> tuple[Tensor, Tensor]:
        """Return the network's outputs and the labels, on the CPU."""
        return embeddings(model, batches, precision=self._precision)

    def ensemble(self, outputs: Sequence[Tensor]) -> Tensor:
        """Concatenate the embeddings of the networks."""
        return torch.cat(list(outputs), dim=1)

    def scores(self, outputs: Tensor, targets: Tensor) -> Scores:
        """Return all metrics of outputs."""
        return retrieval_scores(outputs, targets, self.roles)

    def example_scores(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the average precision of each query that has a matching gallery image."""
        return torch.cat([_average_precision(hits[hits.any(1)]) for _, hits in _rankings(outputs, targets, self.roles)])

    def predictions(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the index of the nearest gallery image of each query."""
        return torch.cat([order[:, 0] for order, _ in _rankings(outputs, targets, self.roles)])


def classifier(model: nn.Module) -> nn.Linear:
    """Return the last linear layer of a network. Its input is the embedding of an image.

    Args:
        model: The network.

    Raises:
        ConfigError: The network has no linear layer.
    """
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise ConfigError(
            "task=retrieval: embeddings are the inputs of the last linear layer; this network has no linear layer"
        )
    return layers[-1]


@torch.no_grad()
def embeddings(
    model: nn.Module, batches: Iterable[Batch], *, precision: Precision = contextlib.nullcontext
) -> tuple[Tensor, Tensor]:
    """Return embeddings of length 1, shape (images, width), float32, and labels (images,), on the CPU.

    Args:
        model: The network. It is left in evaluation mode.
        batches: Images and labels, at least one batch.
        precision: Returns the context in which the network runs.

    Raises:
        ConfigError: The network has no linear layer, or the last one does not receive one row for each image.
    """
    uncompiled = without_compilation(model)  # torch.compile wraps the modules that the hook needs
    uncompiled.eval()
    layer_inputs: list[Tensor] = []
    hook = classifier(uncompiled).register_forward_pre_hook(lambda _, inputs: layer_inputs.append(inputs[0]))
    vectors, labels = [], []
    try:
        for images, targets in batches:
            layer_inputs.clear()
            with precision():
                uncompiled(images)
            if not layer_inputs or layer_inputs[-1].shape[:-1] != (len(images),):
                shape = tuple(layer_inputs[-1].shape) if layer_inputs else None
                raise ConfigError(
                    f"the last linear layer must receive one row for each of {len(images)} images, got {shape}"
                )
            vectors.append(F.normalize(layer_inputs[-1].float(), dim=1).cpu())
            labels.append(targets.cpu())
    finally:
        hook.remove()
    return torch.cat(vectors), torch.cat(labels)


def retrieval_scores(vectors: Tensor, labels: Tensor, roles: QueryGallery) -> Scores:
    """Return mean average precision, CMC rank-1 and CMC rank-5 over the queries that have a matching gallery image.

    Args:
        vectors: Embeddings, shape (images, width). Their inner products are the similarities.
        labels: Class of each image, shape (images,).
        roles: Queries and gallery.

    Raises:
        DataError: No query has a matching gallery image.

    Source: Zheng et al. 2015 (Scalable Person Re-identification: A Benchmark), section 5. Average precision is the
    mean of the precisions at the ranks of the matching images, without the trapezoids of the first evaluation code.
    """
    precisions, rank1_hits, rank5_hits = [], [], []
    for _, hits in _rankings(vectors, labels, roles):
        hits = hits[hits.any(1)]
        precisions.append(_average_precision(hits))
        rank1_hits.append(hits[:, 0])
        rank5_hits.append(hits[:, :5].any(1))
    precision = torch.cat(precisions).double()
    if not len(precision):
        raise DataError("no query has a matching gallery image; check the labels and cameras of queries and gallery")
    values = {
        "mean_average_precision": float(precision.mean()),
        "accuracy": float(torch.cat(rank1_hits).double().mean()),
        "top5": float(torch.cat(rank5_hits).double().mean()),
    }
    return Scores.of(METRICS, values, examples=len(precision))


def _average_precision(hits: Tensor) -> Tensor:
    """Return the average precision of queries. The marks of their rankings have shape (queries, gallery)."""
    precision = hits.cumsum(1) / torch.arange(1, hits.shape[1] + 1)
    return (precision * hits).sum(1) / hits.sum(1)


def _rankings(vectors: Tensor, labels: Tensor, roles: QueryGallery) -> Iterable[tuple[Tensor, Tensor]]:
    """Yield rankings for chunks of queries, as two tensors of shape (queries, gallery).

    The first holds the indices of the gallery's images by falling similarity. The second marks the matching images.
    Ignored images come last and are not marked.
    """
    gallery = roles.gallery.nonzero()[:, 0]
    for query_chunk in roles.queries.nonzero()[:, 0].split(QUERIES_AT_ONCE):
        similarity = vectors[query_chunk] @ vectors[gallery].T
        is_match, is_ignored = _answers(query_chunk, gallery, labels, roles)
        order = similarity.masked_fill(is_ignored, -torch.inf).argsort(dim=1, descending=True, stable=True)
        yield gallery[order], (is_match & ~is_ignored).gather(1, order)


def _answers(asking: Tensor, gallery: Tensor, labels: Tensor, roles: QueryGallery) -> tuple[Tensor, Tensor]:
    """Mark the gallery images of each query's class, and those to ignore. Both have shape (queries, gallery)."""
    is_match = labels[asking, None] == labels[gallery]
    is_ignored = asking[:, None] == gallery
    if roles.cameras is not None:
        is_ignored |= is_match & (roles.cameras[asking, None] == roles.cameras[gallery])
    return is_match, is_ignored
