"""Models beyond one device by torch's FSDP2: weights, gradients and optimizer state are sharded over the ranks."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.torch_version import TorchVersion

from warmstart.config import ConfigError, did_you_mean
from warmstart.data import Batch

from . import comm
from .meta_device import take_weights
from .strategy import Strategy, with_sync_bn

# A run without shards is spared the half second that these take to import.
if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor


SHARDS_ON_CPU = TorchVersion(torch.__version__) >= "2.7"


class FSDP2(Strategy):
    """Weights, gradients and optimizer state sharded over the ranks along the first dimension of each tensor.

    Each module whose class `wrap` names is all-gathered just before its forward and its backward pass, and
    resharded after it; all others are all-gathered for a complete step. The names of parameters stay. Rank 0 sends
    its buffers to all ranks. No device holds more than its shards and one complete parameter at a time; only the
    memory of rank 0 holds the initial weights.

    Args:
        device: where the model computes.
        wrap: names of classes of modules.
        sync_bn: whether BatchNorm layers compute their statistics over the images of all ranks.
        compute: the type that parameters are all-gathered in; None: their own.
        reduce: the type that gradients are averaged in.
        reshard: whether parameters are resharded after the forward pass too.
        offload: whether the shards are kept in the memory of the host.
        label: the beginning of the message if torch cannot shard the model.
        wrap_label: the beginning of the message if the model does not have a class of `wrap`.
    """

    is_sharded = True

    def __init__(
        self,
        device: torch.device,
        wrap: Sequence[str] = (),
        *,
        sync_bn: bool = False,
        compute: torch.dtype | None = None,
        reduce: torch.dtype = torch.float32,
        reshard: bool = True,
        offload: bool = False,
        label: str = "FSDP2: torch cannot shard the model",
        wrap_label: str = "wrap: the model",
    ) -> None:
        self.device = device
        self.wrap = list(wrap)
        self.sync_bn = sync_bn
        self.compute, self.reduce = compute, reduce
        self.reshard, self.offload = reshard, offload
        self.label, self.wrap_label = label, wrap_label
        self._weights: dict[str, Tensor] = {}
        self._model: nn.Module | None = None

    @property
    def has_weights(self) -> bool:  # type: ignore[override]
        """Whether this rank needs the initial weights of a new run: only rank 0, which sends them."""
        return comm.is_main()

    def place(self, model: nn.Module, device: torch.device) -> nn.Module:
        """Return the model where it is, because all of it may not fit on the device."""
        return with_sync_bn(model) if self.sync_bn else model

    def release(self, model: nn.Module) -> None:
        """Keep the weights of the model for `prepare`, and leave it without memory for its parameters."""
        self._weights = take_weights(model)

    def prepare(self, *models: nn.Module) -> None:
        """Shard models in place: all get the weights that `release` has kept on rank 0; waits for all ranks.

        Without weights on rank 0 the shards are uninitialized, until a checkpoint is loaded.

        Raises:
            ConfigError: `wrap` names a class that the model does not have, or torch cannot shard the model.
        """
        for model in models:
            self._shard(model)
        self._weights, self._model = {}, models[0]

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Do not reduce the gradients of the backward passes in this context."""
        from torch.distributed.fsdp import FSDPModule

        assert isinstance(self._model, FSDPModule), "prepare() comes first"
        self._model.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            self._model.set_requires_gradient_sync(True)

    def lockstep(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield equally many batches on all ranks; see the function of this name."""
        return lockstep(batches)

    def _shard(self, model: nn.Module) -> None:
        from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard

        pins = self.device.type != "cpu"
        wrapped = modules_to_wrap(model, self.wrap, self.wrap_label)
        options: dict[str, Any] = {
            "mesh": mesh_of(self.device.type),
            "reshard_after_forward": self.reshard,
            "mp_policy": MixedPrecisionPolicy(param_dtype=self.compute, reduce_dtype=self.reduce),
            "offload_policy": CPUOffloadPolicy(pin_memory=pins) if self.offload else OffloadPolicy(),
        }
        try:
            for module in (*reversed(wrapped), model):
                fully_shard(module, **options)
        except (ValueError, NotImplementedError) as error:
            raise ConfigError(f"{self.label}: {error}") from error
        _fill(model, self._weights, self.device, torch.device("cpu") if self.offload else self.device)
        comm.broadcast_buffers(model)


def lockstep(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Yield equally many batches on all ranks, the last ones without targets on ranks that have fewer.

    All ranks must call a sharded model together; what they predict for a batch without targets is ignored.
    """
    iterator = iter(batches)
    while True:
        batch = next(iterator, None)
        form = None if batch is None else (isinstance(batch.images, list), batch.images[0].shape)
        found = next((each for each in comm.gather(form) if each is not None), None)
        if found is None:
            return
        if batch is None:
            black = torch.zeros(1, *found[1])
            batch = Batch(list(black) if found[0] else black, None)
        yield batch


def is_sharded_tensor(value: Any) -> TypeGuard[DTensor]:
    """Return whether a value is a tensor that is sharded over several ranks.

    >>> is_sharded_tensor(torch.zeros(2))
    False
    """
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(value, module.DTensor)


def mesh_of(kind: str) -> DeviceMesh:
    """Return the device mesh of all ranks, one device each of this kind, "cuda" or "cpu"; waits for all ranks."""
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh(kind, (comm.world_size(),))


@torch.no_grad()
def _fill(model: nn.Module, weights: Mapping[str, Tensor], device: torch.device, kept_on: torch.device) -> None:
    """Fill the shards of a model with the weights of rank 0, one parameter after the other."""
    shards = {
        parameter: nn.Parameter(torch.empty_like(parameter, device=kept_on), parameter.requires_grad)
        for parameter in model.parameters()
    }
    state = {name: shards[parameter] for name, parameter in model.named_parameters(remove_duplicate=False)}
    model.load_state_dict(state, strict=False, assign=True)
    if not comm.broadcast_object(bool(weights)):
        return
    for name, parameter in model.named_parameters():
        full = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
        if comm.is_main():
            full.copy_(weights[name])
        dist.broadcast(full, src=0)
        copy_local_shard(full, parameter)


def modules_to_wrap(model: nn.Module, classes: Sequence[str], label: str) -> list[nn.Module]:
    """Return the modules of the named classes, outer ones before those within them.

    Args:
        model: is searched.
        classes: names of classes.
        label: the beginning of the message.

    Raises:
        ConfigError: the model has no module of a class.
    """
    inner = [module for module in model.modules() if module is not model and [*module.parameters()]]
    there = sorted({type(module).__name__ for module in inner})
    for name in classes:
        if name not in there:
            hint = did_you_mean(name, there, f"; it has {', '.join(there)}", show=str)
            raise ConfigError(f"{label} has no module of class {name}{hint}")
    return [module for module in inner if type(module).__name__ in classes]


def computing_device(model: nn.Module) -> torch.device:
    """Return the device that a model computes on; its shards may be in the memory of the host."""
    parameter = next(model.parameters())
    return torch.device(parameter.device_mesh.device_type) if is_sharded_tensor(parameter) else parameter.device


def shard_like(value: Any, other: Any) -> Any:
    """Return a value sharded like `other`, on its device, if `other` is a sharded tensor of the same shape.

    Args:
        value: a full tensor, or one sharded over as many ranks, on any device; anything else is returned as it is.
        other: the tensor to match.
    """
    if not is_sharded_tensor(other) or getattr(value, "shape", None) != other.shape:
        return value
    made = torch.empty_like(other, dtype=value.dtype, requires_grad=False)
    copy_local_shard(value, made)
    return made


@torch.no_grad()
def copy_local_shard(value: Tensor, shard: Tensor) -> None:
    """Copy a tensor into one that is sharded along its first dimension: one chunk of torch.chunk a rank."""
    assert is_sharded_tensor(shard)
    if is_sharded_tensor(value):
        own = value.to_local()
    else:
        chunks = value.chunk(shard.device_mesh.size())
        own = chunks[comm.rank()] if comm.rank() < len(chunks) else value[:0]
    shard.to_local().copy_(own)
