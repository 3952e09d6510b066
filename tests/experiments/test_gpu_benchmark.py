"""`inarch bench gpu` at tiny size on the CPU: every part, the limit of time, and the error without a GPU."""

from __future__ import annotations

import dataclasses
import time
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from inarch.experiments.benchmarks.gpu import gpu
from inarch.experiments.benchmarks.gpu.benchmark import PARTS, Clock
from inarch.experiments.benchmarks.gpu.graft_phases import graft_rows
from inarch.experiments.benchmarks.gpu.sharing import sharing_rows
from inarch.experiments.benchmarks.gpu.sizes import FULL, TINY
from inarch.experiments.benchmarks.gpu.speed_network import speed_network
from inarch.experiments.benchmarks.runs import Track
from inarch.experiments.cli import main
from inarch.population import models
from inarch.population.config import ModelConfig, RunConfig
from tests.experiments.test_benchmarks import check_finite_rows
from tests.fakes.pretend_cuda import pretend_cuda


def trained(config: RunConfig) -> list[Track]:
    """Tracks of networks, each of which trained 100 images a second."""
    seconds, cpu = np.arange(4.0), np.arange(4.0)
    track = Track(seconds=seconds, images=100 * np.arange(1, 5), cpu_at=seconds, cpu=cpu)
    return [track] * config.population.size


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute")
def test_every_part_measures_finite_values() -> None:
    original = torch.compile

    def compiled(module: Any, *, dynamic: bool, mode: str) -> Any:
        del mode
        return original(module, dynamic=dynamic, backend="eager")

    def shared(*words: Any, **options: Any) -> Any:
        with mock.patch("inarch.experiments.benchmarks.gpu.sharing.own_ray"):
            return sharing_rows(*words, **options, run=trained)

    with (
        mock.patch("torch.compile", compiled),
        mock.patch("inarch.experiments.benchmarks.gpu.benchmark.sharing_rows", shared),
    ):
        measurement = gpu(repeats=2, seconds=600.0, device="cpu", sizes=TINY)
    check_finite_rows(measurement)
    whats = [row.what for row in measurement.rows]
    for what in (
        "resnet8 0.3 MB: information and stage",
        "resnet8 0.3 MB: inarch / floor",
        "ResNet-8: grafting / no grafting",
        "ResNet-8: grafting / plain",
        "speed network: grafting / plain loop",
        "ResNet-8: alone",
        "ResNet-8: 2 at once with MPS / alone",
        "ResNet-8: compilation reduce-overhead",
        "ResNet-8: first epoch with compilation default",
    ):
        assert what in whats, whats
    assert measurement.setting["gpu"] == "none" and len(measurement.notes) == 1
    assert next(row for row in measurement.rows if row.what == "ResNet-8: 2 at once / alone").values == (2.0,)


def test_phases_of_a_graft_run_on_a_gpu() -> None:
    with pretend_cuda() as counts, mock.patch("torch.cuda.Event.elapsed_time", lambda start, end: 1.0, create=True):
        rows = graft_rows("resnet8", turns=1, device="cuda:0", is_judged=True)
    events = [row for row in rows if row.what.endswith("CUDA events")]
    assert len(events) == 4 and counts.launches > 0
    assert rows[-1].must is not None


def test_parts_that_do_not_fit_are_named() -> None:
    measurement = gpu(repeats=1, seconds=1e-6, device="cpu", sizes=TINY)
    assert measurement.rows == ()
    assert [note.partition(" was left out")[0] for note in measurement.notes[1:]] == list(PARTS)


def test_clock_gives_each_part_its_share_of_the_time() -> None:
    now = [0.0]
    clock = Clock(300.0, now=lambda: now[0])
    assert clock.begin("graft") and clock.deadline == 40.0
    now[0] = 39.0
    assert not clock.is_over
    now[0] = 41.0
    assert clock.is_over
    now[0] = 290.0
    assert not clock.begin("overhead") and clock.deadline == 300.0


def test_sharing_leaves_out_what_begins_too_late() -> None:
    with mock.patch("inarch.experiments.benchmarks.gpu.sharing.own_ray"):
        rows, notes = sharing_rows(TINY, is_gpu=False, deadline=time.monotonic() - 1.0, run=trained)
    assert rows == [] and len(notes) == 3


def test_sharing_without_the_service_leaves_it_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    seen: list[RunConfig] = []

    def run(config: RunConfig) -> list[Track]:
        seen.append(config)
        return trained(config)

    with mock.patch("inarch.experiments.benchmarks.gpu.sharing.own_ray"):
        rows, notes = sharing_rows(TINY, is_gpu=True, deadline=time.monotonic() + 60.0, run=run)
    assert [config.population.gpus for config in seen] == [1.0, 0.5] and len(rows) == 3
    assert "is not on the PATH" in notes[0]


@pytest.mark.parametrize("sizes", [FULL, TINY], ids=["full", "tiny"])
def test_sizes_name_networks_that_can_be_built(sizes) -> None:
    trainings = (*sizes.overheads, sizes.compiled, sizes.speed, sizes.shared)
    for name in {*sizes.grafts, *(training.architecture for training in trainings)}:
        models.build(ModelConfig(architecture=name), num_classes=10, seed=0)
    assert all(training.images % training.batch_size == 0 for training in trainings)
    assert dataclasses.asdict(sizes)["judged"] in sizes.grafts


def test_speed_network_maps_images_to_logits() -> None:
    assert speed_network(10, 3)(torch.randn(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch finds a CUDA device")
def test_benchmark_without_a_gpu_is_a_short_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["bench", "gpu", "--seconds", "10", "--json", "never.json"])
    assert ended.value.code == 2
    captured = capsys.readouterr()
    assert captured.err == (
        "inarch: inarch bench gpu needs an NVIDIA GPU and a build of torch for CUDA, and torch finds no GPU\n"
    )
