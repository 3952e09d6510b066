"""Recorded runs, repeated bit for bit. The simulator records them on virtual time."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from inarch.population import (
    CheckpointConfig,
    DataConfig,
    DeviceConfig,
    ExchangeConfig,
    ExchangeOutcome,
    GraftConfig,
    Join,
    Leave,
    Loss,
    OptimizerConfig,
    PopulationConfig,
    RegularizationConfig,
    RunConfig,
    ScheduleConfig,
    Snapshot,
    StalenessConfig,
    TextConfig,
    TopologyConfig,
    Trainer,
    WeightAveragingConfig,
)
from inarch.population.errors import RunError
from inarch.population.persistence.checkpoint import Checkpoint, CheckpointStore
from inarch.population.persistence.interval_report import IntervalReport
from inarch.population.persistence.storage import Storage
from inarch.population.state.snapshot_info import SnapshotInfo
from inarch.population.tasks.built_in import resolve_task
from inarch.population.training.birth import StartPoint
from inarch.population.training.replay.plan import plan_replay
from inarch.population.training.replay.record import Life, RunRecord, read_record
from inarch.population.training.replay.replayer import Replayer
from inarch.population.training.replay.verifier import Replay, ReplayObserver
from tests.conftest import small_config, tiny_task
from tests.fakes.recorded_run import record_run
from tests.fakes.runtime import FakeRuntime, live

STEPS = 3
"""Steps per interval in these tests."""

SPEEDS = {0: 1.0, 1: 1.3, 2: 0.7}
"""Virtual seconds of a step, by network."""


def config_of(**changes: Any) -> RunConfig:
    data = DataConfig(train="digits", train_limit=128, test_limit=32, validation=0.25, augmentation="none")
    schedule = ScheduleConfig(epochs=5, batch_size=32, lr_decay="cosine")
    fields = {"name": "recorded", "data": data, "population": PopulationConfig(size=3), "schedule": schedule}
    return small_config(**(fields | changes))


def replayed(folder: Path, config: RunConfig, observers: Sequence[ReplayObserver] = ()) -> tuple[RunRecord, Replay]:
    """Replay a run up to every checkpoint in its folder."""
    storage, task = Storage(str(folder)), resolve_task(config.task)
    record, data = read_record(storage), task.load_data(config)
    plan = plan_replay(record, record.all_checkpoints)
    store = CheckpointStore(storage)
    replayer = Replayer(record, plan, lambda _: task.bind(config, data), recorded=store, observers=observers)
    replay = replayer.run()
    if replay.difference is None:
        assert sorted(replay.checkpoints) == sorted(record.all_checkpoints)
    return record, replay


def test_replay_repeats_a_run(tmp_path: Path) -> None:
    record_run(tmp_path, config_of(), step_seconds=SPEEDS)
    record, replay = replayed(tmp_path, config_of())
    assert replay.difference is None
    assert replay.num_intervals == replay.num_published == 15 and replay.num_grafts > 5
    assert {birth.start.began for birth in record.births.values()} == {"initial"}


@pytest.mark.parametrize(
    "changes",
    [
        {"exchange": ExchangeConfig(num_donors=2), "graft": GraftConfig(multi_donor="best")},
        {"exchange": ExchangeConfig(rule="papa", precision="int8")},
        {"exchange": ExchangeConfig(rule="wash")},
        {"mode": "lockstep", "staleness": StalenessConfig(policy="none")},
        {"regularization": RegularizationConfig(mixup=1.0, cutmix=1.0, erasing=0.5)},
        pytest.param({"exchange": ExchangeConfig(precision="float16")}, marks=pytest.mark.slow),
        pytest.param({"staleness": StalenessConfig(max_intervals=1)}, marks=pytest.mark.slow),
        pytest.param({"exchange": ExchangeConfig(rule="dml")}, marks=pytest.mark.slow),
        {
            "exchange": ExchangeConfig(rule="pbt"),
            "optimizer": OptimizerConfig(learning_rate="log_uniform(0.01, 0.1)", label_smoothing=(0.0, 0.1, 0.2)),
            "regularization": RegularizationConfig(mixup="uniform(0.1, 1)", erasing=(0.0, 0.2, 0.5)),
        },
        pytest.param({"exchange": ExchangeConfig(rule="none")}, marks=pytest.mark.slow),
        pytest.param({"weight_averaging": WeightAveragingConfig(kind="swa", start=0.5)}, marks=pytest.mark.slow),
    ],
    ids=["donors", "papa", "wash", "lockstep", "regularized", "float16", "staleness", "dml", "pbt", "none", "swa"],
)
def test_replay_repeats_each_rule(tmp_path: Path, changes: Any) -> None:
    schedule = ScheduleConfig(epochs=3, batch_size=32, lr_decay="cosine")
    config = config_of(topology=TopologyConfig(name="complete"), schedule=schedule, **changes)
    record_run(tmp_path, config, step_seconds=SPEEDS)
    record, replay = replayed(tmp_path, config)
    assert replay.difference is None and replay.num_intervals == 9
    if config.exchange.donor_limit > 1:
        assert any(len(item.scions) == 2 for items in record.exchanges.values() for item in items.values())


def test_replay_repeats_a_language_run(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("networks graft the weights of their neighbors. " * 40)
    text = TextConfig(source=str(tmp_path / "text.txt"), context=16, width=16, layers=1, heads=2)
    schedule = ScheduleConfig(epochs=2, batch_size=16)
    config = config_of(
        task="language", text=text, data=DataConfig(), schedule=schedule, optimizer=OptimizerConfig(name="adamw")
    )
    record_run(tmp_path, config, step_seconds=SPEEDS, events=(Loss(seconds=100.0, network_id=1),))
    _, replay = replayed(tmp_path, config)
    assert replay.difference is None and replay.num_grafts > 0


def test_replay_repeats_losses_joins_and_leaves(tmp_path: Path) -> None:
    config = config_of(checkpoint=CheckpointConfig(every=3))
    events = (
        Join(seconds=1.5 * STEPS),
        Join(seconds=2.5 * STEPS, is_fresh=True),
        Leave(seconds=3.5 * STEPS, network_id=1),
        Loss(seconds=2.9 * STEPS, network_id=0, restart_seconds=1.0),
    )
    record_run(tmp_path, config, events=events, step_seconds={1: 1.3, 2: 0.7, 3: 0.9})
    record, replay = replayed(tmp_path, config)
    assert replay.difference is None
    assert record.births[Life(4, 1)].start == StartPoint.initial(3)
    assert {birth.start.began for birth in record.births.values()} == {"initial", "cloned"}
    assert Life(0, 2) in record.births and {network for network, _ in replay.checkpoints} == {0, 1, 2, 3, 4}
    taken = {
        scion.version.interval
        for items in record.exchanges.values()
        for exchange in items.values()
        for scion in exchange.scions
        if scion.version.life == Life(0, 1)
    }
    assert max(taken) == 2, "nobody took what no checkpoint followed"
    early = list((tmp_path / "exchanges").glob("0-*-early.parquet"))
    assert early
    for file in early:
        file.unlink()
    with pytest.raises(RunError, match="exchange 1 of incarnation 1 of network 0 is not recorded"):
        replayed(tmp_path, config)


def test_replay_finds_another_learning_rate(tmp_path: Path) -> None:
    record_run(tmp_path, config_of(), step_seconds=SPEEDS)
    other = config_of(optimizer=OptimizerConfig(learning_rate=0.0500001))
    _, replay = replayed(tmp_path, other)
    assert replay.difference is not None and replay.difference.interval == 1
    assert "other bits than the run published" in str(replay.difference)


def test_replay_restores_the_choice_of_algorithms(tmp_path: Path) -> None:
    class Watcher(ReplayObserver):
        def after_interval(self, trainer: Trainer, exchange: Any, report: IntervalReport) -> None:
            choices.append(torch.are_deterministic_algorithms_enabled())

    choices: list[bool] = []
    device = DeviceConfig(precision="float32", channels_last="off", deterministic=True)
    config = config_of(
        device=device, schedule=ScheduleConfig(epochs=1, batch_size=32), population=PopulationConfig(size=1)
    )
    record_run(tmp_path, config)
    _, replay = replayed(tmp_path, config, [Watcher()])
    assert replay.difference is None and choices == [True]
    assert not torch.are_deterministic_algorithms_enabled()


def test_replay_repeats_refusals_and_stops(tmp_path: Path) -> None:
    """One network is refused a scion, stops at an exchange, and later within an interval."""
    config, store = config_of(), CheckpointStore(Storage(str(tmp_path)))
    task = tiny_task(config)

    def scion_for(own: SnapshotInfo) -> Snapshot | ExchangeOutcome:
        if own.interval == 1 and own.incarnation == 1:
            donor = Trainer(tiny_task(config), config, network_id=1)
            for tensor in donor.module.parameters():
                tensor.data.mul_(1000.0)
            return dataclasses.replace(donor.snapshot(), origin=dataclasses.replace(own, network_id=1))
        return ExchangeOutcome.STOPPING if own.interval == 3 and own.incarnation == 1 else ExchangeOutcome.LATE

    newest: Checkpoint | None = None
    for incarnation, stop_after in ((1, None), (2, STEPS + 1), (3, None)):
        trainer = Trainer(task, config, network_id=0, incarnation=incarnation)
        start = StartPoint.initial()
        if newest is not None:
            trainer.resume(newest)
            start = StartPoint.resumed(0, newest.id)
        runtime = FakeRuntime(scion_for, stop_after=stop_after)
        assert len(trainer.record_birth(start, now=0.0)["births"]) == 1
        live(trainer, runtime)
        assert all(store.commit(checkpoint) for checkpoint in runtime.checkpoints)
        newest = runtime.checkpoints[-1]
    record = read_record(Storage(str(tmp_path)))
    assert record.exchanges[Life(0, 1)][1].outcome == "diverging"
    assert [birth.start.step % STEPS for birth in record.births.values()] == [0, 0, 1]
    plan = plan_replay(record, record.all_checkpoints)
    replay = Replayer(record, plan, lambda _: tiny_task(config), recorded=store).run()
    assert replay.difference is None and sorted(replay.checkpoints) == record.all_checkpoints
    assert replay.num_intervals == 5 and any(item.step for item in record.checkpoints[0])
