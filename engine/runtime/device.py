"""The device of a run, and the versions that its exact results depend on."""

from __future__ import annotations

import functools
import platform
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from warmstart.config import CfgNode, ConfigError
from warmstart.data import accelerator, device_of

NO_DETERMINISTIC_KERNEL = "does not have a deterministic implementation"  # torch's words


def check_device(cfg: CfgNode) -> None:
    """Raise ConfigError if this machine lacks MODEL.DEVICE, or CUDNN_BENCHMARK contradicts PROFILE."""
    if cfg.PROFILE == "exact" and cfg.CUDNN_BENCHMARK:
        raise ConfigError(
            f"{cfg.label('CUDNN_BENCHMARK')}: the kernels it picks differ from run to run, which PROFILE exact "
            "rules out; set one of them back"
        )
    name, label = cfg.MODEL.DEVICE, cfg.label("MODEL.DEVICE")
    kind, _, index = name.partition(":")
    if name in ("auto", "cpu"):
        return
    here = accelerator()
    if kind not in {"cuda", "mps", "xpu", here} or (":" in name and not index.isdigit()):
        raise ConfigError(f"{label}: expected auto, cpu, cuda or cuda:N, mps, xpu or xpu:N; got {name!r}")
    if kind != here:
        raise ConfigError(
            f"{label}: {name!r} asked for, but torch finds no {kind.upper()} device; use auto or cpu"
        )
    count = torch.get_device_module(kind).device_count()
    if index and int(index) >= count:
        raise ConfigError(f"{label}: {name!r} asked for, but there are {count} {kind.upper()} devices")


def build_device(cfg: CfgNode) -> torch.device:
    """Return the device that MODEL.DEVICE selects on this machine."""
    return torch.device(device_of(cfg))


def device_name(device: torch.device) -> str:
    """Return an accelerator's name, or its type if torch does not know the name."""
    module = torch.get_device_module(device)
    return str(module.get_device_name(device)) if hasattr(module, "get_device_name") else device.type


def versions(device: torch.device) -> dict[str, Any]:
    """Return what exact results depend on besides the config; checkpoints record it."""
    if device.type == "cuda":
        cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        machine = {"device": torch.cuda.get_device_name(device), "cudnn": cudnn}
    elif device.type != "cpu":
        machine = {"device": device_name(device)}
    else:
        machine = {"device": "cpu", "cpu": _cpu_name(), "instructions": torch.backends.cpu.get_cpu_capability()}
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
        **machine,
    }


@functools.cache
def _cpu_name() -> str:
    """Return the system's name of the processor, or its architecture if it has none."""
    text = ""
    with suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    found = re.search(r"^(?:model name|CPU part)\s*: (.+)$", text, re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()
