"""The benchmark on a GPU as a whole: its parts in order, within a limit of time."""

from __future__ import annotations

import dataclasses
import gc
import time
from collections.abc import Callable
from typing import Any

import torch

from inarch.experiments.benchmarks.gpu.graft_phases import graft_rows
from inarch.experiments.benchmarks.gpu.sharing import sharing_rows
from inarch.experiments.benchmarks.gpu.sizes import FULL, Sizes, Training
from inarch.experiments.benchmarks.gpu.training_speed import (
    CLASSES,
    Speed,
    fast_convolutions,
    half_precision_speed,
    plain_speed,
    random_images,
    run_config,
    synchronize,
    trainer_speed,
)
from inarch.experiments.benchmarks.harness import Measurement, Must, Row, ratio
from inarch.population import models
from inarch.population.config import DeviceConfig
from inarch.population.errors import ConfigError

BESIDE_NO_GRAFTING = Must(rule="at least", limit=0.99)
BESIDE_PLAIN = Must(rule="at least", limit=0.98)
BESIDE_HALF = Must(rule="at least", limit=0.8)

NOTE = (
    "overhead, compile and the speed network train in one process, without Ray: a copy of the weights stands for the "
    "object store"
)

COMPILATIONS: dict[str, DeviceConfig] = {
    "off": DeviceConfig(),
    "default": DeviceConfig(compile=True),
    "reduce-overhead": DeviceConfig(compile=True, compile_mode="reduce-overhead"),
}
"""Settings of the part `compile`, by the mode's name."""

PARTS = {"graft": 40.0, "overhead": 80.0, "speed network": 40.0, "sharing": 80.0, "compile": 60.0}
"""Parts in the order in which they are measured, with the seconds that each takes at most, of 300."""


class Clock:
    """The time that is left for the benchmark."""

    def __init__(self, seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        """Start the clock.

        Args:
            seconds: Seconds of the whole benchmark.
            now: Returns seconds of a clock.
        """
        self._now, self._seconds = now, seconds
        self._end = now() + seconds
        self.deadline = self._end
        """Time after which the current part begins nothing more."""

    def begin(self, part: str) -> bool:
        """Begin a part. Return False, and begin nothing, if its share of the time is no longer left.

        Args:
            part: Name of the part, a key of PARTS.
        """
        share = PARTS[part] / sum(PARTS.values()) * self._seconds
        self.deadline = min(self._end, self._now() + share)
        return self._now() + share / 2 <= self._end

    @property
    def is_over(self) -> bool:
        """Whether the current part must begin nothing more."""
        return self._now() >= self.deadline


def check_gpu() -> None:
    """Check that torch finds a GPU.

    Raises:
        ConfigError: It finds none.
    """
    if not torch.cuda.is_available():
        raise ConfigError("inarch bench gpu needs an NVIDIA GPU and a build of torch for CUDA, and torch finds no GPU")


def gpu(*, repeats: int = 5, seconds: float = 300.0, device: str = "cuda", sizes: Sizes = FULL) -> Measurement:
    """Measure grafts, overhead, compilation and sharing on a GPU.

    Args:
        repeats: Most turns of each measurement. Fewer are made where the time is short.
        seconds: Time for the whole benchmark. Parts that no longer fit are left out and named in the notes.
        device: Device of the networks. Tests run on the CPU.
        sizes: Networks and images.

    Raises:
        ConfigError: There is no GPU, or the time is not above 0.
    """
    is_gpu = torch.device(device).type == "cuda"
    if is_gpu:
        check_gpu()
    if seconds <= 0:
        raise ConfigError(f"--seconds must be above 0, got {seconds:g}")
    parts = _Parts(Clock(seconds), device=device, sizes=sizes, repeats=repeats)
    measures: dict[str, Callable[[], None]] = {
        "graft": parts.graft,
        "overhead": parts.overhead,
        "speed network": parts.speed_network,
        "sharing": parts.sharing,
        "compile": parts.compile,
    }
    with fast_convolutions(device):
        for name in PARTS:
            if parts.clock.begin(name):
                measures[name]()
                parts.free_memory()
            else:
                parts.notes.append(f"{name} was left out, because the time was over")
    setting: dict[str, Any] = {
        "gpu": torch.cuda.get_device_name() if is_gpu else "none",
        "cuda": torch.version.cuda,
        "seconds": seconds,
        "sizes": dataclasses.asdict(sizes),
    }
    return Measurement(name="gpu", repeats=repeats, rows=tuple(parts.rows), setting=setting, notes=(NOTE, *parts.notes))


class _Parts:
    """The parts of the benchmark, with their rows and notes."""

    def __init__(self, clock: Clock, *, device: str, sizes: Sizes, repeats: int) -> None:
        self.clock = clock
        self.rows: list[Row] = []
        self.notes: list[str] = []
        self._device, self._sizes, self._repeats = device, sizes, repeats

    def graft(self) -> None:
        for architecture in self._sizes.grafts:
            if self._is_over(f"graft of {architecture}"):
                continue
            is_judged = architecture == self._sizes.judged
            self.rows += graft_rows(architecture, turns=self._repeats, device=self._device, is_judged=is_judged)

    def overhead(self) -> None:
        for training in self._sizes.overheads:
            if not self._is_over(f"overhead of {training.name}"):
                self._overhead_of(training)

    def _overhead_of(self, training: Training) -> None:
        images, settings = random_images(training), DeviceConfig()
        options = {"epochs": self._sizes.epochs, "device": self._device}
        speeds: dict[str, list[float]] = {"grafting": [], "no grafting": [], "plain PyTorch": []}
        for turn in range(self._repeats):
            if turn and self._is_over(f"turn {turn + 1} and later of the overhead of {training.name}"):
                break
            for name, rule in (("grafting", "graft"), ("no grafting", "none")):
                config = run_config(training, device=settings, rule=rule)
                speeds[name].append(trainer_speed(config, images, **options).images_per_second)
            plain = plain_speed(run_config(training, device=settings), images, **options)
            speeds["plain PyTorch"].append(plain.images_per_second)
        self.rows += [
            *(_speed_row(f"{training.name}: {name}", values) for name, values in speeds.items()),
            ratio(
                f"{training.name}: grafting / no grafting",
                speeds["grafting"],
                speeds["no grafting"],
                BESIDE_NO_GRAFTING,
            ),
            ratio(f"{training.name}: grafting / plain", speeds["grafting"], speeds["plain PyTorch"], BESIDE_PLAIN),
        ]

    def speed_network(self) -> None:
        training, images = self._sizes.speed, random_images(self._sizes.speed)
        is_gpu = torch.device(self._device).type == "cuda"
        settings = DeviceConfig(precision="float16" if is_gpu else "float32")
        config = run_config(training, device=settings, rule="graft")
        ours: list[float] = []
        theirs: list[float] = []
        for turn in range(self._repeats):
            if turn and self._is_over(f"turn {turn + 1} and later of the speed network"):
                break
            speed = trainer_speed(config, images, epochs=self._sizes.epochs, device=self._device)
            ours.append(speed.images_per_second)
            model = models.build(config.model, num_classes=CLASSES, seed=0)
            dtype = torch.half if is_gpu else torch.float32
            plain = half_precision_speed(training, model, epochs=self._sizes.epochs, device=self._device, dtype=dtype)
            theirs.append(plain.images_per_second)
        self.rows += [
            _speed_row(f"{training.name}: grafting, float16 autocast", ours),
            _speed_row(f"{training.name}: plain loop, all in half precision", theirs),
            ratio(f"{training.name}: grafting / plain loop", ours, theirs, BESIDE_HALF),
        ]

    def sharing(self) -> None:
        is_gpu = torch.device(self._device).type == "cuda"
        rows, notes = sharing_rows(self._sizes, is_gpu=is_gpu, deadline=self.clock.deadline)
        self.rows += rows
        self.notes += notes

    def compile(self) -> None:
        training, images = self._sizes.compiled, random_images(self._sizes.compiled)
        speeds: dict[str, Speed] = {}
        for mode, settings in COMPILATIONS.items():
            if self._is_over(f"compilation: {mode}"):
                continue
            config = run_config(training, device=settings, rule="graft")
            speeds[mode] = trainer_speed(config, images, epochs=self._sizes.epochs, device=self._device)
            torch.compiler.reset()
        for mode, speed in speeds.items():
            self.rows.append(_speed_row(f"{training.name}: compilation {mode}", [speed.images_per_second]))
            if mode != "off":
                row = Row(
                    what=f"{training.name}: first epoch with compilation {mode}",
                    unit="s",
                    values=(speed.first_epoch_seconds,),
                )
                self.rows.append(row)

    def free_memory(self) -> None:
        """Give the memory of a part back, for the next part and for other processes."""
        gc.collect()
        synchronize(self._device)
        if torch.device(self._device).type == "cuda":
            torch.cuda.empty_cache()

    def _is_over(self, what: str) -> bool:
        """Return whether the part's time is over, and note then what was left out."""
        if not self.clock.is_over:
            return False
        self.notes.append(f"{what} was left out, because the time was over")
        return True


def _speed_row(what: str, values: list[float]) -> Row:
    return Row(what=what, unit="images/s", values=tuple(values))
