"""Schedules as torch schedulers: for a hand-written loop, and for whatever takes an LRScheduler."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import Optimizer

from .schedules import Cosine, MultiStep, Product, Schedule, Warmup


class ScheduleLR(LRScheduler):
    """Keeps each group's rate at its base rate times `schedule(iteration)`.

    Call `step()` after each update. `last_epoch` is the iteration: updates done, and the index of the
    next one. The rate is a function of the iteration and of nothing else, so `state_dict()` is the
    iteration alone, and stepping, `lr_at`, `last_epoch` at construction and `load_state_dict` give the
    same bits. Base rates belong to the scheduler: rates that an optimizer loads are overwritten, in
    either order of loading. A group added later follows from the next `step()`, from the rate it was
    added with. `get_last_lr()` gives floats, also where a group's rate is a tensor.

    Args:
        optimizer: its groups' "initial_lr" are the base rates, or where they have none their "lr".
        schedule: from the iteration to a factor, defined for every t >= 0.
        last_epoch: -1 to start; k where updates 0 to k are done.

    >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    >>> scheduler = ScheduleLR(optimizer, MultiStep((2,), gamma=0.5))
    >>> for _ in range(2):
    ...     optimizer.step()
    ...     scheduler.step()
    >>> scheduler.state_dict(), scheduler.get_last_lr(), scheduler.lr_at(0)
    ({'last_epoch': 2}, [0.25], [0.5])
    """

    # HF accelerate counts the micro-batches here on which it does not step; nothing of ours reads it.
    _step_count = 0

    def __init__(self, optimizer: Optimizer, schedule: Schedule, last_epoch: int = -1) -> None:
        # Without super().__init__(): torch's replaces optimizer.step to watch the order of calls, and
        # warns of orders that are no mistake here.
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"expected an Optimizer; got {type(optimizer).__name__}")
        self.optimizer = optimizer
        self.schedule = schedule
        self.last_epoch = last_epoch + 1
        self.base_lrs: list[float] = []  # type: ignore[assignment]  # torch's may hold tensors
        self._rewrite_after_loading()
        self._write(schedule(self.last_epoch))

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
        self.last_epoch += 1
        factor = self.schedule(self.last_epoch)
        if factor != self._factor or len(self.optimizer.param_groups) != len(self.base_lrs):
            self._write(factor)

    def lr_at(self, t: int) -> list[float]:
        """Return the rates of iteration t >= 0, one for each group; changes nothing."""
        self._adopt_groups()
        factor = self.schedule(t)
        return [base * factor for base in self.base_lrs]

    def get_lr(self) -> list[float | torch.Tensor]:
        """Return the rates of the current iteration."""
        return [*self.lr_at(self.last_epoch)]

    def state_dict(self) -> dict[str, Any]:
        """Return the iteration: {"last_epoch": 800}."""
        return {"last_epoch": self.last_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go to an iteration and write its rates; other entries than "last_epoch" are not looked at."""
        self.last_epoch = state_dict["last_epoch"]
        self._write(self.schedule(self.last_epoch))

    def _write(self, factor: float) -> None:
        self._adopt_groups()
        self._factor = factor
        rates = [base * factor for base in self.base_lrs]
        self._last_lr = rates  # type: ignore[assignment]  # torch's may hold tensors
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            # The first test is for speed only; the second costs as much as all the rest.
            if type(group["lr"]) is not float and isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(rate)  # in place: captured graphs read this tensor
            else:
                group["lr"] = rate

    def _adopt_groups(self) -> None:
        for group in self.optimizer.param_groups[len(self.base_lrs) :]:
            self.base_lrs.append(float(group.setdefault("initial_lr", float(group["lr"]))))

    def _rewrite_after_loading(self) -> None:
        # A weak reference: a scheduler that was replaced by another must neither live on nor write.
        reference = weakref.ref(self)

        def rewrite(optimizer: Optimizer) -> None:
            scheduler = reference()
            if scheduler is not None:
                for group, base in zip(optimizer.param_groups, scheduler.base_lrs, strict=False):
                    group["initial_lr"] = base
                scheduler._write(scheduler.schedule(scheduler.last_epoch))

        self.optimizer.register_load_state_dict_post_hook(rewrite)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Continue as a copy; the hooks of a copied optimizer are not copied with it."""
        self.__dict__.update(state)
        self._rewrite_after_loading()


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
