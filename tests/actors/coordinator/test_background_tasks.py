"""Tasks that nobody awaits, and waits that end."""

from __future__ import annotations

import asyncio

from inarch.actors.coordinator.background_tasks import BackgroundTasks


def test_work_asked_for_often_is_done_once_and_once_more_if_asked_for_meanwhile() -> None:
    async def scene() -> list[str]:
        background, said, gate = BackgroundTasks(), [], asyncio.Event()

        async def work() -> None:
            said.append("begun")
            await gate.wait()
            said.append("done")

        for _ in range(5):
            background.run_coalesced(work)
        await asyncio.sleep(0)
        background.run_coalesced(work)
        background.run_coalesced(work)
        gate.set()
        while said.count("done") < 2:
            await asyncio.sleep(0)
        for _ in range(5):
            await asyncio.sleep(0)
        return said

    assert asyncio.run(scene()) == ["begun", "done", "begun", "done"]


def test_what_a_task_raises_is_told_and_work_can_be_asked_for_again() -> None:
    async def scene() -> list[str]:
        background = BackgroundTasks()

        async def work() -> None:
            raise ValueError("no disk")

        for count in (1, 2):
            background.run_coalesced(work)
            while len(background.errors) < count:
                await asyncio.sleep(0)
        assert background.has_changed.is_set()
        return [str(error) for error in background.errors]

    assert asyncio.run(scene()) == ["no disk", "no disk"]


def test_a_wait_ends_when_its_claim_holds_or_its_time_is_over() -> None:
    async def scene() -> list[bool]:
        background, found = BackgroundTasks(), [False]

        async def change() -> None:
            found[0] = True
            await background.notify()

        await background.wait_until(lambda: found[0], seconds=0.01)
        before = found[0]
        background.spawn(change())
        await background.wait_until(lambda: found[0], seconds=5.0)
        return [before, found[0]]

    assert asyncio.run(scene()) == [False, True]
