"""Fixtures of the GPU tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.gpu.devices import Device, running

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA begins; older torch needs it


@pytest.fixture
def device(request: pytest.FixtureRequest) -> Iterator[Device]:
    """The device that a test is parametrized by."""
    with running(request.param) as found:
        yield found
