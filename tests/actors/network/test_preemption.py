"""SIGTERM to a network's process, without Ray."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator

import pytest

from inarch.actors.network.preemption import handle_sigterm


@pytest.fixture
def earlier() -> Iterator[list[int]]:
    """SIGTERMs that reach the handler before ours."""
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    yield received
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(("is_training", "reaching"), [(True, []), (False, [signal.SIGTERM])])
def test_sigterm_lets_a_training_network_move(earlier: list[int], is_training: bool, reaching: list[int]) -> None:
    calls: list[None] = []

    def move() -> bool:
        calls.append(None)
        return is_training

    assert handle_sigterm(move)
    os.kill(os.getpid(), signal.SIGTERM)
    assert (len(calls), earlier) == (1, reaching)


def test_children_keep_the_handler_before(earlier: list[int]) -> None:
    def receive() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        sys.exit(3 if earlier else 4)

    assert handle_sigterm(lambda: True)
    child = multiprocessing.get_context("fork").Process(target=receive)
    child.start()
    child.join(timeout=30.0)
    assert child.exitcode == 3


def test_other_threads_cannot_install_the_handler(earlier: list[int]) -> None:
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(handle_sigterm(lambda: True)))
    thread.start()
    thread.join()
    assert answers == [False]
