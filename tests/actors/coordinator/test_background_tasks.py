"""Background tasks: coalesced work, recorded errors, and waits with a timeout."""

from __future__ import annotations

import asyncio

from inarch.actors.coordinator.background_tasks import BackgroundTasks


def test_run_coalesced_during_a_run_adds_a_single_run() -> None:
    async def scenario() -> list[str]:
        background, calls, gate = BackgroundTasks(), [], asyncio.Event()

        async def work() -> None:
            calls.append("begun")
            await gate.wait()
            calls.append("done")

        for _ in range(5):
            background.run_coalesced(work)
        await asyncio.sleep(0)
        background.run_coalesced(work)
        background.run_coalesced(work)
        gate.set()
        while calls.count("done") < 2:
            await asyncio.sleep(0)
        for _ in range(5):
            await asyncio.sleep(0)
        return calls

    assert asyncio.run(scenario()) == ["begun", "done", "begun", "done"]


def test_run_coalesced_records_errors_and_can_run_again() -> None:
    async def scenario() -> list[str]:
        background = BackgroundTasks()

        async def work() -> None:
            raise ValueError("no disk")

        for count in (1, 2):
            background.run_coalesced(work)
            while len(background.errors) < count:
                await asyncio.sleep(0)
        assert background.has_changed.is_set()
        return [str(error) for error in background.errors]

    assert asyncio.run(scenario()) == ["no disk", "no disk"]


def test_wait_until_ends_at_its_condition_or_timeout() -> None:
    async def scenario() -> list[bool]:
        background, flag = BackgroundTasks(), [False]

        async def change() -> None:
            flag[0] = True
            await background.notify()

        await background.wait_until(lambda: flag[0], seconds=0.01)
        before = flag[0]
        background.spawn(change())
        await background.wait_until(lambda: flag[0], seconds=5.0)
        return [before, flag[0]]

    assert asyncio.run(scenario()) == [False, True]
