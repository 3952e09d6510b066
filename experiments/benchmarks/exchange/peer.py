"""A network that publishes and grafts with the library's functions, and measures each phase."""

from __future__ import annotations

import copy
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, get_args

import ray
import torch

from inarch.actors.network.exchange_client import fetch
from inarch.experiments.benchmarks.exchange.reference_graft import published_alphas, published_blend
from inarch.population import models
from inarch.population.config import GraftConfig, ModelConfig, RunConfig, SnapshotPrecision
from inarch.population.exchange.delay_compensation import StateHistory
from inarch.population.exchange.weight_scale import WeightScale, is_diverging
from inarch.population.grafting.criteria import LayerInformation, measure
from inarch.population.grafting.layer_level import blend_layers, layer_alphas
from inarch.population.grafting.units import graft_units
from inarch.population.membership.outcome import ExchangeOutcome
from inarch.population.membership.snapshot_index import PublishedSnapshot
from inarch.population.state.packing import SnapshotPacking
from inarch.population.state.snapshot import Snapshot, StagingBuffer, layout_of
from inarch.population.state.snapshot_info import SnapshotInfo
from inarch.population.state.state_dict import named_tensors

CALL_SECONDS = 300.0
"""Longest wait for a call of a benchmark."""

PRECISIONS: tuple[SnapshotPrecision, ...] = get_args(SnapshotPrecision)
"""Values of `exchange.precision`, which are measured in turn for the largest network."""

Seconds = dict[str, float]
"""Seconds by phase."""

Reference = PublishedSnapshot[list[ray.ObjectRef]]


class Laps:
    """A stopwatch for phases. A phase lasts from the previous `end`, or the start, to its own `end`."""

    def __init__(self, seconds: Mapping[str, float] | None = None) -> None:
        """Start the stopwatch.

        Args:
            seconds: Seconds of earlier phases.
        """
        self.seconds: Seconds = dict(seconds or {})
        self._last = time.perf_counter()

    def end(self, phase: str) -> None:
        """End a phase and add its time.

        Args:
            phase: Name of the phase. A name that occurs again adds up.
        """
        now = time.perf_counter()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self._last
        self._last = now


class Peer:
    """A network that publishes and grafts snapshots with the library's functions. `PeerActor` is the class on Ray."""

    def __init__(self, architecture: str, seed: int) -> None:
        """Build the network.

        Args:
            architecture: Name of the architecture.
            seed: Seed of the initial weights.
        """
        torch.set_num_threads(1)
        config = ModelConfig(architecture=architecture)
        self.model = models.build(config, num_classes=10, seed=seed)
        self._config = GraftConfig()
        self.published = copy.deepcopy(self.model)
        self._units = graft_units(self.model)
        self._layout = layout_of(named_tensors(self.model))
        names = {name for name, _ in self.model.named_parameters()}
        self._packings = {name: SnapshotPacking(self._layout, name, keys=names) for name in PRECISIONS}
        self._staging = StagingBuffer(self._layout, torch.device("cpu"))
        self._staging.alias_parameters(self.model)
        self._state = named_tensors(self.model)
        self._checked_keys = LayerInformation(self._config).checked_keys(self._units)
        self._scale = WeightScale(self._layout, self._units, frozenset(self._state))
        self._held: deque[ray.ObjectRef] = deque(maxlen=2)
        self._version = 0
        self._information = measure(self._state, self._units, self._config)
        self._past = StateHistory(RunConfig().compensation)
        for _ in range(RunConfig().compensation):
            self._past.append(self._origin(), self._state)
        self._buffer, self._store, self._flat = (torch.zeros(self._layout.nbytes // 4) for _ in range(3))

    def nbytes(self, precision: str = "float32") -> int:
        """Return the size of a published snapshot in bytes.

        Args:
            precision: As `ExchangeConfig.precision`.
        """
        return self._packings[precision].nbytes

    def publish(self, precision: str = "float32") -> tuple[Seconds, Reference]:
        """Stage the weights and put the snapshot into the object store, which keeps the newest two.

        Args:
            precision: As `ExchangeConfig.precision`.

        Returns:
            Seconds by phase, and the reference to the snapshot.
        """
        seconds, snapshot = self.stage()
        laps = Laps(seconds)
        if len(self._held) == self._held.maxlen:
            self._held.popleft()
        reference = ray.put(self._packings[precision].pack(snapshot.buffer))
        self._held.append(reference)
        laps.end("publish")
        return laps.seconds, PublishedSnapshot(
            origin=snapshot.origin, information=snapshot.information, payload=[reference]
        )

    def graft(self, posting: Reference, precision: str = "float32") -> Seconds:
        """Fetch a snapshot from the object store and graft it.

        Args:
            posting: Reference to the snapshot.
            precision: As `ExchangeConfig.precision`.

        Returns:
            Seconds by phase.

        Raises:
            RuntimeError: The snapshot was refused.
        """
        laps = Laps()
        snapshot = fetch(posting, self._layout, packing=self._packings[precision], seconds=CALL_SECONDS)
        if isinstance(snapshot, ExchangeOutcome):
            raise RuntimeError(f"the scion was refused: {snapshot}")
        laps.end("fetch")
        return laps.seconds | self.apply(snapshot)

    def stage(self) -> tuple[Seconds, Snapshot]:
        """Measure the information of the weights and copy them to the staging buffer.

        Returns:
            Seconds by phase, and the snapshot. Its buffer is valid until the next call.
        """
        laps = Laps()
        information = measure(self._state, self._units, self._config)
        laps.end("information")
        self._staging.stage(self._state)
        buffer = self._staging.buffer()
        laps.end("stage")
        return laps.seconds, Snapshot(
            origin=self._origin(), information=information, buffer=buffer, layout=self._layout
        )

    def apply(self, scion: Snapshot) -> Seconds:
        """Blend a snapshot into the network, with the default delay compensation.

        The network's own information is not measured here. It was measured once, from the initial weights.

        Args:
            scion: The snapshot.

        Returns:
            Seconds by phase.

        Raises:
            RuntimeError: A weight of the snapshot is not finite.
        """
        laps, own = Laps(), self._origin()
        past = self._past.at(0)
        assert past is not None
        with self._past.exchange_with_followers(own, self._state) as followers, torch.no_grad():
            if not scion.is_finite(but=self._checked_keys):
                raise RuntimeError("the scion is not finite")
            if is_diverging(self._scale.measure(scion.buffer), self._scale.measure(self._staging.buffer())):
                raise RuntimeError("the scion has another scale")
            records = layer_alphas(self._units, self._information, scion.information, self._config)
            blend_layers(
                self._state,
                scion.state(),
                self._units,
                records,
                self._config,
                past=past.state,
                followers=followers,
            )
        laps.end("blend")
        return laps.seconds

    def save(self, path: str) -> Seconds:
        """Save the whole state to a file, as the published code does before a graft.

        Args:
            path: The file to write.

        Returns:
            Seconds by phase.
        """
        laps = Laps()
        torch.save(self.published.state_dict(), path)
        laps.end("save")
        return laps.seconds

    def graft_as_published(self, path: str) -> Seconds:
        """Graft as the published code does: load the neighbor's file, measure both entropies, load a new state dict.

        Args:
            path: The neighbor's file.

        Returns:
            Seconds by phase.
        """
        laps = Laps()
        scion = torch.load(path)
        laps.end("load")
        own = self.published.state_dict()
        alphas = published_alphas(own, scion)
        laps.end("entropy")
        self.published.load_state_dict(published_blend(own, scion, alphas))
        laps.end("blend")
        return laps.seconds

    def floor(self) -> Seconds:
        """Move as many bytes by plain copies: to a host buffer, to a buffer in place of the store, then one lerp.

        Returns:
            Seconds of the only phase, `floor`.
        """
        laps = Laps()
        self._buffer.copy_(self._flat)
        self._store.copy_(self._buffer)
        self._flat.lerp_(self._store, 0.5)
        laps.end("floor")
        return laps.seconds

    def _origin(self) -> SnapshotInfo:
        self._version += 1
        return SnapshotInfo(
            network_id=0,
            incarnation=1,
            interval=self._version,
            step=self._version,
            trained_intervals=float(self._version),
            trained_steps=float(self._version),
            created_at=time.time(),
            structure=self._layout.fingerprint,
        )


PeerActor: Any = ray.remote(Peer)
"""`Peer` on Ray."""
