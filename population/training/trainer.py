"""One network's life, written once: without Ray, processes or a clock of its own.

A `Trainer` trains interval after interval. Whoever runs it, an actor, the simulator or a test, is its `TrainerRuntime`. The order
within an interval is fixed: steps, evaluate, freeze (with own information), publish, pull, graft, commit; where nobody
waits, the last interval has no pull and no graft, since nobody would train what they bring.

Longer than 300 lines: `intervals` and its steps share one network's optimizer, average, exchange and random state.
Progress, schedule, shared state, divergence and the record of rows have files of their own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from inarch.population.config import RunConfig
from inarch.population.errors import CheckpointError, StructureError
from inarch.population.evaluation.filter_statistics import filter_rows
from inarch.population.evaluation.protocol import Scores
from inarch.population.exchange import Exchanger, Rootstock, exchange_rule, training_behind
from inarch.population.exchange.shared_state import SharedState
from inarch.population.grafting.channel_tracing import find_channels
from inarch.population.grafting.units import convolution_units
from inarch.population.membership.outcome import ExchangeOutcome
from inarch.population.membership.staleness import Staleness
from inarch.population.persistence.checkpoint import Checkpoint, CheckpointId
from inarch.population.persistence.interval_report import IntervalReport
from inarch.population.state.optimizer import count_steps, load_optimizer, make_optimizer, optimizer_tensors
from inarch.population.state.seeding import RandomState, derive_seed, generator
from inarch.population.state.snapshot import Snapshot, SnapshotInfo, StagingBuffer, layout_of
from inarch.population.state.state_dict import load_tensors, named_tensors
from inarch.population.tasks.protocol import Task
from inarch.population.training import divergence
from inarch.population.training.history_buffer import HistoryBuffer
from inarch.population.training.progress import Progress
from inarch.population.training.runtime import Stopwatch, TrainerRuntime
from inarch.population.training.schedule import Schedule, base_learning_rate
from inarch.population.training.weight_averaging import WeightAverage


class Trainer:
    """Trains one network."""

    def __init__(self, task: Task, config: RunConfig, *, network_id: int, incarnation: int = 1) -> None:
        """A network with fresh weights at the beginning of the schedule.

        Args:
            task: Gives the network, its batches, its loss.
            config: The run's.
            network_id: The member's id: its branch of the seed tree, its learning rate.
            incarnation: Which process of this member it is.
        """
        self.config, self.task = config, task
        self.network_id, self.incarnation = network_id, incarnation
        owner = 0 if config.population.same_initial_weights else network_id
        self.module: nn.Module = task.build(derive_seed(config.seed, owner, "weights"))
        self.schedule = Schedule(config=config.schedule, steps_per_epoch=task.steps_per_epoch)
        learning_rate = base_learning_rate(config.optimizer, network_id=network_id, size=config.population.size)
        self._progress = Progress(learning_rate=learning_rate)
        self._device = next(self.module.parameters()).device
        self._forward = cast(nn.Module, torch.compile(self.module)) if config.device.compile else self.module
        self._optimizer = make_optimizer(self.module, config, learning_rate)
        self._names = {id(parameter): name for name, parameter in self.module.named_parameters()}
        self._shared = SharedState(self.module, self._optimizer, self._names, config)
        self.units = self._shared.units()
        self._convolutions = convolution_units(self.module)
        self.layout = layout_of(self._shared.tensors())
        self._staging = StagingBuffer(self.layout, self._device)
        self._staging.alias_parameters(self.module)
        self._average = WeightAverage(self.module, config.weight_averaging)
        rule = exchange_rule(config, lambda: find_channels(self.module, task.image_shape))
        count = self.schedule.num_intervals
        self._exchanger = (
            None
            if rule is None
            else Exchanger(
                rule, config, self.units, self.layout, self.module, network_id=network_id, num_intervals=count
            )
        )
        self._order_seed = derive_seed(config.seed, network_id, "order")
        self._augment_seed = derive_seed(config.seed, network_id, "augmentation")
        self._random = RandomState(derive_seed(config.seed, network_id, "training"), self._device)
        self._history = HistoryBuffer(network_id, incarnation)
        self._best: dict[str, Tensor] | None = None
        self._last_scion: int | None = None
        self._last_staleness: Staleness | None = None
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=config.device.precision == "float16")

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

    def origin(self, now: float = 0.0) -> SnapshotInfo:
        """Whose weights these are and how far they were trained, as they stand."""
        return self._progress.origin(
            network_id=self.network_id,
            incarnation=self.incarnation,
            structure=self.layout.fingerprint,
            created_at=now,
        )

    def intervals(self, runtime: TrainerRuntime) -> Iterator[tuple[IntervalReport, Snapshot | None]]:
        """Train to the end of the schedule.

        Each interval yields what to publish; the snapshot's buffer is the trainer's own and holds until the runtime comes
        back; it is None where nobody takes it. When the runtime comes back, the trainer pulls, grafts and commits.

        Raises:
            NotFiniteError: the network diverged; names network, interval and layer.
        """
        progress = self._progress
        while not self.is_finished:
            with self._random, divergence.annotate_divergence(self.network_id, interval=progress.interval + 1):
                is_whole = self._train(runtime)
            if not is_whole:
                runtime.commit(self._report({"steps": progress.seconds_steps}, None), self._checkpoint(within=True))
                return
            clock = Stopwatch(runtime)
            as_before = dataclasses.replace(progress), self._random.tensors()
            progress.complete_interval(self.schedule)
            if not self._skips_last_exchange:
                runtime.prefetch(self.origin(runtime.now()))
            is_judged = self.schedule.is_evaluated(progress.interval)
            with self._random:
                scores = self._evaluate() if is_judged else None
            progress.record_scores(scores)
            seconds = {"steps": progress.seconds_steps, "evaluate": clock.lap()}
            origin = self.origin(runtime.now())
            snapshot = self.snapshot(origin.created_at) if self.publishes else None
            if snapshot is None:
                with divergence.annotate_divergence(self.network_id, interval=self.interval):
                    divergence.check_trained(self.module)
            seconds["stage"] = clock.lap()
            report = self._report(seconds, scores)
            yield report, snapshot
            seconds["publish"] = clock.lap()
            exchanges = snapshot is not None and not self._skips_last_exchange
            snapshots = runtime.fetch_scions(origin) if exchanges else ()
            seconds["fetch"] = clock.lap()
            if snapshots is ExchangeOutcome.STOPPING:
                # The interval stays open: a network that goes on evaluates, publishes and exchanges first.
                self._progress, random = as_before
                self._random.load(random)
                runtime.commit(report, self._checkpoint(within=True))
                return
            if is_judged:
                self._note_best()
                self._note_filters(origin, snapshot)
            outcome = ExchangeOutcome.UNCHANGED
            if not self._skips_last_exchange:
                outcome = self._exchange(snapshots, origin, snapshot, runtime.now())
            snapshots = ()
            seconds["graft"] = clock.lap()
            report = dataclasses.replace(
                report,
                seconds=dict(seconds),
                outcome=outcome,
                grafts=progress.grafts,
                scion=self._last_scion,
                staleness=self._last_staleness,
            )
            self._history.add_interval(report, time=runtime.now())
            progress.begin_interval()
            goes_on = runtime.should_continue()
            is_due = self.schedule.is_saved(progress.interval, every=self.config.checkpoint.every)
            runtime.commit(report, self._checkpoint() if is_due or not goes_on else None)
            if not goes_on:
                return

    def dry_run_exchange(self) -> None:
        """Exchange once with a twin, so that what cannot be exchanged is said before anything starts. It is not to be
        trained afterwards.

        Raises:
            ConfigError: the rule asks for something that the network lacks.
        """
        if self._exchanger is not None:
            snapshot = self.snapshot()
            twin = dataclasses.replace(snapshot.origin, network_id=self.network_id + 1)
            scion = dataclasses.replace(snapshot, origin=twin, buffer=snapshot.buffer.copy())
            self._exchange((scion,) if self.publishes else (), self.origin(), snapshot, now=0.0)

    def fast_forward(self, interval: int) -> None:
        """Take a position in the schedule with the weights as they are: a fresh newcomer."""
        self._progress.interval = interval
        self._progress.step = self.schedule.end(interval)

    def clone_from(self, snapshot: Snapshot) -> None:
        """Take over a living network's weights and its position in the schedule: a cloned newcomer."""
        with torch.no_grad():
            own, state = self._shared.tensors(), snapshot.state()
            for name, tensor in own.items():
                tensor.copy_(state[name])
        self.fast_forward(snapshot.origin.interval)
        self._progress.trained_intervals = snapshot.origin.trained_intervals
        self._progress.trained_steps = snapshot.origin.trained_steps
        count_steps(self._optimizer, snapshot.origin.trained_steps)

    def resume(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint of this network.

        Raises:
            CheckpointError: it is of another structure.
        """
        try:
            load_tensors(self.module, checkpoint.model)
        except StructureError as error:
            raise CheckpointError(
                f"the checkpoint of network {checkpoint.network_id} is of another structure: {error}"
            ) from None
        load_optimizer(self._optimizer, self._names, checkpoint.tensors)
        self._random.load(checkpoint.tensors)
        self._average.load(checkpoint.tensors)
        known = {field.name for field in dataclasses.fields(Progress)}
        saved = {name: value for name, value in checkpoint.training.items() if name in known and value is not None}
        self._progress = dataclasses.replace(self._progress, **saved)
        if self._exchanger is not None:
            within = checkpoint.id.step > 0
            self._exchanger.load(checkpoint.tensors, self.origin(), self._shared.tensors(), within=within)
        if checkpoint.training.get("scaler"):
            self._scaler.load_state_dict(dict(checkpoint.training["scaler"]))

    def _train(self, runtime: TrainerRuntime) -> bool:
        """Steps to the end of the interval; False where the runtime ended them early."""
        progress, schedule = self._progress, self.schedule
        end = schedule.end(progress.interval + 1)
        began = runtime.now()
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
                goes_on = runtime.after_step()
                if progress.step >= end or not goes_on:
                    break
        progress.loss_sum += float(loss_sum)
        progress.correct += int(correct)
        progress.seconds_steps += runtime.now() - began
        return progress.step >= end

    def _begin_epoch(self, epoch: int) -> None:
        random = generator(self.config.seed, self.network_id, "training", counter=epoch)
        fused = self.task.begin_epoch(self.module, epoch=epoch, random=random)
        self._history.add_fusion(self._progress.interval + 1, epoch, fused)

    def _step(self, batch: Any) -> tuple[Tensor, Tensor]:
        rate = self._progress.learning_rate * self.schedule.factor(self._progress.step)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.zero_grad(set_to_none=True)
        loss, correct = self.task.loss(self._forward, batch)
        self._scaler.scale(loss).backward()
        self._scaler.step(self._optimizer)
        self._scaler.update()
        done, schedule = self._progress.step + 1, self.schedule
        ends_epoch = done % schedule.steps_per_epoch == 0
        self._average.after_step(self.module, progress=done / schedule.num_steps, ends_epoch=ends_epoch)
        return loss.detach(), correct

    def _evaluate(self) -> Scores | None:
        mean = self._average.begun
        if mean is None:
            return self.task.validate(self._forward)
        self._average.recalibrate(self.task.batch_norm_images())
        return self.task.validate(mean)

    def snapshot(self, now: float = 0.0) -> Snapshot:
        """Own information and the weights as they stand; the buffer is the trainer's own and holds until it goes on.

        Raises:
            NotFiniteError: the network diverged.
        """
        state = self._shared.tensors()
        with divergence.annotate_divergence(self.network_id, interval=self.interval):
            information = self._exchanger.measure_information(state, self.interval) if self._exchanger else ()
        self._staging.stage(state)
        return Snapshot(
            origin=self.origin(now), information=information, buffer=self._staging.buffer(), layout=self.layout
        )

    def _exchange(
        self,
        snapshots: tuple[Snapshot, ...] | ExchangeOutcome,
        own: SnapshotInfo,
        snapshot: Snapshot | None,
        now: float,
    ) -> ExchangeOutcome:
        """Apply the exchange rule and what it asks of the trainer.

        Args:
            snapshots: What was fetched, or why nothing was.
            own: Progress of the network.
            snapshot: Its own snapshot of this interval.
            now: Seconds of the runtime's clock.
        """
        if self._exchanger is None:
            return ExchangeOutcome.OFF
        result = self._exchanger.exchange(
            snapshots,
            own,
            self._shared.tensors(),
            snapshot.information if snapshot else (),
            epoch=own.step / self.schedule.steps_per_epoch,
            rate_factor=self.schedule.factor(max(0, own.step - 1)),
            now=now,
        )
        if result.rootstock is not None:
            self._apply_requests(result.rootstock)
        if result.contributions:
            progress, scion = self._progress, result.contributions[0].scion
            progress.trained_intervals, progress.trained_steps = training_behind(own, result.contributions)
            progress.grafts += 1
            self._history.add_grafts(own, result.contributions)
            self._last_scion = scion.snapshot.origin.network_id if scion else own.network_id
            self._last_staleness = scion.staleness if scion else None
        return result.outcome

    def _apply_requests(self, rootstock: Rootstock) -> None:
        """Do what the rule asked for beside changing the weights."""
        if rootstock.reset_momentum:
            self._optimizer.state.clear()
        if rootstock.recalibrate_batch_norm and self.is_finished:  # no later step would train the statistics
            with self._random:
                update_bn(self.task.batch_norm_images(), self.module)
        if rootstock.peers is not None:
            self.task.set_peers(rootstock.peers)
        self._progress.score = rootstock.score
        self._progress.learning_rate = rootstock.learning_rate

    def _note_filters(self, own: SnapshotInfo, snapshot: Snapshot | None) -> None:
        """How the filters of the convolutions stand, before the exchange; entropies that were told are not counted
        again."""
        told = self._exchanger.entropies(snapshot.information) if self._exchanger and snapshot else {}
        self._history.add_filters(own.interval, filter_rows(named_tensors(self.module), self._convolutions, told))

    def _note_best(self) -> None:
        """Keep copies of the weights as evaluated for the next commit, where they are the best by validation so far;
        of equals those that trained longer."""
        if self._progress.update_best():
            self._best = _copies(named_tensors(self._average.begun or self.module))

    @property
    def _skips_last_exchange(self) -> bool:
        """Whether this interval's exchange is left out: after the last nobody would train what it brings. The papers'
        protocol has it all the same."""
        return self._exchanger is not None and self.is_finished and self.config.mode == "async"

    @property
    def publishes(self) -> bool:
        """Whether others take what this network trains."""
        return self._exchanger is not None and self._exchanger.takes_scions

    def _checkpoint(self, *, within: bool = False) -> Checkpoint:
        """All there is to save, as copies; the rows and the best weights are handed over."""
        best, self._best = self._best, None
        progress = self._progress
        identity = CheckpointId(
            incarnation=self.incarnation, interval=progress.interval, step=progress.step if within else 0
        )
        return Checkpoint(
            network_id=self.network_id,
            id=identity,
            model=_copies(named_tensors(self.module)),
            tensors={
                **optimizer_tensors(self._optimizer, self._names),
                **self._random.tensors(),
                **self._average.tensors(),
                **(_copies(self._exchanger.tensors(within=within)) if self._exchanger else {}),
            },
            training=dataclasses.asdict(progress) | {"scaler": self._scaler.state_dict()},
            best=best,
            rows=self._history.drain(),
        )

    def _report(self, seconds: Mapping[str, float], scores: Scores | None) -> IntervalReport:
        return self._progress.report(
            self.origin(),
            self.schedule,
            seconds=seconds,
            scores=scores,
            scion=self._last_scion,
            staleness=self._last_staleness,
        )


def _copies(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in state.items()}
