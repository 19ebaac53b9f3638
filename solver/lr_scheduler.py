"""Learning rate schedulers: torch LRSchedulers that follow a schedule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import is_, itemgetter
from typing import Any, NoReturn

import torch
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import Optimizer

from .ownership import among_others, check_alone, check_owner, claim
from .schedules import Group, Schedule, directly

_FIRST = itemgetter(0)


@dataclass(frozen=True)
class GroupSchedules:
    """Schedules that differ between parameter groups, or that change the momentum too.

    Args:
        rate: from a group to its schedule, in factors of the base learning rate.
        momentum: from a group to the schedule of its momentum (or first beta); None: momentum is not changed.
    """

    rate: Callable[[Group], Schedule]
    momentum: Callable[[Group], Schedule] | None = None


class ScheduleLR(LRScheduler):
    """Sets the learning rate of each parameter group to its base learning rate times `schedule(iteration)`.

    Call `step()` after each update. `last_epoch` is the iteration: the number of completed updates, and the index
    of the next one. The learning rate depends on the iteration only. So `state_dict()` contains just the
    iteration; stepping, `lr_at`, `last_epoch` at construction and `load_state_dict` give identical bits; and each
    of them overwrites whatever was written to the groups before. Base learning rates belong to the scheduler:
    those that an optimizer loads are overwritten, in either order of loading. `get_last_lr()` returns floats, even
    if the learning rate of a group is a tensor.

    A group that is added at iteration k follows the schedule from update k on, and the learning rate it is added
    with is its base learning rate. (torch's schedulers take it as the learning rate of update k, so that the
    group's learning rates depend on when it was added, and differ in a run that is resumed with all groups in
    place.)

    An optimizer follows the scheduler that was built for it last. `step()` of an older one raises, and the first
    `step()` of the new one warns if the older one is still referenced. The same applies to torch's schedulers,
    except ReduceLROnPlateau, which cannot be detected: the learning rate it sets lasts until the next `step()`.

    Args:
        optimizer: base learning rates are the "initial_lr" of its groups, or "lr" if they have none. If the
            learning rate of a group is a tensor, it is updated in place.
        schedule: from the iteration to a factor, defined for every t >= 0; or one schedule per group.
        last_epoch: -1 to start; k if updates 0 to k are completed.

    Raises:
        TypeError: `optimizer` is not an Optimizer.
        RuntimeError: on `step()`: another scheduler was built for the optimizer after this one.

    >>> from .schedules import MultiStep
    >>> from .warmup_schedulers import WarmupMultiStepLR
    >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    >>> scheduler = ScheduleLR(optimizer, MultiStep((2,), gamma=0.5))
    >>> for _ in range(2):
    ...     optimizer.step()
    ...     scheduler.step()
    >>> scheduler.state_dict(), scheduler.get_last_lr(), scheduler.lr_at(0)
    ({'last_epoch': 2}, [0.25], [0.5])
    >>> newer = WarmupMultiStepLR(optimizer, [2], warmup_iters=0)
    >>> scheduler.step()
    Traceback (most recent call last):
    RuntimeError: an optimizer follows one scheduler, the one built last: WarmupMultiStepLR was built after \
this ScheduleLR; to multiply schedules use SOLVER.LR_FACTORS, to run one after the other SOLVER.LR_PHASES
    """

    # HF accelerate counts the micro-batches without a step here; warmstart does not read it.
    _step_count = 0
    _simple: list[dict[str, Any]] | None = None
    _replaced_by = ""  # the class of a newer scheduler of the same optimizer
    _alone = False  # whether `check_alone` has been called

    def __init__(self, optimizer: Optimizer, schedule: Schedule | GroupSchedules, last_epoch: int = -1) -> None:
        # Without super().__init__(): torch's constructor replaces optimizer.step to watch the order of calls,
        # and warns of orders that are correct here.
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"expected an Optimizer; got {type(optimizer).__name__}")
        self.optimizer = optimizer
        self.schedule = schedule
        self.last_epoch = last_epoch + 1
        self.base_lrs: list[float] = []  # type: ignore[assignment]  # torch's may hold tensors
        self._factor = 1.0
        self._rates: list[float] | None = None
        self._bind()
        claim(self)

    def step(self, epoch: object = None) -> None:
        """Advance to the next iteration and set its learning rates.

        Raises:
            TypeError: an argument was given.
        """
        if epoch is not None:
            raise TypeError(
                f"step() takes no argument, got {epoch!r}: a metric goes to observe(metric), an "
                'iteration to load_state_dict({"last_epoch": iteration})'
            )
        groups, pairs = self.optimizer.param_groups, self._pairs
        if groups is not self._simple or len(groups) != len(pairs):
            self._step_in_full()
            return
        # The fast path: one schedule for all groups, and only learning rates to set.
        self.last_epoch = t = self.last_epoch + 1
        self._factor = factor = float(self._shared(t))  # a user-defined function may return a NumPy number
        self._rates = None
        for group, base in pairs:  # without zip(), which would take as long as everything else
            group["lr"] = base * factor

    def observe(self, metric: float) -> None:
        """Pass a metric to the scheduler, after `step()`; no effect unless a subclass follows metrics."""

    def lr_at(self, t: int) -> list[float]:
        """Return the learning rates of iteration t >= 0, one per group, without setting them."""
        self._adopt_groups()
        values = {key: float(schedule(t)) for key, schedule in self._schedules.items()}
        return [base * values[key] for base, key in zip(self.base_lrs, self._keys, strict=True)]

    def momentum_at(self, t: int) -> list[float | None]:
        """Return the momenta of iteration t >= 0, one per group; None if the schedule does not change it."""
        self._adopt_groups()
        return [None if momentum is None else float(momentum(t)) for momentum in self._momenta]

    def get_lr(self) -> list[float | torch.Tensor]:
        """Return the learning rates of the current iteration."""
        return [*self.lr_at(self.last_epoch)]

    def get_last_lr(self) -> list[float | torch.Tensor]:
        """Return the learning rates that were set last."""
        return [*self._last_rates()]

    def state_dict(self) -> dict[str, Any]:
        """Return the iteration: {"last_epoch": 800}."""
        return {"last_epoch": self.last_epoch}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from an iteration and set its learning rates; entries other than "last_epoch" are ignored.

        Raises:
            ValueError: "last_epoch" is not an integer of at least 0.
        """
        self.last_epoch = saved_iteration(state_dict)
        self._write()

    def _bind(self) -> None:
        """Apply `self.schedule` to all groups."""
        # Groups with equal schedules share one entry, which is evaluated once.
        self._schedules: dict[int, Schedule] = {}
        self._keys: list[int] = []
        self._momenta: list[Schedule | None] = []
        self._initial: list[dict[str, float]] = []
        self._write()

    def _step_in_full(self) -> None:
        check_owner(self)
        if not self._alone:
            check_alone(self, stacklevel=4)  # the line that called step()
            self._alone = True
        self.last_epoch += 1
        self._write()

    def _write(self) -> None:
        check_owner(self)
        self._rates = rates = self.lr_at(self.last_epoch)
        groups = self.optimizer.param_groups
        plain = self._alone and len(self._schedules) == 1
        for group, rate, momentum in zip(groups, rates, self._momenta, strict=True):
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(rate)  # in place: captured graphs read this tensor
                plain = False
            else:
                group["lr"] = rate
            if momentum is not None:
                value = float(momentum(self.last_epoch))
                if "betas" in group:
                    group["betas"] = (value, *group["betas"][1:])
                else:
                    group["momentum"] = value
                plain = False
        # The list of groups for which step() may take its fast path, and what it needs there.
        self._simple = groups if plain else None
        self._pairs = list(zip(groups, self.base_lrs, strict=True))
        self._shared = directly(self._schedules[0])
        if plain:
            self._factor = float(self._shared(self.last_epoch))

    def _adopt_groups(self) -> None:
        """Give each new group a base learning rate and a schedule, without setting its learning rate."""
        groups, schedule = self.optimizer.param_groups, self.schedule
        if len(self._keys) == len(groups):
            return
        self._rates, self._simple = self._last_rates(), None
        for index, group in enumerate(groups[len(self._keys) :], start=len(self._keys)):
            if index == len(self.base_lrs):
                self.base_lrs.append(float(group.setdefault("initial_lr", float(group["lr"]))))
            momentum: Schedule | None = None
            if not isinstance(schedule, GroupSchedules):
                own = schedule
            else:
                if schedule.momentum is not None and own_momentum(group) is not None:
                    group.setdefault("initial_momentum", own_momentum(group))
                known = Group(self.base_lrs[index], index, group.get("initial_momentum"), len(groups))
                momentum = None if schedule.momentum is None else schedule.momentum(known)
                own = schedule.rate(known)
            self._momenta.append(momentum)
            self._initial.append({k: group[k] for k in ("initial_lr", "initial_momentum") if k in group})
            key = next((key for key, other in self._schedules.items() if other == own), len(self._schedules))
            self._schedules[key] = own
            self._keys.append(key)

    def _last_rates(self) -> list[float]:
        if self._rates is None:
            self._rates = [base * self._factor for base in self.base_lrs]
        return self._rates

    def _replace(self, by: str) -> None:
        """Note that a scheduler of the class `by` was built for the same optimizer: `step()` must raise."""
        self._replaced_by, self._simple = by, None

    def _before_update(self) -> None:
        """Set the learning rates of groups that were added or replaced."""
        groups = self.optimizer.param_groups
        if len(groups) != len(self._pairs) or not all(map(is_, groups, map(_FIRST, self._pairs))):
            self._write()

    def _after_loading(self) -> None:
        """Restore the base learning rates that loading has overwritten."""
        for group, initial in zip(self.optimizer.param_groups, self._initial, strict=False):
            group.update(initial)
        self._bind()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a copy and register its hooks, which are not copied with the optimizer."""
        self.__dict__.update(state)
        if not self._replaced_by:
            claim(self)

    # torch's SequentialLR, which would step this scheduler among others, uses these when it is built and later.
    @property
    def _schedulers(self) -> NoReturn:
        raise RuntimeError(among_others(self, "SequentialLR"))

    def _initial_step(self) -> None:
        raise RuntimeError(among_others(self, "SequentialLR"))

    def _update_lr(self, epoch: int | None = None) -> None:
        raise RuntimeError(among_others(self, "SequentialLR"))


def saved_iteration(state: Mapping[str, Any]) -> int:
    """Return the iteration in a scheduler's state.

    >>> saved_iteration({"last_epoch": 800})
    800
    """
    iteration = state["last_epoch"]
    if type(iteration) is not int or iteration < 0:
        raise ValueError(f'"last_epoch" must be a number of iterations; got {iteration!r}')
    return iteration


def own_momentum(group: Mapping[str, Any]) -> float | None:
    """Return the momentum of a parameter group, or its first beta; None if it has neither."""
    if "betas" in group:
        return float(group["betas"][0])
    return float(group["momentum"]) if "momentum" in group else None
