"""Schedules as torch schedulers: for a hand-written loop, and for whatever takes an LRScheduler."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import is_, itemgetter
from typing import Any, NoReturn

import torch
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import Optimizer

from .ownership import among_others, check_alone, check_owner, claim
from .plateau import Patience, Plateau
from .schedules import Cosine, Group, MultiStep, Schedule, directly
from .warmup import Product, Warmup

_FIRST = itemgetter(0)


@dataclass(frozen=True)
class GroupSchedules:
    """Schedules that differ between parameter groups, or that move momentum too.

    Args:
        rate: from a group to its schedule, as factors of its base rate.
        momentum: from a group to the schedule of its momentum (or first beta); None: no momentum moves.
    """

    rate: Callable[[Group], Schedule]
    momentum: Callable[[Group], Schedule] | None = None


class ScheduleLR(LRScheduler):
    """Keeps each group's rate at its base rate times `schedule(iteration)`.

    Call `step()` after each update. `last_epoch` is the iteration: updates done, and the index of the
    next one. The rate is a function of the iteration and of nothing else, so `state_dict()` is the
    iteration alone, and stepping, `lr_at`, `last_epoch` at construction and `load_state_dict` give the
    same bits, and write them into every group, whoever wrote there before. Base rates belong to the
    scheduler: rates that an optimizer loads are overwritten, in either order of loading. `get_last_lr()`
    gives floats, also where a group's rate is a tensor.

    A group added at iteration k follows the schedule from update k on, and the rate it is added with is its
    base rate. (To torch's schedulers it is the rate of update k, so that what a group gets depends on when
    it was added, and a run resumed with all groups in place would go on otherwise.)

    An optimizer follows the scheduler that was built last over it. `step()` of an older one raises, and the
    first `step()` of the new one warns of it, unless nothing refers to it any more. The same holds beside
    torch's own, except that its ReduceLROnPlateau is not seen: what it writes stands until the next `step()`.

    Args:
        optimizer: its groups' "initial_lr" are the base rates, or where they have none their "lr". Where a
            group comes with a rate that is a tensor, that tensor is written in place.
        schedule: from the iteration to a factor, defined for every t >= 0; or one for each group.
        last_epoch: -1 to start; k where updates 0 to k are done.

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

    # HF accelerate counts the micro-batches here on which it does not step; nothing of ours reads it.
    _step_count = 0
    _simple: list[dict[str, Any]] | None = None
    _replaced_by = ""  # the class of a scheduler built over the same optimizer since
    _alone = False  # whether other schedulers of the optimizer have been looked for

    def __init__(self, optimizer: Optimizer, schedule: Schedule | GroupSchedules, last_epoch: int = -1) -> None:
        # Without super().__init__(): torch's replaces optimizer.step to watch the order of calls, and
        # warns of orders that are no mistake here.
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
        """Go to the next iteration and write its rates.

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
        # One schedule for all groups and nothing but their rates to write: the way that must be short.
        self.last_epoch = t = self.last_epoch + 1
        self._factor = factor = float(self._shared(t))  # a user's function may give a number of numpy's
        self._rates = None
        for group, base in pairs:  # without zip(), which would take as long as all the rest
            group["lr"] = base * factor

    def observe(self, metric: float) -> None:
        """Show the scheduler a metric, after `step()`; one that watches none does nothing."""

    def lr_at(self, t: int) -> list[float]:
        """Return the rates of iteration t >= 0, one for each group; changes nothing."""
        self._adopt_groups()
        values = {key: float(schedule(t)) for key, schedule in self._schedules.items()}
        return [base * values[key] for base, key in zip(self.base_lrs, self._keys, strict=True)]

    def momentum_at(self, t: int) -> list[float | None]:
        """Return the momenta of iteration t >= 0, one for each group; None where the schedule moves none."""
        self._adopt_groups()
        return [None if momentum is None else float(momentum(t)) for momentum in self._momenta]

    def get_lr(self) -> list[float | torch.Tensor]:
        """Return the rates of the current iteration."""
        return [*self.lr_at(self.last_epoch)]

    def get_last_lr(self) -> list[float | torch.Tensor]:
        """Return the rates that were written last."""
        return [*self._last_rates()]

    def state_dict(self) -> dict[str, Any]:
        """Return the iteration: {"last_epoch": 800}."""
        return {"last_epoch": self.last_epoch}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go to an iteration and write its rates; other entries than "last_epoch" are not looked at.

        Raises:
            ValueError: "last_epoch" is not a number of iterations.
        """
        self.last_epoch = _iteration(state_dict)
        self._write()

    def _bind(self) -> None:
        """Take up `self.schedule`, for all groups."""
        # Groups with equal schedules share one entry: what a schedule gives is worked out once.
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
        # The list of groups for which step() may take its short way, with what it needs for that.
        self._simple = groups if plain else None
        self._pairs = list(zip(groups, self.base_lrs, strict=True))
        self._shared = directly(self._schedules[0])
        if plain:
            self._factor = float(self._shared(self.last_epoch))

    def _adopt_groups(self) -> None:
        """Give each group that has none a base rate and a schedule; its rate is not written yet."""
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

    def _before_update(self) -> None:
        """Write the rates of groups that were added, or put in the place of others."""
        groups = self.optimizer.param_groups
        if len(groups) != len(self._pairs) or not all(map(is_, groups, map(_FIRST, self._pairs))):
            self._write()

    def _after_loading(self) -> None:
        """Put base rates back where what was loaded has taken their place."""
        for group, initial in zip(self.optimizer.param_groups, self._initial, strict=False):
            group.update(initial)
        self._bind()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Continue as a copy; the hooks of a copied optimizer are not copied with it."""
        self.__dict__.update(state)
        if not self._replaced_by:
            claim(self)

    # What torch's SequentialLR asks for when it is built, and calls later: it would step this one among others.
    @property
    def _schedulers(self) -> NoReturn:
        raise RuntimeError(among_others(self, "SequentialLR"))

    def _initial_step(self) -> None:
        raise RuntimeError(among_others(self, "SequentialLR"))

    def _update_lr(self, epoch: int | None = None) -> None:
        raise RuntimeError(among_others(self, "SequentialLR"))


def _iteration(state: Mapping[str, Any]) -> int:
    iteration = state["last_epoch"]
    if type(iteration) is not int or iteration < 0:
        raise ValueError(f'"last_epoch" is a number of iterations; got {iteration!r}')
    return iteration


def own_momentum(group: Mapping[str, Any]) -> float | None:
    """Return the momentum of a parameter group, or its first beta; None where it has neither."""
    if "betas" in group:
        return float(group["betas"][0])
    return float(group["momentum"]) if "momentum" in group else None


@dataclass(frozen=True)
class Progress:
    """What metrics have done to a schedule so far.

    Args:
        warmup_end: the iteration at which a metric ended warm-up; None: none did.
        patience: what the plateau remembers.
    """

    warmup_end: int | None = None
    patience: Patience = field(default_factory=Patience)


class MetricLR(ScheduleLR):
    """A ScheduleLR that also follows metrics: they end its warm-up, or reduce its rates on a plateau.

    The rate is a function of the iteration and of `progress`, a few numbers that the state holds too.
    `lr_at` is the rate if no further metric comes.

    Args:
        optimizer: as for `ScheduleLR`.
        schedule_after: from the progress to the schedule.
        warmup_iters: length of warm-up; during it `observe` ignores what it is shown.
        plateau: the rule for `observe`; None: metrics are ignored.
        last_epoch: as for `ScheduleLR`, as if no metric had come; load a state to go on from one.

    >>> from .schedules import Constant
    >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    >>> plateau = Plateau(patience=0, factor=0.5)
    >>> scheduler = MetricLR(optimizer, lambda p: Constant(0.5**p.patience.reductions, 10**9), plateau=plateau)
    >>> scheduler.observe(0.1)
    >>> scheduler.observe(0.2)
    >>> scheduler.get_last_lr(), scheduler.state_dict()["num_reductions"]
    ([0.25], 1)
    """

    def __init__(
        self,
        optimizer: Optimizer,
        schedule_after: Callable[[Progress], Schedule | GroupSchedules],
        warmup_iters: int = 0,
        plateau: Plateau | None = None,
        last_epoch: int = -1,
    ) -> None:
        self.schedule_after = schedule_after
        self.warmup_iters = warmup_iters
        self.plateau = plateau
        self.progress = Progress()
        super().__init__(optimizer, schedule_after(self.progress), last_epoch)

    @property
    def in_warmup(self) -> bool:
        """Whether the next update belongs to warm-up."""
        end = self.progress.warmup_end
        return self.last_epoch < (self.warmup_iters if end is None else min(end, self.warmup_iters))

    def observe(self, metric: float) -> None:
        """Show the plateau a metric, after `step()`; the rates are rewritten before it returns."""
        if self.plateau is not None and not self.in_warmup:
            patience = self.plateau.after(self.progress.patience, float(metric))
            self._go_to(replace(self.progress, patience=patience))

    def end_warmup(self) -> None:
        """End warm-up here, after `step()`: the next update has its whole rate. Once it is over, nothing."""
        if self.in_warmup:
            self._go_to(replace(self.progress, warmup_end=self.last_epoch))

    def state_dict(self) -> dict[str, Any]:
        """Return the iteration and the progress, as plain numbers and None."""
        patience = self.progress.patience
        return {
            "last_epoch": self.last_epoch,
            "warmup_end": self.progress.warmup_end,
            "best": patience.best,
            "num_bad": patience.num_bad,
            "cooldown": patience.cooldown,
            "num_reductions": patience.reductions,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go to a saved iteration and progress; of another schedule's state, to its iteration."""
        self.last_epoch = _iteration(state_dict)
        names = {"best": "best", "num_bad": "num_bad", "cooldown": "cooldown", "reductions": "num_reductions"}
        found = {name: state_dict[key] for name, key in names.items() if key in state_dict}
        missing = {"warmup_end", *names.values()} - state_dict.keys()
        if found and missing:
            raise KeyError(f"the scheduler's saved state lacks {', '.join(sorted(missing))}")
        self._go_to(Progress(state_dict.get("warmup_end"), Patience(**found)))

    def _go_to(self, progress: Progress) -> None:
        changed = progress.warmup_end != self.progress.warmup_end
        changed |= progress.patience.reductions != self.progress.patience.reductions
        self.progress = progress
        if changed:
            self.schedule = self.schedule_after(progress)
            self._bind()
        else:
            self._write()


class WarmupMultiStepLR(ScheduleLR):
    """Rate = base * w(t) * gamma ^ (number of milestones <= t), with w of `Warmup`.

    >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    >>> scheduler = WarmupMultiStepLR(optimizer, [6, 9], gamma=0.5, warmup_factor=0.5, warmup_iters=2)
    >>> [scheduler.lr_at(t)[0] for t in (0, 1, 2, 9, 1_000_000)]
    [0.5, 0.75, 1.0, 0.25, 0.25]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        milestones: Sequence[int],
        gamma: float = 0.1,
        warmup_factor: float = 0.001,
        warmup_iters: int = 1000,
        warmup_method: str = "linear",
        last_epoch: int = -1,
    ) -> None:
        warmup = Warmup(warmup_method, warmup_factor, warmup_iters)
        super().__init__(optimizer, Product(warmup, MultiStep(tuple(milestones), gamma)), last_epoch)


class WarmupCosineLR(ScheduleLR):
    """Rate = base * w(t) * (1 + cos(pi t / max_iters)) / 2, with w of `Warmup`; 0 from max_iters on.

    >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    >>> scheduler = WarmupCosineLR(optimizer, 10, warmup_factor=0.0, warmup_iters=2)
    >>> [round(scheduler.lr_at(t)[0], 3) for t in (0, 1, 2, 9, 10)]
    [0.0, 0.488, 0.905, 0.024, 0.0]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_iters: int,
        warmup_factor: float = 0.001,
        warmup_iters: int = 1000,
        warmup_method: str = "linear",
        last_epoch: int = -1,
    ) -> None:
        warmup = Warmup(warmup_method, warmup_factor, warmup_iters)
        super().__init__(optimizer, Product(warmup, Cosine(max_iters)), last_epoch)
