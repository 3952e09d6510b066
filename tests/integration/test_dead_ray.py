"""Runs whose own Ray dies under them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.integration.commands import Commands, printed
from tests.integration.runs import rows_in, until

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(400)]

EPOCHS = 50


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Commands]:
    """Start `inarch` commands whose Ray gives up a lost gcs_server after 10 s, and not only after 60 s."""
    started = Commands(tmp_path, RAY_gcs_rpc_server_reconnect_timeout_s="10")
    yield started
    started.close()


@pytest.mark.parametrize("victim", ["gcs_server", "raylet"])
def test_dead_ray_ends_the_run_and_resume_goes_on(tmp_path: Path, commands: Commands, victim: str) -> None:
    driver = commands.train(
        "dead-ray", "--population.size", "2", "--schedule.epochs", str(EPOCHS), "--debug.straggler.step-seconds", "0.02"
    )
    printed(driver, "interval 3,")
    assert len(commands.actors()) >= 3, "two networks and a coordinator"
    (process,) = (child for child in psutil.Process(driver.process.pid).children() if child.name() == victim)
    process.kill()
    status = driver.process.wait(timeout=120)
    assert status != 0, driver.text()
    if victim == "raylet":  # without its gcs_server, Ray ends the driver itself
        assert status == 2 and "is not running any more" in driver.text(), driver.text()
        assert "Traceback" not in driver.text(), driver.text()
    until(lambda: not commands.actors(), seconds=20)
    commands.remaining(seconds=0.0)  # agents of Ray, which notice its death late
    assert rows_in(tmp_path / "dead-ray") != {n: list(range(1, EPOCHS + 1)) for n in (0, 1)}, "the fault came too late"
    commands.succeed("resume", str(tmp_path / "dead-ray"), seconds=200)
    assert rows_in(tmp_path / "dead-ray") == {n: list(range(1, EPOCHS + 1)) for n in (0, 1)}
