"""The weights of a network that the result of its run uses, for exports, teachers and trackers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from inarch.population.evaluation.metrics import Metric
from inarch.population.persistence.checkpoint import CheckpointStore


@dataclass(frozen=True, kw_only=True)
class ChosenWeights:
    """Weights of one network."""

    state: Mapping[str, Tensor]
    """State dict."""
    score: float | None
    """Validation score, as `Scores.score`. None if there is none."""


def staying(rows: Sequence[Mapping[str, Any]]) -> list[bool]:
    """Return which networks have a part in the mean, the ensemble and the soups: those that stayed until the end.

    If all have left, all have a part.

    Args:
        rows: Rows of the networks in result.json.
    """
    have_stayed = [row.get("ended") != "retired" for row in rows]
    return have_stayed if any(have_stayed) else [True] * len(rows)


def population_of(networks: Mapping[int, ChosenWeights], result: Mapping[str, Any] | None) -> dict[int, ChosenWeights]:
    """Return the networks without those that left before the end, unless all of them did.

    Args:
        networks: Networks by id.
        result: Content of result.json. None: the run has none yet, and all count.
    """
    rows = [] if result is None else [row for row in result["networks"] if row["network"] in networks]
    gone = {row["network"] for row, has_stayed in zip(rows, staying(rows), strict=True) if not has_stayed}
    return {network_id: weights for network_id, weights in networks.items() if network_id not in gone}


def chosen_weights(store: CheckpointStore, result: Mapping[str, Any] | None) -> dict[int, ChosenWeights]:
    """Return the weights of each network that the result of the run uses, by id.

    Networks without an intact checkpoint are left out.

    Args:
        store: Checkpoints of the run.
        result: Content of result.json. None: the run has none yet.

    Raises:
        StorageError: The storage fails.
    """
    found = ((network_id, chosen_of(store, network_id, result)) for network_id in store.networks())
    return {network_id: chosen for network_id, chosen in found if chosen is not None}


def chosen_of(store: CheckpointStore, network_id: int, result: Mapping[str, Any] | None) -> ChosenWeights | None:
    """Return the weights of a network that the result of the run uses. None without an intact checkpoint.

    Those are the last weights where `checkpoint.weights` chose them. For a network without a row in the result they are
    the best weights by validation so far.

    Args:
        store: Checkpoints of the run.
        network_id: Id of the network.
        result: Content of result.json. None: the run has none yet.

    Raises:
        StorageError: The storage fails.
    """
    rows = () if result is None else result["networks"]
    row = next((row for row in rows if row["network"] == network_id and row.get("weights") == "last"), None)
    if result is not None and row is not None:
        newest, value = store.newest(network_id), row["validation_score"]
        if newest is not None:  # in lockstep, the checkpoint's score is from before the last exchange
            score = None if value is None else Metric(**result["metrics"][0]).score(value)
            return ChosenWeights(state=newest.evaluated_state, score=score)
    best = store.best(network_id)
    return None if best is None else ChosenWeights(state=best[0], score=best[1])
