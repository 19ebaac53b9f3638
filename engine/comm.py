"""What the processes of a run tell each other beside gradients: numbers, decisions, mistakes.

Each process is a rank, from 0. All here works in a run of one process too, where it costs nothing. A function that
waits for all ranks says so: it is to be reached by each of them, in the same order.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.distributed_c10d import Store

from warmstart.config import CfgNode, ConfigError
from warmstart.data import OWN_DEVICE, device_of, usable_cores

from .environment import (
    check_environment,
    is_rank,
    local_size,
    rendezvous_address,
    stay_on_loopback,
)
from .meeting import LateError, meet

T = TypeVar("T")

LOST = 5  # the exit code of a rank that ends since another one has

# What gloo says where the other end of a connection has died, or has not come in time. NCCL has types for it.
_LOST = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "Timed out waiting",
    "Gloo connectFullMesh failed",
)


class _Shared(ConfigError):
    """A mistake that all ranks know of."""


def rank() -> int:
    """Return which process this is, from 0.

    >>> rank(), world_size(), is_main()
    (0, 1, True)
    """
    return dist.get_rank() if _is_on() else 0


def world_size() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if _is_on() else 1


def is_main() -> bool:
    """Return whether this process is the one that writes files and the console: rank 0."""
    return rank() == 0


def _is_on() -> bool:
    return dist.is_available() and dist.is_initialized()


@contextmanager
def process_group(cfg: CfgNode) -> Iterator[None]:
    """Join the other ranks within the block, where a launcher has started several; NCCL on GPUs, gloo on CPUs.

    What is said here goes through gloo on GPUs too, in the same group: it lies on the CPU. Cores are shared out
    evenly, unless OMP_NUM_THREADS says otherwise. Waits for all ranks; after an exception for nobody. A mistake
    that only another rank than the main one has found is printed here: tools print what the main one finds.

    Raises:
        ConfigError: the ranks of this machine are more than its devices, or are all to be on one; or where ranks
            meet is not said, or taken.
        LateError: not all ranks came in DISTRIBUTED.TIMEOUT seconds.
    """
    if not is_rank():
        yield
        return
    check_environment(os.environ)
    check_devices(cfg)
    stay_on_loopback()
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(usable_cores())
    backend = "gloo"
    if device_of(cfg).startswith("cuda"):
        torch.cuda.set_device(device_of(cfg))
        backend = "cpu:gloo,cuda:nccl"
    timeout = timedelta(seconds=cfg.DISTRIBUTED.TIMEOUT)
    size, number = int(os.environ["WORLD_SIZE"]), int(os.environ["RANK"])
    store = _meet(number, size, cfg.DISTRIBUTED.TIMEOUT)
    dist.init_process_group(backend, store=store, rank=number, world_size=size, timeout=timeout)
    try:
        yield
    except (ConfigError, PermissionError) as error:
        if not (is_main() or isinstance(error, _Shared)):
            print(f"error: rank {rank()}: {error}", file=sys.stderr)
        raise
    dist.destroy_process_group()


def _meet(number: int, size: int, timeout: float) -> Store:
    """Return the store in which this rank has met the others."""
    host, port = rendezvous_address(os.environ)
    # torchrun may have a server of its own. After a restart it may be the same one, with addresses in it of
    # processes that are gone.
    serves = number == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    attempt = f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    tells = number == 0 or os.environ.get("LOCAL_RANK") == "0"
    try:
        return meet(
            host,
            port,
            serves=serves,
            count=size,
            who="processes",
            timeout=timeout,
            prefix=attempt,
            tells=tells,
            again=True,
        )
    except ConfigError as error:
        raise ConfigError(f"MASTER_PORT: {error}") from None


def check_devices(cfg: CfgNode, ranks: int | None = None) -> None:
    """Raise ConfigError where so many ranks on this machine cannot have a device each; on the CPU any number can.

    Args:
        cfg: the config.
        ranks: of this machine; None: those that share the devices which this one sees.
    """
    ranks = ranks or (1 if OWN_DEVICE in os.environ else local_size())
    label = cfg.label("MODEL.DEVICE")
    if cfg.MODEL.DEVICE.startswith("cuda:"):
        raise ConfigError(f"{label}: each process takes a device of its own, the first {ranks}; set it to cuda")
    devices = torch.cuda.device_count()
    if device_of(cfg).startswith("cuda") and ranks > devices:
        fewer = f"start {devices}, as with --num-gpus {devices}, or " if devices else ""
        raise ConfigError(
            f"{label}: {ranks} processes on this machine need {ranks} CUDA devices, it has {devices}; {fewer}set "
            "MODEL.DEVICE to cpu"
        )


def gather(value: T) -> list[T]:
    """Return what each rank has given, in the order of the ranks; waits for all of them.

    Args:
        value: anything that can be pickled; tensors in it lie on the CPU.

    >>> gather("here")
    ['here']
    """
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def greatest(numbers: Sequence[float]) -> list[float]:
    """Return the greatest on any rank of each number, in half the time of `gather`; waits for all ranks."""
    tensor = torch.tensor(numbers, dtype=torch.float64)
    if world_size() > 1:
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
    greatest: list[float] = tensor.tolist()
    return greatest


def share(value: T) -> T:
    """Return what rank 0 has given; waits for all ranks."""
    if world_size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


@contextmanager
def together() -> Iterator[None]:
    """Let a ConfigError within the block, on any rank, be one on all; waits for all ranks at its end.

    Any other exception leaves this rank at once: nobody is waited for. Nor is one that all know of already: where
    a rank has left an outer block, the others hear of it in the next inner one that they reach.

    Raises:
        ConfigError: that of the lowest rank that has one.
    """
    if world_size() == 1:
        yield
        return
    problem = ""
    try:
        yield
    except _Shared:
        raise
    except ConfigError as error:
        problem = str(error) if is_main() else f"rank {rank()}: {error}"
    for each in filter(None, gather(problem)):
        raise _Shared(each)


def on_main(function: Callable[[], T]) -> T:
    """Return on all ranks what the function gives on rank 0, the only one to call it; waits for all ranks.

    Raises:
        ConfigError: the function has raised it.
    """
    result: Any = None
    with together():
        if is_main():
            result = function()
    value: T = share(result)
    return value


def in_turn(function: Callable[[], T]) -> T:
    """Return what the function gives, called on the first rank of each machine, and then on its others.

    For what downloads or converts files, which the later ones find done. Waits for all ranks.

    Raises:
        ConfigError: the function has raised it, on any rank.
    """
    if world_size() == 1:
        return function()
    results: list[T] = []
    first = os.environ.get("LOCAL_RANK", "0") == "0"
    for turn in (True, False):
        with together():
            if first is turn:
                results.append(function())
    return results[0]


@torch.no_grad()
def share_buffers(model: nn.Module) -> None:
    """Give all ranks the buffers of rank 0, as BatchNorm's running statistics; waits for all ranks."""
    if world_size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


@torch.no_grad()
def average(tensors: list[torch.Tensor]) -> None:
    """Replace tensors by their mean over the ranks; waits for all ranks."""
    if world_size() > 1:
        for tensor in tensors:
            dist.all_reduce(tensor)
            tensor /= world_size()


def is_lost(error: BaseException) -> bool:
    """Return whether an error only says that another rank has ended, or did not come in time.

    >>> is_lost(RuntimeError("Connection closed by peer [127.0.0.1]:1")), is_lost(RuntimeError("out of memory"))
    (True, False)
    """
    return isinstance(error, (LateError, dist.DistError)) or any(words in str(error) for words in _LOST)


def why_lost(error: BaseException) -> str:
    """Return what such an error says, without where in torch's sources it says so.

    >>> why_lost(RuntimeError("[../gloo/transport/tcp/pair.cc:537] Connection closed by peer [::1]:7. GLHF!"))
    'Connection closed by peer [::1]:7'
    >>> why_lost(RuntimeError("[../gloo/unbound_buffer.cc:1] Timed out waiting 8000ms for send operation"))
    'Timed out waiting 8000ms for send operation (DISTRIBUTED.TIMEOUT)'
    """
    text = " ".join(str(error).split())
    for words in _LOST:
        if words in text:
            text = words + text.partition(words)[2].partition(". ")[0]
            break
    return f"{text} (DISTRIBUTED.TIMEOUT)" if text.startswith("Timed out") else text
