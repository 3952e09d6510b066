"""Which networks pause when there are more networks than places: pure decisions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inarch.population.membership.time_slicing import RunningNetwork, next_in_turn, select_to_pause


def running(*progress: tuple[int, int]) -> list[RunningNetwork]:
    """Networks with completed intervals, and those that were completed when they got their place."""
    return [
        RunningNetwork(network_id=number, interval=interval, began_interval=began)
        for number, (interval, began) in enumerate(progress)
    ]


@pytest.mark.parametrize(
    ("networks", "waiting", "slice_intervals", "paused"),
    [
        (running((0, 0), (0, 0)), [0, 0], 1, (0, 1)),
        (running((0, 0), (0, 0)), [], 1, ()),
        (running((0, 0), (0, 0)), [0, 0], 2, ()),
        (running((1, 0), (0, 0)), [0, 0], 2, (0,)),
        (running((3, 2), (5, 4)), [2], 1, (1,)),  # only one waits: the most advanced makes room
        (running((2, 0)), [9], 1, ()),  # it is behind the one that waits
        (running((8, 0)), [9], 1, (0,)),
    ],
)
def test_networks_pause_at_the_end_of_their_slice(networks, waiting, slice_intervals: int, paused) -> None:
    assert select_to_pause(networks, waiting, slice_intervals=slice_intervals) == paused


@pytest.mark.parametrize(
    ("queue", "waiting", "expected"),
    [
        ([0, 2, 1], {0: 4, 1: 2, 2: 2}, 2),
        ([0], {0: 4, 1: 2}, None),  # network 1 has a process already
        ([0], {0: 2, 1: 2}, 0),
        ([0], {}, None),  # it left
        ([], {1: 2}, None),
    ],
)
def test_least_progress_looks_for_a_place_first(queue: list[int], waiting: dict[int, int], expected) -> None:
    assert next_in_turn(queue, waiting) == expected


@given(
    networks=st.integers(1, 7),
    places=st.integers(1, 4),
    slice_intervals=st.integers(1, 3),
    speeds=st.lists(st.integers(1, 4), min_size=7, max_size=7),
    num_intervals=st.integers(1, 12),
)
def test_all_networks_finish_within_a_slice_of_each_other(
    networks: int, places: int, slice_intervals: int, speeds: list[int], num_intervals: int
) -> None:
    """A population on fewer places, on a clock of ticks. A network completes an interval in `speeds` ticks."""
    progress = dict.fromkeys(range(networks), 0)
    began: dict[int, int] = {}
    age = dict.fromkeys(range(networks), 0)
    asked: set[int] = set()
    queue = list(progress)
    for _ in range(20 * networks * num_intervals):
        waiting = {n: progress[n] for n in queue}
        while waiting and len(began) < places:
            chosen = next_in_turn(queue, waiting)
            assert chosen is not None
            queue.remove(chosen)
            began[chosen] = waiting.pop(chosen)
        present = [RunningNetwork(network_id=n, interval=progress[n], began_interval=began[n]) for n in began]
        asked |= set(select_to_pause(present, waiting.values(), slice_intervals=slice_intervals))
        for n in list(began):
            age[n] += 1
            if age[n] == speeds[n]:
                age[n], progress[n] = 0, progress[n] + 1
                if n in asked or progress[n] == num_intervals:
                    asked.discard(n)
                    del began[n]
                    queue += [n] if progress[n] < num_intervals else []
        if waiting:
            assert max(progress.values()) - min(waiting.values()) <= slice_intervals + 1, progress
    assert set(progress.values()) == {num_intervals}
