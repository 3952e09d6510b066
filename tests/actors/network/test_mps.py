"""NVIDIA's Multi-Process Service, with a stand-in for its program that notes what it is asked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from inarch.actors.network import mps
from inarch.actors.network.mps import join_mps
from inarch.population.errors import ConfigError
from tests.conftest import ROOT
from tests.integration.runs import until

CONTROL = """#!/bin/sh
alive=${CUDA_MPS_PIPE_DIRECTORY:-$DEFAULT_DAEMON}/alive
if [ "$1" = -d ]; then
    echo "start for GPUs ${CUDA_VISIBLE_DEVICES:-all}" >> "$NOTES"
    [ -n "$BROKEN" ] && exit 3
    touch "$alive"
    exit 0
fi
read -r command
[ -f "$alive" ] || { echo "Cannot find MPS control daemon process"; exit 1; }
case $command in quit*) echo quit >> "$NOTES"; rm "$alive";; esac
"""

NETWORK = """
import os, sys
from pathlib import Path
from inarch.actors.network.mps import join_mps

membership = join_mps("on", folder=Path(sys.argv[1]))
print(os.environ.get("CUDA_MPS_PIPE_DIRECTORY"), flush=True)
sys.stdin.read()
"""


class Node:
    """A node with the stand-in on its PATH."""

    def __init__(self, root: Path) -> None:
        self.root, self.folder, self.notes = root, root / "mps", root / "notes"
        self.networks: list[subprocess.Popen[str]] = []

    def network(self) -> tuple[subprocess.Popen[str], str]:
        """Start a process that joins the service, and return it with the folder of the daemon that it uses."""
        process = subprocess.Popen(
            [sys.executable, "-c", NETWORK, str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=self.root,
            env=os.environ | {"PYTHONPATH": str(ROOT / ".package"), "CUDA_VISIBLE_DEVICES": "0"},
        )
        self.networks.append(process)
        assert process.stdout is not None
        return process, process.stdout.readline().strip()

    def noted(self) -> list[str]:
        return self.notes.read_text().splitlines() if self.notes.exists() else []


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    found = Node(tmp_path)
    program = tmp_path / "bin" / "nvidia-cuda-mps-control"
    program.parent.mkdir()
    program.write_text(CONTROL)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("NOTES", str(found.notes))
    monkeypatch.setenv("DEFAULT_DAEMON", str(tmp_path / "default"))
    monkeypatch.delenv("CUDA_MPS_PIPE_DIRECTORY", raising=False)
    monkeypatch.delenv("CUDA_MPS_LOG_DIRECTORY", raising=False)
    monkeypatch.delenv("BROKEN", raising=False)
    yield found
    for process in found.networks:
        process.kill()
        process.communicate()
    if found.folder.exists():
        until(lambda: not (found.folder / "pipe" / "alive").exists())


def test_one_daemon_serves_all_networks_and_quits_at_the_end(node: Node) -> None:
    (first, pipe), (second, other) = node.network(), node.network()
    assert pipe == other == str(node.folder / "pipe")
    assert node.noted() == ["start for GPUs all"]
    first.communicate("")
    third, _ = node.network()
    second.communicate("")
    assert (node.folder / "pipe" / "alive").exists() and node.noted() == ["start for GPUs all"]
    third.communicate("")
    until(lambda: node.noted() == ["start for GPUs all", "quit"])


def test_daemon_quits_when_the_last_network_is_killed(node: Node) -> None:
    (first, _), (second, _) = node.network(), node.network()
    first.send_signal(signal.SIGKILL)
    first.communicate()
    restarted, _ = node.network()
    assert node.noted() == ["start for GPUs all"]
    for process in (second, restarted):
        process.send_signal(signal.SIGKILL)
        process.communicate()
    until(lambda: node.noted() == ["start for GPUs all", "quit"])
    node.network()
    assert node.noted()[2:] == ["start for GPUs all"]


def test_daemon_that_was_there_before_is_left_alone(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    default = node.root / "default"
    default.mkdir()
    (default / "alive").touch()
    process, pipe = node.network()
    assert pipe == "None"
    process.communicate("")
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(default))
    membership = join_mps("on", folder=node.folder)
    assert membership and "which the environment names" in membership.description
    assert node.noted() == [] and not node.folder.exists()


def test_named_daemon_that_does_not_answer_is_an_error(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(node.root / "nowhere"))
    with pytest.raises(ConfigError, match="where no daemon answers"):
        join_mps("on", folder=node.folder)
    assert not join_mps("auto", folder=node.folder)


def test_daemon_that_does_not_start_is_an_error(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROKEN", "yes")
    with pytest.raises(ConfigError, match=r"device.mps=on needs .* ended with status 3"):
        join_mps("on", folder=node.folder)
    membership = join_mps("auto", folder=node.folder)
    assert not membership and "ended with status 3" in membership.description
    assert "CUDA_MPS_PIPE_DIRECTORY" not in os.environ


def test_daemon_that_never_answers_is_waited_for_briefly(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mps, "START_SECONDS", 1.0)
    (node.root / "bin" / "nvidia-cuda-mps-control").write_text('#!/bin/sh\n[ "$1" = -d ] || exit 1\n')
    assert "did not answer within 1 s" in join_mps("auto", folder=node.folder).description


def test_node_without_the_service_trains_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_MPS_PIPE_DIRECTORY", raising=False)
    assert not join_mps("auto", folder=tmp_path / "mps") and not join_mps("off")
    with pytest.raises(ConfigError, match="not on the PATH"):
        join_mps("on", folder=tmp_path / "mps")
