"""Networks that share a GPU on Ray. The same runs train on the CPU, without shares, among the slow tests."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
import torch
from torch import nn

from inarch.population import PopulationConfig
from tests.gpu.devices import CUDA
from tests.integration.conftest import begin as begin
from tests.integration.runs import intervals, own_network, paced, until

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]

KINDS = pytest.mark.parametrize("kind", [pytest.param("cpu", marks=pytest.mark.slow), CUDA])

SHARE = 0.5


def sharing(kind: str) -> PopulationConfig:
    return PopulationConfig(size=2, gpus=SHARE if kind == "cuda" else 0.0)


class Greedy:
    """Builds networks of which network 1 asks for more memory than a share of the GPU."""

    def __call__(self, num_classes: int) -> nn.Module:
        model = own_network(num_classes)
        model.register_forward_pre_hook(take_memory)
        return model


def take_memory(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
    import ray

    name = ray.get_runtime_context().get_actor_name() or ""
    if not module.training or name.split("/")[1:2] != ["1"]:
        return
    if inputs[0].device.type == "cpu":
        raise torch.OutOfMemoryError("out of memory")
    total = torch.cuda.get_device_properties(0).total_memory
    torch.empty(int((SHARE + 0.1) * total), dtype=torch.uint8, device=inputs[0].device)


@KINDS
def test_network_that_asks_for_more_than_its_share_fails_alone(begin, kind: str) -> None:
    run = begin("greedy", model=Greedy(), population=sharing(kind))
    result = run.wait(seconds=90)
    rows: dict[int, Any] = {row["network"]: row for row in result.table["networks"]}
    assert rows[0]["ended"] == "done"
    assert rows[1]["ended"] == "failed" and "OutOfMemoryError" in rows[1]["reason"]
    if kind == "cuda":
        assert "this network may use 0.5 of the GPU" in rows[1]["reason"]


@KINDS
def test_killed_network_resumes_on_the_shared_gpu(begin, kind: str) -> None:
    run = begin("shared", population=sharing(kind), **paced(40, 0.1))
    status = until(lambda: (s := run.status()) and min(intervals(s).values(), default=0) >= 2 and s, seconds=90)
    os.kill(next(network.process for network in status.networks if network.network_id == 0), signal.SIGKILL)

    def is_training_again() -> bool:
        return any(n.network_id == 0 and n.incarnation == 2 and n.state == "training" for n in run.status().networks)

    until(is_training_again, seconds=90)
    before = intervals(run.status())
    until(lambda: all(now > before[network] for network, now in intervals(run.status()).items()), seconds=60)
    run.stop(seconds=60)
