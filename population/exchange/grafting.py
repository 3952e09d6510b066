"""Filter grafting as an exchange rule: external scions of one or several donors, internal ones, noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor

from population.config import AgeConfig, GraftConfig
from population.criteria import OF_WEIGHTS, measure
from population.exchange.rule import Arrival, Rootstock, Taken
from population.grafting import LayerGraft, blend_several, blend_units, decide
from population.layers import GraftUnit
from population.scions import internal_scion, noise_scion


class Grafting:
    """Source: Meng et al. 2020 (arXiv:2001.05868)."""

    def __init__(self, config: GraftConfig, age: AgeConfig) -> None:
        self._config, self._age = config, age

    @property
    def takes_scions(self) -> bool:
        return self._config.scion == "external"

    def measure(
        self, state: Mapping[str, Tensor], units: Sequence[GraftUnit], random: np.random.Generator
    ) -> tuple[float, ...]:
        return measure(state, units, self._config, random=random)

    def vouched_for(self, units: Sequence[GraftUnit]) -> frozenset[str]:
        return frozenset(unit.name for unit in units) if self._config.criterion in OF_WEIGHTS else frozenset()

    def take_in(self, rootstock: Rootstock, arrivals: Sequence[Arrival]) -> tuple[Taken, ...]:
        if self._config.momentum == "reset":
            rootstock.forgets_momentum = True
        if self._config.scion == "internal":
            found = internal_scion(rootstock.state, rootstock.units, self._config)
            return (Taken(arrival=None, part=0.0, layers=found),)
        if self._config.scion == "noise":
            found = noise_scion(
                rootstock.state, rootstock.units, self._config, epoch=rootstock.epoch, random=rootstock.random
            )
            return (Taken(arrival=None, part=0.0, layers=found),)
        return self._external(rootstock, arrivals)

    def _external(self, rootstock: Rootstock, arrivals: Sequence[Arrival]) -> tuple[Taken, ...]:
        """Blend with each donor by its own alphas; of several, the mean of the blends or each layer's best."""
        records = [
            decide(
                rootstock.units,
                rootstock.information,
                arrival.snapshot.information,
                self._config,
                age=self._age,
                age_intervals=arrival.age.intervals,
            )
            for arrival in arrivals
        ]
        scions = [arrival.snapshot.state() for arrival in arrivals]
        if len(arrivals) == 1:
            blend_units(rootstock.state, scions[0], rootstock.units, records[0], self._config)
        else:
            shares = self._shares(records)
            blend_several(rootstock.state, scions, rootstock.units, shares, self._config)
            records = [
                tuple(replace(record, alpha=1.0 - share) for record, share in zip(one, of, strict=True))
                for one, of in zip(records, shares, strict=True)
            ]
        return tuple(
            Taken(arrival=arrival, part=sum(1.0 - record.alpha for record in of) / len(of), layers=of)
            for arrival, of in zip(arrivals, records, strict=True)
        )

    def _shares(self, records: Sequence[tuple[LayerGraft, ...]]) -> list[list[float]]:
        """Each donor's part of each unit; what is left is the rootstock's."""
        if self._config.several == "mean":
            return [[(1.0 - record.alpha) / len(records) for record in of] for of in records]
        best = [
            max(range(len(of)), key=lambda donor: of[donor].scion_information or 0.0)
            for of in zip(*records, strict=True)
        ]
        return [
            [1.0 - record.alpha if best[unit] == donor else 0.0 for unit, record in enumerate(of)]
            for donor, of in enumerate(records)
        ]
