"""Next-character language modeling: windows of the text, bits per character, exchange of transformers."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from inarch.population import (
    DataConfig,
    ExchangeConfig,
    ModelConfig,
    OptimizerConfig,
    PopulationConfig,
    RunConfig,
    ScheduleConfig,
    Simulator,
    TextConfig,
    Trainer,
)
from inarch.population.errors import ConfigError, DataError
from inarch.population.models.text_transformer import TextTransformer
from inarch.population.persistence.storage import Storage
from inarch.population.state.state_dict import named_tensors
from inarch.population.tasks import language_modeling
from inarch.population.tasks.language_modeling import LanguageModeling, read_text
from tests.fakes.runtime import FakeRuntime, live

SENTENCE = "the population grafts the weights of its neighbors. "


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    (tmp_path / "text.txt").write_text(SENTENCE * 80)
    return RunConfig(
        task="language",
        text=TextConfig(source=str(tmp_path / "text.txt"), context=16, width=16, layers=1, heads=2),
        population=PopulationConfig(size=2),
        schedule=ScheduleConfig(epochs=4, batch_size=16, lr_decay="constant"),
        optimizer=OptimizerConfig(name="adamw", learning_rate=0.01, weight_decay=0.0),
    )


def bound(config: RunConfig) -> Any:
    task = LanguageModeling()
    return task.bind(config, task.load_data(config))


def test_windows_cover_the_text_and_predict_what_follows(config: RunConfig) -> None:
    data = LanguageModeling().load_data(config)
    text = SENTENCE * 80
    alphabet = np.array(sorted(set(text)))
    characters, following = data["train"]
    decoded = "".join(alphabet[characters].flatten())
    assert text.startswith(decoded) and len(decoded) > 0.78 * len(text)
    assert "".join(alphabet[following].flatten()) == text[1 : len(decoded) + 1]
    assert sum(len(split[0]) for split in data.values()) == sum(len(part) // 16 for part in data_parts(text))


def data_parts(text: str) -> list[str]:
    """The three parts of the text, without the last character of each, which only is predicted."""
    held_out = round(0.1 * len(text))
    train = len(text) - 2 * held_out
    bounds = [(0, train), (train, train + held_out), (train + held_out, len(text))]
    return [text[start : end - 1] for start, end in bounds]


def test_uniform_prediction_costs_the_alphabets_entropy(config: RunConfig) -> None:
    task = bound(config)
    model = task.build(0)
    torch.nn.init.zeros_(model.head.weight)
    torch.nn.init.zeros_(model.head.bias)
    scores = task.validate(model)
    assert scores.bits_per_character == pytest.approx(math.log2(len(set(SENTENCE))), abs=1e-5)
    assert scores.score == -scores.bits_per_character


def test_network_sees_only_earlier_characters() -> None:
    torch.manual_seed(0)
    model = TextTransformer(7, context=8, width=16, layers=2, heads=2).eval()
    text = torch.randint(0, 7, (3, 8))
    changed = text.clone()
    changed[:, 5:] = (changed[:, 5:] + 1) % 7
    before, after = model(text), model(changed)
    assert torch.allclose(before[:, :5], after[:, :5], atol=1e-5)
    assert not torch.allclose(before[:, 5:], after[:, 5:], atol=1e-5)


def test_ensemble_averages_probabilities() -> None:
    outputs = [torch.tensor([[[0.5, 0.5], [0.9, 0.1]]]).log(), torch.tensor([[[0.1, 0.9], [0.7, 0.3]]]).log()]
    combined = LanguageModeling().combine(outputs)
    assert torch.allclose(combined.exp(), torch.tensor([[[0.3, 0.7], [0.8, 0.2]]]))


@pytest.mark.parametrize("rule", ["none", "graft", "papa", "wash"])
def test_population_learns_the_sentence(config: RunConfig, rule: Any) -> None:
    donors = 1 if rule == "graft" else None
    exchange = ExchangeConfig(rule=rule, num_donors=donors)
    config = dataclasses.replace(config, exchange=exchange)
    result = Simulator(config, lambda: bound(config)).run()
    bits = [reports[-1].validation_metrics["bits_per_character"] for reports in result.reports.values()]
    assert all(value is not None and value < 2.5 for value in bits)
    grafted = [entry for entry in result.ledger if entry.outcome.value == "grafted"]
    assert bool(grafted) == (rule != "none")


def test_graft_moves_every_weight_matrix(config: RunConfig) -> None:
    trainers = [Trainer(bound(config), config, network_id=network_id) for network_id in (0, 1)]
    matrices = {name for name, tensor in named_tensors(trainers[0].module).items() if tensor.dim() >= 2}
    heads = {unit.name for unit in trainers[0].units}
    assert matrices <= heads and any("in_proj" in name for name in matrices) and "head.weight" in matrices


def test_replay_of_a_language_run_is_the_same(config: RunConfig) -> None:
    results = [Simulator(config, lambda: bound(config), step_seconds={1: 3.0}).run() for _ in range(2)]
    assert results[0].ledger == results[1].ledger
    states = [named_tensors(result.trainers[1].module) for result in results]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_resumed_language_network_ends_with_the_same_weights(config: RunConfig) -> None:
    straight = Trainer(bound(config), config, network_id=0)
    live(straight, FakeRuntime())
    first = FakeRuntime(stop_after=5)
    live(Trainer(bound(config), config, network_id=0), first)
    resumed = Trainer(bound(config), config, network_id=0, incarnation=2)
    resumed.resume(first.checkpoints[-1])
    live(resumed, FakeRuntime())
    states = [named_tensors(trainer.module) for trainer in (straight, resumed)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_text_that_cannot_be_used_is_refused(config: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("too short")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9" * 100)
    for source, message in (
        (tmp_path / "short.txt", "9 characters are too few"),
        (tmp_path / "empty.txt", "0 characters are too few"),
        (tmp_path / "latin.txt", "cannot be read as UTF-8"),
        (tmp_path / "absent.txt", "cannot be read as UTF-8 text"),
    ):
        text = TextConfig(source=str(source), context=16)
        with pytest.raises(DataError, match=message):
            LanguageModeling().load_data(RunConfig(task="language", text=text))
    for changes, name in (
        ({"data": DataConfig(validation=0.3)}, r"data\.validation"),
        ({"model": ModelConfig(architecture="vgg16")}, r"model\.architecture"),
    ):
        with pytest.raises(ConfigError, match=f"{name} has no effect with task language"):
            LanguageModeling().check_config(dataclasses.replace(config, **changes), has_model=False)
    with pytest.raises(ConfigError, match=r"text\.width must be a multiple of text\.heads \(4\), got 90"):
        TextConfig(width=90)


def test_long_evaluation_texts_are_thinned_evenly(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = LanguageModeling().load_data(config)
    alphabet = len(set(SENTENCE))
    monkeypatch.setattr(language_modeling, "MAX_OUTPUTS", 10 * 16 * alphabet)
    thinned = LanguageModeling().load_data(config)
    assert np.array_equal(thinned["train"][0], whole["train"][0])
    for split in ("validation", "test"):
        chosen = np.linspace(0, len(whole[split][0]) - 1, 10).round().astype(int)
        assert all(np.array_equal(thinned[split][part], whole[split][part][chosen]) for part in (0, 1))


def test_python_documentation_is_english_of_some_length() -> None:
    text = read_text("python")
    assert len(text) > 300_000 and " the " in text


def test_text_is_recorded_at_an_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    storage, task = Storage(str(tmp_path)), LanguageModeling()
    for source, expected in (("book.txt", str(tmp_path / "book.txt")), ("python", "python")):
        config = RunConfig(task="language", text=TextConfig(source=source))
        assert task.complete_config(config, None, storage).text.source == expected
