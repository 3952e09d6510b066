"""A share of a GPU for the evaluation, on a Ray that claims to have one GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

PROGRAM = """
import asyncio, json, time

import ray

from inarch.actors.resources import reserved_gpu

ray.init(address="local", num_cpus=1, num_gpus=1, include_dashboard=False, logging_level=40)


@ray.remote(num_cpus=0)
def gpu_ids():
    return ray.get_gpu_ids()


@ray.remote(num_cpus=0, num_gpus=1)
class Other:
    def ready(self):
        return True


async def main():
    shown = {}
    async with reserved_gpu(0.0, seconds=5.0) as options:
        shown["unwanted"] = options
    async with reserved_gpu(0.5, seconds=20.0) as options:
        shown["in the task"] = await gpu_ids.options(**options).remote()
    other = Other.remote()
    await other.ready.remote()
    began = time.monotonic()
    async with reserved_gpu(0.5, seconds=1.0) as options:
        shown["taken by another"] = options
    shown["seconds"] = time.monotonic() - began
    ray.kill(other)
    async with reserved_gpu(1.0, seconds=20.0) as options:
        shown["free again"] = await gpu_ids.options(**options).remote()
    return shown


print(json.dumps(asyncio.run(main())))
ray.shutdown()
"""


@pytest.mark.slow
@pytest.mark.ray
def test_gpu_is_reserved_only_if_it_becomes_free(tmp_path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120, cwd=tmp_path, env=environment
    )
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout.splitlines()[-1])
    assert shown["unwanted"] == {} and shown["taken by another"] == {}
    assert [int(number) for number in shown["in the task"]] == [int(number) for number in shown["free again"]] == [0]
    assert 0.9 < shown["seconds"] < 10.0
