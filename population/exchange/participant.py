"""One network's part in a population: the snapshots that it publishes, and the scions that it takes in.

The trainer of a network and a training loop of the caller's own both take part through this class.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor

from inarch.population.config import RunConfig
from inarch.population.exchange.delay_compensation import StateHistory
from inarch.population.exchange.exchanger import Exchanger, ExchangeResult
from inarch.population.exchange.protocol import ExchangeRule
from inarch.population.exchange.shared_state import SharedState, blends_momentum
from inarch.population.membership.outcome import ExchangeOutcome
from inarch.population.membership.staleness import Staleness
from inarch.population.state.memory_order import copy_all
from inarch.population.state.packing import SnapshotPacking
from inarch.population.state.snapshot import Snapshot, StagingBuffer, Uploader, layout_of
from inarch.population.state.snapshot_info import SnapshotInfo


class Participant:
    """Publishes one network's weights, and applies the exchange rule to it."""

    def __init__(self, shared: SharedState, config: RunConfig) -> None:
        """Create the network's part in the exchange. It publishes and takes nothing before `begin`.

        Args:
            shared: The network's tensors that its snapshots hold.
            config: The run's configuration.

        Raises:
            ConfigError: The rule is graft or graft_published, and no tensor opens a unit.
        """
        self._shared, self._config = shared, config
        self.units = shared.units()
        self.layout = layout_of(shared.tensors())
        names = {name for name, _ in shared.module.named_parameters(remove_duplicate=False)}
        self.packing = SnapshotPacking(self.layout, config.exchange.precision, keys=names)
        """How the network's snapshots are packed for others, and those of others widened."""
        device = next(shared.module.parameters()).device
        self._staging = StagingBuffer(self.layout, device)
        self._uploader = Uploader(device) if device.type == "cuda" else None
        self._exchanger: Exchanger | None = None
        self._is_aliased = False
        self._scales: tuple[float, ...] | None = None
        self.last_scion: int | None = None
        """Id of the last donor. None before the first graft."""
        self.last_staleness: Staleness | None = None
        """Staleness of that donor's snapshot at the time of the graft."""

    def alias_parameters(self) -> None:
        """Move the network's parameters into one buffer on its device, so that nothing is gathered to stage them.

        Only for networks that no other code holds: the storage of each parameter changes.
        """
        self._staging.alias_parameters(self._shared.module)
        self._is_aliased = True

    def begin(self, rule: ExchangeRule | None, *, network_id: int, num_intervals: int) -> None:
        """Take part in the exchange with a rule from now on.

        Args:
            rule: The exchange rule. None: the networks exchange nothing.
            network_id: Id of the network.
            num_intervals: Intervals of the schedule.
        """
        if rule is not None:
            self._exchanger = Exchanger(
                rule,
                self._config,
                self._shared,
                self.layout,
                network_id=network_id,
                num_intervals=num_intervals,
            )

    @property
    def _is_copied_on_device(self) -> bool:
        """Whether staged weights are a copy on the device of the network."""
        return not self._is_aliased and next(self._shared.module.parameters()).device.type == "cpu"

    @property
    def exchanges(self) -> bool:
        """Whether there is an exchange rule."""
        return self._exchanger is not None

    @property
    def publishes(self) -> bool:
        """Whether the network publishes snapshots, because the exchange rule takes scions."""
        return self._exchanger is not None and self._exchanger.takes_scions

    def snapshot(self, origin: SnapshotInfo) -> Snapshot:
        """Measure the network's information, stage its weights, and return both as a snapshot.

        Args:
            origin: Identity and training progress of the weights.

        Returns:
            A snapshot whose buffer belongs to this object. It is valid until the next snapshot, and with aliased
            parameters only until the network trains on.

        Raises:
            NotFiniteError: A weight is NaN or infinite. The message names the entry.
        """
        return self.stage(origin, self.measure_information(origin))

    def measure_information(self, origin: SnapshotInfo) -> tuple[float, ...]:
        """Return the information that a snapshot of these weights publishes.

        Args:
            origin: Identity and training progress of the weights.

        Raises:
            NotFiniteError: A weight is NaN or infinite. The message names the entry.
        """
        if self._exchanger is None:
            return ()
        return self._exchanger.measure_information(self._shared.tensors(), origin.interval)

    def stage(self, origin: SnapshotInfo, information: tuple[float, ...]) -> Snapshot:
        """Stage the network's weights, and return them as a snapshot, as `snapshot`.

        Args:
            origin: Identity and training progress of the weights.
            information: Their information.
        """
        self._staging.stage(self._shared.tensors())
        buffer = self._staging.buffer()
        snapshot = Snapshot(origin=origin, information=information, buffer=buffer, layout=self.layout)
        if self._exchanger is not None:
            self._scales = self._exchanger.scales(snapshot)
        return snapshot

    def prepare(self, snapshot: Snapshot) -> Snapshot:
        """Check a fetched snapshot and copy it to the network's GPU. On the CPU, do nothing.

        The thread that fetches calls it, so that the thread that trains need not wait for either.

        Args:
            snapshot: A snapshot of this network's structure.

        Returns:
            The snapshot, which is also on the GPU.
        """
        if self._uploader is None or self._exchanger is None or snapshot.uploaded is not None:
            return snapshot
        finite, scales = self._exchanger.is_finite(snapshot), self._exchanger.scales(snapshot)
        return self._uploader.upload(dataclasses.replace(snapshot, finite=finite, scales=scales))

    def exchange(
        self,
        snapshots: tuple[Snapshot, ...] | ExchangeOutcome,
        own: SnapshotInfo,
        information: tuple[float, ...],
        *,
        epoch: float,
        rate_factor: float,
        now: float,
        staged: Snapshot | None = None,
    ) -> ExchangeResult:
        """Apply the exchange rule. The arguments are those of `Exchanger.exchange`, without the network's tensors.

        Args:
            snapshots: What was fetched, or why nothing was.
            own: Progress of the network.
            information: Information that its own snapshot of this interval published.
            epoch: Epochs completed.
            rate_factor: Current learning rate as a share of the initial one.
            now: Seconds of the runtime's clock.
            staged: Its own snapshot of this interval, if the network has not changed since. It saves a copy.
        """
        if self._exchanger is None:
            return ExchangeResult(outcome=ExchangeOutcome.OFF)
        if not isinstance(snapshots, ExchangeOutcome):
            snapshots = tuple(self._prepared(item) for item in snapshots)
        result = self._exchanger.exchange(
            snapshots,
            own,
            self._shared.tensors(),
            information,
            epoch=epoch,
            rate_factor=rate_factor,
            now=now,
            before=staged.state() if staged is not None and self._is_copied_on_device else None,
            scales=self._scales,
        )
        if result.contributions:
            scion = result.contributions[0].scion
            self.last_scion = scion.snapshot.origin.network_id if scion else own.network_id
            self.last_staleness = scion.staleness if scion else None
        return result

    def clone_weights(self, snapshot: Snapshot) -> None:
        """Copy the weights of another network.

        Args:
            snapshot: Snapshot of the same layout. It is only read.
        """
        state, own = self._prepared(snapshot).state(), self._shared.tensors()
        with torch.no_grad():
            copy_all(list(own.values()), [state[name] for name in own])

    def _prepared(self, snapshot: Snapshot) -> Snapshot:
        """Return a snapshot as `prepare`, unless it has another structure, which the exchange refuses."""
        return self.prepare(snapshot) if snapshot.buffer.nbytes == self.layout.nbytes else snapshot

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that a snapshot holds, by key. They are the network's own, not copies."""
        return self._shared.tensors()

    def entropies(self, information: tuple[float, ...]) -> dict[str, float]:
        """Return the layers' entropies that a snapshot's information holds, as `Exchanger.entropies`."""
        return self._exchanger.entropies(information) if self._exchanger else {}

    def forget_past(self) -> None:
        """Let delay compensation begin anew, because the network's weights were replaced."""
        if self.history is not None:
            self.history.clear()

    @property
    def blends_momentum(self) -> bool:
        """Whether the optimizer's running averages are exchanged with the weights."""
        return blends_momentum(self._config)

    @property
    def history(self) -> StateHistory | None:
        """The past states of the network. None without delay compensation."""
        return self._exchanger.history if self._exchanger else None

    def load(self, tensors: Mapping[str, Tensor], own: SnapshotInfo, *, within: bool) -> None:
        """Restore from a checkpoint. The arguments are those of `StateHistory.load`, without the network's state."""
        if self._exchanger is not None:
            self._exchanger.load(tensors, own, self._shared.tensors(), within=within)
