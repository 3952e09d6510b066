"""Use of a run's folder: export to plain PyTorch, predictions, longer schedules, moved folders and moved data."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from PIL import Image
from torch import nn

from inarch.actors import PopulationRun
from inarch.actors.coordinator.resumption.resume_plan import resumable_members
from inarch.actors.coordinator.run_metadata import update_config, write_config
from inarch.actors.driver.claiming import claim_new_folder
from inarch.actors.driver.inputs import with_more_epochs
from inarch.experiments import cli, result_commands
from inarch.experiments.export import export_network, predict_images
from inarch.experiments.export_code import loading_code
from inarch.experiments.result_display import deploy_lines, failure_lines, result_table
from inarch.population import DataConfig, ModelConfig, PopulationConfig, RunConfig, ScheduleConfig, Trainer
from inarch.population.config import from_dict
from inarch.population.errors import ConfigError, DamagedError, RunError
from inarch.population.membership.members import Members, MemberState
from inarch.population.persistence.checkpoint import Checkpoint, CheckpointId, CheckpointStore
from inarch.population.persistence.json_files import to_json
from inarch.population.persistence.storage import Storage
from inarch.population.report.page import write_report
from inarch.population.tasks.image_classification import ImageClassification
from inarch.population.tasks.image_task import run_splits, with_data
from inarch.population.tasks.run_evaluation import evaluate_run
from inarch.population.tasks.run_folder import (
    earlier_configs,
    read_config,
    read_info,
    read_result,
    recorded_config,
    with_moved_data,
    with_own_data,
)
from inarch.population.tasks.run_spec import RunSpec
from inarch.population.training.run_preparation import describe_run
from tests.conftest import small_config
from tests.fakes.runtime import FakeRuntime, live
from tests.images import write_classes

Run = tuple[str, str, dict[str, Any]]
"""A run's folder, its test folder and its result."""


def write_shapes(folder: Path, *, each: int, mode: str, seed: int, size: tuple[int, int] = (20, 16)) -> str:
    """Write images of three classes whose bright third is at the left, in the middle or at the right."""
    random = np.random.default_rng(seed)
    for label, name in enumerate(("left", "middle", "right")):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(each):
            pixels = random.integers(0, 90, (size[1], size[0], 3), dtype=np.uint8)
            third = size[0] // 3
            pixels[:, label * third : (label + 1) * third, :] += 120
            image = Image.fromarray(pixels).convert(mode)
            image.save(folder / name / f"{index}.png")
    return str(folder)


@pytest.fixture(scope="module", params=["L", "RGB", "streamed"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Train a run without Ray. Return its folder, its test folder and its result."""
    root = tmp_path_factory.mktemp("run")
    mode = "L" if request.param == "L" else "RGB"
    train = write_shapes(root / "train", each=12, mode=mode, seed=0)
    test = write_shapes(root / "test", each=7, mode=mode, seed=1, size=(26, 16))
    data = DataConfig(
        train=train,
        test=test,
        image_size=16,
        augmentation="none",
        stream="always" if request.param == "streamed" else "never",
        workers=0,
    )
    config = RunConfig(
        name="shapes",
        storage=str(root),
        model=ModelConfig(architecture="resnet8"),
        data=data,
        population=PopulationConfig(size=2),
        schedule=ScheduleConfig(epochs=4, batch_size=8, lr_decay="cosine"),
    )
    storage = Storage(str(root / "shapes"))
    splits = run_splits(config)
    info = describe_run(ImageClassification(config, splits))
    spec = RunSpec(name="shapes", folder=storage.uri, config=config)
    write_config(storage, spec, info)
    store = CheckpointStore(storage)
    for network_id in (0, 1):
        runtime = FakeRuntime()
        live(Trainer(ImageClassification(config, splits), config, network_id=network_id), runtime)
        for checkpoint in runtime.checkpoints:
            assert store.commit(checkpoint)
    result = evaluate_run(spec, splits, {0: "done", 1: "done"}, {}, 1.0)
    storage.write("result.json", json.dumps(result).encode())
    return storage.uri, test, result


def test_export_in_plain_pytorch_has_the_reported_accuracy(run: Run) -> None:
    path, test, result = run
    file, snippet = export_network(path, what="best")
    names: dict[str, Any] = {}
    exec(snippet, names)
    num_correct, total = 0, 0
    for label in ("left", "middle", "right"):
        for picture in sorted(Path(test, label).iterdir()):
            probabilities = names["classify"](Image.open(picture))
            assert sum(probabilities.values()) == pytest.approx(1.0, abs=1e-5)
            num_correct += max(probabilities, key=lambda name: probabilities[name]) == label
            total += 1
    best = next(row for row in result["networks"] if row["network"] == result["best"])
    assert best["best"]["accuracy"] > 0.6
    assert num_correct / total == pytest.approx(best["best"]["accuracy"])
    with safetensors.safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    assert json.loads(metadata["class_names"]) == ["left", "middle", "right"]
    assert (metadata["height"], metadata["width"], metadata["resize"]) == ("16", "16", "shorter side")
    assert len(json.loads(metadata["mean"])) == int(metadata["channels"])


def test_export_into_a_bucket_prints_code_that_copies_the_file(run: Run, tmp_path: Path, monkeypatch) -> None:
    path, test, _ = run
    monkeypatch.chdir(tmp_path)
    uri = f"file://{tmp_path}/bucket/best.safetensors"
    file, snippet = export_network(path, what="best", out=uri)
    assert file == uri and [entry.name for entry in tmp_path.iterdir()] == ["bucket"]
    names: dict[str, Any] = {}
    exec(snippet, names)
    assert (tmp_path / "best.safetensors").read_bytes() == (tmp_path / "bucket" / "best.safetensors").read_bytes()
    assert len(names["classify"](Image.open(next(Path(test, "left").iterdir())))) == 3


def test_printed_code_scales_16_bits_as_inarch_does(run: Run, tmp_path: Path) -> None:
    path, test, _ = run
    _, snippet = export_network(path, what="best", out=str(tmp_path / "best"))
    names: dict[str, Any] = {}
    exec(snippet, names)
    gray = np.asarray(Image.open(next(Path(test, "left").iterdir())).convert("L"))
    Image.fromarray(gray.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    (prediction,) = predict_images(path, [str(tmp_path / "deep.png")], top=3)
    probabilities = names["classify"](Image.open(tmp_path / "deep.png"))
    assert dict(prediction.classes) == pytest.approx(probabilities, abs=2e-3)
    with pytest.raises(ValueError, match="save the image with 8 or 16 bits a channel"):
        names["classify"](Image.fromarray(gray.astype(np.float32)))


def test_live_report_of_a_dead_run_ends_after_silence(run: Run, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(result_commands, "SILENT_SECONDS", 0.2)
    monkeypatch.setattr(result_commands, "REFRESH_SECONDS", 0.05)
    shutil.copytree(run[0], tmp_path / "shapes", ignore=shutil.ignore_patterns("result.json"))
    with pytest.raises(SystemExit, match="0"):
        cli.main(["report", "shapes", "--storage", str(tmp_path), "--live", "--out", str(tmp_path / "new" / "r.html")])
    assert "http-equiv" not in (tmp_path / "new" / "r.html").read_text()


def test_evaluation_of_an_unfinished_run_is_valid_json(run: Run, tmp_path: Path, capsys) -> None:
    shutil.copytree(run[0], tmp_path / "shapes", ignore=shutil.ignore_patterns("result.json"))
    with pytest.raises(SystemExit, match="0"):
        cli.main(["evaluate", str(tmp_path / "shapes"), "--json"])
    assert "NaN" not in (printed := capsys.readouterr().out) and json.loads(printed)["seconds"] is None


def test_damaged_checkpoint_is_left_out_of_the_similarities(run: Run, tmp_path: Path, capsys) -> None:
    shutil.copytree(run[0], tmp_path / "shapes")
    *_, older, _ = sorted((tmp_path / "shapes" / "networks" / "0").glob("0*/model.safetensors"))
    older.write_bytes(older.read_bytes()[:-50])
    with pytest.raises(SystemExit, match="0"):
        cli.main(["evaluate", str(tmp_path / "shapes"), "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert int(older.parent.name.partition("-")[0]) not in {row["interval"] for row in printed["similarity"]}
    assert printed["similarity"]


class Tuples(nn.Module):
    """A model whose first layer is lazy and whose outputs are tuples."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.LazyLinear(8), nn.ReLU(), nn.Linear(8, num_classes))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, None]:
        return self.layers(images), None


def test_printed_code_builds_lazy_layers_and_takes_the_logits(run: Run) -> None:
    path, _, _ = run
    recorded = json.loads(Path(path, "config.json").read_text())
    recorded["model"] = recorded["config"]["model"]["architecture"] = "tests.experiments.test_export:Tuples"
    building = loading_code("x.safetensors", recorded).partition("safetensors.torch.load_model")[0]
    building = "\n".join(line for line in building.splitlines() if "safe_open" not in line)
    names: dict[str, Any] = {}
    exec(building, names)
    shape = recorded["info"]["facts"]["image_shape"]
    assert names["model"](torch.zeros(2, *shape)).shape == (2, 3)


@pytest.mark.parametrize("what", ["best", "soup"])
def test_predictions_equal_those_of_the_exported_network(run: Run, what: Any) -> None:
    path, test, _ = run
    _, snippet = export_network(path, what=what)
    names: dict[str, Any] = {}
    exec(snippet, names)
    predictions = list(predict_images(path, [test], what=what, top=2))
    assert len(predictions) == 21 and all(
        not prediction.error and len(prediction.classes) == 2 for prediction in predictions
    )
    for prediction in predictions[:5]:
        probabilities = names["classify"](Image.open(prediction.file))
        for name, probability in prediction.classes:
            assert probability == pytest.approx(probabilities[name], abs=2e-3)


def test_recommended_network_or_soup_is_exported(run: Run, tmp_path: Path) -> None:
    path, _, result = run
    folder = tmp_path / "copy"
    shutil.copytree(path, folder)
    storage = Storage(str(folder))

    def exported(name: str | None, networks: tuple[int, ...] = (0, 1), passes: int = 1) -> dict[str, torch.Tensor]:
        options = [{"name": name, "networks": networks, "validation": 0.5, "forward_passes": passes}] if name else []
        deploy = {"recommended": name, "reason": "why not", "examples": 4, "options": options}
        storage.replace("result.json", json.dumps(result | {"deploy": deploy}).encode())
        file, _ = export_network(str(folder), what="recommended", out=str(tmp_path / "x.safetensors"))
        with safetensors.safe_open(file, "pt") as opened:
            names = opened.keys()  # the file itself cannot be iterated
            return {name: opened.get_tensor(name) for name in names}

    best, soup_file = (export_network(path, what=what, out=str(tmp_path / what))[0] for what in ("best", "soup"))
    for name, networks, expected in (("network", (result["best"],), best), ("soup", (0, 1), soup_file)):
        weights = safetensors.torch.load_file(expected)
        assert all(torch.equal(tensor, weights[key]) for key, tensor in exported(name, networks).items())
    with pytest.raises(ConfigError, match="ensemble of networks 0, 1 is recommended, which is no single network"):
        exported("ensemble", passes=2)
    with pytest.raises(ConfigError, match="what=recommended: why not; give best or soup"):
        exported(None)
    storage.delete("result.json")
    with pytest.raises(ConfigError, match="has no result that recommends anything"):
        export_network(str(folder), what="recommended")


def test_result_shows_fit_and_what_to_deploy(run: Run) -> None:
    path, _, result = run
    assert result["train"]["loss"] == pytest.approx(sum(row["train"]["loss"] for row in result["networks"]) / 2)
    assert 0 < result["train"]["accuracy"] <= 1 and result["regime"]["num_exchanges"] == 3
    assert result["validation"]["ensemble"]["examples"] == 4 and 0 <= result["validation"]["mean"]["accuracy"] <= 1
    names = [option["name"] for option in result["deploy"]["options"]]
    assert names[0] == "network" and names[-1] == "ensemble" and result["deploy"]["examples"] == 4
    out = io.StringIO()
    with contextlib.redirect_stdout(out), pytest.raises(SystemExit, match="0"):
        cli.main(["evaluate", path])
    shown = out.getvalue()
    headings = {str(column.header) for column in result_table(result).columns}
    assert {"train loss", "train accuracy", "last validation"} <= headings
    assert "to deploy: " in shown and "instead, " in shown
    older = {key: value for key, value in result.items() if key not in ("train", "validation", "deploy", "regime")}
    assert result_table(older).row_count == result_table(result).row_count and deploy_lines(older, path) == []


def test_results_of_earlier_versions_are_shown(run: Run, tmp_path: Path) -> None:
    """Only a few fields are needed. Without them, the networks count as not evaluated."""
    path, _, result = run
    needed = {"run", "metrics", "networks"}
    least = {"run": result["run"], "metrics": result["metrics"], "networks": [{"network": 0}, {"network": 1}]}
    for older in [*({k: v for k, v in result.items() if k != name} for name in set(result) - needed), least]:
        assert result_table(older).row_count >= 2
        failure_lines(older)
    shutil.copytree(path, tmp_path / "copy")
    storage = Storage(str(tmp_path / "copy"))
    for content, expected in ((least, least), ({"networks": []}, None)):
        storage.replace("result.json", to_json(content))
        assert read_result(storage) == expected
        write_report(storage, state="finished")
        assert ("network 0" in (tmp_path / "copy" / "report.html").read_text()) == (expected is not None)


def test_predict_command_names_files_it_cannot_read(run: Run, tmp_path: Path) -> None:
    path, test, _ = run
    (tmp_path / "broken.png").write_bytes(b"x")
    files = [str(next(Path(test, "left").iterdir())), str(tmp_path / "broken.png"), str(tmp_path / "none.png")]
    out = io.StringIO()
    with contextlib.redirect_stdout(out), pytest.raises(SystemExit) as ended:
        cli.main(["predict", path, *files])
    lines = out.getvalue().splitlines()
    assert ended.value.code == 2 and len(lines) == 3
    assert "%" in lines[0] and "cannot be read as an image" in lines[1] and "No such file" in lines[2]
    out = io.StringIO()
    with contextlib.redirect_stdout(out), pytest.raises(SystemExit) as ended:
        cli.main(["predict", path, files[0], "--json", "--top", "3"])
    line = json.loads(out.getvalue())
    assert ended.value.code == 0 and sum(probability for _, probability in line["classes"]) == pytest.approx(
        1, abs=1e-5
    )


def test_predict_of_no_class_is_refused(run: Run) -> None:
    for top in (0, -1):
        with pytest.raises(ConfigError, match=f"top must be at least 1, got {top}"):
            next(predict_images(run[0], ["x.png"], top=top))


def test_config_json_describes_the_data_of_the_run(run: Run) -> None:
    path, _, _ = run
    data = json.loads(Path(path, "config.json").read_text())["info"]["facts"]["data"]
    assert data["class_names"] == ["left", "middle", "right"] and data["class_counts"] == [12, 12, 12]
    assert data["sizes"] == {"train": 32, "validation": 4, "test": 21}
    info = read_info(Storage(path))
    assert info.description[0].startswith("data: 32 train, 4 validation, 21 test")


def test_evaluate_run_lists_failed_networks_as_rows(tmp_path: Path) -> None:
    config = small_config(name="x", storage=str(tmp_path))
    splits = run_splits(config)
    storage = Storage(str(tmp_path / "x"))
    runtime = FakeRuntime(stop_after=60)
    live(Trainer(ImageClassification(config, splits), config, network_id=0), runtime)
    assert CheckpointStore(storage).commit(runtime.checkpoints[-1])
    spec = RunSpec(name="x", folder=storage.uri, config=config)
    result = evaluate_run(spec, splits, {0: "done", 1: "failed", 2: "retired"}, {1: "it diverged"}, 1.0)
    assert [(row["network"], row["ended"], row["reason"]) for row in result["networks"]] == [
        (0, "done", ""),
        (1, "failed", "it diverged"),
    ]
    assert result["mean"] == {
        name: value for name, value in result["networks"][0]["best"].items() if name in result["mean"]
    }
    assert result_table(result).row_count >= 3
    assert failure_lines(result) == [
        "network 1 failed: it diverged",
        "network 1 left no checkpoint and is not in the mean",
    ]


def test_weights_after_an_exchange_are_scored_again(run: Run, tmp_path: Path) -> None:
    """An asynchronous network that left has exchanged after its last evaluation."""
    path, _, result = run
    shutil.copytree(path, tmp_path / "copy")
    storage, recorded = Storage(str(tmp_path / "copy")), read_config(Storage(path))
    store = CheckpointStore(storage)
    newest = store.newest(1)
    assert newest is not None and newest.training["score"] == result["networks"][1]["last_validation_score"]
    id_ = dataclasses.replace(newest.id, interval=newest.id.interval + 1)
    assert store.commit(dataclasses.replace(newest, id=id_, training={**newest.training, "score": 0.125}))
    config = recorded_config(storage, recorded)
    spec = RunSpec(name="shapes", folder=storage.uri, config=config)
    for ended, scores in (("done", 0.125), ("retired", newest.training["score"])):
        row = evaluate_run(spec, run_splits(config), {0: "done", 1: ended}, {}, 1.0)["networks"][1]
        assert row["last_validation_score"] == scores


def test_result_table_without_test_images_gives_the_reason(tmp_path: Path) -> None:
    config = small_config(
        name="x", storage=str(tmp_path), data=DataConfig(train=write_classes(tmp_path / "t", "01"), validation=0.0)
    )
    splits = run_splits(config)
    storage = Storage(str(tmp_path / "x"))
    runtime = FakeRuntime(stop_after=1)
    live(Trainer(ImageClassification(config, splits), config, network_id=0), runtime)
    assert CheckpointStore(storage).commit(runtime.checkpoints[-1])
    result = evaluate_run(RunSpec(name="x", folder=storage.uri, config=config), splits, {0: "done"}, {}, 1.0)
    assert "not evaluated: there are no test or validation data" in str(result_table(result).title)
    (line,) = deploy_lines(result, str(tmp_path))
    assert line.startswith("to deploy: nothing is recommended, because there are no validation data")
    assert "no validation and no test images" in splits.report.lines()[0]


def test_update_config_records_changes_and_archives_result(run: Run, tmp_path: Path) -> None:
    path, _, _ = run
    shutil.copytree(path, tmp_path / "moved")
    storage = Storage(str(tmp_path / "moved"))
    config: RunConfig = from_dict(RunConfig, json.loads(storage.read("config.json"))["config"])
    for epochs in (4, 3):
        with pytest.raises(ConfigError, match=f"must be above 4, got {epochs}"):
            with_more_epochs(config, epochs, steps_per_epoch=10)
    longer = with_more_epochs(config, 6, steps_per_epoch=10)
    shutil.copytree(config.data.train, tmp_path / "images")
    moved = with_moved_data(longer, {"train": str(tmp_path / "images")})
    assert moved.data.train == str(tmp_path / "images") and moved.data.test == config.data.test
    info = describe_run(ImageClassification(moved, run_splits(moved)))
    assert info.data_fingerprint == read_info(storage).data_fingerprint
    update_config(storage, RunSpec(name="x", folder=storage.uri, config=moved), info)
    assert storage.exists("results/4-epochs.json") and not storage.exists("result.json")
    recorded = json.loads(storage.read("config.json"))["config"]
    assert recorded["schedule"]["epochs"] == 6 and recorded["data"]["train"] == str(tmp_path / "images")
    assert list(earlier_configs(storage).values()) == [config]
    wrong_data: list[Any] = [{"training": "x"}, {"train": 3}]
    for wrong in wrong_data:
        with pytest.raises(ConfigError, match="must be a path, or paths by part"):
            with_moved_data(config, wrong)


@pytest.mark.parametrize(
    ("lengths", "covered"),
    [
        ({"interval_epochs": 3}, 6),
        ({"interval_steps": 100}, 10),
        ({"interval_steps": 75}, 7),
        ({"interval_steps": 40}, 4),
        ({"interval_steps": 9}, 4),
    ],
)
def test_longer_schedule_must_add_an_interval(lengths: dict[str, Any], covered: int) -> None:
    config = RunConfig(schedule=ScheduleConfig(epochs=4, **lengths))
    for epochs in range(5, covered + 1):
        with pytest.raises(ConfigError, match=rf"above {covered}, got {epochs}: with schedule.interval_\w+ \d+, no"):
            with_more_epochs(config, epochs, steps_per_epoch=10)
    assert with_more_epochs(config, covered + 1, steps_per_epoch=10).schedule.epochs == covered + 1


def test_finished_networks_resume_under_a_longer_schedule(tmp_path: Path) -> None:
    from inarch.actors.coordinator.run_metadata import write_members

    storage, members = Storage(str(tmp_path)), Members()
    for state in (MemberState.DONE, MemberState.DONE, MemberState.RETIRED):
        members.set_state(members.add(is_initial=True).id, state)
    write_members(storage, state="finished", message="", members=members, placement=None, began=0.0)
    for network_id in (0, 1):
        identity = CheckpointId(incarnation=1, interval=4)
        saved = Checkpoint(network_id=network_id, id=identity, model={}, tensors={}, training={})
        assert CheckpointStore(storage).commit(saved)
    plain = [member.state for member in resumable_members(storage, run="x", num_intervals=4)]
    longer = [member.state for member in resumable_members(storage, run="x", num_intervals=6)]
    assert plain == [MemberState.DONE, MemberState.DONE, MemberState.RETIRED]
    assert longer == [MemberState.STARTING, MemberState.STARTING, MemberState.RETIRED]


def test_update_config_after_a_crash_completes_the_update(run: Run, tmp_path: Path) -> None:
    path, _, _ = run
    for failing in ("write", "delete", "replace"):
        folder = tmp_path / failing
        shutil.copytree(path, folder)
        storage = Storage(str(folder))
        config: RunConfig = from_dict(RunConfig, json.loads(storage.read("config.json"))["config"])
        longer = with_more_epochs(config, 6, steps_per_epoch=10)
        info = describe_run(ImageClassification(longer, run_splits(longer)))
        spec = RunSpec(name="x", folder=storage.uri, config=longer)
        broken = Storage(str(folder))
        setattr(broken, failing, fail)
        with pytest.raises(RuntimeError, match="inside"):
            update_config(broken, spec, info)
        update_config(storage, spec, info)
        assert json.loads(storage.read("config.json"))["config"]["schedule"]["epochs"] == 6
        assert not storage.exists("result.json") and storage.exists("results/4-epochs.json")


def test_damaged_config_json_is_named(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run[0], tmp_path / "run")
    whole = (tmp_path / "run" / "config.json").read_text()
    for content in (whole[: len(whole) // 2], "", "[]", "{}"):
        (tmp_path / "run" / "config.json").write_text(content)
        for use in (read_info, lambda storage: list(predict_images(storage.uri, ["x.png"]))):
            with pytest.raises(DamagedError, match=r"config.json is damaged"):
                use(Storage(str(tmp_path / "run")))


def spoiled(run: Run, folder: Path, name: str) -> tuple[str, str]:
    """A copy of the run with a file that ends in its midst. Returns its path, and the name of the file."""
    path = shutil.copytree(run[0], folder / "run")
    file = path / name
    file.parent.mkdir(exist_ok=True)
    content = file.read_bytes() if file.exists() else b'{"address": "127.0.0.1:1", "name": "shapes"}'
    file.write_bytes(content[: len(content) // 2])
    return str(path), file.name


@pytest.mark.parametrize("command", ["status", "evaluate", "export", "report", "resume"])
def test_command_names_a_damaged_configuration(run: Run, tmp_path: Path, capsys, command: str) -> None:
    path, name = spoiled(run, tmp_path, "config.json")
    with pytest.raises(SystemExit) as ended:
        cli.main([command, path])
    output = "".join(capsys.readouterr())
    if command == "status":  # the last record and the result tell the state
        assert ended.value.code == 0, output
    else:
        assert ended.value.code == 2 and f"{name} is damaged" in output
    assert "Traceback" not in output


@pytest.mark.parametrize("name", ["cluster.json", "result.json", "members/00000001.json"])
@pytest.mark.parametrize("command", ["status", "evaluate", "export"])
def test_command_works_without_a_damaged_file(
    run: Run, tmp_path: Path, capsys, caplog, command: str, name: str
) -> None:
    path, file = spoiled(run, tmp_path, name)
    with pytest.raises(SystemExit) as ended:
        cli.main([command, path])
    output = "".join(capsys.readouterr())
    needs_it = (command, name) == ("evaluate", "members/00000001.json")  # it is the only record, and says who trained
    assert ended.value.code == 2 * needs_it and "Traceback" not in output, output
    assert file in output + caplog.text or not (needs_it or (command, name) == ("status", "result.json"))


def test_with_own_data_finds_the_data_of_a_moved_folder(tmp_path: Path) -> None:
    images = np.zeros((6, 8, 8), np.uint8)
    storage = Storage(str(tmp_path / "a"))
    claim_new_folder(storage)
    config = with_data(RunConfig(name="a", storage=str(tmp_path)), (images, [0, 1] * 3), storage)
    shutil.move(tmp_path / "a", tmp_path / "b")
    assert with_own_data(config, Storage(str(tmp_path / "b"))).data.train == str(tmp_path / "b/data/train.arrow")
    assert with_own_data(config, storage).data == config.data


def fail(*_: object, **__: object) -> None:
    raise RuntimeError("inside")


def test_error_of_user_code_is_short_with_exit_status_2(tmp_path: Path, capsys, monkeypatch) -> None:
    module = tmp_path / "broken_module.py"
    module.write_text("import torch\n\ndef make(num_classes):\n    raise KeyError('backbone')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    words = ["train", "--model.architecture", "broken_module:make", "--storage", str(tmp_path), "--name", "x"]
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    output = capsys.readouterr().err
    assert ended.value.code == 2 and "raised KeyError: 'backbone'" in output and "broken_module.py" in output
    assert "ray" not in output and len(output.splitlines()) < 10
    assert not (tmp_path / "x").exists()
    monkeypatch.setattr(PopulationRun, "attach", fail)
    with pytest.raises(SystemExit) as ended:
        cli.main(["status", "x"])
    assert ended.value.code == 2 and "--debug shows the whole traceback" in capsys.readouterr().err
    with pytest.raises(RuntimeError, match="inside"):
        cli.main(["status", "x", "--debug"])


def testerror_text_of_a_run_error_is_its_message() -> None:
    assert cli.error_text(RunError("x"), "train") == "x"


@pytest.fixture(autouse=True)
def _no_grad_leaks() -> None:
    torch.manual_seed(0)
