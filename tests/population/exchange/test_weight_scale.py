"""A scion of an absurd scale is refused, and none that trains normally."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import nn

from inarch.population.exchange.participant import Participant
from inarch.population.exchange.weight_scale import WeightScale, is_diverging
from inarch.population.grafting.units import graft_units
from inarch.population.membership.outcome import ExchangeOutcome
from inarch.population.state.snapshot import Snapshot, StagingBuffer, layout_of
from inarch.population.state.state_dict import named_tensors
from tests.population.exchange.test_participant import origin, participant


@pytest.mark.parametrize(
    ("scion", "own", "diverges"),
    [
        ((0.1, 0.2), (0.1, 0.2), False),
        ((0.9, 0.2), (0.1, 0.2), False),
        ((0.1, 2.1), (0.1, 0.2), True),
        ((1e30, 0.2), (0.1, 0.2), True),
        ((0.1, math.inf), (0.1, 0.2), True),
        ((0.5, 0.2), (0.0, 0.2), False),
        ((1.5, 0.2), (0.0, 0.2), True),
        ((1e-6, 1e-6), (0.1, 0.2), False),
        ((1.0, 1.0), (0.0, 0.0), False),
        ((0.1, 0.2), (1e4, 1e4), False),
        ((0.1, 0.2), (math.nan, 0.2), False),
        ((), (), False),
    ],
)
def test_only_far_larger_weights_diverge(scion: tuple[float, ...], own: tuple[float, ...], diverges: bool) -> None:
    assert is_diverging(scion, own) is diverges


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_scale_is_the_root_mean_square_of_a_unit(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64), nn.Conv2d(64, 64, 3), nn.Linear(64, 2)).to(dtype)
    module[1].running_var.fill_(1e6)  # pyright: ignore[reportOptionalMemberAccess, reportArgumentType, reportCallIssue, reportAttributeAccessIssue]
    state = named_tensors(module)
    layout, units = layout_of(state), graft_units(module)
    staging = StagingBuffer(layout, torch.device("cpu"))
    staging.stage(state)
    trained = {name for name, _ in module.named_parameters()}
    measured = WeightScale(layout, units, trained).measure(staging.buffer())
    for unit, scale in zip(units, measured, strict=True):
        values = torch.cat([state[key].detach().double().flatten() for key in unit.keys if key in trained])
        assert scale == pytest.approx(float(values.square().mean().sqrt()), rel=0.15)


def exchanged(own: Participant, donor: Participant, *, prepares: bool = False) -> ExchangeOutcome:
    snapshot = own.snapshot(origin(own, 0, 2))
    scion = donor.snapshot(origin(donor, 1, 2))
    scion = dataclasses.replace(scion, buffer=scion.buffer.copy())
    if prepares:
        scion = own.prepare(scion)
    result = own.exchange(
        (scion,), snapshot.origin, snapshot.information, epoch=1.0, rate_factor=1.0, now=0.0, staged=snapshot
    )
    return result.outcome


@pytest.mark.parametrize("prepares", [False, True])
@pytest.mark.parametrize("factor", [30.0, 1e4, 1e30])
def test_huge_scion_is_refused_and_changes_nothing(factor: float, prepares: bool) -> None:
    (module, own), (other, donor) = participant(0), participant(1)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(factor)
    assert exchanged(own, donor, prepares=prepares) is ExchangeOutcome.DIVERGING
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


def test_healthy_scion_heals_a_huge_rootstock() -> None:
    (module, own), (_, donor) = participant(0), participant(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(1e4)
    assert exchanged(own, donor) is ExchangeOutcome.GRAFTED


def test_scale_of_a_prepared_snapshot_is_not_measured_again() -> None:
    (_, own), (_, donor) = participant(0), participant(1)
    snapshot = own.snapshot(origin(own, 0, 2))
    scion: Snapshot = donor.snapshot(origin(donor, 1, 2))
    scion = dataclasses.replace(scion, buffer=scion.buffer.copy(), scales=(1e9, 1e9))
    result = own.exchange((scion,), snapshot.origin, snapshot.information, epoch=1.0, rate_factor=1.0, now=0.0)
    assert result.outcome is ExchangeOutcome.DIVERGING
