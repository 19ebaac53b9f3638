"""Hooks: the events of a run, and when each hook is called after an update."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from ..distributed import comm

logger = logging.getLogger(__name__)

OWN_STATE = "trainer"  # the key of the trainer's own state among the states of the hooks
#: What a hook can act on when others ask for it; see `HookBase.takes`.
TAKES = ("scalars", "save_as", "record")


class Progress(Protocol):
    """What of a `Trainer` decides which hooks are due; its docstring explains the attributes."""

    iteration: int
    is_last_step: bool
    interrupted: int
    scalars: dict[str, float]
    save_as: set[str]
    record: dict[str, float]


class HookBase:
    """Code that runs around the loop. Each method gets the `Trainer`; keep no reference to it.

    Events, in the order of one iteration; hooks are called in the order of the list:

    - before_train: once, after a checkpoint was loaded and before the first iteration.
    - before_step: `trainer.iteration` is the number of completed updates.
    - after_backward: the gradients of the update are complete and not clipped yet.
    - after_step: the update is done and counted, and the hook is due (see `period` and `takes`).
      `trainer.is_last_step` says whether the run ends with this update, `trainer.interrupted` whether a signal
      ends it here, to be resumed.
    - after_train: once, when the run has ended without an exception or a signal has interrupted it.
    - close: once, at the very end, however the run ends: an exception may be propagating.

    after_step is called after every update that `period` divides, and after the last update of the run.

    On several ranks each rank runs all hooks. What rank 0 puts into `trainer.scalars` or `trainer.save_as` counts,
    whatever the others put there. It takes effect at the next update at which a hook that sets its `period` is
    due, or the last one; a hook that leaves it at its default does not count, because to ask costs some tenths of
    a millisecond. `period` and `takes` must be the same on all ranks.

    >>> class Every5(HookBase):
    ...     period = 5
    ...     def after_step(self, trainer): trainer.scalars["half"] = trainer.iteration / 2
    """

    #: The updates between two calls of after_step; 1: after each update, 0: only after the last one. It may change
    #: in before_train and in after_step.
    period: int = 1
    #: What the hook acts on when another one asks for it, beside its period: "scalars" (`trainer.scalars` is not
    #: empty), "save_as" (`trainer.save_as` is not empty), "record" (this iteration has a record; such a hook must
    #: come after the one that makes it, as with `runs_last`); "" is nothing.
    takes: str = ""
    #: Whether the hook is called after all hooks that do not say so, and also when a signal interrupts the run.
    runs_last: bool = False

    @property
    def name(self) -> str:
        """The key of this hook's state in a checkpoint, unique in a run; the name of the class by default."""
        return type(self).__name__

    def before_train(self, trainer: Any) -> None:
        """Run before the first iteration."""

    def before_step(self, trainer: Any) -> None:
        """Run before each iteration."""

    def after_backward(self, trainer: Any) -> None:
        """Run between the backward pass and the optimizer step."""

    def after_step(self, trainer: Any) -> None:
        """Run after the updates at which the hook is due."""

    def after_train(self, trainer: Any) -> None:
        """Run after the last iteration."""

    def close(self, trainer: Any) -> None:
        """Release what is open."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, as tensors and plain values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned."""


def every(period: int, iteration: int) -> bool:
    """Return whether something with this period is due after `iteration` updates; 0 is never.

    >>> [i for i in range(1, 22) if every(7, i)]
    [7, 14, 21]
    >>> every(0, 7)
    False
    """
    return period > 0 and iteration % period == 0


def load_hook_states(hooks: Iterable[HookBase], states: Mapping[str, Any]) -> None:
    """Give hooks their states in a checkpoint; one that is new to this run starts as it is.

    Args:
        hooks: of this run.
        states: by the names of the hooks; the trainer's own is ignored.
    """
    named = {hook.name: hook for hook in hooks}
    for name, state in states.items():
        if name in named:
            named[name].load_state_dict(state)
        elif state and name != OWN_STATE:
            logger.warning("the checkpoint holds the state of %s, a hook that this run does not have", name)


def _has_period(hook: HookBase) -> bool:
    """Return whether a hook, or its class, has set its period."""
    kinds = type(hook).__mro__[: type(hook).__mro__.index(HookBase)]
    return any("period" in vars(each) for each in (hook, *kinds))


class HookCalls:
    """The hooks of a run in the order in which they are called, and the one place that says when each is due.

    Args:
        hooks: those that say `runs_last` are called after all others.

    Raises:
        ValueError: two hooks have the same name, one has the trainer's, or `period` or `takes` has no meaning.
    """

    def __init__(self, hooks: Iterable[HookBase]) -> None:
        self._hooks = sorted(hooks, key=lambda hook: hook.runs_last)
        self._check()
        self._after_step = self._overriding("after_step")
        self._is_alone = comm.world_size() == 1

    def of(self, event: str) -> list[Callable[[Any], None]]:
        """Return what an event calls: the methods of the hooks that override it, so that no other costs time."""
        return [getattr(hook, event) for hook in self._overriding(event)]

    def next_due(self, iteration: int) -> float:
        """Return the first count of updates after `iteration` that a period divides; infinity if there is none."""
        periods = [hook.period for hook in self._after_step if hook.period > 0]
        return min(((iteration // period + 1) * period for period in periods), default=math.inf)

    def call_due(self, trainer: Progress) -> bool:
        """Call after_step of each hook that is due after this update, in order.

        On several ranks all of them are here at the same update; see `HookBase`.

        Returns:
            Whether rank 0 was asked what it wants done: always in one process.
        """
        # Not at a signal: the resumed run is the uninterrupted one, which would not ask there.
        asks = self._is_alone or trainer.is_last_step
        asks = asks or any(
            _has_period(hook) and every(hook.period, trainer.iteration) for hook in self._after_step
        )
        for hook in self._after_step:
            due = trainer.is_last_step or every(hook.period, trainer.iteration)
            due = due or (bool(trainer.interrupted) and hook.runs_last)
            if due or (asks and hook.takes and self._is_asked(hook.takes, trainer)):
                hook.after_step(trainer)
        return asks

    def call_last(self, trainer: Progress) -> None:
        """Call after_step of the hooks that run last, because the others have given up their work."""
        for hook in self._after_step:
            if hook.runs_last:
                hook.after_step(trainer)

    def _is_asked(self, takes: str, trainer: Progress) -> bool:
        """Return whether rank 0 asks for something; waits for all ranks."""
        if takes == "record":
            asked = trainer.record.get("iteration") == trainer.iteration
        else:
            asked = bool(trainer.scalars if takes == "scalars" else trainer.save_as)
        return asked if self._is_alone else comm.all_reduce_max([comm.is_main() and asked]) == [1]

    def _overriding(self, event: str) -> list[HookBase]:
        return [hook for hook in self._hooks if getattr(type(hook), event) is not getattr(HookBase, event)]

    def _check(self) -> None:
        names = [hook.name for hook in self._hooks]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise ValueError(
                f"several hooks are called {', '.join(doubled)}: give each a `name` of its own, "
                "their states are kept by name"
            )
        if OWN_STATE in names:
            raise ValueError(
                f"a hook is called {OWN_STATE}, as the trainer's own state is: give it another `name`"
            )
        for hook in self._hooks:
            if hasattr(hook, "next_due"):
                raise ValueError(
                    f"{hook.name}.next_due() is no longer called: set its attribute `period` to the number of"
                    " updates between two calls of after_step"
                )
            if type(hook.period) is not int or hook.period < 0:
                raise ValueError(f"{hook.name}.period is {hook.period!r}; give a number of updates, or 0")
            if hook.takes and hook.takes not in TAKES:
                raise ValueError(f"{hook.name}.takes is {hook.takes!r}; give one of {', '.join(TAKES)}, or ''")
