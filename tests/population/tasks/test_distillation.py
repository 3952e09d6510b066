"""Distillation: losses by hand, teachers from run folders and peers in simulated populations."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from inarch.population import (
    DistillationConfig,
    ExchangeConfig,
    ImageClassification,
    ModelConfig,
    RunConfig,
    Simulator,
    Trainer,
)
from inarch.population.config import to_dict
from inarch.population.data.report import DataReport
from inarch.population.errors import ConfigError
from inarch.population.membership.outcome import ExchangeOutcome
from inarch.population.persistence.checkpoint import CheckpointStore
from inarch.population.persistence.storage import Storage
from inarch.population.state.state_dict import named_tensors
from inarch.population.tasks.distillation import distillation_loss, load_teacher, mutual_loss
from tests.conftest import losses, small_config, tiny_splits, tiny_task
from tests.fakes.runtime import FakeRuntime, live


def test_distillation_loss_is_cross_entropy_with_teacher_mean() -> None:
    student, first_teacher, second_teacher = (
        torch.tensor([[2.0, 0.0]]),
        torch.tensor([[4.0, 0.0]]),
        torch.tensor([[0.0, 0.0]]),
    )
    target = (1 / (1 + math.exp(-2.0)) + 0.5) / 2
    own = 1 / (1 + math.exp(-1.0))
    expected = -4.0 * (target * math.log(own) + (1 - target) * math.log(1 - own))
    assert float(distillation_loss(student, [first_teacher, second_teacher], temperature=2.0)) == pytest.approx(
        expected, rel=1e-6
    )


def test_mutual_loss_is_the_mean_divergence_from_the_peers() -> None:
    own, peer = torch.tensor([[1.0, 0.0, 0.5]]), torch.tensor([[0.0, 2.0, 0.0]])
    p, q = peer.softmax(1), own.softmax(1)
    expected = float((p * (p / q).log()).sum())
    assert float(mutual_loss(own, [peer])) == pytest.approx(expected, rel=1e-5)
    assert float(mutual_loss(own, [peer, own])) == pytest.approx(expected / 2, rel=1e-5)
    assert float(mutual_loss(own, [own])) == pytest.approx(0.0, abs=1e-7)


@pytest.fixture
def teacher_run(tmp_path: Path) -> str:
    """The folder of a finished run of two networks."""
    config = small_config(exchange=ExchangeConfig(rule="none"))
    store = CheckpointStore(Storage(str(tmp_path / "teacher")), keep=2)
    for network_id in (0, 1):
        runtime = FakeRuntime()
        trainer = Trainer(tiny_task(config), config, network_id=network_id)
        live(trainer, runtime)
        for checkpoint in runtime.checkpoints:
            assert store.commit(checkpoint)
    info = {"num_classes": 4, "image_shape": [1, 8, 8]}
    recorded = {"config": to_dict(config), "model": "resnet8", "info": {"facts": info}}
    (tmp_path / "teacher" / "config.json").write_text(json.dumps(recorded))
    return str(tmp_path / "teacher")


def test_load_teacher_returns_the_named_or_the_best_network(teacher_run: str) -> None:
    store = CheckpointStore(Storage(teacher_run))
    for path, network_id in ((f"{teacher_run}#0", 0), (f"{teacher_run}#1", 1)):
        teacher, best = load_teacher(path, num_classes=4, in_channels=1), store.best(network_id)
        assert best is not None and not teacher.training
        assert all(torch.equal(value, best[0][name]) for name, value in named_tensors(teacher).items())
        assert not any(parameter.requires_grad for parameter in teacher.parameters())
    scores = {network_id: best[1] for network_id in (0, 1) if (best := store.best(network_id)) is not None}
    best_id = max(scores, key=lambda network_id: (scores[network_id] or 0.0, -network_id))
    default = named_tensors(load_teacher(teacher_run, num_classes=4, in_channels=1))
    named = named_tensors(load_teacher(f"{teacher_run}#{best_id}", num_classes=4, in_channels=1))
    assert all(torch.equal(value, named[name]) for name, value in default.items())


class LazyPair(torch.nn.Module):
    """A network with a lazy layer, whose output is a pair of logits and something else, as with auxiliary losses."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.linear = torch.nn.LazyLinear(num_classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.linear(images.flatten(1)), images


def test_teacher_may_have_lazy_layers_and_a_pair_of_outputs(tmp_path: Path) -> None:
    config = small_config(exchange=ExchangeConfig(rule="none"), model=ModelConfig(architecture=f"{__name__}:LazyPair"))
    store, runtime = CheckpointStore(Storage(str(tmp_path / "teacher"))), FakeRuntime()
    live(Trainer(tiny_task(config), config, network_id=0), runtime)
    assert store.commit(runtime.checkpoints[-1])
    facts = {"num_classes": 4, "image_shape": [1, 8, 8]}
    recorded = {"config": to_dict(config), "model": config.model.architecture, "info": {"facts": facts}}
    (tmp_path / "teacher" / "config.json").write_text(json.dumps(recorded))
    teacher = load_teacher(str(tmp_path / "teacher"), num_classes=4, in_channels=1)
    assert teacher(torch.zeros(3, 1, 8, 8)).shape == (3, 4)


def test_load_teacher_with_an_interval_returns_its_checkpoint(teacher_run: str) -> None:
    store = CheckpointStore(Storage(teacher_run))
    earlier = next(checkpoint_id for checkpoint_id in store.list(1) if checkpoint_id.interval == 3)
    teacher = named_tensors(load_teacher(f"{teacher_run}#1@3", num_classes=4, in_channels=1))
    expected = store.load(1, earlier).model
    assert all(torch.equal(value, expected[name]) for name, value in teacher.items())
    with pytest.raises(ConfigError, match=r"names no checkpoint; network 1 .* has those of intervals \[.*3, 4\]"):
        load_teacher(f"{teacher_run}#1@1000", num_classes=4, in_channels=1)


@pytest.mark.parametrize(
    ("suffix", "classes", "message"),
    [("#7", 4, "names no network"), ("#best", 4, "names no network"), ("", 5, "4 classes"), ("-not", 4, "no run at")],
)
def test_load_teacher_from_an_unusable_run_is_a_config_error(
    teacher_run: str, suffix: str, classes: int, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load_teacher(f"{teacher_run}{suffix}", num_classes=classes, in_channels=1)


def report_of(names: str, *, mean: float = 0.5, deviation: float = 0.25) -> DataReport:
    return DataReport(
        class_names=tuple(names),
        class_counts=(8,) * 4,
        sizes={"train": 32},
        image_shape=(1, 8, 8),
        mean=(mean,),
        deviation=(deviation,),
        white=255.0,
        is_pixels=True,
        resize="none",
        augmentation="none",
    )


def test_teacher_has_the_students_classes_and_normalization(teacher_run: str, caplog: pytest.LogCaptureFixture) -> None:
    path = Path(teacher_run, "config.json")
    recorded = json.loads(path.read_text())
    recorded["info"]["facts"]["data"] = dataclasses.asdict(report_of("dcba"))
    path.write_text(json.dumps(recorded))
    load = functools.partial(load_teacher, teacher_run, num_classes=4, in_channels=1)
    with pytest.raises(
        ConfigError, match="has the student's classes in another order: 'd', 'c', 'b', 'a'; the student"
    ):
        load(data=report_of("abcd"))
    pixels = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = load()((pixels - 0.5) / 0.25)
    for data in (report_of("dcba"), report_of("dcba", mean=0.1, deviation=0.5), report_of("0123")):
        found = load(data=data)((pixels - data.mean[0]) / data.deviation[0])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert "other names" not in caplog.text
    load(data=report_of("dcbx"))
    assert "have other names ('d', 'c', 'b', 'a') than the student's ('d', 'c', 'b', 'x')" in caplog.text


def test_loss_with_teachers_adds_the_distillation_loss(teacher_run: str) -> None:
    plain = small_config()
    taught = dataclasses.replace(plain, distillation=DistillationConfig(teachers=(teacher_run, f"{teacher_run}#1")))
    tasks = [tiny_task(config) for config in (plain, taught)]
    tasks[1].check()
    module = tasks[0].build(0)
    batch = next(iter(tasks[0].epoch(order_seed=0, augment_seed=0, epoch=0, first=0)))
    module.eval()
    (labels_only, _), (with_teachers, _) = (task.loss(module, batch) for task in tasks)
    logits = [teacher(batch[0]) for teacher in tasks[1].teachers]
    expected = labels_only + distillation_loss(module(batch[0]), logits, temperature=2.0)
    torch.testing.assert_close(with_teachers, expected)
    reports = simulate(taught).reports[0]
    assert losses(reports)[-1] < losses(reports)[0]


def test_check_with_a_missing_teacher_is_a_config_error() -> None:
    config = small_config(distillation=DistillationConfig(teachers=("/nowhere",)))
    task = tiny_task(config)
    with pytest.raises(ConfigError, match="no run at '/nowhere'"):
        task.check()


def simulate(config: RunConfig):
    splits = tiny_splits(config)
    return Simulator(config, lambda: tiny_task(config, splits)).run()


def test_mutual_learning_uses_newest_peers_and_keeps_weights() -> None:
    config = small_config(exchange=ExchangeConfig(rule="dml"))
    result = simulate(config)
    assert [line.outcome for line in result.ledger].count(ExchangeOutcome.GRAFTED) >= 4
    trainer, peer = result.trainers[0], result.trainers[1]
    assert isinstance(trainer.task, ImageClassification) and len(trainer.task.peers) == 1
    grafted = [line for line in result.ledger if line.network_id == 0 and line.outcome == "grafted"]
    assert grafted[-1].scion == 1
    own, donor_weights = named_tensors(trainer.module), named_tensors(peer.module)
    assert not torch.equal(own["conv1.weight"], donor_weights["conv1.weight"])
    before = {name: tensor.clone() for name, tensor in own.items()}
    assert trainer.exchange((peer.snapshot(0.0),), trainer.origin(), trainer.snapshot(0.0), 0.0) == "grafted"
    assert all(torch.equal(tensor, before[name]) for name, tensor in named_tensors(trainer.module).items())
    peer_weights = named_tensors(trainer.task.peers[0])
    assert all(torch.equal(tensor, donor_weights[name]) for name, tensor in peer_weights.items())
