"""Tasks of one's own: what a subclass of TensorTask may return, and how networks of it train and exchange."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inarch.population import (
    ExchangeConfig,
    FusionConfig,
    Metric,
    OptimizerConfig,
    PopulationConfig,
    RunConfig,
    ScheduleConfig,
    Simulator,
    TensorTask,
    Trainer,
)
from inarch.population.errors import ConfigError, DataError, InarchError, UserCodeError
from inarch.population.evaluation.deployment import InferenceCost
from inarch.population.evaluation.population import EvaluationData, evaluate_population
from inarch.population.evaluation.protocol import EvaluationSet
from inarch.population.evaluation.soups import Candidate
from inarch.population.persistence.storage import Storage
from inarch.population.state.state_dict import named_tensors
from inarch.population.tasks.built_in import check_task, resolve_task
from inarch.population.training.run_preparation import describe_run
from tests.fakes.runtime import FakeRuntime, live


class Line(TensorTask):
    """Learn y = 2 x1 - x2 from pairs, in dicts instead of tuples."""

    metrics = (Metric(name="error", higher_is_better=False), Metric(name="within", heading="within 0.1"))

    def load_data(self, config: RunConfig) -> dict[str, Any]:
        random = np.random.default_rng(config.seed)
        inputs = random.normal(size=(90, 2)).astype(np.float32)
        targets = inputs @ np.array([2, -1], dtype=np.float32)
        parts = {"train": slice(0, 50), "validation": slice(50, 70), "test": slice(70, 90)}
        return {split: {"x": inputs[rows], "y": torch.from_numpy(targets[rows])} for split, rows in parts.items()}

    def build_model(self, config: RunConfig, data: Mapping[str, Any]) -> nn.Module:
        return nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.BatchNorm1d(8), nn.Linear(8, 1), nn.Flatten(0))

    def inputs(self, batch: Any) -> Tensor:
        return batch["x"]

    def targets(self, batch: Any) -> Tensor:
        return batch["y"]

    def loss(self, model: nn.Module, batch: Any) -> tuple[Tensor, Mapping[str, Tensor]]:
        predicted = model(batch["x"])
        return F.mse_loss(predicted, batch["y"]), {"absolute": (predicted - batch["y"]).abs().mean()}

    def score(self, outputs: Tensor, targets: Tensor) -> Mapping[str, float]:
        errors = (outputs - targets).abs()
        return {"within": float((errors < 0.1).double().mean()), "error": float(errors.mean())}

    def combine(self, outputs: Sequence[Tensor]) -> Tensor | None:
        return torch.stack(list(outputs)).mean(0)


def line_config(**changes: Any) -> RunConfig:
    fields: dict[str, Any] = {
        "population": PopulationConfig(size=2),
        "schedule": ScheduleConfig(epochs=6, batch_size=16, lr_decay="constant", batch_norm_batches=2),
        "optimizer": OptimizerConfig(learning_rate=0.01, weight_decay=0.0),
    }
    return RunConfig(**(fields | changes))


def bound(task: TensorTask, config: RunConfig) -> Any:
    return task.bind(config, task.load_data(config))


def evaluation_data(task: Any, validation: EvaluationSet | None = None) -> EvaluationData:
    """Return the test data of a task as those of an evaluation."""
    return EvaluationData(
        evaluated=task.part("test"),
        validation=validation,
        statistics=task.batch_norm_inputs,
        metric=task.metrics[0],
        cost=InferenceCost(parameters=3),
    )


def test_trainer_names_columns_after_the_metrics() -> None:
    config, task = line_config(exchange=ExchangeConfig(rule="none")), Line()
    runtime = FakeRuntime()
    live(Trainer(bound(task, config), config, network_id=0), runtime)
    rows = [report.row(time=0.0) for report in runtime.reports]
    assert rows[-1]["train_loss"] < rows[0]["train_loss"] and rows[-1]["train_absolute"] < rows[0]["train_absolute"]
    assert {"validation_error", "validation_within"} <= set(rows[0]) and rows[0]["examples"] == 50
    best = runtime.checkpoints[-1].training
    errors = [row["validation_error"] for row in rows]
    assert best["best_score"] == -min(errors)
    assert best["best_interval"] == len(errors) - errors[::-1].index(min(errors))


@pytest.mark.parametrize("rule", ["graft", "papa", "wash", "pbt"])
def test_population_of_own_task_exchanges(rule: Any) -> None:
    donors = None if rule in ("papa", "wash") else 1
    config = line_config(exchange=ExchangeConfig(rule=rule, num_donors=donors))
    result = Simulator(config, lambda: bound(Line(), config)).run()
    outcomes = {entry.outcome.value for entry in result.ledger}
    assert "grafted" in outcomes
    assert all(report.is_evaluated for reports in result.reports.values() for report in reports)


class Rated(Line):
    """Builds its model with a number that differs between networks."""

    def build_model(self, config: RunConfig, data: Mapping[str, Any]) -> nn.Module:
        assert isinstance(config.optimizer.learning_rate, float)
        model = super().build_model(config, data)
        model.register_buffer("rate", torch.tensor(config.optimizer.learning_rate))
        return model


def test_build_model_sees_the_numbers_of_its_network() -> None:
    config = line_config(optimizer=OptimizerConfig(learning_rate=(0.25, 0.5)))
    rates = [Trainer(bound(Rated(), config), config, network_id=n).module.get_buffer("rate").item() for n in (0, 1)]
    assert rates == [0.25, 0.5] and bound(Rated(), config).build(0).get_buffer("rate").item() == 0.25


def test_resumed_network_of_own_task_ends_with_the_same_weights() -> None:
    config = line_config(exchange=ExchangeConfig(rule="none"))
    whole, first = FakeRuntime(), FakeRuntime(stop_after=7)
    straight = Trainer(bound(Line(), config), config, network_id=1)
    live(straight, whole)
    live(Trainer(bound(Line(), config), config, network_id=1), first)
    resumed = Trainer(bound(Line(), config), config, network_id=1, incarnation=2)
    resumed.resume(first.checkpoints[-1])
    assert 0 < resumed.step < straight.step
    live(resumed, FakeRuntime())
    states = [named_tensors(trainer.module) for trainer in (straight, resumed)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_population_evaluation_ranks_by_the_lower_error() -> None:
    config = line_config(exchange=ExchangeConfig(rule="none"))
    task = bound(Line(), config)
    models = [task.build(seed) for seed in range(3)]
    validation = task.part("validation")
    scores = [validation.evaluator.evaluate(model, validation.batches()) for model in models]
    candidates = [
        Candidate(network_id=index, state=dict(named_tensors(model)), validation_score=score.score)
        for index, (model, score) in enumerate(zip(models, scores, strict=True))
    ]
    data = evaluation_data(task, validation)
    result = evaluate_population(task.build(0), candidates, data)
    assert result["best"] == int(np.argmin([score.error for score in scores]))
    assert result["ensemble"]["error"] <= result["mean"]["error"] and result["agreement"] is None
    options = {option["name"]: option for option in result["deploy"]["options"]}
    assert options["network"]["validation"] == min(score.error for score in scores)
    assert options["ensemble"]["parameters"] == 9 and options["ensemble"]["standard_error"] is None
    assert options["ensemble"]["test"] == result["ensemble"]["error"]
    assert result["greedy_soup"]["members"][0] == result["best"] and result["each"][0]["examples"] == 20


class TwoInputs(Line):
    """A model with batch norm and two inputs, which no single tensor can hold."""

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.norm, self.head = (
                nn.Linear(1, 8),
                nn.Linear(1, 8),
                nn.BatchNorm1d(8),
                nn.Linear(8, 1),
            )

        def forward(self, first: Tensor, second: Tensor) -> Tensor:
            return self.head(self.norm(self.first(first) + self.second(second))).flatten()

    def build_model(self, config: RunConfig, data: Mapping[str, Any]) -> nn.Module:
        return self.Network()

    def inputs(self, batch: Any) -> Any:
        return batch["x"][:, :1], batch["x"][:, 1:]

    def outputs(self, model: nn.Module, batch: Any) -> Tensor:
        return model(*self.inputs(batch)).float()

    def loss(self, model: nn.Module, batch: Any) -> tuple[Tensor, Mapping[str, Tensor]]:
        return F.mse_loss(model(*self.inputs(batch)), batch["y"]), {}


def test_batch_norm_of_a_model_with_two_inputs_is_measured() -> None:
    config = line_config()
    task = bound(TwoInputs(), config)
    describe_run(task)
    live(Trainer(task, config, network_id=0), FakeRuntime())
    models = [task.build(seed) for seed in range(2)]
    candidates = [
        Candidate(network_id=index, state=dict(named_tensors(model)), validation_score=0.0)
        for index, model in enumerate(models)
    ]
    data = evaluation_data(task)
    assert np.isfinite(evaluate_population(task.build(0), candidates, data)["soup"]["error"])


def test_describe_run_fingerprints_the_data() -> None:
    config = line_config()
    info = describe_run(bound(Line(), config))
    other = describe_run(bound(Line(), dataclasses.replace(config, seed=1)))
    assert info.train_examples == 50 and info.description == ("data: 50 train, 20 validation, 20 test examples",)
    assert info.data_fingerprint != other.data_fingerprint and info.structure == other.structure
    assert info.metrics == Line.metrics and info.data_bytes == 90 * 3 * 4


def test_ensemble_is_absent_without_combine() -> None:
    class Alone(Line):
        def combine(self, outputs: Sequence[Tensor]) -> Tensor | None:
            return None

    config = line_config()
    task = bound(Alone(), config)
    candidates = [Candidate(network_id=0, state=dict(named_tensors(task.build(0))))]
    data = evaluation_data(task)
    result = evaluate_population(task.build(0), candidates, data)
    assert result["ensemble"] is None and result["deploy"]["recommended"] is None


class WrongMetrics(Line):
    def score(self, outputs: Tensor, targets: Tensor) -> Mapping[str, float]:
        return {"error": 0.0}


class NoMetrics(Line):
    metrics = ()


class TwiceTheSame(Line):
    metrics = (Metric(name="error"), Metric(name="error"))


class LossTwice(Line):
    def loss(self, model: nn.Module, batch: Any) -> tuple[Tensor, Mapping[str, Tensor]]:
        loss, metrics = super().loss(model, batch)
        return loss, {"loss": loss, **metrics}


class Detached(Line):
    def loss(self, model: nn.Module, batch: Any) -> tuple[Tensor, Mapping[str, Tensor]]:
        return model(batch["x"]).mean().detach(), {}


class PerExample(Line):
    def loss(self, model: nn.Module, batch: Any) -> tuple[Tensor, Mapping[str, Tensor]]:
        return (model(batch["x"]) - batch["y"]).square(), {}


class SameModel(Line):
    def __init__(self) -> None:
        self.model = nn.Linear(2, 1)

    def build_model(self, config: RunConfig, data: Mapping[str, Any]) -> nn.Module:
        return self.model


class NoModel(Line):
    def build_model(self, config: RunConfig, data: Mapping[str, Any]) -> Any:
        return "model"


class Raising(Line):
    def loss(self, model: nn.Module, batch: Any) -> tuple[Tensor, Mapping[str, Tensor]]:
        raise KeyError("labels")


class NoEnsemble(Line):
    def combine(self, outputs: Sequence[Tensor]) -> Tensor | None:
        raise RuntimeError("cannot combine")


class NoPredictions(Line):
    def predictions(self, outputs: Tensor) -> Tensor | None:
        raise RuntimeError("cannot predict")


class Uneven(Line):
    def load_data(self, config: RunConfig) -> dict[str, Any]:
        return {"train": (np.zeros((4, 2)), np.zeros(3))}


class NoTraining(Line):
    def load_data(self, config: RunConfig) -> dict[str, Any]:
        return {"test": super().load_data(config)["test"]}


class OtherSplit(Line):
    def load_data(self, config: RunConfig) -> dict[str, Any]:
        return super().load_data(config) | {"dev": ()}


class Texts(Line):
    def load_data(self, config: RunConfig) -> dict[str, Any]:
        return {"train": np.array(["a", "b"])}


class NoMapping(Line):
    def load_data(self, config: RunConfig) -> Any:
        return np.zeros((4, 2)), np.zeros(4)


class Lists(Line):
    def load_data(self, config: RunConfig) -> dict[str, Any]:
        return {"train": ([0.0] * 20_000, [1.0] * 20_000)}


WRONG: dict[type[TensorTask], tuple[type[InarchError], str]] = {
    WrongMetrics: (ConfigError, r"WrongMetrics\.score must return the metrics \['error', 'within'\], got \['error'\]"),
    NoMetrics: (ConfigError, r"NoMetrics\.metrics must name at least one metric"),
    TwiceTheSame: (ConfigError, r"TwiceTheSame\.metrics must have different names"),
    LossTwice: (ConfigError, "the loss itself is recorded as loss"),
    Detached: (ConfigError, "does not depend on any parameter"),
    PerExample: (ConfigError, "the loss must be a 0-dimensional tensor"),
    SameModel: (ConfigError, "must return a new network each time"),
    NoModel: (ConfigError, "must return a torch.nn.Module"),
    Raising: (UserCodeError, r"Raising\.loss raised KeyError: 'labels'"),
    NoEnsemble: (UserCodeError, r"NoEnsemble\.combine raised RuntimeError: cannot combine"),
    NoPredictions: (UserCodeError, r"NoPredictions\.predictions raised RuntimeError: cannot predict"),
    Uneven: (DataError, r"the arrays of train must have one length, at least 1; got shapes \(4, 2\), \(3,\)"),
    NoTraining: (DataError, "must return training data under the key train"),
    Texts: (DataError, r"Texts\.load_data: train must hold arrays or tensors of numbers, got <U1"),
    NoMapping: (DataError, r"NoMapping\.load_data must return a dict with the key train, got tuple"),
    Lists: (
        DataError,
        r"got shapes \(\), .{,60}, \.\.\.; lists are structure, so give arrays in place of lists of numbers$",
    ),
    OtherSplit: (DataError, "'dev' is not a split; there are train, validation, test"),
}


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.__name__)
def test_wrong_task_is_refused_before_training(wrong: type[TensorTask]) -> None:
    kind, message = WRONG[wrong]
    with pytest.raises(kind, match=message):
        describe_run(bound(wrong(), line_config()))


class OtherTypes(Line):
    """The same numbers, as bfloat16 and with the bytes of another machine."""

    def load_data(self, config: RunConfig) -> dict[str, Any]:
        return {
            split: {"x": torch.from_numpy(part["x"]).bfloat16(), "y": part["y"].numpy().astype(">f4")}
            for split, part in super().load_data(config).items()
        }


def test_arrays_of_other_types_are_converted() -> None:
    plain, other = (bound(task, line_config()) for task in (Line(), OtherTypes()))
    for split in ("train", "validation"):
        own, converted = (next(iter(task.part(split).batches())) for task in (plain, other))
        assert converted["x"].dtype is torch.float32 and torch.equal(converted["x"], own["x"].bfloat16().float())
        torch.testing.assert_close(converted["y"].float(), own["y"].float())


def test_settings_for_images_are_refused(tmp_path: Any) -> None:
    for changes, message in (
        ({"exchange": ExchangeConfig(rule="dml")}, r"exchange\.rule is for classification"),
        ({"fusion": FusionConfig(mode="stable", rates=(0.5,))}, r"fusion\.mode is for classification"),
        ({"optimizer": OptimizerConfig(label_smoothing="choice(0, 0.1)")}, r"optimizer\.label_smoothing is for class"),
    ):
        with pytest.raises(ConfigError, match=message):
            Line().check_config(line_config(**changes), has_model=False)
    with pytest.raises(ConfigError, match="builds its own model; leave model out"):
        Line().check_config(line_config(), has_model=True)
    with pytest.raises(ConfigError, match="loads its own data; leave data out"):
        Line().complete_config(line_config(), ([1], [2]), Storage(str(tmp_path)))


def test_resolve_task_lists_names_and_refuses_other_objects() -> None:
    assert isinstance(resolve_task(f"{__name__}:Line"), Line)
    with pytest.raises(ConfigError, match="'poetry' is unknown; there are classification, retrieval, language"):
        resolve_task("poetry")
    with pytest.raises(ConfigError, match="a metric's name must be a Python identifier, got 'top-5'"):
        Metric(name="top-5")
    with pytest.raises(ConfigError, match=r"must be a subclass of inarch\.Task.*got dict"):
        check_task({}, "x")
