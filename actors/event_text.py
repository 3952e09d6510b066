"""Events of a run as lines of text, for logs and for terminals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from inarch.actors.messages import Event
from inarch.population.evaluation.metrics import Metric


def event_text(event: Event, metrics: Sequence[Metric] = ()) -> str:
    """Return an event as one line of text.

    Args:
        event: The event.
        metrics: Metrics of the task, of which the first is shown after an interval.

    Returns:
        The line. Empty for kinds of events that are not shown, because another line already states the same.
    """
    network = f"network {event.network_id}"
    detail: Mapping[str, Any] = event.detail
    if event.kind == "interval":
        loss = "-" if detail["loss"] is None else f"{detail['loss']:.4f}"
        line = f"{network}: interval {detail['interval']}, loss {loss}"
        values = [
            f"{metric.title} {metric.text(detail['validation'].get(metric.name)) or '-'}" for metric in metrics[:1]
        ]
        return ", validation ".join([line, *values])
    if event.kind == "graft":
        source = "without a donor"  # the scion is internal or noise
        if detail["staleness"] is not None:
            source = f"from {detail['scion']}, {detail['staleness']:.1f} intervals behind"
        return f"{network}: interval {detail['interval']}, grafted {source}"
    if event.kind == "refusal":
        return f"{network}: interval {detail['interval']}, no graft ({detail['reason']})"
    name = detail.get("name")
    called = f" ({name})" if name else ""
    lines = {
        "join": f"{network}{called}: joins, incarnation {detail.get('incarnation')}",
        "loss": f"{network}: lost ({detail.get('reason')})",
        "restart": f"{network}: restarted as incarnation {detail.get('incarnation')}"
        + (f" ({detail['reason']})" if detail.get("reason") else ""),
        "pause": f"{network}: pauses after interval {detail.get('interval')}, and another network has its place",
        "leave": f"{network}: leaves ({detail.get('outcome')})",
        "done": f"{network}: done",
        "failure": f"{network}: failed: {detail.get('reason')}",
        "storage": f"{network if event.network_id is not None else 'the record of the members'}: "
        + (f"storage fails ({detail.get('reason')})" if detail.get("is_failing") else "storage works again"),
        "damage": f"{network}: a damaged file was passed over ({detail.get('reason')})",
        "stop": "stopping: every member is asked to end",
        "finish": "finished" if detail.get("is_complete") else "stopped",
    }
    return lines.get(event.kind, "")
