"""A member of a population whose training loop belongs to the caller.

Longer than 300 lines with its docstrings: this is the one class that the author of a loop calls. What an exchange
reports and changes, the optimizer, the ranks and the connection have files of their own.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from inarch.actors.guest.exchange_summary import ExchangeEffects, ExchangeSummary, PhaseClock, summary_of
from inarch.actors.guest.guest_report import GuestReport, finite_or_none
from inarch.actors.guest.loop_optimizer import LoopOptimizer
from inarch.actors.guest.ranks import Ranks
from inarch.actors.guest.session import GuestSession, logger
from inarch.actors.messages import Enrollment, ExitReason
from inarch.population.config.per_network import LEARNING_RATE
from inarch.population.errors import ConfigError, NotFiniteError
from inarch.population.exchange import ExchangeResult
from inarch.population.exchange.participant import Participant
from inarch.population.membership.outcome import ExchangeOutcome
from inarch.population.state.snapshot import Snapshot
from inarch.population.state.snapshot_info import SnapshotInfo
from inarch.population.training.progress import Progress


@dataclass
class _Interval:
    """What belongs to the interval in progress."""

    steps: int = 0
    is_prefetched: bool = False


class Member:
    """Membership of one training loop in a population. `inarch.join` returns it.

    As a context manager it leaves at the end of the block. Every method is called from the training loop's own thread.
    With several ranks of torch.distributed, each rank has a member, and all of them call the same methods at the same
    steps.
    """

    def __init__(
        self,
        participant: Participant,
        enrollment: Enrollment,
        session: GuestSession | None,
        *,
        optimizer: LoopOptimizer | None,
        ranks: Ranks,
    ) -> None:
        """Create a member. Call `inarch.join` instead.

        Args:
            participant: The model's part in the exchange.
            enrollment: The loop's place in the run.
            session: Connection to the run. None on all ranks but the first.
            optimizer: The loop's optimizer. None: the loop calls `step` or `exchange` itself.
            ranks: The ranks that train the model together.
        """
        self._participant, self._enrollment, self._session = participant, enrollment, session
        self._optimizer, self._ranks = optimizer, ranks
        rates = {LEARNING_RATE: optimizer.initial_rate} if optimizer else {}
        self._progress = Progress(hyperparameters=rates)
        self._interval = _Interval()
        self._report = GuestReport(enrollment.metrics[0].name)
        self._must_stop = self._has_left = False
        self.peers: Sequence[Mapping[str, Tensor]] = ()
        """exchange.rule dml: weights of the networks to learn from until the next exchange, read-only."""
        if optimizer is not None:
            optimizer.watch(self.step)
        self._prefetch_if_due()

    def __enter__(self) -> Member:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        """Leave as done, or as stopped if the block raised."""
        self.leave("done" if kind is None else "stopped")

    def __repr__(self) -> str:
        place = f"{self.network_id}, incarnation {self.incarnation}"
        return f"Member({place}, interval {self.interval}, {self.grafts} grafts)"

    @property
    def network_id(self) -> int:
        """Id in the population."""
        return self._enrollment.network_id

    @property
    def incarnation(self) -> int:
        """Number of this process of the loop, counted from 1."""
        return self._enrollment.incarnation

    @property
    def every(self) -> int:
        """Optimizer steps from one exchange to the next. 0 if no member has stated it."""
        return self._enrollment.every

    @property
    def interval(self) -> int:
        """Intervals completed."""
        return self._progress.interval

    @property
    def grafts(self) -> int:
        """Exchanges that changed the model."""
        return self._progress.grafts

    @property
    def has_left(self) -> bool:
        """Whether `leave` was called."""
        return self._has_left

    @property
    def should_stop(self) -> bool:
        """Whether the loop should end.

        The run was stopped or scaled down, or a later process has joined under this name. With several ranks, all get
        the same answer, which changes only at an exchange.
        """
        if self._session is not None and self._ranks.size == 1:
            return self._session.must_end
        return self._must_stop

    def step(self, loss: float | Tensor | None = None) -> ExchangeSummary | None:
        """Count an optimizer step, and exchange if an interval is complete.

        A loop that gave its optimizer to `join` need not call this.

        Args:
            loss: Training loss of the step, as in `tell`.

        Returns:
            How the exchange ended. None if none was due.
        """
        if loss is not None:
            self.tell(loss=loss)
        if self._has_left:
            return None
        self._progress.step += 1
        self._progress.trained_steps += 1
        self._interval.steps += 1
        if self.every and self._interval.steps >= self.every:
            return self.exchange()
        self._prefetch_if_due()
        return None

    def exchange(self) -> ExchangeSummary:
        """Complete an interval: publish the model's weights, and apply the exchange rule to the snapshots that arrived.

        If the loop has counted no step since the last exchange, the exchange counts as one.

        The call never waits longer than 50 ms for other processes. It changes the model's weights in place.

        Raises:
            ConfigError: The member has left.
        """
        if self._has_left:
            raise ConfigError("this member has left the population; join it again")
        begun = time.perf_counter()
        summary, effects = self._ranks.share(self._exchange)
        self._progress = effects.progress
        self._must_stop = effects.must_stop
        if self._optimizer is not None and effects.resets_momentum:
            self._optimizer.reset_momentum()
        if self._optimizer is not None and effects.rate_factor != 1.0:
            self._optimizer.scale_rates(effects.rate_factor)
        if summary.outcome is ExchangeOutcome.GRAFTED:
            self._ranks.broadcast(self._participant.tensors().values())
        self._interval = _Interval()
        self._prefetch_if_due()
        return dataclasses.replace(summary, seconds=time.perf_counter() - begun)

    def tell(
        self, *, score: float | None = None, loss: float | Tensor | None = None, examples: int | None = None
    ) -> None:
        """Report numbers of the loop. They appear in the run's status, tables and events with the next exchange.

        Args:
            score: Newest value of the run's first metric on the loop's validation data. Rules such as pbt rank members
                by it.
            loss: Training loss of a step. The interval's mean is reported. A tensor is read only at the exchange, so
                that a GPU is not waited for.
            examples: Examples that were trained on since the last call.
        """
        if self._ranks.is_first:
            self._report.add(score=score, loss=loss, examples=examples)
            metric = self._enrollment.metrics[0]
            if score is not None:
                value = finite_or_none(float(score))
                self._progress.score = None if value is None else metric.score(value)
                self._progress.update_best()

    def adopt(self) -> bool:
        """Replace the model's weights by those of the most advanced other member, and take its place in the schedule.

        The optimizer's state is dropped, because it belongs to the replaced weights, unless the exchange blends it.

        Returns:
            Whether a member had weights to give. Otherwise nothing changes.
        """
        progress = self._ranks.share(self._adopt)
        if progress is None:
            return False
        self._progress = progress
        self._ranks.broadcast(self._participant.tensors().values())
        self._participant.forget_past()
        if self._optimizer is not None and not self._participant.blends_momentum:
            self._optimizer.reset_momentum()
        self._interval = _Interval()
        self._prefetch_if_due()
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return the member's place in its training, as JSON types, for the loop's own checkpoint.

        The weights are not in it. The states that delay compensation needs are not either: it begins anew.
        """
        return dataclasses.asdict(self._progress) | {"steps_in_interval": self._interval.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the place that `state_dict` returned.

        Args:
            state: As from `state_dict`.

        Raises:
            ConfigError: It has other keys.
        """
        values = dict(state)
        steps = values.pop("steps_in_interval", None)
        names = {field.name for field in dataclasses.fields(Progress)}
        if steps is None or set(values) != names:
            raise ConfigError(f"the state of a member must have the keys {sorted(names | {'steps_in_interval'})}")
        # The step is the version of a snapshot, which must not go back while this process is a member.
        self._progress = Progress(**values | {"step": max(values["step"], self._progress.step)})
        self._participant.forget_past()
        self._interval = _Interval(steps=int(steps))
        self._prefetch_if_due()

    def leave(self, outcome: Literal["done", "stopped"] = "done") -> None:
        """Leave the population. The model stays as it is, and the loop may train on. A second call does nothing.

        Args:
            outcome: done: the loop has finished. stopped: it ended before its end.
        """
        if self._has_left:
            return
        self._has_left = True
        if self._optimizer is not None:
            self._optimizer.release()
        if self._session is not None:
            self._session.leave(ExitReason.DONE if outcome == "done" else ExitReason.STOPPED)

    def _origin(self) -> SnapshotInfo:
        return self._progress.origin(
            network_id=self.network_id,
            incarnation=self.incarnation,
            layout=self._participant.layout,
            created_at=time.time(),
        )

    def _prefetch_if_due(self) -> None:
        """Ask for scions a tenth of an interval before they are needed, so that the exchange finds them there."""
        is_due = self.every and self._interval.steps >= self.every - max(1, self.every // 10)
        if is_due and not self._interval.is_prefetched:
            self._prefetch()

    def _prefetch(self) -> None:
        self._interval.is_prefetched = True
        if self._session is not None and self._participant.publishes:
            own = self._origin()
            self._session.client.prefetch(
                dataclasses.replace(own, interval=own.interval + 1, trained_intervals=own.trained_intervals + 1)
            )

    def _exchange(self) -> tuple[ExchangeSummary, ExchangeEffects]:
        """Exchange, on the first rank only."""
        assert self._session is not None
        if not self._interval.is_prefetched:
            self._session.client.discard_fetched()
            self._prefetch()
        progress, client = self._progress, self._session.client
        is_counted = self.every and self._interval.steps
        if not self._interval.steps:  # the loop counts no steps, but a later snapshot needs a later one
            progress.step += 1
            progress.trained_steps += 1
        progress.complete_interval(self._interval.steps / self.every if is_counted else 1.0)
        own, clock = self._origin(), PhaseClock()
        information = self._information(own)
        snapshot = None
        if information is not None and client.is_free:
            snapshot = self._participant.stage(own, information)
        clock.lap("stage")
        participant, num_intervals = self._participant, self._enrollment.num_intervals
        report = self._report.before_exchange(
            own, participant, self._optimizer, num_intervals=num_intervals, grafts=progress.grafts
        )
        client.publish_later(report, snapshot)
        clock.lap("publish")
        snapshots: tuple[Snapshot, ...] | ExchangeOutcome = ()
        if self._participant.publishes:
            snapshots = client.fetch_scions(own) if information is not None else ExchangeOutcome.NOT_FINITE
        clock.lap("fetch")
        result = self._participant.exchange(
            snapshots,
            own,
            information or (),
            epoch=float(own.interval),
            rate_factor=self._optimizer.rate_factor if self._optimizer else 1.0,
            now=time.time(),
            staged=snapshot,
        )
        if result.contributions:
            progress.add_grafts(own, result.contributions)
        effects = self._effects(result)
        clock.lap("graft")
        grafts = progress.grafts
        client.report(self._report.after_exchange(report, own, participant, result, clock.seconds, grafts=grafts))
        return summary_of(result), effects

    def _information(self, own: SnapshotInfo) -> tuple[float, ...] | None:
        """Return the information of the weights. None if the rule takes no scions, or if a weight is not finite."""
        if not self._participant.publishes:
            return None
        try:
            return self._participant.measure_information(own)
        except NotFiniteError as error:
            logger.warning("interval %d of network %d: %s; nothing is exchanged", own.interval, own.network_id, error)
            return None

    def _effects(self, result: ExchangeResult) -> ExchangeEffects:
        """Return what the ranks must do after an exchange, and take over what the rule has set."""
        progress, rootstock = self._progress, result.rootstock
        factor = 1.0
        if rootstock is not None:
            progress.score = rootstock.score
            earlier, progress.hyperparameters = progress.learning_rate, rootstock.hyperparameters
            if progress.learning_rate != earlier and earlier > 0:
                factor = progress.learning_rate / earlier
            if rootstock.peers is not None:
                self.peers = tuple({key: tensor.clone() for key, tensor in peer.items()} for peer in rootstock.peers)
        return ExchangeEffects(
            progress=progress,
            must_stop=self._session is not None and self._session.must_end,
            resets_momentum=rootstock is not None and rootstock.reset_momentum,
            rate_factor=factor,
        )

    def _adopt(self) -> Progress | None:
        """Clone a parent, on the first rank only."""
        assert self._session is not None
        parent = self._session.parent()
        if parent is None:
            return None
        self._participant.clone_weights(parent)
        origin = parent.origin
        return dataclasses.replace(
            self._progress,
            interval=max(origin.interval, self._progress.interval),
            step=max(origin.step, self._progress.step),
            trained_intervals=origin.trained_intervals,
            trained_steps=origin.trained_steps,
        )
