"""The end of a run: evaluate its networks, write the result, and free its folder."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import ray
from ray.exceptions import RayError

from inarch.actors.coordinator.guests import Guests
from inarch.actors.coordinator.lifecycle import NetworkLifecycle
from inarch.actors.coordinator.network_group import await_result, format_error
from inarch.actors.coordinator.remote_tasks import evaluate_run_task
from inarch.actors.coordinator.run_context import RunContext
from inarch.actors.resources import reserved_gpu
from inarch.population.errors import InarchError, StorageError
from inarch.population.membership.members import MemberState
from inarch.population.persistence.claim import withdraw_at_end
from inarch.population.report.page import write_report

GPU_SECONDS = 30.0
"""Longest wait for the GPU of a network that has ended. Another run may have taken it."""

REPORT_SECONDS = 60.0
"""Longest wait for the report of a run that was stopped."""

CLEAN_UP_SECONDS = 120.0
"""Longest wait until the end of a failed run is recorded."""


class RunCompletion:
    """Finishes one run, or cleans up after its failure."""

    def __init__(self, context: RunContext, lifecycle: NetworkLifecycle, guests: Guests) -> None:
        """Create it. Nothing happens yet.

        Args:
            context: The parts of the run.
            lifecycle: Ends the networks.
            guests: Guests of the run.
        """
        self._context, self._lifecycle, self._guests = context, lifecycle, guests
        self.result: dict[str, Any] | None = None
        """The result of a finished run. None if it was stopped."""

    async def finish_if_over(self) -> None:
        """Evaluate the networks, write the result and end them, once none of them is active any more.

        The run does not wait for guests. An open run, which has only guests, ends without an evaluation.
        """
        self._lifecycle.retire_never_placed()
        context, state, members = self._context, self._context.state, self._context.population.members
        networks = [member for member in members if not member.is_guest]
        is_early = not (state.has_begun or state.phase == "stopping")
        if members.active() or is_early or state.is_ending:
            return
        if not (networks or self._guests.is_over()) or not self._guests.has_notified_all():
            return
        is_stopped = state.phase == "stopping" or any(member.state is MemberState.STOPPED for member in networks)
        state.phase = "finishing"
        await context.background.notify()
        seconds = state.seconds
        self._lifecycle.terminate_all()
        await self._guests.write_rows()
        if networks and all(member.state is MemberState.FAILED for member in networks):
            state.fail(state.message or "every network failed")
            return
        if networks and not is_stopped and not await self._evaluate(seconds):
            return
        await context.recorder.write(phase="finished")
        if state.is_over:  # another start has claimed the folder, or it was deleted
            return
        if is_stopped or not networks:
            await self._write_report("stopped" if is_stopped else "finished")
        await self._withdraw_claim()
        state.end("finished")
        context.monitor.emit("finish", None, is_complete=not is_stopped)
        await context.background.notify()
        context.background.spawn(self.end_process())

    async def clean_up(self) -> None:
        """End the networks of a failed run, and record the failure and what was trained. Then announce the failure.

        A driver that learns of the failure may end this process at once.
        """
        context = self._context
        self._lifecycle.terminate_all()
        await context.background.notify()
        try:
            async with asyncio.timeout(CLEAN_UP_SECONDS):
                await context.recorder.write(phase="failed")
                with contextlib.suppress(InarchError):  # the folder may be gone, or another start's
                    await self._guests.write_rows()
                await self._write_report("failed")
                await self._withdraw_claim()
        except Exception:
            context.monitor.log.logger.exception("the end of the failed run could not be recorded")
        context.state.end("failed")
        await context.background.notify()
        await self.end_process()

    async def end_process(self) -> None:
        """Keep a detached coordinator for one lease, so that drivers learn how the run ended, then end it."""
        if self._context.spec.is_detached:
            await asyncio.sleep(self._context.config.timeouts.lease_seconds)
            ray.get_runtime_context().current_actor.exit.remote()

    async def _evaluate(self, seconds: float) -> bool:
        """Evaluate the networks as a task of Ray. Returns False if that failed, and the run with it."""
        context, state = self._context, self._context.state
        ended = {member.id: member.state.value for member in context.population.members if not member.is_guest}
        gpus = state.resources.gpus if state.resources else 0.0
        remote: Any = evaluate_run_task  # ray.remote's types lack `options`
        try:
            async with reserved_gpu(gpus, seconds=GPU_SECONDS) as options:
                if gpus and not options:
                    context.monitor.log.logger.warning("no GPU became free: the networks are evaluated on a CPU")
                task = remote.options(**options).remote(context.spec, state.data, ended, state.reasons, seconds)
                self.result = await await_result(task)
        except Exception as error:  # the task may run the user's code
            if not isinstance(error, InarchError | RayError):
                context.monitor.log.logger.exception("the networks could not be evaluated")
            state.fail(f"the evaluation failed: {format_error(error)}")
            return False
        return True

    async def _write_report(self, state: str) -> None:
        """Write the report of a run without an evaluation. The run ends without it if that fails."""
        try:
            async with asyncio.timeout(REPORT_SECONDS):
                await asyncio.to_thread(write_report, self._context.storage, state=state)
        except Exception:
            self._context.monitor.log.logger.exception("the report of the run could not be written")

    async def _withdraw_claim(self) -> None:
        """Free the run's folder for another start."""
        with contextlib.suppress(StorageError):
            await asyncio.to_thread(withdraw_at_end, self._context.storage, self._context.spec.token)
