"""Train one network, without Ray, processes or a clock.

A `Trainer` trains interval after interval. Its `TrainerRuntime` supplies the clock, the exchange of snapshots, and
checkpointing. The network actor, the simulator and the tests each implement it. The order within an interval is fixed:

1. The trainer trains the interval's steps.
2. The runtime begins to fetch scions (`prefetch`).
3. The trainer measures the network's information and stages its weights. If the rule takes no scions, it only checks
   that the weights are finite.
4. The runtime begins to put the staged weights into the object store (`put_early`), and the trainer evaluates the
   network, if an evaluation is due. If the evaluation measures batch norm again, it comes before 3.
5. The trainer yields a report and the snapshot, and the runtime publishes them.
6. The runtime returns the scions (`fetch_scions`).
7. After an evaluation, the trainer keeps the weights if they are the best so far, and records its filters' statistics.
8. The trainer applies the exchange rule, which may graft the scions.
9. The runtime commits the report, with a checkpoint if one is due or if the training ends.

In async mode, the last interval has no prefetch, fetch or graft, because no later step would train the grafted weights.
If the runtime ends an interval in step 1, or returns STOPPING in step 6, the trainer commits a checkpoint within the
interval. A network that resumes from it completes that interval first.

Longer than 300 lines: `intervals` and its steps share one network's optimizer, average, exchange and random state.
Progress, schedule, shared state, divergence and the history buffer have files of their own.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, cast

import torch
from torch import Tensor, nn

from inarch.population.config import RunConfig
from inarch.population.config.per_network import LEARNING_RATE, with_numbers
from inarch.population.errors import CheckpointError, NotFiniteError, StructureError
from inarch.population.evaluation.filter_statistics import FilterNorms, computed_weights, measure_filters
from inarch.population.evaluation.metrics import Scores
from inarch.population.exchange import ExchangeResult, Rootstock, exchange_rule
from inarch.population.exchange.participant import Participant
from inarch.population.exchange.shared_state import SharedState
from inarch.population.grafting.units import GraftUnit, convolution_units
from inarch.population.membership.outcome import ExchangeOutcome
from inarch.population.persistence.checkpoint import Checkpoint, CheckpointId
from inarch.population.persistence.history_schemas import Rows
from inarch.population.persistence.interval_report import IntervalReport
from inarch.population.state.host_copies import HostCopies
from inarch.population.state.hyperparameters import Hyperparameters, hyperparameters, network_config
from inarch.population.state.optimizer import (
    count_steps,
    load_optimizer,
    make_optimizer,
    moment_slots,
    optimizer_tensors,
    set_numbers,
)
from inarch.population.state.packing import SnapshotPacking
from inarch.population.state.precision import measure_batch_norm
from inarch.population.state.seeding import RandomState, derive_seed, generator
from inarch.population.state.snapshot import Layout, Snapshot
from inarch.population.state.snapshot_info import SnapshotInfo
from inarch.population.state.state_dict import load_tensors, named_tensors
from inarch.population.tasks.protocol import BoundTask, task_channels
from inarch.population.training import divergence
from inarch.population.training.birth import Birth, StartPoint, environment
from inarch.population.training.history_buffer import HistoryBuffer
from inarch.population.training.progress import Progress
from inarch.population.training.runtime import Stopwatch, TrainerRuntime
from inarch.population.training.schedule import Schedule
from inarch.population.training.weight_averaging import WeightAverage


class Trainer:
    """Trains one network of a population, and exchanges with the others through its runtime."""

    def __init__(self, task: BoundTask, config: RunConfig, *, network_id: int, incarnation: int = 1) -> None:
        """Build the network with its initial weights, at the beginning of the schedule.

        Args:
            task: Builds the network and supplies its batches, loss and validation. It is configured for this network,
                and must not be another network's.
            config: Configuration of the run.
            network_id: Id of the network. It decides the network's random numbers and its hyperparameters.
            incarnation: Number of its process, from 1.

        Raises:
            ConfigError: The network does not fit the configuration.
            UserCodeError: The caller's model raised.
        """
        self.config, self.task = config, task
        self.network_id, self.incarnation = network_id, incarnation
        owner = 0 if config.population.same_initial_weights else network_id
        own = network_config(config, network_id)
        task.configure(own)
        self.module: nn.Module = task.build(derive_seed(config.seed, owner, "weights"))
        self.schedule = Schedule(config=config.schedule, steps_per_epoch=task.steps_per_epoch)
        self.progress = Progress(hyperparameters=hyperparameters(config, network_id))
        self._device = next(self.module.parameters()).device
        # With dynamic shapes, the smaller last batch of an epoch would replace the graph of the full batches.
        self._forward = self.module
        if config.device.compile:
            mode = config.device.compile_mode
            self._forward = cast(nn.Module, torch.compile(self.module, dynamic=False, mode=mode))
        self._passes: set[object] = set()
        self.optimizer = make_optimizer(self.module, own)
        self._names = {id(parameter): name for name, parameter in self.module.named_parameters()}
        slots = moment_slots(own.optimizer)
        self._participant = Participant(SharedState(self.module, self.optimizer, config, slots=slots), config)
        self._participant.alias_parameters()
        self._convolutions = convolution_units(self.module)
        self.average = WeightAverage(self.module, config.weight_averaging)
        rule = exchange_rule(config, lambda: task_channels(task, self.module))
        self._participant.begin(rule, network_id=network_id, num_intervals=self.schedule.num_intervals)
        self._order_seed = derive_seed(config.seed, network_id, "order")
        self._augment_seed = derive_seed(config.seed, network_id, "augmentation")
        self._random = RandomState(derive_seed(config.seed, network_id, "training"), self._device)
        self._history = HistoryBuffer(network_id, incarnation)
        self._validation_names = [metric.name for metric in task.metrics if metric.in_training]
        self._best: dict[str, Tensor] | None = None
        self._saved_at = 0.0
        self._nonfinite_steps = 0
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=config.device.precision == "float16")

    @property
    def units(self) -> tuple[GraftUnit, ...]:
        """Groups of tensors that share an alpha."""
        return self._participant.units

    @property
    def layout(self) -> Layout:
        """Layout of the network's snapshots."""
        return self._participant.layout

    @property
    def packing(self) -> SnapshotPacking:
        """How the network's snapshots are packed for others, and those of others widened."""
        return self._participant.packing

    @property
    def interval(self) -> int:
        """Intervals of the schedule completed."""
        return self.progress.interval

    @property
    def step(self) -> int:
        """Steps of the schedule completed."""
        return self.progress.step

    @property
    def is_finished(self) -> bool:
        """Whether the schedule is over."""
        return self.progress.interval >= self.schedule.num_intervals

    def origin(self, now: float = 0.0) -> SnapshotInfo:
        """Return identity and training progress of the weights in their present state.

        Args:
            now: Seconds of the runtime's clock.
        """
        return self.progress.origin(
            network_id=self.network_id,
            incarnation=self.incarnation,
            layout=self.layout,
            created_at=now,
        )

    def intervals(self, runtime: TrainerRuntime) -> Iterator[tuple[IntervalReport, Snapshot | None]]:
        """Train to the end of the schedule, or until the runtime ends the training.

        The module's docstring states the order within an interval.

        Args:
            runtime: Services from the environment.

        Yields:
            The report of an interval before its exchange, and the snapshot to publish. The snapshot's buffer belongs to
            the trainer and is valid until the iteration continues. The snapshot is None if the rule takes no scions.

        Raises:
            NotFiniteError: The network diverged. The message names network, interval and layer.
        """
        progress = self.progress
        self._saved_at = runtime.now()
        commit_seconds = 0.0
        while not self.is_finished:
            with self._random, divergence.annotate_divergence(self.network_id, interval=progress.interval + 1):
                is_whole = self._train(runtime)
            if not is_whole:
                runtime.commit(self._report({"steps": progress.seconds_steps}, None), self.checkpoint(within=True))
                return
            clock = Stopwatch(runtime)
            before_end = dataclasses.replace(progress), self._random.tensors()
            progress.complete_interval(self.schedule.share(progress.interval + 1))
            if not self._skips_last_exchange:
                runtime.prefetch(self.origin(runtime.now()))
            is_evaluated = self.schedule.is_evaluated(progress.interval)
            seconds = {"steps": progress.seconds_steps, "evaluate": 0.0, "stage": clock.lap()}
            early = None
            if self.publishes and is_evaluated and not self.config.schedule.batch_norm_batches:
                early = self.snapshot(runtime.now())
                runtime.put_early(early)
            seconds["stage"] += clock.lap()
            with self._random:
                scores = self._evaluate(runtime) if is_evaluated else None
            progress.record_scores(scores)
            seconds["evaluate"] = clock.lap()
            snapshot = self._staged(runtime) if early is None else self._with_score(early)
            origin = self.origin(runtime.now()) if snapshot is None else snapshot.origin
            seconds["stage"] += clock.lap()
            report = self._report(seconds, scores)
            yield report, snapshot
            seconds["publish"] = clock.lap()
            exchanges = snapshot is not None and not self._skips_last_exchange
            snapshots = runtime.fetch_scions(origin) if exchanges else ()
            seconds["fetch"] = clock.lap()
            if snapshots is ExchangeOutcome.STOPPING:
                # The interval stays incomplete. On resume the network evaluates, publishes and exchanges first.
                self.progress, random = before_end
                self._random.load(random)
                runtime.commit(report, self.checkpoint(within=True))
                return
            filters = None
            if is_evaluated:
                self._note_best(runtime, snapshot)
                filters = self._measure_filters(snapshot)
            outcome = ExchangeOutcome.UNCHANGED
            if not self._skips_last_exchange:
                outcome = self.exchange(snapshots, origin, snapshot, runtime.now())
            elif snapshot is not None:
                unchanged = ExchangeResult(outcome=outcome)
                self._history.add_exchange(origin, unchanged, weights=snapshot.hashes(), time=runtime.now())
            snapshots = ()
            # On a GPU both wait for the graft, which would otherwise count as a part of the next steps.
            if filters is not None:
                self._history.add_filters(origin.interval, filters.rows())
            elif self._device.type == "cuda":
                torch.cuda.current_stream(self._device).synchronize()
            seconds["graft"] = clock.lap()
            seconds["commit"] = commit_seconds
            report = dataclasses.replace(
                report,
                seconds=dict(seconds),
                outcome=outcome,
                grafts=progress.grafts,
                scion=self._participant.last_scion,
                staleness=self._participant.last_staleness,
            )
            self._history.add_interval(report, time=runtime.now())
            runtime.record_early(self._history.early(), progress.interval)
            progress.begin_interval()
            continues = runtime.should_continue()
            is_due = self._is_checkpoint_due(runtime.now()) or not continues
            runtime.commit(report, self.checkpoint() if is_due else None)
            if is_due:
                self._saved_at = runtime.now()
            if not continues:
                return
            commit_seconds = clock.lap()

    def _staged(self, runtime: TrainerRuntime) -> Snapshot | None:
        """Return the network's snapshot. If it publishes none, only check that the network did not diverge."""
        if self.publishes:
            return self.snapshot(runtime.now())
        with divergence.annotate_divergence(self.network_id, interval=self.interval):
            divergence.check_trained(self.module)
        return None

    def _with_score(self, snapshot: Snapshot) -> Snapshot:
        """Return a snapshot that was staged before the evaluation, with the score of the evaluation."""
        return dataclasses.replace(snapshot, origin=self.origin(snapshot.origin.created_at))

    def _is_checkpoint_due(self, now: float) -> bool:
        """Return whether an interval that has just ended has a checkpoint. The last one always has."""
        settings, interval = self.config.checkpoint, self.progress.interval
        if self.is_finished:
            return True
        return self.schedule.is_saved(interval, every=settings.every) and now - self._saved_at >= settings.every_seconds

    def dry_run_exchange(self) -> None:
        """Run one exchange with a copy of this network, to detect unsuitable models before training starts.

        Discard this trainer afterwards.

        Raises:
            ConfigError: The exchange rule needs something that the network lacks.
        """
        if self._participant.exchanges:
            snapshot = self.snapshot()
            twin = dataclasses.replace(snapshot.origin, network_id=self.network_id + 1)
            scion = dataclasses.replace(snapshot, origin=twin, buffer=snapshot.buffer.copy())
            self.exchange((scion,) if self.publishes else (), self.origin(), snapshot, now=0.0)

    def prepare(self, snapshot: Snapshot) -> Snapshot:
        """Copy a fetched snapshot to the network's GPU, as `Participant.prepare`. The fetching thread calls it."""
        return self._participant.prepare(snapshot)

    def record_birth(self, start: StartPoint, *, now: float) -> Rows:
        """Record how this process of the network began.

        Args:
            start: What the network starts with.
            now: Seconds of the runtime's clock.

        Returns:
            The row, to be written at once (`TrainerRuntime.record_early`).
        """
        self._history.add_birth(Birth(start=start, environment=environment(self.config, self._device), time=now))
        return self._history.early()

    def fast_forward(self, interval: int) -> None:
        """Set the position in the schedule and keep the weights, for a network that joins with initial weights.

        Args:
            interval: Intervals completed.
        """
        self.progress.interval = interval
        self.progress.step = self.schedule.end(interval)

    def clone_from(self, snapshot: Snapshot) -> None:
        """Copy the weights and the position in the schedule from another network, for a network that joins as a clone.

        The optimizer's count of steps follows too. With exchange.rule pbt, so do the hyperparameters. Otherwise the
        network keeps its own, so that the population stays as diverse as it was configured.

        Args:
            snapshot: Snapshot of the parent, of the same layout. It is only read.
        """
        self._participant.clone_weights(snapshot)
        self.fast_forward(snapshot.origin.interval)
        self.progress.trained_intervals = snapshot.origin.trained_intervals
        self.progress.trained_steps = snapshot.origin.trained_steps
        count_steps(self.optimizer, snapshot.origin.trained_steps)
        if self.config.exchange.rule == "pbt":  # the parent's numbers are the result of a search
            own, parent = self.progress.hyperparameters, snapshot.origin.hyperparameters
            self._set_hyperparameters({name: parent.get(name, value) for name, value in own.items()})

    def resume(self, checkpoint: Checkpoint) -> None:
        """Restore the network, its optimizer, its random state and its progress from a checkpoint.

        Args:
            checkpoint: Checkpoint of this network.

        Raises:
            CheckpointError: The checkpoint has another structure.
        """
        checkpoint.wait()
        try:
            load_tensors(self.module, checkpoint.model)
        except StructureError as error:
            raise CheckpointError(
                f"the checkpoint of network {checkpoint.network_id} has another structure: {error}"
            ) from None
        load_optimizer(self.optimizer, self._names, checkpoint.tensors)
        self._random.load(checkpoint.tensors)
        names = {field.name for field in dataclasses.fields(Progress)}
        saved = {name: value for name, value in checkpoint.training.items() if name in names and value is not None}
        if "hyperparameters" not in saved and "learning_rate" in checkpoint.training:  # of an earlier version
            saved["hyperparameters"] = {LEARNING_RATE: checkpoint.training["learning_rate"]}
        own = self.progress.hyperparameters
        self.progress = dataclasses.replace(self.progress, **saved)
        self._set_hyperparameters({**own, **self.progress.hyperparameters})
        self.average.load(checkpoint.tensors, progress=self.progress.step / self.schedule.num_steps)
        self._participant.load(checkpoint.tensors, self.origin(), within=checkpoint.id.step > 0)
        if checkpoint.training.get("scaler"):
            self._scaler.load_state_dict(dict(checkpoint.training["scaler"]))

    def _train(self, runtime: TrainerRuntime) -> bool:
        """Train to the end of the interval. Return False if the runtime ended it early."""
        progress, schedule = self.progress, self.schedule
        end = schedule.end(progress.interval + 1)
        start = runtime.now()
        loss_sum = torch.zeros((), device=self._device, dtype=torch.float64)
        metric_sums: dict[str, Tensor] = {}
        num_finite = torch.zeros((), device=self._device)
        continues, first_step = True, progress.step
        self.module.train()
        while progress.step < end and continues:
            epoch, first = divmod(progress.step, schedule.steps_per_epoch)
            if first == 0:
                self.begin_epoch(epoch)
            batches = self.task.epoch(
                order_seed=self._order_seed, augment_seed=self._augment_seed, epoch=epoch, first=first
            )
            for batch in batches:
                num_examples = self.task.num_examples(batch)
                with self._first_pass(num_examples, runtime):
                    loss, metrics = self._step(batch)
                loss_sum += loss * num_examples
                if self._scaler.is_enabled():
                    num_finite += loss.isfinite()
                for name, value in metrics.items():
                    weighted = value.detach().double() * num_examples
                    metric_sums[name] = metric_sums[name] + weighted if name in metric_sums else weighted
                progress.examples += num_examples
                progress.step += 1
                progress.trained_steps += 1
                continues = runtime.after_step()
                if progress.step >= end or not continues:
                    break
        if self._scaler.is_enabled() and progress.step > first_step:
            self._nonfinite_steps = 0 if int(num_finite) else self._nonfinite_steps + progress.step - first_step
            if self._nonfinite_steps >= min(divergence.MAX_NONFINITE_STEPS, self.schedule.steps_per_epoch):
                raise NotFiniteError(
                    f"the training loss was NaN or infinite in {self._nonfinite_steps} steps one after the other, and "
                    "float16 skips such steps"
                )
        totals = torch.stack([loss_sum, *(value.to(self._device) for value in metric_sums.values())]).tolist()
        progress.add_steps(totals[0], dict(zip(metric_sums, totals[1:], strict=True)), runtime.now() - start)
        return progress.step >= end

    def begin_epoch(self, epoch: int) -> None:
        """Let the task change the network for an epoch, and record the changes.

        Args:
            epoch: Number of the epoch, from 0.
        """
        is_once = self.config.fusion.mode == "random"  # a network that begins late chooses as at the first epoch
        is_shared = self.config.population.same_initial_weights and is_once
        owner = 0 if is_shared else self.network_id  # networks with equal beginnings keep the same filters
        random = generator(self.config.seed, owner, "training", counter=0 if is_once else epoch)
        fused = self.task.begin_epoch(self.module, epoch=epoch, random=random)
        self._history.add_fusion(self.progress.interval + 1, epoch, fused)

    def _step(self, batch: Any) -> tuple[Tensor, Mapping[str, Tensor]]:
        rate = self.progress.learning_rate * self.schedule.factor(self.progress.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        loss, metrics = self.task.loss(self._forward, batch)
        self._scaler.scale(loss).backward()
        self._scaler.step(self.optimizer)
        self._scaler.update()
        num_done, schedule = self.progress.step + 1, self.schedule
        ends_epoch = num_done % schedule.steps_per_epoch == 0
        self.average.after_step(self.module, progress=num_done / schedule.num_steps, ends_epoch=ends_epoch)
        return loss.detach(), metrics

    def _first_pass(self, size: object, runtime: TrainerRuntime) -> AbstractContextManager[object]:
        """Return the runtime's context for compilation if a compiled network has not run with batches of this size."""
        if self._forward is self.module or size in self._passes:
            return contextlib.nullcontext()
        self._passes.add(size)
        return runtime.compiling()

    def _evaluate(self, runtime: TrainerRuntime) -> Scores | None:
        mean = self.average.begun
        if mean is None:
            with self._first_pass("evaluation", runtime):
                return self.task.validate(self._forward)
        self.average.recalibrate(self.task.batch_norm_inputs())
        return self.task.validate(mean)

    def snapshot(self, now: float = 0.0) -> Snapshot:
        """Measure the network's information, stage its weights, and return both as a snapshot.

        Args:
            now: Seconds of the runtime's clock.

        Returns:
            A snapshot whose buffer belongs to the trainer. It is valid until the network trains on.

        Raises:
            NotFiniteError: The network diverged. The message names network, interval and layer.
        """
        with divergence.annotate_divergence(self.network_id, interval=self.interval):
            return self._participant.snapshot(self.origin(now))

    def exchange(
        self,
        snapshots: tuple[Snapshot, ...] | ExchangeOutcome,
        own: SnapshotInfo,
        snapshot: Snapshot | None,
        now: float,
    ) -> ExchangeOutcome:
        """Apply the exchange rule, then carry out its requests, and record the grafts.

        Args:
            snapshots: Fetched snapshots, or the reason why there are none.
            own: Progress of the network.
            snapshot: Its own snapshot of this interval. None if it publishes none.
            now: Seconds of the runtime's clock.
        """
        weights = snapshot.hashes() if snapshot is not None else b""  # the exchange may change the buffer
        result = self._participant.exchange(
            snapshots,
            own,
            snapshot.information if snapshot else (),
            epoch=own.step / self.schedule.steps_per_epoch,
            rate_factor=self.schedule.factor(max(0, own.step - 1)),
            now=now,
        )
        if snapshot is not None:
            self._history.add_exchange(own, result, weights=weights, time=now)
        if result.rootstock is not None:
            self._apply_requests(result.rootstock)
        if result.contributions:
            self.progress.add_grafts(own, result.contributions)
            self._history.add_grafts(own, result.contributions)
        return result.outcome

    def _apply_requests(self, rootstock: Rootstock) -> None:
        """Carry out the changes that the rule requests besides new weights."""
        if rootstock.reset_momentum:
            self.optimizer.state.clear()
        is_last = rootstock.origin.interval >= self.schedule.num_intervals
        if rootstock.recalibrate_batch_norm or (is_last and self.config.schedule.batch_norm_batches):
            with self._random:  # a checkpoint of these weights may be the last one
                measure_batch_norm(self.task.batch_norm_inputs(), self.module)
        if rootstock.peers is not None:
            self.task.set_peers(rootstock.peers)
        self.progress.score = rootstock.score
        if rootstock.hyperparameters != self.progress.hyperparameters:
            self._set_hyperparameters(rootstock.hyperparameters)

    def _set_hyperparameters(self, values: Hyperparameters) -> None:
        """Train with other numbers from now on."""
        self.progress.hyperparameters = dict(values)
        own = with_numbers(self.config, values)
        set_numbers(self.optimizer, own.optimizer)
        self.task.configure(own)

    def _measure_filters(self, snapshot: Snapshot | None) -> FilterNorms:
        """Measure the convolutions' filters. Entropies in the snapshot's information are not computed again."""
        entropies = self._participant.entropies(snapshot.information) if snapshot else {}
        computed = computed_weights(self.module)
        known = {name: entropy for name, entropy in entropies.items() if name not in computed}
        return measure_filters(named_tensors(self.module) | computed, self._convolutions, known)

    def _note_best(self, runtime: TrainerRuntime, snapshot: Snapshot | None) -> None:
        """Keep the evaluated weights for the next checkpoint if their validation score is the best so far.

        Of equal scores, the later is the best. The published snapshot holds these weights already, unless they are a
        running mean. They are copied only if the runtime no longer has the snapshot.
        """
        if not self.progress.update_best():
            return
        evaluated = named_tensors(self.average.begun or self.module)
        stored = runtime.stored(snapshot) if snapshot is not None and self.average.begun is None else None
        state = stored.state() if stored is not None else {}
        # On a GPU these copies arrive before those of the next checkpoint, for which its writer waits.
        copies = HostCopies(self._device).add({name: item for name, item in evaluated.items() if name not in state})
        self._best = {name: state[name] if name in state else copies[name] for name in evaluated}

    @property
    def _skips_last_exchange(self) -> bool:
        """Whether this interval has no exchange: in async mode, no step after the last would train grafted weights.

        In lockstep the last interval has an exchange, because the papers' protocol has one.
        """
        return self._participant.exchanges and self.is_finished and self.config.mode == "async"

    @property
    def publishes(self) -> bool:
        """Whether the network publishes snapshots, because the exchange rule takes scions."""
        return self._participant.publishes

    def checkpoint(self, *, within: bool = False) -> Checkpoint:
        """Return a checkpoint. The history rows and the best weights move into it.

        On the CPU, past states are lent and everything else is copied. The newest past state is the network itself.
        """
        best, self._best = self._best, None
        progress, history = self.progress, self._participant.history
        identity = CheckpointId(
            incarnation=self.incarnation, interval=progress.interval, step=progress.step if within else 0
        )
        copies = HostCopies(self._device)
        model, past = named_tensors(self.module), {} if history is None else history.tensors(within=within)
        lent: dict[str, Tensor] = {}
        release = _nothing
        if history is not None and self._device.type == "cpu":
            release = history.lend()
            newest = history.newest()
            if newest is not None and newest.interval == progress.interval and not within:
                lent = {name: tensor for name, tensor in newest.state.items() if name in model}
        else:
            past = copies.add(past)
        apart = copies.add({name: tensor for name, tensor in model.items() if name not in lent})
        return Checkpoint(
            network_id=self.network_id,
            id=identity,
            model={name: lent[name] if name in lent else apart[name] for name in model},
            tensors={
                **copies.add(optimizer_tensors(self.optimizer, self._names) | self.average.tensors()),
                **self._random.tensors(),
                **past,
            },
            training=dataclasses.asdict(progress) | {"scaler": self._scaler.state_dict()},
            best=best,
            rows=self._history.drain(),
            wait=copies.wait,
            release=release,
        )

    def _report(self, seconds: Mapping[str, float], scores: Scores | None) -> IntervalReport:
        return self.progress.report(
            self.origin(),
            self.schedule,
            self._participant,
            seconds=seconds,
            scores={
                metric.name: scores[metric.name] if scores else None
                for metric in self.task.metrics
                if metric.in_training
            },
        )


def _nothing() -> None:
    pass
