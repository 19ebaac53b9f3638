"""The process group of a run: joined by all its ranks, and left by them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import Store

from warmstart.config import CfgNode, ConfigError
from warmstart.data import OWN_DEVICE, device_of, usable_cores

from .comm import is_main, rank
from .environment import check_environment, is_rank, local_size, rendezvous_address, stay_on_loopback
from .errors import _Shared
from .rendezvous import Participants, rendezvous


@contextmanager
def build_process_group(cfg: CfgNode) -> Iterator[None]:
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
    address = rendezvous_address(os.environ)
    # torchrun may have a server of its own. After a restart it may be the same one, with addresses in it of
    # processes that are gone.
    serves = number == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    attempt = f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    processes = Participants("processes", size, prefix=attempt, again=True)
    tells = number == 0 or os.environ.get("LOCAL_RANK") == "0"
    try:
        return rendezvous(address, processes, timeout, serves=serves, tells=tells)
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
