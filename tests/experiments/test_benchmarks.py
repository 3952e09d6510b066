"""The benchmarks in tiny settings: what they measure is what they say, and the JSON can be read."""

from __future__ import annotations

import dataclasses
import functools
import json
import math

import numpy as np
import pyarrow.fs as pafs
import pytest
import torch
from rich.console import Console

from inarch.experiments.benchmarks import BENCHMARKS, run_benchmarks
from inarch.experiments.benchmarks.exchange import Peer, exchange
from inarch.experiments.benchmarks.fusion import fusion
from inarch.experiments.benchmarks.harness import Measurement, Must, Row, machine, ratio, table, to_json
from inarch.experiments.benchmarks.input import read_input, synthetic_images
from inarch.experiments.benchmarks.overhead import overhead, plain_loop
from inarch.experiments.benchmarks.reference_graft import published_alphas, published_blend, published_entropy
from inarch.experiments.benchmarks.runs import Track, rates
from inarch.experiments.benchmarks.straggler import pace, straggler
from inarch.population import models
from inarch.population.config import DataConfig, ModelConfig, PopulationConfig, RunConfig, ScheduleConfig
from inarch.population.data import write_arrow
from inarch.population.errors import ConfigError
from inarch.population.grafting.layer_level import graft
from inarch.population.grafting.reference import graft_published


@pytest.fixture(autouse=True)
def _threads():
    """The benchmarks compute on one thread; what comes after them is not to."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def _check(measurement: Measurement) -> None:
    """Every row has as many finite values as were measured, and JSON takes it all."""
    found = json.loads(json.dumps(to_json(measurement, machine())))
    assert found["repeats"] == measurement.repeats and found["machine"]["cores"] >= 1
    for row in found["rows"]:
        assert all(math.isfinite(value) for value in row["values"]), row
        assert row["min"] <= row["median"] <= row["max"], row
        assert (row["reached"] is None) == (row["must"] is None), row
    Console(width=160, quiet=True).print(table(measurement))


def test_a_ratio_is_taken_pair_by_pair():
    row = ratio("a / b", [2.0, 30.0, 4.0], [1.0, 10.0, 1.0], Must(rule="at least", limit=3.0))
    assert row.values == (2.0, 3.0, 4.0)
    assert row.median == 3.0 and row.reached is True


def test_what_is_not_reached_is_said():
    assert Row(what="x", unit="x", values=(6.0,), must=Must(rule="at most", limit=5.0)).reached is False
    assert Row(what="x", unit="x", values=(6.0,)).reached is None


def test_rates_count_only_the_time_in_which_all_train():
    one = _track(seconds=[0.0, 10.0, 20.0], images=[100, 200, 300], cpu=[0.0, 5.0, 10.0])
    late = _track(seconds=[10.0, 15.0, 30.0], images=[50, 100, 250], cpu=[0.0, 5.0, 20.0])
    found = rates([one, late])
    assert found.images_per_second == pytest.approx((100 + 100) / 10)
    assert found.cpu_seconds_per_image == pytest.approx((5.0 + 10.0) / 200)


def test_networks_that_did_not_train_side_by_side_have_no_rate():
    early = _track(seconds=[0.0, 1.0], images=[1, 2], cpu=[0.0, 1.0])
    late = _track(seconds=[2.0, 3.0], images=[1, 2], cpu=[0.0, 1.0])
    with pytest.raises(ValueError, match="side by side"):
        rates([early, late])


def test_pace_counts_the_last_seconds_only():
    assert pace([0.0, 100.0, 101.0, 102.0], 5.0) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="no two intervals"):
        pace([0.0, 100.0], 5.0)


def test_the_published_graft_is_that_of_the_reference_mode():
    own, scion = (_state(seed) for seed in (0, 1))
    expected = graft_published(own, scion)
    alphas = published_alphas(own, scion)
    found = published_blend(own, scion, alphas)
    assert alphas == pytest.approx({layer.layer: layer.alpha for layer in expected.layers})
    for key, weight in expected.state.items():
        torch.testing.assert_close(found[key].to(weight.dtype), weight, rtol=1e-6, atol=1e-7)


def test_the_published_entropy_leaves_the_greatest_weight_out():
    weight = torch.tensor([0.0, 0.25, 0.75, 1.0])
    assert published_entropy(weight, bins=2) == pytest.approx(-0.5 * math.log(0.5) - 0.25 * math.log(0.25))


def test_peers_graft_as_the_library_does():
    donor, rootstock = Peer("resnet8", 0), Peer("resnet8", 1)
    own = {key: tensor.clone() for key, tensor in rootstock.model.state_dict().items()}
    expected = graft(own, donor.model.state_dict())
    seconds, snapshot = donor.stage()
    seconds |= rootstock.apply(snapshot)
    assert seconds.keys() == {"information", "stage", "blend", "remember"}
    for key, weight in rootstock.model.state_dict().items():
        torch.testing.assert_close(weight, expected.state[key], rtol=1e-6, atol=1e-7)


def test_peers_graft_as_published_through_a_file(tmp_path):
    donor, rootstock = Peer("resnet8", 0), Peer("resnet8", 1)
    own = {key: tensor.clone() for key, tensor in rootstock._published.state_dict().items()}
    scion = donor._published.state_dict()
    expected = published_blend(own, scion, published_alphas(own, scion))
    path = str(tmp_path / "model.pth.tar")
    seconds = donor.save(path) | rootstock.graft_as_published(path) | rootstock.floor()
    assert all(value > 0 for value in seconds.values())
    for key, weight in rootstock._published.state_dict().items():
        assert torch.equal(weight, expected[key].to(weight.dtype)), key


def test_input_reads_both_ways():
    measurement = read_input(repeats=2, num_images=256, batch_size=64, workers=0)
    _check(measurement)
    assert [len(row.values) for row in measurement.rows] == [2, 2, 2]


def test_a_plain_loop_trains_every_image_of_every_epoch(tmp_path):
    path = tmp_path / "train.arrow"
    write_arrow(synthetic_images(100, seed=0), pafs.LocalFileSystem(), str(path))
    config = RunConfig(
        model=ModelConfig(architecture="resnet8"),
        data=DataConfig(train=str(path)),
        population=PopulationConfig(size=2),
        schedule=ScheduleConfig(epochs=3, batch_size=32),
    )
    track = plain_loop(config, 0)
    assert track.images.tolist() == [90, 180, 270]
    found = rates([track, dataclasses.replace(track, seconds=track.seconds + 1e-4)])
    assert found.images_per_second > 0 and found.cpu_seconds_per_image > 0


def test_the_command_writes_json(tmp_path, monkeypatch):
    tiny = functools.partial(read_input, num_images=128, batch_size=64, workers=0)
    monkeypatch.setitem(BENCHMARKS, "input", tiny)
    out = tmp_path / "bench.json"
    assert run_benchmarks(["input"], repeats=1, out=str(out), console=Console(quiet=True)) == 0
    (found,) = json.loads(out.read_text())["benchmarks"]
    assert found["name"] == "input" and found["rows"][-1]["must"] == "at least 10"


def test_fusion_measures_both_forms():
    found = fusion(repeats=2, filters=48, large=64)
    _check(found)
    assert [row.unit for row in found.rows] == ["ms", "ms", "x", "ms", "ms"]


@pytest.mark.parametrize(("names", "repeats", "message"), [(["grafting"], 1, "no benchmark"), ([], 0, "at least 1")])
def test_what_cannot_be_measured_is_refused(names, repeats, message):
    with pytest.raises(ConfigError, match=message):
        run_benchmarks(names, repeats=repeats, console=Console(quiet=True))


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "measure",
    [
        functools.partial(exchange, architectures=("resnet8",), store_networks=2, store_seconds=2.0),
        functools.partial(overhead, architecture="resnet8", num_images=640, epochs=4),
        functools.partial(straggler, step_seconds=0.02, interval_steps=5, seconds=4.0),
    ],
    ids=("exchange", "overhead", "straggler"),
)
def test_real_actors_are_measured(measure):
    _check(measure(repeats=1))


def _state(seed: int) -> dict[str, torch.Tensor]:
    return models.build(ModelConfig(architecture="resnet8"), num_classes=10, seed=seed).state_dict()


def _track(*, seconds: list[float], images: list[int], cpu: list[float]) -> Track:
    times = np.array(seconds)
    return Track(seconds=times, images=np.array(images), cpu_at=times, cpu=np.array(cpu))
