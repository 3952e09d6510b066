"""Delay compensation: networks lose no training and converge as they do without delay."""

from __future__ import annotations

import dataclasses
from collections import deque

import pytest
import torch
from torch import Tensor

from inarch.population import (
    ExchangeConfig,
    ExchangeOutcome,
    GraftConfig,
    PopulationConfig,
    RunConfig,
    ScheduleConfig,
    Simulation,
    Simulator,
    Snapshot,
    SnapshotInfo,
    StalenessConfig,
)
from inarch.population.errors import ConfigError
from inarch.population.exchange import GraftRule
from inarch.population.exchange.delay_compensation import StateHistory, compensate_delay
from inarch.population.grafting.blending import Blend, blend_all
from inarch.population.state.state_dict import named_tensors
from tests.conftest import small_config, tiny_splits, tiny_task
from tests.fakes.runtime import FakeRuntime, live
from tests.population.exchange.test_rules import copies, make_rootstock, make_scion, origin, state
from tests.population.training.test_trainer import new_trainer

BIAS = "conv1.bias"


def info_at(interval: int) -> SnapshotInfo:
    return dataclasses.replace(origin(0), interval=interval, step=10 * interval)


@pytest.mark.parametrize("scion_weight", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("delays", [(0, 1), (1, 1), (2, 0), (3, 3)])
def test_compensation_with_any_delay_loses_no_training(scion_weight: float, delays: tuple[int, int]) -> None:
    """Two scalar networks train by 1.0 in each interval, so their mean must grow by 1.0 at any delay."""
    now = [{BIAS: torch.tensor([0.0], dtype=torch.float64)}, {BIAS: torch.tensor([8.0], dtype=torch.float64)}]
    histories = [StateHistory(intervals=3) for _ in now]
    published: list[deque[Tensor]] = [deque(maxlen=4) for _ in now]
    for interval in range(1, 301):
        for network_id, weights in enumerate(now):
            weights[BIAS] += 1.0
            published[network_id].append(weights[BIAS].clone())
        for network_id, weights in enumerate(now):
            with histories[network_id].exchange(info_at(interval), weights):
                if len(published[1 - network_id]) > delays[network_id]:
                    scion = {BIAS: published[1 - network_id][-1 - delays[network_id]]}
                    past = histories[network_id].at(interval - delays[network_id])
                    assert (past is None) == (delays[network_id] == 0)
                    if past is not None:
                        scion = compensate_delay(scion, weights, past)
                    weights[BIAS] = (1 - scion_weight) * weights[BIAS] + scion_weight * scion[BIAS]
    first, second = (float(weights[BIAS]) for weights in now)
    assert first == pytest.approx(second, abs=0.02)
    assert 300.0 <= first <= 308.0


def test_state_history_follows_grafts_but_not_training() -> None:
    history, weights = StateHistory(intervals=2), {BIAS: torch.tensor([1.0]), "n.running_var": torch.tensor([1.0])}

    def advance(interval: int, *, trains: float, takes: float) -> None:
        weights[BIAS] += trains
        with history.exchange(info_at(interval), weights):
            weights[BIAS] += takes

    assert history.at(1) is None
    advance(1, trains=0.0, takes=0.5)
    first = history.at(1)
    assert first is not None and (first.interval, first.step) == (1, 10)
    assert first.state.keys() == {BIAS} and float(first.state[BIAS]) == 1.5
    advance(2, trains=2.5, takes=0.25)
    second = history.at(2)
    assert float(first.state[BIAS]) == 1.75 and second is not None and float(second.state[BIAS]) == 4.25
    advance(3, trains=1.0, takes=-0.5)
    nearest = history.at(1)
    assert nearest is not None and nearest.interval == 2 and float(nearest.state[BIAS]) == 3.75
    assert history.at(4) is None


def test_graft_of_a_stale_scion_adds_the_training_since() -> None:
    rule = GraftRule(GraftConfig(criterion="constant"), StalenessConfig())
    own, own_before, scion = state(1), state(2), state(3)
    history = StateHistory(intervals=1)
    history.append(info_at(2), own_before)
    grafted = copies(own)
    stale_scion = dataclasses.replace(make_scion(1, scion, rule), past=history.at(2))
    (contribution,) = rule.apply(make_rootstock(0, grafted, rule), [stale_scion])
    assert contribution.scion_weight == 0.5
    num_compensated = 0
    for key, value in grafted.items():
        if key.endswith(("running_mean", "running_var")):
            torch.testing.assert_close(value, 0.5 * own[key] + 0.5 * scion[key])
        elif value.is_floating_point():
            compensated = scion[key] + own[key] - own_before[key]
            torch.testing.assert_close(value, 0.5 * own[key] + 0.5 * compensated, rtol=1e-5, atol=1e-6)
            num_compensated += not torch.equal(compensated, scion[key])
    assert num_compensated == 9


def test_blend_compensated_in_blocks_equals_the_plain_formula() -> None:
    own, scion, past = (torch.randn(600, 1000, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2, 3))
    blended = own.clone()
    blend_all([Blend(own=blended, scion=scion, alpha=0.7, past=past)])
    torch.testing.assert_close(blended, 0.7 * own + 0.3 * (scion + own - past), rtol=1e-5, atol=1e-5)
    transposed = own.t().clone().t()
    blend_all([Blend(own=transposed, scion=scion, alpha=0.7, past=past)])
    torch.testing.assert_close(transposed, blended)


def test_graft_of_several_scions_compensates_each_by_its_delay() -> None:
    rule = GraftRule(GraftConfig(criterion="constant"), StalenessConfig(policy="none"))
    own, own_before, first_donor, second_donor = state(1), state(2), state(3), state(4)
    history = StateHistory(intervals=1)
    history.append(info_at(2), own_before)
    grafted = copies(own)
    stale_scion = dataclasses.replace(make_scion(1, first_donor, rule), past=history.at(2))
    rule.apply(make_rootstock(0, grafted, rule), [stale_scion, make_scion(2, second_donor, rule)])
    key = "conv1.weight"
    expected = 0.5 * own[key] + 0.25 * (first_donor[key] + own[key] - own_before[key]) + 0.25 * second_donor[key]
    torch.testing.assert_close(grafted[key], expected, rtol=1e-5, atol=1e-6)


def test_run_config_compensates_by_default_where_supported() -> None:
    assert RunConfig().compensation == 2
    for config in (
        RunConfig(mode="lockstep"),
        RunConfig(exchange=ExchangeConfig(rule="papa")),
        RunConfig(graft=GraftConfig(scion="noise")),
        RunConfig(graft=GraftConfig(momentum="blend")),
        RunConfig(staleness=StalenessConfig(compensation_intervals=0)),
    ):
        assert config.compensation == 0
    assert RunConfig(mode="lockstep", staleness=StalenessConfig(compensation_intervals=3)).compensation == 3


def simulate(compensation: int, *, level: str = "layer") -> Simulation:
    """Simulate two networks, of which network 0 is faster and receives scions that are one interval behind."""
    graft = GraftConfig() if level == "layer" else GraftConfig(level="filter", criterion="batch_norm")
    config = small_config(
        population=PopulationConfig(size=2),
        staleness=StalenessConfig(policy="none", compensation_intervals=compensation, max_intervals=2.0),
        graft=graft,
    )
    splits = tiny_splits(config)
    return Simulator(config, lambda: tiny_task(config, splits), step_seconds={0: 1.0, 1: 1.1}).run()


@pytest.mark.parametrize("level", ["layer", "filter"])
def test_compensated_population_keeps_all_trained_intervals(level: str) -> None:
    compensated, plain = simulate(1, level=level), simulate(0, level=level)
    trained = [compensated.trainers[network_id].origin().trained_intervals for network_id in (0, 1)]
    assert trained == pytest.approx([4.0, 4.0], abs=1e-6)
    assert plain.trainers[0].origin().trained_intervals < 3.5
    late = [line for line in compensated.ledger if line.version is not None and line.version < line.interval]
    assert len(late) == 2
    for trainer in compensated.trainers.values():
        assert all(bool(tensor.isfinite().all()) for tensor in trainer.module.state_dict().values())


def test_graft_history_records_the_compensated_intervals() -> None:
    config = small_config(staleness=StalenessConfig(compensation_intervals=1, max_intervals=5))
    scion = live(new_trainer(config, network_id=1), FakeRuntime())[0]
    trainer, runtime = (
        new_trainer(config),
        FakeRuntime(lambda own: scion if own.interval >= 2 else ExchangeOutcome.NOTHING_YET),
    )
    live(trainer, runtime)
    rows = [row for checkpoint in runtime.checkpoints for row in checkpoint.rows["grafts"]]
    recorded = {(row["interval"], row["scion_version"], row["compensated_intervals"]) for row in rows}
    assert recorded == {(2, 1, 1), (3, 1, 1)}
    assert {row["staleness_intervals"] for row in rows if row["interval"] == 2} == {1.0}


@pytest.mark.parametrize("stop_after", [3, 5, *(pytest.param(step, marks=pytest.mark.slow) for step in (1, 6, 9, 11))])
@pytest.mark.parametrize("compensation", [1, 2])
def test_resume_at_any_step_compensates_with_the_same_bits(compensation: int, stop_after: int) -> None:
    config = small_config(
        staleness=StalenessConfig(compensation_intervals=compensation, max_intervals=5),
        schedule=ScheduleConfig(epochs=5, batch_size=32, lr_decay="cosine"),
    )
    scions = live(new_trainer(config, network_id=1), FakeRuntime())

    def scion_for(own: SnapshotInfo) -> Snapshot | ExchangeOutcome:
        return scions[own.interval - 3] if own.interval >= 3 else ExchangeOutcome.NOTHING_YET

    whole = new_trainer(config)
    live(whole, FakeRuntime(scion_for))
    stopped = FakeRuntime(scion_for, stop_after=stop_after)
    live(new_trainer(config), stopped)
    resumed_trainer, resumed = new_trainer(config), FakeRuntime(scion_for)
    resumed_trainer.resume(stopped.checkpoints[-1])
    live(resumed_trainer, resumed)
    rows = [
        row for runtime in (stopped, resumed) for checkpoint in runtime.checkpoints for row in checkpoint.rows["grafts"]
    ]
    assert {(row["interval"], row["compensated_intervals"]) for row in rows} == {
        (interval, compensation) for interval in (3, 4)
    }
    for name, tensor in named_tensors(whole.module).items():
        assert torch.equal(tensor, named_tensors(resumed_trainer.module)[name]), name


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("staleness.compensation_intervals", {"exchange": ExchangeConfig(rule="papa")}),
        ("staleness.compensation_intervals", {"graft": GraftConfig(scion="noise")}),
        ("graft.momentum", {"graft": GraftConfig(momentum="blend")}),
    ],
)
def test_config_that_cannot_compensate_names_the_field(field: str, changes: dict) -> None:
    with pytest.raises(ConfigError, match=field):
        RunConfig(staleness=StalenessConfig(compensation_intervals=1), **changes)
    with pytest.raises(ConfigError, match=r"staleness\.compensation_intervals"):
        StalenessConfig(compensation_intervals=-1)
