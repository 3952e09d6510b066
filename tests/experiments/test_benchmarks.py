"""The benchmarks in tiny settings: the values that they measure, and the JSON that they write."""

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

from inarch.experiments.benchmarks.catalog import BENCHMARKS, run_benchmarks
from inarch.experiments.benchmarks.exchange.peer import Peer
from inarch.experiments.benchmarks.exchange.reference_graft import published_alphas, published_blend, published_entropy
from inarch.experiments.benchmarks.fusion import fusion
from inarch.experiments.benchmarks.harness import Measurement, Must, Row, machine, ratio, table, to_json
from inarch.experiments.benchmarks.input.benchmark import read_input, synthetic_images
from inarch.experiments.benchmarks.runs import Track, rates
from inarch.experiments.benchmarks.speed.overhead import plain_loop
from inarch.experiments.benchmarks.speed.straggler import pace
from inarch.population import models
from inarch.population.config import DataConfig, ModelConfig, PopulationConfig, RunConfig, ScheduleConfig
from inarch.population.data import write_arrow
from inarch.population.errors import ConfigError
from inarch.population.grafting.layer_level import graft
from inarch.population.grafting.reference import graft_published


@pytest.fixture(autouse=True)
def _threads():
    """Restore the number of threads after the test, because the benchmarks compute on one thread."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def check_finite_rows(measurement: Measurement) -> None:
    """Check that every row holds finite values and that JSON can store the measurement."""
    document = json.loads(json.dumps(to_json(measurement, machine())))
    assert document["repeats"] == measurement.repeats and document["machine"]["cores"] >= 1
    assert document["rows"]
    assert any(row["median"] > 0 for row in document["rows"])
    for row in document["rows"]:
        assert row["values"] and all(math.isfinite(value) for value in row["values"]), row
        assert row["min"] <= row["median"] <= row["max"], row
        assert (row["reached"] is None) == (row["must"] is None), row
    Console(width=160, quiet=True).print(table(measurement))


def test_training_benchmark_trains_each_side() -> None:
    measurement = BENCHMARKS["training"](repeats=2, architecture="resnet8", batch_size=8, steps=1)
    check_finite_rows(measurement)
    assert [row.unit for row in measurement.rows] == ["images/CPU s"] * 5 + ["x"] * 4
    own, plain, beside = (measurement.rows[place].values for place in (1, 0, 5))
    assert beside == tuple(above / below for above, below in zip(own, plain, strict=True))


def test_ratio_divides_values_pair_by_pair():
    row = ratio("a / b", [2.0, 30.0, 4.0], [1.0, 10.0, 1.0], Must(rule="at least", limit=3.0))
    assert row.values == (2.0, 3.0, 4.0)
    assert row.median == 3.0 and row.reached is True


def test_row_beyond_its_limit_is_not_reached():
    assert Row(what="x", unit="x", values=(6.0,), must=Must(rule="at most", limit=5.0)).reached is False
    assert Row(what="x", unit="x", values=(6.0,)).reached is None


def test_rates_count_only_the_time_in_which_all_train():
    early = _track(seconds=[0.0, 10.0, 20.0], images=[100, 200, 300], cpu=[0.0, 5.0, 10.0])
    late = _track(seconds=[10.0, 15.0, 30.0], images=[50, 100, 250], cpu=[0.0, 5.0, 20.0])
    common_rates = rates([early, late])
    assert common_rates.images_per_second == pytest.approx((100 + 100) / 10)
    assert common_rates.cpu_seconds_per_image == pytest.approx((5.0 + 10.0) / 200)


def test_rates_of_networks_without_common_time_raise_error():
    early = _track(seconds=[0.0, 1.0], images=[1, 2], cpu=[0.0, 1.0])
    late = _track(seconds=[2.0, 3.0], images=[1, 2], cpu=[0.0, 1.0])
    with pytest.raises(ValueError, match="side by side"):
        rates([early, late])


def test_pace_counts_the_last_seconds_only():
    assert pace([0.0, 100.0, 101.0, 102.0], 5.0) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="no two intervals"):
        pace([0.0, 100.0], 5.0)


def test_published_blend_equals_the_reference_graft():
    own, scion = (_state(seed) for seed in (0, 1))
    expected = graft_published(own, scion)
    alphas = published_alphas(own, scion)
    blended = published_blend(own, scion, alphas)
    assert alphas == pytest.approx({layer.layer: layer.alpha for layer in expected.layers})
    for key, weight in expected.state.items():
        torch.testing.assert_close(blended[key].to(weight.dtype), weight, rtol=1e-6, atol=1e-7)


def test_published_entropy_ignores_the_greatest_weight():
    weight = torch.tensor([0.0, 0.25, 0.75, 1.0])
    assert published_entropy(weight, bins=2) == pytest.approx(-0.5 * math.log(0.5) - 0.25 * math.log(0.25))


def test_peer_apply_equals_the_graft_of_the_library():
    donor, rootstock = Peer("resnet8", 0), Peer("resnet8", 1)
    own = {key: tensor.clone() for key, tensor in rootstock.model.state_dict().items()}
    expected = graft(own, donor.model.state_dict())
    seconds, snapshot = donor.stage()
    seconds |= rootstock.apply(snapshot)
    assert seconds.keys() == {"information", "stage", "blend"}
    for key, weight in rootstock.model.state_dict().items():
        torch.testing.assert_close(weight, expected.state[key], rtol=1e-6, atol=1e-7)


def test_peer_graft_through_a_file_equals_published_blend(tmp_path):
    donor, rootstock = Peer("resnet8", 0), Peer("resnet8", 1)
    own = {key: tensor.clone() for key, tensor in rootstock.published.state_dict().items()}
    scion = donor.published.state_dict()
    expected = published_blend(own, scion, published_alphas(own, scion))
    path = str(tmp_path / "model.pth.tar")
    seconds = donor.save(path) | rootstock.graft_as_published(path) | rootstock.floor()
    assert all(value > 0 for value in seconds.values())
    for key, weight in rootstock.published.state_dict().items():
        assert torch.equal(weight, expected[key].to(weight.dtype)), key


def test_read_input_measures_inarch_and_torchvision():
    measurement = read_input(repeats=2, num_images=256, batch_size=64, workers=0, num_photographs=6, networks=1)
    check_finite_rows(measurement)
    assert [len(row.values) for row in measurement.rows] == [2] * 18
    streamed_ratio = measurement.rows[2]
    assert str(streamed_ratio.must) == "at least 2.5" and streamed_ratio.unit == "x"
    assert str(next(row for row in measurement.rows if row.what == "mixup and CutMix / plain").must) == "at least 0.8"


def test_plain_loop_trains_every_image_of_every_epoch(tmp_path):
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
    common_rates = rates([track, dataclasses.replace(track, seconds=track.seconds + 1e-4)])
    assert common_rates.images_per_second > 0 and common_rates.cpu_seconds_per_image > 0


def test_run_benchmarks_writes_json(tmp_path, monkeypatch):
    tiny = functools.partial(read_input, num_images=128, batch_size=64, workers=0, num_photographs=4, networks=1)
    monkeypatch.setitem(BENCHMARKS, "input", tiny)
    out = tmp_path / "bench.json"
    assert run_benchmarks(["input"], repeats=1, out=str(out), console=Console(quiet=True)) == 0
    (benchmark,) = json.loads(out.read_text())["benchmarks"]
    assert benchmark["name"] == "input" and benchmark["rows"][-1]["must"] == "at least 10"


def test_fusion_benchmark_measures_both_forms():
    measurement = fusion(repeats=2, filters=48, large=64)
    check_finite_rows(measurement)
    assert [row.unit for row in measurement.rows] == ["ms", "ms", "x", "ms", "ms"]


@pytest.mark.parametrize(("names", "repeats", "message"), [(["grafting"], 1, "no benchmark"), ([], 0, "at least 1")])
def test_run_benchmarks_with_invalid_options_raises_error(names, repeats, message):
    with pytest.raises(ConfigError, match=message):
        run_benchmarks(names, repeats=repeats, console=Console(quiet=True))


def _state(seed: int) -> dict[str, torch.Tensor]:
    return models.build(ModelConfig(architecture="resnet8"), num_classes=10, seed=seed).state_dict()


def _track(*, seconds: list[float], images: list[int], cpu: list[float]) -> Track:
    times = np.array(seconds)
    return Track(seconds=times, images=np.array(images), cpu_at=times, cpu=np.array(cpu))
