"""A callback for the `Trainer` of Hugging Face Transformers that makes its model a member of a population.

from inarch.actors.adapters.transformers import TransformersExchange

trainer = Trainer(model, args, callbacks=[TransformersExchange("mine", every=100, monitor="eval_f1")], ...)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from inarch.actors.guest.join import join
from inarch.actors.guest.member import Member
from inarch.population.errors import ConfigError


def _itself(model: Any) -> nn.Module:
    return model


def _prefix(metrics: Mapping[str, Any]) -> str:
    """Return the prefix that the Trainer gives all metrics of one data set, as `eval_` or `eval_NAME_`. Empty: none."""
    return next((name.removesuffix("runtime") for name in metrics if name.endswith("_runtime")), "")


class TransformersExchange(TrainerCallback, ExportableState):
    """Joins a population when training starts, and leaves it when training ends.

    The member's place is in the checkpoint's trainer_state.json, and `train(resume_from_checkpoint=...)` restores it.
    Leave `restore_callback_states_from_checkpoint` off, because the Trainer would create this callback again from its
    strings and numbers alone.
    A training that raises does not leave. Its membership ends with its process, with `member.leave()`, or when the next
    training with this callback starts.
    """

    def __init__(
        self,
        run: str,
        *,
        every: int | None = None,
        monitor: str | None = None,
        module: Callable[[Any], nn.Module] = _itself,
        **options: Any,
    ) -> None:
        """Create the callback. It joins when training starts.

        Args:
            run: Name of the run, as in `inarch.join`.
            every: Optimizer steps from one exchange to the next. None: as the run.
            monitor: Name of a metric of the evaluation, such as eval_f1, which is reported as the score. None:
                none is reported.
            module: Returns the part of the model that is exchanged. Its names must be those of the other members. By
                default the whole model.
            **options: Further arguments of `inarch.join`: name, begin, config, storage, address, input_shape.
        """
        self.member: Member | None = None
        """The member. None before training starts."""
        self._run, self._every, self._monitor, self._module, self._options = run, every, monitor, module, options
        self._without: set[str] = set()  # prefixes of the data sets evaluated since the monitored metric was found

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Join the population."""
        if self.member is not None:
            self.member.leave("stopped")  # of a training that raised. Otherwise it has left already
        self._without.clear()
        self.member = join(
            self._run,
            self._module(kwargs["model"]),
            optimizer=kwargs["optimizer"],
            every=self._every,
            **self._options,
        )
        callbacks: Any = state.stateful_callbacks if isinstance(state.stateful_callbacks, dict) else {}
        saved = callbacks.get(type(self).__name__) or []
        own = self.state()["args"]
        for entry in (saved if isinstance(saved, list) else [saved]) if state.global_step > 0 else ():
            if entry["args"] == own and entry["attributes"]["place"]:
                self.member.load_state_dict(entry["attributes"]["place"])
        callbacks.setdefault(type(self).__name__, self.state())  # the Trainer reads it when it saves a checkpoint

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Report the loss."""
        if self.member is not None and logs and "loss" in logs:
            self.member.tell(loss=float(logs["loss"]))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """End the training if the member should stop."""
        if self.member is not None and self.member.should_stop:
            control.should_training_stop = True

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Report the score. With several evaluation data sets, that of the data set that has the metric."""
        if self.member is None or self.member.has_left or self._monitor is None:
            return
        if metrics and self._monitor in metrics:
            self._without.clear()
            self.member.tell(score=float(metrics[self._monitor]))
            return
        prefix = _prefix(metrics or {})
        if self._monitor.startswith(prefix) or prefix in self._without:
            raise ConfigError(
                f"monitor={self._monitor!r}: the evaluation gives no such metric; it has {sorted(metrics or ())}"
            )
        self._without.add(prefix)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave the population."""
        if self.member is not None:
            self.member.leave("stopped" if self.member.should_stop else "done")

    def state(self) -> dict[str, Any]:
        """Return the member's place, for trainer_state.json."""
        place = self.member.state_dict() if self.member is not None else {}
        plain = {name: value for name, value in self._options.items() if isinstance(value, str)}
        arguments = {"run": self._run, "every": self._every, "monitor": self._monitor, **plain}
        return {"args": arguments, "attributes": {"place": place}}
