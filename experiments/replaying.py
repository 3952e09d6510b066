"""Replay a run from its folder, without a cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

import torch
from safetensors.torch import save_file

from inarch.experiments.saved_runs import open_run
from inarch.population.errors import ConfigError, RunError, StructureError
from inarch.population.evaluation.metrics import Scores
from inarch.population.models import ModelFactory
from inarch.population.persistence.checkpoint import Checkpoint, CheckpointId, CheckpointStore
from inarch.population.persistence.interval_report import IntervalReport
from inarch.population.persistence.paths import prepare_file
from inarch.population.tasks.built_in import task_of
from inarch.population.tasks.named_code import REPLAY_FIELDS, check_training_trusted
from inarch.population.tasks.protocol import BoundTask, Task
from inarch.population.tasks.run_folder import EARLIER_CONFIGS, earlier_configs, with_own_data
from inarch.population.training.birth import Birth, Environment, environment
from inarch.population.training.replay.plan import ReplayPlan, plan_replay
from inarch.population.training.replay.record import Life, RecordedExchange, RunRecord, read_record
from inarch.population.training.replay.replayer import Replayer
from inarch.population.training.replay.verifier import Replay, ReplayObserver
from inarch.population.training.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class PreparedReplay:
    """A run that is ready to be replayed."""

    name: str
    """Name of the run."""
    record: RunRecord
    plan: ReplayPlan
    warnings: tuple[str, ...]
    """Reasons why the bits may differ here, although run and record are intact."""
    make_task: Callable[[Birth], BoundTask]
    recorded: CheckpointStore
    """Checkpoints of the run."""

    def run(self, observers: Sequence[ReplayObserver] = ()) -> Replay:
        """Replay the run, until the first difference.

        Args:
            observers: See the replay.

        Raises:
            RunError: The record contradicts itself.
        """
        replayer = Replayer(self.record, self.plan, self.make_task, recorded=self.recorded, observers=observers)
        return replayer.run()


def prepare_replay(
    path: str,
    *,
    until: tuple[int, int] | None = None,
    model: ModelFactory | None = None,
    task: Task | None = None,
    trust: bool = False,
) -> PreparedReplay:
    """Read a run's folder and its data, and plan the replay.

    Args:
        path: Folder of the run.
        until: Network and interval after which the replay ends. None: it makes every checkpoint in the folder.
        model: The model factory that the run was started with, if it was a callable.
        task: The task that the run was started with, if it was the caller's own.
        trust: Whether code that the folder names may be imported from the working directory. The folder's earlier
            configurations and the folders of teachers name code too.

    Raises:
        RunNotFoundError, ConfigError, UntrustedError: As `open_run`. ConfigError also if the run has no such network
            and interval.
        RunError: The run cannot be replayed. The message names what is missing.
        StructureError: The data are not those that the run was started with.
    """
    storage, spec, recorded = open_run(path, model, task, trust=trust)
    configs = {name: with_own_data(earlier, storage) for name, earlier in earlier_configs(storage).items()}
    files = {f"{EARLIER_CONFIGS}/{name}.json": earlier for name, earlier in configs.items()}
    for file, named in ({"config.json": spec.config} | files).items():
        check_training_trusted(named, storage, fields=REPLAY_FIELDS, file=file, given=spec.given, trust=trust)
    record = read_record(storage)
    targets = record.all_checkpoints if until is None else [_target(record, *until)]
    if not targets:
        raise RunError("the run cannot be replayed: its folder has no checkpoint to compare with")
    plan = plan_replay(record, targets)
    births = [item.birth for item in plan.lives.values()]
    config, device = spec.config, _device(births)
    if config.device.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as in the processes of a run
    run_task = task_of(spec)
    data = run_task.load_data(config)

    def make_task(birth: Birth) -> BoundTask:
        own_config = configs.get(birth.environment.config, config)
        return run_task.bind(own_config, data, model=model, device=device)

    if make_task(births[-1]).describe().data_fingerprint != recorded["info"]["data_fingerprint"]:
        raise StructureError(f"run {spec.name} was started with other data than those that its task loads now")
    return PreparedReplay(
        name=spec.name,
        record=record,
        plan=plan,
        warnings=warnings_of(
            births, environment(config, device), configs, is_deterministic=config.device.deterministic
        ),
        make_task=make_task,
        recorded=CheckpointStore(storage),
    )


def _target(record: RunRecord, network_id: int, interval: int) -> tuple[int, CheckpointId]:
    """Return the checkpoint that the last incarnation of a network had, or could have had, after an interval."""
    exchanged = [
        life.incarnation
        for life, exchanges in record.exchanges.items()
        if life.network_id == network_id and interval in exchanges
    ]
    written = [
        item.incarnation
        for item in record.checkpoints.get(network_id, ())
        if item.interval == interval and not item.step
    ]
    if not (exchanged or written):
        known = sorted({life.network_id for life in record.births})
        raise ConfigError(
            f"until: no interval {interval} of network {network_id} is recorded; the networks are {known}"
        )
    return network_id, CheckpointId(incarnation=max([*exchanged, *written]), interval=interval)


def _device(births: Iterable[Birth]) -> torch.device:
    """Return the device for a replay: a GPU if the run used GPUs and this machine has one."""
    used = {birth.environment.device for birth in births}
    return torch.device("cuda:0" if "cuda" in used and torch.cuda.is_available() else "cpu")


NAMES = {
    "device": "device",
    "processor": "processor",
    "torch": "version of torch",
    "code": "code of inarch.population",
    "config": "configuration",
}
"""What a process's environment consists of, but for its threads, which a replay sets."""


NOT_DETERMINISTIC = "the run used a GPU without --device.deterministic, so that two trainings on one GPU may differ"


def warnings_of(
    births: Sequence[Birth], here: Environment, earlier: Collection[str] = (), *, is_deterministic: bool = True
) -> tuple[str, ...]:
    """Return what differs between the processes of a run and this one, so that the bits may differ too.

    Args:
        births: Births of the run's processes.
        here: This process.
        earlier: Fingerprints of the earlier configurations that are in the folder.
        is_deterministic: Whether the run used deterministic algorithms only.
    """
    has_gpu = any(birth.environment.device == "cuda" for birth in births)
    lines: dict[str, None] = {NOT_DETERMINISTIC: None} if has_gpu and not is_deterministic else {}
    for birth in births:
        for field, name in NAMES.items():
            then, now = getattr(birth.environment, field), getattr(here, field)
            if then != now and then not in earlier:
                lines[f"other {name}: the run had {then}, here it is {now}"] = None
    return tuple(lines)


def replay_with_output(
    prepared: PreparedReplay, show: Callable[[str], None], *, watch: bool = False, out: str | None = None
) -> int:
    """Replay a run, and print what is repeated and how it compares.

    Args:
        prepared: The run.
        show: Prints a line.
        watch: Whether to print the scores before and after each exchange.
        out: File for the weights of the last checkpoint that is made. None: they are not written.

    Returns:
        0 if everything is equal. 1 after a difference.

    Raises:
        RunError: The record contradicts itself.
        StorageError: `out` cannot be written.
    """
    plan = prepared.plan
    num_networks = len({life.network_id for life in plan.lives})
    show(
        f"run {prepared.name}: {num_networks} networks in {len(plan.lives)} processes, {plan.num_intervals} intervals, "
        f"{sum(plan.uses.values())} snapshots taken"
    )
    for line in prepared.warnings:
        show(f"{line}; the bits may differ for this reason alone")
    if out is not None:
        prepare_file(out)
    keeper = CheckpointKeeper()
    observers: list[ReplayObserver] = [keeper] if out is not None else []
    if watch:
        observers.append(ExchangeWatcher(lambda watched: show(watched.line())))
    result = prepared.run(observers)
    if result.difference is not None:
        show(f"different: {result.difference}")
        return 1
    if out is not None:
        save_file(keeper.weights, out)
        show(f"weights: {out}")
    show(
        f"equal: {result.num_intervals} intervals with {result.num_grafts} grafts; {result.num_published} published "
        f"versions and {len(result.checkpoints)} checkpoints have the bits of the run"
    )
    return 0


@dataclass(frozen=True, kw_only=True)
class WatchedExchange:
    """An exchange, with the validation scores of the network before and after it."""

    life: Life
    interval: int
    outcome: str
    """A value of `ExchangeOutcome`."""
    scions: tuple[str, ...]
    """Scions that were taken, as NETWORK:INTERVAL."""
    before: Scores | None
    """None without validation data, or without an exchange."""
    after: Scores | None

    def line(self) -> str:
        """Return the exchange as a line of text. The loss is shown, or the primary metric if there is no loss."""
        text = f"network {self.life.network_id} interval {self.interval}: {self.outcome}"
        if not self.scions:
            return text
        text += f" {' '.join(self.scions)}"
        if self.before is None or self.after is None:
            return text
        name = "loss" if "loss" in self.before else next(iter(self.before))
        before, after = self.before[name], self.after[name]
        return f"{text}, validation {name} {before:.4f} -> {after:.4f} ({after - before:+.4f})"


class ExchangeWatcher(ReplayObserver):
    """Evaluates each network before and after each of its exchanges."""

    def __init__(self, seen: Callable[[WatchedExchange], None]) -> None:
        """Create the watcher.

        Args:
            seen: Called after each exchange.
        """
        self._seen = seen
        self._before: Scores | None = None

    def before_exchange(self, trainer: Trainer) -> None:
        """Evaluate the network as it was published."""
        self._before = _evaluated(trainer)

    def after_interval(self, trainer: Trainer, exchange: RecordedExchange | None, report: IntervalReport) -> None:
        """Evaluate the network after the exchange, if a scion was taken."""
        scions = () if exchange is None else exchange.scions
        watched = WatchedExchange(
            life=Life(trainer.network_id, trainer.incarnation),
            interval=trainer.interval,
            outcome=str(report.outcome or ""),
            scions=tuple(f"{scion.version.life.network_id}:{scion.version.interval}" for scion in scions),
            before=self._before,
            after=_evaluated(trainer) if scions else self._before,
        )
        self._before = None
        self._seen(watched)


class CheckpointKeeper(ReplayObserver):
    """Keeps a copy of the weights of one checkpoint."""

    def __init__(self) -> None:
        """Create the observer. It has no weights yet."""
        self.weights: dict[str, torch.Tensor] = {}

    def on_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Keep the weights. Those of a later checkpoint replace them."""
        self.weights = {
            name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in checkpoint.model.items()
        }


@torch.no_grad()
def _evaluated(trainer: Trainer) -> Scores | None:
    """Return the validation scores of a network as it is. Nothing of the network or of torch's state changes."""
    part = trainer.task.part("validation")
    if part is None:
        return None
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        return part.evaluator.evaluate(trainer.module, part.batches())
