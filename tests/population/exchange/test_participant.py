"""One network's part in the exchange."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from inarch.population.config import ExchangeConfig, GraftConfig, OpenConfig, StalenessConfig, WashConfig
from inarch.population.exchange import exchange_rule
from inarch.population.exchange.participant import Participant
from inarch.population.exchange.shared_state import SharedState
from inarch.population.grafting.channels import Channels
from inarch.population.grafting.compiled_loops import MOST_MOVED
from inarch.population.membership.outcome import ExchangeOutcome
from inarch.population.state.precision import unmeasured_statistics
from inarch.population.state.snapshot import Snapshot
from inarch.population.state.snapshot_info import SnapshotInfo
from inarch.population.training.progress import Progress


def no_channels() -> Channels:
    raise AssertionError("grafting layers needs no channels")


def participant(
    seed: int, *, num_intervals: int = 0, rule: str = "graft", freezes: bool = False
) -> tuple[nn.Sequential, Participant]:
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))
    module[0].requires_grad_(not freezes)
    exchange = ExchangeConfig(rule=rule)
    config = OpenConfig(exchange=exchange, wash=WashConfig(probability=1.0)).run_config("run")
    result = Participant(SharedState(module, None, config), config)
    result.begin(exchange_rule(config, no_channels), network_id=seed, num_intervals=num_intervals)
    return module, result


def origin(part: Participant, network_id: int, interval: int) -> SnapshotInfo:
    progress = Progress(interval=interval, step=interval, trained_intervals=float(interval))
    return progress.origin(network_id=network_id, incarnation=1, layout=part.layout, created_at=0.0)


def scion(part: Participant, interval: int) -> Snapshot:
    """A snapshot of another network that is one interval behind."""
    snapshot = part.snapshot(origin(part, 1, interval - 1))
    return dataclasses.replace(snapshot, buffer=snapshot.buffer.copy())


@pytest.mark.parametrize("information", [(), (1.0,) * 3, ("1.0",), (None,), 1.0, "1", {0: 1.0}, (True,)])
@pytest.mark.parametrize("prepares", [False, True])
def test_information_of_another_form_is_refused(information: Any, prepares: bool) -> None:
    (_, own), (_, donor) = participant(0), participant(1)
    snapshot = own.snapshot(origin(own, 0, 2))
    assert len(snapshot.information) == 1
    odd = dataclasses.replace(scion(donor, 3), information=information)
    result = own.exchange(
        (own.prepare(odd) if prepares else odd,),
        snapshot.origin,
        snapshot.information,
        epoch=1.0,
        rate_factor=1.0,
        now=0.0,
    )
    assert result.outcome is ExchangeOutcome.STRUCTURE


def spoiled(donor: Participant, what: str) -> Snapshot:
    """A snapshot that no network of a run of 5 intervals can have published."""
    result = scion(donor, 3)
    if what == "size":
        return dataclasses.replace(result, buffer=result.buffer[:-1])
    if what == "variance":
        result.state()["1.running_var"][2] = -1.0
        return result
    changes = {
        "training": {"trained_intervals": 1e9},
        "negative": {"trained_intervals": -1.0},
        "later": {"interval": 6},
    }
    return dataclasses.replace(result, origin=dataclasses.replace(result.origin, **changes[what]))


@pytest.mark.parametrize(
    ("what", "outcome"),
    [
        ("size", ExchangeOutcome.STRUCTURE),
        ("variance", ExchangeOutcome.NOT_FINITE),
        ("training", ExchangeOutcome.STRUCTURE),
        ("negative", ExchangeOutcome.STRUCTURE),
        ("later", ExchangeOutcome.STRUCTURE),
    ],
)
def test_snapshot_of_no_possible_network_is_refused(what: str, outcome: ExchangeOutcome) -> None:
    (module, own), (_, donor) = participant(0, num_intervals=5), participant(1)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    snapshot = own.snapshot(origin(own, 0, 2))
    result = own.exchange(
        (spoiled(donor, what),), snapshot.origin, snapshot.information, epoch=1.0, rate_factor=1.0, now=0.0
    )
    assert result.outcome is outcome
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


def test_donor_with_more_training_than_its_schedule_is_admitted() -> None:
    """Compensated updates count in whole intervals, so a network that grafts may count more than it has trained."""
    (_, own), (_, donor) = participant(0, num_intervals=5), participant(1)
    late, snapshot = scion(donor, 6), own.snapshot(origin(own, 0, 5))
    late = dataclasses.replace(late, origin=dataclasses.replace(late.origin, trained_intervals=5.4))
    result = own.exchange((late,), snapshot.origin, snapshot.information, epoch=1.0, rate_factor=1.0, now=0.0)
    assert result.outcome is ExchangeOutcome.GRAFTED


@pytest.mark.parametrize("num_donors", [1, 2])
def test_staged_snapshot_replaces_the_copy_before_an_exchange(num_donors: int) -> None:
    (first, copying), (second, sharing), (_, donor) = participant(0), participant(0), participant(1)
    for interval in range(1, 6):
        for module in (first, second):
            with torch.no_grad():
                for parameter in module.parameters():
                    parameter.add_(0.01 * interval)
        for part, is_shared in ((copying, False), (sharing, True)):
            own = origin(part, 0, interval)
            staged = part.snapshot(own)
            result = part.exchange(
                (scion(donor, interval),) * num_donors,
                own,
                staged.information,
                epoch=1.0,
                rate_factor=1.0,
                now=0.0,
                staged=staged if is_shared else None,
            )
            assert result.outcome is ExchangeOutcome.GRAFTED
        assert copying.history is not None and sharing.history is not None
        past, other_past = copying.history.tensors(within=True), sharing.history.tensors(within=True)
        assert past.keys() == other_past.keys() and past
        assert all(torch.equal(past[key], other_past[key]) for key in past), interval
        for own_tensor, other in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
            assert torch.equal(own_tensor, other)


def exchange_with_frozen_convolution(
    rule: str, *, own_score: float | None = None, begins_frozen: bool = True
) -> tuple[list[Tensor], list[Tensor]]:
    """Return a network's tensors before and after an exchange, in which its convolution is frozen."""
    (module, own), (_, donor) = participant(0, rule=rule, freezes=begins_frozen), participant(1, rule=rule)
    module[0].requires_grad_(False)
    before = [tensor.clone() for tensor in module.state_dict().values()]
    snapshot, other = own.snapshot(dataclasses.replace(origin(own, 0, 3), score=own_score)), scion(donor, 3)
    other = dataclasses.replace(other, origin=dataclasses.replace(other.origin, score=0.9))
    result = own.exchange((other,), snapshot.origin, snapshot.information, epoch=1.0, rate_factor=1.0, now=0.0)
    assert result.outcome is ExchangeOutcome.GRAFTED
    return before, list(module.state_dict().values())


@pytest.mark.parametrize("rule", ["graft", "papa", "wash"])
def test_frozen_parameters_keep_their_values(rule: str) -> None:
    before, after = exchange_with_frozen_convolution(rule)
    weight, bias, *rest = zip(before, after, strict=True)
    assert torch.equal(*weight)
    assert torch.equal(*bias)
    assert any(not torch.equal(old, new) for old, new in rest)


def test_parameters_frozen_for_some_steps_are_exchanged() -> None:
    before, after = exchange_with_frozen_convolution("graft", begins_frozen=False)
    assert not torch.equal(before[0], after[0])


def test_copied_network_brings_its_frozen_parameters() -> None:
    """The rest of a copied network was trained for its frozen parameters."""
    before, after = exchange_with_frozen_convolution("pbt", own_score=0.1)
    assert not torch.equal(before[0], after[0])


def frozen_norm() -> nn.Sequential:
    """A network whose first batch norm stays in evaluation mode, as of a pretrained backbone."""

    class FrozenNorm(nn.BatchNorm2d):
        def train(self, mode: bool = True) -> FrozenNorm:
            return super().train(False)

    module = nn.Sequential(nn.Conv2d(1, 4, 3), FrozenNorm(4), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    for layer in (module[1], module[3]):
        assert isinstance(layer, nn.BatchNorm2d) and layer.running_mean is not None
        layer.running_mean.fill_(3.0)
    return module


def test_reset_leaves_statistics_that_nobody_measures_again() -> None:
    config = dataclasses.replace(OpenConfig().run_config("run"), graft=GraftConfig(batch_norm="reset"))
    parts = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        module = frozen_norm()
        part = Participant(SharedState(module, None, config), config)
        part.begin(exchange_rule(config, no_channels), network_id=seed, num_intervals=0)
        parts.append((module, part))
    (module, own), (_, donor) = parts
    snapshot = own.snapshot(origin(own, 0, 3))
    result = own.exchange((scion(donor, 3),), snapshot.origin, snapshot.information, epoch=1, rate_factor=1, now=0)
    assert result.outcome is ExchangeOutcome.GRAFTED
    state = module.state_dict()
    assert state["1.running_mean"].tolist() == [3.0] * 4 and state["3.running_mean"].tolist() == [0.0] * 4
    modes = [layer.training for layer in module.eval().modules()]
    assert unmeasured_statistics(module) == {"1.running_mean", "1.running_var"}
    assert [layer.training for layer in module.modules()] == modes


def test_past_states_hold_frozen_parameters_as_they_are() -> None:
    """A checkpoint takes the newest past state for the network's weights."""
    (module, own), (_, donor) = participant(0, freezes=True), participant(1)
    weight = module.state_dict()["0.weight"].clone()
    for interval in (2, 3, 4):
        with torch.no_grad():
            module.get_parameter("3.weight").add_(0.1)
        snapshot = own.snapshot(origin(own, 0, interval))
        own.exchange(
            (scion(donor, interval),), snapshot.origin, snapshot.information, epoch=1.0, rate_factor=1.0, now=0.0
        )
        assert own.history is not None
        newest = own.history.newest()
        assert newest is not None
        for name, tensor in newest.state.items():
            assert torch.equal(module.state_dict()[name], tensor), name
        assert torch.equal(newest.state["0.weight"], weight)


def test_weights_that_are_not_finite_are_no_past_state() -> None:
    """A loop may put its last good weights back after them."""
    (module, own), (_, donor) = participant(0), participant(1)
    good = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    exchange = functools.partial(own.exchange, epoch=1.0, rate_factor=1.0, now=0.0)
    with torch.no_grad():
        module.get_parameter("0.weight").fill_(float("nan"))
    exchange(ExchangeOutcome.NOT_FINITE, origin(own, 0, 2), ())
    module.load_state_dict(good)
    snapshot = own.snapshot(origin(own, 0, 3))
    result = exchange((scion(donor, 3),), snapshot.origin, snapshot.information)
    assert result.outcome is ExchangeOutcome.GRAFTED
    assert all(bool(torch.isfinite(tensor).all()) for tensor in module.state_dict().values())


def test_many_intervals_of_compensation_move_many_states() -> None:
    config = dataclasses.replace(
        OpenConfig().run_config("run"), staleness=StalenessConfig(compensation_intervals=MOST_MOVED + 4)
    )
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 4, 3))
    own = Participant(SharedState(module, None, config), config)
    own.begin(exchange_rule(config, no_channels), network_id=0, num_intervals=0)
    torch.manual_seed(1)
    other = Participant(SharedState(nn.Sequential(nn.Conv2d(1, 4, 3)), None, config), config)
    other.begin(exchange_rule(config, no_channels), network_id=1, num_intervals=0)
    for interval in range(1, MOST_MOVED + 8):
        snapshot = own.snapshot(origin(own, 0, interval))
        late = dataclasses.replace(other.snapshot(origin(other, 1, interval)))
        late = dataclasses.replace(late, buffer=late.buffer.copy())
        result = own.exchange((late,), snapshot.origin, snapshot.information, epoch=1.0, rate_factor=1.0, now=0.0)
        assert result.outcome is ExchangeOutcome.GRAFTED
