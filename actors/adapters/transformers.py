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


class TransformersExchange(TrainerCallback, ExportableState):
    """Joins a population when training starts, and leaves it when training ends.

    The member's place is in the checkpoint's trainer_state.json, and `train(resume_from_checkpoint=...)` restores it.
    Leave `restore_callback_states_from_checkpoint` off, because the Trainer would create this callback again from its
    strings and numbers alone.
    A training that raises does not leave. Its membership ends with its lease.
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

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Join the population."""
        self.member = join(
            self._run,
            self._module(kwargs["model"]),
            optimizer=kwargs["optimizer"],
            every=self._every,
            **self._options,
        )
        if state.global_step > 0:
            callbacks: Any = state.stateful_callbacks or {}
            saved = callbacks.get(type(self).__name__) or []
            own = self.state()["args"]
            for entry in saved if isinstance(saved, list) else [saved]:
                if entry["args"] == own and entry["attributes"]["place"]:
                    self.member.load_state_dict(entry["attributes"]["place"])

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
        """Report the score."""
        if self.member is None or self._monitor is None:
            return
        if not metrics or self._monitor not in metrics:
            raise ConfigError(
                f"monitor={self._monitor!r}: the evaluation gives no such metric; it has {sorted(metrics or ())}"
            )
        self.member.tell(score=float(metrics[self._monitor]))

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
