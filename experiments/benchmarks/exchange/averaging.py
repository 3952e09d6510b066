"""Measure what a network pays to take from all others, as PAPA does on a complete topology."""

from __future__ import annotations

import time

import torch

from inarch.experiments.benchmarks.harness import Row
from inarch.population import models
from inarch.population.config import ModelConfig
from inarch.population.grafting.blending import blend_weighted
from inarch.population.state.state_dict import named_tensors

SIZES = (4, 16)
PULL = 0.01
"""As in the paper."""


def averaging_rows(architecture: str, repeats: int) -> list[Row]:
    """Measure the CPU time in which a network is pulled toward the mean of itself and all others.

    Args:
        architecture: Name of the architecture.
        repeats: How often each size is measured.
    """
    torch.set_num_threads(1)
    model = models.build(ModelConfig(architecture=architecture), num_classes=10, seed=0)
    own = [tensor.detach() for tensor in named_tensors(model).values() if tensor.is_floating_point()]
    others = [[tensor.clone() for tensor in own] for _ in range(max(SIZES) - 1)]
    return [
        Row(
            what=f"{architecture}: pull toward the mean of {size} networks",
            unit="ms",
            values=tuple(_milliseconds(own, others[: size - 1]) for _ in range(1 + repeats))[1:],
        )
        for size in SIZES
    ]


def _milliseconds(own: list[torch.Tensor], others: list[list[torch.Tensor]]) -> float:
    weights = [[PULL / (len(others) + 1)] * len(own)] * len(others)
    began = time.thread_time()
    blend_weighted(own, others, weights)
    return 1e3 * (time.thread_time() - began)
