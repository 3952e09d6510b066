"""Filter grafting as the authors' public code computes it, as an exchange rule of its own."""

from __future__ import annotations

from collections.abc import Sequence

from inarch.population.config import GraftConfig, StalenessConfig
from inarch.population.exchange.graft import contribution_of, filter_records
from inarch.population.exchange.protocol import Contribution, Rootstock, Scion
from inarch.population.grafting.reference import (
    PublishedInformation,
    blend_published,
    published_filter_graft,
    published_layer_alphas,
)
from inarch.population.membership.staleness import staleness_discount


class PublishedGraftRule:
    """Grafts with the quirks of the public code.

    Histogram cells are half-open, alpha is rounded to two decimals, counters are blended and truncated, and units are
    found by the word `conv`. At level filter, batch norm is blended once per channel. Use it for parity with published
    numbers. The rule `graft` is the one to train with.

    Source: the public code of Meng et al. 2020.
    """

    takes_scions = True

    def __init__(self, config: GraftConfig, staleness: StalenessConfig) -> None:
        """Create the rule.

        Args:
            config: Level, criterion, a, c and bins.
            staleness: How staleness lowers the scion's weight. The public code has none.
        """
        self._config, self._staleness = config, staleness

    @property
    def information_measure(self) -> PublishedInformation | None:
        """Information of layers by the published histogram. None at level filter."""
        return PublishedInformation(self._config) if self._config.level == "layer" else None

    def apply(self, rootstock: Rootstock, scions: Sequence[Scion]) -> tuple[Contribution, ...]:
        """Graft the only scion onto the rootstock."""
        (scion,) = scions
        state = scion.snapshot.state()
        discount = staleness_discount(scion.staleness.intervals, self._staleness)
        if self._config.level == "layer":
            records = published_layer_alphas(
                rootstock.units, rootstock.information, scion.snapshot.information, self._config, discount=discount
            )
            blend_published(rootstock.state, state, rootstock.units, records, batch_norm=self._config.batch_norm)
            has_changed = any(record.alpha < 1.0 for record in records)
            rootstock.recalibrate_batch_norm = has_changed and self._config.batch_norm == "reset"
        else:
            blend, mean_alphas = published_filter_graft(rootstock.state, state, discount=discount)
            for key, tensor in rootstock.state.items():
                if tensor.is_floating_point():
                    tensor.copy_(blend[key])
            records = filter_records(rootstock.units, mean_alphas, num_donors=1)
        return (contribution_of(scion, records),)
