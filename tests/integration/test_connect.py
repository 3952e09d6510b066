"""Connecting a process to a cluster."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from inarch.actors.resources import connect, demands_token
from inarch.experiments.benchmarks.processes import nodes as nodes_module
from inarch.experiments.benchmarks.processes.companion import Companion
from inarch.population.errors import ClusterError

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.ray]


def test_connect_refuses_another_cluster_than_the_connected(cluster: str) -> None:
    host, _, port = cluster.rpartition(":")
    for address in (None, "local", "auto", cluster, f"127.0.0.1:{port}"):
        assert connect(address).address == cluster
    with pytest.raises(ClusterError, match=r"connected to the cluster at .*, not to .*:1; call ray\.shutdown"):
        connect(f"{host}:1")


def test_cluster_without_a_token_is_recognized(cluster: str) -> None:
    """The cluster of the tests demands none. What is no cluster counts as one that demands it."""
    assert not demands_token(cluster)
    assert demands_token("ray://127.0.0.1:10001") and demands_token("127.0.0.1:1")


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("mode", ["disabled", "token"])
def test_token_of_this_machine_goes_to_a_cluster_that_demands_it(tmp_path: Path, mode: str) -> None:
    """Ray writes a token into the home of everybody who starts a Ray. Other clusters may demand none, or that one."""
    token = tmp_path / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text(secrets.token_hex(32))
    plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    plain |= {"HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
    log = tmp_path / "nodes.log"
    nodes = Companion(nodes_module.__name__, ["2"], log=log, environment=plain | {"RAY_AUTH_MODE": mode})
    try:
        assert nodes.ready(seconds=90), log.read_text()
        address = nodes.ask("address", seconds=10)
        words = ["train", "--address", address, "--storage", str(tmp_path), "--name", "run", "--population.size", "2"]
        words += ["--schedule.epochs", "2"]
        command = [sys.executable, "-m", "inarch.experiments.cli", *words]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=150, env=plain, check=False)
        assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-2000:]
        with contextlib.suppress(TimeoutError, RuntimeError):
            nodes.ask("close", seconds=30)
    finally:
        nodes.close()
    assert (tmp_path / "run" / "result.json").exists()
