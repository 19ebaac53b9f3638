"""Which scheduler an optimizer follows: the one that was built last over it."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary, ref

from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import Optimizer

if TYPE_CHECKING:
    from .lr_scheduler import ScheduleLR


class _Owner(NamedTuple):
    scheduler: ref[ScheduleLR]
    before: ref[ScheduleLR] | None  # whose place it took
    after_torch: bool  # whether one of torch's had been built by then
    handles: tuple[Any, ...]  # of its hooks on the optimizer


# Weak on both sides: a scheduler that nobody steps any more must neither live on nor write.
_OWNERS: WeakKeyDictionary[Optimizer, _Owner] = WeakKeyDictionary()


def claim(scheduler: ScheduleLR) -> None:
    """Let an optimizer follow `scheduler`, and no longer the one before."""
    optimizer, reference = innermost(scheduler.optimizer), ref(scheduler)
    last = _OWNERS.get(optimizer)
    if last is not None:
        for handle in last.handles:
            handle.remove()
        replaced = last.scheduler()
        if replaced is not None:
            replaced._replaced_by, replaced._simple = type(scheduler).__name__, None
    before = None if last is None else last.scheduler
    _OWNERS[optimizer] = _Owner(reference, before, _marked_by_torch(scheduler), _watch(optimizer, reference))


def check_owner(scheduler: ScheduleLR) -> None:
    """Raise RuntimeError where another scheduler was built after this one."""
    if scheduler._replaced_by:
        raise RuntimeError(_one_scheduler(f"{scheduler._replaced_by} was built after this {_name(scheduler)}"))


def check_alone(scheduler: ScheduleLR, stacklevel: int) -> None:
    """Warn of older schedulers of the same optimizer; to be asked at the first step.

    Not earlier: in `s = X(optimizer); s = Y(optimizer)` the first one still lives while the second is built.

    Args:
        scheduler: `check_owner` has seen it.
        stacklevel: of the warning.

    Raises:
        RuntimeError: one of torch's was built after this one, or steps this one among others.
    """
    optimizer = innermost(scheduler.optimizer)
    owner = _OWNERS[optimizer]
    older: list[LRScheduler | None] = [owner.before() if owner.before else None]
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


def among_others(scheduler: ScheduleLR, container: str) -> str:
    """Return the sentence about a scheduler of torch's that steps several."""
    return _one_scheduler(f"torch's {container} cannot step this {_name(scheduler)} among others")


def innermost(optimizer: Any) -> Any:
    """Return the optimizer inside wrappers, such as HF accelerate's, that have no hooks of their own."""
    while isinstance(inner := getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = inner
    return optimizer


def _one_scheduler(problem: str) -> str:
    return (
        f"an optimizer follows one scheduler, the one built last: {problem}; to multiply schedules use "
        "SOLVER.LR_FACTORS, to run one after the other SOLVER.LR_PHASES"
    )


def _watch(optimizer: Optimizer, reference: ref[ScheduleLR]) -> tuple[Any, ...]:
    """Have the scheduler told of groups that were added, and of rates that were loaded."""

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


def _marked_by_torch(scheduler: ScheduleLR) -> bool:
    # All of torch's but ReduceLROnPlateau leave it there, for as long as the optimizer lives.
    return hasattr(scheduler.optimizer.step, "_wrapped_by_lr_sched")


def _torchs(optimizer: Optimizer) -> list[LRScheduler]:
    """Return torch's schedulers of an optimizer that are alive; torch keeps no list of them."""
    # By its type, since asking some objects for their class runs code of theirs.
    found = [one for one in gc.get_objects() if LRScheduler in type(one).__mro__]
    theirs = [one for one in found if not hasattr(type(one), "_replaced_by")]
    return [one for one in theirs if innermost(getattr(one, "optimizer", None)) is optimizer]


def _name(scheduler: object) -> str:
    return type(scheduler).__name__
