"""One network's life, written once: without Ray, processes or a clock of its own.

A `Trainer` trains interval after interval. Whoever runs it, an actor, the simulator or a test, is its `Host`. The order
within an interval is fixed: steps, evaluate, freeze (with own information), publish, pull, graft, commit.

Longer than other files: host, report and trainer are one conversation, and the order is best read in one piece.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from population.averages import WeightAverage
from population.board import Refusal, age_of
from population.channels import find_channels
from population.checkpoint import Checkpoint, CheckpointId
from population.config import RunConfig
from population.errors import CheckpointError, NotFiniteError, StructureError
from population.evaluation import Scores
from population.exchange import Arrival, Rootstock, Taken, exchange_rule
from population.filters import filter_rows
from population.history import TABLES
from population.layers import GraftUnit, convolution_units, entries, graft_units, load_entries
from population.optimization import MOMENTUM_SLOTS, load_optimizer, make_optimizer, optimizer_tensors
from population.random_state import RandomState
from population.schedule import Schedule, base_learning_rate
from population.seeds import generator, leaf
from population.snapshot import Freezer, Origin, Snapshot, layout_of
from population.staleness import Age, age_limit
from population.task import Task

GRAFTED, KEPT, OFF = "grafted", "kept", "off"
"""Outcomes of an interval's exchange beside the refusals: something was taken in, the rule left the network as it was,
there is no exchange."""


class Host(Protocol):
    """Whoever runs a trainer."""

    def now(self) -> float:
        """Seconds of the host's clock; virtual in the simulator."""
        ...

    def stepped(self) -> bool:
        """Called after every step: whether to go on. False ends the life with a checkpoint within the interval."""
        ...

    def continues(self) -> bool:
        """Called after every interval's graft: whether to begin another. False ends the life with a checkpoint."""
        ...

    def prepare(self, own: Origin) -> None:
        """The interval's steps are done: a scion may be asked for, so that it is there when it is pulled."""
        ...

    def pull(self, own: Origin) -> tuple[Snapshot, ...] | Refusal:
        """The newest admissible scions, nearest donor first, at most exchange.num_donors; or why there is none."""
        ...

    def commit(self, report: Report, checkpoint: Checkpoint | None) -> None:
        """The interval is over. The checkpoint's tensors are copies, the host's to keep; None where none is due."""
        ...


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a network tells of an interval: before the exchange when it is published, after it when it is committed."""

    origin: Origin
    num_intervals: int
    epoch: float
    learning_rate: float
    train_loss: float
    train_accuracy: float
    validation_loss: float | None
    validation_accuracy: float | None
    images: int
    """Trained on in this interval."""
    images_per_second: float
    seconds: Mapping[str, float]
    """By phase: steps, evaluate, freeze, publish, pull, graft."""
    grafts: int
    """Taken so far."""
    outcome: str = ""
    """grafted, off, or a refusal's name; empty before the exchange."""
    scion: int | None = None
    """The network that was last grafted from."""
    age: Age | None = None
    """Of the last scion, when it was grafted."""

    def row(self, *, time: float) -> dict[str, Any]:
        """A row of the metrics table."""
        origin = self.origin
        return {
            "network": origin.network,
            "interval": origin.interval,
            "incarnation": origin.incarnation,
            "step": origin.step,
            **{f"seconds_{phase}": spent for phase, spent in self.seconds.items()},
            **{name: getattr(self, name) for name in _PLAIN_COLUMNS},
            "time": time,
        }


_PLAIN_COLUMNS = (
    "epoch",
    "learning_rate",
    "train_loss",
    "train_accuracy",
    "validation_loss",
    "validation_accuracy",
    "images",
    "images_per_second",
    "outcome",
    "grafts",
)


@dataclass
class _Progress:
    """Counters of a life, saved with it."""

    interval: int = 0
    step: int = 0
    trained_intervals: float = 0.0
    trained_steps: float = 0.0
    grafts: int = 0
    best_score: float | None = None
    best_interval: int = 0
    score: float | None = None
    learning_rate: float | None = None
    """Initial, where a rule has changed it."""
    loss_sum: float = 0.0
    correct: int = 0
    images: int = 0
    seconds_steps: float = 0.0


class Trainer:
    """Trains one network."""

    def __init__(self, task: Task, config: RunConfig, *, network: int, incarnation: int = 1) -> None:
        """A network with fresh weights at the beginning of the schedule.

        Args:
            task: Gives the network, its batches, its loss.
            config: The run's.
            network: The member's id: its branch of the seed tree, its learning rate.
            incarnation: Which process of this member it is.
        """
        self.config, self.task = config, task
        self.network_id, self.incarnation = network, incarnation
        owner = 0 if config.population.same_initial_weights else network
        self.module: nn.Module = task.build(leaf(config.seed, owner, "weights"))
        self.schedule = Schedule(config=config.schedule, steps_per_epoch=task.steps_per_epoch)
        self.learning_rate = base_learning_rate(config.optimizer, network=network, size=config.population.size)
        self._device = next(self.module.parameters()).device
        self._forward: nn.Module = torch.compile(self.module) if config.device.compile else self.module  # type: ignore[assignment]  # torch.compile declares no module
        self._optimizer = make_optimizer(self.module, config, self.learning_rate)
        self._names = {id(parameter): name for name, parameter in self.module.named_parameters()}
        slots = MOMENTUM_SLOTS[config.optimizer.name]
        self._slots = () if config.optimizer.name == "sgd" and config.optimizer.momentum == 0 else slots
        self._rule = exchange_rule(config, lambda: find_channels(self.module, task.image_shape))
        self.units = self._units()
        self._convolutions = convolution_units(self.module)
        self.layout = layout_of(self._frozen_entries())
        self._freezer = Freezer(self.layout, self._device)
        self._freezer.move_in(self.module)
        self._average = WeightAverage(self.module, config.averaging) if config.averaging.kind != "none" else None
        self._vouched_for = self._rule.vouched_for(self.units) if self._rule else frozenset()
        self._order_seed = leaf(config.seed, network, "order")
        self._augment_seed = leaf(config.seed, network, "augmentation")
        self._random = RandomState(leaf(config.seed, network, "training"), self._device)
        self._progress = _Progress()
        self._rows: dict[str, list[dict[str, Any]]] = {table: [] for table in TABLES}
        self._best: dict[str, Tensor] | None = None
        self._last_scion: int | None = None
        self._last_age: Age | None = None
        self._scaler = torch.amp.GradScaler(
            self._device.type, enabled=config.device.precision == "float16" and self._device.type == "cuda"
        )

    @property
    def interval(self) -> int:
        """Intervals of the schedule completed."""
        return self._progress.interval

    @property
    def step(self) -> int:
        """Steps of the schedule completed."""
        return self._progress.step

    @property
    def is_finished(self) -> bool:
        """Whether the schedule is over."""
        return self._progress.interval >= self.schedule.num_intervals

    def origin(self, now: float = 0.0) -> Origin:
        """Whose weights these are and how far they were trained, as they stand."""
        progress = self._progress
        return Origin(
            network=self.network_id,
            incarnation=self.incarnation,
            interval=progress.interval,
            step=progress.step,
            trained_intervals=progress.trained_intervals,
            trained_steps=progress.trained_steps,
            made_seconds=now,
            structure=self.layout.fingerprint,
            score=progress.score,
            learning_rate=progress.learning_rate or self.learning_rate,
        )

    def intervals(self, host: Host) -> Iterator[tuple[Report, Snapshot | None]]:
        """Train to the end of the schedule.

        Each interval yields what to publish; the snapshot's buffer is the trainer's own and holds until the host comes
        back; it is None where nobody takes it. When the host comes back, the trainer pulls, grafts and commits.

        Raises:
            NotFiniteError: the network diverged; names network, interval and layer.
        """
        progress = self._progress
        while not self.is_finished:
            with self._random:
                is_whole = self._train(host)
            if not is_whole:
                host.commit(self._report({"steps": progress.seconds_steps}, None), self._checkpoint(within=True))
                return
            clock = _Stopwatch(host)
            as_before = dataclasses.replace(progress), self._random.tensors()
            self._complete_interval()
            host.prepare(self.origin(host.now()))
            with self._random:
                scores = self._evaluate() if self._is_evaluated() else None
            progress.score = scores.accuracy if scores else progress.score
            seconds = {"steps": progress.seconds_steps, "evaluate": clock.lap()}
            origin = self.origin(host.now())
            snapshot = self.snapshot(origin.made_seconds) if self.publishes else None
            seconds["freeze"] = clock.lap()
            report = self._report(seconds, scores)
            yield report, snapshot
            seconds["publish"] = clock.lap()
            found = host.pull(origin) if snapshot is not None else ()
            seconds["pull"] = clock.lap()
            if found is Refusal.STOPPING:
                # The interval stays open: a network that goes on evaluates, publishes and exchanges first.
                self._progress, random = as_before
                self._random.load(random)
                host.commit(report, self._checkpoint(within=True))
                return
            if scores is not None:
                self._note_best()
            if self._is_evaluated():
                self._note_filters(origin)
            outcome = self._exchange(found, origin, snapshot, host.now())
            found = ()
            seconds["graft"] = clock.lap()
            report = dataclasses.replace(
                report,
                seconds=dict(seconds),
                outcome=outcome,
                grafts=progress.grafts,
                scion=self._last_scion,
                age=self._last_age,
            )
            self._rows["metrics"].append(report.row(time=host.now()))
            self._reset_interval()
            goes_on = host.continues()
            host.commit(report, self._checkpoint() if self._is_due() or not goes_on else None)
            if not goes_on:
                return

    def start_at(self, interval: int) -> None:
        """Take a position in the schedule with the weights as they are: a fresh newcomer."""
        self._progress.interval = interval
        self._progress.step = self.schedule.end(interval)

    def adopt(self, snapshot: Snapshot) -> None:
        """Take over a living network's weights and its position in the schedule: a cloned newcomer."""
        with torch.no_grad():
            own, state = self._frozen_entries(), snapshot.state()
            for name, tensor in own.items():
                tensor.copy_(state[name])
        self.start_at(snapshot.origin.interval)
        self._progress.trained_intervals = snapshot.origin.trained_intervals
        self._progress.trained_steps = snapshot.origin.trained_steps

    def resume(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint of this network.

        Raises:
            CheckpointError: it is of another structure.
        """
        try:
            load_entries(self.module, checkpoint.model)
        except StructureError as error:
            raise CheckpointError(
                f"the checkpoint of network {checkpoint.network} is of another structure: {error}"
            ) from None
        load_optimizer(self._optimizer, self._names, checkpoint.tensors)
        self._random.load(checkpoint.tensors)
        if self._average is not None:
            self._average.load(checkpoint.tensors)
        known = {field.name for field in dataclasses.fields(_Progress)}
        saved = {name: value for name, value in checkpoint.training.items() if name in known}
        self._progress = _Progress(**saved)
        if checkpoint.training.get("scaler"):
            self._scaler.load_state_dict(dict(checkpoint.training["scaler"]))

    def _train(self, host: Host) -> bool:
        """Steps to the end of the interval; False where the host ended them early."""
        progress, schedule = self._progress, self.schedule
        end = schedule.end(progress.interval + 1)
        began = host.now()
        loss_sum = torch.zeros((), device=self._device, dtype=torch.float64)
        correct = torch.zeros((), device=self._device, dtype=torch.int64)
        goes_on = True
        self.module.train()
        while progress.step < end and goes_on:
            epoch, first = divmod(progress.step, schedule.steps_per_epoch)
            if first == 0:
                self._begin_epoch(epoch)
            batches = self.task.epoch(
                order_seed=self._order_seed, augment_seed=self._augment_seed, epoch=epoch, first=first
            )
            for batch in batches:
                loss, right = self._step(batch)
                loss_sum += loss * len(batch[1])
                correct += right
                progress.images += len(batch[1])
                progress.step += 1
                progress.trained_steps += 1
                goes_on = host.stepped()
                if progress.step >= end or not goes_on:
                    break
        progress.loss_sum += float(loss_sum)
        progress.correct += int(correct)
        progress.seconds_steps += host.now() - began
        return progress.step >= end

    def _begin_epoch(self, epoch: int) -> None:
        random = generator(self.config.seed, self.network_id, "training", counter=epoch)
        key = {"network": self.network_id, "interval": self._progress.interval + 1, "incarnation": self.incarnation}
        for record in self.task.begin_epoch(self.module, epoch=epoch, random=random):
            self._rows["fusion"].append(key | {"epoch": epoch} | dataclasses.asdict(record))

    def _step(self, batch: Any) -> tuple[Tensor, Tensor]:
        rate = (self._progress.learning_rate or self.learning_rate) * self.schedule.factor(self._progress.step)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.zero_grad(set_to_none=True)
        loss, correct = self.task.loss(self._forward, batch)
        self._scaler.scale(loss).backward()
        self._scaler.step(self._optimizer)
        self._scaler.update()
        if self._average is not None:
            done, schedule = self._progress.step + 1, self.schedule
            ends_epoch = done % schedule.steps_per_epoch == 0
            self._average.stepped(self.module, progress=done / schedule.num_steps, ends_epoch=ends_epoch)
        return loss.detach(), correct

    @property
    def _judged(self) -> nn.Module:
        """The network that is judged and saved as the best: the mean of its weights where one is kept."""
        return self.module if self._average is None else self._average.module

    def _evaluate(self) -> Scores | None:
        if self._average is None:
            return self.task.validate(self._forward)
        self._average.settle(self.task.statistics_images())
        return self.task.validate(self._average.module)

    def _complete_interval(self) -> None:
        progress = self._progress
        begun = self.schedule.end(progress.interval)
        progress.interval += 1
        progress.trained_intervals += (self.schedule.end(progress.interval) - begun) / self.schedule.interval_steps

    def snapshot(self, now: float) -> Snapshot:
        """Own information and the weights as they stand; the buffer is the trainer's own and holds until it goes on.

        Raises:
            NotFiniteError: the network diverged.
        """
        state = self._frozen_entries()
        try:
            information = self._rule.measure(state, self.units, self._draws(self.network_id)) if self._rule else ()
            _check_finite(state, but=self._vouched_for)
        except NotFiniteError as error:
            raise NotFiniteError(
                f"network {self.network_id} diverged in interval {self._progress.interval}: {error}; "
                "a lower optimizer.learning_rate or schedule.warmup_epochs may help"
            ) from None
        self._freezer.freeze(state)
        return Snapshot(
            origin=self.origin(now), information=information, buffer=self._freezer.buffer(), layout=self.layout
        )

    def _exchange(
        self, found: tuple[Snapshot, ...] | Refusal, own: Origin, snapshot: Snapshot | None, now: float
    ) -> str:
        """Let the rule take in what came, or say why not."""
        if self._rule is None:
            return OFF
        if isinstance(found, Refusal):
            return found.value
        looked_at = [self._admit(scion, own, now) for scion in found]
        arrivals = [arrival for arrival in looked_at if isinstance(arrival, Arrival)]
        if looked_at and not arrivals:
            return str(looked_at[0])
        progress, factor = self._progress, self.schedule.factor(max(0, own.step - 1))
        rootstock = Rootstock(
            origin=own,
            state=self._frozen_entries(),
            units=self.units,
            information=snapshot.information if snapshot else (),
            epoch=own.step / self.schedule.steps_per_epoch,
            rate_factor=factor,
            learning_rate=own.learning_rate,
            random=self._draws(self.network_id),
            common_random=self._draws(None),
        )
        with torch.no_grad():
            taken = self._rule.take_in(rootstock, arrivals)
        if rootstock.forgets_momentum:
            self._optimizer.state.clear()
        if rootstock.peers is not None:
            self.task.learn_from(rootstock.peers)
        if rootstock.learning_rate != own.learning_rate:
            progress.learning_rate = rootstock.learning_rate
        self._note_taken(taken, own)
        return GRAFTED if taken else KEPT

    def _admit(self, scion: Snapshot, own: Origin, now: float) -> Arrival | Refusal:
        """A snapshot that may be taken in, with its age; or why not."""
        if scion.origin.structure != self.layout.fingerprint or scion.buffer.nbytes != self.layout.nbytes:
            return Refusal.STRUCTURE
        age = age_of(own, scion.origin, now=now)
        if age.intervals > age_limit(self.config.age, num_intervals=self.schedule.num_intervals):
            return Refusal.TOO_OLD
        is_told_finite = all(math.isfinite(value) for value in scion.information)
        if not (is_told_finite and scion.is_finite(but=self._vouched_for)):
            return Refusal.NOT_FINITE
        return Arrival(snapshot=scion, age=age)

    def _note_taken(self, taken: tuple[Taken, ...], own: Origin) -> None:
        """Count, tell the history, and let these weights' training be their sources', each by its part."""
        if not taken:
            return
        progress, kept = self._progress, 1.0 - sum(one.part for one in taken)
        progress.trained_intervals = kept * own.trained_intervals
        progress.trained_steps = kept * own.trained_steps
        progress.grafts += 1
        for one in taken:
            source = one.arrival.snapshot.origin if one.arrival else own
            age = one.arrival.age if one.arrival else Age(intervals=0.0, steps=0.0, seconds=0.0)
            progress.trained_intervals += one.part * source.trained_intervals
            progress.trained_steps += one.part * source.trained_steps
            common = {
                "rootstock": own.network,
                "scion": source.network,
                "interval": own.interval,
                "incarnation": own.incarnation,
                "rootstock_version": own.interval,
                "scion_version": source.interval,
                "scion_incarnation": source.incarnation,
                **{f"age_{name}": value for name, value in dataclasses.asdict(age).items()},
            }
            self._rows["grafts"] += [{**common, **dataclasses.asdict(record)} for record in one.layers]
        first = taken[0].arrival
        self._last_scion = first.snapshot.origin.network if first else own.network
        self._last_age = first.age if first else None

    def _draws(self, network: int | None) -> np.random.Generator:
        """Random numbers of this interval's exchange: of one network, or None: common to all."""
        owner = 0 if network is None else network + 1
        return generator(self.config.seed, owner, "exchange", counter=self._progress.interval)

    def _note_filters(self, own: Origin) -> None:
        """How the filters of the convolutions stand, before the exchange."""
        key = {"network": own.network, "interval": own.interval, "incarnation": own.incarnation}
        self._rows["filters"] += [key | row for row in filter_rows(entries(self.module), self._convolutions)]

    def _note_best(self) -> None:
        """Keep copies of the weights as evaluated for the next commit, where they are the best by validation so far."""
        progress = self._progress
        if progress.score is not None and (progress.best_score is None or progress.score > progress.best_score):
            progress.best_score, progress.best_interval = progress.score, progress.interval
            self._best = _copies(entries(self._judged))

    @property
    def publishes(self) -> bool:
        """Whether others take what this network trains."""
        return self._rule is not None and self._rule.takes_scions

    def _is_evaluated(self) -> bool:
        interval = self._progress.interval
        return interval == self.schedule.num_intervals or interval % self.config.schedule.evaluate_every == 0

    def _is_due(self) -> bool:
        is_last = self._progress.interval == self.schedule.num_intervals
        return is_last or self._progress.interval % self.config.checkpoint.every == 0

    def _checkpoint(self, *, within: bool = False) -> Checkpoint:
        """All there is to save, as copies; the rows and the best weights are handed over."""
        rows, self._rows = self._rows, {table: [] for table in TABLES}
        best, self._best = self._best, None
        progress = self._progress
        identity = CheckpointId(
            incarnation=self.incarnation, interval=progress.interval, step=progress.step if within else 0
        )
        return Checkpoint(
            network=self.network_id,
            id=identity,
            model=_copies(entries(self.module)),
            tensors={
                **optimizer_tensors(self._optimizer, self._names),
                **self._random.tensors(),
                **(self._average.tensors() if self._average else {}),
            },
            training=dataclasses.asdict(progress) | {"scaler": self._scaler.state_dict()},
            best=best,
            rows=rows,
        )

    def _reset_interval(self) -> None:
        progress = self._progress
        progress.loss_sum, progress.correct, progress.images, progress.seconds_steps = 0.0, 0, 0, 0.0

    def _report(self, seconds: Mapping[str, float], scores: Any) -> Report:
        progress = self._progress
        images = max(1, progress.images)
        return Report(
            origin=self.origin(),
            num_intervals=self.schedule.num_intervals,
            epoch=progress.step / self.schedule.steps_per_epoch,
            learning_rate=(progress.learning_rate or self.learning_rate)
            * self.schedule.factor(max(0, progress.step - 1)),
            train_loss=progress.loss_sum / images,
            train_accuracy=progress.correct / images,
            validation_loss=scores.loss if scores else None,
            validation_accuracy=scores.accuracy if scores else None,
            images=progress.images,
            images_per_second=progress.images / max(progress.seconds_steps, 1e-9),
            seconds=seconds,
            grafts=progress.grafts,
            scion=self._last_scion,
            age=self._last_age,
        )

    def _units(self) -> tuple[GraftUnit, ...]:
        """What shares an alpha; with graft.momentum=blend a weight's running averages share the weight's."""
        units = graft_units(self.module, self.config.graft.units) if self.config.exchange.rule != "none" else ()
        if not self._blends_momentum:
            return units
        averages = [(f"{slot}.{name}", name) for slot, name, _ in self._momentum()]
        return tuple(
            dataclasses.replace(unit, keys=(*unit.keys, *(key for key, name in averages if name in unit.keys)))
            for unit in units
        )

    @property
    def _blends_momentum(self) -> bool:
        return self.config.exchange.rule == "graft" and self.config.graft.momentum == "blend"

    def _frozen_entries(self) -> dict[str, Tensor]:
        """What a snapshot holds: the state dict, and with graft.momentum=blend the optimizer's averages."""
        state = entries(self.module)
        if self._blends_momentum:
            state |= {f"{slot}.{name}": tensor for slot, name, tensor in self._momentum()}
        return state

    def _momentum(self) -> Iterator[tuple[str, str, Tensor]]:
        """Slot, parameter and running average of each; averages that no step has made yet are made, as zeros."""
        for group in self._optimizer.param_groups:
            for parameter in group["params"]:
                state = self._optimizer.state[parameter]
                for slot in self._slots:
                    if state.get(slot) is None:
                        state[slot] = torch.zeros_like(parameter)
                        if slot == "exp_avg":
                            state["step"] = torch.zeros(())
                    yield slot, self._names[id(parameter)], state[slot]


class _Stopwatch:
    """Laps on the host's clock."""

    def __init__(self, host: Host) -> None:
        self._host, self._last = host, host.now()

    def lap(self) -> float:
        before, self._last = self._last, self._host.now()
        return self._last - before


def _check_finite(state: Mapping[str, Tensor], *, but: Collection[str]) -> None:
    """Raises NotFiniteError at the first entry with NaN or infinity; the least and greatest value tell of all."""
    for name, tensor in state.items():
        if name not in but and tensor.is_floating_point() and tensor.numel():
            low, high = torch.aminmax(tensor)
            if not (math.isfinite(float(low)) and math.isfinite(float(high))):
                raise NotFiniteError(f"{name} has a value that is NaN or infinite")


def _copies(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in state.items()}
