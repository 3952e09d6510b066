"""Filter grafting as an exchange rule: external scions of one or several donors, internal ones, noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from inarch.population.config import GraftConfig, StalenessConfig
from inarch.population.exchange.delay_compensation import compensate_delay
from inarch.population.exchange.protocol import Contribution, Rootstock, Scion
from inarch.population.grafting.channels import Channels, moved
from inarch.population.grafting.criteria import LayerInformation
from inarch.population.grafting.filter_level import blend_filters, filter_alphas
from inarch.population.grafting.layer_level import LayerGraft, blend_layers, blend_several, layer_alphas
from inarch.population.grafting.local_scions import internal_scion, noise_scion
from inarch.population.grafting.reference import published_filter_graft
from inarch.population.grafting.units import GraftUnit
from inarch.population.grafting.weight_matching import match_channels
from inarch.population.membership.staleness import staleness_discount


class GraftRule:
    """Source: Meng et al. 2020 (arXiv:2001.05868)."""

    def __init__(self, config: GraftConfig, age: StalenessConfig, channels: Channels | None = None) -> None:
        """Args: how; what age does; the network's channels, for level filter and for alignment."""
        self._config, self._age, self._channels = config, age, channels

    @property
    def takes_scions(self) -> bool:
        return self._config.scion == "external"

    @property
    def information_measure(self) -> LayerInformation | None:
        """Layers' information. That of filters would be a number for each channel, and is measured where it is used."""
        return LayerInformation(self._config) if self.takes_scions and self._config.level == "layer" else None

    def apply(self, rootstock: Rootstock, arrivals: Sequence[Scion]) -> tuple[Contribution, ...]:
        taken = self._apply(rootstock, arrivals)
        has_changed = any(record.alpha < 1.0 for one in taken for record in one.layers)
        rootstock.reset_momentum = has_changed and self._config.momentum == "reset"
        rootstock.recalibrate_batch_norm = has_changed and self._config.batch_norm == "reset" and self.takes_scions
        return taken

    def _apply(self, rootstock: Rootstock, arrivals: Sequence[Scion]) -> tuple[Contribution, ...]:
        if self._config.scion == "internal":
            found = internal_scion(rootstock.state, rootstock.units, self._config)
            return (Contribution(arrival=None, scion_weight=0.0, layers=found),)
        if self._config.scion == "noise":
            found = noise_scion(
                rootstock.state, rootstock.units, self._config, epoch=rootstock.epoch, random=rootstock.random
            )
            return (Contribution(arrival=None, scion_weight=0.0, layers=found),)
        scions = [self._aligned(rootstock, arrival.snapshot.state()) for arrival in arrivals]
        if self._config.level == "filter":
            return self._filters(rootstock, arrivals, scions)
        return self._external(rootstock, arrivals, scions)

    def _aligned(self, rootstock: Rootstock, scion: dict[str, Tensor]) -> dict[str, Tensor]:
        if self._config.channel_matching == "none" or self._channels is None:
            return scion
        return moved(scion, self._channels, match_channels(rootstock.state, scion, self._channels))

    @staticmethod
    def _forward(rootstock: Rootstock, arrival: Scion, scion: dict[str, Tensor]) -> dict[str, Tensor]:
        return scion if arrival.past is None else compensate_delay(scion, rootstock.state, arrival.past)

    def _filters(
        self, rootstock: Rootstock, arrivals: Sequence[Scion], scions: Sequence[dict[str, Tensor]]
    ) -> tuple[Contribution, ...]:
        """Filter by filter; of several donors the mean of the blends."""
        own = {key: tensor.clone() for key, tensor in rootstock.state.items()}
        blends, found = [], []
        for arrival, came in zip(arrivals, scions, strict=True):
            scion = self._forward(rootstock, arrival, came)
            left = staleness_discount(arrival.age.intervals, self._age)
            if self._config.reference:
                blend, kept = _as_published(own, scion, left=left)
            else:
                assert self._channels is not None
                alphas = filter_alphas(own, scion, self._channels, self._config, random=rootstock.random)
                blend = {key: tensor.clone() for key, tensor in own.items()}
                kept = blend_filters(blend, scion, self._channels, alphas, self._config, left=left)
            blends.append(blend)
            found.append(_taken(arrival, self._records(rootstock.units, kept, donors=len(arrivals))))
        for key, tensor in rootstock.state.items():
            if tensor.is_floating_point():
                tensor.copy_(
                    torch.stack([blend[key] for blend in blends]).mean(0) if len(blends) > 1 else blends[0][key]
                )
        return tuple(found)

    @staticmethod
    def _records(units: Sequence[GraftUnit], kept: Mapping[str, float], *, donors: int) -> tuple[LayerGraft, ...]:
        """The mean over each unit's weights; a unit whose channels are of no class keeps all of its own."""
        return tuple(
            LayerGraft(layer=unit.name, alpha=1.0 - (1.0 - kept.get(unit.name, 1.0)) / donors) for unit in units
        )

    def _external(
        self, rootstock: Rootstock, arrivals: Sequence[Scion], scions: Sequence[dict[str, Tensor]]
    ) -> tuple[Contribution, ...]:
        """Blend with each donor by its own alphas; of several, the mean of the blends or each layer's best."""
        records = [
            layer_alphas(
                rootstock.units,
                rootstock.information,
                arrival.snapshot.information,
                self._config,
                age=self._age,
                age_intervals=arrival.age.intervals,
            )
            for arrival in arrivals
        ]
        if len(arrivals) == 1:
            past = arrivals[0].past.state if arrivals[0].past is not None else None
            blend_layers(rootstock.state, scions[0], rootstock.units, records[0], self._config, past=past)
        else:
            scions = [self._forward(rootstock, arrival, scion) for arrival, scion in zip(arrivals, scions, strict=True)]
            shares = self._shares(records)
            blend_several(rootstock.state, scions, rootstock.units, shares, self._config)
            records = [
                tuple(replace(record, alpha=1.0 - share) for record, share in zip(one, of, strict=True))
                for one, of in zip(records, shares, strict=True)
            ]
        return tuple(_taken(arrival, of) for arrival, of in zip(arrivals, records, strict=True))

    def _shares(self, records: Sequence[tuple[LayerGraft, ...]]) -> list[list[float]]:
        """Each donor's part of each unit; what is left is the rootstock's."""
        if self._config.multi_donor == "mean":
            return [[(1.0 - record.alpha) / len(records) for record in of] for of in records]
        best = [
            max(range(len(of)), key=lambda donor: of[donor].scion_information or 0.0)
            for of in zip(*records, strict=True)
        ]
        return [
            [1.0 - record.alpha if best[unit] == donor else 0.0 for unit, record in enumerate(of)]
            for donor, of in enumerate(records)
        ]


def _as_published(
    own: Mapping[str, Tensor], scion: Mapping[str, Tensor], *, left: float
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The public code's blend and what each weight kept, of which age leaves a part."""
    blend, kept = published_filter_graft(own, scion)
    if left < 1.0:
        blend = {key: own[key].lerp(new, left) if new.is_floating_point() else new for key, new in blend.items()}
    return blend, {key: 1.0 - (1.0 - part) * left for key, part in kept.items()}


def _taken(arrival: Scion, layers: tuple[LayerGraft, ...]) -> Contribution:
    """The part that was taken of a donor, a mean over layers."""
    return Contribution(
        arrival=arrival, scion_weight=sum(1.0 - record.alpha for record in layers) / len(layers), layers=layers
    )
