"""Regularized image classification: labels that are shares, validation as before, and runs that can be repeated."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from inarch.population import (
    DataConfig,
    DeviceConfig,
    ExchangeConfig,
    ImageClassification,
    OptimizerConfig,
    RegularizationConfig,
    RunConfig,
    ScheduleConfig,
    TextConfig,
    Trainer,
    WeightAveragingConfig,
)
from inarch.population.errors import ConfigError
from inarch.population.state.state_dict import named_tensors
from inarch.population.tasks.built_in import resolve_task
from tests.conftest import losses, small_config, tiny_splits, tiny_task
from tests.fakes.runtime import FakeRuntime, live

REGULARIZED = RegularizationConfig(mixup=1.0, cutmix=1.0, erasing=0.5)


class Given(nn.Module):
    """Gives the same logits for every batch."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, images: Tensor) -> Tensor:
        return self.logits[: len(images)]


def epoch_of(task: ImageClassification, first: int = 0) -> list[tuple[Tensor, Tensor]]:
    return list(task.epoch(order_seed=1, augment_seed=2, epoch=1, first=first))


def test_loss_of_shares_is_their_mean_cross_entropy() -> None:
    task = tiny_task(small_config())
    model = Given(torch.tensor([[math.log(2.0), 0.0, 0.0, 0.0], [0.0, 0.0, math.log(5.0), 0.0]]))
    shares = torch.tensor([[0.7, 0.3, 0.0, 0.0], [0.0, 0.6, 0.4, 0.0]])
    loss, metrics = task.loss(model, (torch.zeros(2, 1, 8, 8), shares))
    first = -(0.7 * math.log(2 / 5) + 0.3 * math.log(1 / 5))
    second = -(0.6 * math.log(1 / 8) + 0.4 * math.log(5 / 8))
    assert float(loss.detach()) == pytest.approx((first + second) / 2, rel=1e-6)
    assert float(metrics["accuracy"]) == 0.5  # the second image's largest share is class 1, the prediction 2


def test_whole_shares_have_the_loss_of_their_labels() -> None:
    task = tiny_task(small_config(optimizer=OptimizerConfig(learning_rate=0.1, label_smoothing=0.1)))
    model, labels = Given(torch.randn(8, 4, generator=torch.Generator().manual_seed(0))), torch.arange(8) % 4
    images = torch.zeros(8, 1, 8, 8)
    (hard, accuracy), (soft, other) = (
        task.loss(model, (images, labels)),
        task.loss(model, (images, torch.eye(4)[labels])),
    )
    torch.testing.assert_close(hard, soft)
    assert accuracy == other


def test_only_training_batches_are_regularized() -> None:
    plain, regularized = tiny_task(small_config()), tiny_task(small_config(regularization=REGULARIZED))
    for (images, labels), (others, shares) in zip(epoch_of(plain), epoch_of(regularized), strict=True):
        assert others.shape == images.shape and not torch.equal(images, others)
        assert shares.shape == (len(labels), 4) and torch.allclose(shares.sum(1), torch.ones(len(labels)))
    for inputs, others in zip(plain.batch_norm_inputs(), regularized.batch_norm_inputs(), strict=True):
        assert torch.equal(inputs, others)
    model = plain.build(0)
    assert plain.validate(model) == regularized.validate(model) is not None


def test_strengths_of_zero_leave_the_batches_unchanged() -> None:
    off = RegularizationConfig(cutmix_share=0.9, mixup=1.0, mix_probability=0.0)
    for batch, other in zip(
        epoch_of(tiny_task(small_config())), epoch_of(tiny_task(small_config(regularization=off))), strict=True
    ):
        assert torch.equal(batch[0], other[0]) and torch.equal(batch[1], other[1])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"weight_averaging": WeightAveragingConfig(kind="swa", start=0.2)},
        {"device": DeviceConfig(precision="bfloat16", channels_last="on")},
    ],
    ids=["plain", "swa", "bfloat16"],
)
def test_regularized_network_learns_and_resumes_bit_for_bit(changes: dict[str, Any]) -> None:
    config = small_config(regularization=REGULARIZED, **changes)
    splits = tiny_splits(config)
    whole, first, second = (Trainer(tiny_task(config, splits), config, network_id=0) for _ in range(3))
    runtime, stopped = FakeRuntime(), FakeRuntime(stop_after=5)
    live(whole, runtime)
    live(first, stopped)
    second.resume(stopped.checkpoints[-1])
    live(second, FakeRuntime())
    for name, tensor in named_tensors(whole.module).items():
        assert torch.equal(tensor, named_tensors(second.module)[name]), name
    assert losses(runtime.reports)[-1] < losses(runtime.reports)[0]


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_mixtures_of_identities_are_refused(name: str) -> None:
    strengths: dict[str, Any] = {name: 0.2}
    with pytest.raises(ConfigError, match=rf"regularization\.{name} must be 0 with task=retrieval, got 0\.2"):
        RunConfig(task="retrieval", regularization=RegularizationConfig(**strengths))
    RunConfig(task="retrieval", regularization=RegularizationConfig(erasing=0.5))


@pytest.mark.parametrize("name", ["mixup", "cutmix", "erasing"])
def test_text_is_not_regularized_as_images_are(name: str) -> None:
    strengths: dict[str, Any] = {name: 0.2}
    config = RunConfig(
        task="language", text=TextConfig(source="python"), regularization=RegularizationConfig(**strengths)
    )
    with pytest.raises(ConfigError, match=rf"regularization\.{name} is for classification; with task .* must be 0"):
        resolve_task("language").check_config(config, has_model=False)


def test_check_accepts_mixed_batches_of_one_image() -> None:
    config = small_config(
        regularization=REGULARIZED,
        schedule=ScheduleConfig(epochs=1, batch_size=1, drop_last="off"),
        data=DataConfig(augmentation="none"),
        exchange=ExchangeConfig(rule="none"),
    )
    task = ImageClassification(config, tiny_splits(config, images=16), factory=plain_network)
    task.check()


def plain_network(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))
