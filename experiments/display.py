"""What a run shows: a live table in a terminal, plain lines elsewhere, a result table at the end."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from inarch.actors import Event, NetworkStatus, PopulationRun, RunInfo, RunResult, RunStatus

REFRESH_SECONDS = 0.5

CLASSIFICATION = {"accuracy": "accuracy", "top5": "top-5", "loss": "loss", "calibration_error": "calibration"}
RETRIEVAL = {"mean_average_precision": "mAP", "accuracy": "rank-1", "top5": "rank-5"}
"""Columns of a result: the score and what it is called; the first is shown at the end of training too."""


def info_lines(info: RunInfo) -> str:
    """What was read, a line for each thing; the network, in a line; what a compact network saves, in another."""
    network = (
        f"network: {info.parameters:,} parameters, {info.multiply_adds:,} multiply-adds an image; "
        f"{info.num_intervals} intervals, {info.steps_per_epoch} steps an epoch"
    )
    told = "\n".join([*(info.data.lines() if info.data is not None else ()), network])
    parameters, multiply_adds = info.compact_parameters, info.compact_multiply_adds
    if parameters is None or multiply_adds is None:
        return told
    return (
        f"{told}\ncompact: {parameters:,} parameters ({parameters / info.parameters - 1:.1%}), {multiply_adds:,} "
        f"multiply-adds ({multiply_adds / info.multiply_adds - 1:.1%}) by torch.utils.flop_counter; published counts "
        "come from another counter and are up to 1.6 % higher"
    )


def follow(run: PopulationRun, console: Console) -> RunResult:
    """Show a run to its end, and give its result."""
    if not console.is_terminal:
        for event in run.events():
            line = describe(event)
            if line:
                console.print(line, highlight=False, soft_wrap=True)
        return run.wait()
    with Live(status_table(run.status()), console=console, refresh_per_second=4) as live:
        while True:
            status = run.status()
            live.update(status_table(status))
            if status.state in ("finished", "failed"):
                break
            time.sleep(REFRESH_SECONDS)
    return run.wait()


def status_table(status: RunStatus) -> Table:
    """A row for each network."""
    refused = ", ".join(f"{count} {name}" for name, count in sorted(status.refusals.items()))
    title = f"{status.name}: {status.state}, {status.seconds:.0f} s" + (f"; refused {refused}" if refused else "")
    table = Table(title=title, title_justify="left")
    for name in ("network", "epoch", "loss", "accuracy", "images/s", "grafts", "scion", "behind", "state"):
        table.add_column(name, justify="left" if name == "state" else "right")
    for network in status.networks:
        table.add_row(*_cells(network, status.epochs))
    return table


def _cells(network: NetworkStatus, epochs: int) -> tuple[str, ...]:
    age = (
        ""
        if network.staleness_intervals is None
        else f"{network.staleness_intervals:.1f} / {network.staleness_seconds or 0:.1f} s"
    )
    is_plain = network.outcome in ("", "grafted", "off") or network.state == "done"
    state = network.state if is_plain else f"{network.state} ({network.outcome})"
    return (
        str(network.network_id),
        f"{network.epoch:.1f}/{epochs}",
        _number(network.train_loss, "{:.4f}"),
        _number(network.validation_accuracy, "{:.2%}"),
        _number(network.images_per_second, "{:.0f}"),
        str(network.grafts),
        "" if network.scion is None else str(network.scion),
        age,
        state,
    )


def describe(event: Event) -> str:
    """An event as one plain line; empty for those that a line of their own would only repeat."""
    who = f"network {event.network_id}"
    detail: Mapping[str, Any] = event.detail
    if event.kind == "interval":
        accuracy = _number(detail["accuracy"], "{:.2%}") or "-"
        return f"{who}: interval {detail['interval']}, loss {detail['loss']:.4f}, validation accuracy {accuracy}"
    if event.kind == "graft":
        whence = "without a donor"  # internal scions and noise
        if detail["staleness"] is not None:
            whence = f"from {detail['scion']}, {detail['staleness']:.1f} intervals behind"
        return f"{who}: interval {detail['interval']}, grafted {whence}"
    if event.kind == "refusal":
        return f"{who}: interval {detail['interval']}, no graft ({detail['reason']})"
    lines = {
        "join": f"{who}: joins, incarnation {detail.get('incarnation')}",
        "loss": f"{who}: lost ({detail.get('reason')})",
        "restart": f"{who}: brought back as incarnation {detail.get('incarnation')}",
        "leave": f"{who}: leaves ({detail.get('outcome')})",
        "done": f"{who}: done",
        "failure": f"{who}: failed: {detail.get('reason')}",
        "stop": "stopping: every network commits a checkpoint",
        "finish": "finished" if detail.get("is_complete") else "stopped",
    }
    return lines.get(event.kind, "")


def result_table(table: Mapping[str, Any]) -> Table:
    """Every network, mean, best, ensemble, soups, as they were best by validation and as they ended."""
    judged = table.get("judged_on")
    title = f"judged on the {judged} images" if judged else "not judged, since there are no test and validation images"
    shown = Table(title=f"{table['run']}: {title}", title_justify="left")
    scores = RETRIEVAL if _is_retrieval(table) else CLASSIFICATION
    first = next(iter(scores.values()))
    for name in ("", *scores.values(), f"last {first}", "validation", "best at", "grafts", "ended"):
        shown.add_column(name, justify="left" if name in ("", "ended") else "right")
    for row in table["networks"]:
        shown.add_row(
            f"network {row['network']}",
            *_scores(scores, row.get("best"), row.get("last")),
            _number(row["validation_score"], "{:.2%}"),
            "" if row["best_interval"] is None else f"{row['best_interval']}/{row['interval']}",
            str(row["grafts"]),
            row["ended"],
        )
    if "mean" in table:
        shown.add_section()
        last = table["last"]
        shown.add_row("mean", *_scores(scores, table["mean"], last["mean"]))
        chosen = next(row for row in table["networks"] if row["network"] == table["best"])
        shown.add_row(f"best by validation ({table['best']})", *_scores(scores, chosen["best"], chosen["last"]))
        for name in ("ensemble", "soup", "greedy_soup"):
            if table[name] is not None:
                members = table[name].get("members")
                told = f" of {', '.join(map(str, members))}" if members else ""
                shown.add_row(f"{name.replace('_', ' ')}{told}", *_scores(scores, table[name], last.get(name)))
        if table["agreement"] is not None:
            compared = "nearest images" if _is_retrieval(table) else "predictions"
            shown.caption = (
                f"between two networks: {last['agreement']:.1%} of the {compared} agree at the end, "
                f"cosine of the weights {last['cosine']:.3f}"
            )
    return shown


def failure_lines(table: Mapping[str, Any]) -> list[str]:
    """A line for each network that failed, with its reason."""
    rows = [row for row in table["networks"] if row["ended"] in ("failed", "lost")]
    part = "is not in the mean" if len(rows) == 1 else "are not in the mean"
    lines = [
        f"network {row['network']} {row['ended']}: {row.get('reason') or 'its log has the reason'}" for row in rows
    ]
    absent = [str(row["network"]) for row in rows if row["validation_score"] is None and row["best_interval"] is None]
    if absent:
        names = f"network{'s' if len(absent) > 1 else ''} {', '.join(absent)}"
        lines.append(f"{names} left no checkpoint and {part}")
    return lines


def similarity_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """How alike the networks were, by interval."""
    shown = Table(title="between two networks, after the exchange", title_justify="left")
    for name in ("interval", "same on validation images", "cosine of weights"):
        shown.add_column(name, justify="right")
    for row in rows:
        agreement, cosine = _number(row["agreement"], "{:.2%}"), _number(row["cosine"], "{:.3f}")
        shown.add_row(str(row["interval"]), agreement, cosine)
    return shown


def _is_retrieval(table: Mapping[str, Any]) -> bool:
    return "mean" in table and table["mean"].get("mean_average_precision") is not None


def _scores(
    shown: Mapping[str, str], best: Mapping[str, Any] | None, last: Mapping[str, Any] | None
) -> tuple[str, ...]:
    """The cells of some scores, and the first of them at the end."""
    best, last = best or {}, last or {}
    cells = [_number(best.get(name), "{:.4f}" if name == "loss" else "{:.2%}") for name in shown]
    return (*cells, _number(last.get(next(iter(shown))), "{:.2%}"))


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)
