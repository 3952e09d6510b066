"""How the result of a run is shown: its table, what to deploy, and what went wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from inarch.population.evaluation.deployment import deployment_of
from inarch.population.evaluation.metrics import Metric


def result_table(table: Mapping[str, Any]) -> Table:
    """Return the result table of a run: each network, their mean, the best network, the ensemble and the soups.

    Scores are those of the weights that `checkpoint.weights` chose for each network. The columns `last` have those of
    the last weights, and the columns `train` those of the last epoch's training examples. Cells that an earlier
    version did not record are empty.

    Args:
        table: Contents of result.json.
    """
    evaluation_set = table.get("evaluated_on")
    title = (
        f"evaluated on the {evaluation_set} data"
        if evaluation_set
        else "not evaluated: there are no test or validation data"
    )
    result = Table(title=f"{table['run']}: {title}", title_justify="left")
    metrics = [Metric(**values) for values in table["metrics"]]
    primary = metrics[0]
    fits = _fits(metrics, table)
    ends = (f"last {primary.title}", "validation", "last validation", *fits, "taken at", "grafts", "ended")
    for name in ("", *(metric.title for metric in metrics), *ends):
        result.add_column(name, justify="left" if name in ("", "ended") else "right")
    for row in table["networks"]:
        result.add_row(
            f"network {row['network']}",
            *_scores(metrics, row.get("best"), row.get("last")),
            primary.text(row.get("validation_score")),
            primary.text(row.get("last_validation_score")),
            *_fit_cells(fits, row.get("train")),
            "" if row.get("best_interval") is None else f"{row['best_interval']}/{row.get('interval', '')}",
            str(row.get("grafts", "")),
            row.get("ended", ""),
        )
    last, validation = table.get("last") or {}, table.get("validation") or {}
    if "mean" in table:
        result.add_section()
        result.add_row(
            "mean",
            *_scores(metrics, table["mean"], last.get("mean")),
            primary.text(validation.get("mean", {}).get(primary.name)),
            primary.text(last.get("validation_score")),
            *_fit_cells(fits, table.get("train")),
        )
        best = next((row for row in table["networks"] if row["network"] == table.get("best")), None)
        if best is not None:
            result.add_row(
                f"best by validation ({table['best']})",
                *_scores(metrics, best.get("best"), best.get("last")),
                primary.text(best.get("validation_score")),
                primary.text(best.get("last_validation_score")),
            )
        for name in ("ensemble", "soup", "greedy_soup"):
            if table.get(name) is not None:
                members = table[name].get("members")
                networks = f" of {', '.join(map(str, members))}" if members else ""
                result.add_row(
                    f"{name.replace('_', ' ')}{networks}",
                    *_scores(metrics, table[name], last.get(name)),
                    primary.text((validation.get(name) or {}).get(primary.name)),
                )
        if None not in (last.get("agreement"), last.get("cosine")):
            result.caption = (
                f"mean similarity of two networks at the end: {last['agreement']:.1%} of the predictions agree, "
                f"cosine of the weights {last['cosine']:.3f}"
            )
    return result


def _fits(metrics: Sequence[Metric], table: Mapping[str, Any]) -> dict[str, Metric]:
    """Return the columns on training: the loss, and the first metric of the task that its training also gives."""
    recorded = table.get("train") or {}
    given = [metric for metric in metrics if metric.name in recorded and metric.name != "loss"][:1]
    losses = [Metric(name="loss", higher_is_better=False)] if "loss" in recorded else []
    return {f"train {metric.title}": metric for metric in (*losses, *given)}


def _fit_cells(fits: Mapping[str, Metric], train: Mapping[str, float] | None) -> list[str]:
    return [metric.text((train or {}).get(metric.name)) for metric in fits.values()]


def deploy_lines(table: Mapping[str, Any], path: str) -> list[str]:
    """Return what to deploy, what the alternatives would give, and the command that exports the recommendation.

    Args:
        table: Contents of result.json. Empty for one of an earlier version.
        path: The run's folder.
    """
    deployment = deployment_of(table)
    if deployment is None:
        return []
    choice = deployment.choice
    can_export = choice is not None and choice.forward_passes == 1
    return [*deployment.lines(), *([f"to export it: inarch export {path} --what recommended"] if can_export else [])]


def failure_lines(table: Mapping[str, Any]) -> list[str]:
    """Return one line for each network that failed or was lost, with the reason, and for each trouble with storage.

    Another line names the networks that left no checkpoint and therefore have no part in the mean.

    Args:
        table: Contents of result.json.
    """
    rows = [row for row in table["networks"] if row.get("ended") in ("failed", "lost")]
    consequence = "is not in the mean" if len(rows) == 1 else "are not in the mean"
    lines = [
        f"network {row['network']} {row['ended']}: {row.get('reason') or 'its log has the reason'}" for row in rows
    ]
    lines += [
        f"network {row['network']}: storage failed {row['storage_failures']} times while it trained"
        for row in table["networks"]
        if row.get("storage_failures")
    ]
    lines += [f"damaged, and left out: {name}" for name in table.get("damaged_files", ())]
    absent = [str(row["network"]) for row in rows if {row.get("validation_score"), row.get("best_interval")} == {None}]
    if absent:
        names = f"network{'s' if len(absent) > 1 else ''} {', '.join(absent)}"
        lines.append(f"{names} left no checkpoint and {consequence}")
    return lines


def similarity_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return a table of how similar the networks were after each interval.

    Args:
        rows: Rows of `similarity_over_time`.
    """
    result = Table(title="mean similarity of two networks after the exchange", title_justify="left")
    for name in ("interval", "same predictions on validation data", "cosine of weights"):
        result.add_column(name, justify="right")
    for row in rows:
        agreement, cosine = _number(row["agreement"], "{:.2%}"), _number(row["cosine"], "{:.3f}")
        result.add_row(str(row["interval"]), agreement, cosine)
    return result


def _scores(
    metrics: Sequence[Metric], best: Mapping[str, Any] | None, last: Mapping[str, Any] | None
) -> tuple[str, ...]:
    """Return the cells of the best weights' metrics, and the primary metric of the last weights."""
    best, last = best or {}, last or {}
    cells = [metric.text(best.get(metric.name)) for metric in metrics]
    return (*cells, metrics[0].text(last.get(metrics[0].name)))


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)
