"""Models beyond one device: weights, gradients and moments lie in parts on the ranks, by torch's FSDP2."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import nn

from warmstart.config import CfgNode, ConfigError, nearest

from . import comm
from .device import get_device

# Who cuts no model spares the half second that these take to import.
if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor


def is_cut(value: Any) -> TypeGuard[DTensor]:
    """Return whether a value is a tensor that lies in parts on several ranks.

    >>> is_cut(torch.zeros(2))
    False
    """
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(value, module.DTensor)


def is_cut_model(model: nn.Module) -> bool:
    """Return whether a model lies in parts on several ranks."""
    module = sys.modules.get("torch.distributed.fsdp")
    return module is not None and isinstance(model, module.FSDPModule)


def is_sharded(cfg: CfgNode) -> bool:
    """Return whether a run cuts its model into parts: MODEL.PARALLEL says so, and there are several ranks."""
    return cfg.MODEL.PARALLEL == "fsdp" and comm.world_size() > 1


def check_fsdp(cfg: CfgNode) -> None:
    """Raise ConfigError where keys ask for what a model in parts cannot do."""
    amp, optimizer = cfg.SOLVER.AMP, cfg.SOLVER.OPTIMIZER
    contradictions = (
        ("MODEL.COMPILE", bool(cfg.MODEL.COMPILE), 'set it to ""'),
        ("SOLVER.AMP.PRECISION", amp.ENABLED and amp.PRECISION == "fp16", "set it to bf16"),
        (
            "SOLVER.OPTIMIZER",
            optimizer in ("Adafactor", "Muon"),
            f"{optimizer} needs whole matrices; take AdamW or SGD",
        ),
    )
    for key, contradicts, advice in contradictions:
        if contradicts:
            raise ConfigError(f"{cfg.label(key)}: does not go together with MODEL.PARALLEL fsdp; {advice}")


def mesh_of(device: torch.device) -> DeviceMesh:
    """Return all ranks as one row; each has one device of this type. Waits for all ranks."""
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh(device.type, (comm.world_size(),))


def shard(cfg: CfgNode, model: nn.Module) -> None:
    """Cut a model into parts, one a rank, in place; names of parameters stay. Waits for all ranks.

    Each module whose class MODEL.FSDP.WRAP names is gathered just before its forward and its backward pass, and
    given back after; what is in none of them is gathered for the whole of a step.

    Args:
        cfg: resolved.
        model: on its device; its weights become those of rank 0.

    Raises:
        ConfigError: MODEL.FSDP.WRAP names a class that the model has none of.
    """
    from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard

    options = cfg.MODEL.FSDP
    device = get_device(cfg)
    half = torch.bfloat16 if options.PRECISION == "bf16" else None
    summed = torch.bfloat16 if cfg.DISTRIBUTED.GRADIENTS == "bf16" else torch.float32
    precision = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=summed)
    offload = CPUOffloadPolicy(pin_memory=device.type == "cuda") if options.CPU_OFFLOAD else OffloadPolicy()
    comm.share_weights(model)
    mesh = mesh_of(device)
    for module in [*reversed(wrapped_modules(cfg, model)), model]:
        fully_shard(
            module,
            mesh=mesh,
            reshard_after_forward=options.RESHARD_AFTER_FORWARD,
            mp_policy=precision,
            offload_policy=offload,
        )


def wrapped_modules(cfg: CfgNode, model: nn.Module) -> list[nn.Module]:
    """Return the modules of the classes that MODEL.FSDP.WRAP names, outer ones before those within them.

    Raises:
        ConfigError: the model has none of a class.
    """
    inner = [module for module in model.modules() if module is not model and [*module.parameters()]]
    classes = sorted({type(module).__name__ for module in inner})
    for name in cfg.MODEL.FSDP.WRAP:
        if name not in classes:
            match = nearest(name, classes)
            hint = f"did you mean {match}?" if match else f"it has {', '.join(classes)}"
            label = cfg.label("MODEL.FSDP.WRAP")
            raise ConfigError(f"{label}: {cfg.MODEL.NAME} has no module of class {name}; {hint}")
    return [module for module in inner if type(module).__name__ in cfg.MODEL.FSDP.WRAP]


def computing_device(model: nn.Module) -> torch.device:
    """Return where a model computes: its parts may lie in the host's memory meanwhile."""
    parameter = next(model.parameters())
    return torch.device(parameter.device_mesh.device_type) if is_cut(parameter) else parameter.device


def in_parts(tensors: Mapping[str, Any], model: nn.Module) -> Mapping[str, Any]:
    """Return a model's state cut as the model is, where it is; this rank takes its part of what is whole."""
    if not is_cut_model(model):
        return tensors
    own = model.state_dict()
    return {name: like(value, own.get(name)) for name, value in tensors.items()}


def like(value: Any, other: Any) -> Any:
    """Return a value cut as `other` is, where that is a tensor in parts of the same shape, and this is whole."""
    if not is_cut(other) or is_cut(value) or getattr(value, "shape", None) != other.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    # Each rank has the whole: none needs to be sent a part.
    return distribute_tensor(value.to(other.device), other.device_mesh, other.placements, src_data_rank=None)
