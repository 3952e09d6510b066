"""Retrieval: images are found by their embeddings; mean average precision and CMC with query and gallery."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inarch.population.data import Batch
from inarch.population.errors import ConfigError, DataError
from inarch.population.evaluation.protocol import Scores

QUERIES_AT_ONCE = 512
"""Rows of the matrix of similarities that are in memory at a time."""


@dataclass(frozen=True, kw_only=True)
class QueryGallery:
    """Who asks whom, over the images of one part in order."""

    queries: Tensor
    """Shape (images,), booleans: those that ask."""
    gallery: Tensor
    """Shape (images,), booleans: those that answer; no image answers itself."""
    cameras: Tensor | None = None
    """Shape (images,): an image of the query's class by the query's own camera does not count, it would be too easy;
    None: every image counts."""


def all_vs_all(num_images: int, cameras: Tensor | None = None) -> QueryGallery:
    """Each image asks all others."""
    each = torch.ones(num_images, dtype=torch.bool)
    return QueryGallery(queries=each, gallery=each, cameras=cameras)


def query_and_gallery(num_queries: int, num_gallery: int, cameras: Tensor | None = None) -> QueryGallery:
    """The first images ask, the others answer."""
    asks = torch.arange(num_queries + num_gallery) < num_queries
    return QueryGallery(queries=asks, gallery=~asks, cameras=cameras)


def num_answerable(labels: Tensor, roles: QueryGallery) -> int:
    """How many queries have an image of their class to find."""
    gallery, queries = roles.gallery.nonzero()[:, 0], roles.queries.nonzero()[:, 0]
    count = 0
    for asking in queries.split(QUERIES_AT_ONCE):
        is_right, is_left_out = _answers(asking, gallery, labels, roles)
        count += int((is_right & ~is_left_out).any(1).sum())
    return count


class RetrievalEvaluator:
    """Images are ranked by cosine similarity; an ensemble's similarity is the mean of its networks'."""

    def __init__(self, roles: QueryGallery) -> None:
        self.roles = roles

    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> Scores:
        was_training = model.training
        found = self.scores(*self.outputs(model, batches))
        model.train(was_training)
        return found

    def outputs(self, model: nn.Module, batches: Iterable[Batch]) -> tuple[Tensor, Tensor]:
        return embeddings(model, batches)

    def ensemble(self, outputs: Sequence[Tensor]) -> Tensor:
        """Embeddings side by side."""
        return torch.cat(list(outputs), dim=1)

    def scores(self, outputs: Tensor, labels: Tensor) -> Scores:
        return retrieval_scores(outputs, labels, self.roles)

    def predictions(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The nearest image of each query."""
        return torch.cat([order[:, 0] for order, _ in _rankings(outputs, labels, self.roles)])


def classifier(model: nn.Module) -> nn.Linear:
    """The last linear layer: what goes into it is an image's embedding. Raises ConfigError where there is none."""
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise ConfigError("task retrieval takes what goes into the last linear layer, and this network has none")
    return layers[-1]


@torch.no_grad()
def embeddings(model: nn.Module, batches: Iterable[Batch]) -> tuple[Tensor, Tensor]:
    """Embeddings of length 1, shape (images, width), float32, and labels (images,), on the CPU; the network is left in
    evaluation mode.

    Raises:
        ConfigError: the network's last linear layer does not see one row an image.
    """
    plain = getattr(model, "_orig_mod", model)  # of torch.compile: a hook needs the modules themselves
    plain.eval()
    seen: list[Tensor] = []
    hook = classifier(plain).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    found, labels = [], []
    try:
        for images, targets in batches:
            seen.clear()
            plain(images)
            if not seen or seen[-1].shape[:-1] != (len(images),):
                shape = tuple(seen[-1].shape) if seen else None
                raise ConfigError(
                    f"the last linear layer must see one row for each of {len(images)} images, got {shape}"
                )
            found.append(F.normalize(seen[-1].float(), dim=1).cpu())
            labels.append(targets.cpu())
    finally:
        hook.remove()
    return torch.cat(found), torch.cat(labels)


def retrieval_scores(vectors: Tensor, labels: Tensor, roles: QueryGallery) -> Scores:
    """Mean average precision, and CMC rank-1 and rank-5, over the queries that have an image of their class to find.

    Args:
        vectors: Embeddings, shape (images, width); their inner products are the similarities.
        labels: Shape (images,).
        roles: Who asks whom.

    Raises:
        DataError: no query has an image of its class in the gallery.

    Source: Zheng et al. 2015 (Scalable Person Re-identification: A Benchmark), section 5; average precision as the mean
    of the precisions at the ranks of the right images (without the trapezoids of the first evaluation code).
    """
    precisions, firsts, fives = [], [], []
    for _, hits in _rankings(vectors, labels, roles):
        hits = hits[hits.any(1)]
        precision = hits.cumsum(1) / torch.arange(1, hits.shape[1] + 1)
        precisions.append((precision * hits).sum(1) / hits.sum(1))
        firsts.append(hits[:, 0])
        fives.append(hits[:, :5].any(1))
    precision = torch.cat(precisions).double()
    if not len(precision):
        raise DataError(
            "no query has an image of its class to find; labels or cameras of query and gallery do not match"
        )
    return Scores(
        loss=None,
        accuracy=float(torch.cat(firsts).double().mean()),
        images=len(precision),
        top5=float(torch.cat(fives).double().mean()),
        mean_average_precision=float(precision.mean()),
    )


def _rankings(vectors: Tensor, labels: Tensor, roles: QueryGallery) -> Iterable[tuple[Tensor, Tensor]]:
    """Of some queries at a time: the gallery's images by falling similarity, as indices, and which of them are of the
    query's class; both (queries, gallery). What does not count comes last and is of no class."""
    gallery = roles.gallery.nonzero()[:, 0]
    for asking in roles.queries.nonzero()[:, 0].split(QUERIES_AT_ONCE):
        similarity = vectors[asking] @ vectors[gallery].T
        is_right, is_left_out = _answers(asking, gallery, labels, roles)
        order = similarity.masked_fill(is_left_out, -torch.inf).argsort(dim=1, descending=True, stable=True)
        yield gallery[order], (is_right & ~is_left_out).gather(1, order)


def _answers(asking: Tensor, gallery: Tensor, labels: Tensor, roles: QueryGallery) -> tuple[Tensor, Tensor]:
    """Which of the gallery's images are of the query's class, and which do not count; both (queries, gallery)."""
    is_right = labels[asking, None] == labels[gallery]
    is_left_out = asking[:, None] == gallery
    if roles.cameras is not None:
        is_left_out |= is_right & (roles.cameras[asking, None] == roles.cameras[gallery])
    return is_right, is_left_out
