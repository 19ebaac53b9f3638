"""The optimizers that a config can name: torch's, built-in and registered ones."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import Optimizer

from warmstart.config import ConfigError

from .muon import MuonWithAdamW
from .schedules import check_at_least, check_within

_TORCH: dict[str, Callable[..., Optimizer]] = {
    name: cls
    for name, cls in vars(torch.optim).items()
    if isinstance(cls, type) and issubclass(cls, Optimizer) and cls is not Optimizer
}
OPTIMIZERS = dict(_TORCH)
REFUSED = {
    "LBFGS": "evaluates the loss several times per update, and the training loop does so once",
    "SparseAdam": "accepts only sparse gradients, and the models here have dense ones",
}
if "Muon" in _TORCH:
    OPTIMIZERS["Muon"] = MuonWithAdamW  # torch's own rejects every model that has a bias
else:
    REFUSED["Muon"] = f"needs torch 2.9 or later, and this is {torch.__version__}"

# On a CPU `foreach` avoids torch's Python loop over the tensors, but makes several passes over all elements, while
# the plain implementation finishes one tensor in the cache before the next. One update of 65 tensors, torch
# 2.15.0, one thread of a two-core Xeon, medians of 50 interleaved updates (last row: 6), plain / foreach in ms:
#   elements  Adadelta   Adafactor  Adamax     NAdam      RAdam      RMSprop    Rprop      ASGD
#   24,000    1.57/0.88  2.71/2.31  1.03/0.62  1.69/1.02  2.13/1.03  1.17/0.64  2.15/1.82  1.15/1.35
#   392,000   2.35/2.05  12.8/12.5  1.47/1.35  2.43/2.02  2.96/2.02  1.70/1.45  4.68/4.52  1.38/2.04
#   785,000   3.47/4.70  23.5/24.1  2.00/2.11  3.77/3.42  4.28/3.21  2.30/2.26  7.57/7.58  1.71/2.70
#   6,283,000 25.3/46.0  170/180    17.8/29.6  24.0/34.9  31.8/34.1  18.1/30.8  53.3/85.8  10.1/30.9
# The crossover is the same with two threads. After 300 updates the weights are identical, or (Adafactor, NAdam,
# RAdam) differ by rounding. The fused implementations beat both: AdamW 1.49 plain, 0.86 foreach, 0.27 fused.
FOREACH_NUMBERS = 400_000
_PLAIN_IS_FASTER = ("ASGD",)


# Arguments that torch does not check, by optimizer: the valid range of the number, or of each of several numbers.
_NOT_NEGATIVE = (0.0, math.inf)
_UNCHECKED: dict[str, dict[str, tuple[tuple[float, float], ...]]] = {
    "ASGD": dict.fromkeys(("lambd", "alpha", "t0"), (_NOT_NEGATIVE,)),
    "Adafactor": {"eps": (_NOT_NEGATIVE, _NOT_NEGATIVE)},
    "Muon": {"eps": (_NOT_NEGATIVE,), "ns_steps": ((1, 99),), "ns_coefficients": ((-1e6, 1e6),) * 3},
    "RMSprop": {"alpha": ((0, 1),)},
    "Rprop": {"etas": (_NOT_NEGATIVE, _NOT_NEGATIVE), "step_sizes": (_NOT_NEGATIVE, _NOT_NEGATIVE)},
    "SGD": {"dampening": ((0, 1),)},
}


def check_ranges(name: str, arguments: Mapping[str, Any]) -> None:
    """Raise ValueError if an argument that torch does not check is out of range.

    >>> check_ranges("SGD", {"dampening": -1.0})
    Traceback (most recent call last):
    ValueError: dampening must be in [0, 1]; got -1.0
    """
    for argument, ranges in _UNCHECKED.get(name, {}).items():
        if argument not in arguments:
            continue
        value = arguments[argument]
        values = value if isinstance(value, (list, tuple)) else [value]
        if len(values) != len(ranges):
            raise ValueError(f"{argument} must be {len(ranges)} numbers; got {value!r}")
        for one, (low, high) in zip(values, ranges, strict=True):
            if name == "Adafactor" and one is None:
                continue  # torch's default for the dtype
            if isinstance(one, bool) or not isinstance(one, (int, float)):
                raise ValueError(
                    f"{argument} must be {'a number' if len(ranges) == 1 else 'numbers'}; got {value!r}"
                )
            if high < math.inf:
                check_within(argument, one, low, high)
            else:
                check_at_least(argument, one, 0)


def register_optimizer(name: str, cls: Callable[..., Optimizer]) -> None:
    """Register an optimizer under a name for SOLVER.OPTIMIZER.

    Args:
        name: the name.
        cls: a class or function that is called with parameter groups, `lr` and OPTIMIZER_ARGS, and with
            `momentum`, `nesterov`, `weight_decay` and `fused` if its signature has them.

    Raises:
        ConfigError: the name is taken.

    >>> register_optimizer("AdamW", torch.optim.AdamW)
    Traceback (most recent call last):
    warmstart.config.errors.ConfigError: an optimizer called 'AdamW' is registered already; choose another name
    """
    if name in OPTIMIZERS:
        raise ConfigError(f"an optimizer called {name!r} is registered already; choose another name")
    OPTIMIZERS[name] = cls


def fastest_kind(
    cls: Callable[..., Optimizer], arguments: dict[str, Any], parameters: list[nn.Parameter]
) -> dict[str, bool]:
    """Return the argument that selects the fastest implementation of `cls` for the parameters, if not the default.

    This is `fused` if `cls` supports it for them, else `foreach` for small models on a CPU; on CUDA torch selects
    foreach itself. Empty if `arguments` already select an implementation.

    >>> small, large = [nn.Parameter(torch.zeros(8))], [nn.Parameter(torch.zeros(500_000))]
    >>> fastest_kind(torch.optim.AdamW, {}, large)
    {'fused': True}
    >>> fastest_kind(torch.optim.RMSprop, {}, small), fastest_kind(torch.optim.RMSprop, {}, large)
    ({'foreach': True}, {})
    """
    takes = inspect.signature(cls).parameters
    if {"fused", "foreach"} & arguments.keys() or arguments.get("differentiable"):
        return {}
    # For sharded parameters torch has no fused SGD. Not checked by their class: importing it takes a second.
    if "foreach" in takes and any(hasattr(parameter, "full_tensor") for parameter in parameters):
        return {"foreach": True}
    if "fused" in takes:
        return {"fused": True} if _fused_works(cls, arguments, parameters) else {}
    measured = any(cls is known for name, known in _TORCH.items() if name not in _PLAIN_IS_FASTER)
    small = sum(parameter.numel() for parameter in parameters) <= FOREACH_NUMBERS
    if "foreach" in takes and measured and small and all(p.device.type == "cpu" for p in parameters):
        return {"foreach": True}
    return {}


def _fused_works(cls: Callable[..., Optimizer], arguments: dict[str, Any], parameters: list[nn.Parameter]) -> bool:
    """Return whether the fused implementation of `cls` supports the parameters, by updating small ones."""
    if cls is torch.optim.SGD and arguments.get("dampening"):
        return False  # its momentum cannot start with zeros, see build_optimizer
    for device, dtype in {(parameter.device, parameter.dtype) for parameter in parameters}:
        probe = nn.Parameter(torch.zeros(1, device=device, dtype=dtype))
        probe.grad = torch.zeros_like(probe)
        try:
            cls([probe], fused=True, **arguments).step()
        except (RuntimeError, TypeError, ValueError):  # not on this device, or not with these arguments
            return False
    return True
