"""The accelerators that torch finds: a CUDA GPU, or another one."""

from __future__ import annotations

import torch

# An environment variable, set for a process that sees only its own device: the device's number in this process.
OWN_DEVICE = "WARMSTART_DEVICE"


def accelerator() -> str:
    """Return the type of this machine's accelerator, such as cuda, mps or xpu; "" if torch finds none."""
    if torch.cuda.is_available():  # without initialising it, so that processes may be forked
        return "cuda"
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return "" if found is None else found.type


def pins_memory(device: torch.device | str) -> bool:
    """Return whether copies to a device are faster from pinned memory; mps shares the host's memory.

    >>> pins_memory("cpu"), pins_memory("mps")
    (False, False)
    """
    kind = torch.device(device).type
    return kind not in ("cpu", "mps") and kind == accelerator()
