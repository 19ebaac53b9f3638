"""Set-up of torch for a run: device, kernels, seeds, and the choices of PROFILE."""

from __future__ import annotations

import os

import torch

from warmstart.config import CfgNode

from ..runtime.device import build_device
from ..runtime.rng import seed_all


def prepare_torch(cfg: CfgNode) -> torch.device:
    """Set the device, the allowed kernels and the seeds of torch, for the entire process.

    With PROFILE exact torch uses deterministic kernels only, and refuses operations that have none.

    Returns:
        The device.
    """
    device = build_device(cfg)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # pinned memory and kernels without an explicit device use it
        torch.set_float32_matmul_precision("high" if has_tf32(cfg, device) else "highest")
        torch.backends.cudnn.allow_tf32 = has_tf32(cfg, device)
    elif device.type != "cpu" and device.index is not None:
        torch.accelerator.set_device_index(device.index)
    torch.backends.cudnn.benchmark = searches_kernels(cfg, device)
    if cfg.PROFILE == "exact":  # never switched off: a user-defined module may have switched it on
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
        torch.use_deterministic_algorithms(True)
    seed_all(cfg.SEED)
    return device


def has_tf32(cfg: CfgNode, device: torch.device) -> bool:
    """Return whether float32 products are computed in TF32, with 10 bits of mantissa, on a CUDA device."""
    return cfg.PROFILE == "auto" and torch.cuda.get_device_capability(device) >= (8, 0)


def searches_kernels(cfg: CfgNode, device: torch.device) -> bool:
    """Return whether cuDNN searches for its fastest kernels: CUDNN_BENCHMARK, or the default if it is null."""
    if cfg.CUDNN_BENCHMARK is not None:
        return bool(cfg.CUDNN_BENCHMARK)
    return device.type == "cuda" and cfg.PROFILE == "auto" and not cfg.DATALOADER.ASPECT_RATIO_GROUPING


def describe_profile(cfg: CfgNode, device: torch.device) -> str:
    """Return the choices of PROFILE with their reasons, and the keys that would make a run faster."""
    amp = f"AMP {cfg.SOLVER.AMP.PRECISION}" if cfg.SOLVER.AMP.ENABLED else "AMP off (SOLVER.AMP.ENABLED)"
    compiling = f"compiled ({cfg.MODEL.COMPILE})" if cfg.MODEL.COMPILE else "not compiled (MODEL.COMPILE)"
    if device.type != "cuda":
        auto = (
            "nothing that changes a bit on a CPU"
            if device.type == "cpu"
            else f"torch's settings for {device.type}"
        )
        picked = "deterministic kernels only" if cfg.PROFILE == "exact" else auto
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
