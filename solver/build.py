"""The optimizer that a config describes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable
from fractions import Fraction
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import Optimizer

from warmstart.config import (
    CfgNode,
    ConfigError,
    call,
    check_arguments,
    gathering,
    resolve_durations,
    unknown_name,
)

from .build_curves import moves_momentum
from .build_groups import build_param_groups, check_param_groups
from .build_schedule import check_schedule
from .lr_scheduler import own_momentum
from .muon import MuonWithAdamW
from .optimizers import OPTIMIZERS, REFUSED, check_ranges, fastest_kind
from .schedules import Group

# Arguments of optimizers that have a separate key.
_KEYS = {
    "lr": "BASE_LR",
    "momentum": "MOMENTUM",
    "nesterov": "NESTEROV",
    "weight_decay": "WEIGHT_DECAY",
}
# The argument that an optimizer needs for each key that not all optimizers support.
_OPTIONAL_KEYS = {
    "MOMENTUM": "momentum",
    "NESTEROV": "nesterov",
    "WEIGHT_DECAY": "weight_decay",
    "WEIGHT_DECAY_NORM": "weight_decay",
    "WEIGHT_DECAY_BIAS": "weight_decay",
}


def build_optimizer(cfg: CfgNode, model: nn.Module) -> Optimizer:
    """Return the optimizer for a model that is already on its device.

    Its parameter groups are built by `build_param_groups`. It uses the implementation that `fastest_kind` selects,
    unless OPTIMIZER_ARGS sets fused or foreach.

    Raises:
        ConfigError: the settings contradict each other or do not suit the model, or the model has no trainable
            parameters.

    >>> from warmstart.config import get_cfg
    >>> cfg = get_cfg()
    >>> cfg.merge_from_list(["SOLVER.OPTIMIZER", "AdamW", "SOLVER.OPTIMIZER_ARGS.betas", "[0.9, 0.95]"])
    >>> build_optimizer(cfg, nn.Linear(2, 2)).defaults["betas"]
    (0.9, 0.95)
    """
    cls, arguments = _optimizer(cfg)
    decays = "weight_decay" in inspect.signature(cls).parameters
    groups = build_param_groups(cfg, model, decays, for_muon=cls is MuonWithAdamW)
    parameters = [parameter for group in groups for _, parameter in group["params"]]
    arguments |= fastest_kind(cls, arguments, parameters)
    optimizer = _construct(cfg, cls, groups, arguments)
    has_momentum = cls is torch.optim.SGD and (arguments["momentum"] or moves_momentum(cfg))
    if has_momentum and arguments.get("fused") and not arguments.get("dampening"):
        _start_with_zeros(optimizer, (parameter for parameter in parameters if parameter.requires_grad))
    return optimizer


def begin_to_train(optimizer: Optimizer, parameters: Iterable[nn.Parameter]) -> None:
    """Prepare an optimizer of `build_optimizer` for the first gradients of parameters that were frozen so far."""
    if any("momentum_buffer" in state for state in optimizer.state.values()) and optimizer.defaults.get("fused"):
        _start_with_zeros(optimizer, parameters)


def _start_with_zeros(optimizer: Optimizer, parameters: Iterable[nn.Parameter]) -> None:
    """Give parameters a momentum of 0.

    torch's fused SGD fails if the first gradient of a parameter comes later than the others', and reads
    uninitialized memory if a scaler skips the first update. Zeros give the same first update.
    """
    for parameter in parameters:
        optimizer.state[parameter].setdefault("momentum_buffer", torch.zeros_like(parameter))


def check_solver(cfg: CfgNode, iters_per_epoch: Fraction | int | None = None) -> None:
    """Raise ConfigError for all mistakes in SOLVER that can be found without a model.

    >>> from warmstart.config import get_cfg
    >>> cfg = get_cfg()
    >>> cfg.merge_from_list(["SOLVER.MOMENTUM", 0.8, "SOLVER.OPTIMIZER", "RAdam"])
    >>> check_solver(cfg)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    warmstart.config.errors.ConfigError: SOLVER.MOMENTUM (override): RAdam has no momentum; \
leave it out or set it to 0; optimizers that have it: ...RMSprop, SGD
    """
    problems: list[str] = []
    groups = None
    with gathering(problems):
        cls, arguments = _optimizer(cfg)
        # Every optimizer accepts a parameter with two dimensions.
        parameters = [nn.Parameter(torch.zeros(1, 1))]
        (group,) = _construct(cfg, cls, parameters, arguments).param_groups
        groups = [Group(cfg.SOLVER.BASE_LR, momentum=own_momentum(group))]
    with gathering(problems):
        check_schedule(resolve_durations(cfg, iters_per_epoch), iters_per_epoch, groups)
    with gathering(problems):
        check_param_groups(cfg)
    if problems:
        raise ConfigError(problems)


def _optimizer(cfg: CfgNode) -> tuple[Callable[..., Optimizer], dict[str, Any]]:
    """Return the optimizer class in SOLVER and its arguments, checked."""
    solver, name = cfg.SOLVER, cfg.SOLVER.OPTIMIZER
    if name in REFUSED:
        raise ConfigError(f"{cfg.label('SOLVER.OPTIMIZER')}: {name} {REFUSED[name]}; choose another")
    if name not in OPTIMIZERS:
        known = [known for known in OPTIMIZERS if known not in REFUSED]
        raise unknown_name(cfg.label("SOLVER.OPTIMIZER"), "optimizer", name, known)
    cls, takes = OPTIMIZERS[name], inspect.signature(OPTIMIZERS[name]).parameters
    problems = _misplaced(cfg, takes)
    if solver.NESTEROV and "nesterov" in takes and not solver.MOMENTUM:
        problems.append(f"{cfg.label('SOLVER.NESTEROV')}: Nesterov momentum needs SOLVER.MOMENTUM above 0")
    own = solver.OPTIMIZER_ARGS.clone()
    for argument in _KEYS:
        own.pop(argument, None)  # reported by _misplaced
    with gathering(problems):
        check_arguments("SOLVER.OPTIMIZER_ARGS", name, cls, own, given=["params", *_KEYS])
    if problems:
        raise ConfigError(problems)
    call("SOLVER.OPTIMIZER_ARGS", name, check_ranges, name, own)
    keys = {argument: solver[key] for argument, key in _KEYS.items() if argument in takes}
    # torch needs tuples instead of YAML's lists.
    return cls, keys | {k: tuple(value) if isinstance(value, list) else value for k, value in own.items()}


def _construct(
    cfg: CfgNode, cls: Callable[..., Optimizer], parameters: list[Any], arguments: dict[str, Any]
) -> Optimizer:
    name = cfg.SOLVER.OPTIMIZER
    label = "SOLVER.OPTIMIZER_ARGS" if cfg.SOLVER.OPTIMIZER_ARGS else cfg.label("SOLVER.OPTIMIZER")
    try:
        optimizer: Optimizer = call(label, name, cls, parameters, **arguments)
    except RuntimeError as error:  # raised by torch for fused together with foreach
        raise ConfigError(f"{label}: {name} refuses it: {error}") from error
    return optimizer


def _misplaced(cfg: CfgNode, takes: Collection[str]) -> list[str]:
    """Return the mistakes in settings that the optimizer does not have, or that have a separate key."""
    problems = [
        f"{cfg.label(f'SOLVER.OPTIMIZER_ARGS.{argument}')}: set SOLVER.{key} instead"
        for argument, key in _KEYS.items()
        if argument in cfg.SOLVER.OPTIMIZER_ARGS
    ]
    for key, argument in _OPTIONAL_KEYS.items():
        # The default is not an error: MOMENTUM is 0.9, and simply not used.
        if argument not in takes and cfg.is_set(f"SOLVER.{key}") and cfg.SOLVER[key]:
            off = "false" if cfg.SOLVER[key] is True else "0"
            problems.append(_lacking(cfg, f"SOLVER.{key}", argument, f"leave it out or set it to {off}"))
    if "weight_decay" not in takes and any(rule.get("WEIGHT_DECAY") for rule in cfg.SOLVER.PARAM_GROUPS):
        problems.append(_lacking(cfg, "SOLVER.PARAM_GROUPS", "weight_decay", "leave out WEIGHT_DECAY"))
    return problems


def _lacking(cfg: CfgNode, key: str, argument: str, fix: str) -> str:
    takes = {name: inspect.signature(cls).parameters for name, cls in OPTIMIZERS.items() if name not in REFUSED}
    able = ", ".join(sorted(name for name in takes if argument in takes[name]))
    lacks = f"{cfg.SOLVER.OPTIMIZER} has no {argument.replace('_', ' ')}"
    return f"{cfg.label(key)}: {lacks}; {fix}; optimizers that have it: {able}"
