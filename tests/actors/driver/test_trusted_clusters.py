"""Tests of the rule which clusters a folder may name: nothing is sent to another machine unless the caller names it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from inarch.actors import PopulationRun
from inarch.actors.driver.discovery import check_folder_not_live, connect_to_recorded
from inarch.actors.driver.trusted_clusters import TrustedClusters, is_on_this_machine
from inarch.experiments.cli import main
from inarch.population.errors import ConfigError, RunError, UntrustedError
from inarch.population.persistence.storage import Storage

FAR = "203.0.113.7:6379"
"""An address of documentation (RFC 5737), which is on no machine."""


def trusted(*, named: str | None = None, variable: str | None = None, connected: str | None = None) -> TrustedClusters:
    return TrustedClusters(named=named, variable=variable, connected=connected)


def test_loopback_and_own_addresses_are_this_machine() -> None:
    own = {entry[4][0] for entry in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    for host in ("127.0.0.1", "127.8.8.8", "localhost", "::1", "[::1]", *(str(address) for address in own)):
        assert is_on_this_machine(host), host


@pytest.mark.parametrize(
    "host", ["203.0.113.7", "8.8.8.8", "0.0.0.0", "224.0.0.1", "2001:db8::1", "localhost.example.org", "", "::"]
)
def test_other_addresses_and_names_are_other_machines(host: str) -> None:
    assert not is_on_this_machine(host)


def test_own_address_of_a_live_run_is_contacted() -> None:
    assert trusted().of_live_run("127.0.0.1:6379", "a") == "127.0.0.1:6379"
    assert trusted(variable="head:6379").of_live_run("127.0.0.1:6379", "a") == "127.0.0.1:6379"


def test_named_address_replaces_the_recorded_one() -> None:
    assert trusted(named="head:6379").of_live_run("127.0.0.1:6379", "a") == "head:6379"
    assert trusted(variable="head:6379").of_live_run(FAR, "a") == "head:6379"
    assert trusted(connected=FAR).of_live_run(FAR, "a") == FAR
    with pytest.raises(ConfigError, match="HOST:PORT or auto"):
        trusted(named="local").of_live_run(FAR, "a")


def test_far_address_is_refused_with_the_way_out() -> None:
    with pytest.raises(UntrustedError, match=rf"at {FAR}, which is not on this machine.*--address {FAR}.*RAY_ADDRESS"):
        trusted().of_live_run(FAR, "a")
    with pytest.raises(UntrustedError, match=FAR):
        trusted(connected="127.0.0.1:1").of_live_run(f"ray://{FAR}", "a")


def test_resumed_run_does_not_follow_a_far_address() -> None:
    for recorded in (None, "local", "auto", "127.0.0.1:6379"):
        assert trusted().of_resumed_run(recorded, "a") == recorded
    assert trusted(named="local").of_resumed_run(FAR, "a") == "local"
    assert trusted(variable="head:6379").of_resumed_run(FAR, "a") is None
    assert trusted(variable=FAR).of_resumed_run(FAR, "a") == FAR
    with pytest.raises(UntrustedError, match=FAR):
        trusted().of_resumed_run(FAR, "a")


def test_far_cluster_is_not_asked_if_another_is_named() -> None:
    assert trusted().may_ask("127.0.0.1:6379", "a")
    assert trusted(named=FAR).may_ask(FAR, "a")
    assert not trusted(named="local").may_ask(FAR, "a")
    with pytest.raises(UntrustedError):
        trusted().may_ask(FAR, "a")


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A socket that waits for connections, as the cluster of a foreign folder would."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        yield server


def folder_of(listener: socket.socket, path: str) -> Storage:
    storage = Storage(path)
    cluster = {
        "run": "foreign",
        "address": f"127.0.0.1:{listener.getsockname()[1]}",
        "is_detached": True,
        "driver": {"host": "elsewhere", "process": 1},
    }
    storage.write("cluster.json", json.dumps(cluster).encode())
    return storage


def test_listener_elsewhere_gets_no_connection(listener: socket.socket, tmp_path: object) -> None:
    storage = folder_of(listener, str(tmp_path))
    cluster = json.loads(storage.read("cluster.json"))
    elsewhere = TrustedClusters(variable=None, is_own=lambda host: False)
    with pytest.raises(UntrustedError, match=cluster["address"]):
        connect_to_recorded(cluster, elsewhere)
    with pytest.raises(UntrustedError, match=cluster["address"]):
        check_folder_not_live(storage, elsewhere)
    check_folder_not_live(storage, TrustedClusters(named="local", variable=None, is_own=lambda host: False))
    with pytest.raises(TimeoutError):
        listener.accept()
    socket.create_connection(listener.getsockname()).close()
    listener.accept()[0].close()  # it would have noticed


def test_run_of_a_dead_driver_here_is_resumed_unasked(tmp_path: object) -> None:
    storage = Storage(str(tmp_path))
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    drivers = {ended.pid: False, os.getppid(): True}
    for process, is_live in drivers.items():
        driver = {"host": socket.gethostname(), "process": process}
        cluster = {"run": "mine", "address": FAR, "is_detached": False, "driver": driver}
        storage.replace("cluster.json", json.dumps(cluster).encode())
        with pytest.raises(RunError, match="drives it") if is_live else contextlib.nullcontext():
            check_folder_not_live(storage, trusted())


def test_status_tells_a_dead_cluster_from_an_unknown_one(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    storage = Storage(str(tmp_path))
    storage.write("config.json", b"{}")
    here = socket.gethostname()
    for host, arguments, is_live in (
        (here, (), False),
        ("elsewhere", (), None),
        (here, ("--address", address), None),  # it may be mistyped
    ):
        cluster = {"run": "mine", "address": address, "is_detached": True, "driver": {"host": host}}
        storage.replace("cluster.json", json.dumps(cluster).encode())
        with pytest.raises(SystemExit):
            main(["status", str(tmp_path), "--json", *arguments])
        assert json.loads(capsys.readouterr().out)["live"] is is_live


def test_status_of_a_far_run_shows_the_last_record(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    storage = Storage(str(tmp_path))
    cluster = {"run": "foreign", "address": FAR, "is_detached": True, "driver": {}}
    storage.write("cluster.json", json.dumps(cluster).encode())
    storage.write("config.json", b"{}")
    with pytest.raises(SystemExit) as ended:
        main(["status", str(tmp_path), "--json"])
    shown = json.loads(capsys.readouterr().out)
    assert (ended.value.code, shown["live"]) == (0, None)
    assert f"--address {FAR}" in shown["why"]
    with pytest.raises(SystemExit) as ended:
        main(["stop", str(tmp_path)])
    assert ended.value.code == 2
    assert f"--address {FAR}" in capsys.readouterr().err


def test_attach_names_the_far_cluster(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    storage = Storage(str(tmp_path))
    cluster = {"run": "foreign", "address": FAR, "is_detached": True, "driver": {}}
    storage.write("cluster.json", json.dumps(cluster).encode())
    storage.write("config.json", b"{}")
    with pytest.raises(UntrustedError, match=FAR):
        PopulationRun.attach(str(tmp_path))
