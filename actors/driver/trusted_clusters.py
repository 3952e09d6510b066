"""Decide which Ray cluster a command may contact for a run whose folder may come from elsewhere.

Ray sends this machine's token to the cluster that it connects to, and unpickles what the cluster answers. The folder of
a run alone therefore never decides that another machine is contacted.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field

import ray

from inarch.population.errors import ConfigError, UntrustedError

NOWHERE = "192.0.2.1"
"""An address that no machine has (RFC 5737). A machine that lets a socket bind to it does so for every address."""


def is_on_this_machine(host: str) -> bool:
    """Return whether a host is this machine: a loopback address, or the address of one of its network interfaces.

    Nothing is sent. A name other than `localhost` is not looked up, and counts as another machine.

    Args:
        host: Address of the host, IPv6 with or without brackets.
    """
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    if address.is_loopback:
        return True
    if address.is_multicast or address.is_unspecified:  # a socket may bind to these on every machine
        return False
    return _can_bind(str(address)) and not _can_bind(NOWHERE)


def _can_bind(address: str) -> bool:
    """Return whether a socket may bind to an address, which only the machine's own addresses allow."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


def _connected() -> str | None:
    return str(ray.get_runtime_context().gcs_address) if ray.is_initialized() else None


def _variable() -> str | None:
    value = os.environ.get("RAY_ADDRESS")
    return None if value in (None, "", "local") else value


@dataclass(frozen=True, kw_only=True)
class TrustedClusters:
    """The clusters that the caller trusts. The recorded address of a run does not add to them."""

    named: str | None = None
    """Address that the caller passed. `local` stands for a new cluster on this machine."""
    variable: str | None = field(default_factory=_variable)
    """Value of RAY_ADDRESS. None: not set, or `local`."""
    connected: str | None = field(default_factory=_connected)
    """Address of the cluster that this process is connected to. None: it is not connected."""
    is_own: Callable[[str], bool] = is_on_this_machine
    """Returns whether a host is this machine."""

    def holds(self, recorded: str) -> bool:
        """Return whether the address that a folder names may be contacted.

        Args:
            recorded: HOST:PORT.
        """
        is_known = recorded in (self.named, self.variable, self.connected)
        return is_known or self.is_own(recorded.removeprefix("ray://").rpartition(":")[0])

    def of_live_run(self, recorded: str, run: str) -> str:
        """Return the address at which a live run is looked for.

        Args:
            recorded: HOST:PORT of its cluster, as its folder names it.
            run: Name of the run.

        Returns:
            The address that the caller passed. Without one, the recorded address if it may be contacted, else the
            value of RAY_ADDRESS.

        Raises:
            ConfigError: The caller passed `local`, where no run is live.
            UntrustedError: The recorded address is on another machine, and the caller has named no address.
        """
        if self.named == "local":
            raise ConfigError("address: a live run is on a cluster that exists already; give HOST:PORT or auto")
        if self.named is not None:
            return self.named
        if self.holds(recorded):
            return recorded
        if self.variable is not None:
            return self.variable
        raise _untrusted(recorded, run)

    def of_resumed_run(self, recorded: str | None, run: str) -> str | None:
        """Return the address of the cluster on which a run is resumed.

        Args:
            recorded: Field `address` of its configuration: HOST:PORT, `auto`, `local` or None.
            run: Name of the run.

        Returns:
            The address that the caller passed. Without one, the recorded address if it may be contacted, else None for
            the value of RAY_ADDRESS.

        Raises:
            UntrustedError: The recorded address is on another machine, and the caller has named no address.
        """
        if self.named is not None:
            return self.named
        if recorded in (None, "auto", "local") or self.holds(recorded):
            return recorded
        if self.variable is not None:
            return None
        raise _untrusted(recorded, run)

    def may_ask(self, recorded: str, run: str) -> bool:
        """Return whether the recorded cluster is asked if a run is still live, before the run is resumed.

        Args:
            recorded: HOST:PORT of its cluster, as its folder names it.
            run: Name of the run.

        Raises:
            UntrustedError: The recorded address is on another machine, and the caller has named no address.
        """
        if self.holds(recorded):
            return True
        if self.named is None and self.variable is None:
            raise _untrusted(recorded, run)
        return False


def _untrusted(recorded: str, run: str) -> UntrustedError:
    return UntrustedError(
        f"run {run}: its folder names the Ray cluster at {recorded}, which is not on this machine; nothing was sent "
        "there, because this machine's Ray token would be sent too. To trust that cluster, name it: --address "
        f"{recorded} (in Python: address={recorded!r}), or set RAY_ADDRESS; on a node of that cluster, --address auto "
        "is enough. To resume a run without asking there, give another address, such as --address local"
    )
