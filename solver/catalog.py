"""The optimizers and schedules that a config can name: torch's, ours and registered ones."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import Optimizer

from warmstart.config import ConfigError

from .schedules import Schedule, Step

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    name: cls
    for name, cls in vars(torch.optim).items()
    if isinstance(cls, type) and issubclass(cls, Optimizer) and cls is not Optimizer
}
REFUSED = {
    "LBFGS": "evaluates the loss several times an update, and the training loop does that once",
    "SparseAdam": "takes sparse gradients only, and the models here have dense ones",
}
# Schedules whose settings are keys of SOLVER; unless RESCALE_INTERVAL is set they count from the run's start.
KEYED_SCHEDULES = ("WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR")
# Schedules with arguments in LR_SCHEDULER_ARGS; they count from the end of warm-up.
SCHEDULES: dict[str, Callable[..., Schedule]] = {"StepLR": Step}


def register_optimizer(name: str, cls: Callable[..., Optimizer]) -> None:
    """Make `name` usable in SOLVER.OPTIMIZER.

    Args:
        name: the name.
        cls: a class or function called with parameter groups, `lr`, whichever of `momentum`, `nesterov`
            and `fused` its signature has, and OPTIMIZER_ARGS.

    Raises:
        ConfigError: the name is taken.

    >>> register_optimizer("AdamW", torch.optim.AdamW)
    Traceback (most recent call last):
    warmstart.config.errors.ConfigError: an optimizer called 'AdamW' is registered already; choose another name
    """
    if name in OPTIMIZERS:
        raise ConfigError(f"an optimizer called {name!r} is registered already; choose another name")
    OPTIMIZERS[name] = cls


def register_lr_scheduler(name: str, factory: Callable[..., Schedule]) -> None:
    """Make `name` usable in SOLVER.LR_SCHEDULER_NAME; warm-up works in front of it.

    Args:
        name: the name.
        factory: a class or function called with LR_SCHEDULER_ARGS, and with `num_iters`, the number of
            iterations after warm-up, where its signature has that and the user has not set it. Returns
            the schedule: a function from the iteration after warm-up (0, 1, 2, ...) to a factor of the
            base rate, defined past the end too. A `drops(end)` as the schedules here have is optional.

    Raises:
        ConfigError: the name is taken.

    >>> register_lr_scheduler("StepLR", lambda num_iters: lambda t: max(0.0, 1 - t / num_iters))
    Traceback (most recent call last):
    warmstart.config.errors.ConfigError: a schedule called 'StepLR' is registered already; choose another name
    """
    if name in SCHEDULES or name in KEYED_SCHEDULES:
        raise ConfigError(f"a schedule called {name!r} is registered already; choose another name")
    SCHEDULES[name] = factory


def fused_works(cls: Callable[..., Optimizer], arguments: dict[str, Any], parameters: list[nn.Parameter]) -> bool:
    """Return whether the fused kind of `cls` updates such parameters; asked by doing it to small ones."""
    if "fused" not in inspect.signature(cls).parameters or {"fused", "foreach"} & arguments.keys():
        return False
    if cls is torch.optim.SGD and arguments.get("dampening"):
        return False  # its momentum cannot begin with zeros, see build_optimizer
    for device, dtype in {(parameter.device, parameter.dtype) for parameter in parameters}:
        probe = nn.Parameter(torch.zeros(1, 1, device=device, dtype=dtype))
        probe.grad = torch.zeros_like(probe)
        try:
            cls([probe], fused=True, **arguments).step()
        except (RuntimeError, TypeError, ValueError):  # not on this device, or not with these arguments
            return False
    return True
