"""The device that a run computes on, how exactly, and what its bits depend on."""

from __future__ import annotations

import functools
import os
import platform
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from warmstart.config import CfgNode, ConfigError
from warmstart.data import device_of

from .rng import seed_all

NO_DETERMINISTIC_KERNEL = "does not have a deterministic implementation"  # torch's words


def check_device(cfg: CfgNode) -> None:
    """Raise ConfigError where MODEL.DEVICE asks for what this machine has not, or PROFILE contradicts itself."""
    if cfg.PROFILE == "exact" and cfg.CUDNN_BENCHMARK:
        raise ConfigError(
            f"{cfg.label('CUDNN_BENCHMARK')}: the kernels it picks differ from run to run, which PROFILE exact "
            "rules out; set one of them back"
        )
    name, label = cfg.MODEL.DEVICE, cfg.label("MODEL.DEVICE")
    kind, _, index = name.partition(":")
    if name in ("auto", "cpu"):
        return
    if kind != "cuda" or (":" in name and not index.isdigit()):
        raise ConfigError(f"{label}: expected auto, cpu, cuda or cuda:N; got {name!r}")
    if not torch.cuda.is_available():
        raise ConfigError(f"{label}: {name!r} asked for, but torch finds no CUDA device; use auto or cpu")
    if index and int(index) >= torch.cuda.device_count():
        raise ConfigError(f"{label}: {name!r} asked for, but there are {torch.cuda.device_count()} CUDA devices")


def get_device(cfg: CfgNode) -> torch.device:
    """Return the device that MODEL.DEVICE means on this machine."""
    return torch.device(device_of(cfg))


def prepare_torch(cfg: CfgNode) -> torch.device:
    """Set torch up for a run, in the whole process: its device, which kernels it may take, its seeds.

    Under PROFILE exact torch takes deterministic kernels only, and refuses an operation that has none.

    Returns:
        The device.
    """
    device = get_device(cfg)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # pinned memory and kernels without a device of their own follow it
        torch.set_float32_matmul_precision("high" if has_tf32(cfg, device) else "highest")
        torch.backends.cudnn.allow_tf32 = has_tf32(cfg, device)
    torch.backends.cudnn.benchmark = searches_kernels(cfg, device)
    if cfg.PROFILE == "exact":  # never switched off here: a user's own module may have asked for it
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
        torch.use_deterministic_algorithms(True)
    seed_all(cfg.SEED)
    return device


def has_tf32(cfg: CfgNode, device: torch.device) -> bool:
    """Return whether float32 products are computed in TF32, with 10 bits of mantissa, on a CUDA device."""
    return cfg.PROFILE == "auto" and torch.cuda.get_device_capability(device) >= (8, 0)


def searches_kernels(cfg: CfgNode, device: torch.device) -> bool:
    """Return whether cuDNN looks for its fastest kernels: CUDNN_BENCHMARK, or what its null means."""
    if cfg.CUDNN_BENCHMARK is not None:
        return bool(cfg.CUDNN_BENCHMARK)
    return device.type == "cuda" and cfg.PROFILE == "auto" and not cfg.DATALOADER.ASPECT_RATIO_GROUPING


def describe_profile(cfg: CfgNode, device: torch.device) -> str:
    """Return what PROFILE has picked, and why, and which keys would make a run faster."""
    amp = f"AMP {cfg.SOLVER.AMP.PRECISION}" if cfg.SOLVER.AMP.ENABLED else "AMP off (SOLVER.AMP.ENABLED)"
    compiling = f"compiled ({cfg.MODEL.COMPILE})" if cfg.MODEL.COMPILE else "not compiled (MODEL.COMPILE)"
    if device.type != "cuda":
        picked = "deterministic kernels only" if cfg.PROFILE == "exact" else "nothing that changes a bit on a CPU"
        return f"profile {cfg.PROFILE}: {picked}; {amp}, {compiling}"
    major, minor = torch.cuda.get_device_capability(device)
    if has_tf32(cfg, device):
        tf32 = "TF32 on"
    else:
        tf32 = "TF32 off" if cfg.PROFILE == "exact" else f"no TF32 on a GPU of capability {major}.{minor}"
    why = "CUDNN_BENCHMARK" if cfg.CUDNN_BENCHMARK is not None else "images of one size"
    search = f"cudnn.benchmark on ({why})" if searches_kernels(cfg, device) else "cudnn.benchmark off"
    kernels = "deterministic kernels only, " if cfg.PROFILE == "exact" else ""
    return f"profile {cfg.PROFILE}: {kernels}{tf32}, {search}; {amp}, {compiling}"


def versions(device: torch.device) -> dict[str, Any]:
    """Return what bits depend on besides the config; a checkpoint notes it."""
    if device.type == "cuda":
        cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        machine = {"device": torch.cuda.get_device_name(device), "cudnn": cudnn}
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
    """Return what the system calls the processor; where it has no name for it, its kind."""
    text = ""
    with suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    found = re.search(r"^(?:model name|CPU part)\s*: (.+)$", text, re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()
