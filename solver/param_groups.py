"""Which parameter gets which rate and weight decay: as few groups as that takes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

# nn.RMSNorm is not among them, as in detectron2, whose rule this is.
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
    base_lr: float | None = None,
    weight_decay: float | None = None,
    weight_decay_norm: float | None = None,
    bias_lr_factor: float = 1.0,
    weight_decay_bias: float | None = None,
) -> list[dict[str, Any]]:
    """Return parameter groups for an optimizer, with the norm and bias rules of detectron2.

    A bias is a parameter whose own name is exactly "bias" (so not "in_proj_bias"); a norm layer is one
    of `NORM_LAYERS` or a subclass. Where both rules speak, that for biases wins. Frozen parameters are
    left out, shared ones stand once, each under its first name. Kinds with equal settings are one group;
    groups come in the order default, norm, bias, norm bias, parameters in the model's.

    Args:
        model: its parameters with requires_grad are taken.
        base_lr: None leaves rates to the optimizer's own.
        weight_decay: None leaves decay to the optimizer's own.
        weight_decay_norm: for parameters of norm layers; None: no rule for them.
        bias_lr_factor: rate of biases, as a multiple of base_lr.
        weight_decay_bias: for biases; None: no rule for their decay.

    Returns:
        One dict a group: "name", "params" as (name, parameter) pairs (so that the optimizer's state
        keeps "param_names"), and where they are given "lr" and "weight_decay".

    Raises:
        ValueError: a bias_lr_factor without a base_lr.

    >>> model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    >>> for group in get_default_optimizer_params(model, 0.1, 1e-4, weight_decay_norm=0.0):
    ...     print(group["name"], [name for name, _ in group["params"]], group["weight_decay"])
    default ['0.weight', '0.bias'] 0.0001
    norm ['1.weight', '1.bias'] 0.0
    """
    if bias_lr_factor != 1.0 and base_lr is None:
        raise ValueError(f"bias_lr_factor {bias_lr_factor} needs a base_lr to multiply")
    bias_lr = base_lr if base_lr is None else base_lr * bias_lr_factor

    def first(*decays: float | None) -> float | None:
        return next((decay for decay in decays if decay is not None), None)

    settings = {
        "default": (base_lr, weight_decay),
        "norm": (base_lr, first(weight_decay_norm, weight_decay)),
        "bias": (bias_lr, first(weight_decay_bias, weight_decay)),
        "norm bias": (bias_lr, first(weight_decay_bias, weight_decay_norm, weight_decay)),
    }
    found = list(_trainable(model))
    groups = []
    for setting in dict.fromkeys(settings.values()):
        members = [(name, parameter) for name, parameter, kind in found if settings[kind] == setting]
        if not members:
            continue
        kinds = [k for k in settings if settings[k] == setting and any(kind == k for *_, kind in found)]
        group: dict[str, Any] = {"name": _group_name(kinds), "params": members}
        lr, decay = setting
        if lr is not None:
            group["lr"] = lr
        if decay is not None:
            group["weight_decay"] = decay
        groups.append(group)
    return groups


def _group_name(kinds: list[str]) -> str:
    """Return a short name for a group of one or several kinds, another for each group of a model."""
    if "default" in kinds:
        return "default"
    return "+".join(kind for kind in kinds if kind != "norm bias") or "norm bias"


def _trainable(model: nn.Module) -> Iterator[tuple[str, nn.Parameter, str]]:
    """Yield each parameter that is trained once: its full name, itself, its kind."""
    seen = set()
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            kinds = ["norm"] * isinstance(module, NORM_LAYERS) + ["bias"] * (name == "bias")
            yield f"{prefix}.{name}" if prefix else name, parameter, " ".join(kinds) or "default"
