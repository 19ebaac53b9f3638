"""What an optimizer has gathered: given back to it parameter by parameter, and whether it is all it needs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from warmstart.solver import ScheduleLR

from ..distributed.fsdp import shard_like

# What a parameter group holds beside the arguments of its optimizer, set by us: no progress of a run.
_SETTINGS = ("params", "param_names", "name", "use_muon", "initial_lr", "initial_momentum")
# What torch's schedulers move, and remember nowhere else.
_MOVED_BY_TORCH = {"lr", "initial_lr", "momentum", "betas"}


def load_optimizer_state(optimizer: Optimizer, saved: Mapping[str, Any], scheduler: LRScheduler) -> None:
    """Give each parameter the moments saved under its name, in the types in which they were saved.

    Groups may be others than they were, and hyper-parameters stay the optimizer's own. Of the saved groups comes
    what moves on as a run does: what an optimizer counts there, as schedule-free ones do; and the rates, where a
    scheduler of torch's moves them, which keeps them nowhere else.

    Args:
        optimizer: of this run.
        saved: its state_dict() in the run before.
        scheduler: of this run.

    Raises:
        ValueError: the optimizer's parameters have other names.
    """
    own = optimizer.state_dict()
    numbers, saved_numbers = _numbers(own), _numbers(saved)
    missing, extra = sorted(numbers.keys() - saved_numbers.keys()), sorted(saved_numbers.keys() - numbers.keys())
    if missing or extra:
        raise ValueError(f"the optimizer has no saved state for {missing}, and no parameter for {extra}")
    moments = {numbers[name]: saved["state"][i] for name, i in saved_numbers.items() if i in saved["state"]}
    settings = {*_SETTINGS, "weight_decay", *_MOVED_BY_TORCH}
    for kind in type(optimizer).__mro__[:-1]:
        settings |= inspect.signature(kind).parameters.keys()
    if not isinstance(scheduler, ScheduleLR):
        settings -= _MOVED_BY_TORCH
    before = {name: group for group in saved["param_groups"] for name, _ in _named(group)}
    for group in own["param_groups"]:
        for name, _ in list(_named(group))[:1]:
            group.update((key, value) for key, value in before[name].items() if key not in settings)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for parameter, number in zip(parameters, numbers.values(), strict=True):
        if number in moments:
            moments[number] = {key: shard_like(value, parameter) for key, value in moments[number].items()}
    # A parameter without saved moments keeps those it begins with.
    optimizer.load_state_dict({"state": own["state"] | moments, "param_groups": own["param_groups"]})
    # torch has cast them to the types of the parameters.
    for parameter, number in zip(parameters, numbers.values(), strict=True):
        for key, value in moments.get(number, {}).items():
            state = optimizer.state[parameter]
            if isinstance(value, Tensor) and state[key].dtype != value.dtype:
                state[key] = value.to(state[key].device, copy=True)


def missing_optimizer_state(optimizer: Optimizer) -> list[str]:
    """Return what an optimizer would look for in its next step, and its state does not hold.

    Which it keeps depends on its arguments, as max_exp_avg_sq on Adam's amsgrad. What it would keep is seen on an
    optimizer of the same kind, after a step with a tiny parameter in each place. Only those of torch and ours are
    asked: what the step of another does besides, nobody knows.

    >>> weight = torch.nn.Parameter(torch.ones(3))
    >>> weight.grad = torch.ones(3)
    >>> before, now = torch.optim.Adam([weight]), torch.optim.Adam([weight], amsgrad=True)
    >>> before.step()
    >>> now.load_state_dict({**before.state_dict(), "param_groups": now.state_dict()["param_groups"]})
    >>> missing_optimizer_state(now)
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


def _numbers(state: Mapping[str, Any]) -> dict[str, int]:
    """Return the number of each parameter in a state by its name."""
    return dict(each for group in state["param_groups"] for each in _named(group))


def _named(group: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Return the names and numbers of a group's parameters; the numbers are the names where there are none."""
    for name, number in zip(group.get("param_names", group["params"]), group["params"], strict=True):
        yield str(name), number


def _kept(kind: Callable[..., Optimizer], group: dict[str, Any], parameter: Tensor) -> set[str]:
    """Return the keys of the state after a step with a parameter of as many dimensions."""
    tiny = torch.zeros([1] * parameter.ndim, dtype=parameter.dtype, device=parameter.device)
    tiny.grad = torch.zeros_like(tiny)
    # A group carries all arguments. The names go: they are of the parameters that it has.
    arguments = {name: value for name, value in group.items() if name not in ("params", "param_names")}
    probe = kind([{**arguments, "params": [tiny]}])
    probe.step()
    return set(probe.state[tiny])
