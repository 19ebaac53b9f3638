"""Data parallel training: one model on several ranks, whose gradients are averaged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.nn.parallel import DistributedDataParallel

from warmstart.config import CfgNode, ConfigError

from . import comm
from .device import get_device
from .fsdp import check_fsdp, is_cut_model, is_sharded


def check_parallel(cfg: CfgNode, ranks: int) -> None:
    """Raise ConfigError where the keys of several ranks ask for what there is not.

    Args:
        cfg: resolved.
        ranks: of the run.
    """
    if ranks == 1:
        return
    if cfg.MODEL.SYNC_BN and get_device(cfg).type == "cpu":
        raise ConfigError(
            f"{cfg.label('MODEL.SYNC_BN')}: torch synchronises BatchNorm on CUDA devices only; set it to false"
        )
    if cfg.DISTRIBUTED.STATIC_GRAPH and cfg.SOLVER.GRAD_ACCUM_STEPS > 1:
        raise ConfigError(
            f"{cfg.label('DISTRIBUTED.STATIC_GRAPH')}: torch has no static graph with accumulation; set it to "
            "false, or SOLVER.GRAD_ACCUM_STEPS to 1"
        )
    if cfg.MODEL.PARALLEL == "fsdp":
        check_fsdp(cfg)


def with_synchronised_norms(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """Return the model with BatchNorm over the images of all ranks, where MODEL.SYNC_BN asks for it."""
    if comm.world_size() == 1 or not cfg.MODEL.SYNC_BN:
        return model
    converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    return converted


def data_parallel(cfg: CfgNode, model: nn.Module) -> DistributedDataParallel | None:
    """Return what training calls in place of a model that each of several ranks holds whole, else None.

    Its backward pass averages the gradients over the ranks. The model itself, and so the names in checkpoints,
    stays as it is; its weights and buffers become those of rank 0. In training each rank then moves its own
    buffers, as BatchNorm's running statistics; those of rank 0 are evaluated and saved. Waits for all ranks.

    Args:
        cfg: resolved.
        model: on its device.
    """
    if comm.world_size() == 1 or is_sharded(cfg):
        return None
    device = next(model.parameters()).device
    parallel = DistributedDataParallel(
        model,
        device_ids=[device] if device.type == "cuda" else None,
        gradient_as_bucket_view=True,
        static_graph=cfg.DISTRIBUTED.STATIC_GRAPH,
    )
    # Buffers are shared when they are evaluated: to do so in each step would take half as long as the step itself
    # for a small model on CPUs. Not as an argument, whose name differs between versions of torch.
    parallel.broadcast_buffers = False
    if cfg.DISTRIBUTED.GRADIENTS == "bf16":
        parallel.register_comm_hook(None, bf16_compress_hook)
    return parallel


def no_sync_of(model: nn.Module) -> Callable[[], AbstractContextManager[None]]:
    """Return the context within which gradients of backward passes stay on their rank.

    Args:
        model: what training calls.
    """
    if isinstance(model, DistributedDataParallel):
        return model.no_sync
    return partial(_no_sync, model) if is_cut_model(model) else nullcontext


@contextmanager
def _no_sync(model: nn.Module) -> Iterator[None]:
    from torch.distributed.fsdp import FSDPModule

    assert isinstance(model, FSDPModule)
    model.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        model.set_requires_gradient_sync(True)
