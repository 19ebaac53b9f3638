"""The one scheduler that an optimizer follows: the one that was built for it last."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol
from weakref import WeakKeyDictionary, ref

from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import Optimizer


class Owner(Protocol):
    """The part of a scheduler that is needed here; `ScheduleLR` implements it."""

    optimizer: Optimizer
    _replaced_by: str  # the class of the scheduler that replaced it, or ""

    def _replace(self, by: str) -> None:
        """Note that a scheduler of the class `by` was built for the same optimizer."""

    def _before_update(self) -> None:
        """Called before each update of the optimizer."""

    def _adopt_groups(self) -> None:
        """Called before the optimizer loads a state."""

    def _after_loading(self) -> None:
        """Called after the optimizer has loaded a state."""


class _Entry(NamedTuple):
    scheduler: ref[Owner]
    before: ref[Owner] | None  # the scheduler that it replaced
    after_torch: bool  # whether one of torch's schedulers was built earlier
    handles: tuple[Any, ...]  # of its hooks on the optimizer


# Weak references on both sides: a scheduler that is no longer used must be freed, and must not write.
_OWNERS: WeakKeyDictionary[Optimizer, _Entry] = WeakKeyDictionary()


def claim(scheduler: Owner) -> None:
    """Make the optimizer of `scheduler` follow it, instead of an older scheduler."""
    optimizer, reference = innermost(scheduler.optimizer), ref(scheduler)
    last = _OWNERS.get(optimizer)
    if last is not None:
        for handle in last.handles:
            handle.remove()
        replaced = last.scheduler()
        if replaced is not None:
            replaced._replace(by=type(scheduler).__name__)
    before = None if last is None else last.scheduler
    _OWNERS[optimizer] = _Entry(reference, before, _marked_by_torch(scheduler), _watch(optimizer, reference))


def check_owner(scheduler: Owner) -> None:
    """Raise RuntimeError if another scheduler was built after this one."""
    if scheduler._replaced_by:
        raise RuntimeError(_one_scheduler(f"{scheduler._replaced_by} was built after this {_name(scheduler)}"))


def check_alone(scheduler: Owner, stacklevel: int) -> None:
    """Warn about older schedulers of the same optimizer; called at the first step.

    Not earlier: in `s = X(optimizer); s = Y(optimizer)` the first one is still alive while the second is built.

    Args:
        scheduler: has passed `check_owner`.
        stacklevel: of the warning.

    Raises:
        RuntimeError: one of torch's schedulers was built after this one, or steps this one among others.
    """
    optimizer = innermost(scheduler.optimizer)
    owner = _OWNERS[optimizer]
    older: list[object | None] = [owner.before() if owner.before else None]
    if _marked_by_torch(scheduler):
        if not owner.after_torch:
            raise RuntimeError(_one_scheduler(f"one of torch's was built after this {_name(scheduler)}"))
        older += _torchs(optimizer)
    for other in older:
        if other is not None and scheduler in vars(other).get("_schedulers", ()):
            raise RuntimeError(among_others(scheduler, _name(other)))
    names = {_name(other): None for other in older if other is not None}
    if names:
        problem = f"{', '.join(names)}, built before this {_name(scheduler)}, is still there and has no effect"
        warnings.warn(_one_scheduler(problem), stacklevel=stacklevel)


def among_others(scheduler: object, container: str) -> str:
    """Return the message for a scheduler of torch that steps several schedulers."""
    return _one_scheduler(f"torch's {container} cannot step this {_name(scheduler)} among others")


def innermost(optimizer: Any) -> Any:
    """Return the optimizer inside wrappers without hooks, such as HF accelerate's."""
    while isinstance(inner := getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = inner
    return optimizer


def _one_scheduler(problem: str) -> str:
    return (
        f"an optimizer follows one scheduler, the one built last: {problem}; to multiply schedules use "
        "SOLVER.LR_FACTORS, to run one after the other SOLVER.LR_PHASES"
    )


def _watch(optimizer: Optimizer, reference: ref[Owner]) -> tuple[Any, ...]:
    """Register hooks that notify the scheduler of groups that are added and of states that are loaded."""

    def tell(event: str) -> Callable[..., None]:
        def hook(optimizer: Optimizer, *arguments: object) -> None:
            scheduler = reference()
            if scheduler is not None:
                getattr(scheduler, event)()

        return hook

    return (
        optimizer.register_step_pre_hook(tell("_before_update")),
        optimizer.register_load_state_dict_pre_hook(tell("_adopt_groups")),
        optimizer.register_load_state_dict_post_hook(tell("_after_loading")),
    )


def _marked_by_torch(scheduler: Owner) -> bool:
    # Set by all of torch's schedulers except ReduceLROnPlateau, for as long as the optimizer exists.
    return hasattr(scheduler.optimizer.step, "_wrapped_by_lr_sched")


def _torchs(optimizer: Optimizer) -> list[LRScheduler]:
    """Return torch's schedulers of an optimizer that still exist; torch keeps no list of them."""
    # By type(): the `__class__` of some objects is a property that runs their code.
    found = [one for one in gc.get_objects() if LRScheduler in type(one).__mro__]
    theirs = [one for one in found if not hasattr(type(one), "_replaced_by")]  # not a ScheduleLR
    return [one for one in theirs if innermost(getattr(one, "optimizer", None)) is optimizer]


def _name(scheduler: object) -> str:
    return type(scheduler).__name__
