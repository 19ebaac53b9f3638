"""Parameter groups: which parameters share a rate and a weight decay."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.nn import Parameter
from torch.optim import Optimizer

# The layers whose own parameters follow WEIGHT_DECAY_NORM, as in detectron2; subclasses included.
NORM_LAYERS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.GroupNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.LayerNorm,
    nn.LocalResponseNorm,
)


def get_default_optimizer_params(
    model: nn.Module,
    base_lr: float,
    weight_decay: float,
    weight_decay_norm: float | None = None,
    bias_lr_factor: float = 1.0,
    weight_decay_bias: float | None = None,
) -> list[dict[str, Any]]:
    """Return few parameter groups, each with `params` as (name, parameter), `lr`, `weight_decay`, `name`.

    Frozen parameters are left out, shared ones stand once, under their first name. A bias is a parameter
    whose own name is exactly `bias` (so not `in_proj_bias`); its rule wins over that of a norm layer.

    Args:
        model: its parameters keep their order within a group.
        base_lr: rate.
        weight_decay: of everything that no rule names.
        weight_decay_norm: of norm layers' own parameters; None follows weight_decay.
        bias_lr_factor: rate of biases as a multiple of base_lr.
        weight_decay_bias: of biases; None follows the rules above.

    Raises:
        ValueError: no parameter requires a gradient.

    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
    >>> for group in get_default_optimizer_params(model, 0.1, 1e-4, weight_decay_norm=0.0):
    ...     print(group["name"], group["lr"], group["weight_decay"], [name for name, _ in group["params"]])
    default 0.1 0.0001 ['0.weight', '0.bias']
    norm 0.1 0.0 ['1.weight', '1.bias']
    """
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    kinds: dict[tuple[float, float], list[str]] = {}
    for name, parameter, module in _trained(model):
        kind, lr, decay = "default", base_lr, weight_decay
        if isinstance(module, NORM_LAYERS) and weight_decay_norm is not None:
            kind, decay = "norm", weight_decay_norm
        if name.rpartition(".")[2] == "bias" and (bias_lr_factor != 1.0 or weight_decay_bias is not None):
            kind, lr = "bias", base_lr * bias_lr_factor
            decay = decay if weight_decay_bias is None else weight_decay_bias
        key = (lr, decay)
        group = groups.setdefault(key, {"params": [], "lr": lr, "weight_decay": decay})
        group["params"].append((name, parameter))
        if kind not in kinds.setdefault(key, []):
            kinds[key].append(kind)
    if not groups:
        raise ValueError("the model has no parameter that requires a gradient: there is nothing to train")
    default = (base_lr, weight_decay)
    for key, group in groups.items():
        # What no rule has changed is called default, whatever else came to equal it.
        group["name"] = "default" if "default" in kinds[key] or key == default else "+".join(kinds[key])
    # The default group first: its rate is the one that is logged as `lr`.
    return sorted(groups.values(), key=lambda group: group["name"] != "default")


def describe_groups(optimizer: Optimizer) -> str:
    """Return one line for each parameter group: name, tensors, parameters, rate, weight decay.

    >>> import torch
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
    >>> groups = get_default_optimizer_params(model, 0.1, 1e-4, weight_decay_norm=0.0)
    >>> print(describe_groups(torch.optim.SGD(groups)))
    default: 2 tensors, 40 parameters, rate 0.1, weight decay 0.0001
    norm: 2 tensors, 8 parameters, rate 0.1, weight decay 0
    """
    lines = []
    for index, group in enumerate(optimizer.param_groups):
        parameters = sum(parameter.numel() for parameter in group["params"])
        rate = float(group.get("initial_lr", group["lr"]))
        decay = f", weight decay {group['weight_decay']:g}" if "weight_decay" in group else ""
        tensors = len(group["params"])
        lines.append(
            f"{group.get('name', index)}: {tensors} tensors, {parameters:,} parameters, rate {rate:g}{decay}"
        )
    return "\n".join(lines)


def _trained(model: nn.Module) -> Iterator[tuple[str, Parameter, nn.Module]]:
    seen: set[Parameter] = set()
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(prefix=prefix, recurse=False):
            if parameter.requires_grad and parameter not in seen:
                seen.add(parameter)
                yield name, parameter, module
