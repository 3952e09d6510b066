"""Every exchange rule, criterion, average, fusion mode and task trains, exchanges and resumes on a pretend GPU.

The pretend GPU refuses to mix its tensors with CPU tensors, and counts what a real GPU would be asked.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from inarch.population import (
    DeviceConfig,
    ExchangeConfig,
    ExchangeOutcome,
    FusionConfig,
    GraftConfig,
    ImageClassification,
    ModelConfig,
    OptimizerConfig,
    PopulationConfig,
    RegularizationConfig,
    RunConfig,
    ScheduleConfig,
    Snapshot,
    SnapshotInfo,
    StalenessConfig,
    TopologyConfig,
    Trainer,
    WeightAveragingConfig,
)
from inarch.population.config import TextConfig
from inarch.population.config.per_network import LEARNING_RATE
from inarch.population.persistence.checkpoint import Checkpoint, CheckpointStore
from inarch.population.persistence.interval_report import IntervalReport
from inarch.population.persistence.storage import Storage
from inarch.population.state.state_dict import named_tensors
from inarch.population.tasks.protocol import BoundTask
from inarch.population.tasks.run_evaluation import evaluate_run, where_it_fits
from inarch.population.tasks.run_spec import RunSpec
from tests.conftest import small_config, tiny_splits
from tests.fakes.pretend_cuda import Counts, PretendTensor, pretend_cuda
from tests.fakes.runtime import FakeRuntime

CUDA = "cuda:0"
DEVICE = DeviceConfig(precision="float32")

GRAFTS = {
    "default": GraftConfig(),
    **{
        criterion: GraftConfig(criterion=criterion)
        for criterion in (
            *("l1", "summed_entropy", "robust_entropy", "differential_entropy", "orthogonality", "effective_rank"),
            *("batch_norm", "constant", "random"),
        )
    },
    **{f"batch norm {kind}": GraftConfig(batch_norm=kind) for kind in ("keep", "reset")},
    **{f"momentum {kind}": GraftConfig(momentum=kind) for kind in ("blend", "reset")},
    **{f"scion {kind}": GraftConfig(scion=kind, threshold=50.0) for kind in ("internal", "noise")},
    "matched channels": GraftConfig(channel_matching="weights"),
    "best donor": GraftConfig(multi_donor="best"),
    **{
        f"filter {criterion}": GraftConfig(level="filter", criterion=criterion)
        for criterion in ("entropy", "l1", "batch_norm", "constant", "random")
    },
    "filter mean": GraftConfig(level="filter", criterion="l1", weight_alpha="mean"),
}

REGULARIZED = RegularizationConfig(mixup=1.0, cutmix=1.0, erasing=0.5)

CONFIGS: dict[str, dict[str, Any]] = {
    **{f"graft {name}": {"graft": graft} for name, graft in GRAFTS.items()},
    **{f"rule {rule}": {"exchange": ExchangeConfig(rule=rule)} for rule in ("none", "papa", "wash", "pbt", "dml")},
    "published layer": {"exchange": ExchangeConfig(rule="graft_published"), "mode": "lockstep"},
    "published filter": {
        "exchange": ExchangeConfig(rule="graft_published"),
        "graft": GraftConfig(level="filter", criterion="batch_norm"),
        "mode": "lockstep",
    },
    **{f"average {kind}": {"weight_averaging": WeightAveragingConfig(kind=kind, start=0.2)} for kind in ("ema", "swa")},
    **{
        f"fusion {mode}": {"fusion": FusionConfig(mode=mode, rates=(0.5,))}
        for mode in ("stable", "published", "random", "mean_distance")
    },
    "adamw": {"optimizer": OptimizerConfig(name="adamw", learning_rate=0.01)},
    "adamw momentum": {
        "optimizer": OptimizerConfig(name="adamw", learning_rate=0.01),
        "graft": GraftConfig(momentum="blend"),
    },
    "no compensation": {"staleness": StalenessConfig(compensation_intervals=0)},
    "long compensation": {"staleness": StalenessConfig(compensation_intervals=4)},
    "contiguous": {"device": DeviceConfig(precision="float32", channels_last="off")},
    "batch norm batches": {"schedule": ScheduleConfig(epochs=2, batch_size=32, batch_norm_batches=1)},
    "lockstep": {"mode": "lockstep"},
    "float16 snapshots": {"exchange": ExchangeConfig(precision="float16")},
    "int8 snapshots": {"exchange": ExchangeConfig(precision="int8")},
    "retrieval": {"task": "retrieval"},
    "regularized": {"regularization": REGULARIZED},
    "regularized dml": {"regularization": REGULARIZED, "exchange": ExchangeConfig(rule="dml")},
}
MANY_DONORS = ("graft default", "graft best donor", "graft filter l1", "rule papa", "rule wash", "rule dml")


@pytest.fixture
def gpu() -> Iterator[Counts]:
    with pretend_cuda() as counts:
        yield counts


class TinyNetwork(nn.Module):
    """Three convolutions with batch norm, and a head."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv3, self.bn3 = nn.Conv2d(8, 12, 3, stride=2, bias=False), nn.BatchNorm2d(12)
        self.fc = nn.Linear(12, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = F.relu(self.bn1(self.conv1(images)))
        hidden = F.relu(self.bn2(self.conv2(hidden)))
        return self.fc(F.relu(self.bn3(self.conv3(hidden))).mean((2, 3)))


def image_task(config: RunConfig, device: str) -> BoundTask:
    is_fused = config.fusion.mode != "off"  # only the library's own architectures can be fused
    factory = None if is_fused else TinyNetwork
    return ImageClassification(config, tiny_splits(config, images=64), factory=factory, device=device)


def text_task(config: RunConfig, device: str) -> BoundTask:
    from inarch.population.tasks.language_modeling import LanguageModeling

    task = LanguageModeling()
    return task.bind(config, task.load_data(config), device=torch.device(device))


def exchanging_runtime(task: BoundTask, config: RunConfig, *, donors: int) -> FakeRuntime:
    """A runtime whose scions are other networks, which have the same weights on each device."""
    others = [Trainer(task, config, network_id=number + 1) for number in range(donors)]

    def scions(own: SnapshotInfo) -> tuple[Snapshot, ...]:
        found = []
        for number, other in enumerate(others):
            snapshot = other.snapshot()
            behind = 0 if config.mode == "lockstep" else min(number + own.interval % 2, own.interval)
            origin = dataclasses.replace(
                snapshot.origin,
                interval=own.interval - behind,
                step=own.step,
                score=1.0,
                hyperparameters={LEARNING_RATE: 0.05},
            )
            found.append(
                dataclasses.replace(snapshot, origin=origin, buffer=other.packing.as_received(snapshot.buffer))
            )
        return tuple(found)

    runtime = FakeRuntime()
    runtime.fetch_scions = scions  # pyright: ignore[reportAttributeAccessIssue]
    return runtime


def life(
    make_task: Callable[[RunConfig, str], BoundTask], config: RunConfig, device: str, *, donors: int
) -> tuple[Trainer, FakeRuntime, BoundTask]:
    task = make_task(config, device)
    trainer = Trainer(task, config, network_id=0)
    runtime = exchanging_runtime(task, config, donors=donors)
    for _ in trainer.intervals(runtime):
        pass
    return trainer, runtime, task


def host(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().cpu()


def case_config(name: str, donors: int, *, epochs: int | None = None) -> RunConfig:
    """Return the configuration of a case, with several donors if there are to be."""
    changes: dict[str, Any] = {"device": DEVICE, "schedule": ScheduleConfig(epochs=2, batch_size=32)} | CONFIGS[name]
    if epochs is not None:
        changes["schedule"] = dataclasses.replace(changes["schedule"], epochs=epochs)
    if donors > 1:
        exchange = changes.get("exchange", ExchangeConfig())
        changes |= {
            "exchange": dataclasses.replace(exchange, num_donors=donors),
            "topology": TopologyConfig(name="complete"),
            "population": PopulationConfig(size=3),
        }
    return small_config(**changes)


CASES = [(name, 1) for name in CONFIGS] + [(name, 2) for name in MANY_DONORS]


@pytest.mark.parametrize(("name", "donors"), CASES, ids=[f"{name} {donors}" for name, donors in CASES])
def test_network_lives_on_the_gpu_as_on_the_cpu(name: str, donors: int, tmp_path) -> None:
    config = case_config(name, donors)
    expected, reference, _ = life(image_task, config, "cpu", donors=donors)
    with pretend_cuda():
        trainer, runtime, task = life(image_task, config, CUDA, donors=donors)
        assert [report.outcome for report in runtime.reports] == [report.outcome for report in reference.reports]
        assert all(isinstance(tensor, PretendTensor) for tensor in named_tensors(trainer.module).values())
        for key, tensor in named_tensors(expected.module).items():
            ours = host(named_tensors(trainer.module)[key])
            tolerance = 2e-2 if name.startswith("fusion") else 1e-6  # distances of filters are computed otherwise
            assert torch.allclose(ours, tensor.detach(), rtol=tolerance, atol=tolerance), key
        store = CheckpointStore(Storage(str(tmp_path / "run")))
        for checkpoint in runtime.checkpoints[:1]:
            assert store.commit(checkpoint)
        resumed = Trainer(task, config, network_id=0)
        saved = store.newest(0)
        assert saved is not None
        resumed.resume(saved)
        for _ in resumed.intervals(exchanging_runtime(task, config, donors=donors)):
            pass
        for key, tensor in named_tensors(trainer.module).items():
            assert torch.equal(host(named_tensors(resumed.module)[key]), host(tensor)), key


def test_language_model_lives_on_the_gpu_as_on_the_cpu(tmp_path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("to be or not to be, that is the question. " * 60)
    config = RunConfig(
        task="language",
        text=TextConfig(source=str(path), context=16, width=16, layers=1, heads=2),
        schedule=ScheduleConfig(epochs=2, batch_size=16),
        population=PopulationConfig(size=2),
        device=DEVICE,
    )
    expected, reference, _ = life(text_task, config, "cpu", donors=1)
    with pretend_cuda():
        trainer, runtime, _ = life(text_task, config, CUDA, donors=1)
        assert [report.outcome for report in runtime.reports] == [report.outcome for report in reference.reports]
        assert runtime.reports[0].outcome is ExchangeOutcome.GRAFTED
        for key, tensor in named_tensors(expected.module).items():
            torch.testing.assert_close(host(named_tensors(trainer.module)[key]), tensor.detach(), rtol=1e-3, atol=1e-3)


def test_run_is_evaluated_on_the_gpu_as_on_the_cpu(tmp_path) -> None:
    config = small_config(
        name="run", storage=str(tmp_path), device=DEVICE, schedule=ScheduleConfig(epochs=2, batch_size=32)
    )
    splits, storage = tiny_splits(config), Storage(str(tmp_path / "run"))
    store = CheckpointStore(storage)
    for network_id in (0, 1):
        runtime = FakeRuntime()
        task = ImageClassification(config, splits, factory=TinyNetwork)
        for _ in Trainer(task, config, network_id=network_id).intervals(runtime):
            pass
        assert store.commit(runtime.checkpoints[-1])
    spec = RunSpec(name="run", folder=storage.uri, config=config, factory=TinyNetwork)
    ended = {0: "done", 1: "done"}
    expected = evaluate_run(spec, splits, ended, {}, 1.0)
    with pretend_cuda() as counts:
        found = evaluate_run(spec, splits, ended, {}, 1.0, device=CUDA)
    assert counts.launches > 100
    assert [row["best"]["accuracy"] for row in found["networks"]] == [
        row["best"]["accuracy"] for row in expected["networks"]
    ]
    for key in ("ensemble", "soup", "greedy_soup", "mean"):
        assert found[key]["loss"] == pytest.approx(expected[key]["loss"], rel=1e-4), key
    assert found["cosine"] == pytest.approx(expected["cosine"], rel=1e-6)


class TooLarge(TinyNetwork):
    """Has no room on a GPU."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if images.device.type == "cuda":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().forward(images)


def test_run_without_room_on_the_gpu_is_evaluated_on_the_cpu(tmp_path, caplog: pytest.LogCaptureFixture) -> None:
    config = small_config(name="run", storage=str(tmp_path), schedule=ScheduleConfig(epochs=1, batch_size=32))
    splits, storage, runtime = tiny_splits(config), Storage(str(tmp_path / "run")), FakeRuntime()
    for _ in Trainer(ImageClassification(config, splits, factory=TooLarge), config, network_id=0).intervals(runtime):
        pass
    assert CheckpointStore(storage).commit(runtime.checkpoints[-1])
    spec = RunSpec(name="run", folder=storage.uri, config=config, factory=TooLarge)
    expected = evaluate_run(spec, splits, {0: "done"}, {}, 1.0)
    with pretend_cuda():
        found = where_it_fits(lambda place: evaluate_run(spec, splits, {0: "done"}, {}, 1.0, device=place), CUDA)
    assert found == expected and "so the CPU evaluates" in caplog.text and expected["networks"][0]["best"] is not None


def test_pretend_gpu_refuses_to_mix_devices(gpu: Counts) -> None:
    ours = torch.ones(3, device=CUDA)
    with pytest.raises(RuntimeError, match="same device"):
        torch.add(ours, torch.ones(3))
    with pytest.raises(TypeError, match="can't convert cuda"):
        ours.numpy()
    assert float((ours * 2).sum()) == 6.0 and gpu.syncs == 1


def test_pretend_gpu_counts_launches_and_copies(gpu: Counts) -> None:
    pinned = torch.empty(4, pin_memory=True)
    ours = torch.zeros(4, device=CUDA)
    before = copy.deepcopy(gpu)
    ours.copy_(pinned, non_blocking=True)
    ours.add_(1)
    ours.view(2, 2)
    done = gpu.taken(before)
    assert (done.launches, done.syncs, done.uploads, done.pinned) == (1, 0, 1, 1)
    ours.copy_(torch.zeros(4), non_blocking=True)
    ours.cpu()
    done = gpu.taken(before)
    assert (done.launches, done.syncs, done.uploads, done.downloads) == (1, 2, 2, 1)


class BudgetRuntime(FakeRuntime):
    """Notes the waits of each step, and those from the last step of an interval to its commit."""

    def __init__(self, counts: Counts, scion_for: Callable[[SnapshotInfo], Snapshot]) -> None:
        super().__init__(scion_for)
        self.in_steps: list[int] = []
        self.in_ends: list[Counts] = []
        self._counts, self._before = counts, copy.deepcopy(counts)

    def after_step(self) -> bool:
        self.in_steps.append(self._counts.taken(self._before).syncs)
        self._before = copy.deepcopy(self._counts)
        return super().after_step()

    def prefetch(self, own: SnapshotInfo) -> None:
        self._before = copy.deepcopy(self._counts)

    def commit(self, report: IntervalReport, checkpoint: Checkpoint | None) -> None:
        self.in_ends.append(self._counts.taken(self._before))
        super().commit(report, checkpoint)
        self._before = copy.deepcopy(self._counts)


def test_interval_of_a_resnet50_keeps_its_budget(gpu: Counts) -> None:
    """At most 60 launches for the information, 8 for a blend, no wait in a step, and 4 waits in the end of an interval.

    The evaluation's own result is a fifth. The last waits for the graft, whose time is recorded. Fetching threads copy
    scions to the GPU, and writing threads wait for the checkpoint's copies.
    """
    schedule = ScheduleConfig(epochs=3, batch_size=8)
    model = ModelConfig(architecture="resnet50")
    config = small_config(device=DEVICE, model=model, schedule=schedule, regularization=REGULARIZED)
    task = ImageClassification(config, tiny_splits(config, images=30), device=CUDA)
    trainer = Trainer(task, config, network_id=0)
    donor = Trainer(task, config, network_id=1).snapshot()
    donor = dataclasses.replace(donor, buffer=donor.buffer.copy())
    fetched = trainer.prepare(donor)
    assert fetched.uploaded is not None

    def scion(own: SnapshotInfo) -> Snapshot:
        progress = {"step": own.step, "trained_intervals": own.trained_intervals, "trained_steps": own.trained_steps}
        origin = dataclasses.replace(donor.origin, interval=max(0, own.interval - 1), **progress)
        return dataclasses.replace(fetched, origin=origin)

    task.validate(trainer.module)  # the first batch copies the validation images to the GPU
    runtime = BudgetRuntime(gpu, scion)
    for _ in trainer.intervals(runtime):
        if trainer.interval == 2:
            break
    assert [report.outcome for report in runtime.reports] == ["grafted"]
    steps_per_interval = trainer.schedule.steps_per_epoch
    assert len(runtime.in_steps) == 2 * steps_per_interval and steps_per_interval > 2
    assert [count for number, count in enumerate(runtime.in_steps) if number % steps_per_interval] == [0] * (
        len(runtime.in_steps) - len(runtime.in_steps[::steps_per_interval])
    )
    print(f"end of an interval, with the evaluation's result: {runtime.in_ends[-1].syncs} waits")
    assert all(counts.syncs <= 5 for counts in runtime.in_ends), [counts.places for counts in runtime.in_ends]
    before = copy.deepcopy(gpu)
    snapshot = trainer.snapshot()
    taken = gpu.taken(before)
    print(f"information: {taken.launches} launches, with staging {taken.syncs} waits")
    assert taken.launches <= 60 and taken.syncs <= 3, taken
    before, own = copy.deepcopy(gpu), trainer.origin()
    assert trainer.exchange((scion(own),), own, snapshot, now=0.0) is ExchangeOutcome.GRAFTED
    taken = gpu.taken(before)
    print(f"blend: {taken.launches} launches, {taken.syncs} waits")
    assert taken.launches <= 8 and taken.syncs == 0, taken
    before = copy.deepcopy(gpu)
    checkpoint = trainer.checkpoint()
    taken = gpu.taken(before)
    assert taken.syncs == 0 and taken.pinned == taken.downloads > 0, taken
    checkpoint.wait()
    assert gpu.taken(before).syncs == 1
