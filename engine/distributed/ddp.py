"""Data parallel training: one model on several ranks, whose gradients are averaged."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.distributed.distributed_c10d import PrefixStore, _get_default_store
from torch.nn.parallel import DistributedDataParallel

from warmstart.config import CfgNode, ConfigError

from ..runtime.device import build_device
from . import comm
from .errors import _Shared
from .fsdp import check_fsdp, is_sharded, is_sharded_model

_LAG = 5.0  # seconds by which a rank may find later than another that it lacks gradients


def check_parallel(cfg: CfgNode, ranks: int) -> None:
    """Raise ConfigError where the keys of several ranks ask for what there is not.

    Args:
        cfg: resolved.
        ranks: of the run.
    """
    if ranks == 1:
        return
    if cfg.MODEL.SYNC_BN and build_device(cfg).type == "cpu":
        raise ConfigError(
            f"{cfg.label('MODEL.SYNC_BN')}: torch synchronises BatchNorm on CUDA devices only; set it to false"
        )
    if cfg.DISTRIBUTED.STATIC_GRAPH and cfg.SOLVER.GRAD_ACCUM_STEPS > 1:
        raise ConfigError(
            f"{cfg.label('DISTRIBUTED.STATIC_GRAPH')}: torch has no static graph with accumulation; set it to "
            "false, or SOLVER.GRAD_ACCUM_STEPS to 1"
        )
    if cfg.DISTRIBUTED.STATIC_GRAPH and cfg.DISTRIBUTED.UNUSED_PARAMETERS:
        raise ConfigError(
            f"{cfg.label('DISTRIBUTED.UNUSED_PARAMETERS')}: with DISTRIBUTED.STATIC_GRAPH torch finds once which "
            "parameters get no gradient; set one of the two to false"
        )
    if cfg.MODEL.PARALLEL == "fsdp":
        check_fsdp(cfg)


def with_synchronised_norms(model: nn.Module, wanted: bool) -> nn.Module:
    """Return the model with BatchNorm over the images of all ranks, if that is wanted and there are several."""
    if comm.world_size() == 1 or not wanted:
        return model
    converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    return converted


def build_data_parallel(cfg: CfgNode, model: nn.Module) -> DistributedDataParallel | None:
    """Return what training calls in place of a model that each of several ranks holds whole, else None.

    Its backward pass averages the gradients over the ranks. The model itself, and so the names in checkpoints,
    stays as it is; its weights and buffers become those of rank 0. In training each rank then moves its own
    buffers, as BatchNorm's running statistics; those of rank 0 are evaluated and saved. Waits for all ranks.

    Args:
        cfg: resolved.
        model: on its device.
    """
    if comm.world_size() == 1 or is_sharded(cfg.MODEL.PARALLEL):
        return None
    device = next(model.parameters()).device
    parallel = DistributedDataParallel(
        model,
        device_ids=[device] if device.type == "cuda" else None,
        gradient_as_bucket_view=True,
        static_graph=cfg.DISTRIBUTED.STATIC_GRAPH,
        find_unused_parameters=cfg.DISTRIBUTED.UNUSED_PARAMETERS,
    )
    # Buffers are shared when they are evaluated: to do so in each step would take half as long as the step itself
    # for a small model on CPUs. Not as an argument, whose name differs between versions of torch.
    parallel.broadcast_buffers = False
    if cfg.DISTRIBUTED.GRADIENTS == "bf16":
        parallel.register_comm_hook(None, bf16_compress_hook)
    return parallel


def check_of(cfg: CfgNode, parallel: DistributedDataParallel | None) -> Callable[[], None] | None:
    """Return what raises ConfigError, in microseconds, where a backward pass left gradients that are not averaged.

    torch waits for a gradient of each parameter, and says so in its own words in the next forward pass; by then
    this update is done, with other gradients on each rank. None: there is nothing to wait for.

    Args:
        cfg: resolved.
        parallel: what `data_parallel` has returned.
    """
    if parallel is None or cfg.DISTRIBUTED.UNUSED_PARAMETERS or cfg.DISTRIBUTED.STATIC_GRAPH:
        return None

    def check() -> None:
        try:
            parallel._check_reducer_finalized()  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            message = _unused(cfg, parallel.module, str(error))
        else:
            return
        raise _Shared(message) if _main_says_it() else ConfigError(message)

    return check


def _unused(cfg: CfgNode, model: nn.Module, text: str) -> str:
    """Return what to say in place of torch's text, which has the numbers of the parameters."""
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    found = re.search(r"for rank \d+: ((?:\d+ ?)+)", text)
    unused = [names[int(number)] for number in found[1].split()] if found else []
    listed = ", ".join([*unused[:3], "..."] if len(unused) > 3 else unused)
    without_accumulation = cfg.SOLVER.GRAD_ACCUM_STEPS == 1
    static = ", or, where these never get one, DISTRIBUTED.STATIC_GRAPH" if without_accumulation else ""
    return (
        f"{cfg.label('DISTRIBUTED.UNUSED_PARAMETERS')}: parameters got no gradient in this update"
        f"{f' ({listed})' if listed else ''}, which several processes have to be told; set it to true{static}"
    )


def _main_says_it() -> bool:
    """Return whether rank 0 has come here too, so that no other rank needs to say what they have all found.

    By the store that ranks have met in: a rank that has all its gradients waits in its backward pass, not here.
    The store may be rank 0's own, which therefore leaves last.
    """
    store = PrefixStore("gradients", _get_default_store())
    others = comm.world_size() - 1
    if comm.is_main():
        store.set("main", "")
        _wait(lambda: store.add("others", 0) == others)
        return False
    came = _wait(lambda: store.check(["main"]))
    store.add("others", 1)
    return came


def _wait(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + _LAG
    while not (met := condition()) and time.monotonic() < end:
        time.sleep(0.02)
    return met


def no_sync_of(model: nn.Module) -> Callable[[], AbstractContextManager[None]]:
    """Return the context within which gradients of backward passes stay on their rank.

    Args:
        model: what training calls.
    """
    if isinstance(model, DistributedDataParallel):
        return model.no_sync
    return partial(_no_sync, model) if is_sharded_model(model) else nullcontext


@contextmanager
def _no_sync(model: nn.Module) -> Iterator[None]:
    from torch.distributed.fsdp import FSDPModule

    assert isinstance(model, FSDPModule)
    model.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        model.set_requires_gradient_sync(True)
