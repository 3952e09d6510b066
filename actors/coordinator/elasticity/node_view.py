"""Read what each node of the cluster has, which nodes are about to leave, and what waits for a place."""

from __future__ import annotations

import ray

from inarch.population.membership.elasticity import ClusterView, NodeCapacity

READ_SECONDS = 5
"""Longest wait for the cluster's answer."""

DRAINING = "DRAINING"
"""Ray's status of a node that is about to leave."""


def read_cluster() -> ClusterView:
    """Return the connected cluster. The call takes one to two milliseconds, and blocks.

    It is the view of `ray status`. Ray's head keeps it, so the dashboard need not run.

    Raises:
        RayError: The head of the cluster does not answer.
        Exception: The view of this version of Ray has another form.
    """
    from ray.autoscaler.v2.sdk import get_cluster_status  # it imports what only this call needs

    status = get_cluster_status(ray.get_runtime_context().gcs_address, timeout=READ_SECONDS)
    nodes = tuple(
        NodeCapacity(
            node_id=node.node_id or "",
            total={usage.resource_name: usage.total for usage in node.resource_usage.usage},
            free={usage.resource_name: usage.total - usage.used for usage in node.resource_usage.usage},
            is_draining=node.node_status == DRAINING,
        )
        for node in (*status.active_nodes, *status.idle_nodes)
        if node.resource_usage is not None
    )
    demands = status.resource_demands.ray_task_actor_demand
    pending = tuple((count.bundle, count.count) for demand in demands for count in demand.bundles_by_count)
    return ClusterView(nodes=nodes, pending=pending)
