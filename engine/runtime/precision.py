"""Mixed precision: what the hardware supports, loss scaling, and compilation of the model."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from warmstart.config import CfgNode, ConfigError

from .device import build_device

GRAPHS = ("reduce-overhead", "max-autotune")  # modes of MODEL.COMPILE that record CUDA graphs


class LossScaler(torch.amp.GradScaler):
    """torch's GradScaler, which also tells on the device whether an update is skipped.

    fp16 has no positive numbers below 6e-8, so the loss is multiplied by a scale before the backward pass, and the
    gradients are divided by it afterwards. If a gradient is not finite, `step` leaves the weights unchanged, and
    `update` halves the scale; after 2,000 consecutive updates without overflow it doubles the scale.

    Args:
        device: the type of the device of the gradients.
        limit: consecutive updates that may be skipped; the trainer raises an error at the next one.

    >>> weight = nn.Parameter(torch.ones(1))
    >>> optimizer, scaler = torch.optim.SGD([weight], lr=0.1), LossScaler("cpu", limit=10)
    >>> for factor in (1.0, float("inf")):
    ...     weight.grad = None
    ...     scaler.scale((weight * factor).sum()).backward()
    ...     overflow = scaler.unscale(optimizer)
    ...     scaler.step(optimizer)
    ...     scaler.update()
    ...     print(overflow.item(), round(weight.item(), 2), scaler.get_scale())
    0.0 0.9 65536.0
    1.0 0.9 32768.0
    """

    def __init__(self, device: str, limit: int) -> None:
        super().__init__(device)
        self.limit = limit

    def unscale(self, optimizer: Optimizer) -> Tensor:
        """Divide the gradients by the scale; return 1.0 if one is not finite, else 0.0, without synchronizing."""
        self.unscale_(optimizer)
        found: Tensor
        (found,) = self._found_inf_per_device(optimizer).values()  # one per device
        return found

    def step(self, optimizer: Optimizer, *args: Any, **kwargs: Any) -> float | None:
        """Update the weights or skip the update; only fused optimizers decide this without synchronizing."""
        result = super().step(optimizer, *args, **kwargs)
        # torch's schedulers warn if the first update was skipped, as if it had been forgotten.
        optimizer._opt_called = True  # type: ignore[attr-defined]
        return result


def build_autocast(cfg: CfgNode) -> torch.dtype | None:
    """Return the dtype of autocast in training and evaluation; None: no autocast."""
    amp = cfg.SOLVER.AMP
    return {"bf16": torch.bfloat16, "fp16": torch.float16}[amp.PRECISION] if amp.ENABLED else None


def build_scaler(cfg: CfgNode, model: nn.Module) -> LossScaler | None:
    """Return the loss scaler of a model, which is on its device, if SOLVER.AMP is fp16, else None.

    Raises:
        ConfigError: a weight is itself float16, and so are its gradients.
    """
    if not cfg.SOLVER.AMP.ENABLED or cfg.SOLVER.AMP.PRECISION != "fp16":
        return None
    for name, parameter in model.named_parameters():
        if parameter.dtype == torch.float16:
            raise ConfigError(
                f"{cfg.label('SOLVER.AMP.PRECISION')}: fp16 needs float32 weights, which autocast converts, but "
                f"{name} of {cfg.MODEL.NAME} is float16; build the model without half()"
            )
    return LossScaler(next(model.parameters()).device.type, cfg.SOLVER.NAN_LIMIT)


def check_precision(cfg: CfgNode) -> None:
    """Raise ConfigError if this machine lacks bf16 arithmetic or cannot compile, or keys contradict each other."""
    device, amp, mode = build_device(cfg), cfg.SOLVER.AMP, cfg.MODEL.COMPILE
    if amp.ENABLED and amp.PRECISION == "bf16" and not has_bf16(device):
        raise ConfigError(
            f"{cfg.label('SOLVER.AMP.PRECISION')}: this {device.type} has no bf16 arithmetic, which would be "
            "slower than float32; set it to fp16, or SOLVER.AMP.ENABLED to false"
        )
    if not mode:
        return
    label = cfg.label("MODEL.COMPILE")
    if cfg.MODEL.ACTIVATION_CHECKPOINTING:
        raise ConfigError(
            f"{label}: a compiled model decides by itself which activations to recompute; set MODEL.COMPILE or "
            "MODEL.ACTIVATION_CHECKPOINTING back"
        )
    if mode.startswith("max-autotune") and cfg.PROFILE == "exact":
        raise ConfigError(
            f"{label}: the kernels that {mode} picks differ from run to run, which PROFILE exact rules out; use "
            "default"
        )
    if mode in GRAPHS and cfg.SOLVER.GRAD_ACCUM_STEPS > 1:
        raise ConfigError(
            f"{label}: {mode} records CUDA graphs, in whose memory each micro-batch overwrites the gradients of "
            "the one before; with SOLVER.GRAD_ACCUM_STEPS use default or max-autotune-no-cudagraphs"
        )
    missing = _missing_for_compiling(device)
    if missing:
        raise ConfigError(f'{label}: torch.compile needs {missing}; install it, or set MODEL.COMPILE to ""')


def has_bf16(device: torch.device) -> bool:
    """Return whether a device has bf16 arithmetic; True if the system does not list the features of its CPU."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return _adds(torch.bfloat16, device)
    file = Path("/proc/cpuinfo")
    text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    flags = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return flags is None or not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags[1].split())


def _adds(dtype: torch.dtype, device: torch.device) -> bool:
    """Return whether a device can add numbers of a type."""
    try:
        return bool(torch.ones(1, dtype=dtype, device=device) + 1 == 2)
    except (RuntimeError, TypeError):
        return False


def _missing_for_compiling(device: torch.device) -> str:
    if device.type in ("cuda", "xpu"):
        return "" if importlib.util.find_spec("triton") else "the package triton"
    if device.type != "cpu":
        return ""
    compiler = os.environ.get("CXX", {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++"))
    return "" if shutil.which(compiler) else f"a C++ compiler, and there is no {compiler} (or what CXX names) here"


def compiled(model: nn.Module, mode: str) -> Callable[..., Any]:
    """Return the training forward of a model as a function that torch compiles when it is first called.

    The model itself is unchanged, and with it the names in checkpoints and evaluation. Each shape of a batch is
    compiled separately, so that results do not depend on which one came first.

    Args:
        model: on its device.
        mode: of torch.compile.
    """
    run = torch.compile(model, mode=mode, dynamic=False)
    if mode not in GRAPHS or next(model.parameters()).device.type != "cuda":
        return run

    def replay(*args: Any, **kwargs: Any) -> Any:
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        output = run(*args, **kwargs)
        # The next replay overwrites this memory. Losses are read later; everything else is used before it.
        return {k: v.clone() for k, v in output.items()} if isinstance(output, Mapping) else output

    return replay
