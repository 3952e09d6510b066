"""Every exchange rule and criterion: one exchange on a device and on the CPU, from the same state."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from inarch.population import (
    ExchangeOutcome,
    RunConfig,
    Snapshot,
    Trainer,
)
from inarch.population.config.per_network import LEARNING_RATE
from inarch.population.persistence.checkpoint import Checkpoint, CheckpointStore
from inarch.population.persistence.storage import Storage
from inarch.population.state.state_dict import named_tensors
from inarch.population.tasks.protocol import BoundTask
from tests.gpu.devices import CUDA, running
from tests.population.test_pretend_gpu import CASES, case_config, exchanging_runtime, host, image_task

ALSO_PRETENDED = (
    ("graft default", 1),
    ("graft scion noise", 1),
    ("graft matched channels", 1),
    ("graft filter l1", 2),
    ("rule papa", 2),
    ("rule dml", 2),
    ("fusion stable", 1),
)
"""Cases that also run on the pretend GPU. `tests/population/test_pretend_gpu.py` trains with all of them there."""

ALL_CASES = [
    *(pytest.param("pretend", name, donors, id=f"pretend-{name}-{donors}") for name, donors in ALSO_PRETENDED),
    *(pytest.param("cuda", name, donors, id=f"cuda-{name}-{donors}", marks=CUDA.marks) for name, donors in CASES),
]

NOISE = 0.02
"""Standard deviation of what stands in for an interval of training."""


def checkpoint_after_one_interval(config: RunConfig, donors: int, store: CheckpointStore) -> Checkpoint:
    """Train an interval on the CPU, with its exchange, and return the checkpoint as it was written."""
    task = image_task(config, "cpu")
    trainer = Trainer(task, config, network_id=0)
    runtime = exchanging_runtime(task, config, donors=donors)
    runtime.leaves = True
    for _ in trainer.intervals(runtime):
        pass
    assert store.commit(runtime.checkpoints[0])
    saved = store.newest(0)
    assert saved is not None and trainer.interval == 1
    return saved


def scions(config: RunConfig, trainer: Trainer, donors: int) -> tuple[Snapshot, ...]:
    """Snapshots of other networks, from the CPU."""
    own = trainer.origin()
    donor_task = image_task(config, "cpu")
    found = []
    for number in range(donors):
        snapshot = Trainer(donor_task, config, network_id=number + 1).snapshot()
        behind = 0 if config.mode == "lockstep" else 1
        origin = dataclasses.replace(
            snapshot.origin,
            interval=own.interval - behind,
            step=own.step,
            score=1.0,
            hyperparameters={LEARNING_RATE: 0.05},
        )
        found.append(dataclasses.replace(snapshot, origin=origin, buffer=snapshot.buffer.copy()))
    return tuple(found)


def exchanged(
    config: RunConfig, saved: Checkpoint, donors: int, device: str
) -> tuple[ExchangeOutcome, Trainer, BoundTask]:
    """Resume from a checkpoint, change the weights as training would, and exchange once."""
    task = image_task(config, device)
    trainer = Trainer(task, config, network_id=0)
    trainer.resume(saved)
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in trainer.module.parameters():
            parameter.add_((torch.randn(parameter.shape, generator=random) * NOISE).to(parameter.device))
    trainer.progress.complete_interval()
    trainer.progress.step += trainer.schedule.steps_per_epoch
    trainer.progress.trained_steps += trainer.schedule.steps_per_epoch
    trainer.progress.score = 0.5
    own = trainer.origin()
    snapshot = trainer.snapshot() if trainer.publishes else None
    outcome = trainer.exchange(scions(config, trainer, donors) if snapshot else (), own, snapshot, now=0.0)
    return outcome, trainer, task


@pytest.mark.filterwarnings("ignore:The .grad attribute")
@pytest.mark.parametrize(("kind", "name", "donors"), ALL_CASES)
def test_exchange_on_the_gpu_equals_that_on_the_cpu(kind: str, name: str, donors: int, tmp_path) -> None:
    config = case_config(name, donors, epochs=3)
    saved = checkpoint_after_one_interval(config, donors, CheckpointStore(Storage(str(tmp_path / "run"))))
    expected_outcome, expected, expected_task = exchanged(config, saved, donors, "cpu")
    with running(kind) as device:
        outcome, trainer, task = exchanged(config, saved, donors, device.name)
        assert outcome is expected_outcome
        for key, tensor in named_tensors(expected.module).items():
            own = named_tensors(trainer.module)[key]
            assert own.device.type == "cuda"
            assert torch.allclose(host(own), tensor.detach(), rtol=1e-6, atol=1e-6), key
        peers, expected_peers = (getattr(bound, "peers", []) for bound in (task, expected_task))
        assert len(peers) == len(expected_peers) == (donors if name == "rule dml" else 0)
        for peer, other in zip(peers, expected_peers, strict=True):
            for key, tensor in named_tensors(other).items():
                assert torch.equal(host(named_tensors(peer)[key]), tensor), key
        assert trainer.progress.learning_rate == pytest.approx(expected.progress.learning_rate)
        assert trainer.progress.trained_steps == pytest.approx(expected.progress.trained_steps, rel=1e-5)
    assert expected_outcome is (ExchangeOutcome.OFF if name == "rule none" else ExchangeOutcome.GRAFTED)
