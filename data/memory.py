"""Total and free memory of a device."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch


def total_memory(device: torch.device | str) -> int:
    """Return the bytes of memory that a device has, or `sys.maxsize` if the system does not report it.

    >>> total_memory("cpu") > 10**8
    True
    """
    if (known := _memory_of(device)) is not None:
        return known[1]
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return sys.maxsize


def free_memory(device: torch.device | str = "cpu") -> int:
    """Return the bytes of memory that are free on a device, or `sys.maxsize` if the system does not report it.

    >>> 0 < free_memory() <= max(total_memory("cpu"), sys.maxsize)
    True
    """
    if (known := _memory_of(device)) is not None:
        return known[0]
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return sys.maxsize
    return 1024 * int(text.partition("MemAvailable:")[2].split()[0])


def _memory_of(device: torch.device | str) -> tuple[int, int] | None:
    """Return the free and total bytes of an accelerator; None for the host's memory, which also serves mps."""
    kind = torch.device(device).type
    module = None if kind == "cpu" else torch.get_device_module(kind)
    found: tuple[int, int] | None = getattr(module, "mem_get_info", lambda _: None)(device)
    return found


def require_memory(needed: int, what: str, device: torch.device | str = "cpu") -> None:
    """Raise MemoryError if a device has fewer than `needed` bytes free.

    >>> require_memory(10**18, "the array images")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    MemoryError: the array images needs 1,000,000,000,000,000,000 bytes of memory on cpu, and ... are free
    """
    free = free_memory(device)
    if free < needed:
        raise MemoryError(f"{what} needs {needed:,} bytes of memory on {device}, and {free:,} are free")


def gigabytes(count: int) -> str:
    """Return a number of bytes as text in gigabytes; it may exceed what a float can represent.

    >>> gigabytes(1_600_000_000), gigabytes(10**12)
    ('2 GB', '1,000 GB')
    """
    return f"{(count + 5 * 10**8) // 10**9:,} GB"
