"""Simulated populations on virtual time: every network finishes, and each repetition gives the same bits."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, Literal

import numpy as np
import pytest
import torch

from inarch.population import (
    DataConfig,
    ExchangeConfig,
    GraftConfig,
    ImageClassification,
    Join,
    Leave,
    Loss,
    OptimizerConfig,
    PopulationConfig,
    RunConfig,
    ScheduleConfig,
    Simulation,
    Simulator,
    StalenessConfig,
    TimeoutsConfig,
    TopologyConfig,
    Trainer,
)
from inarch.population.config import SnapshotPrecision
from inarch.population.data import load_splits
from inarch.population.errors import ConfigError
from inarch.population.persistence.interval_report import IntervalReport
from inarch.population.state.state_dict import named_tensors
from tests.conftest import small_config, tiny_splits, tiny_task

STEPS = 3
"""Steps per interval in these tests."""


def simulate(config: RunConfig, observe=None, **options) -> Simulation:
    splits = tiny_splits(config)
    return Simulator(config, lambda: tiny_task(config, splits), **options).run(observe)


def config_of(size: int, **changes) -> RunConfig:
    return small_config(population=PopulationConfig(size=size), **changes)


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in named_tensors(trainer.module).items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("mode", ["async", "lockstep"])
def test_simulator_with_the_same_seed_gives_the_same_ledger(mode) -> None:
    config = config_of(3, mode=mode)
    speeds = {0: 1.0, 1: 1.3, 2: 0.7}
    first, repeated = (simulate(config, step_seconds=speeds) for _ in range(2))
    assert first.ledger == repeated.ledger
    assert all(same(weights(first.trainers[n]), weights(repeated.trainers[n])) for n in range(3))
    assert {n: len(reports) for n, reports in first.reports.items()} == {0: 4, 1: 4, 2: 4}


def test_lockstep_pair_has_the_same_bits_after_each_graft() -> None:
    after: dict[int, list[dict[str, torch.Tensor]]] = defaultdict(list)

    def observe(network_id: int, trainer: Trainer, report: IntervalReport) -> None:
        assert report.outcome == "grafted"
        after[report.origin.interval].append(weights(trainer))

    config = config_of(
        2, mode="lockstep", graft=GraftConfig(batch_norm="blend"), staleness=StalenessConfig(policy="none")
    )
    result = simulate(config, observe=observe)
    assert sorted(after) == [1, 2, 3, 4]
    for first, second in after.values():
        assert same(first, second)
    momentum = [trainer.checkpoint().tensors for trainer in result.trainers.values()]
    assert not torch.equal(*(m["optimizer.momentum_buffer.conv1.weight"] for m in momentum))


def test_lockstep_grafts_the_same_version_in_every_network() -> None:
    result = simulate(config_of(4, mode="lockstep"), step_seconds={0: 2.0})
    assert all(line.version == line.interval and line.scion == (line.network_id - 1) % 4 for line in result.ledger)


def finish_times(result: Simulation) -> dict[int, float]:
    return {line.network_id: line.seconds for line in result.ledger}


def test_straggler_delays_the_other_networks_only_in_lockstep() -> None:
    config = config_of(4, staleness=StalenessConfig(max_intervals=9))
    plain, slowed = simulate(config), simulate(config, step_seconds={0: 5.0})
    assert (
        {n: finish_times(slowed)[n] for n in (1, 2, 3)}
        == {n: finish_times(plain)[n] for n in (1, 2, 3)}
        == dict.fromkeys((1, 2, 3), 12.0)
    )
    assert finish_times(slowed)[0] == 60.0
    barrier = simulate(config_of(4, mode="lockstep"), step_seconds={0: 5.0})
    assert set(finish_times(barrier).values()) == {60.0}


def test_straggler_that_is_too_stale_is_replaced_as_donor() -> None:
    config = config_of(
        3, schedule=ScheduleConfig(epochs=8, batch_size=32), staleness=StalenessConfig(max_intervals=1.0)
    )
    result = simulate(config, step_seconds={0: 8.0})
    late = [line for line in result.ledger if line.network_id == 1 and 4 <= line.interval < 8]
    assert {line.scion for line in late} == {2}
    assert all(line.outcome == "grafted" for line in late)


def test_straggler_grafts_from_finished_networks_until_its_end() -> None:
    result = simulate(config_of(4, schedule=ScheduleConfig(epochs=12, batch_size=32)), step_seconds={0: 4.0})
    outcomes = [line.outcome for line in result.ledger if line.network_id == 0]
    assert outcomes == ["grafted"] * 11 + ["unchanged"]
    assert result.reports[0][-1].origin.trained_intervals > 12 + 2, (
        "trained intervals exceed those of the other networks by more than the limit"
    )


def test_snapshot_with_a_publish_delay_is_fetched_later() -> None:
    result = simulate(config_of(2), post_seconds=STEPS - 0.5)
    versions = {line.interval: line.version for line in result.ledger if line.network_id == 1}
    assert versions == {1: None, 2: 1, 3: 2, 4: None}


@pytest.mark.parametrize("mode", ["async", "lockstep"])
def test_lost_network_resumes_and_trains_every_interval(mode) -> None:
    config = config_of(3, mode=mode, staleness=StalenessConfig(max_intervals=9))
    result = simulate(config, events=[Loss(seconds=7.5, network_id=1, restart_seconds=4.0)])
    intervals = {n: [report.origin.interval for report in reports] for n, reports in result.reports.items()}
    assert intervals == {n: [1, 2, 3, 4] for n in range(3)}
    assert [line.incarnation for line in result.ledger if line.network_id == 1] == [1, 1, 2, 2]
    if mode == "async":
        assert {n: finish_times(result)[n] for n in (0, 2)} == {0: 12.0, 2: 12.0}
    else:
        plain = simulate(config)
        assert all(same(weights(result.trainers[n]), weights(plain.trainers[n])) for n in range(3))


def test_network_lost_before_its_first_checkpoint_starts_over() -> None:
    result = simulate(config_of(2), events=[Loss(seconds=1.0, network_id=0)])
    assert [report.origin.interval for report in result.reports[0]] == [1, 2, 3, 4]
    assert {line.incarnation for line in result.ledger if line.network_id == 0} == {2}


@pytest.mark.parametrize("mode", ["async", "lockstep"])
@pytest.mark.parametrize("is_fresh", [False, True])
def test_joined_network_starts_at_the_populations_interval(mode, is_fresh: bool) -> None:
    config = config_of(2, mode=mode, staleness=StalenessConfig(max_intervals=9))
    result = simulate(config, events=[Join(seconds=6.5, is_fresh=is_fresh)])
    assert [report.origin.interval for report in result.reports[2]] == ([3, 4] if mode == "async" else [4])
    first = result.reports[2][0].origin
    assert first.trained_intervals == (1.0 if is_fresh else first.interval)
    assert {n: len(result.reports[n]) for n in (0, 1)} == {0: 4, 1: 4}


@pytest.mark.parametrize("is_fresh", [False, True])
def test_network_that_joins_after_the_end_is_retired(is_fresh: bool) -> None:
    config = config_of(2)
    splits = tiny_splits(config)
    simulator = Simulator(config, lambda: tiny_task(config, splits), events=[Join(seconds=50.0, is_fresh=is_fresh)])
    result = simulator.run()
    assert 2 not in result.reports
    assert [member.state.value for member in simulator.state.members] == ["done", "done", "retired"]


def test_untrained_joined_network_is_not_a_donor() -> None:
    schedule = ScheduleConfig(epochs=12, batch_size=32)
    config = config_of(2, schedule=schedule, graft=GraftConfig(a=0.0))
    result = simulate(config, events=[Join(seconds=18.5, is_fresh=True)])
    joined = result.reports[2][0].origin
    first = next(line for line in result.ledger if line.scion == 2)
    assert joined.trained_intervals == 1.0
    assert first.version is not None and first.version > joined.interval


def test_leaving_network_finishes_its_interval_and_ring_closes() -> None:
    result = simulate(config_of(3), events=[Leave(seconds=4.0, network_id=1)])
    assert [report.origin.interval for report in result.reports[1]] == [1, 2]
    late = [line for line in result.ledger if line.network_id == 2 and line.interval == 3]
    assert late[0].scion == 0


def test_lockstep_barrier_is_released_without_a_leaving_network() -> None:
    result = simulate(config_of(3, mode="lockstep"), events=[Leave(seconds=4.0, network_id=1)])
    assert {n: len(reports) for n, reports in result.reports.items()} == {0: 4, 1: 2, 2: 4}


@pytest.mark.parametrize("mode", ["async", "lockstep"])
def test_networks_without_a_process_leave_at_once(mode: Literal["async", "lockstep"]) -> None:
    config = config_of(3, mode=mode)
    splits = tiny_splits(config)
    events = (
        Join(seconds=0.5),
        Leave(seconds=0.6, network_id=3),  # in lockstep it still waits to join
        Loss(seconds=4.0, network_id=1, restart_seconds=5.0),
        Leave(seconds=6.0, network_id=1),
        Leave(seconds=900.0, network_id=0),  # when it has ended
    )
    simulator = Simulator(config, lambda: tiny_task(config, splits), events=events)
    result = simulator.run()
    assert [member.state.value for member in simulator.state.members] == ["done", "retired", "done", "retired"]
    assert [len(result.reports[number]) for number in (0, 2)] == [4, 4] and len(result.reports[1]) < 3
    for event in (Leave(seconds=1.0, network_id=7), Loss(seconds=1.0, network_id=7)):
        with pytest.raises(ConfigError, match="there is no network 7 at 1 s"):
            simulate(config, events=[event])


def test_lockstep_barrier_times_out_at_its_deadline() -> None:
    config = config_of(2, mode="lockstep", timeouts=TimeoutsConfig(barrier_seconds=5.0))
    result = simulate(config, events=[Loss(seconds=4.0, network_id=0, restart_seconds=1000.0)])
    timed_out = [line for line in result.ledger if line.outcome == "barrier_timeout"]
    assert timed_out and timed_out[0].network_id == 1
    assert len(result.reports[1]) == 4


@pytest.mark.parametrize("restart_seconds", [20.0, 700.0])
def test_late_network_passes_released_barriers_to_the_end(restart_seconds: float) -> None:
    config = config_of(3, mode="lockstep", timeouts=TimeoutsConfig(barrier_seconds=5.0))
    result = simulate(config, events=[Loss(seconds=4.0, network_id=1, restart_seconds=restart_seconds)])
    assert {n: trainer.interval for n, trainer in result.trainers.items()} == {0: 4, 1: 4, 2: 4}
    slow = simulate(config, step_seconds={1: 4.0})
    assert {n: trainer.interval for n, trainer in slow.trainers.items()} == {0: 4, 1: 4, 2: 4}


def test_population_of_a_single_network_reports_no_neighbor() -> None:
    result = simulate(config_of(1))
    assert [line.outcome for line in result.ledger] == ["no_neighbor"] * 3 + ["unchanged"]


def initial_networks_accuracy(seed: int, *, joins: bool) -> float:
    config = RunConfig(
        model=small_config().model,
        data=DataConfig(augmentation="crop", padding=1),
        population=PopulationConfig(size=2),
        schedule=ScheduleConfig(epochs=8, batch_size=64, lr_decay="cosine"),
        optimizer=OptimizerConfig(learning_rate=0.1),
        seed=seed,
    )
    splits = load_splits(config.data, seed=seed)
    steps = ImageClassification(config, splits).steps_per_epoch
    events = [Join(seconds=4.5 * steps, is_fresh=True)] if joins else []
    result = Simulator(config, lambda: ImageClassification(config, splits), events=events).run()
    assert len(result.reports) == (3 if joins else 2)
    return float(np.mean([result.reports[n][-1].validation_metrics["accuracy"] or 0.0 for n in (0, 1)]))


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [(0,), (1, 2, 3)])
def test_fresh_join_at_half_time_does_not_lower_accuracy(seeds: tuple[int, ...]) -> None:
    differences = [
        initial_networks_accuracy(seed, joins=True) - initial_networks_accuracy(seed, joins=False) for seed in seeds
    ]
    assert np.mean(differences) > -0.01


RULES = {
    "graft": {},
    "two donors": {"exchange": {"num_donors": 2}, "topology": TopologyConfig(name="complete")},
    "filters": {"graft": GraftConfig(level="filter", criterion="l1")},
    "matched channels": {"graft": GraftConfig(channel_matching="weights")},
    "momentum": {"graft": GraftConfig(momentum="blend")},
    **{
        rule: {"exchange": {"rule": rule}, "data": DataConfig(validation=0.2)}
        for rule in ("graft_published", "papa", "wash", "pbt", "dml")
    },
}


QUICK = ("graft", "filters", "papa")
"""Rules whose packed snapshots the default tests exchange. The slow tests exchange those of all rules."""

PACKED = [
    ("graft", "float16"),
    *(pytest.param(rule, "int8", marks=[] if rule in QUICK else pytest.mark.slow) for rule in RULES),
]


@pytest.mark.parametrize(("rule", "precision"), PACKED)
def test_population_exchanges_packed_snapshots(rule: str, precision: SnapshotPrecision) -> None:
    changes: dict[str, Any] = dict(RULES[rule])
    exchange = changes.pop("exchange", {})
    schedule = ScheduleConfig(epochs=3, batch_size=32)
    runs = [
        simulate(config_of(3, schedule=schedule, exchange=ExchangeConfig(**exchange, precision=value), **changes))
        for value in ("float32", precision)
    ]
    outcomes = [[(line.network_id, line.outcome, line.version) for line in run.ledger] for run in runs]
    assert outcomes[0] == outcomes[1] or rule == "pbt"
    exact, rounded = (weights(run.trainers[0]) for run in runs)
    assert not same(exact, rounded) or rule == "pbt"
    assert all(torch.isfinite(tensor).all() for tensor in rounded.values())


def test_lockstep_pair_differs_by_the_rounding_alone() -> None:
    """With float32 the two networks have equal bits after a graft. Packed, each has rounded only the other's part."""
    after: dict[int, list[dict[str, torch.Tensor]]] = defaultdict(list)

    def observe(network_id: int, trainer: Trainer, report: IntervalReport) -> None:
        after[report.origin.interval].append(weights(trainer))

    config = config_of(
        2,
        mode="lockstep",
        graft=GraftConfig(batch_norm="blend"),
        staleness=StalenessConfig(policy="none"),
        exchange=ExchangeConfig(precision="int8"),
    )
    simulate(config, observe=observe)
    first, second = after[1]
    for name, tensor in first.items():
        difference = float((tensor - second[name]).abs().max())
        if tensor.dim() < 2:
            assert difference == 0.0, name
        else:
            assert 0.0 < difference <= 2 * float(tensor.abs().max()) / 127, name


def test_network_that_joins_clones_a_packed_snapshot() -> None:
    result = simulate(config_of(2, exchange=ExchangeConfig(precision="float16")), events=[Join(seconds=4.0)])
    assert 1 <= len(result.reports[2]) < 4
    joined = result.reports[2][0].origin
    assert joined.trained_intervals == joined.interval, "it has the training of its parent"
    assert all(torch.isfinite(tensor).all() for tensor in weights(result.trainers[2]).values())


def test_network_of_absurd_scale_is_refused_by_all_others() -> None:
    def observe(network_id: int, trainer: Trainer, report: IntervalReport) -> None:
        if network_id == 0 and report.origin.interval == 2:
            with torch.no_grad():
                for parameter in trainer.module.parameters():
                    parameter.mul_(1e4)

    result = simulate(config_of(3, exchange=ExchangeConfig(num_donors=1)), observe=observe)
    outcomes = {line.outcome for line in result.ledger if line.network_id == 1 and line.interval == 3}
    assert outcomes == {"diverging"}
    assert all(value.abs().max() < 100.0 for n in (1, 2) for value in weights(result.trainers[n]).values())
