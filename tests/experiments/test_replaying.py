"""The command `inarch replay`, on runs that the simulator recorded."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from inarch.experiments.cli import main
from inarch.experiments.replaying import warnings_of
from inarch.population import DataConfig, PopulationConfig, RunConfig, ScheduleConfig
from inarch.population.persistence.history import read_table, to_parquet
from inarch.population.persistence.storage import Storage
from inarch.population.state.state_dict import named_tensors
from inarch.population.training.birth import Birth, StartPoint, environment
from tests.conftest import small_config
from tests.fakes.recorded_run import record_run


def config_of() -> RunConfig:
    return small_config(
        name="recorded",
        data=DataConfig(train="digits", train_limit=96, test_limit=32, validation=0.25, augmentation="none"),
        population=PopulationConfig(size=2),
        schedule=ScheduleConfig(epochs=3, batch_size=32, lr_decay="cosine"),
    )


def status_of(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0)


def test_command_replays_and_writes_weights(tmp_path: Path, capsys) -> None:
    simulation = record_run(tmp_path, config_of())
    assert status_of(["replay", str(tmp_path)]) == 0
    assert "equal: 6 intervals" in capsys.readouterr().out
    out = tmp_path / "out.safetensors"
    assert status_of(["replay", str(tmp_path), "--until", "1:3", "--watch", "--out", str(out)]) == 0
    assert "network 1 interval 2: grafted 0:" in (printed := capsys.readouterr().out)
    assert "validation loss" in printed
    final, weights = named_tensors(simulation.trainers[1].module), load_file(out)
    assert all(torch.equal(final[name], weights[name]) for name in final)


def test_command_names_the_first_difference(tmp_path: Path, capsys) -> None:
    record_run(tmp_path, config_of())
    storage = Storage(str(tmp_path))
    rows = read_table(storage, "exchanges").to_pylist()
    for row in rows:  # another version than the one that was taken
        if (row["network"], row["interval"]) == (1, 2):
            row["scion_version"] = 1
    for name in storage.names("exchanges"):
        storage.delete(f"exchanges/{name}")
    storage.write("exchanges/all.parquet", to_parquet(rows, "exchanges"))
    births = read_table(storage, "births").to_pylist()
    storage.write("births/other.parquet", to_parquet([row | {"processor": "another"} for row in births], "births"))
    assert status_of(["replay", str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert "different: network 1 (incarnation 1), interval 2, " in printed
    assert "other processor: the run had another" in printed


def test_warnings_name_what_differs() -> None:
    here = environment(config_of(), torch.device("cpu"))
    there = dataclasses.replace(here, device="cuda", torch="1.0", config="earlier", threads=here.threads + 1)
    births = [Birth(start=StartPoint.initial(), environment=item, time=0.0) for item in (here, there, there)]
    assert warnings_of(births[:1], here) == ()
    assert warnings_of(births, here, ["earlier"]) == (
        "other device: the run had cuda, here it is cpu",
        f"other version of torch: the run had 1.0, here it is {here.torch}",
    )
    lines = warnings_of(births, here, is_deterministic=False)
    assert len(lines) == 4 and "--device.deterministic" in lines[0] and "other configuration" in lines[-1]


def test_command_refuses_what_is_not_recorded(tmp_path: Path, capsys) -> None:
    record_run(tmp_path, config_of())
    assert status_of(["replay", str(tmp_path), "--until", "1:9"]) == 2
    assert "no interval 9 of network 1 is recorded" in capsys.readouterr().err
    for text in ("last", "1:²"):
        assert status_of(["replay", str(tmp_path), "--until", text]) == 2
        assert "until must be NETWORK:INTERVAL" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "exchanges")
    assert status_of(["replay", str(tmp_path)]) == 2
    assert "its folder has no table of exchanges" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "births")
    assert status_of(["replay", str(tmp_path)]) == 2
    assert "its folder has no table of births" in capsys.readouterr().err
