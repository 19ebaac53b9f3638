"""The device of a run: a CUDA GPU, another accelerator of torch, or the CPU."""

from __future__ import annotations

import os

import torch

from warmstart.config import CfgNode

# An environment variable, set for a process that sees only its own device: the device's number in this process.
OWN_DEVICE = "WARMSTART_DEVICE"


def accelerator() -> str:
    """Return the type of this machine's accelerator, such as cuda, mps or xpu; "" if torch finds none."""
    if torch.cuda.is_available():  # without initialising it, so that processes may be forked
        return "cuda"
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return "" if found is None else found.type


def device_of(cfg: CfgNode) -> str:
    """Return the device that MODEL.DEVICE selects on this machine: cpu, or an accelerator such as cuda or cuda:N.

    If a launcher has started several processes, each has its own device.

    >>> from warmstart.config import get_cfg
    >>> cfg = get_cfg()
    >>> cfg.merge_from_list(["MODEL.DEVICE", "cuda:1"])
    >>> device_of(cfg)
    'cuda:1'
    """
    name = str(cfg.MODEL.DEVICE)
    name = accelerator() or "cpu" if name == "auto" else name
    own = os.environ.get(OWN_DEVICE, os.environ.get("LOCAL_RANK"))
    return name if name in ("cpu", "mps") or ":" in name or own is None else f"{name}:{own}"


def pins_memory(device: torch.device | str) -> bool:
    """Return whether copies to a device are faster from pinned memory; mps shares the host's memory.

    >>> pins_memory("cpu"), pins_memory("mps")
    (False, False)
    """
    kind = torch.device(device).type
    return kind not in ("cpu", "mps") and kind == accelerator()
