"""Models beyond one device: weights, gradients and moments lie in parts on the ranks, by torch's FSDP2."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.torch_version import TorchVersion

from warmstart.config import CfgNode, ConfigError, did_you_mean

from ..runtime.device import build_device
from . import comm

# Who cuts no model spares the half second that these take to import.
if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor


_NOT_IN_PARTS = ("Adafactor", "Muon", "Rprop")
CUTS_ON_CPU = TorchVersion(torch.__version__) >= "2.7"


def is_sharded_tensor(value: Any) -> TypeGuard[DTensor]:
    """Return whether a value is a tensor that lies in parts on several ranks.

    >>> is_sharded_tensor(torch.zeros(2))
    False
    """
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(value, module.DTensor)


def is_sharded_model(model: nn.Module) -> bool:
    """Return whether a model lies in parts on several ranks."""
    module = sys.modules.get("torch.distributed.fsdp")
    return module is not None and isinstance(model, module.FSDPModule)


def is_sharded(parallel: str) -> bool:
    """Return whether a run cuts its model into parts: MODEL.PARALLEL says so, and there are several ranks."""
    return parallel == "fsdp" and comm.world_size() > 1


def check_fsdp(cfg: CfgNode) -> None:
    """Raise ConfigError where keys ask for what a model in parts cannot do, or this torch cannot with one."""
    if build_device(cfg).type == "cpu" and not CUTS_ON_CPU:
        raise ConfigError(
            f"{cfg.label('MODEL.PARALLEL')}: fsdp on a CPU needs torch 2.7 or later, and this is "
            f"{torch.__version__}; set it to ddp"
        )
    amp, optimizer = cfg.SOLVER.AMP, cfg.SOLVER.OPTIMIZER
    contradictions = (
        ("MODEL.COMPILE", bool(cfg.MODEL.COMPILE), 'set it to ""'),
        ("SOLVER.AMP.PRECISION", amp.ENABLED and amp.PRECISION == "fp16", "set it to bf16"),
        ("SOLVER.OPTIMIZER", optimizer in _NOT_IN_PARTS, f"{optimizer} needs whole tensors; take AdamW or SGD"),
    )
    for key, contradicts, advice in contradictions:
        if contradicts:
            raise ConfigError(f"{cfg.label(key)}: does not go together with MODEL.PARALLEL fsdp; {advice}")


def mesh_of(kind: str) -> DeviceMesh:
    """Return all ranks as one row; each has one device of this kind, "cuda" or "cpu". Waits for all ranks."""
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh(kind, (comm.world_size(),))


@contextmanager
def without_weights() -> Iterator[None]:
    """Let modules that are made within the block have parameters of a shape and a type, but of no bytes.

    Buffers, and all else that a module computes when it is made, are there as ever.

    >>> with without_weights():
    ...     norm = nn.BatchNorm1d(3)
    >>> norm.weight.device, norm.running_var
    (device(type='meta'), tensor([1., 1., 1.]))
    """

    def emptied(module: nn.Module, name: str, parameter: nn.Parameter) -> nn.Parameter:
        return _on_meta(parameter)

    # Annotated as if a hook could not return what is to be registered.
    handle = register_module_parameter_registration_hook(emptied)  # type: ignore[arg-type]
    try:
        yield
    finally:
        handle.remove()


def take_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return a model's parameters by their names, tied ones once, and leave the model as `without_weights` does.

    >>> model = nn.Linear(1, 2)
    >>> weights = take_weights(model)
    >>> weights["bias"].shape, model.bias.device, take_weights(model)
    (torch.Size([2]), device(type='meta'), {})
    """
    weights = {name: parameter.detach() for name, parameter in model.named_parameters() if not parameter.is_meta}
    made: dict[nn.Parameter, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in [*module.named_parameters(recurse=False, remove_duplicate=False)]:
            if parameter not in made:
                made[parameter] = _on_meta(parameter)
            module.register_parameter(name, made[parameter])
    return weights


def _on_meta(parameter: nn.Parameter) -> nn.Parameter:
    # What is there already is kept, so that tied weights stay so.
    return parameter if parameter.is_meta else nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)


def build_shards(cfg: CfgNode, model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Cut a model into parts, one a rank, in place; names of parameters stay. Waits for all ranks.

    Each module whose class MODEL.FSDP.WRAP names is gathered just before its forward and its backward pass, and
    given back after; what is in none of them is gathered for the whole of a step. Buffers become those of rank 0.

    No device holds more than its parts and one whole parameter at a time; only rank 0's memory holds `weights`.

    Args:
        cfg: resolved.
        model: without weights, as `take_weights` leaves it.
        weights: those of rank 0, which has all; {} there: the parts are left as memory is, until a checkpoint is
            loaded.

    Raises:
        ConfigError: MODEL.FSDP.WRAP names a class that the model has none of, or torch cannot cut the model.
    """
    from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard

    options = cfg.MODEL.FSDP
    device = build_device(cfg)
    half = torch.bfloat16 if options.PRECISION == "bf16" else None
    summed = torch.bfloat16 if cfg.DISTRIBUTED.GRADIENTS == "bf16" else torch.float32
    precision = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=summed)
    offload = CPUOffloadPolicy(pin_memory=device.type == "cuda") if options.CPU_OFFLOAD else OffloadPolicy()
    mesh = mesh_of(device.type)
    modules = [*reversed(check_wrap(cfg, model)), model]
    try:
        for module in modules:
            fully_shard(
                module,
                mesh=mesh,
                reshard_after_forward=options.RESHARD_AFTER_FORWARD,
                mp_policy=precision,
                offload_policy=offload,
            )
    except (ValueError, NotImplementedError) as error:
        raise ConfigError(f"{cfg.label('MODEL.PARALLEL')}: torch cannot cut {cfg.MODEL.NAME}: {error}") from error
    _fill(model, weights, device, torch.device("cpu") if options.CPU_OFFLOAD else device)
    comm.broadcast_buffers(model)


@torch.no_grad()
def _fill(model: nn.Module, weights: Mapping[str, Tensor], device: torch.device, kept_on: torch.device) -> None:
    """Give a model that was cut without weights its parts of those of rank 0, one parameter after the other."""
    parts = {
        parameter: nn.Parameter(torch.empty_like(parameter, device=kept_on), parameter.requires_grad)
        for parameter in model.parameters()
    }
    state = {name: parts[parameter] for name, parameter in model.named_parameters(remove_duplicate=False)}
    model.load_state_dict(state, strict=False, assign=True)
    if not comm.broadcast_object(bool(weights)):
        return
    for name, parameter in model.named_parameters():
        whole = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
        if comm.is_main():
            whole.copy_(weights[name])
        dist.broadcast(whole, src=0)
        copy_local_shard(whole, parameter)


def check_wrap(cfg: CfgNode, model: nn.Module) -> list[nn.Module]:
    """Return the modules of the classes that MODEL.FSDP.WRAP names, outer ones before those within them.

    Raises:
        ConfigError: the model has none of a class.
    """
    inner = [module for module in model.modules() if module is not model and [*module.parameters()]]
    classes = sorted({type(module).__name__ for module in inner})
    for name in cfg.MODEL.FSDP.WRAP:
        if name not in classes:
            hint = did_you_mean(name, classes, f"; it has {', '.join(classes)}", show=str)
            label = cfg.label("MODEL.FSDP.WRAP")
            raise ConfigError(f"{label}: {cfg.MODEL.NAME} has no module of class {name}{hint}")
    return [module for module in inner if type(module).__name__ in cfg.MODEL.FSDP.WRAP]


def computing_device(model: nn.Module) -> torch.device:
    """Return where a model computes: its parts may lie in the host's memory meanwhile."""
    parameter = next(model.parameters())
    return torch.device(parameter.device_mesh.device_type) if is_sharded_tensor(parameter) else parameter.device


def shard_state_like(tensors: Mapping[str, Any], model: nn.Module) -> Mapping[str, Any]:
    """Return a model's state cut as the model is, where it is; this rank takes its part of what is whole."""
    if not is_sharded_model(model):
        return tensors
    own = model.state_dict()
    return {name: shard_like(value, own.get(name)) for name, value in tensors.items()}


def shard_like(value: Any, other: Any) -> Any:
    """Return a value cut as `other` is, and where that is, if that is a tensor in parts of the same shape.

    Args:
        value: a whole tensor, or one in as many parts, on whatever device; anything else is returned as it is.
        other: what it is to be like.
    """
    if not is_sharded_tensor(other) or getattr(value, "shape", None) != other.shape:
        return value
    made = torch.empty_like(other, dtype=value.dtype, requires_grad=False)
    copy_local_shard(value, made)
    return made


@torch.no_grad()
def copy_local_shard(value: Tensor, part: Tensor) -> None:
    """Copy a tensor into one that is cut along its first dimension, as torch.chunk cuts, one piece a rank."""
    assert is_sharded_tensor(part)
    if is_sharded_tensor(value):
        own = value.to_local()
    else:
        pieces = value.chunk(part.device_mesh.size())
        own = pieces[comm.rank()] if comm.rank() < len(pieces) else value[:0]
    part.to_local().copy_(own)
