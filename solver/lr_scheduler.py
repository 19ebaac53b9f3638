"""Schedulers: an optimizer, its base rates, a count, and a schedule that says the rest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fvcore.common.param_scheduler import ParamScheduler
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from .schedules import Cosine, MultiStep, Product, Schedule, Warmup


class ScheduleLR(LRScheduler):
    """Sets each group's rate to its base rate times `schedule(iteration)`.

    `last_epoch` is the iteration: the number of step() calls, and the index of the next update. Base
    rates are the groups' rates when the scheduler first sees them; loading an optimizer's state does
    not change them. A group added later follows from the next step().

    Args:
        optimizer: its groups' `lr` may be floats or tensors.
        schedule: factor of the base rate at each iteration.
        last_epoch: -1 begins anew; k, as in torch, is the index of the last update done.

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    >>> scheduler = ScheduleLR(optimizer, MultiStep((2,), gamma=0.1))
    >>> for _ in range(2):
    ...     optimizer.step()
    ...     scheduler.step()
    >>> scheduler.get_last_lr(), scheduler.lr_at(1), scheduler.state_dict()
    ([0.05], [0.5], {'last_epoch': 2})
    """

    def __init__(self, optimizer: Optimizer, schedule: Schedule, last_epoch: int = -1) -> None:
        # Not torch's __init__: it wraps optimizer.step to warn about the order of calls, which also hits
        # who does it right (GradScaler skipping a step, accelerate), and steps once by itself.
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"expected a torch.optim.Optimizer; got {type(optimizer).__name__}")
        self.optimizer = optimizer
        self.schedule = schedule
        self.base_lrs: list[float | Tensor] = []
        self.last_epoch = last_epoch + 1
        self._step_count = self.last_epoch + 1  # accelerate counts in it
        self._factor = math.nan
        self._last_lr: list[float | Tensor] = []
        self._write()
        optimizer.register_load_state_dict_post_hook(self._after_load)

    def step(self, epoch: object = None) -> None:
        """Go on by one iteration: call it once after each update, without arguments.

        Raises:
            TypeError: an argument was given.
        """
        if epoch is not None:
            raise TypeError("step() takes no argument: it counts by itself; a metric goes to observe(metric)")
        self.last_epoch += 1
        self._step_count += 1
        # Where the factor stays, so do the rates: most iterations of a stepwise schedule end here.
        if self.schedule(self.last_epoch) != self._factor or len(self.base_lrs) != len(
            self.optimizer.param_groups
        ):
            self._write()

    def lr_at(self, t: int) -> list[float]:
        """Return the rate of each group at iteration `t` >= 0, past the end too; changes nothing."""
        factor = self.schedule(t)
        return [float(base) * factor for base in self.base_lrs]

    def get_lr(self) -> list[float | Tensor]:
        """Return the rate of each group at the present iteration."""
        return [*self.lr_at(self.last_epoch)]

    def state_dict(self) -> dict[str, Any]:
        """Return the count; everything else follows from the config."""
        return {"last_epoch": self.last_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go to the iteration in `state_dict` and write its rates."""
        self.last_epoch = int(state_dict["last_epoch"])
        self._step_count = self.last_epoch + 1
        self._write()

    def _write(self) -> None:
        groups = self.optimizer.param_groups
        for group in groups[len(self.base_lrs) :]:
            self.base_lrs.append(float(group.setdefault("initial_lr", float(group["lr"]))))
        self._factor = self.schedule(self.last_epoch)
        self._last_lr = [float(base) * self._factor for base in self.base_lrs]
        for group, rate in zip(groups, self._last_lr, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)  # kept: a captured graph reads this very tensor
            else:
                group["lr"] = rate

    def _after_load(self, optimizer: Optimizer) -> None:
        for group, base in zip(optimizer.param_groups, self.base_lrs, strict=False):
            group["initial_lr"] = base
        self._write()


class WarmupMultiStepLR(ScheduleLR):
    """base * w(t) * gamma ^ (number of milestones <= t), w as in `schedules.Warmup`.

    Args:
        optimizer: its groups' rates are the base rates.
        milestones: iterations, increasing.
        gamma: factor of each drop.
        warmup_factor: f, where warm-up starts, from 0 to 1.
        warmup_iters: W; 0 is no warm-up.
        warmup_method: "linear" or "constant".
        last_epoch: as in `ScheduleLR`.

    Raises:
        ValueError: milestones are not increasing, or the method is none.

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    >>> scheduler = WarmupMultiStepLR(optimizer, [6, 8], warmup_factor=0.5, warmup_iters=2)
    >>> [round(scheduler.lr_at(t)[0], 6) for t in (0, 1, 2, 5, 6, 8, 100)]
    [0.5, 0.75, 1.0, 1.0, 0.1, 0.01, 0.01]
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
        if list(milestones) != sorted(milestones):
            raise ValueError(f"milestones must be increasing; got {list(milestones)}")
        warmup = Warmup(warmup_method, warmup_factor, warmup_iters)
        super().__init__(optimizer, Product(warmup, MultiStep(tuple(milestones), gamma)), last_epoch)


class WarmupCosineLR(ScheduleLR):
    """base * w(t) * (1 + cos(pi t/N))/2, w as in `schedules.Warmup`.

    Args:
        optimizer: its groups' rates are the base rates.
        max_iters: N; the rate is 0 from there on.
        warmup_factor: f, where warm-up starts, from 0 to 1.
        warmup_iters: W; 0 is no warm-up.
        warmup_method: "linear" or "constant".
        last_epoch: as in `ScheduleLR`.

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    >>> scheduler = WarmupCosineLR(optimizer, max_iters=10, warmup_factor=0.5, warmup_iters=2)
    >>> [round(scheduler.lr_at(t)[0], 3) for t in (0, 1, 2, 9, 10, 100)]
    [0.5, 0.732, 0.905, 0.024, 0.0, 0.0]
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


@dataclass(frozen=True)
class _OfParamScheduler:
    """A fvcore ParamScheduler as a schedule: its value at t/N, and past the end its last one."""

    multiplier: ParamScheduler
    max_iter: int

    def __call__(self, t: int) -> float:
        # fvcore's schedulers look WHERE_EPSILON ahead, and some refuse 1 or index past their last value.
        last = 1 - 2 * ParamScheduler.WHERE_EPSILON
        where = min(t / self.max_iter, 1.0)
        if where > last:
            try:
                return float(self.multiplier(where))
            except (RuntimeError, IndexError):
                where = last
        return float(self.multiplier(where))


class LRMultiplier(ScheduleLR):
    """base * multiplier(t/N) for any fvcore ParamScheduler; past the end its last value.

    fvcore's own stepwise schedulers compare fractions with a tolerance of 1e-6, so that in runs of a
    million iterations and more their drops come early; `MultiStep` and the config's names do not.

    Args:
        optimizer: its groups' rates are the base rates.
        multiplier: factor as a function of the share of the run that is done.
        max_iter: N.
        last_iter: as `last_epoch` in `ScheduleLR`.

    >>> import torch
    >>> from fvcore.common.param_scheduler import LinearParamScheduler
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    >>> scheduler = LRMultiplier(optimizer, LinearParamScheduler(1.0, 0.0), max_iter=4)
    >>> [scheduler.lr_at(t)[0] for t in (0, 1, 4, 9)]
    [0.5, 0.375, 0.0, 0.0]
    """

    def __init__(
        self, optimizer: Optimizer, multiplier: ParamScheduler, max_iter: int, last_iter: int = -1
    ) -> None:
        super().__init__(optimizer, _OfParamScheduler(multiplier, max_iter), last_iter)


class WarmupParamScheduler(ParamScheduler):  # type: ignore[misc]  # fvcore ships no types
    """Warm-up in front of a fvcore ParamScheduler, as detectron2 has it.

    Args:
        scheduler: what follows warm-up.
        warmup_factor: warm-up starts at this times scheduler(0).
        warmup_length: share of the run, from 0 to 1, below which it is warm-up.
        warmup_method: "linear", a ramp that ends on the scheduler's value, or "constant".
        rescale_interval: fit the scheduler's whole interval into what is left after warm-up.

    Raises:
        ValueError: the method is none, or the length is outside 0 to 1.

    >>> from fvcore.common.param_scheduler import LinearParamScheduler
    >>> scheduler = WarmupParamScheduler(LinearParamScheduler(1.0, 0.0), 0.1, 0.2)
    >>> [round(scheduler(where), 3) for where in (0.0, 0.1, 0.2, 0.6)]
    [0.1, 0.45, 0.8, 0.4]
    """

    def __init__(
        self,
        scheduler: ParamScheduler,
        warmup_factor: float,
        warmup_length: float,
        warmup_method: str = "linear",
        rescale_interval: bool = False,
    ) -> None:
        if warmup_method not in ("constant", "linear"):
            raise ValueError(f"warm-up method must be constant or linear; got {warmup_method!r}")
        if not 0 <= warmup_length < 1:
            raise ValueError(f"warmup_length must be a share of the run, from 0 to below 1; got {warmup_length}")
        self.scheduler = scheduler
        self.warmup_length = warmup_length
        self.rescale_interval = rescale_interval
        self._start = warmup_factor * scheduler(0.0)
        end = scheduler(0.0 if rescale_interval else warmup_length)
        self._rise = end - self._start if warmup_method == "linear" else 0.0

    def __call__(self, where: float) -> float:
        """Return the value when the share `where` of the run is done."""
        length = self.warmup_length
        if where < length:
            return float(self._start + self._rise * where / length)
        return float(self.scheduler((where - length) / (1 - length) if self.rescale_interval else where))
