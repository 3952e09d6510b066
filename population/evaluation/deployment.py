"""What to deploy after a run: a network, a soup or the ensemble, with what each costs and gives. No torch is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from inarch.population.evaluation.metrics import Metric, rank

NOISE = 2.0
"""Standard errors by which the ensemble must be better to be worth its cost."""

NO_VALIDATION = "there are no validation data, and the test data must not choose; hold some out with data.validation"
"""Reason why nothing is recommended."""


@dataclass(frozen=True, kw_only=True)
class InferenceCost:
    """What one network costs for one example."""

    parameters: int
    """Parameters, in the compact form if the network fuses its filters."""
    multiply_adds: int | None = None
    """Multiply-adds, as in `population.models.complexity.ModelComplexity`. None: not counted."""


@dataclass(frozen=True, kw_only=True)
class DeployOption:
    """One thing that a user could deploy."""

    name: str
    """network (the best by validation), soup, greedy_soup or ensemble."""
    networks: tuple[int, ...]
    """Ids of its networks."""
    validation: float
    """Primary metric on the validation data."""
    test: float | None = None
    """Primary metric on the test data. None if there are none."""
    gain: float = 0.0
    """Score on the validation data minus that of the recommended option. Positive: this option is better."""
    standard_error: float | None = None
    """Standard error of the gain, from the paired outcomes of each example. None if the task does not give them."""
    forward_passes: int = 1
    """Forward passes of a network for one example."""
    parameters: int = 0
    """Parameters of all its networks."""
    multiply_adds: int | None = None
    """Multiply-adds for one example. None: not counted."""

    @property
    def title(self) -> str:
        """Name in texts, with the ids of its networks."""
        if self.name == "network":
            return f"network {self.networks[0]}"
        return f"{self.name.replace('_', ' ')} of networks {', '.join(map(str, self.networks))}"

    def cost_text(self) -> str:
        """Return the cost in words."""
        passes = "1 forward pass" if self.forward_passes == 1 else f"{self.forward_passes} forward passes"
        computation = "" if self.multiply_adds is None else f", {self.multiply_adds:,} multiply-adds an example"
        return f"{passes}, {self.parameters:,} parameters{computation}"


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """The option that is recommended, and what the others would give."""

    metric: Metric
    """Primary metric of the task, by which the options are compared."""
    examples: int = 0
    """Number of validation examples."""
    recommended: str | None = None
    """Name of the recommended option. None: nothing is recommended."""
    reason: str = NO_VALIDATION
    """Why this option is recommended, or why none is."""
    options: tuple[DeployOption, ...] = ()
    """All options. Empty if nothing is recommended."""

    @property
    def choice(self) -> DeployOption | None:
        """The recommended option."""
        return next((option for option in self.options if option.name == self.recommended), None)

    def lines(self) -> list[str]:
        """Return what to deploy and what the alternatives would give, one line each."""
        choice = self.choice
        if choice is None:
            return [f"to deploy: nothing is recommended, because {self.reason}"]
        lines = [f"to deploy: {choice.title}: {self._values(choice)} ({choice.cost_text()})"]
        if self.reason:
            lines.append(f"  why: {self.reason}")
        return lines + [
            f"  instead, {option.title}: {self._values(option)} ({self._gain(option)}), {_ratio_text(option, choice)}"
            for option in self.options
            if option is not choice
        ]

    def _values(self, option: DeployOption) -> str:
        test = "" if option.test is None else f", {self.metric.text(option.test)} on test"
        return f"{self.metric.title} {self.metric.text(option.validation)} on validation{test}"

    def _gain(self, option: DeployOption) -> str:
        error = option.standard_error
        noise = "" if error is None else f", standard error {amount(self.metric, error)}"
        if option.gain == 0:
            return f"equal{noise}"
        return f"{amount(self.metric, abs(option.gain))} {'better' if option.gain > 0 else 'worse'}{noise}"

    def to_dict(self) -> dict[str, Any]:
        """Return the content of `deploy` in result.json, as JSON types. The metric is under `metrics` there."""
        options = [vars(option) | {"networks": list(option.networks)} for option in self.options]
        return {
            "recommended": self.recommended,
            "reason": self.reason,
            "examples": self.examples,
            "options": options,
        }


def _ratio_text(option: DeployOption, choice: DeployOption) -> str:
    """Return the cost of an option beside that of the choice, in words."""
    if option.forward_passes == choice.forward_passes:
        return "at the same cost"
    if option.forward_passes > choice.forward_passes:
        return f"at {option.forward_passes} times the cost"
    return f"at 1/{choice.forward_passes} of the cost"


def amount(metric: Metric, difference: float) -> str:
    """Return a difference of a metric's values as text, in points if the values are shown in percent.

    Args:
        metric: The metric.
        difference: The difference, at least 0.
    """
    return f"{100 * difference:.2f} points" if "%" in metric.form else metric.text(difference)


def deployment_of(result: Mapping[str, Any]) -> Deployment | None:
    """Return what the result of a run recommends. None in results of earlier versions.

    Args:
        result: Content of result.json.
    """
    content = result.get("deploy")
    if content is None:
        return None
    options = tuple(DeployOption(**option | {"networks": tuple(option["networks"])}) for option in content["options"])
    return Deployment(
        metric=Metric(**result["metrics"][0]),
        examples=content["examples"],
        recommended=content["recommended"],
        reason=content["reason"],
        options=options,
    )


def chosen(metric: Metric, options: Sequence[DeployOption], *, noise: float | None, examples: int) -> tuple[str, str]:
    """Return the name of the option to recommend, and the reason.

    Of the options that cost one forward pass, the best on the validation data is recommended, and of equal ones the
    first. The ensemble is recommended instead only if it is better by more than `NOISE` standard errors.

    Args:
        metric: Primary metric of the task.
        options: The options, at least one. At most one costs several forward passes.
        noise: Standard error of the difference between the ensemble and the best of the others. None: not known.
        examples: Number of validation examples.
    """
    best = best_single(metric, options)
    ensemble = next((option for option in options if option.forward_passes > 1), None)
    if ensemble is None:
        return best.name, ""
    gain = metric.score(ensemble.validation) - metric.score(best.validation)
    difference, cost = amount(metric, abs(gain)), f"costs {ensemble.forward_passes} forward passes"
    if not gain > 0:  # also if one of the two is NaN
        return best.name, f"the ensemble is not better and {cost}"
    if noise is None:
        return best.name, f"the ensemble is {difference} better and {cost}; the noise of this metric is not known"
    limit = f"{NOISE:g} standard errors ({amount(metric, NOISE * noise)}) of {examples:,} validation examples"
    if not gain > NOISE * noise:
        return best.name, f"the ensemble is {difference} better, which is within {limit}, and {cost}"
    return ensemble.name, f"the ensemble is {difference} better than {best.title}, which is more than {limit}"


def best_single(metric: Metric, options: Sequence[DeployOption]) -> DeployOption:
    """Return the best option that costs one forward pass. Of equal ones, the first.

    Args:
        metric: Primary metric of the task.
        options: The options, at least one of which costs one forward pass.
    """
    single = [option for option in options if option.forward_passes == 1]
    return max(single, key=lambda option: rank(metric.score(option.validation), 0))
