"""One network's side of every exchange: what its snapshots tell, whom it admits, and what the rule makes of them."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from inarch.population.config import RunConfig
from inarch.population.evaluation.filter_statistics import ENTROPY_BINS
from inarch.population.exchange.delay_compensation import StateHistory
from inarch.population.exchange.protocol import Contribution, ExchangeRule, Rootstock, Scion
from inarch.population.grafting.units import GraftUnit
from inarch.population.membership.outcome import Refusal
from inarch.population.membership.staleness import Staleness, is_too_stale, staleness_limit, staleness_of
from inarch.population.persistence.interval_report import GRAFTED, KEPT
from inarch.population.state.seeding import generator
from inarch.population.state.snapshot import Layout, Snapshot, SnapshotInfo
from inarch.population.state.state_dict import check_finite, untrained_keys


@dataclass(frozen=True, kw_only=True)
class Exchanged:
    """How an exchange ended."""

    outcome: str
    """grafted, kept, or a refusal's name."""
    taken: tuple[Contribution, ...] = ()
    rootstock: Rootstock | None = None
    """As the rule left it; None where nothing was admitted."""


class Exchanger:
    """Made once for a network; from one exchange to the next it holds the network's past alone, where that is asked
    for."""

    def __init__(
        self,
        rule: ExchangeRule,
        config: RunConfig,
        units: Sequence[GraftUnit],
        layout: Layout,
        module: nn.Module,
        *,
        network_id: int,
        num_intervals: int,
    ) -> None:
        """One network's side of its exchanges.

        Args:
            rule: What to do.
            config: The run's.
            units: What shares an alpha.
            layout: What a snapshot must be.
            module: The network; what it does not train may hold values that are not finite.
            network_id: Its id.
            num_intervals: Of the schedule.
        """
        self._rule, self._config, self._units, self._layout, self._network = rule, config, units, layout, network_id
        self._limit = staleness_limit(config.staleness, num_intervals=num_intervals)
        self._past = StateHistory(config.compensation) if config.compensation else None
        self._checked_keys = (
            rule.information_measure.checked_keys(units) if rule.information_measure else frozenset()
        ) | untrained_keys(module)

    @property
    def takes_scions(self) -> bool:
        """Whether it needs others' snapshots."""
        return self._rule.takes_scions

    def measure_information(self, state: Mapping[str, Tensor], interval: int) -> tuple[float, ...]:
        """What a snapshot of an interval tells beside its weights.

        Raises:
            NotFiniteError: a weight is NaN or infinite; names the entry.
        """
        information_measure = self._rule.information_measure
        found = (
            information_measure.measure(state, self._units, self._draws(self._network, interval))
            if information_measure
            else ()
        )
        check_finite(state, but=self._checked_keys)
        return found

    def tensors(self, *, within: bool) -> dict[str, Tensor]:
        """What a checkpoint needs to hold of the past, not copied; `within`: of an interval that is not complete."""
        return self._past.tensors(within=within) if self._past is not None else {}

    def load(
        self, tensors: Mapping[str, Tensor], own: SnapshotInfo, state: Mapping[str, Tensor], *, within: bool
    ) -> None:
        """Take over a checkpoint's past; own: the network as it was saved, and all that a snapshot of it holds."""
        if self._past is not None:
            self._past.load(tensors, own, state, within=within)

    def entropies(self, information: tuple[float, ...]) -> dict[str, float]:
        """The layers' entropies (eq. 6, ten closed cells) among what a snapshot told, by key; empty where it told
        something else."""
        graft = self._config.graft
        is_plain = (graft.criterion, graft.bins, graft.reference) == ("entropy", ENTROPY_BINS, False)
        return (
            dict(zip((unit.name for unit in self._units), information, strict=True)) if information and is_plain else {}
        )

    def exchange(
        self,
        found: Sequence[Snapshot] | Refusal,
        own: SnapshotInfo,
        state: Mapping[str, Tensor],
        information: tuple[float, ...],
        *,
        epoch: float,
        rate_factor: float,
        now: float,
    ) -> Exchanged:
        """Let the rule take in what may be taken.

        Args:
            found: What was pulled, or why nothing was.
            own: The network as it stands.
            state: All that a snapshot holds, its own tensors; changed.
            information: What its own snapshot of this interval told.
            epoch, rate_factor: Of the schedule.
            now: Seconds of the host's clock.
        """
        looked_at = [found] if isinstance(found, Refusal) else [self._admit(scion, own, now) for scion in found]
        arrivals = [arrival for arrival in looked_at if isinstance(arrival, Scion)]
        refused = next((one for one in looked_at if isinstance(one, Refusal)), None)
        if refused is not None and not arrivals:
            if self._past is not None:
                self._past.note(own, state)
            return Exchanged(outcome=refused.value)
        rootstock = Rootstock(
            origin=own,
            state=state,
            units=self._units,
            information=information,
            epoch=epoch,
            rate_factor=rate_factor,
            learning_rate=own.learning_rate,
            score=own.score,
            random=self._draws(self._network, own.interval),
            common_random=self._draws(None, own.interval),
        )
        with torch.no_grad(), self._past.exchange(own, state) if self._past is not None else contextlib.nullcontext():
            taken = self._rule.apply(rootstock, arrivals)
        return Exchanged(outcome=GRAFTED if taken else KEPT, taken=taken, rootstock=rootstock)

    def _admit(self, scion: Snapshot, own: SnapshotInfo, now: float) -> Scion | Refusal:
        """A snapshot that may be taken in, with its age; or why not."""
        if scion.origin.structure != self._layout.fingerprint or scion.buffer.nbytes != self._layout.nbytes:
            return Refusal.STRUCTURE
        if is_too_stale(own, scion.origin, limit=self._limit):
            return Refusal.TOO_OLD
        is_told_finite = all(math.isfinite(value) for value in scion.information)
        if not (is_told_finite and scion.is_finite(but=self._checked_keys)):
            return Refusal.NOT_FINITE
        age = staleness_of(own, scion.origin, now=now)
        behind = round(age.intervals)
        past = self._past.at(own.interval - behind) if self._past is not None and behind else None
        return Scion(snapshot=scion, age=age, past=past)

    def _draws(self, network_id: int | None, interval: int) -> np.random.Generator:
        """Random numbers of an interval's exchange: of one network, or None: common to all."""
        owner = 0 if network_id is None else network_id + 1
        return generator(self._config.seed, owner, "exchange", counter=interval)


def training_behind(own: SnapshotInfo, taken: Sequence[Contribution]) -> tuple[float, float]:
    """Intervals and steps of training behind weights after an exchange: each source's by its part, with what it was
    brought forward by."""
    kept = 1.0 - sum(one.scion_weight for one in taken)
    intervals, steps = kept * own.trained_intervals, kept * own.trained_steps
    for one in taken:
        source, past = _source(own, one), one.arrival.past if one.arrival else None
        intervals += one.scion_weight * (source.trained_intervals + (own.interval - past.interval if past else 0))
        steps += one.scion_weight * (source.trained_steps + (own.step - past.step if past else 0))
    return intervals, steps


def graft_rows(own: SnapshotInfo, taken: Sequence[Contribution]) -> list[dict[str, Any]]:
    """Rows of the history's table of grafts."""
    rows = []
    for one in taken:
        source = _source(own, one)
        age = one.arrival.age if one.arrival else Staleness(intervals=0.0, steps=0.0, seconds=0.0)
        past = one.arrival.past if one.arrival else None
        common = {
            "rootstock": own.network_id,
            "scion": source.network_id,
            "interval": own.interval,
            "incarnation": own.incarnation,
            "rootstock_version": own.interval,
            "scion_version": source.interval,
            "scion_incarnation": source.incarnation,
            **{f"age_{name}": value for name, value in dataclasses.asdict(age).items()},
            "compensated_intervals": own.interval - past.interval if past else 0,
        }
        rows += [common | dataclasses.asdict(record) for record in one.layers]
    return rows


def _source(own: SnapshotInfo, taken: Contribution) -> SnapshotInfo:
    """Whose weights were taken: another network's, or for noise and internal scions its own."""
    return taken.arrival.snapshot.origin if taken.arrival else own
