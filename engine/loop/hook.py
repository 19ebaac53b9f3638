"""What runs around the loop: the events, and when hooks are due."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .trainer import Trainer


class HookBase:
    """What runs around the loop. Each method gets the trainer; keep no reference to it.

    On several ranks each runs all hooks, and what rank 0 puts into `trainer.scalars` or `trainer.save_as` is what
    counts, whatever the others do; it may have to wait for a later update, see `Trainer.is_wanted`.

    Events, in the order of one iteration, hooks in the order of the list:

    - before_train: once, after a checkpoint was loaded and before the first iteration.
    - before_step: `trainer.iteration` is the number of updates done so far.
    - after_backward: the update's gradients are there, whole and not clipped yet; the update is not.
    - after_step: the update is done and counted; `trainer.is_last_step` says whether the run ends with it, and
      `trainer.interrupted` whether a signal cuts it off here, to be resumed: then only the checkpoint is due.
      It is called after those updates alone where any hook has something to do (see `next_due`).
    - after_train: once, when the run ended cleanly, or a signal has cut it off.
    - close: once, at the very end, however the run ends: an exception may be on its way.
    """

    #: Whether the hook runs behind all that are not so, wherever it stands in the list.
    runs_last = False

    @property
    def name(self) -> str:
        """The key of this hook's state in a checkpoint, unique in a run; the class's name by default."""
        return type(self).__name__

    def before_train(self, trainer: Trainer) -> None:
        """Run before the first iteration."""

    def before_step(self, trainer: Trainer) -> None:
        """Run before each iteration."""

    def after_backward(self, trainer: Trainer) -> None:
        """Run between the gradients and the update."""

    def after_step(self, trainer: Trainer) -> None:
        """Run after each update."""

    def next_due(self, iteration: int) -> float:
        """Return after how many updates after_step has something to do again, `iteration` being done.

        It is called then, after the last update, and where a signal comes, a hook has asked for a stop or, in one
        process, a checkpoint (`save_as`) or a record (`scalars`); also where another hook is due, so it looks
        again itself. By default it is due after each update. On several ranks it is the same number on all.
        """
        return iteration + 1

    def after_train(self, trainer: Trainer) -> None:
        """Run after the last iteration."""

    def close(self, trainer: Trainer) -> None:
        """Put away what is open."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, as tensors and plain values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned."""


EVENTS = ("before_train", "before_step", "after_backward", "after_step", "after_train", "close")


def overrides(hook: HookBase, event: str) -> bool:
    """Return whether a hook has something to do at an event."""
    return getattr(type(hook), event) is not getattr(HookBase, event)


def every(period: int, iteration: int) -> bool:
    """Return whether something with this period is due after `iteration` updates; 0 is never.

    >>> [i for i in range(1, 22) if every(7, i)]
    [7, 14, 21]
    >>> every(0, 7)
    False
    """
    return period > 0 and iteration % period == 0


def next_multiple(period: int, iteration: int) -> float:
    """Return the first count after `iteration` at which something with this period is due; 0 is never.

    >>> [next_multiple(7, i) for i in (0, 6, 7)], next_multiple(0, 7)
    ([7, 7, 14], inf)
    """
    return (iteration // period + 1) * period if period > 0 else math.inf
