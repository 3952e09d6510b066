"""Old scions brought forward: no training is lost, and networks come together as without delay."""

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
from inarch.population.grafting.blending import blend_compensated_
from inarch.population.state.state_dict import named_tensors
from tests.conftest import small_config, tiny_splits, tiny_task
from tests.fakes.runtime import FakeRuntime, live
from tests.population.exchange.test_rules import arrival, copies, origin, rootstock, state
from tests.population.training.test_trainer import new_trainer

BIAS = "conv1.bias"


def at(interval: int) -> SnapshotInfo:
    return dataclasses.replace(origin(0), interval=interval, step=10 * interval)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("delays", [(0, 1), (1, 1), (2, 0), (3, 3)])
def test_networks_that_see_each_other_late_lose_no_training_and_come_together(
    share: float, delays: tuple[int, int]
) -> None:
    """Two numbers, each trained by one every interval: the mean grows by one an interval, whatever the delays."""
    now = [{BIAS: torch.tensor([0.0], dtype=torch.float64)}, {BIAS: torch.tensor([8.0], dtype=torch.float64)}]
    pasts = [StateHistory(intervals=3) for _ in now]
    published: list[deque[Tensor]] = [deque(maxlen=4) for _ in now]
    for interval in range(1, 301):
        for here, weights in enumerate(now):
            weights[BIAS] += 1.0
            published[here].append(weights[BIAS].clone())
        for here, weights in enumerate(now):
            with pasts[here].exchange(at(interval), weights):
                if len(published[1 - here]) > delays[here]:
                    scion = {BIAS: published[1 - here][-1 - delays[here]]}
                    past = pasts[here].at(interval - delays[here])
                    assert (past is None) == (delays[here] == 0)
                    if past is not None:
                        scion = compensate_delay(scion, weights, past)
                    weights[BIAS] = (1 - share) * weights[BIAS] + share * scion[BIAS]
    one, two = (float(weights[BIAS]) for weights in now)
    assert one == pytest.approx(two, abs=0.02)
    assert 300.0 <= one <= 308.0


def test_the_past_moves_with_what_was_taken_in_and_not_with_what_was_trained() -> None:
    past, weights = StateHistory(intervals=2), {BIAS: torch.tensor([1.0]), "n.running_var": torch.tensor([1.0])}

    def lives(interval: int, *, trains: float, takes: float) -> None:
        weights[BIAS] += trains
        with past.exchange(at(interval), weights):
            weights[BIAS] += takes

    assert past.at(1) is None
    lives(1, trains=0.0, takes=0.5)
    first = past.at(1)
    assert first is not None and (first.interval, first.step) == (1, 10)
    assert first.state.keys() == {BIAS} and float(first.state[BIAS]) == 1.5
    lives(2, trains=2.5, takes=0.25)
    second = past.at(2)
    assert float(first.state[BIAS]) == 1.75 and second is not None and float(second.state[BIAS]) == 4.25
    lives(3, trains=1.0, takes=-0.5)
    nearest = past.at(1)
    assert nearest is not None and nearest.interval == 2 and float(nearest.state[BIAS]) == 3.75
    assert past.at(4) is None


def test_a_graft_of_an_old_scion_adds_what_was_trained_since() -> None:
    rule = GraftRule(GraftConfig(criterion="constant"), StalenessConfig())
    own, then, scion = state(1), state(2), state(3)
    past = StateHistory(intervals=1)
    past.append(at(2), then)
    grafted = copies(own)
    came = dataclasses.replace(arrival(1, scion, rule), past=past.at(2))
    (taken,) = rule.apply(rootstock(0, grafted, rule), [came])
    assert taken.scion_weight == 0.5
    moved = 0
    for key, value in grafted.items():
        if key.endswith(("running_mean", "running_var")):
            torch.testing.assert_close(value, 0.5 * own[key] + 0.5 * scion[key])
        elif value.is_floating_point():
            forward = scion[key] + own[key] - then[key]
            torch.testing.assert_close(value, 0.5 * own[key] + 0.5 * forward, rtol=1e-5, atol=1e-6)
            moved += not torch.equal(forward, scion[key])
    assert moved == 9


def test_large_layers_are_blended_in_blocks_to_the_same_values() -> None:
    own, scion, past = (torch.randn(600, 1000, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2, 3))
    blended = own.clone()
    blend_compensated_(blended, scion, past, 0.7)
    torch.testing.assert_close(blended, 0.7 * own + 0.3 * (scion + own - past), rtol=1e-5, atol=1e-5)
    turned = own.t().clone().t()
    blend_compensated_(turned, scion, past, 0.7)
    torch.testing.assert_close(turned, blended)


def test_several_old_scions_are_brought_forward_each_by_its_own_age() -> None:
    rule = GraftRule(GraftConfig(criterion="constant"), StalenessConfig(policy="none"))
    own, then, one, two = state(1), state(2), state(3), state(4)
    past = StateHistory(intervals=1)
    past.append(at(2), then)
    grafted = copies(own)
    old = dataclasses.replace(arrival(1, one, rule), past=past.at(2))
    rule.apply(rootstock(0, grafted, rule), [old, arrival(2, two, rule)])
    key = "conv1.weight"
    expected = 0.5 * own[key] + 0.25 * (one[key] + own[key] - then[key]) + 0.25 * two[key]
    torch.testing.assert_close(grafted[key], expected, rtol=1e-5, atol=1e-6)


def test_old_scions_are_brought_forward_by_default_where_they_can_be() -> None:
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


def simulated(compensation: int, *, level: str = "layer") -> Simulation:
    """Two networks, of which one is always a little ahead: it finds scions that trail by one interval."""
    graft = GraftConfig() if level == "layer" else GraftConfig(level="filter", criterion="batch_norm")
    config = small_config(
        population=PopulationConfig(size=2),
        staleness=StalenessConfig(policy="none", compensation_intervals=compensation, max_intervals=2.0),
        graft=graft,
    )
    splits = tiny_splits(config)
    return Simulator(config, lambda: tiny_task(config, splits), step_seconds={0: 1.0, 1: 1.1}).run()


@pytest.mark.parametrize("level", ["layer", "filter"])
def test_a_compensated_population_keeps_all_training(level: str) -> None:
    compensated, plain = simulated(1, level=level), simulated(0, level=level)
    trained = [compensated.trainers[network_id].origin().trained_intervals for network_id in (0, 1)]
    assert trained == pytest.approx([4.0, 4.0], abs=1e-6)
    assert plain.trainers[0].origin().trained_intervals < 3.5
    late = [line for line in compensated.ledger if line.version is not None and line.version < line.interval]
    assert len(late) == 2
    for trainer in compensated.trainers.values():
        assert all(bool(tensor.isfinite().all()) for tensor in trainer.module.state_dict().values())


def test_the_history_tells_by_how_much_a_scion_was_brought_forward() -> None:
    config = small_config(staleness=StalenessConfig(compensation_intervals=1, max_intervals=5))
    scion = live(new_trainer(config, network_id=1), FakeRuntime())[0]
    trainer, host = (
        new_trainer(config),
        FakeRuntime(lambda own: scion if own.interval >= 2 else ExchangeOutcome.NOTHING_YET),
    )
    live(trainer, host)
    rows = [row for checkpoint in host.checkpoints for row in checkpoint.rows["grafts"]]
    told = {(row["interval"], row["scion_version"], row["compensated_intervals"]) for row in rows}
    assert told == {(2, 1, 1), (3, 1, 1)}
    assert {row["staleness_intervals"] for row in rows if row["interval"] == 2} == {1.0}


@pytest.mark.parametrize("stop_after", [1, 3, 5, 6, 9, 11])
@pytest.mark.parametrize("compensation", [1, 2])
def test_stopped_at_any_step_and_resumed_brings_forward_by_the_same_bits(compensation: int, stop_after: int) -> None:
    config = small_config(
        staleness=StalenessConfig(compensation_intervals=compensation, max_intervals=5),
        schedule=ScheduleConfig(epochs=5, batch_size=32, lr_decay="cosine"),
    )
    scions = live(new_trainer(config, network_id=1), FakeRuntime())

    def pull(own: SnapshotInfo) -> Snapshot | ExchangeOutcome:
        return scions[own.interval - 3] if own.interval >= 3 else ExchangeOutcome.NOTHING_YET

    whole = new_trainer(config)
    live(whole, FakeRuntime(pull))
    stopped = FakeRuntime(pull, stop_after=stop_after)
    live(new_trainer(config), stopped)
    again, resumed = new_trainer(config), FakeRuntime(pull)
    again.resume(stopped.checkpoints[-1])
    live(again, resumed)
    rows = [row for host in (stopped, resumed) for made in host.checkpoints for row in made.rows["grafts"]]
    assert {(row["interval"], row["compensated_intervals"]) for row in rows} == {
        (interval, compensation) for interval in (3, 4)
    }
    for name, tensor in named_tensors(whole.module).items():
        assert torch.equal(tensor, named_tensors(again.module)[name]), name


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("staleness.compensation_intervals", {"exchange": ExchangeConfig(rule="papa")}),
        ("staleness.compensation_intervals", {"graft": GraftConfig(scion="noise")}),
        ("graft.momentum", {"graft": GraftConfig(momentum="blend")}),
    ],
)
def test_what_cannot_be_compensated_is_named(field: str, changes: dict) -> None:
    with pytest.raises(ConfigError, match=field):
        RunConfig(staleness=StalenessConfig(compensation_intervals=1), **changes)
    with pytest.raises(ConfigError, match=r"staleness\.compensation_intervals"):
        StalenessConfig(compensation_intervals=-1)
