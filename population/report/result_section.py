"""The section of the report with the result of a run, and with what to deploy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inarch.population.evaluation.deployment import deployment_of
from inarch.population.report.content import Row, RunContent
from inarch.population.report.parts import names_of, table_row, text


def result_section(content: RunContent) -> str:
    """Return the section with the result, or with the newest metrics of a run that has none.

    Args:
        content: What the report shows.
    """
    if content.result is None:
        return "<h2>Result</h2>" + _newest(content)
    result, metrics = content.result, content.metrics
    head = "".join(f"<th>{text(metric.title)}</th>" for metric in metrics)
    head += f"<th>last {text(metrics[0].title)}</th><th>validation</th><th>last validation</th><th>train loss</th>"
    head += "<th>taken at</th><th>grafts</th><th>ended</th>"
    rows: list[str] = []
    for row in result["networks"]:
        best, last = row.get("best") or {}, row.get("last") or {}
        cells = [metric.text(best.get(metric.name)) for metric in metrics]
        cells += [metrics[0].text(last.get(metrics[0].name)), metrics[0].text(row.get("validation_score"))]
        cells += [metrics[0].text(row.get("last_validation_score")), _loss(row.get("train"))]
        taken_at = row.get("best_interval")
        cells += ["" if taken_at is None else f"{taken_at}/{row.get('interval', '')}"]
        cells += [str(row.get("grafts", "")), row.get("ended", "")]
        is_best = row["network"] == result.get("best")
        rows.append(table_row(f"network {row['network']}", cells, is_best=is_best))
    validation = result.get("validation") or {}
    for name in ("mean", "ensemble", "soup", "greedy_soup"):
        values = result.get(name)
        if values:
            cells = [metric.text(values.get(metric.name)) for metric in metrics]
            ends = result.get("last") or {}
            last = (ends.get(name) or {}).get(metrics[0].name)
            judged = (validation.get(name) or {}).get(metrics[0].name)
            at_end = metrics[0].text(ends.get("validation_score")) if name == "mean" else ""
            fit = _loss(result.get("train")) if name == "mean" else ""
            cells += [metrics[0].text(last), metrics[0].text(judged), at_end, fit, "", "", ""]
            rows.append(table_row(name.replace("_", " "), cells))
    table = f'<div class="scroll"><table><tr><th></th>{head}</tr>{"".join(rows)}</table></div>'
    where = result.get("evaluated_on")
    chosen = f"Weights by checkpoint.weights, evaluated on the {text(where)} data."
    note = chosen if where else "There were no data to evaluate."
    body = f'{table}<p class="soft">{note}</p>{_similarity(result)}{_advice(content)}'
    return f'<h2>Result</h2><div class="card">{body}</div>'


def _loss(train: Mapping[str, float] | None) -> str:
    """The training loss of the last epoch. Empty if it was not recorded."""
    return f"{train['loss']:.4f}" if train and "loss" in train else ""


def _newest(content: RunContent) -> str:
    """The newest metrics of each network, for a run without a result."""
    newest: dict[int, Row] = {row["network"]: row for row in content.rows}
    if not newest:
        return '<p class="empty">No network has completed an interval with a checkpoint yet.</p>'
    metrics = [metric for metric in content.metrics if metric.in_training]
    head = "".join(f"<th>{text(metric.title)}</th>" for metric in metrics)
    names = names_of(content)
    rows = [
        table_row(
            names.get(network_id, str(network_id)),
            [
                str(row["interval"]),
                "" if row["train_loss"] is None else f"{row['train_loss']:.4f}",
                *(metric.text(row.get(f"validation_{metric.name}")) for metric in metrics),
                str(row["grafts"]),
            ],
        )
        for network_id, row in sorted(newest.items())
    ]
    table = f"<table><tr><th></th><th>interval</th><th>loss</th>{head}<th>grafts</th></tr>{''.join(rows)}</table>"
    note = '<p class="soft">Newest interval of each network, on validation data.</p>'
    return f'<div class="card scroll">{table}{note}</div>'


def _similarity(result: Mapping[str, Any]) -> str:
    last = result.get("last") or {}
    if last.get("agreement") is None or last.get("cosine") is None:
        return ""
    return (
        f"<p>Mean similarity of two networks at the end: {last['agreement']:.1%} of the predictions agree, cosine of "
        f"the weights {last['cosine']:.3f}.</p>"
    )


def _advice(content: RunContent) -> str:
    """What to deploy, and what the alternatives would give and cost. Empty for results of earlier versions."""
    deployment = deployment_of(content.result or {})
    if deployment is None:
        return ""
    first, *others = deployment.lines()
    head = f"<p><b>{text(first[0].upper() + first[1:])}</b></p>"
    rest = "".join(f"<li>{text(line.strip())}</li>" for line in others)
    return f"{head}<ul>{rest}</ul>" if rest else head
