"""The learning rate schedulers of detectron2, with its arguments."""

from __future__ import annotations

from collections.abc import Sequence

from torch.optim.optimizer import Optimizer

from .decays import Cosine
from .lr_scheduler import ScheduleLR
from .schedules import MultiStep
from .warmup import Product, Warmup


class WarmupMultiStepLR(ScheduleLR):
    """Learning rate = base * w(t) * gamma ^ (number of milestones <= t), with w as in `Warmup`.

    >>> import torch
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
    """Learning rate = base * w(t) * (1 + cos(pi t / max_iters)) / 2, with w as in `Warmup`; 0 from max_iters on.

    >>> import torch
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
