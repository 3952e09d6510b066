"""The phases of a graft on a GPU, by the host's clock and by CUDA events, beside plain copies of the same bytes."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from inarch.experiments.benchmarks.exchange.reference_graft import published_alphas, published_blend
from inarch.experiments.benchmarks.gpu.sizes import Training
from inarch.experiments.benchmarks.gpu.training_speed import random_images, run_config, synchronize
from inarch.experiments.benchmarks.harness import Must, Row, ratio
from inarch.experiments.benchmarks.speed.plain_loop import an_interval_behind
from inarch.population import ImageClassification, Trainer
from inarch.population.config import DeviceConfig
from inarch.population.membership.outcome import ExchangeOutcome
from inarch.population.state.state_dict import named_tensors

WARM_TURNS = 3
"""Turns that are not counted. They allocate memory and load kernels."""

NEAR_FLOOR = Must(rule="at most", limit=3.0)
FASTER = Must(rule="at least", limit=20.0)

PHASES = ("information and stage", "publish", "upload", "blend")


class _Clock:
    """Measures phases by the host's clock, each with the device's work, and by CUDA events."""

    def __init__(self, device: str) -> None:
        self._device = device
        self.host: dict[str, float] = {}
        self.events: dict[str, float] = {}

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        is_cuda = torch.device(self._device).type == "cuda"
        synchronize(self._device)
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if is_cuda else []
        start = time.perf_counter()
        if marks:
            marks[0].record()
        yield
        if marks:
            marks[1].record()
        synchronize(self._device)
        self.host[name] = 1e3 * (time.perf_counter() - start)
        if marks:
            self.events[name] = marks[0].elapsed_time(marks[1])


class GraftBench:
    """Two networks, of which one grafts the other again and again."""

    def __init__(self, architecture: str, device: str) -> None:
        """Build the networks.

        Args:
            architecture: Name of the architecture.
            device: Device of the networks.
        """
        images = Training(name="", architecture=architecture, batch_size=2, images=18, image_size=32)
        config = run_config(images, device=DeviceConfig(precision="float32"), rule="graft")
        task = ImageClassification(config, random_images(images), device=device)
        self._device = device
        self._trainer = Trainer(task, config, network_id=0)
        donor = Trainer(task, config, network_id=1).snapshot()
        self._donor = dataclasses.replace(donor, buffer=donor.buffer.copy())
        self._published = task.build(2)
        self.nbytes = self._trainer.layout.nbytes
        count, is_cuda = self.nbytes // 4, torch.device(device).type == "cuda"
        self._flat = torch.zeros(count, device=device)
        self._down, self._up = (torch.zeros(count, pin_memory=is_cuda) for _ in range(2))
        self._fetched = torch.zeros(count, device=device)

    def turn(self) -> tuple[dict[str, float], dict[str, float], float, float]:
        """Graft once.

        Returns:
            Milliseconds by phase on the host's clock and by CUDA events, then those of the floor and of the published
            graft.

        Raises:
            RuntimeError: The graft was refused.
        """
        trainer, clock = self._trainer, _Clock(self._device)
        trainer.progress.complete_interval()
        own = trainer.origin()
        with clock.phase("information and stage"):
            snapshot = trainer.snapshot()
        with clock.phase("publish"):  # the object store copies the bytes too
            published = snapshot.buffer.copy()
        with clock.phase("upload"):
            scion = trainer.prepare(an_interval_behind(self._donor, own))
        with clock.phase("blend"):
            outcome = trainer.exchange((scion,), own, snapshot, now=0.0)
        if outcome is not ExchangeOutcome.GRAFTED:
            raise RuntimeError(f"the scion was refused: {outcome}")
        del published
        return clock.host, clock.events, self._floor(), self._as_published()

    def _floor(self) -> float:
        """Return milliseconds of plain copies: to pinned memory, within the host, to the device, then one lerp."""
        clock = _Clock(self._device)
        with clock.phase("floor"):
            self._down.copy_(self._flat, non_blocking=True)
            synchronize(self._device)
            self._up.copy_(self._down)
            self._fetched.copy_(self._up, non_blocking=True)
            self._flat.lerp_(self._fetched, 0.5)
        return clock.host["floor"]

    def _as_published(self) -> float:
        """Return milliseconds of the published graft: save, load, both entropies cell by cell, blend, load."""
        clock = _Clock(self._device)
        with tempfile.TemporaryDirectory() as folder, clock.phase("published"), torch.no_grad():
            path = Path(folder, "model.pth.tar")
            own = named_tensors(self._published)
            torch.save({key: tensor.cpu() for key, tensor in own.items()}, path)
            scion = {key: tensor.to(self._device) for key, tensor in torch.load(path).items()}
            alphas = published_alphas(own, scion)
            for key, tensor in published_blend(own, scion, alphas).items():
                own[key].copy_(tensor)
        return clock.host["published"]


def graft_rows(architecture: str, *, turns: int, device: str, is_judged: bool) -> list[Row]:
    """Return the rows of one architecture.

    Args:
        architecture: Name of the architecture.
        turns: Counted turns, at least 1.
        device: Device of the networks.
        is_judged: Whether the rows have targets.
    """
    bench = GraftBench(architecture, device)
    taken = [bench.turn() for _ in range(WARM_TURNS + turns)][WARM_TURNS:]
    what = f"{architecture} {bench.nbytes / 1e6:.1f} MB"
    totals = [sum(host.values()) for host, *_ in taken]
    floors, published = [turn[2] for turn in taken], [turn[3] for turn in taken]
    by_host = [_row(f"{what}: {phase}", [turn[0][phase] for turn in taken]) for phase in PHASES]
    by_events = [
        _row(f"{what}: {phase}, CUDA events", [turn[1][phase] for turn in taken])
        for phase in PHASES
        if phase in taken[0][1]
    ]
    return [
        *by_host,
        *by_events,
        _row(f"{what}: graft", totals),
        _row(f"{what}: published graft", published),
        _row(f"{what}: floor", floors),
        ratio(f"{what}: published / inarch", published, totals, FASTER if is_judged else None),
        ratio(f"{what}: inarch / floor", totals, floors, NEAR_FLOOR if is_judged else None),
    ]


def _row(what: str, milliseconds: list[float]) -> Row:
    return Row(what=what, unit="ms", values=tuple(milliseconds))
