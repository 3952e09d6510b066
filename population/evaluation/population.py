"""Evaluate a population: each network, the ensemble, the soups, and the similarity of the networks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from inarch.population.evaluation.deployment import Deployment, InferenceCost
from inarch.population.evaluation.metrics import Metric, Scores
from inarch.population.evaluation.protocol import EvaluationSet
from inarch.population.evaluation.recommendation import JudgedOutput, recommend
from inarch.population.evaluation.similarity import agreement, mean_cosine
from inarch.population.evaluation.soups import Candidate, by_score, copy_of, greedy_soup, soup, with_statistics
from inarch.population.state.precision import TrainingInput
from inarch.population.state.state_dict import State, load_tensors, named_tensors


@dataclass(frozen=True, kw_only=True)
class EvaluationData:
    """Data that the evaluation of a population needs."""

    evaluated: EvaluationSet
    """Test data, or validation data if there are no test data."""
    validation: EvaluationSet | None
    """Data that select the members of the greedy soup. None if no data are held out."""
    statistics: Callable[[], Iterable[TrainingInput]]
    """Returns batches of training inputs, augmented as in training, to measure the batch norm statistics of averaged
    weights. Each call starts from the first batch."""
    metric: Metric
    """Primary metric of the task."""
    cost: InferenceCost
    """What one network costs."""


TOGETHER_BYTES = 4 * 2**30
"""Most bytes of the networks that are evaluated in one pass over the data."""


@torch.no_grad()
def evaluate_population(
    module: nn.Module,
    candidates: Sequence[Candidate],
    data: EvaluationData,
    *,
    last: Sequence[Candidate] = (),
    others: Sequence[Candidate] = (),
) -> dict[str, Any]:
    """Return the scores of several networks, each alone and combined, and what to deploy, as JSON types.

    The networks are evaluated together, in one pass over each part of the data, or in several if their copies would
    have more than `TOGETHER_BYTES`. All their outputs are held at once.

    Args:
        module: Model with the networks' structure. Its weights are overwritten.
        candidates: Weights of the networks, at least one.
        data: Data for the evaluation.
        last: Other weights of the same networks, to evaluate without a greedy soup.
        others: Further weights, each of which is only scored alone.

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
        - last: The keys above, but the greedy soup, for the weights in `last`. Only if there are such weights.
        - others: Scores of each of `others`, in order.
        - validation: mean, ensemble, soup and greedy_soup on the validation data. None without such data.
        - deploy: What to deploy, as `Deployment.to_dict`. Only the validation data decide.
    """
    greedy, members = _greedy(module, candidates, data)
    averages = [soup([candidate.state for candidate in candidates]), *([greedy] if greedy is not None else [])]
    soups = [_measured(module, state, data) for state in averages]
    last_soups = [_measured(module, soup([candidate.state for candidate in last]), data)] if last else []
    results, outputs, targets = _evaluated(
        module, candidates, soups, members, data.evaluated, last=last, last_soups=last_soups, others=others
    )
    validation, judged_on = results, data.validation
    if judged_on is not None and judged_on is not data.evaluated:
        del outputs, targets  # of many classes they are large
        validation, outputs, targets = _evaluated(module, candidates, soups, members, judged_on)
    if judged_on is None:
        return results | {"validation": None, "deploy": Deployment(metric=data.metric).to_dict()}
    shown = ("mean", "ensemble", "soup", "greedy_soup")
    results["validation"] = {name: validation[name] for name in shown}
    tested = results if validation is not results else None
    options = _options(candidates, members, outputs, judged_on, tested)
    deployment = recommend(data.metric, judged_on.evaluator, options, targets, cost=data.cost)
    return results | {"deploy": deployment.to_dict()}


def _evaluated(
    module: nn.Module,
    candidates: Sequence[Candidate],
    soups: Sequence[State],
    members: Sequence[int],
    evaluated: EvaluationSet,
    *,
    last: Sequence[Candidate] = (),
    last_soups: Sequence[State] = (),
    others: Sequence[Candidate] = (),
) -> tuple[dict[str, Any], list[Tensor], Tensor]:
    """Return the scores on one part of the data, the outputs of candidates and soups, and the targets."""
    states = [
        *(candidate.state for candidate in candidates),
        *soups,
        *(candidate.state for candidate in last),
        *last_soups,
        *(candidate.state for candidate in others),
    ]
    pairs = outputs_of(module, states, evaluated)
    targets, outputs = pairs[0][1], [output for output, _ in pairs]
    num_own = len(candidates) + len(soups)
    soup_rows = [evaluated.evaluator.scores(output, targets).row() for output in outputs[len(candidates) : num_own]]
    names = {name for name, _ in module.named_parameters()}
    results = _combined(candidates, outputs[: len(candidates)], targets, evaluated, names)
    results["soup"] = soup_rows[0]
    results["greedy_soup"] = soup_rows[1] | {"members": list(members)} if len(soup_rows) > 1 else None
    if last:
        num_last = num_own + len(last)
        results["last"] = _combined(last, outputs[num_own:num_last], targets, evaluated, names)
        results["last"]["soup"] = evaluated.evaluator.scores(outputs[num_last], targets).row()
    first_other = len(states) - len(others)
    results["others"] = [evaluated.evaluator.scores(output, targets).row() for output in outputs[first_other:]]
    return results, outputs[:num_own], targets


def _options(
    candidates: Sequence[Candidate],
    members: Sequence[int],
    outputs: Sequence[Tensor],
    judged_on: EvaluationSet,
    tested: Mapping[str, Any] | None,
) -> list[JudgedOutput]:
    """Return what could be deployed: the best network, and what several networks make together.

    Args:
        candidates: Weights of the networks.
        members: Ids of the greedy soup's networks.
        outputs: Outputs of the networks and the soups on the validation data.
        judged_on: The validation data.
        tested: Scores on the test data. None if there are none.
    """
    ids = tuple(candidate.network_id for candidate in candidates)
    best = max(range(len(ids)), key=lambda place: by_score(candidates[place]))
    scores = tested or {}
    of_best = None if tested is None else tested["each"][best]
    options = [JudgedOutput(name="network", networks=(ids[best],), output=outputs[best], test=of_best)]
    if len(ids) == 1:
        return options
    options.append(JudgedOutput(name="soup", networks=ids, output=outputs[len(ids)], test=scores.get("soup")))
    if 1 < len(members) < len(ids):
        greedy = scores.get("greedy_soup")
        options.append(
            JudgedOutput(name="greedy_soup", networks=tuple(members), output=outputs[len(ids) + 1], test=greedy)
        )
    combined = judged_on.evaluator.ensemble(outputs[: len(ids)])
    if combined is not None:
        options.append(JudgedOutput(name="ensemble", networks=ids, output=combined, test=scores.get("ensemble")))
    return options


def _combined(
    candidates: Sequence[Candidate],
    outputs: Sequence[Tensor],
    targets: Tensor,
    evaluated: EvaluationSet,
    names: Collection[str],
) -> dict[str, Any]:
    """Return the scores of networks, their ensemble's, and their similarity."""
    evaluator = evaluated.evaluator
    each = [evaluator.scores(output, targets) for output in outputs]
    combined = evaluator.ensemble(outputs)
    predictions = [evaluator.predictions(output, targets) for output in outputs]
    return {
        "each": [scores.row() for scores in each],
        "mean": _mean(each),
        "best": max(candidates, key=by_score).network_id,
        "ensemble": None if combined is None else evaluator.scores(combined, targets).row(),
        "agreement": agreement([prediction for prediction in predictions if prediction is not None]),
        "cosine": mean_cosine([candidate.state for candidate in candidates], names),
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
