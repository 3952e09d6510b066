"""Training on a device: commits, resumes, waits, compilation and evaluation."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from inarch.population import (
    DeviceConfig,
    ExchangeOutcome,
    ImageClassification,
    OptimizerConfig,
    RunConfig,
    ScheduleConfig,
    Snapshot,
    SnapshotInfo,
    Trainer,
    WeightAveragingConfig,
)
from inarch.population.persistence.checkpoint import CheckpointStore
from inarch.population.persistence.storage import Storage
from inarch.population.state.state_dict import named_tensors
from inarch.population.tasks.run_evaluation import evaluate_run
from inarch.population.tasks.run_spec import RunSpec
from tests.conftest import losses, small_config, tiny_splits
from tests.fakes.runtime import FakeRuntime, live
from tests.gpu.devices import CPU_AND_CUDA, PRETEND_AND_CUDA, Device, deterministic
from tests.population.test_pretend_gpu import DEVICE, TinyNetwork, host

STEPS = 50
STOP_AFTER = 7
"""Steps after which a network is stopped, within its third interval."""


def tiny_task(config: RunConfig, device: Device, *, images: int = 96) -> ImageClassification:
    return ImageClassification(config, tiny_splits(config, images=images), factory=TinyNetwork, device=device.name)


def scions_for(task: ImageClassification, config: RunConfig) -> Any:
    """Return a function that gives the same donor's weights to each exchange, as if they were an interval behind."""
    donor = Trainer(task, config, network_id=1).snapshot()
    donor = dataclasses.replace(donor, buffer=donor.buffer.copy())

    def scion(own: SnapshotInfo) -> Snapshot:
        origin = dataclasses.replace(
            donor.origin,
            interval=max(0, own.interval - 1),
            step=own.step,
            trained_intervals=own.trained_intervals,
            trained_steps=own.trained_steps,
        )
        return dataclasses.replace(donor, origin=origin)

    return scion


def exact(**changes: Any) -> RunConfig:
    return small_config(schedule=ScheduleConfig(epochs=3, batch_size=32, lr_decay="cosine"), **changes)


RESUMED = {
    "float32": exact(device=DeviceConfig(precision="float32", deterministic=True)),
    "bfloat16 channels-last ema": exact(
        device=DeviceConfig(precision="bfloat16", channels_last="on", deterministic=True),
        weight_averaging=WeightAveragingConfig(kind="ema", decay=0.9),
    ),
    "adamw": exact(
        device=DeviceConfig(precision="float32", channels_last="on", deterministic=True),
        optimizer=OptimizerConfig(name="adamw", learning_rate=0.005),
    ),
}


def whole_and_resumed(config: RunConfig, device: Device, path: Path) -> tuple[Trainer, Trainer]:
    """Train without a stop, and with a stop within an interval, and return both."""
    task = tiny_task(config, device)
    first = Trainer(task, config, network_id=0)
    whole = FakeRuntime(scions_for(task, config))
    live(first, whole)
    stopped = FakeRuntime(scions_for(task, config), stop_after=STOP_AFTER)
    live(Trainer(task, config, network_id=0), stopped)
    store = CheckpointStore(Storage(str(path / "run")))
    assert store.commit(stopped.checkpoints[-1])
    saved = store.newest(0)
    assert saved is not None and saved.id.step == STOP_AFTER
    second = Trainer(task, config, network_id=0, incarnation=2)
    second.resume(saved)
    live(second, FakeRuntime(scions_for(task, config)))
    assert ExchangeOutcome.GRAFTED in {report.outcome for report in whole.reports}
    return first, second


@pytest.mark.parametrize("name", RESUMED)
@pytest.mark.parametrize("device", PRETEND_AND_CUDA, indirect=True)
def test_resume_within_an_interval_gives_equal_bits(device: Device, name: str, tmp_path: Path) -> None:
    with deterministic():
        first, second = whole_and_resumed(RESUMED[name], device, tmp_path)
    for key, tensor in named_tensors(first.module).items():
        assert torch.equal(host(tensor), host(named_tensors(second.module)[key])), key
    if first.average.begun is not None and second.average.begun is not None:
        mean = named_tensors(second.average.begun)
        for key, tensor in named_tensors(first.average.begun).items():
            assert torch.equal(host(tensor), host(mean[key])), key


@pytest.mark.parametrize("device", CPU_AND_CUDA, indirect=True)
def test_resume_in_float16_restores_the_scaler(device: Device, tmp_path: Path) -> None:
    config = exact(device=DeviceConfig(precision="float16", deterministic=True))
    with deterministic():
        first, second = whole_and_resumed(config, device, tmp_path)
    scalers = [trainer.checkpoint().training["scaler"] for trainer in (first, second)]
    assert scalers[0] == scalers[1] and scalers[0]["scale"] > 0
    for key, tensor in named_tensors(first.module).items():
        assert torch.equal(host(tensor), host(named_tensors(second.module)[key])), key


@pytest.mark.parametrize("device", PRETEND_AND_CUDA, indirect=True)
def test_checkpoint_of_a_gpu_resumes_on_the_cpu(device: Device, tmp_path: Path) -> None:
    config = exact(device=DEVICE, weight_averaging=WeightAveragingConfig(kind="ema", decay=0.9))
    task = tiny_task(config, device)
    trainer, runtime = Trainer(task, config, network_id=0), FakeRuntime(scions_for(task, config), stop_after=STOP_AFTER)
    live(trainer, runtime)
    store = CheckpointStore(Storage(str(tmp_path / "run")))
    assert store.commit(runtime.checkpoints[-1])
    saved = store.newest(0)
    assert saved is not None
    resumed = Trainer(tiny_task(config, Device("cpu")), config, network_id=0, incarnation=2)
    resumed.resume(saved)
    for key, tensor in named_tensors(trainer.module).items():
        assert torch.equal(host(tensor), named_tensors(resumed.module)[key].detach()), key
    live(resumed, FakeRuntime(scions_for(tiny_task(config, Device("cpu")), config)))
    assert resumed.is_finished


class NoWaits(FakeRuntime):
    """Forbids waits for the device from the end of the first step of each interval to the end of the last."""

    def __init__(self, device: Device, steps: int) -> None:
        super().__init__()
        self.device, self.in_interval = device, steps
        self.stack = contextlib.ExitStack()

    def after_step(self) -> bool:
        place = self.steps % self.in_interval
        if place == 0:
            self.stack.enter_context(self.device.without_waits())
        if place == self.in_interval - 1:
            self.stack.close()
        return super().after_step()


@pytest.mark.parametrize("device", PRETEND_AND_CUDA, indirect=True)
def test_steps_and_blend_do_not_wait_for_the_gpu(device: Device) -> None:
    """A3 allows waits for the loss of an interval, for its evaluation, for the information and for the staged bytes."""
    batch = 8
    schedule = ScheduleConfig(epochs=2, batch_size=batch)
    precision = "float32" if device.kind == "pretend" else "bfloat16"
    config = small_config(device=DeviceConfig(precision=precision), schedule=schedule)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, validation=1 / 11))
    task = tiny_task(config, device, images=440)
    trainer = Trainer(task, config, network_id=0)
    assert trainer.schedule.steps_per_epoch == STEPS
    scion = scions_for(task, config)
    fetched = trainer.prepare(scion(trainer.origin()))
    runtime = NoWaits(device, STEPS)
    for _ in trainer.intervals(runtime):
        break
    assert runtime.steps == STEPS
    snapshot, own = trainer.snapshot(), trainer.origin()
    scion_now = dataclasses.replace(fetched, origin=scion(own).origin)
    with device.without_waits():
        outcome = trainer.exchange((scion_now,), own, snapshot, now=0.0)
        checkpoint = trainer.checkpoint()
    assert outcome is ExchangeOutcome.GRAFTED
    checkpoint.wait()
    expected = {name: host(tensor) for name, tensor in named_tensors(trainer.module).items()}
    assert all(torch.equal(checkpoint.model[name], tensor) for name, tensor in expected.items())


class Compiler:
    """A backend of torch.compile that counts graphs."""

    def __init__(self, backend: str) -> None:
        self.graphs = 0
        self._compile: Any = torch._dynamo.lookup_backend(backend)

    def __call__(self, graph: Any, inputs: Any) -> Any:
        self.graphs += 1
        return self._compile(graph, inputs)


@contextlib.contextmanager
def compiler(device: Device) -> Iterator[Compiler]:
    """Let torch.compile count, with Inductor on a GPU and without compilation elsewhere."""
    backend, original = Compiler("inductor" if device.is_real_gpu else "eager"), torch.compile

    def compiled(module: Any, *, dynamic: bool, mode: str) -> Any:
        del mode
        return original(module, dynamic=dynamic, backend=backend)

    try:
        with mock.patch("torch.compile", compiled):
            yield backend
    finally:
        torch.compiler.reset()


@pytest.mark.filterwarnings("ignore")  # Inductor's own
@pytest.mark.parametrize("device", CPU_AND_CUDA, indirect=True)
def test_compiled_network_learns_as_without_compilation(device: Device) -> None:
    schedule = ScheduleConfig(epochs=3, batch_size=8, batch_norm_batches=1)
    config = small_config(device=DEVICE, schedule=schedule)
    task = tiny_task(config, device)
    assert task.steps_per_epoch >= 10 and len(task.splits.labels("train")) % 8, "the last batch is smaller"
    eager = FakeRuntime(scions_for(task, config))
    live(Trainer(task, config, network_id=0), eager)
    compiling = dataclasses.replace(config, device=dataclasses.replace(DEVICE, compile=True))
    compiled, graphs = FakeRuntime(scions_for(task, config)), []
    with compiler(device) as backend:
        for _ in Trainer(tiny_task(compiling, device), compiling, network_id=0).intervals(compiled):
            graphs.append(backend.graphs)
    assert compiled.reports[0].outcome is ExchangeOutcome.GRAFTED
    assert graphs[0] >= 2 and graphs == [graphs[0]] * 3, "something was compiled after the first epoch"
    assert losses(compiled.reports) == pytest.approx(losses(eager.reports), abs=1e-2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
@pytest.mark.filterwarnings("ignore")
def test_network_with_replayed_graphs_learns_through_grafts() -> None:
    device = Device("cuda")
    settings = dataclasses.replace(DEVICE, compile=True, compile_mode="reduce-overhead")
    config = small_config(device=settings, schedule=ScheduleConfig(epochs=4, batch_size=8))
    task = tiny_task(config, device)
    runtime = FakeRuntime(scions_for(task, config))
    live(Trainer(task, config, network_id=0), runtime)
    torch.compiler.reset()
    assert runtime.reports[0].outcome is ExchangeOutcome.GRAFTED
    assert losses(runtime.reports)[-1] < losses(runtime.reports)[0]


@pytest.mark.parametrize("device", PRETEND_AND_CUDA, indirect=True)
def test_evaluation_equals_that_of_the_cpu(device: Device, tmp_path: Path) -> None:
    config = small_config(name="run", storage=str(tmp_path), device=DEVICE)
    splits, storage = tiny_splits(config), Storage(str(tmp_path / "run"))
    store = CheckpointStore(storage)
    for network_id in (0, 1):
        runtime = FakeRuntime()
        live(Trainer(tiny_task(config, Device("cpu")), config, network_id=network_id), runtime)
        assert store.commit(runtime.checkpoints[-1])
    spec = RunSpec(name="run", folder=storage.uri, config=config, factory=TinyNetwork)
    expected, found = (
        evaluate_run(spec, splits, {0: "done", 1: "done"}, {}, 1.0, device=name) for name in ("cpu", device.name)
    )
    for row, other in zip(found["networks"], expected["networks"], strict=True):
        for when in ("best", "last"):
            assert row[when] == pytest.approx(other[when], abs=1e-4)
    for key in ("ensemble", "soup", "greedy_soup", "mean"):
        assert found[key]["loss"] == pytest.approx(expected[key]["loss"], abs=1e-4), key
    assert found["cosine"] == pytest.approx(expected["cosine"], abs=1e-4)
