"""The live view of a run in a terminal."""

from __future__ import annotations

import dataclasses
import io
import math
import time

import pytest
from rich.console import Console

from inarch.actors import NetworkStatus, RunStatus
from inarch.experiments.display import live_view, share_completed
from inarch.experiments.result_commands import plain_console
from inarch.population.evaluation.metrics import Metric

METRIC = Metric(name="accuracy", form="{:.1%}")


def status(*networks: NetworkStatus, state: str = "training", seconds: float = 60.0) -> RunStatus:
    return RunStatus(
        name="run",
        state=state,  # pyright: ignore[reportArgumentType] # a literal's value
        num_intervals=40,
        epochs=40,
        networks=networks,
        seconds=seconds,
        metrics=(METRIC,),
    )


def network(
    number: int, *, state: str = "training", interval: int = 10, value: float | None = None, **fields
) -> NetworkStatus:
    metrics = {"accuracy": value}
    return NetworkStatus(
        network_id=number, state=state, incarnation=1, interval=interval, validation_metrics=metrics, **fields
    )


def shown(run: RunStatus, *, height: int = 30, first: RunStatus | None = None) -> str:
    console = Console(file=io.StringIO(), width=120, height=height, force_terminal=False)
    console.print(live_view(run, height=height, first=first))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_view_before_the_first_interval_counts_placed_networks() -> None:
    networks = [network(number, state="starting", process=number if number < 2 else None) for number in range(4)]
    assert "placed 2 of 4 networks" in shown(status(*networks, state="starting"))


def test_texts_with_brackets_and_colons_are_shown_as_they_are(capsys) -> None:
    reason = "RuntimeError: [/third_party/gloo/pair.cc:446] closed :smile:"
    guest = network(0, name="gpu[/a]")
    run = dataclasses.replace(status(guest, state="failed"), message=reason)
    console = plain_console()
    console.print(live_view(run, height=30))
    console.print(reason)
    printed = capsys.readouterr().out
    assert printed.count(reason) == 2 and "gpu[/a]" in printed


def test_view_shows_time_left_best_and_mean() -> None:
    text = shown(status(network(0, value=0.9), network(1, interval=30, value=0.7)))
    assert "50%, about 1 min 0 s left; accuracy best 90.0%, mean 80.0%" in text
    text = shown(status(network(0, value=math.nan), network(1, value=0.7), network(2, value=0.5)))
    assert "accuracy best 70.0%, mean 60.0%" in text


def test_time_left_of_a_resumed_run_counts_from_the_resume() -> None:
    first = status(network(0, interval=20), seconds=2.0)
    later = status(network(0, interval=30), seconds=62.0)
    text = shown(later, first=first)
    assert "75%, about 1 min 0 s left" in text
    assert "left" not in shown(first, first=first)


def test_view_shows_the_numbers_in_which_networks_differ() -> None:
    same = {"optimizer.learning_rate": 0.1}
    networks = [network(number, hyperparameters=same | {"optimizer.weight_decay": 10.0**-number}) for number in (2, 3)]
    text = shown(status(*networks, network(4)))
    assert "own numbers" in text and "weight_decay 0.01" in text and "weight_decay 0.001" in text
    assert "learning_rate" not in text
    assert "own numbers" not in shown(status(network(0, hyperparameters=same), network(1, hyperparameters=same)))


def test_sixty_networks_fit_into_thirty_lines() -> None:
    networks = [network(number, value=number / 100) for number in range(58)]
    networks += [network(58, state="failed"), network(59, state="stalled", value=0.01)]
    text = shown(status(*networks))
    assert len(text.splitlines()) <= 30
    assert "58 training, 1 failed, 1 stalled" in text
    assert "failed" in text.splitlines()[5] + text.splitlines()[6]
    assert "57.0%" in text and "best 57.0%" in text and "more" in text


def test_share_counts_own_networks_that_continue() -> None:
    own = [network(0, interval=20), network(1, interval=0, state="failed")]
    assert share_completed(status(*own, network(2, interval=40, name="guest"))) == 0.5
    assert share_completed(status()) is None


def test_view_of_a_thousand_networks_is_quick() -> None:
    run = status(*(network(number, value=0.5) for number in range(1000)))
    shown(run)
    began = time.perf_counter()
    live_view(run, height=30)
    assert time.perf_counter() - began < 0.05


def test_network_without_values_has_empty_cells() -> None:
    text = shown(status(network(0, epoch=None, name="loop")))
    assert "0 loop" in text and "interval 10" in text and "None" not in text


@pytest.mark.parametrize("seconds, text", [(30.0, "about 1 min 30 s left"), (4000.0, "about 3 h 20 min left")])
def test_time_left_has_two_units(seconds: float, text: str) -> None:
    assert text in shown(status(network(0), seconds=seconds))


def test_view_names_networks_whose_storage_fails() -> None:
    failing = network(1, storage_failure="No space left on device", unwritten_seconds=75.0)
    text = shown(status(network(0), failing))
    assert "storage fails for network 1, nothing written for 1 min 15 s: No space left on device" in text
    assert "training (not written)" in text
