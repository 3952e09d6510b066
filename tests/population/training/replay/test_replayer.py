"""Recorded runs, repeated bit for bit. The simulator records them on virtual time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from inarch.population import (
    CheckpointConfig,
    Join,
    Leave,
    Loss,
    PopulationConfig,
    RunConfig,
    ScheduleConfig,
    Simulator,
)
from inarch.population.persistence.checkpoint import CheckpointStore
from inarch.population.persistence.storage import Storage
from inarch.population.training.replay.plan import plan_replay
from inarch.population.training.replay.record import RunRecord, read_record
from inarch.population.training.replay.replayer import Replayer
from inarch.population.training.replay.verifier import Replay
from tests.conftest import small_config, tiny_splits, tiny_task

STEPS = 3
"""Steps per interval in these tests."""


def recorded(folder: Path, config: RunConfig, **options: Any) -> CheckpointStore:
    """Simulate a run, and return its checkpoints in a folder."""
    store = CheckpointStore(Storage(str(folder)), keep=config.checkpoint.keep)
    splits = tiny_splits(config)
    Simulator(config, lambda: tiny_task(config, splits), checkpoints=store, **options).run()
    return store


def replayed(folder: Path, config: RunConfig, store: CheckpointStore) -> tuple[RunRecord, Replay]:
    record, splits = read_record(Storage(str(folder))), tiny_splits(config)
    all_checkpoints = [(network, item) for network, items in record.checkpoints.items() for item in items]
    plan = plan_replay(record, all_checkpoints)
    return record, Replayer(record, plan, lambda: tiny_task(config, splits), recorded=store).run()


def config_of(size: int = 3, **changes: Any) -> RunConfig:
    schedule = ScheduleConfig(epochs=5, batch_size=32, lr_decay="cosine")
    return small_config(**({"population": PopulationConfig(size=size), "schedule": schedule} | changes))


def test_replay_repeats_a_run(tmp_path: Path) -> None:
    config = config_of()
    store = recorded(tmp_path, config, step_seconds={0: 1.0, 1: 1.3, 2: 0.7})
    record, replay = replayed(tmp_path, config, store)
    assert replay.difference is None
    assert replay.num_intervals == replay.num_published == 15 and replay.num_grafts > 5
    assert len(replay.checkpoints) == sum(map(len, record.checkpoints.values())) >= 6


def test_replay_repeats_losses_joins_and_leaves(tmp_path: Path) -> None:
    config = config_of(checkpoint=CheckpointConfig(every=2))
    events = (
        Join(seconds=1.5 * STEPS),
        Loss(seconds=3.5 * STEPS, network_id=0, restart_seconds=1.0),
        Leave(seconds=2.5 * STEPS, network_id=1),
    )
    store = recorded(tmp_path, config, events=events, step_seconds={1: 1.2, 2: 0.6, 3: 0.9})
    record, replay = replayed(tmp_path, config, store)
    assert {birth.start.began for birth in record.births.values()} == {"initial", "cloned", "resumed"}
    assert replay.difference is None
    assert {network for network, _ in replay.checkpoints} == {0, 1, 2, 3}
