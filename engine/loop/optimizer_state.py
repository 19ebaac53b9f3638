"""Optimizer state: restored by parameter name, and checked for completeness."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from warmstart.solver import ScheduleLR

from ..distributed.fsdp import shard_like

# Entries of a parameter group that we set, besides the arguments of its optimizer.
_SETTINGS = ("params", "param_names", "name", "use_muon", "initial_lr", "initial_momentum")
# Entries that torch's schedulers change in place and keep nowhere else.
_MOVED_BY_TORCH = {"lr", "initial_lr", "momentum", "betas"}


def load_optimizer_state(optimizer: Optimizer, saved: Mapping[str, Any], scheduler: LRScheduler) -> None:
    """Restore each parameter's optimizer state by the parameter's name, in the dtypes in which it was saved.

    Parameter groups may have changed, and hyper-parameters keep their current values. From the saved groups only
    entries are restored that change during a run: counters, as of schedule-free optimizers; and, with a scheduler
    of torch's, the learning rates and momenta that it changes in place.

    Args:
        optimizer: of this run.
        saved: its state_dict() in the run that is continued.
        scheduler: of this run.

    Raises:
        ValueError: the optimizer's parameters have other names.
    """
    own = optimizer.state_dict()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    by_number = dict(zip(_numbers(own).values(), parameters, strict=True))
    state = _renumbered(saved, own)
    for number, parameter in by_number.items():
        if number in state:
            state[number] = {key: shard_like(value, parameter) for key, value in state[number].items()}
    _restore_progress(own["param_groups"], saved["param_groups"], _hyper_parameters(optimizer, scheduler))
    # A parameter without saved state keeps its initial state.
    optimizer.load_state_dict({"state": own["state"] | state, "param_groups": own["param_groups"]})
    for number, entries in state.items():
        _restore_dtypes(optimizer.state[by_number[number]], entries)


def _renumbered(saved: Mapping[str, Any], own: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    """Return the saved state of each parameter by the number that the parameter has in `own`.

    Raises:
        ValueError: the parameters have other names.
    """
    numbers, saved_numbers = _numbers(own), _numbers(saved)
    missing, extra = sorted(numbers.keys() - saved_numbers.keys()), sorted(saved_numbers.keys() - numbers.keys())
    if missing or extra:
        lacks = (("no saved state for", missing), ("no parameter for", extra))
        found = ", and ".join(f"{what} {_listed(names)}" for what, names in lacks if names)
        raise ValueError(
            f"the optimizer has {found}; keep MODEL.FREEZE and the model as they were, or start a new run with"
            " MODEL.WEIGHTS FILE and another OUTPUT_DIR"
        )
    names = {number: name for name, number in saved_numbers.items()}
    return {numbers[names[i]]: entries for i, entries in saved["state"].items()}  # in the order of the saved ones


def _listed(names: Sequence[str]) -> str:
    """Return up to three names, and how many more there are."""
    shown, more = ", ".join(names[:3]), len(names) - 3
    return f"{shown} and {more} more" if more > 0 else shown


def _hyper_parameters(optimizer: Optimizer, scheduler: LRScheduler) -> set[str]:
    """Return the entries of parameter groups that follow from this run's config."""
    names = {*_SETTINGS, "weight_decay", *_MOVED_BY_TORCH}
    for kind in type(optimizer).__mro__[:-1]:
        names |= inspect.signature(kind).parameters.keys()
    return names if isinstance(scheduler, ScheduleLR) else names - _MOVED_BY_TORCH


def _restore_progress(
    groups: Sequence[dict[str, Any]], saved: Sequence[Mapping[str, Any]], settings: Collection[str]
) -> None:
    """Put all other entries than `settings` into groups, from the saved group of a group's first parameter."""
    saved_group = {name: group for group in saved for name, _ in _named(group)}
    for group in groups:
        for name, _ in list(_named(group))[:1]:
            group.update((key, value) for key, value in saved_group[name].items() if key not in settings)


def _restore_dtypes(state: dict[str, Any], saved: Mapping[str, Any]) -> None:
    """Cast tensors back to the dtypes in which they were saved: torch has cast them to the parameter's."""
    for key, value in saved.items():
        if isinstance(value, Tensor) and state[key].dtype != value.dtype:
            state[key] = value.to(state[key].device, copy=True)


def missing_optimizer_state(optimizer: Optimizer) -> list[str]:
    """Return the names of state entries that an optimizer's next step needs and its state lacks.

    Which entries it needs depends on its arguments, as max_exp_avg_sq on Adam's amsgrad. They are found by a step
    of another optimizer of the same class with tiny parameters. Only optimizers of torch and ours are checked:
    the step of any other may have side effects.

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
            if not state:  # the parameter may never have had a gradient
                continue
            if parameter.ndim not in kept:
                kept[parameter.ndim] = _kept(type(optimizer), group, parameter)
            missing |= kept[parameter.ndim] - state.keys()
    return sorted(missing)


def _numbers(state: Mapping[str, Any]) -> dict[str, int]:
    """Return the number of each parameter in an optimizer's state_dict(), by the parameter's name."""
    return dict(each for group in state["param_groups"] for each in _named(group))


def _named(group: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Yield the names and numbers of a group's parameters; a number serves as the name if there are no names."""
    for name, number in zip(group.get("param_names", group["params"]), group["params"], strict=True):
        yield str(name), number


def _kept(kind: Callable[..., Optimizer], group: dict[str, Any], parameter: Tensor) -> set[str]:
    """Return the state entries that a step creates for a parameter with the same number of dimensions."""
    tiny = torch.zeros([1] * parameter.ndim, dtype=parameter.dtype, device=parameter.device)
    tiny.grad = torch.zeros_like(tiny)
    # A group holds all arguments; its parameters' names do not apply to the tiny one.
    arguments = {name: value for name, value in group.items() if name not in ("params", "param_names")}
    probe = kind([{**arguments, "params": [tiny]}])
    probe.step()
    return set(probe.state[tiny])
