"""The loop: events and their order, the clock, stopping, what a step costs in synchronisations."""

from __future__ import annotations

import contextlib
import copy
import itertools
import json
import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from warmstart.config import CfgNode
from warmstart.engine import (
    HookBase,
    Interrupted,
    NonFiniteLossError,
    Trainer,
    build_trainer,
    load_checkpoint,
    load_start,
    log_run,
    resolve_config,
)
from warmstart.engine.checkpoint.saver import finish_saves
from warmstart.engine.distributed import comm
from warmstart.engine.loop.hook import HookCalls
from warmstart.solver import EMA, GradientClipping, WarmupMultiStepLR

from ..dying import Kill, Killed


class Regression(nn.Module):
    """The smallest model that meets the trainer's contract."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(2, 1)

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        error = self.net(x) - y
        return {"loss_mse": error.square().mean(), "loss_abs": error.abs().mean()}


class Recorder(HookBase):
    def __init__(self) -> None:
        self.events: list[tuple[str, int]] = []

    def before_train(self, trainer: Trainer) -> None:
        self.events.append(("before_train", trainer.iteration))

    def before_step(self, trainer: Trainer) -> None:
        self.events.append(("before_step", trainer.iteration))

    def after_backward(self, trainer: Trainer) -> None:
        self.events.append(("after_backward", trainer.iteration))

    def after_step(self, trainer: Trainer) -> None:
        self.events.append(("after_step", trainer.iteration))

    def after_train(self, trainer: Trainer) -> None:
        self.events.append(("after_train", trainer.iteration))


def halved(optimizer: Optimizer) -> LRScheduler:
    return torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)


def make_trainer(
    hooks: list[HookBase],
    max_iter: int = 2,
    batches: Any = None,
    schedule: Callable[[Optimizer], LRScheduler] = halved,
    decay: float | None = None,
    **options: Any,
) -> Trainer:
    """Return a trainer of `Regression`; with a moving average if `decay` is given."""
    torch.manual_seed(0)
    model = Regression()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = [(torch.ones(4, 2), torch.zeros(4, 1))] if batches is None else batches
    ema = None if decay is None else EMA(model, decay)
    return Trainer(model, optimizer, schedule(optimizer), batches, hooks, max_iter=max_iter, ema=ema, **options)


def test_the_five_events_come_in_order_with_the_clock_of_completed_updates() -> None:
    recorder = Recorder()
    make_trainer([recorder]).train()
    assert recorder.events == [
        ("before_train", 0),
        ("before_step", 0),
        ("after_backward", 0),
        ("after_step", 1),
        ("before_step", 1),
        ("after_backward", 1),
        ("after_step", 2),
        ("after_train", 2),
    ]


def test_hooks_run_in_the_order_of_the_list() -> None:
    order: list[str] = []

    class Named(HookBase):
        def __init__(self, name: str) -> None:
            self._name = name

        @property
        def name(self) -> str:
            return self._name

        def after_step(self, trainer: Trainer) -> None:
            order.append(self._name)

    make_trainer([Named("b"), Named("a")], max_iter=2).train()
    assert order == ["b", "a", "b", "a"]


@pytest.mark.need("S8")
def test_two_hooks_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="several hooks are called Recorder: give each a `name` of its own"):
        make_trainer([Recorder(), Recorder()])


@pytest.mark.need("S8")
def test_a_hook_named_as_the_trainers_own_state_is_refused_also_if_added_later() -> None:
    class Late(HookBase):
        name = "trainer"

    trainer = make_trainer([])
    trainer.hooks.append(Late())
    with pytest.raises(ValueError, match="a hook is called trainer, as the trainer's own state is"):
        trainer.train()


@pytest.mark.need("D13")
def test_hooks_that_run_last_come_after_all_others_wherever_they_are_in_the_list() -> None:
    order: list[str] = []

    class Noting(HookBase):
        def __init__(self, name: str, runs_last: bool = False) -> None:
            self.label, self.runs_last = name, runs_last

        @property
        def name(self) -> str:
            return self.label

        def after_step(self, trainer: Trainer) -> None:
            order.append(self.name)

    trainer = make_trainer([Noting("saves", runs_last=True), Noting("first")], max_iter=1)
    trainer.hooks.append(Noting("late"))
    trainer.train()
    assert order == ["first", "late", "saves"]


def test_the_rates_of_an_update_are_those_it_used_not_the_next_ones() -> None:
    """StepLR halves after 2 updates: updates 1 and 2 use 0.1, update 3 uses 0.05."""
    used: list[float] = []

    class Rates(HookBase):
        def after_step(self, trainer: Trainer) -> None:
            used.extend(trainer.rates)

    make_trainer([Rates()], max_iter=3).train()
    assert used == [0.1, 0.1, 0.05]


@pytest.mark.need("E1")
@pytest.mark.parametrize("event", ["before_step", "after_backward"])
def test_a_stop_asked_for_in_the_step_ends_the_run_with_this_iteration(
    event: str, logged: list[logging.LogRecord]
) -> None:
    last: list[bool] = []

    class Stop(HookBase):
        def after_step(self, trainer: Trainer) -> None:
            last.append(trainer.is_last_step)

    def stop(self: HookBase, trainer: Trainer) -> None:
        if trainer.iteration == 2:
            trainer.request_stop("enough")

    setattr(Stop, event, stop)
    trainer = make_trainer([Stop()], max_iter=10)
    trainer.train()
    assert trainer.iteration == 3
    assert logged[-1].getMessage() == "stopped after iteration 3: enough"
    assert last == [False, False, True]


@pytest.mark.need("E1")
def test_a_stop_asked_for_after_the_step_ends_the_run_with_the_next_iteration() -> None:
    class Stop(HookBase):
        def after_step(self, trainer: Trainer) -> None:
            if trainer.iteration == 2:
                trainer.request_stop("enough")

    trainer = make_trainer([Stop()], max_iter=10)
    trainer.train()
    assert trainer.iteration == 3


class Asking(HookBase):
    """Asks for a stop after iteration 2."""

    def after_step(self, trainer: Trainer) -> None:
        if trainer.iteration == 2:
            trainer.request_stop("enough")


@pytest.mark.need("E1")
def test_a_stop_that_was_asked_for_survives_a_kill() -> None:
    """Saved when it had just been asked for: the next iteration is the last, as in the unbroken run."""
    killed = make_trainer([Asking()], max_iter=9)
    killed.hooks.append(Kill(2))
    with pytest.raises(Killed):
        killed.train()
    resumed = make_trainer([Asking()], max_iter=9)
    resumed.load_state_dict(killed.state_dict())
    resumed.train()
    assert (resumed.iteration, resumed.stop_reason) == (3, "enough")
    assert resumed.state_dict()["hooks"]["trainer"]["stopped"] == "enough"


def test_random_numbers_drawn_by_hooks_before_a_resumed_run_do_not_change_it() -> None:
    class Drawing(HookBase):
        def __init__(self) -> None:
            self.drawn: list[float] = []

        def before_train(self, trainer: Trainer) -> None:
            torch.rand(3)

        def before_step(self, trainer: Trainer) -> None:
            self.drawn.append(torch.rand(1).item())

    whole = Drawing()
    make_trainer([whole], max_iter=6).train()
    before = make_trainer([Drawing()], max_iter=3)
    before.train()
    state = before.state_dict()
    torch.manual_seed(7)
    after = Drawing()
    resumed = make_trainer([after], max_iter=6)
    resumed.load_state_dict(state)
    resumed.train()
    assert after.drawn == whole.drawn[3:]


class Periodic(HookBase):
    """Notes the updates after which it is called, and takes what was asked for away."""

    def __init__(self, period: int = 5, takes: str = "", runs_last: bool = False) -> None:
        self.period, self.takes, self.runs_last = period, takes, runs_last
        self.called: list[int] = []

    @property
    def name(self) -> str:
        return f"{self.period} {self.takes} {self.runs_last}"

    def after_step(self, trainer: Trainer) -> None:
        self.called.append(trainer.iteration)
        if self.takes == "scalars":
            trainer.scalars.clear()
            trainer.record = {"iteration": trainer.iteration}
        if self.takes == "save_as":
            trainer.save_as.clear()


@pytest.mark.parametrize(
    ("period", "called"), [(1, [*range(1, 13)]), (5, [5, 10, 12]), (6, [6, 12]), (40, [12]), (0, [12])]
)
def test_after_step_is_called_at_multiples_of_the_period_and_after_the_last_update(
    period: int, called: list[int]
) -> None:
    alone, beside = Periodic(period), Periodic(period)
    make_trainer([alone], max_iter=12).train()
    make_trainer([beside, Periodic(1, "record"), Periodic(3, "scalars")], max_iter=12).train()
    assert (alone.called, beside.called) == (called, called)  # whatever other hooks make of an update


@pytest.mark.parametrize(
    ("ask", "scalars", "record", "save_as"),
    [
        (lambda trainer: None, [10, 12], [10, 12], [7, 12]),
        (lambda trainer: trainer.scalars.update(mine=1.0), [3, 10, 12], [3, 10, 12], [7, 12]),
        (lambda trainer: trainer.save_as.add("mine"), [10, 12], [10, 12], [3, 7, 12]),
        (lambda trainer: trainer.request_stop("enough"), [3], [3], [3]),
    ],
)
def test_a_hook_that_takes_something_is_called_in_the_iteration_that_asks_for_it(
    ask: Callable[[Trainer], object], scalars: list[int], record: list[int], save_as: list[int]
) -> None:
    class Ask(HookBase):
        def after_backward(self, trainer: Trainer) -> None:
            if trainer.iteration == 2:
                ask(trainer)

    hooks = [Periodic(10, "scalars"), Periodic(0, "record"), Periodic(7, "save_as", runs_last=True)]
    make_trainer([*hooks, Ask()], max_iter=12).train()
    assert [hook.called for hook in hooks] == [scalars, record, save_as]


@pytest.mark.parametrize(("signal_at", "due"), [(3, []), (5, [5])])
def test_a_signal_calls_the_hooks_that_are_due_and_those_that_run_last(signal_at: int, due: list[int]) -> None:
    class Signal(HookBase):
        def before_step(self, trainer: Trainer) -> None:
            if trainer.iteration == signal_at - 1:
                trainer.interrupt(15)

    last, periodic, rare = Periodic(7, runs_last=True), Periodic(5), Periodic(0)
    trainer = make_trainer([last, periodic, rare, Signal()], max_iter=12)
    with pytest.raises(Interrupted):
        trainer.train()
    assert (last.called, periodic.called, rare.called) == ([signal_at], due, [])


@pytest.mark.parametrize("hook", [HookBase(), Recorder()])
def test_rank_0_is_asked_at_updates_at_which_a_hook_that_sets_its_period_is_due(
    hook: HookBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one of two ranks, with a record at each update or every third one, beside hooks that set no period."""
    monkeypatch.setattr(comm, "world_size", lambda: 2)
    monkeypatch.setattr(comm, "all_reduce_max", lambda numbers: numbers)
    for period, asked in ((1, [1, 2, 3, 4]), (3, [3]), (0, [])):
        takes = Periodic(0, "record")
        progress = SimpleNamespace(is_last_step=False, interrupted=0, scalars={}, save_as=set(), record={})
        calls = HookCalls([hook, Periodic(period, "scalars"), takes])
        for iteration in (1, 2, 3, 4):
            progress.iteration = iteration
            assert calls.call_due(progress) is (iteration in asked)  # type: ignore[arg-type]
        assert takes.called == asked  # it finds the record that is made there


def test_a_signal_on_several_ranks_leaves_scalars_waiting_as_in_the_uninterrupted_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(comm, "world_size", lambda: 2)
    monkeypatch.setattr(comm, "all_reduce_max", lambda numbers: numbers)
    records, last = Periodic(5, "scalars"), Periodic(7, runs_last=True)
    signalled: Any = SimpleNamespace(
        iteration=3, is_last_step=False, interrupted=15, scalars={"a": 1.0}, save_as=set()
    )
    HookCalls([records, last]).call_due(signalled)
    assert (records.called, last.called, signalled.scalars) == ([], [3], {"a": 1.0})


def test_options_of_the_update_can_be_changed_through_the_trainer() -> None:
    norms: list[int] = []

    def clip(parameters: Any) -> Tensor:
        norms.append(len([*parameters]))
        return torch.zeros(())

    trainer = make_trainer([], max_iter=3)
    trainer.clip, trainer.accum_steps = clip, 2
    trainer.train()
    assert (norms, trainer.update.accum_steps) == ([2, 2, 2], 2)


def test_a_period_may_change_in_after_step() -> None:
    class Slower(Periodic):
        def after_step(self, trainer: Trainer) -> None:
            super().after_step(trainer)
            self.period = 0 if trainer.iteration > 3 else 2 * self.period

    slower = Slower(1)
    make_trainer([slower], max_iter=12).train()
    assert slower.called == [1, 2, 4, 12]


@pytest.mark.parametrize("iteration", [6, 9])
def test_a_resumed_run_calls_a_hook_when_the_uninterrupted_one_does(iteration: int) -> None:
    periodic = Periodic()
    trainer = make_trainer([periodic], max_iter=12)
    trainer.iteration = iteration
    trainer.train()
    assert periodic.called == [10, 12]


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("period", -1, "Recorder.period is -1; give a number of updates, or 0"),
        ("period", 2.0, "Recorder.period is 2.0; give a number of updates, or 0"),
        ("takes", "score", "Recorder.takes is 'score'; give one of scalars, save_as, record, or ''"),
        (
            "next_due",
            lambda iteration: iteration + 5,
            "Recorder.next_due() is no longer called: set its attribute `period` to the number of updates between"
            " two calls of after_step",
        ),
    ],
)
def test_a_hook_that_cannot_be_scheduled_is_refused_by_name(attribute: str, value: object, message: str) -> None:
    hook = Recorder()
    setattr(hook, attribute, value)
    with pytest.raises(ValueError) as error:
        make_trainer([hook])
    assert str(error.value) == message


class Interruptible(HookBase):
    """An evaluation that takes long: a signal in one of them cuts it off."""

    def __init__(self, period: int, signal_at: int = 0) -> None:
        self.period, self.signal_at, self.done = period, signal_at, []

    def after_step(self, trainer: Trainer) -> None:
        if trainer.iteration == self.signal_at:
            trainer.interrupt(15)
        trainer.raise_if_interrupted()
        self.done.append(trainer.iteration)
        trainer.scalars["score"] = float(trainer.iteration)


class Records(HookBase):
    """Makes a record of what it finds in `scalars`."""

    takes = "scalars"

    def __init__(self, period: int) -> None:
        self.period = period
        self.made: list[tuple[int, dict[str, float]]] = []

    def after_step(self, trainer: Trainer) -> None:
        scalars, trainer.scalars = trainer.scalars, {}
        self.made.append((trainer.iteration, scalars))


class Saves(HookBase):
    runs_last = True

    def __init__(self, period: int = 0) -> None:
        self.period = period
        self.states: list[dict[str, Any]] = []
        self.final: list[bool] = []

    def after_step(self, trainer: Trainer) -> None:
        self.states.append(copy.deepcopy(trainer.state_dict()))
        self.final.append(trainer.is_last_step)


def interrupted(evaluation: int, records: int, at: int, max_iter: int) -> tuple[dict[str, Any], Records]:
    """Return the state of a run that a signal cut off in the evaluation after `at` updates, and its records."""
    saves, made = Saves(), Records(records)
    trainer = make_trainer([Interruptible(evaluation, at), made, saves], max_iter=max_iter)
    with pytest.raises(Interrupted):
        trainer.train()
    assert (trainer.iteration, trainer.is_last_step, trainer.pending) == (at, False, True)
    assert (len(saves.states), saves.final) == (1, [False])
    return saves.states[0], made


def resumed(
    state: dict[str, Any], evaluation: int, records: int, max_iter: int, *more: HookBase
) -> tuple[Trainer, Interruptible, Records, Saves]:
    """Return a run that has continued from a state, and its hooks."""
    evaluates, made, saves = Interruptible(evaluation), Records(records), Saves()
    trainer = make_trainer([evaluates, made, saves, *more], max_iter=max_iter)
    trainer.load_state_dict(state)
    with contextlib.suppress(Interrupted):
        trainer.train()
    return trainer, evaluates, made, saves


@pytest.mark.parametrize(
    ("evaluation", "records", "evaluated", "recorded"),
    [
        (3, 4, [6, 9, 12], [6, 8, 9, 12]),  # as the uninterrupted run
        (6, 4, [6, 12], [6, 8, 12]),
        (4, 4, [8, 12], [8, 12]),
        (4, 3, [8, 12], [6, 8, 9, 12]),  # the record that was given up with the evaluation is made
        (7, 7, [7, 12], [7, 12]),
    ],
)
def test_an_evaluation_cut_off_at_6_is_made_up_for_as_the_periods_of_the_resumed_run_say(
    evaluation: int, records: int, evaluated: list[int], recorded: list[int]
) -> None:
    state, before = interrupted(evaluation=3, records=4, at=6, max_iter=12)
    assert [iteration for iteration, _ in before.made] == [3, 4]
    _, evaluates, after, saves = resumed(state, evaluation, records, max_iter=12)
    assert (evaluates.done, [iteration for iteration, _ in after.made]) == (evaluated, recorded)
    assert (saves.final, saves.states[-1]["hooks"]["trainer"]["pending"]) == ([True], False)


def test_a_run_killed_at_7_and_resumed_with_evaluation_period_7_does_not_evaluate_7_twice() -> None:
    saves = Saves(7)
    make_trainer([Interruptible(3), Records(3), saves], max_iter=12).train()
    state = saves.states[0]
    assert state["iteration"] == 7
    _, evaluates, records, _ = resumed(state, 7, 3, 15)
    assert (evaluates.done, [iteration for iteration, _ in records.made]) == ([14, 15], [9, 12, 14, 15])


def test_max_iter_lowered_to_the_iteration_of_a_cut_off_evaluation_ends_the_run_with_it() -> None:
    state, _ = interrupted(evaluation=3, records=4, at=6, max_iter=12)
    trainer, evaluates, records, saves = resumed(state, 3, 4, 6)
    assert (trainer.iteration, evaluates.done, records.made) == (6, [6], [(6, {"score": 6.0})])
    assert (saves.final, trainer.pending) == ([True], False)


def test_max_iter_lowered_to_the_iteration_of_a_complete_checkpoint_leaves_nothing_to_do() -> None:
    saves = Saves(6)
    make_trainer([Interruptible(3), Records(4), saves], max_iter=12).train()
    trainer, evaluates, records, after = resumed(saves.states[0], 3, 4, 6)
    assert (trainer.iteration, evaluates.done, records.made, after.final) == (6, [], [], [])


def test_a_signal_before_the_first_update_of_a_resumed_run_keeps_the_evaluation_pending() -> None:
    class Early(HookBase):
        def before_train(self, trainer: Trainer) -> None:
            trainer.interrupt(15)

    state, _ = interrupted(evaluation=3, records=4, at=6, max_iter=12)
    trainer, evaluates, records, saves = resumed(state, 3, 4, 12, Early())
    assert (trainer.iteration, trainer.pending, evaluates.done, records.made) == (6, True, [], [])
    _, evaluates, records, _ = resumed(saves.states[-1], 3, 4, 12)
    assert (evaluates.done, [iteration for iteration, _ in records.made]) == ([6, 9, 12], [6, 8, 9, 12])


def test_a_stop_asked_for_before_a_cut_off_evaluation_is_kept() -> None:
    class Stop(HookBase):
        def before_step(self, trainer: Trainer) -> None:
            if trainer.iteration == 5:
                trainer.request_stop("enough")

    saves = Saves()
    trainer = make_trainer([Stop(), Interruptible(3, signal_at=6), saves], max_iter=12)
    with pytest.raises(Interrupted):
        trainer.train()
    assert (saves.final, saves.states[0]["hooks"]["trainer"]["stop"]) == ([False], "enough")
    trainer, evaluates, _, after = resumed(saves.states[0], 3, 4, 12)
    assert (trainer.iteration, trainer.stop_reason, evaluates.done, after.final) == (6, "enough", [6], [True])


def test_a_scalar_put_before_the_step_survives_an_evaluation_that_is_cut_off() -> None:
    class Puts(HookBase):
        def before_step(self, trainer: Trainer) -> None:
            if trainer.iteration == 5:
                trainer.scalars["mine"] = 1.5

    saves = Saves()
    trainer = make_trainer([Puts(), Interruptible(3, signal_at=6), Records(4), saves], max_iter=12)
    with pytest.raises(Interrupted):
        trainer.train()
    assert trainer.scalars == {"mine": 1.5}
    _, _, records, _ = resumed(saves.states[0], 3, 4, 12)
    assert records.made[0] == (6, {"mine": 1.5, "score": 6.0})


@pytest.mark.need("D14")
def test_work_given_up_because_of_a_signal_is_done_by_the_resumed_run() -> None:
    """Also in the last iteration, which is not over then; a stop that was asked for before stays one."""

    class Long(HookBase):
        def __init__(self, signal_at: int = 0) -> None:
            self.signal_at, self.done = signal_at, []

        def before_step(self, trainer: Trainer) -> None:
            if trainer.iteration == 3:
                trainer.request_stop("enough")

        def after_step(self, trainer: Trainer) -> None:
            if trainer.iteration == self.signal_at:
                trainer.interrupt(15)
            trainer.raise_if_interrupted()
            self.done.append(trainer.iteration)
            trainer.scalars["score"] = 1.0

    class Saving(HookBase):
        period = 0
        runs_last = True
        saved: list[dict[str, Any]]

        def after_step(self, trainer: Trainer) -> None:
            self.saved = [trainer.state_dict()]

    for k, pending in ((2, True), (4, True)):
        saving, interrupted = Saving(), Long(k)
        trainer = make_trainer([saving, interrupted, Recorder()], max_iter=9)
        with pytest.raises(Interrupted):
            trainer.train()
        assert interrupted.done == list(range(1, k))
        assert (trainer.iteration, trainer.pending, trainer.scalars) == (k, pending, {"score": 1.0})
        (state,) = saving.saved
        assert state["hooks"]["trainer"]["pending"]
        recorder, resumed = Recorder(), Long()
        trainer = make_trainer([saving, resumed, recorder], max_iter=9)
        trainer.load_state_dict(state)
        trainer.train()
        assert resumed.done == list(range(k, 5))
        assert recorder.events[:2] == [("before_train", k), ("after_step", k)]
        assert (trainer.iteration, trainer.stop_reason, trainer.pending) == (4, "enough", False)
        assert not saving.saved[0]["hooks"]["trainer"]["pending"]


def test_a_finite_loader_is_restarted_when_it_ends() -> None:
    batches = [(torch.ones(1, 2), torch.zeros(1, 1))] * 3
    trainer = make_trainer([], max_iter=7, batches=batches)
    trainer.train()
    assert trainer.iteration == 7


def test_an_empty_loader_is_refused() -> None:
    with pytest.raises(ValueError, match="the data loader gave no batch"):
        make_trainer([], batches=[]).train()


def test_a_loader_with_batches_is_asked_for_the_batch_of_the_iteration() -> None:
    asked: list[int] = []

    class Loader:
        def __iter__(self) -> Any:
            raise AssertionError("batches(start) comes first")

        def batches(self, start: int) -> Any:
            asked.append(start)
            while True:
                yield torch.ones(1, 2), torch.zeros(1, 1)

    trainer = make_trainer([], max_iter=7, batches=Loader())
    trainer.iteration = 5
    trainer.train()
    assert asked == [5]


def test_several_losses_are_summed() -> None:
    trainer = make_trainer([], max_iter=1)
    trainer.train()
    trainer.flush_losses()
    means = trainer.losses.averages()
    assert means["total_loss"] == pytest.approx(means["loss_mse"] + means["loss_abs"], rel=1e-6)


def test_a_metric_is_averaged_and_neither_summed_nor_differentiated() -> None:
    class WithMetric(Regression):
        def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
            losses = super().forward(x, y)
            return {**losses, "train/bias": self.net.bias.mean()}  # has a gradient, if anyone asks for it

    plain, metered = make_trainer([], max_iter=2), make_trainer([], max_iter=2)
    metered.model.__class__ = WithMetric
    biases = [metered.model.net.bias.item()]
    metered.train()
    plain.train()
    for ours, theirs in zip(metered.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    for trainer in (metered, plain):
        trainer.flush_losses()
    means, expected = metered.losses.averages(), plain.losses.averages()
    one = make_trainer([], max_iter=1)
    one.train()
    biases.append(one.model.net.bias.item())
    assert means.pop("train/bias") == pytest.approx(sum(biases) / 2)
    assert means == expected


def random_batches(samples: int = 8) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(samples, 2, generator=generator), torch.randn(samples, 1, generator=generator))] * 3


@pytest.mark.need("B16", "E12")
def test_four_micro_batches_of_two_give_the_gradients_weights_and_losses_of_a_batch_of_eight() -> None:
    gradients: dict[int, list[Tensor]] = {1: [], 4: []}
    trainers = {}
    for steps, kept in gradients.items():

        class Keep(HookBase):
            def after_backward(self, trainer: Trainer, kept: list[Tensor] = kept) -> None:
                kept += [parameter.grad.clone() for parameter in trainer.model.parameters()]

        trainers[steps] = make_trainer([Keep()], max_iter=5, batches=random_batches(), accum_steps=steps)
        trainers[steps].train()
        trainers[steps].flush_losses()
    assert len(gradients[4]) == len(gradients[1]) == 10  # after_backward comes once an update
    for ours, theirs in zip(gradients[4], gradients[1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    weights = [list(trainer.model.parameters()) for trainer in trainers.values()]
    for ours, theirs in zip(*weights, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    one, four = (trainer.losses.averages() for trainer in trainers.values())
    assert four == pytest.approx(one, abs=1e-6)


@pytest.mark.need("B15", "B16", "E12")
def test_the_rates_are_the_same_list_with_one_micro_batch_and_with_four() -> None:
    used: dict[int, list[float]] = {1: [], 4: []}
    for steps, rates in used.items():

        class Rates(HookBase):
            def after_step(self, trainer: Trainer, rates: list[float] = rates) -> None:
                rates += trainer.rates

        make_trainer([Rates()], max_iter=7, batches=random_batches(), accum_steps=steps).train()
    assert used[4] == used[1] == [0.1, 0.1, 0.05, 0.05, 0.025, 0.025, 0.0125]


@pytest.mark.need("E12")
def test_a_batch_that_cannot_be_cut_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be cut into 3 equal micro-batches"):
        make_trainer([], batches=random_batches(), accum_steps=3).train()
    with pytest.raises(ValueError, match="accum_steps: an update has at least 1 micro-batch; got 0"):
        make_trainer([], accum_steps=0)


@pytest.mark.need("E11")
def test_hooks_see_the_gradients_as_they_came_and_what_they_add_is_clipped_too() -> None:
    """After the hook the gradient is (3, 4, 12) in all, of norm 13; the weights move by lr 0.1 along it."""
    seen: list[float] = []

    class Add(HookBase):
        def after_backward(self, trainer: Trainer) -> None:
            seen.append(trainer.model.net.weight.grad.abs().sum().item())
            trainer.model.net.weight.grad = torch.tensor([[3.0, 4.0]])
            trainer.model.net.bias.grad = torch.tensor([12.0])

    trainer = make_trainer([Add()], max_iter=1, clip=GradientClipping("full_model", 6.5))
    before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    trainer.train()
    trainer.flush_losses()
    assert seen[0] > 0
    assert trainer.losses.averages()["grad_norm"] == 13.0
    moved = torch.cat([(a - b).flatten() for a, b in zip(before, trainer.model.parameters(), strict=True)])
    assert moved.tolist() == pytest.approx([0.15, 0.2, 0.6], abs=1e-6)


@pytest.mark.need("E11", "E12")
def test_clipping_bounds_the_accumulated_gradient_not_each_micro_batch() -> None:
    clip = GradientClipping("full_model", 0.01)
    one, four = (
        make_trainer([], max_iter=3, batches=random_batches(), accum_steps=steps, clip=clip) for steps in (1, 4)
    )
    for trainer in (one, four):
        trainer.train()
        trainer.flush_losses()
    assert four.losses.averages() == pytest.approx(one.losses.averages(), rel=1e-5)
    for ours, theirs in zip(four.model.parameters(), one.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.need("E6", "E11")
def test_a_nan_names_the_gradient_norm_if_gradients_are_clipped() -> None:
    bad = (torch.full((1, 2), float("nan")), torch.zeros(1, 1))
    trainer = make_trainer([], max_iter=1, batches=[bad], clip=GradientClipping("full_model", 1.0))
    trainer.train()
    with pytest.raises(NonFiniteLossError, match=r"total_loss is nan \(.*loss_abs nan, grad_norm nan\)"):
        trainer.flush_losses()


@pytest.mark.need("E4")
def test_the_average_holds_the_weights_after_the_update_when_hooks_run() -> None:
    seen: list[bool] = []

    class Compare(HookBase):
        def after_step(self, trainer: Trainer) -> None:
            assert trainer.ema is not None
            seen.append(torch.equal(trainer.ema.model.net.weight, trainer.model.net.weight))

    trainer = make_trainer([Compare()], max_iter=3, decay=0.0)
    trainer.train()
    assert seen == [True, True, True]


@pytest.mark.need("E6")
def test_a_nan_names_the_first_bad_iteration_its_terms_and_what_to_try() -> None:
    good = (torch.ones(1, 2), torch.zeros(1, 1))
    bad = (torch.full((1, 2), float("nan")), torch.zeros(1, 1))

    class Settle(HookBase):
        def after_step(self, trainer: Trainer) -> None:
            if trainer.iteration == 5:
                trainer.flush_losses()

    trainer = make_trainer([Settle()], max_iter=9, batches=[good, good, bad, good, good, good])
    with pytest.raises(NonFiniteLossError, match=r"iteration 3: total_loss is nan \(loss_mse nan, loss_abs nan\)"):
        trainer.train()
    assert trainer.iteration == 5


GOOD = (torch.ones(4, 2), torch.zeros(4, 1))
BAD = (torch.full((4, 2), float("nan")), torch.zeros(4, 1))
HALF_BAD = (torch.cat([GOOD[0][:3], BAD[0][:1]]), GOOD[1])


class Told(list[Any]):
    """Batches of a loader that can tell what is in them."""

    def describe_samples(self, iteration: int) -> str:
        return f"those of batch {iteration}"


@pytest.mark.need("E6")
def test_a_nan_names_the_samples_of_its_batch_if_the_loader_knows_them() -> None:
    trainer = make_trainer([], max_iter=5, batches=Told([GOOD, GOOD, BAD, GOOD, GOOD]))
    trainer.train()
    samples = "samples of its batch: those of batch 2"
    expected = rf"iteration 3: total_loss is nan \(.*\); {samples}; the learning rate of the last"
    with pytest.raises(NonFiniteLossError, match=expected) as caught:
        trainer.flush_losses()
    assert caught.value.iteration == 3


def make_skipping(batches: list[Any], limit: int = 2, hooks: list[HookBase] | None = None, **more: Any) -> Trainer:
    # Ours: torch's own schedules warn if the first update of all is skipped.
    options = {"schedule": lambda it: WarmupMultiStepLR(it, [2], gamma=0.5, warmup_iters=0)} | more
    return make_trainer(hooks or [], max_iter=len(batches), batches=batches, nan_limit=limit, **options)


@pytest.mark.need("E6")
@pytest.mark.parametrize("at", [0, 1, 4])
def test_a_skipped_update_leaves_the_weights_while_rate_data_and_count_move_on(
    at: int, logged: list[logging.LogRecord]
) -> None:
    others = random_batches() + random_batches()[:1]
    batches = Told(others[:at] + [BAD] + others[at:])
    seen: list[tuple[int, list[float | Tensor], Tensor]] = []

    class See(HookBase):
        def after_step(self, trainer: Trainer) -> None:
            seen.append((trainer.iteration, trainer.rates, trainer.model.net.weight.detach().clone()))

    trainer = make_skipping(batches, hooks=[See()])
    before = trainer.model.net.weight.detach().clone()
    trainer.train()
    assert [iteration for iteration, _, _ in seen] == [1, 2, 3, 4, 5]
    assert [rates for _, rates, _ in seen] == [[0.1], [0.1], [0.05], [0.05], [0.05]]
    weights = [before, *(weight for _, _, weight in seen)]
    assert [torch.equal(a, b) for a, b in itertools.pairwise(weights)] == [i == at for i in range(5)]
    assert trainer.skipped.state_dict() == {"total": 1, "in_a_row": int(at == 4)}
    (line,) = (record.getMessage() for record in logged)
    assert line == (
        f"iteration {at + 1} is skipped: total_loss is nan (loss_mse nan, loss_abs nan); samples of its batch: "
        f"those of batch {at}"
    )
    trainer.flush_losses()
    assert all(torch.tensor(value).isfinite() for value in trainer.losses.averages().values())


@pytest.mark.need("E6")
def test_a_skipped_update_leaves_the_other_updates_as_in_a_run_without_it() -> None:
    batches = random_batches()

    def constant(optimizer: Optimizer) -> LRScheduler:  # so that only the batches differ
        return WarmupMultiStepLR(optimizer, [], warmup_iters=0)

    plain = make_skipping(batches, schedule=constant)
    skipping = make_skipping([batches[0], BAD, *batches[1:]], schedule=constant)
    for trainer in (plain, skipping):
        trainer.train()
        trainer.flush_losses()
    for ours, theirs in zip(skipping.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert skipping.losses.averages() == plain.losses.averages()


@pytest.mark.need("E6")
def test_one_skipped_update_more_in_a_row_than_the_limit_ends_the_run() -> None:
    trainer = make_skipping([GOOD, BAD, BAD, GOOD, BAD, BAD, BAD])
    expected = r"total_loss is nan \(.*\), as were the 2 updates before, which were skipped \(SOLVER.NAN_LIMIT\)"
    with pytest.raises(NonFiniteLossError, match=f"iteration 7: {expected}"):
        trainer.train()
    assert trainer.iteration == 6
    assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())


@pytest.mark.need("E6", "E12")
def test_one_bad_micro_batch_skips_the_complete_update() -> None:
    trainer = make_skipping([GOOD, HALF_BAD], accum_steps=4)
    trainer.train()
    assert trainer.skipped.total == 1
    assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())


@pytest.mark.need("E6", "E11")
def test_a_non_finite_gradient_norm_skips_the_update_if_gradients_are_clipped(
    logged: list[logging.LogRecord],
) -> None:
    class Overflow(HookBase):
        def after_backward(self, trainer: Trainer) -> None:
            if trainer.iteration == 1:
                trainer.model.net.bias.grad = torch.tensor([float("inf")])

    trainer = make_skipping([GOOD] * 3, hooks=[Overflow()], clip=GradientClipping("full_model", 1.0))
    trainer.train()
    assert trainer.skipped.total == 1
    assert logged[0].getMessage().startswith("iteration 2 is skipped: grad_norm is inf (total_loss ")
    trainer.state_dict()  # all finite


@pytest.mark.need("E4", "E6")
def test_the_average_takes_no_part_in_a_skipped_update() -> None:
    trainer = make_skipping([GOOD, BAD, GOOD], decay=0.5)
    trainer.train()
    assert trainer.ema is not None
    assert trainer.ema.num_updates == 2


@pytest.mark.need("E6", "S9")
@pytest.mark.parametrize("clip", [None, GradientClipping("full_model", 1.0)])
def test_skipping_costs_one_read_a_step(clip: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_skipping([GOOD] * 20, clip=clip)
    reads: list[str] = []
    count_reads(monkeypatch, reads.append)
    trainer.train()
    assert reads == ["__bool__"] * 20


Tiny = Callable[..., CfgNode]


def poisoned(cfg: CfgNode, *iterations: int) -> Trainer:
    """A trainer whose images are NaN in these iterations, from 0, so that BatchNorm's statistics become it too."""
    trainer = build_trainer(cfg)
    forward = trainer.model.forward

    def poisoned_forward(images: Tensor, *labels: Tensor) -> Any:
        bad = trainer.model.training and trainer.iteration in iterations
        return forward(images * float("nan") if bad else images, *labels)

    trainer.model.forward = poisoned_forward  # type: ignore[method-assign]
    return trainer


@pytest.mark.need("E6")
def test_by_default_the_first_nan_ends_the_run_and_names_the_positions_of_its_samples(tiny: Tiny) -> None:
    trainer = poisoned(tiny("LOG_PERIOD", 1), 3)
    samples = ", ".join(map(str, trainer.data_loader.sample_indices(3)))  # type: ignore[attr-defined]
    with pytest.raises(NonFiniteLossError, match=f"iteration 4: total_loss .*; samples of its batch: {samples};"):
        trainer.train()


@pytest.mark.need("E6")
def test_a_skipped_iteration_leaves_no_trace_in_buffers_and_records(tiny: Tiny, tmp_path: Path) -> None:
    cfg = resolve_config(tiny("SOLVER.NAN_POLICY", "skip", "SOLVER.EMA.ENABLED", True, "LOG_PERIOD", 1))
    before: dict[str, Tensor] = {}

    class Compare(HookBase):
        def before_step(self, trainer: Trainer) -> None:
            before.update({name: buffer.clone() for name, buffer in trainer.model.named_buffers()})

        def after_step(self, trainer: Trainer) -> None:
            same = [torch.equal(buffer, before[name]) for name, buffer in trainer.model.named_buffers()]
            assert any(same) == all(same) == (trainer.iteration in (4, 5))

    trainer = poisoned(cfg, 3, 4)
    trainer.hooks.append(Compare())
    trainer.train()
    content = load_checkpoint(tmp_path / "out" / "model_final.pth")
    for model in (content["model"], content["ema"]["model"]):
        assert all(tensor.isfinite().all() for tensor in model.values())
    assert content["hooks"]["trainer"]["skipped"] == {"total": 2, "in_a_row": 0}
    records = [json.loads(line) for line in (tmp_path / "out" / "metrics.json").read_text().splitlines()]
    assert [record.get("skipped_steps") for record in records] == [None] * 3 + [1] + [2] * 10
    assert [record["iteration"] for record in records if record["total_loss"] is None] == [4, 5]


@pytest.mark.need("D1", "E6")
def test_a_run_killed_between_skipped_updates_continues_bit_for_bit(tiny: Tiny, tmp_path: Path) -> None:
    class Die(HookBase):
        def before_step(self, trainer: Trainer) -> None:
            if trainer.iteration == 4:
                raise KeyboardInterrupt

    words = ("SOLVER.NAN_POLICY", "skip", "SOLVER.NAN_LIMIT", 3, "SOLVER.CHECKPOINT_PERIOD", 4)
    whole, killed = (
        resolve_config(tiny(*words, "OUTPUT_DIR", str(tmp_path / name))) for name in ("whole", "killed")
    )
    poisoned(whole, 2, 3, 4).train()
    trainer = poisoned(killed, 2, 3, 4)
    trainer.hooks.append(Die())
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    finish_saves()
    trainer = poisoned(killed, 2, 3, 4, 5)
    load_start(trainer, load_checkpoint(tmp_path / "killed" / "model_0000003.pth"))
    with pytest.raises(NonFiniteLossError, match="iteration 6: .* as were the 3 updates before"):
        trainer.train()
    trainer = poisoned(killed, 2, 3, 4)
    load_start(trainer, load_checkpoint(tmp_path / "killed" / "model_0000003.pth"))
    trainer.train()
    ours, theirs = (load_checkpoint(tmp_path / name / "model_final.pth") for name in ("killed", "whole"))
    for name, tensor in theirs["model"].items():
        assert torch.equal(ours["model"][name], tensor), name
    assert ours["hooks"] == theirs["hooks"]
    records = [(tmp_path / name / "metrics.json").read_text().splitlines()[-1] for name in ("killed", "whole")]
    losses = [{k: v for k, v in json.loads(line).items() if "time" not in k} for line in records]
    assert losses[0] == losses[1]


@pytest.mark.need("E6")
def test_the_policy_to_skip_updates_is_logged_at_the_start(tiny: Tiny, logged: list[logging.LogRecord]) -> None:
    cfg = resolve_config(tiny("SOLVER.NAN_POLICY", "skip", "SOLVER.NAN_LIMIT", 4))
    log_run(cfg, build_trainer(cfg))
    line = "SOLVER.NAN_POLICY: non-finite updates are skipped, up to 4 in a row; each step waits for the loss"
    assert line in [record.getMessage() for record in logged]


@pytest.mark.need("E6")
@pytest.mark.parametrize("where", ["statistics", "average"])
def test_statistics_and_averages_that_are_not_finite_are_not_saved(tiny: Tiny, where: str) -> None:
    trainer = build_trainer(tiny("SOLVER.EMA.ENABLED", True))
    assert trainer.ema is not None
    trainer.state_dict()
    if where == "statistics":
        dict(trainer.model.named_buffers())["block1.1.running_var"][0] = float("nan")
    else:
        dict(trainer.ema.model.named_parameters())["fc.weight"].data[0, 0] = float("inf")
    name = "block1.1.running_var" if where == "statistics" else "average of fc.weight"
    with pytest.raises(NonFiniteLossError, match=f"iteration 0: weights are infinite or NaN: {name};"):
        trainer.state_dict()


def count_reads(monkeypatch: pytest.MonkeyPatch, read: Callable[[str], object]) -> None:
    """Call `read` with the name of each method that waits for the device."""
    for method in ("item", "cpu", "tolist", "numpy", "__bool__", "__float__", "__int__"):
        original = getattr(Tensor, method)

        def counted(
            self: Tensor, *args: Any, _name: str = method, _original: Any = original, **kwargs: Any
        ) -> Any:
            read(_name)
            return _original(self, *args, **kwargs)

        monkeypatch.setattr(Tensor, method, counted)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: read("synchronize"))


@pytest.mark.need("E7", "S9")
@pytest.mark.parametrize("options", [{}, {"accum_steps": 2, "clip": GradientClipping("full_model", 1.0)}])
def test_a_step_reads_nothing_back_from_the_device(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer([], max_iter=50, **options)
    reads: list[str] = []
    count_reads(monkeypatch, reads.append)
    trainer.train()
    assert reads == []
    trainer.flush_losses()
    assert reads == ["tolist"]  # one transfer for all fifty


@pytest.mark.need("E7", "S9")
def test_a_run_with_all_default_hooks_reads_losses_once_a_log_period_and_nothing_else(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without EMA, whose count torch reads in each update: it is on the CPU, so that nothing waits.
    trainer = build_trainer(tiny("LOG_PERIOD", 5, "SOLVER.CLIP_GRADIENTS.ENABLED", True))
    trainer.data_loader = [next(iter(trainer.data_loader.batches(0)))]  # type: ignore[attr-defined]
    reads: list[tuple[int, str]] = []
    count_reads(monkeypatch, lambda method: reads.append((trainer.iteration, method)))
    trainer.train()
    # After the first update lr.png is drawn, and before any such work losses are looked at; so at the end.
    assert [read for read in reads if read[0] < 14] == [(1, "tolist"), (5, "tolist"), (10, "tolist")]


def test_a_layer_held_in_evaluation_mode_stays_there_and_a_model_in_evaluation_mode_is_put_to_training() -> None:
    trainer = make_trainer([], max_iter=1)
    trainer.model.net.eval()
    trainer.train()
    assert trainer.model.training
    assert not trainer.model.net.training
    trainer = make_trainer([], max_iter=1)
    trainer.model.eval()
    trainer.train()
    assert trainer.model.net.training


def test_non_finite_weights_are_not_saved() -> None:
    """An infinite rate: the loss of the first update is finite, the weights after it are not."""
    trainer = make_trainer([], max_iter=1)
    trainer.optimizer.param_groups[0]["lr"] = float("inf")
    trainer.train()
    with pytest.raises(
        NonFiniteLossError, match="iteration 1: weights are infinite or NaN: net.weight, net.bias; .* --resume"
    ):
        trainer.state_dict()


@pytest.mark.need("D9")
def test_optimizer_state_follows_its_parameters_by_name_into_other_groups() -> None:
    def build(groups: list[list[str]]) -> Trainer:
        torch.manual_seed(0)
        model = Regression()
        named = dict(model.named_parameters())
        params = [{"params": [(name, named[name]) for name in group]} for group in groups]
        optimizer = torch.optim.SGD(params, lr=0.1, momentum=0.9)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 100)
        return Trainer(model, optimizer, scheduler, [(torch.ones(4, 2), torch.zeros(4, 1))], max_iter=3)

    before = build([["net.weight", "net.bias"]])
    before.train()
    after = build([["net.bias"], ["net.weight"]])
    after.load_state_dict(before.state_dict())
    for name, parameter in after.model.named_parameters():
        saved = before.optimizer.state[before.model.get_parameter(name)]["momentum_buffer"]
        assert torch.equal(after.optimizer.state[parameter]["momentum_buffer"], saved), name


@pytest.mark.need("D9")
def test_loading_optimizer_state_lists_parameter_names_that_differ() -> None:
    trainer = make_trainer([], max_iter=1)
    state = trainer.optimizer.state_dict()
    state["param_groups"][0]["param_names"] = ["net.weight", "net.offset"]
    model = Regression()
    optimizer = torch.optim.SGD(list(model.named_parameters()), lr=0.1)
    own = Trainer(model, optimizer, halved(optimizer), [], max_iter=1)
    with pytest.raises(ValueError, match="no saved state for net.bias, and no parameter for net.offset; keep"):
        own.load_state_dict({**trainer.state_dict(), "optimizer": state})


@pytest.mark.parametrize("part", ["model", "ema"])
def test_loading_refuses_a_tensor_of_another_type_which_torch_would_convert(part: str) -> None:
    trainer = make_trainer([], max_iter=1, decay=0.5)
    state = copy.deepcopy(trainer.state_dict())
    weights = state["model"] if part == "model" else state["ema"]["model"]
    weights["net.bias"] = weights["net.bias"].long()
    with pytest.raises(TypeError, match=r"^net.bias is of torch.int64, and the model's is of torch.float32$"):
        trainer.load_state_dict(state)


def test_a_hook_that_is_new_to_a_resumed_run_starts_as_it_is() -> None:
    class Counts(HookBase):
        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.best = state["best"]

    state = make_trainer([]).state_dict()
    make_trainer([Counts()]).load_state_dict(state)


@pytest.mark.need("S5", "D10")
def test_a_hook_state_without_its_hook_is_named_on_resume(logged: list[logging.LogRecord]) -> None:
    class Counter(HookBase):
        def state_dict(self) -> dict[str, Any]:
            return {"n": 1}

    state = make_trainer([Counter(), Recorder()]).state_dict()
    make_trainer([]).load_state_dict(state)
    assert [record.getMessage() for record in logged if record.levelname == "WARNING"] == [
        "the checkpoint holds the state of Counter, a hook that this run does not have"
    ]


def test_loading_twice_keeps_this_runs_hyper_parameters() -> None:
    """On resume the config rules: weight decay is not restored from the optimizer's state."""
    before = make_trainer([], max_iter=3)
    before.train()
    state = before.state_dict()
    after = make_trainer([], max_iter=3)
    after.optimizer.param_groups[0]["weight_decay"] = 0.25
    after.load_state_dict(state)
    assert after.optimizer.param_groups[0]["weight_decay"] == 0.25
    assert after.iteration == 3
    for ours, theirs in zip(after.model.parameters(), before.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_the_model_and_the_schedule_of_a_trainer_cannot_be_replaced() -> None:
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer)
    trainer = Trainer(model, optimizer, scheduler, [], max_iter=1)
    with pytest.raises(AttributeError, match=r"a Trainer keeps its model, .* with trainer.model.load_state_dict"):
        trainer.model = torch.nn.Linear(2, 1)
    with pytest.raises(AttributeError, match=r"a Trainer keeps its scheduler, .*; make another Trainer$"):
        trainer.scheduler = scheduler
    assert trainer.model is model
