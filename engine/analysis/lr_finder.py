"""The learning-rate range test: a short run with a growing learning rate, until the loss diverges."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from statistics import median, pstdev
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from warmstart.config import ConfigError
from warmstart.solver import ScheduleLR
from warmstart.tasks import Task

from ..loop.non_finite import NonFiniteLossError
from ..loop.trainer import Trainer
from ..runtime.precision import LossScaler
from ..runtime.rng import preserved_rng

if TYPE_CHECKING:
    from matplotlib.figure import Figure


FEWEST = 10  # updates that are needed to choose a learning rate
_BURST = 4  # the loss diverges at so many times its best value


@dataclass(frozen=True)
class RangeTest:
    """The results of a range test, with one entry per update.

    Args:
        rates: the learning rates, which grow by a constant factor.
        losses: the loss of each update's batch, before the update.
        smooth: the weight of one loss in the moving average.
        burst: whether the loss diverged, so that higher learning rates were not tried.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smooth: float
    burst: bool

    @property
    def start(self) -> float:
        """The loss before training has changed it."""
        return median(self.losses[:FEWEST])

    @cached_property
    def smoothed(self) -> tuple[float, ...]:
        """The moving average of the losses, taken forwards and then backwards.

        Forwards alone it would lag 1 / smooth updates behind, which at the defaults is more than a decade of
        learning rates. Losses are clipped at the initial loss, because the losses after the divergence would
        otherwise raise the average before it.
        """
        forwards = moving_average([min(loss, self.start) for loss in self.losses], self.smooth)
        return tuple(moving_average(forwards[::-1], self.smooth)[::-1])

    @property
    def lowest(self) -> float:
        """The learning rate at which the smoothed loss is lowest."""
        return self.rates[int(np.argmin(self.smoothed))]

    @property
    def steepest(self) -> float:
        """The learning rate, up to `lowest`, at which the smoothed loss falls fastest, on a logarithmic axis."""
        slopes = np.gradient(self.smoothed, np.log(self.rates))
        return self.rates[int(np.argmin(slopes[: int(np.argmin(self.smoothed)) + 1]))]


def find_lr(
    model: nn.Module,
    optimizer: Optimizer,
    batches: Iterable[Any],
    task: Task | None = None,
    *,
    base_lr: float | None = None,
    min_lr: float = 1e-7,
    max_lr: float = 10.0,
    iters: int = 100,
    smooth: float = 0.05,
    device: torch.device | str = "cpu",
    accum_steps: int = 1,
    clip: Callable[[Iterable[nn.Parameter]], Tensor] | None = None,
    scaler: LossScaler | None = None,
    autocast: torch.dtype | None = None,
) -> RangeTest:
    """Train for up to `iters` updates while the learning rate grows by a constant factor; return the losses.

    From Smith 2015 (https://arxiv.org/abs/1506.01186). Momentum and weight decay are the optimizer's, and the
    learning rates of all groups are scaled by the same factor. It ends early if the moving average of the loss
    exceeds 4 times its lowest value, or a loss is not finite. It trains copies: the model, the optimizer and the
    random number generators are left unchanged.

    Args:
        model: as for `Trainer`.
        optimizer: of that model.
        batches: one for each update.
        task: as for `Trainer`.
        base_lr: the base learning rate that `min_lr` and `max_lr` replace; None: the first group's.
        min_lr: the first learning rate.
        max_lr: the last learning rate.
        iters: updates, 10 or more.
        smooth: the weight of one loss in the moving average, in (0, 1]; 1 disables smoothing.
        device: where the model is.
        accum_steps: as for `Trainer`.
        clip: as for `Trainer`.
        scaler: as for `Trainer`.
        autocast: as for `Trainer`.

    Raises:
        ConfigError: an argument is out of range; the loss diverged too early, or never fell.
        ValueError: there are too few batches.

    >>> class Square(nn.Module):  # its gradient is its weight, which from learning rate 2 on no longer shrinks
    ...     def __init__(self): super().__init__(); self.weight = nn.Parameter(torch.ones(1))
    ...     def forward(self, x): return {"loss": (x * self.weight).square().mean() / 2}
    >>> model = Square()
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> found = find_lr(model, optimizer, [(torch.ones(4),)] * 60, min_lr=1e-3, max_lr=100, iters=60, smooth=1)
    >>> round(found.lowest, 1), found.burst, model.weight.item()
    (2.0, True, 1.0)
    """
    _check(min_lr, max_lr, iters, smooth)
    first = optimizer.param_groups[0]
    base = float(first.get("initial_lr", first["lr"])) if base_lr is None else base_lr
    rates = [min_lr * (max_lr / min_lr) ** (t / (iters - 1)) for t in range(iters)]
    with preserved_rng(device):
        # Copied together, so that the copied optimizer holds the copied parameters.
        model, optimizer = copy.deepcopy((model, optimizer))
        sweep = ScheduleLR(optimizer, lambda t: rates[min(t, iters - 1)] / base)
        options: dict[str, Any] = {"device": device, "accum_steps": accum_steps, "clip": clip, "scaler": scaler}
        trainer = Trainer(model, optimizer, sweep, (), (), task, max_iter=iters, autocast=autocast, **options)
        losses, burst = _losses(trainer, batches, smooth)
    if len(losses) < FEWEST:
        raise ConfigError(
            f"the loss diverged after {len(losses)} updates, at learning rate {rates[len(losses)]:.2g}, too early "
            f"to choose one; start lower, with min_lr {min_lr / 1000:.1g}"
        )
    found = RangeTest(tuple(rates[: len(losses)]), tuple(losses), smooth, burst)
    if not _falls(found):
        raise ConfigError(
            f"the loss did not fall between learning rates {found.rates[0]:.2g} and {found.rates[-1]:.2g}; set "
            f"min_lr and max_lr further apart, or iters above {iters}"
        )
    return found


def _losses(trainer: Trainer, batches: Iterable[Any], smooth: float) -> tuple[list[float], bool]:
    """Return the loss of each update, and whether it diverged before the last one."""
    trainer.model.train()
    stream, best = iter(batches), math.inf
    losses: list[float] = []
    for iteration in range(1, trainer.max_iter + 1):
        try:
            trainer.run_step(stream)
        except StopIteration:
            raise ValueError(f"{trainer.max_iter} updates need as many batches; got {iteration - 1}") from None
        try:
            trainer.losses.flush(iteration)
        except NonFiniteLossError:
            return losses, True
        losses.append(trainer.losses.averages()["total_loss"])
        average = moving_average(losses, smooth)[-1]
        best = min(best, average)
        if average > best + (_BURST - 1) * abs(best):
            return losses, True
    return losses, False


def _falls(found: RangeTest) -> bool:
    """Return whether the smoothed loss falls by more than noise or rounding errors explain."""
    batch = pstdev(after - before for before, after in pairwise(found.losses[:FEWEST]))
    averaged = min(2 / found.smooth, len(found.losses))  # the approximate number of losses in one average
    chance = 2 * batch / math.sqrt(averaged) + 1e-6 * abs(found.start)
    return found.smoothed[0] - min(found.smoothed) > chance


def moving_average(values: Sequence[float], weight: float) -> list[float]:
    """Return the exponential moving average with bias correction, so that the first average is the first value.

    >>> moving_average([1.0, 2.0, 2.0], weight=0.5)
    [1.0, 1.6666666666666667, 1.8571428571428572]
    """
    average, averages = 0.0, []
    for count, value in enumerate(values, start=1):
        average += weight * (value - average)
        averages.append(average / (1 - (1 - weight) ** count))
    return averages


def range_picture(found: RangeTest) -> Figure:
    """Return a figure of the loss over the learning rate, with the learning rates to choose from."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 4.5), dpi=100, layout="constrained")
    axes = figure.subplots()
    axes.plot(found.rates, found.losses, color="C0", alpha=0.4, linewidth=1, label="loss of a batch")
    axes.plot(found.rates, found.smoothed, color="C0", linewidth=2, label="smoothed")
    for rate, colour, what in (
        (found.steepest, "C1", "steepest"),
        (found.lowest / 10, "C2", "a tenth of the lowest"),
    ):
        axes.axvline(rate, color=colour, linestyle="--", label=f"{what}: {rate:.2g}")
    axes.set_xscale("log")
    low, height = min(found.losses), found.start - min(found.losses)
    axes.set_ylim(low - 0.1 * height, low + 1.5 * height)  # the losses of the divergence are far above
    axes.set_xlabel("learning rate")
    axes.set_ylabel("loss")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside upper center", ncols=4, frameon=False)
    return figure


def _check(min_lr: float, max_lr: float, iters: int, smooth: float) -> None:
    if not 0 < min_lr < max_lr < math.inf:
        raise ConfigError(f"min_lr must be above 0 and max_lr above that; got {min_lr:g} and {max_lr:g}")
    if iters < FEWEST:
        raise ConfigError(f"iters must be {FEWEST} or more, to choose a learning rate; got {iters}")
    if not 0 < smooth <= 1:
        raise ConfigError(f"smooth must be above 0 and at most 1, which disables smoothing; got {smooth:g}")
