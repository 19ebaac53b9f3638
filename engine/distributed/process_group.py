"""The process group of a run, which all its ranks join."""

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
from warmstart.data import OWN_DEVICE, accelerator, device_of, usable_cores

from .comm import is_main, rank
from .environment import check_environment, is_rank, local_size, rendezvous_address, stay_on_loopback
from .errors import _Shared
from .rendezvous import Participants, rendezvous

_BACKENDS = {"cuda": "nccl", "xpu": "xccl"}  # what sends gradients, by the type of the device


@contextmanager
def build_process_group(cfg: CfgNode) -> Iterator[None]:
    """Join the process group within the block if a launcher has started several ranks.

    Gradients go through NCCL on GPUs, XCCL on xpu devices and gloo on CPUs; objects and numbers on the CPU go
    through gloo in any case, in the same group. CPU cores are divided evenly among the ranks, unless
    OMP_NUM_THREADS is set. Waits for all ranks; after an exception for none. An error that only a rank other than
    0 has found is printed here, because tools print only rank 0's.

    Raises:
        ConfigError: this machine has more ranks than devices, or MODEL.DEVICE puts all of them on one; or the
            address of the rendezvous is not set, or its port is in use.
        LateError: the rendezvous timed out, after DISTRIBUTED.TIMEOUT seconds.
    """
    if not is_rank():
        yield
        return
    check_environment(os.environ)
    check_devices(cfg)
    stay_on_loopback()
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(usable_cores())
    backend, kind = "gloo", device_of(cfg).partition(":")[0]
    if kind in _BACKENDS:
        torch.get_device_module(kind).set_device(device_of(cfg))
        backend = f"cpu:gloo,{kind}:{_BACKENDS[kind]}"
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
    """Join the rendezvous of the ranks; return its store."""
    address = rendezvous_address(os.environ)
    # torchrun's agent may serve the store. After a restart it may be the same store, and hold addresses of
    # processes that no longer exist.
    serves = number == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    attempt = f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    processes = Participants("processes", size, prefix=attempt, again=True)
    tells = number == 0 or os.environ.get("LOCAL_RANK") == "0"
    try:
        return rendezvous(address, processes, timeout, serves=serves, tells=tells)
    except ConfigError as error:
        raise ConfigError(f"MASTER_PORT: {error}") from None


def check_devices(cfg: CfgNode, ranks: int | None = None) -> None:
    """Raise ConfigError if this machine has fewer accelerators than ranks; a CPU takes any number of ranks.

    Args:
        cfg: the config.
        ranks: the number of ranks on this machine; None: those that share the devices visible to this one.
    """
    ranks = ranks or (1 if OWN_DEVICE in os.environ else local_size())
    label, kind = cfg.label("MODEL.DEVICE"), device_of(cfg).partition(":")[0]
    if ":" in cfg.MODEL.DEVICE:
        raise ConfigError(f"{label}: each process needs its own device; set it to {kind}, for the first {ranks}")
    if ranks > 1 and kind not in _BACKENDS and kind == accelerator():
        raise ConfigError(f"{label}: several processes cannot train together on {kind}; set MODEL.DEVICE to cpu")
    devices = torch.get_device_module(kind).device_count() if kind in _BACKENDS else 0
    if kind in _BACKENDS and ranks > devices:
        fewer = f"start {devices}, as with --num-gpus {devices}, or " if devices else ""
        raise ConfigError(
            f"{label}: {ranks} processes on this machine need {ranks} {kind.upper()} devices, it has {devices};"
            f" {fewer}set MODEL.DEVICE to cpu"
        )
