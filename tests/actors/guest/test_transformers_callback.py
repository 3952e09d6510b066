"""The callback for the Trainer of Transformers, with a fake member: evaluations, resumes and trainings that raised."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from inarch.population.errors import ConfigError

transformers: Any = pytest.importorskip("transformers", reason="the extra transformers is not installed")


class FakeMember:
    """Records what the callback tells it."""

    should_stop = has_left = False

    def __init__(self) -> None:
        self.scores: list[float] = []
        self.outcomes: list[str] = []

    def tell(self, *, score: float) -> None:
        self.scores.append(score)

    def leave(self, outcome: str) -> None:
        self.has_left = True
        self.outcomes.append(outcome)

    def state_dict(self) -> dict[str, Any]:
        return {"interval": 3}


class Loop:
    """A Trainer that calls its callback."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, monitor: str | None = "eval_f1") -> None:
        from inarch.actors.adapters.transformers import TransformersExchange

        self.members: list[FakeMember] = []
        monkeypatch.setattr("inarch.actors.adapters.transformers.join", self._join)
        self.callback = TransformersExchange("run", monitor=monitor)
        self.state = transformers.TrainerState()

    def _join(self, *arguments: Any, **options: Any) -> FakeMember:
        self.members.append(FakeMember())
        return self.members[-1]

    def call(self, event: str, **options: Any) -> None:
        getattr(self.callback, event)(None, self.state, transformers.TrainerControl(), **options)

    def begin(self) -> FakeMember:
        self.call("on_train_begin", model=torch.nn.Linear(2, 2), optimizer=None)
        return self.members[-1]

    def evaluate(self, prefix: str = "eval_", **metrics: float) -> None:
        named = {f"{prefix}{name}": value for name, value in metrics.items()}
        self.call("on_evaluate", metrics=named | {f"{prefix}runtime": 0.1})


def test_score_is_that_of_the_data_set_with_the_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop(monkeypatch, "eval_a_f1")
    member = loop.begin()
    for score in (0.5, 0.6):
        loop.evaluate("eval_b_", f1=0.1)
        loop.evaluate("eval_a_", f1=score)
        loop.evaluate("eval_c_", loss=2.0)
    assert member.scores == [0.5, 0.6]
    loop.call("on_train_end")
    loop.evaluate("test_", f1=0.9)
    loop.evaluate("eval_a_", f1=0.9)
    assert member.scores == [0.5, 0.6] and member.outcomes == ["done"]


@pytest.mark.parametrize(("monitor", "evaluations"), [("eval_f9", 1), ("f1", 2)])
def test_metric_that_no_evaluation_gives_is_an_error(
    monkeypatch: pytest.MonkeyPatch, monitor: str, evaluations: int
) -> None:
    loop = Loop(monkeypatch, monitor)
    loop.begin()
    for _ in range(evaluations - 1):
        loop.evaluate(f1=0.5)
    with pytest.raises(ConfigError, match=f"monitor='{monitor}': the evaluation gives no such metric; it has"):
        loop.evaluate(f1=0.5)


def test_checkpoint_from_before_the_callback_gets_an_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop(monkeypatch)
    loop.state.stateful_callbacks, loop.state.global_step = {"Other": {"args": {}}}, 8
    loop.begin()
    assert loop.state.stateful_callbacks["TransformersExchange"]["args"]["run"] == "run"


def test_next_training_ends_the_membership_of_one_that_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop(monkeypatch)
    first, second = loop.begin(), loop.begin()
    assert first.outcomes == ["stopped"] and second.outcomes == []
    loop.call("on_train_end")
    assert second.outcomes == ["done"] and loop.callback.state()["attributes"]["place"] == {"interval": 3}
