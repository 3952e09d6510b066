"""Exchange rules: values by hand and simulated populations."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from inarch.population import (
    CheckpointConfig,
    ExchangeConfig,
    GraftConfig,
    GraftUnit,
    ModelConfig,
    OptimizerConfig,
    PapaConfig,
    PbtConfig,
    PopulationConfig,
    RunConfig,
    ScheduleConfig,
    Simulation,
    Simulator,
    Snapshot,
    SnapshotInfo,
    StalenessConfig,
    TopologyConfig,
    Trainer,
    WashConfig,
    graft_units,
    layer_entropy,
    layer_information,
)
from inarch.population.config.per_network import LEARNING_RATE, NumberRule
from inarch.population.errors import ConfigError, NotFiniteError
from inarch.population.evaluation.filter_statistics import filter_density
from inarch.population.exchange import ExchangeRule, GraftRule, PapaRule, PbtRule, Rootstock, Scion, WashRule
from inarch.population.grafting.criteria import measure
from inarch.population.grafting.criterion_names import NAMES
from inarch.population.grafting.information import (
    differential_entropy,
    effective_rank,
    orthogonality,
    robust_entropy,
)
from inarch.population.grafting.local_scions import internal_scion, noise_scion
from inarch.population.membership.staleness import Staleness
from inarch.population.models import build
from inarch.population.persistence.checkpoint import CheckpointStore
from inarch.population.persistence.storage import Storage
from inarch.population.state.snapshot import StagingBuffer, layout_of
from inarch.population.state.state_dict import named_tensors
from inarch.population.training.run_preparation import describe_run
from tests.conftest import losses, small_config, tiny_splits, tiny_task
from tests.fakes.runtime import FakeRuntime, live

NOW = Staleness(intervals=0.0, steps=0.0, seconds=0.0)
MODULE = build(ModelConfig(architecture="resnet8"), num_classes=4, in_channels=1, seed=0)
UNITS = graft_units(MODULE)


def state(seed: int) -> dict[str, Tensor]:
    """Weights of a resnet8 that is initialized from the seed."""
    model = build(ModelConfig(architecture="resnet8"), num_classes=4, in_channels=1, seed=seed)
    return {name: tensor.clone() for name, tensor in named_tensors(model).items()}


def origin(network_id: int, *, score: float | None = 0.5, rate: float = 0.1) -> SnapshotInfo:
    return SnapshotInfo(
        network_id=network_id,
        incarnation=1,
        interval=3,
        step=30,
        trained_intervals=3.0,
        trained_steps=30.0,
        created_at=0.0,
        structure="same",
        score=score,
        hyperparameters={LEARNING_RATE: rate},
    )


def information_of(rule: ExchangeRule, weights: dict[str, Tensor], network_id: int) -> tuple[float, ...]:
    return (
        rule.information_measure.measure(weights, UNITS, np.random.default_rng([network_id]))
        if rule.information_measure
        else ()
    )


def make_scion(network_id: int, weights: dict[str, Tensor], rule: ExchangeRule, **named: Any) -> Scion:
    layout = layout_of(weights)
    staging = StagingBuffer(layout, torch.device("cpu"))
    staging.stage(weights)
    information = information_of(rule, weights, network_id)
    snapshot = Snapshot(
        origin=origin(network_id, **named), information=information, buffer=staging.buffer().copy(), layout=layout
    )
    return Scion(snapshot=snapshot, staleness=NOW)


def make_rootstock(network_id: int, weights: dict[str, Tensor], rule: ExchangeRule, **named: Any) -> Rootstock:
    return Rootstock(
        origin=origin(network_id, **named),
        state=weights,
        units=UNITS,
        information=information_of(rule, weights, network_id),
        epoch=3.0,
        rate_factor=0.5,
        hyperparameters={LEARNING_RATE: named.get("rate", 0.1)},
        score=named.get("score", 0.5),
        random=np.random.default_rng([7, network_id]),
        common_random=np.random.default_rng(7),
    )


def copies(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in weights.items()}


def test_papa_rule_pulls_toward_the_mean_by_the_rate_factor() -> None:
    rule = PapaRule(PapaConfig(pull=0.2))
    own, first_donor, second_donor = state(1), state(2), state(3)
    grafted = copies(own)
    contributions = rule.apply(
        make_rootstock(0, grafted, rule), [make_scion(1, first_donor, rule), make_scion(2, second_donor, rule)]
    )
    for key, value in grafted.items():
        if value.is_floating_point():
            mean = (own[key] + first_donor[key] + second_donor[key]) / 3
            torch.testing.assert_close(value, 0.9 * own[key] + 0.1 * mean, rtol=1e-5, atol=1e-6)
        else:
            assert torch.equal(value, own[key])
    assert [round(contribution.scion_weight, 9) for contribution in contributions] == [round(0.1 / 3, 9)] * 2


def test_wash_rule_permutes_each_weight_among_the_networks() -> None:
    rule = WashRule(WashConfig(probability=0.4))
    before = [state(seed) for seed in (1, 2, 3)]
    after = [copies(weights) for weights in before]
    for network_id in range(3):
        others = [make_scion(donor_id, before[donor_id], rule) for donor_id in range(3) if donor_id != network_id]
        rule.apply(make_rootstock(network_id, after[network_id], rule), others)
    moved = 0
    for key in before[0]:
        old, new = (torch.stack([weights[key].float() for weights in population]) for population in (before, after))
        assert torch.equal(old.sort(0).values, new.sort(0).values)
        moved += int((old != new).any(0).sum())
    first, last = UNITS[0].name, UNITS[-1].name
    assert moved > 1000
    assert 0.2 < float((before[0][first] != after[0][first]).float().mean()) <= 0.4
    assert torch.equal(before[0][last], after[0][last])


def test_pbt_rule_copies_a_better_network_and_perturbs_its_rate() -> None:
    rule = PbtRule(PbtConfig(factors=(0.5, 2.0)), {LEARNING_RATE: NumberRule()})
    own, better = state(1), state(2)
    weights = copies(own)
    for score in (0.8, math.nan):
        scion = make_scion(1, better, rule, score=score)
        assert rule.apply(make_rootstock(0, weights, rule, score=0.9), [scion]) == ()
    assert all(torch.equal(weights[key], own[key]) for key in own)
    rootstock = make_rootstock(0, weights, rule, score=0.7)
    worse = make_scion(2, state(3), rule, score=0.75)
    (contribution,) = rule.apply(rootstock, [worse, make_scion(1, better, rule, score=0.8, rate=0.3)])
    assert all(torch.equal(weights[key], better[key]) for key in own)
    assert (
        contribution.scion_weight == 1.0
        and contribution.scion is not None
        and contribution.scion.snapshot.origin.network_id == 1
    )
    assert rootstock.reset_momentum and rootstock.hyperparameters[LEARNING_RATE] in (0.15, 0.6)
    assert rootstock.score == 0.8


@pytest.mark.parametrize("multi_donor", ["mean", "best"])
def test_graft_rule_combines_several_donors_by_multi_donor(multi_donor) -> None:
    rule = GraftRule(GraftConfig(multi_donor=multi_donor), StalenessConfig())
    own, first_donor, second_donor = state(1), state(2), state(3)
    grafted = copies(own)
    scions = [make_scion(1, first_donor, rule), make_scion(2, second_donor, rule)]
    rootstock = make_rootstock(0, grafted, rule)
    rule.apply(rootstock, scions)
    singles = []
    for scion in scions:
        alone = copies(own)
        rule.apply(make_rootstock(0, alone, rule), [scion])
        singles.append(alone)
    for index, unit in enumerate(UNITS):
        best = max((0, 1), key=lambda donor: scions[donor].snapshot.information[index])
        for key in (key for key in unit.keys if own[key].is_floating_point()):
            mean = (singles[0][key] + singles[1][key]) / 2
            expected = mean if multi_donor == "mean" else singles[best][key]
            torch.testing.assert_close(grafted[key], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("num_donors", [1, 2])
def test_graft_rule_with_batch_norm_reset_resets_the_statistics(num_donors: int) -> None:
    rule = GraftRule(GraftConfig(batch_norm="reset"), StalenessConfig())
    own, others = state(1), [state(seed) for seed in (2, 3)][:num_donors]
    own["bn1.running_mean"] += 3.0
    rule.apply(make_rootstock(0, own, rule), [make_scion(index + 1, donor, rule) for index, donor in enumerate(others)])
    assert not own["bn1.running_mean"].any() and torch.equal(own["bn1.running_var"], torch.ones(16))


def test_graft_rule_beyond_the_staleness_cutoff_resets_nothing() -> None:
    staleness = StalenessConfig(policy="exponential", cutoff_intervals=2.0)
    rule = GraftRule(GraftConfig(batch_norm="reset", momentum="reset"), staleness)
    own, other = state(1), state(2)
    own["bn1.running_mean"] += 3.0
    before = copies(own)
    for intervals, is_grafted in ((3.0, False), (1.0, True)):
        scion = dataclasses.replace(make_scion(1, other, rule), staleness=dataclasses.replace(NOW, intervals=intervals))
        rootstock = make_rootstock(0, own, rule)
        rule.apply(rootstock, [scion])
        assert rootstock.reset_momentum == is_grafted
        assert all(torch.equal(own[key], before[key]) for key in own) != is_grafted


def test_noise_scion_without_invalid_filters_keeps_momentum() -> None:
    for threshold, is_reset in ((0.0, False), (1e9, True)):
        rule = GraftRule(GraftConfig(scion="noise", momentum="reset", threshold=threshold), StalenessConfig())
        rootstock = make_rootstock(0, state(1), rule)
        rule.apply(rootstock, [])
        assert rootstock.reset_momentum == is_reset


@pytest.mark.parametrize(("mode", "rule"), [("lockstep", "graft"), ("lockstep", "graft_published"), ("async", "graft")])
def test_checkpoints_after_a_reset_have_measured_statistics(mode: Any, rule: Any, tmp_path: Path) -> None:
    config = small_config(mode=mode, graft=GraftConfig(batch_norm="reset"), exchange=ExchangeConfig(rule=rule))
    store, splits = CheckpointStore(Storage(str(tmp_path)), keep=10), tiny_splits(config)
    ledger = Simulator(config, lambda: tiny_task(config, splits), checkpoints=store).run().ledger
    assert any(entry.outcome.value == "grafted" for entry in ledger)
    for network_id in store.networks():
        for checkpoint in store.list(network_id):
            model = store.load(network_id, checkpoint).model
            means = [value for key, value in model.items() if "running_mean" in key]
            assert means and all(value.any() for value in means)


def test_random_criterion_gives_a_pair_alphas_that_sum_to_one() -> None:
    rule = GraftRule(GraftConfig(criterion="random"), StalenessConfig())
    first_state, second_state = state(1), state(2)
    (first,) = rule.apply(make_rootstock(0, copies(first_state), rule), [make_scion(1, second_state, rule)])
    (second,) = rule.apply(make_rootstock(1, copies(second_state), rule), [make_scion(0, first_state, rule)])
    alphas = [(a.alpha, b.alpha) for a, b in zip(first.layers, second.layers, strict=True)]
    assert all(a + b == 1.0 for a, b in alphas) and len({a for a, _ in alphas}) == len(UNITS)


def test_constant_criterion_gives_every_layer_alpha_one_half() -> None:
    rule = GraftRule(GraftConfig(criterion="constant"), StalenessConfig())
    (contribution,) = rule.apply(make_rootstock(0, state(1), rule), [make_scion(1, state(2), rule)])
    assert {record.alpha for record in contribution.layers} == {0.5}


def test_noise_scion_changes_only_invalid_filters_and_decays() -> None:
    unit = (GraftUnit(name="conv.weight", keys=("conv.weight",)),)
    config = GraftConfig(threshold=0.5, noise_decay=0.9)
    weight = torch.ones(200, 10, 3, 3)
    weight[::2] = 0.0
    spreads = []
    for epoch in (0.0, 10.0):
        weights = {"conv.weight": weight.clone()}
        (record,) = noise_scion(weights, unit, config, epoch=epoch, random=np.random.default_rng(0))
        assert torch.equal(weights["conv.weight"][1::2], weight[1::2])
        assert record.alpha == 0.5
        spreads.append(float(weights["conv.weight"][::2].std()))
    assert spreads[0] == pytest.approx(1.0, rel=0.03) and spreads[1] == pytest.approx(0.9**10, rel=0.03)


def test_internal_scion_adds_strong_filters_to_invalid_filters() -> None:
    unit = (GraftUnit(name="conv.weight", keys=("conv.weight",)),)
    weight = torch.tensor([3.0, 0.01, 5.0, 0.02, 0.9]).reshape(5, 1, 1, 1)
    for config in (GraftConfig(criterion="l1", threshold=0.1), GraftConfig()):
        weights = {"conv.weight": weight.clone()}
        (record,) = internal_scion(weights, unit, config)
        assert weights["conv.weight"].flatten().tolist() == pytest.approx([3.0, 5.01, 5.0, 3.02, 0.9])
        assert record.alpha == pytest.approx(0.6)


def test_robust_entropy_is_insensitive_to_an_outlier() -> None:
    weight = torch.randn(64, 64, 3, 3, generator=torch.Generator().manual_seed(0))
    spoiled = weight.clone()
    spoiled[0, 0, 0, 0] = 60.0
    change = {
        name: abs(layer_information(weight, name) - layer_information(spoiled, name))
        for name in ("entropy", "robust_entropy", "differential_entropy")
    }
    assert change["entropy"] > 0.5 and change["robust_entropy"] < 1e-3 and change["differential_entropy"] < 1e-3


def test_differential_entropy_follows_scale_and_stays_finite() -> None:
    weight = torch.randn(32, 16, 3, 3, generator=torch.Generator().manual_seed(0))
    whole, shrunken = float(differential_entropy(weight)), float(differential_entropy(weight * 1e-3))
    assert whole - shrunken == pytest.approx(3 * np.log(10), rel=1e-4)
    assert float(robust_entropy(weight)) == pytest.approx(float(robust_entropy(weight * 1e-3)), abs=1e-3)
    assert np.isfinite(float(differential_entropy(torch.ones(4, 4))))
    normal = torch.randn(200_000, generator=torch.Generator().manual_seed(1))
    entropy = float(differential_entropy(normal, bins=200, tail=0.0))
    assert entropy == pytest.approx(0.5 * np.log(2 * np.pi * np.e), abs=0.05)


def test_orthogonality_is_one_if_disjoint_and_zero_for_copies() -> None:
    assert float(orthogonality(torch.eye(4).reshape(4, 4, 1, 1))) == 1.0
    assert float(orthogonality(torch.ones(4, 2, 3, 3))) == pytest.approx(0.0, abs=1e-12)


def test_effective_rank_counts_the_directions_that_filters_use() -> None:
    weight = torch.randn(16, 8, 3, 3, generator=torch.Generator().manual_seed(0))
    singular = np.linalg.svd(weight.reshape(16, -1).double().numpy(), compute_uv=False)
    shares = singular / singular.sum()
    rank = float(effective_rank(weight))
    assert rank == pytest.approx(-float((shares * np.log(shares)).sum()), abs=1e-6)
    assert float(effective_rank(1e-3 * weight)) == pytest.approx(rank, abs=1e-6)
    assert float(effective_rank(torch.eye(4).reshape(4, 4, 1, 1))) == pytest.approx(np.log(4))
    assert float(effective_rank(torch.ones(4, 2, 3, 3))) == pytest.approx(0.0, abs=1e-6)
    assert float(effective_rank(torch.zeros(4, 2, 3, 3))) == 0.0
    decayed = weight.clone()
    decayed[8:] *= 1e-3
    assert float(effective_rank(decayed)) < rank - 0.5


def test_batch_norm_criterion_without_a_batch_norm_is_an_error() -> None:
    weights = state(1)
    information = measure(weights, UNITS, GraftConfig(criterion="batch_norm"))
    assert information == pytest.approx([1.0] * len(UNITS))
    with pytest.raises(ConfigError, match=r"conv1\.weight has none"):
        measure({"conv1.weight": weights["conv1.weight"]}, [GraftUnit(name="conv1.weight", keys=("conv1.weight",))],
                GraftConfig(criterion="batch_norm"))  # fmt: skip


@pytest.mark.parametrize("criterion", NAMES)
def test_layer_information_of_nonfinite_weights_is_an_error(criterion: str) -> None:
    weight = torch.ones(4, 3, 3, 3)
    weight[1, 2] = float("nan")
    with pytest.raises(NotFiniteError, match=r"conv1\.weight"):
        layer_information(weight, criterion, name="conv1.weight")


def simulate(config: RunConfig) -> Simulation:
    splits = tiny_splits(config)
    return Simulator(config, lambda: tiny_task(config, splits)).run()


RULES: dict[str, dict[str, Any]] = {
    "graft from all": {"exchange": ExchangeConfig(num_donors=2)},
    "graft, momentum blended": {"graft": GraftConfig(momentum="blend"), "exchange": ExchangeConfig(num_donors=2)},
    "graft, AdamW's averages blended": {
        "graft": GraftConfig(momentum="blend"),
        "optimizer": OptimizerConfig(name="adamw", learning_rate=0.01),
    },
    "graft, random": {"graft": GraftConfig(criterion="random")},
    "graft, batch norm": {"graft": GraftConfig(criterion="batch_norm")},
    "internal": {"graft": GraftConfig(scion="internal", threshold=10.0), "population": PopulationConfig(size=1)},
    "noise": {"graft": GraftConfig(scion="noise"), "population": PopulationConfig(size=1)},
    "papa": {"exchange": ExchangeConfig(rule="papa")},
    "wash": {"exchange": ExchangeConfig(rule="wash")},
    "pbt": {"exchange": ExchangeConfig(rule="pbt")},
}


@pytest.mark.parametrize("name", RULES)
def test_every_rule_trains_a_population_reproducibly(name: str) -> None:
    options = {"population": PopulationConfig(size=3), "topology": TopologyConfig(name="complete")} | RULES[name]
    config = small_config(**options)
    assert describe_run(tiny_task(config)).regime is not None  # what the coordinator does before networks start
    first, repeated = simulate(config), simulate(config)
    assert first.ledger == repeated.ledger
    outcomes = {line.outcome for line in first.ledger}
    assert "grafted" in outcomes and outcomes <= {"grafted", "unchanged", "nothing_yet"}
    for network_id, trainer in first.trainers.items():
        own = losses(first.reports[network_id])
        assert own[-1] < 0.8 * own[0]
        repeated_weights = named_tensors(repeated.trainers[network_id].module)
        assert all(torch.equal(value, repeated_weights[key]) for key, value in named_tensors(trainer.module).items())


def test_trainer_with_noise_scions_publishes_nothing() -> None:
    config = small_config(graft=GraftConfig(scion="noise"), population=PopulationConfig(size=2))
    assert not Trainer(tiny_task(config), config, network_id=0).publishes
    assert {line.scion for line in simulate(config).ledger if line.outcome == "grafted"} == {None}


def test_pbt_rule_does_not_copy_again_before_an_evaluation() -> None:
    schedule = ScheduleConfig(epochs=2, batch_size=32, lr_decay="cosine", interval_steps=1, eval_every="epoch")
    staleness = StalenessConfig(max_intervals=100.0, compensation_intervals=0)
    config = small_config(exchange=ExchangeConfig(rule="pbt"), schedule=schedule, staleness=staleness)
    (donor, *_) = live(Trainer(tiny_task(config), config, network_id=1), FakeRuntime())
    donor = dataclasses.replace(donor, origin=dataclasses.replace(donor.origin, score=1.0))
    runtime = FakeRuntime(lambda own: donor)
    live(Trainer(tiny_task(config), config, network_id=0), runtime)
    assert [report.outcome for report in runtime.reports][:5] == [
        "unchanged",
        "unchanged",
        "grafted",
        "unchanged",
        "unchanged",
    ]


def test_checkpoint_stores_the_learning_rate_copied_by_pbt() -> None:
    exploit = PbtConfig(factors=(0.5, 0.5))
    three = PopulationConfig(size=3)
    config = small_config(exchange=ExchangeConfig(rule="pbt"), pbt=exploit, population=three)
    result = simulate(config)
    copied = {line.network_id for line in result.ledger if line.outcome == "grafted"}
    assert copied
    for network_id in copied:
        trainer = result.trainers[network_id]
        resumed = Trainer(tiny_task(config), config, network_id=network_id)
        resumed.resume(trainer.checkpoint())
        assert resumed.progress.learning_rate == trainer.progress.learning_rate < 0.05


def test_eval_every_epoch_evaluates_and_saves_at_epoch_ends() -> None:
    schedule = ScheduleConfig(epochs=3, batch_size=32, lr_decay="cosine", interval_steps=2, eval_every="epoch")
    config = small_config(schedule=schedule)
    reports = simulate(config).reports[0]
    assert [report.is_evaluated for report in reports] == [False, True, True, False, True]
    trainer, runtime = Trainer(tiny_task(config), config, network_id=0), FakeRuntime()
    live(trainer, runtime)
    assert [checkpoint.id.interval for checkpoint in runtime.checkpoints] == [2, 3, 5]


def test_pbt_config_without_validation_images_is_an_error() -> None:
    config = small_config(exchange=ExchangeConfig(rule="pbt"))
    with pytest.raises(ConfigError, match=r"data\.validation"):
        dataclasses.replace(config, data=dataclasses.replace(config.data, validation=0.0))
    of_its_own = dataclasses.replace(config.data, validation=0.0, validation_set="images")
    assert dataclasses.replace(config, data=of_its_own).data.validation_set == "images"


@pytest.mark.parametrize("graft", [GraftConfig(), GraftConfig(criterion="l1"), GraftConfig(bins=5)])
def test_filter_history_does_not_depend_on_the_graft_criterion(graft: GraftConfig) -> None:
    config = small_config(
        graft=graft, checkpoint=CheckpointConfig(every=99), schedule=ScheduleConfig(epochs=1, batch_size=32)
    )
    trainer, runtime = Trainer(tiny_task(config), config, network_id=0), FakeRuntime()
    live(trainer, runtime)
    rows, weights = runtime.checkpoints[-1].rows["filters"], named_tensors(trainer.module)
    assert [row["layer"] for row in rows] == [unit.name for unit in trainer.units]
    for row in rows:
        weight = weights[row["layer"]]
        norms = weight.abs().flatten(1).sum(1)
        assert row["entropy"] == pytest.approx(float(layer_entropy(weight)), rel=1e-12)
        assert row["mean_l1"] == pytest.approx(float(norms.mean()), rel=1e-5)
        assert (row["filters"], row["invalid_1"]) == (len(weight), int((norms < 1.0).sum()))


def test_filter_density_splits_filters_by_baseline_validity() -> None:
    baseline = {"conv.weight": torch.tensor([1.0, 0.01, 2.0]).reshape(3, 1, 1, 1)}
    weights = {"conv.weight": torch.tensor([4.0, 3.0, 2.0]).reshape(3, 1, 1, 1)}
    density = filter_density(weights, baseline, threshold=0.1)
    assert (density.num_valid, density.num_invalid, density.valid, density.invalid) == (2, 1, 3.0, 3.0)
    assert filter_density(weights, weights, threshold=0.1).invalid is None
