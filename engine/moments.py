"""Whether what a checkpoint holds for an optimizer is all that the next update needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer


def missing_moments(optimizer: Optimizer) -> list[str]:
    """Return what an optimizer would look for in its next step, and its state does not hold.

    Which it keeps depends on its arguments, as max_exp_avg_sq on Adam's amsgrad. What it would keep is seen on an
    optimizer of the same kind, after a step with a tiny parameter in each place. Only those of torch and ours are
    asked: what the step of another does besides, nobody knows.

    >>> weight = torch.nn.Parameter(torch.ones(3))
    >>> weight.grad = torch.ones(3)
    >>> before, now = torch.optim.Adam([weight]), torch.optim.Adam([weight], amsgrad=True)
    >>> before.step()
    >>> now.load_state_dict({**before.state_dict(), "param_groups": now.state_dict()["param_groups"]})
    >>> missing_moments(now)
    ['max_exp_avg_sq']
    """
    if type(optimizer).__module__.partition(".")[0] not in ("torch", "warmstart"):
        return []
    missing: set[str] = set()
    for group in optimizer.param_groups:
        kept: dict[int, set[str]] = {}
        for parameter in group["params"]:
            state = optimizer.state.get(parameter)
            if not state:  # it may never have had a gradient
                continue
            if parameter.ndim not in kept:
                kept[parameter.ndim] = _kept(type(optimizer), group, parameter)
            missing |= kept[parameter.ndim] - state.keys()
    return sorted(missing)


def _kept(kind: Callable[..., Optimizer], group: dict[str, Any], parameter: torch.Tensor) -> set[str]:
    """Return the keys of the state after a step with a parameter of as many dimensions."""
    tiny = torch.zeros([1] * parameter.ndim, dtype=parameter.dtype, device=parameter.device)
    tiny.grad = torch.zeros_like(tiny)
    # A group carries all arguments. The names go: they are of the parameters that it has.
    arguments = {name: value for name, value in group.items() if name not in ("params", "param_names")}
    probe = kind([{**arguments, "params": [tiny]}])
    probe.step()
    return set(probe.state[tiny])
