"""Connecting a process to a cluster."""

from __future__ import annotations

import pytest

from inarch.actors.resources import connect
from inarch.population.errors import ClusterError

pytestmark = [pytest.mark.ray]


def test_connect_refuses_another_cluster_than_the_connected(cluster: str) -> None:
    host, _, port = cluster.rpartition(":")
    for address in (None, "local", "auto", cluster, f"127.0.0.1:{port}"):
        assert connect(address).address == cluster
    with pytest.raises(ClusterError, match=r"connected to the cluster at .*, not to .*:1; call ray\.shutdown"):
        connect(f"{host}:1")
