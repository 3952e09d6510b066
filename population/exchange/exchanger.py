"""One network's side of every exchange: measure information, admit scions, apply the rule, record what it did."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inarch.population.config import RunConfig
from inarch.population.evaluation.filter_statistics import ENTROPY_BINS
from inarch.population.exchange.delay_compensation import StateHistory
from inarch.population.exchange.protocol import Contribution, ExchangeRule, MovesPast, Rootstock, Scion
from inarch.population.exchange.shared_state import SharedState
from inarch.population.exchange.weight_scale import WeightScale, is_diverging
from inarch.population.grafting.blending import Followers
from inarch.population.membership.outcome import ExchangeOutcome
from inarch.population.membership.staleness import Staleness, is_too_stale, staleness_limit, staleness_of
from inarch.population.state.precision import unmeasured_statistics
from inarch.population.state.seeding import generator
from inarch.population.state.snapshot import Layout, Snapshot
from inarch.population.state.snapshot_info import SnapshotInfo
from inarch.population.state.state_dict import check_finite, frozen_parameters, untrained_keys

MOST_TRAINED = 2.0
"""Training behind a network's weights, at most, in lengths of its schedule. Compensated updates count in whole
intervals, so that many grafts may add up to more than the schedule. More than this is no rounding."""


@dataclass(frozen=True, kw_only=True)
class ExchangeResult:
    """How an exchange ended."""

    outcome: ExchangeOutcome
    contributions: tuple[Contribution, ...] = ()
    admitted: tuple[SnapshotInfo, ...] = ()
    """Scions to which the rule was applied, in order, whether they contributed or not."""
    rootstock: Rootstock | None = None
    """The rootstock as the rule left it. None if no scion was admitted."""


class Exchanger:
    """Applies the run's exchange rule to one network. Its only state is the history for delay compensation."""

    def __init__(
        self,
        rule: ExchangeRule,
        config: RunConfig,
        shared: SharedState,
        layout: Layout,
        *,
        network_id: int,
        num_intervals: int,
    ) -> None:
        """Create the exchanger of one network.

        Args:
            rule: The exchange rule.
            config: The run's configuration.
            shared: The network's tensors that its snapshots hold. Entries that the network does not train may hold
                values that are not finite.
            layout: Layout that every snapshot must have.
            network_id: Id of the network.
            num_intervals: Intervals of the schedule.
        """
        units = shared.units()
        self._rule, self._config, self._units, self._layout = rule, config, units, layout
        self._network_id, self._num_intervals, self._module = network_id, num_intervals, shared.module
        self._frozen = frozen_parameters(shared.module)
        self._limit = staleness_limit(config.staleness, num_intervals=num_intervals)
        self._history = StateHistory(config.compensation) if config.compensation else None
        measure = rule.information_measure
        self._scale = WeightScale(layout, units, {name for name, _ in shared.module.named_parameters()})
        self._variances = [entry for entry in layout.entries if entry.name.endswith("running_var")]
        self._checked_keys = (measure.checked_keys(units) if measure else frozenset()) | untrained_keys(shared.module)

    @property
    def takes_scions(self) -> bool:
        """Whether the rule needs snapshots of other networks."""
        return self._rule.takes_scions

    def measure_information(self, state: Mapping[str, Tensor], interval: int) -> tuple[float, ...]:
        """Return the information that a snapshot of an interval publishes.

        Args:
            state: Tensors that the snapshot holds.
            interval: Intervals completed.

        Raises:
            NotFiniteError: A weight is NaN or infinite. The message names the entry.
        """
        measure = self._rule.information_measure
        random = self._random_numbers(self._network_id, interval)
        information = measure.measure(state, self._units, random) if measure else ()
        check_finite(state, but=self._checked_keys)
        return information

    @property
    def history(self) -> StateHistory | None:
        """The past states of the network. None without delay compensation."""
        return self._history

    def load(
        self, tensors: Mapping[str, Tensor], own: SnapshotInfo, state: Mapping[str, Tensor], *, within: bool
    ) -> None:
        """Restore from a checkpoint. The arguments are those of `StateHistory.load`."""
        if self._history is not None:
            self._history.load(tensors, own, state, within=within)

    def is_finite(self, snapshot: Snapshot) -> bool:
        """Return whether the information and the trained weights of a snapshot are finite, and no variance is negative.

        The outputs of a network with a negative variance of batch norm are not finite.

        Args:
            snapshot: A snapshot of the network's structure.
        """
        information: Any = snapshot.information  # another process posted it, in whatever form
        has_finite_information = _are_numbers(information) and all(math.isfinite(value) for value in information)
        if not (has_finite_information and snapshot.is_finite(but=self._checked_keys)):
            return False
        flat = torch.from_numpy(snapshot.buffer)
        variances = (
            flat[entry.offset : entry.offset + entry.nbytes].view(getattr(torch, entry.dtype))
            for entry in self._variances
        )
        return not any(bool((variance < 0).any()) for variance in variances)

    def scales(self, snapshot: Snapshot) -> tuple[float, ...]:
        """Return the root mean square of the trained weights of each unit of a snapshot, estimated.

        Args:
            snapshot: A snapshot of the network's structure.
        """
        return self._scale.measure(snapshot.buffer)

    def entropies(self, information: tuple[float, ...]) -> dict[str, float]:
        """Return the layers' entropies (eq. 6, ten closed cells) by key, if the information of a snapshot is that."""
        graft, rule = self._config.graft, self._config.exchange.rule
        is_entropy = (rule, graft.criterion, graft.bins) == ("graft", "entropy", ENTROPY_BINS)
        names = (unit.name for unit in self._units)
        return dict(zip(names, information, strict=True)) if information and is_entropy else {}

    def exchange(
        self,
        snapshots: Sequence[Snapshot] | ExchangeOutcome,
        own: SnapshotInfo,
        state: Mapping[str, Tensor],
        information: tuple[float, ...],
        *,
        epoch: float,
        rate_factor: float,
        now: float,
        before: Mapping[str, Tensor] | None = None,
        scales: tuple[float, ...] | None = None,
    ) -> ExchangeResult:
        """Apply the rule to the snapshots that can be admitted.

        Parameters that are frozen, now and when the network began, keep their values, unless the rule replaces the
        whole network by a scion. A loop that freezes parameters for some steps only, as for a GAN, exchanges them.

        Args:
            snapshots: What was fetched, or why nothing was.
            own: Progress of the network.
            state: Tensors that a snapshot holds, the network's own. They are changed.
            information: Information that its own snapshot of this interval published.
            epoch: Epochs completed.
            rate_factor: Current learning rate as a share of the initial one.
            now: Seconds of the runtime's clock.
            before: A copy of `state` on the same device. None: there is none.
            scales: Scales of the network's newest snapshot. None: those of scions are not compared with them.
        """
        admitted = (
            [snapshots]
            if isinstance(snapshots, ExchangeOutcome)
            else [self._admit(item, own, information, scales=scales, now=now) for item in snapshots]
        )
        scions = [item for item in admitted if isinstance(item, Scion)]
        refusal = next((item for item in admitted if isinstance(item, ExchangeOutcome)), None)
        if refusal is not None and not scions:
            if self._history is not None and snapshots is ExchangeOutcome.NOT_FINITE:  # the own weights are not
                self._history.clear()
            elif self._history is not None:
                self._history.append(own, state)
            return ExchangeResult(outcome=refusal)
        rootstock = Rootstock(
            origin=own,
            state=state,
            units=self._units,
            information=information,
            epoch=epoch,
            rate_factor=rate_factor,
            hyperparameters=own.hyperparameters,
            score=own.score,
            random=self._random_numbers(self._network_id, own.interval),
            common_random=self._random_numbers(None, own.interval),
        )
        with torch.no_grad(), self._keep_history(own, state, before, len(scions)) as followers:
            rootstock.followers = followers
            rootstock.fixed = self._fixed(state)
            fixed = {name: state[name].clone() for name in rootstock.fixed}
            contributions = self._rule.apply(rootstock, scions)
            if not any(item.scion_weight == 1.0 for item in contributions):
                for name, values in fixed.items():
                    state[name].copy_(values)
        outcome = ExchangeOutcome.GRAFTED if contributions else ExchangeOutcome.UNCHANGED
        return ExchangeResult(
            outcome=outcome,
            contributions=contributions,
            admitted=tuple(scion.snapshot.origin for scion in scions),
            rootstock=rootstock,
        )

    def _fixed(self, state: Mapping[str, Tensor]) -> frozenset[str]:
        """Return the keys of a network's tensors that an exchange leaves as they are, see `Rootstock.fixed`."""
        fixed = self._frozen & frozen_parameters(self._module)
        if self._config.graft.batch_norm == "reset":  # nobody would measure them again
            fixed |= unmeasured_statistics(self._module)
        return fixed & state.keys()

    def _keep_history(
        self, own: SnapshotInfo, state: Mapping[str, Tensor], before: Mapping[str, Tensor] | None, num_scions: int
    ) -> contextlib.AbstractContextManager[Followers | None]:
        """Return the context that keeps the past states. It yields those that the rule itself has to change."""
        if self._history is None:
            return contextlib.nullcontext()
        if isinstance(self._rule, MovesPast) and self._rule.moves_past(num_scions):
            return self._history.exchange_with_followers(own, state)
        return self._history.exchange(own, state, before)

    def _admit(
        self,
        snapshot: Snapshot,
        own: SnapshotInfo,
        information: tuple[float, ...],
        *,
        scales: tuple[float, ...] | None,
        now: float,
    ) -> Scion | ExchangeOutcome:
        """Return a snapshot as a scion, or the reason why it is refused."""
        if snapshot.origin.structure != self._layout.fingerprint or snapshot.buffer.nbytes != self._layout.nbytes:
            return ExchangeOutcome.STRUCTURE
        if not _is_like(snapshot.information, information) or not self._is_possible(snapshot.origin):
            return ExchangeOutcome.STRUCTURE
        if is_too_stale(own, snapshot.origin, limit=self._limit):
            return ExchangeOutcome.TOO_STALE
        if not (self.is_finite(snapshot) if snapshot.finite is None else snapshot.finite):
            return ExchangeOutcome.NOT_FINITE
        if scales is not None and is_diverging(snapshot.scales or self.scales(snapshot), scales):
            return ExchangeOutcome.DIVERGING
        staleness = staleness_of(own, snapshot.origin, now=now)
        behind = round(staleness.intervals)
        past = self._history.at(own.interval - behind) if self._history is not None and behind else None
        return Scion(snapshot=snapshot, staleness=staleness, past=past)

    def _is_possible(self, origin: SnapshotInfo) -> bool:
        """Return whether a network of this run can have trained as long as a snapshot claims."""
        most = self._num_intervals or math.inf  # an open run has no schedule
        return 0 <= origin.interval <= most and 0 <= origin.trained_intervals <= MOST_TRAINED * most

    def _random_numbers(self, network_id: int | None, interval: int) -> np.random.Generator:
        """Random numbers of an interval's exchange: of one network, or common to all for None."""
        owner = 0 if network_id is None else network_id + 1
        return generator(self._config.seed, owner, "exchange", counter=interval)


def _is_like(posted: Any, own: tuple[float, ...]) -> bool:
    """Return whether what another process posted as information has the form of the network's own."""
    return _are_numbers(posted) and len(posted) == len(own)


def _are_numbers(values: Any) -> bool:
    return isinstance(values, (tuple, list)) and all(
        isinstance(value, (int, float)) and not isinstance(value, bool) for value in values
    )


def training_behind(own: SnapshotInfo, contributions: Sequence[Contribution]) -> tuple[float, float]:
    """Return the intervals and steps of training behind the weights after an exchange.

    Each source counts by its weight. Compensated training counts too.

    Args:
        own: Progress of the rootstock before the exchange.
        contributions: What each source contributed.
    """
    alpha = 1.0 - sum(item.scion_weight for item in contributions)
    intervals, steps = alpha * own.trained_intervals, alpha * own.trained_steps
    for item in contributions:
        source, past = _source(own, item), item.scion.past if item.scion else None
        intervals += item.scion_weight * (source.trained_intervals + (own.interval - past.interval if past else 0))
        steps += item.scion_weight * (source.trained_steps + (own.step - past.step if past else 0))
    return intervals, steps


def graft_rows(own: SnapshotInfo, contributions: Sequence[Contribution]) -> list[dict[str, Any]]:
    """Return the rows of the history's table of grafts.

    Args:
        own: Progress of the rootstock before the exchange.
        contributions: What each source contributed.
    """
    rows = []
    for item in contributions:
        source = _source(own, item)
        staleness = item.scion.staleness if item.scion else Staleness(intervals=0.0, steps=0.0, seconds=0.0)
        past = item.scion.past if item.scion else None
        common = {
            "rootstock": own.network_id,
            "scion": source.network_id,
            "interval": own.interval,
            "incarnation": own.incarnation,
            "rootstock_version": own.interval,
            "scion_version": source.interval,
            "scion_incarnation": source.incarnation,
            **{f"staleness_{name}": value for name, value in dataclasses.asdict(staleness).items()},
            "compensated_intervals": own.interval - past.interval if past else 0,
        }
        rows += [common | dataclasses.asdict(record) for record in item.layers]
    return rows


def _source(own: SnapshotInfo, contribution: Contribution) -> SnapshotInfo:
    """Progress of the network whose weights were used. For noise and internal scions, the rootstock itself."""
    return contribution.scion.snapshot.origin if contribution.scion else own
