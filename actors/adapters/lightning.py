"""A Lightning callback that makes the model of a `Trainer` a member of a population.

from inarch.actors.adapters.lightning import LightningExchange

trainer = Trainer(callbacks=[LightningExchange("mine", every=100, monitor="val_f1")])
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from inarch.actors.guest.join import join
from inarch.actors.guest.member import Member
from inarch.population.errors import ConfigError

if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule, Trainer
elif "pytorch_lightning" in sys.modules and "lightning.pytorch" not in sys.modules:
    from pytorch_lightning import Callback
else:
    try:
        from lightning.pytorch import Callback
    except ImportError:
        from pytorch_lightning import Callback


def _itself(module: Any) -> nn.Module:
    return module


class LightningExchange(Callback):
    """Joins a population when training starts, and leaves it when training ends.

    The member's place is in Lightning's own checkpoint, and a resumed fit restores it. With several ranks, rank 0 is
    the member, and the others receive its weights.
    """

    def __init__(
        self,
        run: str,
        *,
        every: int | None = None,
        monitor: str | None = None,
        module: Callable[[Any], nn.Module] = _itself,
        optimizer: int = 0,
        **options: Any,
    ) -> None:
        """Create the callback. It joins when training starts.

        Args:
            run: Name of the run, as in `inarch.join`.
            every: Optimizer steps from one exchange to the next. None: as the run.
            monitor: Name of a logged metric of the validation, which is reported as the score. None: none is reported.
            module: Returns the part of the LightningModule that is exchanged. Its names must be those of the other
                members, for example `lambda module: module.model`. By default the whole module.
            optimizer: Index of the optimizer whose steps are counted.
            **options: Further arguments of `inarch.join`: name, begin, config, storage, address, input_shape.
        """
        super().__init__()
        self.member: Member | None = None
        """The member. None before training starts."""
        self._run, self._every, self._monitor, self._module = run, every, monitor, module
        self._optimizer, self._options = optimizer, options
        self._restored: Mapping[str, Any] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Join the population."""
        self.member = join(
            self._run,
            self._module(pl_module),
            optimizer=trainer.optimizers[self._optimizer],
            every=self._every,
            **self._options,
        )
        if self._restored:
            self.member.load_state_dict(self._restored)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Report the loss, and end the training if the member should stop."""
        if self.member is None:
            return
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, Tensor):
            self.member.tell(loss=loss * trainer.accumulate_grad_batches)
        if self.member.should_stop:
            trainer.should_stop = True

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the score."""
        if self.member is None or self._monitor is None or trainer.sanity_checking:
            return
        metrics = trainer.callback_metrics
        if self._monitor not in metrics:
            raise ConfigError(f"monitor={self._monitor!r}: no such metric was logged; there are {sorted(metrics)}")
        self.member.tell(score=float(metrics[self._monitor]))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the population."""
        self._leave("stopped" if self.member is not None and self.member.should_stop else "done")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the population as stopped."""
        self._leave("stopped")

    def state_dict(self) -> dict[str, Any]:
        """Return the member's place, for Lightning's checkpoint."""
        return self.member.state_dict() if self.member is not None else dict(self._restored or {})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the member's place from Lightning's checkpoint, once it has joined."""
        self._restored = state_dict
        if self.member is not None and state_dict:
            self.member.load_state_dict(state_dict)

    def _leave(self, outcome: Any) -> None:
        if self.member is not None:
            self.member.leave(outcome)
