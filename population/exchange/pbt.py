"""Population based training (PBT): replace a network by a better one and perturb its hyperparameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from inarch.population.config import PbtConfig
from inarch.population.config.per_network import NumberRule
from inarch.population.evaluation.metrics import rank
from inarch.population.exchange.protocol import Contribution, Rootstock, Scion
from inarch.population.grafting.layer_level import WHOLE, LayerGraft


class PbtRule:
    """Copy the best scion if its validation score exceeds the rootstock's. Momentum is dropped, not copied.

    The scion's hyperparameters are copied too, and each is perturbed by a factor of its own. The hyperparameters are
    the learning rate and all numbers that the configuration gives as lists or distributions.

    Source: Jaderberg et al. 2017 (arXiv:1711.09846), with binary tournament selection.
    """

    takes_scions = True
    information_measure = None

    def __init__(self, config: PbtConfig, numbers: Mapping[str, NumberRule]) -> None:
        """Create the rule.

        Args:
            config: Factors for the copied hyperparameters.
            numbers: Rule of each hyperparameter, by field of the configuration.
        """
        self._config, self._numbers = config, numbers

    def apply(self, rootstock: Rootstock, scions: Sequence[Scion]) -> tuple[Contribution, ...]:
        """Copy the best scion, or leave the rootstock as it is."""
        # of equal scores the nearest donor, which comes first
        best = max(scions, key=lambda scion: rank(scion.snapshot.origin.score, 0))
        origin = best.snapshot.origin
        if rootstock.origin.score is None or origin.score is None or not origin.score > rootstock.origin.score:
            return ()
        state = best.snapshot.state()
        for key, own in rootstock.state.items():
            own.copy_(state[key])
        rootstock.reset_momentum = True
        rootstock.score = origin.score
        rootstock.hyperparameters = self._perturbed(rootstock, origin.hyperparameters)
        record = LayerGraft(
            layer=WHOLE, alpha=0.0, own_information=rootstock.origin.score, scion_information=origin.score
        )
        return (Contribution(scion=best, scion_weight=1.0, layers=(record,)),)

    def _perturbed(self, rootstock: Rootstock, values: Mapping[str, float]) -> dict[str, float]:
        """Return the donor's hyperparameters, each perturbed. Those that only one of the two has stay as they are."""
        result = dict(rootstock.hyperparameters)
        for name in result:
            rule = self._numbers[name]
            if name in values and rule.holds(values[name]):  # another process sent them
                result[name] = rule.perturbed(values[name], float(rootstock.random.choice(self._config.factors)))
        return result
