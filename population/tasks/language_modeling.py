"""Next-character language modeling with a small transformer."""

from __future__ import annotations

import dataclasses
import math
import pydoc_data.topics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inarch.population.config import DataConfig, ModelConfig, RunConfig
from inarch.population.errors import ConfigError, DataError
from inarch.population.evaluation.metrics import Metric
from inarch.population.models.text_transformer import TextTransformer
from inarch.population.persistence.paths import absolute
from inarch.population.persistence.storage import Storage
from inarch.population.tasks.tensor_task import TensorTask

MAX_OUTPUTS = 2**27
"""Most probabilities of an evaluation, which holds them all in memory: 0.5 GiB for each network. Of a longer validation
or test text, evenly spread windows are taken."""


class LanguageModeling(TensorTask):
    """Networks learn to predict the next character of a text. An example is a window of text.context characters.

    The windows do not overlap. An ensemble is the mean of its networks' probabilities.
    """

    metrics = (
        Metric(name="bits_per_character", heading="bits/char", higher_is_better=False),
        Metric(name="accuracy", form="{:.2%}"),
    )
    """Metrics of language modeling.

    - bits_per_character: mean cross-entropy of the next character, in bits.
    - accuracy: share of the characters that are predicted correctly.
    """

    def check_config(self, config: RunConfig, *, has_model: bool) -> None:
        """Raise ConfigError if the task cannot use a configuration, or would ignore settings of data and model."""
        super().check_config(config, has_model=has_model)
        for section, own, default in (("data", config.data, DataConfig()), ("model", config.model, ModelConfig())):
            for item in dataclasses.fields(own):
                if getattr(own, item.name) != getattr(default, item.name):
                    raise ConfigError(
                        f"{section}.{item.name} has no effect with task language, whose text and transformer are "
                        "described by text.*"
                    )

    def complete_config(self, config: RunConfig, data: Any, storage: Storage) -> RunConfig:
        """Return the configuration with the text at an absolute path, so that a resume from elsewhere finds it."""
        config = super().complete_config(config, data, storage)
        if config.text.source == "python":
            return config
        return dataclasses.replace(config, text=dataclasses.replace(config.text, source=absolute(config.text.source)))

    def load_data(self, config: RunConfig) -> dict[str, Any]:
        """Read the text and split it into windows.

        Args:
            config: Configuration of the run. `config.text` names the text.

        Returns:
            For each split a pair of arrays, shape (windows, text.context), int64: characters, and next characters. Of
            long validation and test texts only some windows are taken, evenly spread.

        Raises:
            DataError: The file cannot be read, is not UTF-8, or a split is shorter than a window.
        """
        text = read_text(config.text.source)
        symbols = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
        alphabet, encoded = np.unique(symbols, return_inverse=True)
        encoded = encoded.astype(np.int64, copy=False)
        test = round(config.text.test * len(encoded))
        validation = round(config.text.validation * len(encoded))
        train = len(encoded) - validation - test
        bounds = {"train": (0, train), "validation": (train, train + validation), "test": (train + validation, None)}
        parts = {split: encoded[start:end] for split, (start, end) in bounds.items()}
        windows = {
            split: _windows(part, config.text.context) for split, part in parts.items() if len(part) or split == "train"
        }
        for split in windows.keys() - {"train"}:
            windows[split] = _spread(windows[split], config.text.context * len(alphabet))
        short = [split for split, (characters, _) in windows.items() if not len(characters)]
        if short:
            raise DataError(
                f"text.source: {len(text):,} characters are too few for a {short[0]} text of at least "
                f"{config.text.context + 1} characters; give a longer text, or a smaller text.context"
            )
        return windows

    def build_model(self, config: RunConfig, data: Mapping[str, Any]) -> nn.Module:
        """Return a transformer whose alphabet has the characters of the data."""
        largest = max(int(array.max()) for pair in data.values() for array in pair)
        text = config.text
        return TextTransformer(
            largest + 1, context=text.context, width=text.width, layers=text.layers, heads=text.heads
        )

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean cross-entropy of the next characters in nats, and the accuracy."""
        characters, following = batch
        logits = model(characters).float()
        loss = F.cross_entropy(logits.flatten(0, 1), following.flatten())
        return loss, {"accuracy": (logits.detach().argmax(2) == following).double().mean()}

    def outputs(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return log-probabilities, shape (windows, characters, alphabet), float32."""
        return model(batch[0]).float().log_softmax(2)

    def score(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        """Return bits per character and accuracy."""
        likelihood = outputs.gather(2, targets[:, :, None])
        return {
            "bits_per_character": -float(likelihood.double().mean()) / math.log(2),
            "accuracy": float((outputs.argmax(2) == targets).double().mean()),
        }

    def example_scores(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the negative bits per character of each window."""
        return outputs.gather(2, targets[:, :, None]).double().mean((1, 2)) / math.log(2)

    def combine(self, outputs: Sequence[Tensor]) -> Tensor:
        """Return the logarithm of the networks' mean probabilities."""
        return torch.stack(list(outputs)).logsumexp(0) - math.log(len(outputs))

    def predictions(self, outputs: Tensor) -> Tensor:
        """Return the most probable next characters."""
        return outputs.argmax(2).flatten()


def read_text(source: str) -> str:
    """Return a text.

    Args:
        source: As `TextConfig.source`.

    Raises:
        DataError: The file cannot be read or is not UTF-8.
    """
    if source == "python":
        topics: dict[str, str] = pydoc_data.topics.topics
        return "\n\n".join(topics[name].strip() for name in sorted(topics))
    try:
        return Path(source).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"text.source {source!r} cannot be read as UTF-8 text: {error}") from error


def _windows(part: np.ndarray, context: int) -> tuple[np.ndarray, np.ndarray]:
    """Return windows of characters, and the characters that follow each of theirs."""
    count = max(0, (len(part) - 1) // context)
    return part[: count * context].reshape(-1, context), part[1 : count * context + 1].reshape(-1, context)


def _spread(windows: tuple[np.ndarray, np.ndarray], outputs_each: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the windows, or evenly spread ones among them if all would have more than `MAX_OUTPUTS` outputs."""
    most = max(1, MAX_OUTPUTS // outputs_each)
    if len(windows[0]) <= most:
        return windows
    chosen = np.linspace(0, len(windows[0]) - 1, most).round().astype(np.int64)
    return windows[0][chosen], windows[1][chosen]
