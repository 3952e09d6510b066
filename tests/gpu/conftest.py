"""Fixtures of the GPU tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from tests.gpu.devices import Device, running

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA begins; older torch needs it


@pytest.fixture
def device(request: pytest.FixtureRequest) -> Iterator[Device]:
    """The device that a test is parametrized by."""
    with running(request.param) as found:
        try:
            yield found
        finally:
            if found.is_real_gpu:  # a test that failed may have left it on
                torch.cuda.set_sync_debug_mode("default")
