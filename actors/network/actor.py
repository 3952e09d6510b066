"""A network of the population as a Ray actor.

It has two groups of calls. `train` has one thread, for the whole training. `control` has two, for calls that only set
flags or read values, so that they are answered at once while the network trains.

The coordinator imports this file. It therefore imports neither torch nor the worker.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import ray
from ray import ObjectRef
from ray.actor import ActorClass, ActorProxy

from inarch.actors.messages import NAMESPACE, Command, ExitReason, NetworkSpec, network_name
from inarch.actors.network.preemption import handle_sigterm
from inarch.actors.network.standing import NetworkDescription, NetworkStanding

if TYPE_CHECKING:
    import numpy as np

    from inarch.actors.network.worker import NetworkWorker
    from inarch.population.state.snapshot_info import SnapshotInfo

KEEP_MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**32),
}
"""Without these, glibc's malloc returns activations to the kernel after each step and faults them in again. That costs
a small network a tenth of its CPU time, and more in a thread that is not the first of its process, as Ray's are."""


DETERMINISTIC = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
"""Without this, the first linear layer on a GPU raises if only deterministic algorithms are allowed."""

DATA_FACTOR = 2.0
"""Longest wait for the data, as a multiple of timeouts.start_seconds, in which the coordinator must have read them."""


class Network:
    """A network on Ray. `NetworkWorker` does the work."""

    def __init__(self, spec: NetworkSpec, data: list[ObjectRef[Any]]) -> None:
        """Import torch, wait for the data, and build the network.

        The process starts while the run's data are still being read. If they cannot be read, it ends.

        Args:
            spec: The network and its run.
            data: Reference to the data, in a list, so that Ray starts the process before they are there.
        """
        self._spec = spec  # first, because Ray shows the actor if its constructor fails
        from inarch.actors.network.worker import NetworkWorker, import_optimizers

        import_optimizers()
        (content,) = ray.get(data, timeout=DATA_FACTOR * spec.run.config.timeouts.start_seconds)
        self._worker: NetworkWorker = NetworkWorker(spec, content)
        handle_sigterm(self._worker.move)

    def __repr__(self) -> str:
        return f"Network({self._spec.run.name}/{self._spec.network_id}, incarnation {self._spec.incarnation})"

    @ray.method(concurrency_group="control")
    def ready(self) -> NetworkDescription:
        """Describe the network. The first call. It is answered when the model is built."""
        return self._worker.ready()

    @ray.method(concurrency_group="train")
    def run(self) -> ExitReason:
        """Train to the end.

        The pending call is the network's sign of life. A second call, of a restarted coordinator, waits for the first
        and returns the same.
        """
        return self._worker.run()

    @ray.method(concurrency_group="control")
    def describe(self) -> NetworkStanding:
        """Return how the network stands, for a restarted coordinator."""
        return self._worker.describe()

    @ray.method(concurrency_group="control")
    def hand_over(self, origin: SnapshotInfo) -> np.ndarray:
        """Return the bytes of a published snapshot. Called before the process ends: they outlive it at the caller."""
        return self._worker.hand_over(origin)

    @ray.method(concurrency_group="control")
    def direct(self, command: Command) -> None:
        """Leave, stop, move or pause. Sets a flag that the training thread checks after each step."""
        self._worker.direct(command)

    @ray.method(concurrency_group="control")
    def exit(self) -> None:
        """End this process, once training has ended. Ray then shows that it exited as intended."""
        self._worker.exit()


def create_network(spec: NetworkSpec, data: ObjectRef[Any], *, cpus: float) -> ActorProxy[Network]:
    """Create a network's actor. It is named and detached, so that it outlives its coordinator. Its lease ends it.

    Args:
        spec: The network and its run.
        data: Reference to the data, which may not be there yet.
        cpus: CPUs that Ray reserves.

    Raises:
        ValueError: An actor of this name lives.
    """
    handle = NetworkActor.options(
        name=network_name(spec.run.name, spec.network_id, spec.incarnation),
        namespace=NAMESPACE,
        lifetime="detached",
        num_cpus=cpus,
        num_gpus=spec.gpus,
        max_restarts=0,
        max_task_retries=0,
        scheduling_strategy="SPREAD",
        runtime_env={"env_vars": KEEP_MEMORY | (DETERMINISTIC if spec.run.config.device.deterministic else {})},
    ).remote(spec, [data])
    return cast("ActorProxy[Network]", handle)


_OPTIONS: dict[str, Any] = {"concurrency_groups": {"train": 1, "control": 2}}  # ray.remote's types lack this option

NetworkActor = cast("ActorClass[Network]", ray.remote(**_OPTIONS)(Network))
"""`Network` on Ray."""
