"""Filter grafting as an exchange rule: scions from one or several donors, from the network itself, or from noise."""

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
from inarch.population.grafting.units import GraftUnit
from inarch.population.grafting.weight_matching import match_channels
from inarch.population.membership.staleness import staleness_discount


class GraftRule:
    """Blend each layer or filter of the rootstock with the scion's, by their information.

    Source: Meng et al. 2020 (arXiv:2001.05868).
    """

    def __init__(self, config: GraftConfig, staleness: StalenessConfig, channels: Channels | None = None) -> None:
        """Create the rule.

        Args:
            config: Criterion, level and what happens to momentum and batch norm.
            staleness: How staleness lowers the scion's weight.
            channels: Channels of the network, needed at level filter and for channel matching.
        """
        self._config, self._staleness, self._channels = config, staleness, channels

    @property
    def takes_scions(self) -> bool:
        """Whether scions come from other networks."""
        return self._config.scion == "external"

    @property
    def information_measure(self) -> LayerInformation | None:
        """Information of layers. That of filters is one number per channel, so it is measured where it is used."""
        return LayerInformation(self._config) if self.takes_scions and self._config.level == "layer" else None

    def moves_past(self, num_scions: int) -> bool:
        """Return whether `apply` changes the past states, as `MovesPast`: for a single donor at level layer."""
        return self.takes_scions and self._config.level == "layer" and num_scions == 1

    def apply(self, rootstock: Rootstock, scions: Sequence[Scion]) -> tuple[Contribution, ...]:
        """Graft the scions onto the rootstock."""
        contributions = self._graft(rootstock, scions)
        has_changed = any(record.alpha < 1.0 for item in contributions for record in item.layers)
        rootstock.reset_momentum = has_changed and self._config.momentum == "reset"
        rootstock.recalibrate_batch_norm = has_changed and self._config.batch_norm == "reset" and self.takes_scions
        return contributions

    def _graft(self, rootstock: Rootstock, scions: Sequence[Scion]) -> tuple[Contribution, ...]:
        if self._config.scion == "internal":
            records = internal_scion(rootstock.state, rootstock.units, self._config)
            return (Contribution(scion=None, scion_weight=0.0, layers=records),)
        if self._config.scion == "noise":
            records = noise_scion(
                rootstock.state, rootstock.units, self._config, epoch=rootstock.epoch, random=rootstock.random
            )
            return (Contribution(scion=None, scion_weight=0.0, layers=records),)
        states = [self._matched(rootstock, scion.snapshot.state()) for scion in scions]
        if self._config.level == "filter":
            return self._graft_filters(rootstock, scions, states)
        return self._graft_layers(rootstock, scions, states)

    def _matched(self, rootstock: Rootstock, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the scion's weights in the rootstock's order of channels, if the configuration asks for it."""
        if self._config.channel_matching == "none" or self._channels is None:
            return state
        return moved(state, self._channels, match_channels(rootstock.state, state, self._channels))

    def _graft_filters(
        self, rootstock: Rootstock, scions: Sequence[Scion], states: Sequence[dict[str, Tensor]]
    ) -> tuple[Contribution, ...]:
        """Graft filter by filter. With several donors, take the mean of the blends."""
        assert self._channels is not None
        own = {key: tensor.clone() for key, tensor in rootstock.state.items()}
        blends, contributions = [], []
        for scion, matched in zip(scions, states, strict=True):
            state = _compensated(rootstock, scion, matched)
            discount = staleness_discount(scion.staleness.intervals, self._staleness)
            alphas = filter_alphas(own, state, self._channels, self._config, random=rootstock.random)
            blend = {key: tensor.clone() for key, tensor in own.items()}
            mean_alphas = blend_filters(blend, state, self._channels, alphas, self._config, discount=discount)
            blends.append(blend)
            contributions.append(contribution_of(scion, filter_records(rootstock.units, mean_alphas, len(scions))))
        for key, tensor in rootstock.state.items():
            if tensor.is_floating_point():
                tensor.copy_(
                    torch.stack([blend[key] for blend in blends]).mean(0) if len(blends) > 1 else blends[0][key]
                )
        return tuple(contributions)

    def _graft_layers(
        self, rootstock: Rootstock, scions: Sequence[Scion], states: Sequence[dict[str, Tensor]]
    ) -> tuple[Contribution, ...]:
        """Graft layer by layer. With several donors, take the mean of the blends or each layer's best donor."""
        records = [
            layer_alphas(
                rootstock.units,
                rootstock.information,
                scion.snapshot.information,
                self._config,
                staleness=self._staleness,
                staleness_intervals=scion.staleness.intervals,
            )
            for scion in scions
        ]
        if len(scions) == 1:
            past = scions[0].past.state if scions[0].past is not None else None
            blend_layers(
                rootstock.state,
                states[0],
                rootstock.units,
                records[0],
                self._config,
                past=past,
                followers=rootstock.followers,
                fixed=rootstock.fixed,
            )
        else:
            compensated = [_compensated(rootstock, scion, state) for scion, state in zip(scions, states, strict=True)]
            scion_weights = self._scion_weights(records)
            blend_several(rootstock.state, compensated, rootstock.units, scion_weights, self._config)
            records = [
                tuple(replace(record, alpha=1.0 - weight) for record, weight in zip(donor, weights, strict=True))
                for donor, weights in zip(records, scion_weights, strict=True)
            ]
        return tuple(contribution_of(scion, donor) for scion, donor in zip(scions, records, strict=True))

    def _scion_weights(self, records: Sequence[tuple[LayerGraft, ...]]) -> list[list[float]]:
        """Return each donor's weight in each unit. The rootstock keeps the rest."""
        if self._config.multi_donor == "mean":
            return [[(1.0 - record.alpha) / len(records) for record in donor] for donor in records]
        best = [
            max(range(len(unit)), key=lambda donor: unit[donor].scion_information or 0.0)
            for unit in zip(*records, strict=True)
        ]
        return [
            [1.0 - record.alpha if best[unit] == number else 0.0 for unit, record in enumerate(donor)]
            for number, donor in enumerate(records)
        ]


def _compensated(rootstock: Rootstock, scion: Scion, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return state if scion.past is None else compensate_delay(state, rootstock.state, scion.past)


def filter_records(
    units: Sequence[GraftUnit], mean_alphas: Mapping[str, float], num_donors: int
) -> tuple[LayerGraft, ...]:
    """Records of a graft at level filter.

    Args:
        units: Units of the network.
        mean_alphas: Mean alpha over the weights of each blended entry, by key. Other units keep all of their own.
        num_donors: Donors whose blends are averaged.
    """
    return tuple(
        LayerGraft(layer=unit.name, alpha=1.0 - (1.0 - mean_alphas.get(unit.name, 1.0)) / num_donors) for unit in units
    )


def contribution_of(scion: Scion, layers: tuple[LayerGraft, ...]) -> Contribution:
    """Return a donor's contribution. Its weight is a mean over layers."""
    scion_weight = sum(1.0 - record.alpha for record in layers) / len(layers)
    return Contribution(scion=scion, scion_weight=scion_weight, layers=layers)
