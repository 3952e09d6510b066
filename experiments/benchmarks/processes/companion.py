"""Processes beside a benchmark that answer requests: an observer attached to a run, and the owner of a cluster.

They are processes of their own because Ray ends a process whose cluster has died. Requests and answers are lines of
JSON. Companions exit when the process that started them does.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

MARK = "@inarch "
"""Beginning of the lines that are answers. Ray prints other lines."""

EXIT_SECONDS = 20.0
"""Longest wait for a companion that was asked to exit."""


def serve(answer: Callable[[str, Mapping[str, Any]], Any]) -> None:
    """Answer the requests on standard input until it ends.

    Args:
        answer: Returns the answer to a request, as JSON types. It gets the name of the request and its arguments.
    """
    _send({"number": 0, "value": None})
    for line in sys.stdin:
        request = json.loads(line)
        try:
            _send({"number": request["number"], "value": answer(request["name"], request["arguments"])})
        except Exception as error:
            _send({"number": request["number"], "error": f"{type(error).__name__}: {error}"})


def _send(answer: Mapping[str, Any]) -> None:
    print(MARK + json.dumps(answer), flush=True)


class Companion:
    """A process that answers requests. The caller never waits longer than it says."""

    def __init__(self, module: str, words: Sequence[str], *, log: Path, environment: Mapping[str, str]) -> None:
        """Start the process.

        Args:
            module: Module that the process runs.
            words: Words of its command line.
            log: File for what it prints.
            environment: Environment variables of the process.
        """
        self._answers: queue.Queue[dict[str, Any]] = queue.Queue()
        self._number, self._is_ready = 0, False
        self._log = log.open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=dict(environment),
        )
        self._reader = threading.Thread(target=self._read, name="companion", daemon=True)
        self._reader.start()

    @property
    def is_alive(self) -> bool:
        """Whether the process lives."""
        return self.process.poll() is None

    def ready(self, *, seconds: float) -> bool:
        """Wait until the process answers requests, and return whether it does.

        Args:
            seconds: Longest wait.
        """
        self._is_ready = self._is_ready or self._answer(0, seconds) is not None
        return self._is_ready

    def ask(self, name: str, *, seconds: float, **arguments: Any) -> Any:
        """Return the answer to a request.

        Args:
            name: Name of the request.
            seconds: Longest wait. The answer to a request that was given up is dropped.
            **arguments: Arguments of the request, in JSON's types.

        Raises:
            TimeoutError: There was no answer in time, or the process has ended.
            RuntimeError: The request failed in the companion.
        """
        self._number += 1
        line = json.dumps({"number": self._number, "name": name, "arguments": arguments}) + "\n"
        try:
            assert self.process.stdin is not None
            self.process.stdin.write(line.encode())
            self.process.stdin.flush()
        except OSError:
            raise TimeoutError(f"{name}: the companion has ended") from None
        answer = self._answer(self._number, seconds)
        if answer is None:
            raise TimeoutError(f"{name}: no answer within {seconds:g} s")
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["value"]

    def close(self) -> None:
        """End the process, and kill it if it does not end by itself."""
        if self.process.stdin is not None:
            with contextlib.suppress(OSError):  # a request that could not be sent
                self.process.stdin.close()
        try:
            self.process.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(EXIT_SECONDS)
        self._reader.join(EXIT_SECONDS)
        self._log.close()

    def _answer(self, number: int, seconds: float) -> dict[str, Any] | None:
        """Wait for the answer to a request. None: there was none."""
        while True:
            try:
                answer = self._answers.get(timeout=seconds)
            except queue.Empty:
                return None
            if answer["number"] == number:
                return answer
            if answer["number"] < 0:  # the process has ended
                self._answers.put(answer)
                return None

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            text = line.decode(errors="replace")
            if text.startswith(MARK):
                self._answers.put(json.loads(text.removeprefix(MARK)))
            elif not self._log.closed:
                os.write(self._log.fileno(), line)
        self._answers.put({"number": -1})
