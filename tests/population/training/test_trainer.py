"""Training of a single network on a fake runtime."""

from __future__ import annotations

import collections
import dataclasses
import functools
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from inarch.population import (
    CheckpointConfig,
    DataConfig,
    DeviceConfig,
    ExchangeConfig,
    ExchangeOutcome,
    FusionConfig,
    GraftConfig,
    OptimizerConfig,
    PopulationConfig,
    RunConfig,
    ScheduleConfig,
    Snapshot,
    StalenessConfig,
    Trainer,
    WeightAveragingConfig,
)
from inarch.population.config import Mode
from inarch.population.errors import CheckpointError, NotFiniteError, StructureError
from inarch.population.evaluation.filter_statistics import computed_weights, measure_filters
from inarch.population.evaluation.soups import with_statistics
from inarch.population.grafting.information import layer_entropy
from inarch.population.grafting.units import convolution_units
from inarch.population.persistence.checkpoint import CheckpointStore
from inarch.population.persistence.storage import Storage
from inarch.population.state.seeding import derive_seed
from inarch.population.state.snapshot import StagingBuffer, layout_of, unflatten
from inarch.population.state.snapshot_info import SnapshotInfo
from inarch.population.state.state_dict import is_structural, named_tensors
from inarch.population.tasks.image_classification import ImageClassification
from tests.conftest import losses, small_config, tiny_splits, tiny_task
from tests.fakes.runtime import FakeRuntime, live


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in named_tensors(trainer.module).items()}


def assert_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def new_trainer(config: RunConfig, network_id: int = 0) -> Trainer:
    return Trainer(tiny_task(config), config, network_id=network_id)


def test_trainer_learns_and_reports_every_interval() -> None:
    config = small_config()
    trainer, runtime = new_trainer(config), FakeRuntime()
    published = live(trainer, runtime)
    assert [report.origin.interval for report in runtime.reports] == [1, 2, 3, 4]
    assert [snapshot.origin.step for snapshot in published] == [3, 6, 9, 12]
    assert losses(runtime.reports)[-1] < losses(runtime.reports)[0]
    assert (runtime.reports[-1].validation_metrics["accuracy"] or 0.0) > 0.8
    assert all(report.examples == 86 for report in runtime.reports)
    assert [report.outcome for report in runtime.reports] == ["nothing_yet"] * 3 + ["unchanged"]
    assert [c.id.interval for c in runtime.checkpoints] == [1, 2, 3, 4]
    assert [row["interval"] for c in runtime.checkpoints for row in c.rows["metrics"]] == [1, 2, 3, 4]


def test_trainer_of_the_same_seed_and_id_gives_the_same_bits() -> None:
    config = small_config()
    first, repeated, other = new_trainer(config), new_trainer(config), new_trainer(config, network_id=1)
    before = weights(other)
    for trainer in (first, repeated, other):
        live(trainer, FakeRuntime())
    assert_equal(weights(first), weights(repeated))
    assert not torch.equal(weights(first)["conv1.weight"], weights(other)["conv1.weight"])
    assert not torch.equal(before["conv1.weight"], weights(new_trainer(config))["conv1.weight"])


def test_same_initial_weights_gives_all_networks_equal_weights() -> None:
    config = small_config(population=PopulationConfig(size=2, same_initial_weights=True))
    assert_equal(weights(new_trainer(config)), weights(new_trainer(config, network_id=1)))


@pytest.mark.parametrize("stop_after", [1, 4, 5, 6, 11])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_resume_at_any_step_gives_the_same_bits(stop_after: int, optimizer) -> None:
    config = small_config(optimizer=OptimizerConfig(name=optimizer, learning_rate=0.01))
    whole, runtime = new_trainer(config), FakeRuntime()
    live(whole, runtime)
    first, stopped = new_trainer(config), FakeRuntime(stop_after=stop_after)
    live(first, stopped)
    assert first.step == stop_after
    second, resumed = new_trainer(config), FakeRuntime()
    torch.manual_seed(999)
    second.resume(stopped.checkpoints[-1])
    live(second, resumed)
    assert_equal(weights(whole), weights(second))
    reports = [report for report in stopped.reports if report.outcome] + resumed.reports
    assert [(r.origin.interval, r.train_loss, r.examples) for r in reports] == [
        (r.origin.interval, pytest.approx(r.train_loss), r.examples) for r in runtime.reports
    ]


def test_resume_after_a_stop_before_the_exchange_exchanges_first() -> None:
    config = small_config(staleness=StalenessConfig(max_intervals=9))
    scion = live(new_trainer(config, network_id=1), FakeRuntime())[0]
    whole, runtime = new_trainer(config), FakeRuntime(lambda own: scion)
    live(whole, runtime)
    stopped = FakeRuntime(lambda own: ExchangeOutcome.STOPPING if own.interval == 2 else scion)
    first, second = new_trainer(config), new_trainer(config)
    live(first, stopped)
    last = stopped.checkpoints[-1]
    assert (last.id.interval, last.id.step, stopped.steps) == (1, 6, 6)
    second.resume(last)
    resumed = FakeRuntime(lambda own: scion)
    live(second, resumed)
    assert_equal(weights(whole), weights(second))
    assert [r.outcome for r in resumed.reports] == ["grafted", "grafted", "unchanged"]
    rows = [[report.row(time=0.0) for report in source.reports] for source in (runtime, resumed)]
    own = next(row for row in rows[1] if row["interval"] == 2)  # none of its steps was trained after the resume
    assert own["train_accuracy"] == next(row for row in rows[0] if row["interval"] == 2)["train_accuracy"] > 0
    assert second.origin().trained_intervals == whole.origin().trained_intervals


def test_resume_restores_the_random_state_of_dropout() -> None:
    def build_model(num_classes: int) -> torch.nn.Module:
        return torch.nn.Sequential(
            torch.nn.Conv2d(1, 4, 3), torch.nn.Flatten(), torch.nn.Dropout(0.5), torch.nn.Linear(144, num_classes)
        )

    from inarch.population import ImageClassification

    config = small_config()
    task = ImageClassification(config, tiny_splits(config), factory=build_model)
    whole, first, second = (Trainer(task, config, network_id=0) for _ in range(3))
    live(whole, FakeRuntime())
    stopped = FakeRuntime(stop_after=5)
    live(first, stopped)
    torch.manual_seed(1)
    second.resume(stopped.checkpoints[-1])
    live(second, FakeRuntime())
    assert_equal(weights(whole), weights(second))


def test_leaving_trainer_finishes_and_checkpoints_its_interval() -> None:
    config = small_config(checkpoint=CheckpointConfig(every=3))
    trainer, runtime = new_trainer(config), FakeRuntime()
    runtime.leaves = True
    live(trainer, runtime)
    assert (trainer.interval, trainer.step) == (1, 3)
    assert [c.id.interval for c in runtime.checkpoints] == [1]


def test_checkpoints_are_committed_when_due_and_at_the_end() -> None:
    config = small_config(checkpoint=CheckpointConfig(every=3))
    trainer, runtime = new_trainer(config), FakeRuntime()
    live(trainer, runtime)
    assert [c.id.interval for c in runtime.checkpoints] == [3, 4]
    assert [row["interval"] for row in runtime.checkpoints[0].rows["metrics"]] == [1, 2, 3]
    assert runtime.checkpoints[0].best is not None


def test_checkpoints_are_at_least_so_many_seconds_apart() -> None:
    """An interval takes 3 seconds of the runtime's clock, which counts steps."""
    config = small_config(
        checkpoint=CheckpointConfig(every_seconds=5.0), schedule=ScheduleConfig(epochs=5, batch_size=32)
    )
    trainer, runtime = new_trainer(config), FakeRuntime()
    live(trainer, runtime)
    assert trainer.schedule.interval_steps == 3
    assert [c.id.interval for c in runtime.checkpoints] == [2, 4, 5]


@pytest.mark.parametrize("stores", [False, True])
def test_best_weights_are_those_evaluated_before_the_graft(stores: bool) -> None:
    config = small_config()
    donor = new_trainer(config, network_id=1)
    scion = live(donor, FakeRuntime())[0]
    trainer, runtime = new_trainer(config), FakeRuntime(lambda own: scion)
    runtime.stores = stores
    published = live(trainer, runtime)
    first = runtime.checkpoints[0]
    assert first.best is not None and first.best.keys() == named_tensors(trainer.module).keys()
    assert runtime.reports[0].outcome == "grafted"
    assert torch.equal(first.best["conv1.weight"], published[0].state()["conv1.weight"])
    assert not torch.equal(first.model["conv1.weight"], first.best["conv1.weight"])


def test_best_weights_of_equal_scores_are_the_latest() -> None:
    config = small_config(schedule=ScheduleConfig(epochs=8, batch_size=32, lr_decay="cosine"))
    trainer, runtime = new_trainer(config), FakeRuntime()
    published = live(trainer, runtime)
    scores = [report.validation_metrics["accuracy"] or 0.0 for report in runtime.reports]
    equals = [interval for interval, score in enumerate(scores, start=1) if score == max(scores)]
    assert len(equals) > 1
    assert runtime.checkpoints[-1].training["best_interval"] == equals[-1]
    best = next(checkpoint.best for checkpoint in reversed(runtime.checkpoints) if checkpoint.best is not None)
    assert torch.equal(best["conv1.weight"], published[equals[-1] - 1].state()["conv1.weight"])


DRY_RUNS: dict[str, dict[str, Any]] = {
    "compact, by batch norm": {
        "graft": GraftConfig(criterion="batch_norm"),
        "fusion": FusionConfig(mode="stable", rates=(0.5,)),
    },
    "filters, aligned": {"graft": GraftConfig(level="filter", criterion="batch_norm", channel_matching="weights")},
    "internal": {"graft": GraftConfig(scion="internal")},
    "papa": {"exchange": ExchangeConfig(rule="papa")},
    "wash": {"exchange": ExchangeConfig(rule="wash")},
    "pbt": {"exchange": ExchangeConfig(rule="pbt")},
    "dml": {"exchange": ExchangeConfig(rule="dml")},
    "none": {"exchange": ExchangeConfig(rule="none")},
}


@pytest.mark.parametrize("name", DRY_RUNS)
def test_dry_run_exchange_leaves_the_weights_unchanged(name: str) -> None:
    trainer = new_trainer(small_config(**DRY_RUNS[name]))
    before = weights(trainer)
    trainer.dry_run_exchange()
    assert trainer.progress.grafts == (name not in ("pbt", "none"))
    after = weights(trainer)
    if name != "internal":
        for key, value in before.items():
            torch.testing.assert_close(after[key], value, rtol=1e-5, atol=1e-6)


def test_graft_history_has_a_row_for_each_layer() -> None:
    config = small_config()
    scion = live(new_trainer(config, network_id=1), FakeRuntime())[0]
    trainer, runtime = (
        new_trainer(config),
        FakeRuntime(lambda own: scion if own.interval == 2 else ExchangeOutcome.TOO_STALE),
    )
    live(trainer, runtime)
    assert [report.outcome for report in runtime.reports] == ["too_stale", "grafted", "too_stale", "unchanged"]
    rows = [row for c in runtime.checkpoints for row in c.rows["grafts"]]
    assert [row["layer"] for row in rows] == [unit.name for unit in trainer.units]
    row = rows[0]
    assert (row["rootstock"], row["scion"], row["rootstock_version"], row["scion_version"]) == (0, 1, 2, 1)
    assert (row["staleness_intervals"], row["staleness_steps"]) == (1.0, 3.0)
    assert 0.3 <= 1 - (1 - row["alpha"]) * 2**1.5 <= 0.7
    assert row["scion_information"] == scion.information[0]


def snapshot_of(trainer: Trainer, runtime: FakeRuntime) -> Snapshot:
    return live(trainer, runtime)[-1]


def test_refused_scion_is_reported_by_name_and_not_grafted() -> None:
    staleness = StalenessConfig(max_intervals=0.5)
    config = small_config(schedule=ScheduleConfig(epochs=2, batch_size=32), staleness=staleness)
    good = snapshot_of(new_trainer(config, network_id=1), FakeRuntime())
    poisoned = good.buffer.copy()
    unflatten(poisoned, good.layout)["layer1.0.bn1.running_var"][0] = torch.nan
    behind = dataclasses.replace(good.origin, trained_intervals=0.0)
    cases = {
        "not_finite": dataclasses.replace(good, buffer=poisoned),
        "too_stale": dataclasses.replace(good, origin=behind),
        "structure": dataclasses.replace(good, origin=dataclasses.replace(good.origin, structure="other")),
        "gone": ExchangeOutcome.GONE,
        "late": ExchangeOutcome.LATE,
    }
    for name, scion in cases.items():
        runtime = FakeRuntime(lambda own, scion=scion: scion)
        published = live(new_trainer(config), runtime)
        assert runtime.reports[0].outcome == name
        assert runtime.reports[0].grafts == 0
        saved = runtime.checkpoints[0].model
        assert torch.equal(published[0].state()["conv1.weight"], saved["conv1.weight"])
    information = dataclasses.replace(good, information=(float("nan"), *good.information[1:]))
    runtime = FakeRuntime(lambda own: information)
    live(new_trainer(config), runtime)
    assert runtime.reports[0].outcome == "not_finite"


@pytest.mark.parametrize("mode", ["async", "lockstep"])
def test_exchange_after_the_last_interval_is_only_in_lockstep(mode: Mode) -> None:
    config = small_config(mode=mode, staleness=StalenessConfig(max_intervals=9))
    scion = snapshot_of(new_trainer(config, network_id=1), FakeRuntime())
    fetched_intervals: list[int] = []

    def scion_for(own: SnapshotInfo) -> Snapshot:
        fetched_intervals.append(own.interval)
        return scion

    runtime, trainer = FakeRuntime(scion_for), new_trainer(config)
    published = live(trainer, runtime)
    assert len(published) == 4, "the last snapshot is published in both modes"
    evaluated, last = published[-1].state(), weights(trainer)
    if mode == "async":
        assert fetched_intervals == [1, 2, 3] and runtime.prefetched_for.interval == 3
        assert [report.outcome for report in runtime.reports] == ["grafted"] * 3 + ["unchanged"]
        assert all(torch.equal(last[name], tensor) for name, tensor in evaluated.items())
    else:
        assert fetched_intervals == [1, 2, 3, 4] and runtime.reports[-1].outcome == "grafted"
        assert not torch.equal(last["conv1.weight"], evaluated["conv1.weight"])


def test_graft_does_not_write_to_the_buffer_of_the_scion() -> None:
    config = small_config(staleness=StalenessConfig(max_intervals=9))
    scion = snapshot_of(new_trainer(config, network_id=1), FakeRuntime())
    scion.buffer.flags.writeable = False
    before = scion.buffer.copy()
    runtime = FakeRuntime(lambda own: scion)
    live(new_trainer(config), runtime)
    assert runtime.reports[-1].grafts == 3
    assert np.array_equal(before, scion.buffer)


def test_staleness_discount_lowers_the_weight_of_the_scion() -> None:
    def graft_of(staleness: StalenessConfig) -> tuple[float, float]:
        config = small_config(staleness=staleness)
        scion = live(new_trainer(config, network_id=1), FakeRuntime())[0]
        runtime = FakeRuntime(lambda own: scion if own.interval == 3 else ExchangeOutcome.NOTHING_YET)
        trainer = new_trainer(config)
        live(trainer, runtime)
        rows = [row for c in runtime.checkpoints for row in c.rows["grafts"]]
        return float(np.mean([row["alpha"] for row in rows])), trainer.origin().trained_intervals

    uncorrected = StalenessConfig(policy="none", compensation_intervals=0, max_intervals=5)
    plain, plain_trained = graft_of(uncorrected)
    discounted, discounted_trained = graft_of(dataclasses.replace(uncorrected, policy="polynomial", rate=1.0))
    assert 1 - discounted == pytest.approx((1 - plain) / 3, rel=1e-6)
    assert plain_trained == pytest.approx(4 - 2 * (1 - plain))
    assert discounted_trained == pytest.approx(4 - 2 * (1 - discounted))


@pytest.mark.parametrize("momentum", ["keep", "blend", "reset"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_momentum_after_a_graft_follows_the_graft_config(momentum, optimizer) -> None:
    config = small_config(
        graft=GraftConfig(momentum=momentum),
        schedule=ScheduleConfig(epochs=2, batch_size=32),
        optimizer=OptimizerConfig(name=optimizer, learning_rate=0.01),
    )
    slot = "momentum_buffer" if optimizer == "sgd" else "exp_avg_sq"
    donor, alone = new_trainer(config, network_id=1), new_trainer(config)
    scion, runtime = snapshot_of(donor, FakeRuntime()), FakeRuntime()
    live(alone, runtime)
    own_moment = runtime.checkpoints[0].tensors[f"optimizer.{slot}.conv1.weight"]
    grafting = FakeRuntime(lambda _: scion)
    live(new_trainer(config), grafting)
    first = grafting.checkpoints[0]
    tensors, alpha = first.tensors, first.rows["grafts"][0]["alpha"]
    if momentum == "reset":
        assert not any(name.startswith("optimizer.") for name in tensors)
    elif momentum == "keep":
        assert torch.equal(tensors[f"optimizer.{slot}.conv1.weight"], own_moment)
    else:
        donor_moment = scion.state()[f"{slot}.conv1.weight"]
        torch.testing.assert_close(
            tensors[f"optimizer.{slot}.conv1.weight"], own_moment * alpha + donor_moment * (1 - alpha)
        )


DIVERGING: dict[str, dict[str, Any]] = {
    "grafting": {},
    "alone": {"exchange": ExchangeConfig(rule="none")},
    "noise": {"graft": GraftConfig(scion="noise")},
    "papa": {"exchange": ExchangeConfig(rule="papa")},
    "fused": {
        "fusion": FusionConfig(mode="stable", rates=(0.5,)),
        "schedule": ScheduleConfig(epochs=4, batch_size=32, interval_epochs=4),
    },
}


@pytest.mark.parametrize("name", DIVERGING)
def test_diverging_network_is_an_error_that_names_the_interval(name: str) -> None:
    config = small_config(optimizer=OptimizerConfig(learning_rate=1e30), **DIVERGING[name])
    message = r"network 0 diverged in interval 1: (conv|bn|layer)\S* ?(is|has|a).*learning_rate"
    with pytest.raises(NotFiniteError, match=message):
        live(new_trainer(config), FakeRuntime())


def test_float16_training_on_the_cpu_scales_the_loss() -> None:
    config = small_config(device=DeviceConfig(precision="float16"))
    trainer, runtime = new_trainer(config), FakeRuntime()
    live(trainer, runtime)
    assert runtime.checkpoints[-1].training["scaler"]["scale"] > 1.0
    assert losses(runtime.reports)[-1] < losses(runtime.reports)[0]


class Overflowing(nn.Module):
    """A network whose outputs become too large for float16, in every forward pass or in every third."""

    def __init__(self, num_classes: int, *, every: int = 1) -> None:
        super().__init__()
        self.linear, self.every, self.passes = nn.Linear(64, num_classes), every, 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        return self.linear(images.flatten(1)) * (1e30 if self.passes % self.every == 0 else 1.0)


def test_float16_network_that_overflows_has_diverged() -> None:
    """The scaler skips each step, so the weights stay finite."""
    config = small_config(device=DeviceConfig(precision="float16"))
    task = ImageClassification(config, tiny_splits(config), factory=Overflowing)
    with pytest.raises(NotFiniteError, match="diverged in interval 1: the training loss was NaN or infinite"):
        live(Trainer(task, config, network_id=0), FakeRuntime())


@pytest.mark.parametrize("interval_steps", [None, 1])
def test_float16_network_that_overflows_at_times_trains_on(interval_steps: int | None) -> None:
    schedule = ScheduleConfig(epochs=3, batch_size=16, interval_steps=interval_steps, eval_every="epoch")
    config = small_config(device=DeviceConfig(precision="float16"), schedule=schedule)
    factory = functools.partial(Overflowing, every=3)
    trainer = Trainer(ImageClassification(config, tiny_splits(config), factory=factory), config, network_id=0)
    live(trainer, FakeRuntime())
    assert trainer.is_finished


def test_last_exchange_in_lockstep_measures_batch_norm_again() -> None:
    schedule = ScheduleConfig(epochs=2, batch_size=32, batch_norm_batches=3)
    config = small_config(mode="lockstep", schedule=schedule)
    scion = snapshot_of(new_trainer(config, network_id=1), FakeRuntime())
    trainer, runtime = new_trainer(config), FakeRuntime(lambda own: scion)
    live(trainer, runtime)
    assert runtime.reports[-1].outcome == "grafted"
    measured = with_statistics(trainer.module, trainer.task.batch_norm_inputs())
    for name, tensor in named_tensors(measured).items():
        torch.testing.assert_close(tensor, named_tensors(trainer.module)[name], msg=name)


@pytest.mark.parametrize("is_old", [False, True])
@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
def test_filters_of_a_weight_norm_are_those_of_the_weight(is_old: bool) -> None:
    layer: Any = (nn.utils.weight_norm if is_old else weight_norm)(nn.Conv2d(1, 4, 3))
    module = nn.Sequential(layer, nn.Flatten())
    with torch.no_grad():
        (layer.weight_g if is_old else layer.parametrizations.weight.original0)[:2] = 0.0
    module(torch.zeros(1, 1, 3, 3))
    state = named_tensors(module) | computed_weights(module)
    (row,) = measure_filters(state, convolution_units(module), {}).rows()
    assert row["entropy"] == pytest.approx(float(layer_entropy(layer.weight.detach(), 10)), abs=1e-6)
    assert row["filters"] == 4 and row["invalid_0_001"] == 2
    assert row["mean_l1"] == pytest.approx(float(layer.weight.detach().abs().sum() / 4))


def test_trainer_without_an_exchange_rule_publishes_nothing() -> None:
    config = small_config(exchange=ExchangeConfig(rule="none"))
    runtime = FakeRuntime()
    assert live(new_trainer(config), runtime) == []
    assert {report.outcome for report in runtime.reports} == {"off"}


def test_clone_copies_the_weights_and_interval_of_its_parent() -> None:
    config = small_config(optimizer=OptimizerConfig(learning_rate=(0.05, 0.01)))
    parent = live(new_trainer(config), FakeRuntime())[1]
    clone = new_trainer(config, network_id=1)
    clone.clone_from(parent)
    assert (clone.interval, clone.step, clone.progress.learning_rate) == (2, 6, 0.01)
    assert torch.equal(weights(clone)["linear.weight"], parent.state()["linear.weight"])
    assert clone.origin().trained_intervals == 2.0
    fresh = new_trainer(config, network_id=1)
    fresh.fast_forward(2)
    assert (fresh.interval, fresh.origin().trained_intervals) == (2, 0.0)


def test_clone_copies_the_optimizer_moments_of_its_parent() -> None:
    """AdamW corrects its moments for the number of steps, so a clone needs the step count of its parent."""
    config = small_config(optimizer=OptimizerConfig(name="adamw"), graft=GraftConfig(momentum="blend"))
    parent, clone = new_trainer(config), new_trainer(config, network_id=1)
    snapshot = live(parent, FakeRuntime())[-1]
    clone.clone_from(snapshot)
    steps = {int(state["step"]) for state in clone.optimizer.state.values()}
    assert steps == {int(state["step"]) for state in parent.optimizer.state.values()} == {parent.step}
    moments = [state["exp_avg"] for state in clone.optimizer.state.values()]
    assert all(moment.any() for moment in moments) and len(moments) == len(list(clone.module.parameters()))


def test_resume_from_another_structure_is_a_checkpoint_error() -> None:
    config = small_config()
    runtime = FakeRuntime()
    live(new_trainer(config), runtime)
    other = dataclasses.replace(config, model=dataclasses.replace(config.model, architecture="resnet14"))
    with pytest.raises(CheckpointError, match="another structure"):
        new_trainer(other).resume(runtime.checkpoints[-1])


def test_intervals_in_steps_end_with_a_shorter_interval() -> None:
    config = small_config(schedule=ScheduleConfig(epochs=3, batch_size=32, interval_steps=4))
    trainer, runtime = new_trainer(config), FakeRuntime()
    live(trainer, runtime)
    assert [report.origin.step for report in runtime.reports] == [4, 8, 9]
    assert [report.examples for report in runtime.reports] == [32 + 32 + 22 + 32, 32 + 22 + 32 + 32, 22]


def test_trainer_without_validation_stores_no_best_weights() -> None:
    config = small_config(data=DataConfig(augmentation="none", validation=0.0))
    runtime = FakeRuntime()
    live(new_trainer(config), runtime)
    assert not runtime.reports[-1].is_evaluated
    assert all(c.best is None for c in runtime.checkpoints)


def test_bfloat16_training_in_channels_last_format_learns() -> None:
    config = small_config(device=DeviceConfig(precision="bfloat16", channels_last="on"))
    runtime = FakeRuntime()
    live(new_trainer(config), runtime)
    assert losses(runtime.reports)[-1] < losses(runtime.reports)[0]


def test_unflatten_of_a_staged_state_restores_the_state() -> None:
    state = {
        "weight": torch.randn(3, 5),
        "count": torch.tensor(7),
        "half": torch.randn(9).to(torch.bfloat16),
        "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    }
    layout = layout_of(state)
    staging = StagingBuffer(layout, torch.device("cpu"))
    staging.stage(state)
    unflattened = unflatten(staging.buffer(), layout)
    assert_equal(unflattened, state)
    assert all(entry.offset % 64 == 0 for entry in layout.entries)
    assert layout_of(dict(reversed(state.items()))).fingerprint != layout.fingerprint
    with pytest.raises(StructureError, match="bytes"):
        unflatten(staging.buffer()[:-64], layout)


def test_snapshot_shares_its_buffer_with_the_trained_network() -> None:
    config = small_config()
    trainer, plain = new_trainer(config), tiny_task(config).build(derive_seed(config.seed, 0, "weights"))
    assert_equal(dict(named_tensors(trainer.module)), dict(named_tensors(plain)))
    snapshot = trainer.snapshot(0.0)
    assert_equal(dict(named_tensors(trainer.module)), snapshot.state())
    with torch.no_grad():
        trainer.module.get_parameter("conv1.weight").add_(1.0)
    assert torch.equal(snapshot.state()["conv1.weight"], trainer.module.get_parameter("conv1.weight"))
    live(trainer, FakeRuntime())
    assert_equal(dict(named_tensors(trainer.module)), trainer.snapshot(0.0).state())
    torch.save(trainer.module.state_dict(), io.BytesIO())


def test_alias_parameters_keeps_tied_weights_tied() -> None:
    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
            self.other.weight = self.one.weight

    module = Tied()
    before = {name: tensor.clone() for name, tensor in named_tensors(module).items()}
    staging = StagingBuffer(layout_of(named_tensors(module)), torch.device("cpu"))
    staging.alias_parameters(module)
    assert module.other.weight is module.one.weight
    assert_equal(dict(named_tensors(module)), before)
    staging.stage(named_tensors(module))
    assert_equal(unflatten(staging.buffer(), staging.layout), before)


def test_is_finite_skips_the_keys_given_as_but() -> None:
    (snapshot, *_) = live(new_trainer(small_config()), FakeRuntime())
    unflatten(snapshot.buffer, snapshot.layout)["conv1.weight"][0] = torch.inf
    assert not snapshot.is_finite()
    assert snapshot.is_finite(but={"conv1.weight"})
    unflatten(snapshot.buffer, snapshot.layout)["bn1.bias"][0] = torch.nan
    assert not snapshot.is_finite(but={"conv1.weight"})


def test_swa_averages_the_last_weights_and_survives_a_resume() -> None:
    schedule = ScheduleConfig(epochs=4, batch_size=32, lr_decay="constant")
    config = small_config(schedule=schedule, weight_averaging=WeightAveragingConfig(kind="swa", start=0.5))
    trainer, seen, runtime = new_trainer(config), [], FakeRuntime()
    for _ in trainer.intervals(runtime):
        seen.append({name: tensor.clone() for name, tensor in named_tensors(trainer.module).items()})
    mean = trainer.average.begun
    assert mean is not None
    for name, value in mean.named_parameters():
        torch.testing.assert_close(value.data, (seen[2][name] + seen[3][name]) / 2)
    best = runtime.checkpoints[-1].best or next(
        checkpoint.best for checkpoint in reversed(runtime.checkpoints) if checkpoint.best
    )
    assert best.keys() == named_tensors(trainer.module).keys()
    resumed = new_trainer(config)
    resumed.resume(runtime.checkpoints[-1])
    assert resumed.average.begun is not None
    assert_equal(dict(named_tensors(resumed.average.begun)), dict(named_tensors(mean)))
    assert_equal(dict(runtime.checkpoints[-1].evaluated_state), dict(named_tensors(mean)))
    assert runtime.checkpoints[0].evaluated_state is runtime.checkpoints[0].model, "the mean begins only later"


def test_swa_of_a_shorter_schedule_is_dropped_by_a_longer_one() -> None:
    schedule = ScheduleConfig(epochs=4, batch_size=32, lr_decay="constant")
    config = small_config(schedule=schedule, weight_averaging=WeightAveragingConfig(kind="swa", start=0.5))
    trainer, runtime = new_trainer(config), FakeRuntime()
    list(trainer.intervals(runtime))
    assert trainer.average.begun is not None
    longer = new_trainer(dataclasses.replace(config, schedule=dataclasses.replace(schedule, epochs=12)))
    longer.resume(runtime.checkpoints[-1])
    assert longer.average.begun is None, "the last half of the longer schedule has not begun"
    states = [dict(named_tensors(longer.module)) for _ in longer.intervals(FakeRuntime())]
    assert len(states) == 8 and longer.average.begun is not None


def test_published_units_are_selected_by_the_names_of_weights() -> None:
    def build_model(num_classes: int) -> torch.nn.Module:
        layers = {
            "conv": torch.nn.Conv2d(1, 4, 3),
            "conv_norm": torch.nn.BatchNorm2d(4),
            "pool": torch.nn.AdaptiveAvgPool2d(1),
            "flat": torch.nn.Flatten(),
            "linear": torch.nn.Linear(4, num_classes),
        }
        return torch.nn.Sequential(collections.OrderedDict(layers))

    published = ["conv.weight", "conv.bias", "conv_norm.weight"]
    by_module, as_published = ExchangeConfig(), ExchangeConfig(rule="graft_published")
    for exchange, expected in ((by_module, ["conv.weight"]), (as_published, published)):
        config = small_config(exchange=exchange)
        task = ImageClassification(config, tiny_splits(config), factory=build_model)
        units = Trainer(task, config, network_id=0).units
        assert [unit.name for unit in units][: len(expected)] == expected
        assert (len(units) > 1) == (exchange is as_published)
    config = small_config(graft=GraftConfig(scion="noise"))
    units = Trainer(ImageClassification(config, tiny_splits(config), factory=build_model), config, network_id=0).units
    assert [unit.name for unit in units][:1] == ["conv.weight"] and len(units) == 1, (
        "noise scions apply to convolutions only"
    )


def test_network_itself_is_evaluated_until_the_mean_begins() -> None:
    schedule = ScheduleConfig(epochs=4, batch_size=32, lr_decay="constant")
    config = small_config(schedule=schedule, weight_averaging=WeightAveragingConfig(kind="swa", start=0.5))
    plain = dataclasses.replace(config, weight_averaging=WeightAveragingConfig())
    runtimes = FakeRuntime(), FakeRuntime()
    for run_config, runtime in zip((config, plain), runtimes, strict=True):
        live(new_trainer(run_config), runtime)
    of_mean, of_plain = ([report.validation_metrics["loss"] for report in runtime.reports] for runtime in runtimes)
    assert of_mean[:2] == of_plain[:2] and of_mean[2:] != of_plain[2:]
    early = [runtime.checkpoints[0].best for runtime in runtimes]
    assert early[0] is not None and early[1] is not None
    assert_equal(dict(early[0]), dict(early[1]))


def test_mean_of_a_compact_network_has_its_fusion_buffers() -> None:
    config = small_config(
        weight_averaging=WeightAveragingConfig(kind="ema", decay=0.9),
        fusion=FusionConfig(mode="stable", rates=(0.5,)),
        exchange=ExchangeConfig(rule="none"),
    )
    trainer = new_trainer(config)
    live(trainer, FakeRuntime())
    assert trainer.average.begun is not None
    own, mean = named_tensors(trainer.module), named_tensors(trainer.average.begun)
    structural = [name for name in own if is_structural(name)]
    assert structural
    for name in structural:
        assert torch.equal(mean[name], own[name]), name
    assert not torch.equal(mean["conv1.weight"], own["conv1.weight"])


@pytest.mark.parametrize("is_same", [True, False])
def test_networks_with_equal_beginnings_keep_equal_filters(is_same: bool) -> None:
    config = small_config(
        population=PopulationConfig(size=2, same_initial_weights=is_same),
        fusion=FusionConfig(mode="random", rates=(0.5,)),
        exchange=ExchangeConfig(rule="none"),
    )
    chosen = []
    for network_id in (0, 1):
        trainer = new_trainer(config, network_id=network_id)
        live(trainer, FakeRuntime())
        tensors = named_tensors(trainer.module)
        chosen.append(torch.cat([value for name, value in tensors.items() if name.endswith("fusion_chosen")]))
    assert torch.equal(*chosen) == is_same


def test_ema_differs_from_the_initial_and_the_current_weights() -> None:
    config = small_config(weight_averaging=WeightAveragingConfig(kind="ema", decay=0.5))
    trainer = new_trainer(config)
    before = {name: value.detach().clone() for name, value in trainer.module.named_parameters()}
    live(trainer, FakeRuntime(stop_after=2))
    assert trainer.average.begun is not None
    mean = dict(trainer.average.begun.named_parameters())
    assert all(not torch.equal(mean[name], value) for name, value in trainer.module.named_parameters())
    assert all(not torch.equal(mean[name], value) for name, value in before.items())


def test_recalibrated_batch_norm_has_training_statistics() -> None:
    config = small_config()
    recalibrating = dataclasses.replace(config, schedule=dataclasses.replace(config.schedule, batch_norm_batches=2))
    plain, recalibrated = (tiny_task(run_config) for run_config in (config, recalibrating))
    modules = [task.build(0) for task in (plain, recalibrated)]
    for task, module in zip((plain, recalibrated), modules, strict=True):
        task.validate(module)
    assert torch.equal(modules[0].get_buffer("bn1.running_mean"), torch.zeros(16))
    images = torch.cat(list(recalibrated.batch_norm_inputs()))
    expected = modules[1].get_submodule("conv1")(images).mean((0, 2, 3))
    torch.testing.assert_close(modules[1].get_buffer("bn1.running_mean"), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": OptimizerConfig(learning_rate=0.05)},
        {"optimizer": OptimizerConfig(name="adamw", learning_rate=0.005)},
        {"weight_averaging": WeightAveragingConfig(kind="ema")},
        {"weight_averaging": WeightAveragingConfig(kind="swa", start=0.3)},
        {"staleness": StalenessConfig(compensation_intervals=2)},
    ],
    ids=["sgd", "adamw", "ema", "swa", "compensation"],
)
@pytest.mark.parametrize("stop_after", [6, 7], ids=["between-intervals", "within-an-interval"])
def test_resume_of_a_channels_last_network_gives_the_same_bits(
    tmp_path: Path, changes: dict[str, Any], stop_after: int
) -> None:
    config = small_config(device=DeviceConfig(channels_last="on"), **changes)
    donor, scions = new_trainer(config, network_id=1), {}
    for snapshot in live(donor, FakeRuntime()):
        scions[snapshot.origin.interval] = snapshot
    assert any(not tensor.is_contiguous() for tensor in named_tensors(donor.module).values())

    def scion_for(own: SnapshotInfo) -> Snapshot | ExchangeOutcome:
        return scions[max(1, own.interval - 1)]

    whole, stopped, resumed = (
        FakeRuntime(scion_for),
        FakeRuntime(scion_for, stop_after=stop_after),
        FakeRuntime(scion_for),
    )
    first, second = new_trainer(config), new_trainer(config)
    live(first, whole)
    live(new_trainer(config), stopped)
    store = CheckpointStore(Storage(str(tmp_path)))
    assert store.commit(stopped.checkpoints[-1])
    saved = store.newest(0)
    assert saved is not None
    second.resume(saved)
    live(second, resumed)
    assert_equal(weights(first), weights(second))
    for name, tensor in whole.checkpoints[-1].tensors.items():
        assert torch.equal(tensor, resumed.checkpoints[-1].tensors[name]), name
    assert store.commit(resumed.checkpoints[-1])


@pytest.mark.parametrize("batches", [0, 1])
def test_weights_are_put_before_an_evaluation_that_leaves_them(batches: int) -> None:
    schedule = ScheduleConfig(epochs=3, batch_size=32, batch_norm_batches=batches)
    config = small_config(schedule=schedule)
    runtime = FakeRuntime()
    published = live(Trainer(tiny_task(config), config, network_id=0), runtime)
    assert len(published) == 3 and [snapshot.origin.score is not None for snapshot in published] == [True] * 3
    if batches:  # the evaluation measures batch norm's statistics, which belong to the weights
        assert runtime.put_buffers == []
    else:
        assert [put.tobytes() for put in runtime.put_buffers] == [item.buffer.tobytes() for item in published]
