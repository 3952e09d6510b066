"""Evaluate a population: each network, the ensemble, the soups, and the similarity of the networks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from inarch.population.evaluation.metrics import Scores
from inarch.population.evaluation.protocol import EvaluationSet
from inarch.population.evaluation.similarity import agreement, mean_cosine
from inarch.population.evaluation.soups import Candidate, by_score, copy_of, greedy_soup, soup, with_statistics
from inarch.population.state.state_dict import State, load_tensors, named_tensors


@dataclass(frozen=True, kw_only=True)
class EvaluationData:
    """Data that the evaluation of a population needs."""

    evaluated: EvaluationSet
    """Test data, or validation data if there are no test data."""
    validation: EvaluationSet | None
    """Data that select the members of the greedy soup. None if no data are held out."""
    statistics: Callable[[], Iterable[Tensor]]
    """Returns batches of training inputs, augmented as in training, to measure the batch norm statistics of averaged
    weights. Each call starts from the first batch."""


TOGETHER_BYTES = 4 * 2**30
"""Most bytes of the networks that are evaluated in one pass over the data."""


@torch.no_grad()
def evaluate_population(
    module: nn.Module, candidates: Sequence[Candidate], data: EvaluationData, *, last: Sequence[Candidate] = ()
) -> dict[str, Any]:
    """Return the scores of several networks, each alone and combined, as JSON types.

    The networks are evaluated together, in one pass over the data, or in several if they do not fit in memory.

    Args:
        module: Model with the networks' structure. Its weights are overwritten.
        candidates: Weights of the networks, at least one.
        data: Data for the evaluation.
        last: Other weights of the same networks, to evaluate without soups.

    Returns:
        A dict with these keys:

        - each: Scores of each network, in order.
        - mean: Means of these scores.
        - best: Id of the network with the best validation score.
        - ensemble: Scores of the ensemble. None if the task has none.
        - agreement: Share of equal predictions, the mean over pairs. None for one network, or if
          the task has no predictions to compare.
        - cosine: Cosine similarity of the weights, the mean over pairs. None for one network.
        - soup: Scores of the uniform soup.
        - greedy_soup: Scores of the greedy soup, and its members. None without validation data.
        - last: The keys above, but the soups, for the weights in `last`. Only if there are such weights.
    """
    greedy, members = _greedy(module, candidates, data)
    soups = [soup([candidate.state for candidate in candidates]), *([greedy] if greedy is not None else [])]
    states = [candidate.state for candidate in (*candidates, *last)]
    states += [_measured(module, state, data) for state in soups]
    pairs = outputs_of(module, states, data.evaluated)
    targets, outputs = pairs[0][1], [output for output, _ in pairs]
    soup_rows = [data.evaluated.evaluator.scores(output, targets).row() for output in outputs[-len(soups) :]]
    results = _combined(candidates, outputs[: len(candidates)], targets, data)
    results["soup"] = soup_rows[0]
    results["greedy_soup"] = soup_rows[1] | {"members": list(members)} if greedy is not None else None
    if last:
        results["last"] = _combined(last, outputs[len(candidates) : -len(soups)], targets, data)
    return results


def _combined(
    candidates: Sequence[Candidate], outputs: Sequence[Tensor], targets: Tensor, data: EvaluationData
) -> dict[str, Any]:
    """Return the scores of networks, their ensemble's, and their similarity."""
    evaluator = data.evaluated.evaluator
    each = [evaluator.scores(output, targets) for output in outputs]
    combined = evaluator.ensemble(outputs)
    predictions = [evaluator.predictions(output, targets) for output in outputs]
    return {
        "each": [scores.row() for scores in each],
        "mean": _mean(each),
        "best": max(candidates, key=by_score).network_id,
        "ensemble": None if combined is None else evaluator.scores(combined, targets).row(),
        "agreement": agreement([prediction for prediction in predictions if prediction is not None]),
        "cosine": mean_cosine([candidate.state for candidate in candidates]),
    }


def outputs_of(
    module: nn.Module, states: Sequence[State], evaluated: EvaluationSet, *, together_bytes: int = TOGETHER_BYTES
) -> list[tuple[Tensor, Tensor]]:
    """Return the outputs of several networks, and the targets, as `Evaluator.outputs`. All networks see each batch.

    Args:
        module: Model with the networks' structure. It is not changed.
        states: State dict of each network.
        evaluated: Data of the evaluation.
        together_bytes: Most bytes of the networks in one pass. Each pass has at least one network.
    """
    size = sum(tensor.nbytes for tensor in named_tensors(module).values())
    together = max(1, together_bytes // max(1, size))
    outputs: list[tuple[Tensor, Tensor]] = []
    for start in range(0, len(states), together):
        networks = [_with_weights(module, state) for state in states[start : start + together]]
        parts: list[list[tuple[Tensor, Tensor]]] = [[] for _ in networks]
        for batch in evaluated.batches():
            for network, part in zip(networks, parts, strict=True):
                part.append(evaluated.evaluator.outputs(network, [batch]))
        targets = torch.cat([target for _, target in parts[0]])
        outputs += [(torch.cat([output for output, _ in part]), targets) for part in parts]
    return outputs


def _with_weights(module: nn.Module, state: State) -> nn.Module:
    network = copy_of(module)
    load_tensors(network, state)
    return network


def _measured(module: nn.Module, state: State, data: EvaluationData) -> State:
    """Return a state with batch norm statistics measured on training data."""
    load_tensors(module, state)
    return dict(named_tensors(with_statistics(module, data.statistics())))


def _greedy(
    module: nn.Module, candidates: Sequence[Candidate], data: EvaluationData
) -> tuple[State | None, tuple[int, ...]]:
    """Return the weights and the members of the greedy soup. None and no members without validation data."""
    validation = data.validation
    if validation is None:
        return None, ()

    def score(state: State) -> float:
        load_tensors(module, state)
        return validation.evaluator.evaluate(with_statistics(module, data.statistics()), validation.batches()).score

    return greedy_soup(candidates, score)


def _mean(scores: Sequence[Scores]) -> dict[str, float]:
    """Return the mean of each score that the task has."""
    names = [name for name, value in scores[0].items() if value is not None]
    return {name: sum(row[name] for row in scores) / len(scores) for name in names}
