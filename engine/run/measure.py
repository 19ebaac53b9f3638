"""Measurements for a config: an update on one device, and the training loader."""

from __future__ import annotations

import time
from contextlib import closing
from typing import Any

from warmstart.config import CfgNode
from warmstart.data import TrainLoader, build_train_loader, to_device
from warmstart.modeling import build_model
from warmstart.solver import build_gradient_clipping, build_optimizer
from warmstart.tasks import build_task

from ..analysis.cost_model import Profile
from ..analysis.step_profile import Step, profile_of
from ..distributed.build import check_wrap
from ..loop.forward import losses_of
from ..runtime.precision import build_autocast, build_scaler, compiled
from .prepare_torch import prepare_torch

_AHEAD = 4  # batches per loading process that may be loaded before the clock starts


def measure_profile(
    cfg: CfgNode, images: int, rounds: int = 5, times: tuple[float, float, float] | None = None
) -> Profile:
    """Return the `profile_of` a config's model and optimizer on MODEL.DEVICE.

    Args:
        cfg: resolved.
        images: per micro-batch on one device.
        rounds: how many updates are timed.
        times: times that are known already, as for `profile_of`.
    """
    step = _build_step(cfg)
    tensors = [*step.model.parameters(), *step.model.buffers()]
    return profile_of(
        step,
        images,
        rounds,
        times,
        average=sum(tensor.nbytes for tensor in tensors) if cfg.SOLVER.EMA.ENABLED else 0,
        summed=0.5 if cfg.DISTRIBUTED.GRADIENTS == "bf16" else 1.0,
        gathered=0.5 if cfg.MODEL.FSDP.PRECISION == "bf16" else 1.0,
        reshard=cfg.MODEL.FSDP.RESHARD_AFTER_FORWARD,
    )


def measure_loader(cfg: CfgNode, seconds: float = 2.0) -> float:
    """Return the images per second of the training loader of a resolved config, with all its workers."""
    loader: TrainLoader = build_train_loader(cfg, build_task(cfg))
    with closing(loader.batches()) as batches:
        for _ in range(1 + _AHEAD * (cfg.DATALOADER.NUM_WORKERS or 0)):
            next(batches)
        begin, count = time.perf_counter(), 0
        while time.perf_counter() - begin < seconds:
            count += len(next(batches))
        rate = count / (time.perf_counter() - begin)
    loader.close()
    return rate


def _build_step(cfg: CfgNode) -> Step:
    device, task = prepare_torch(cfg), build_task(cfg)
    model = build_model(cfg, weights=False, task=task).to(device).train()
    wrapped = check_wrap(cfg, model)
    optimizer, scaler, clip = build_optimizer(cfg, model), build_scaler(cfg, model), build_gradient_clipping(cfg)
    forward = compiled(model, cfg.MODEL.COMPILE) if cfg.MODEL.COMPILE else model
    options: dict[str, Any] = {"autocast": build_autocast(cfg), "device": device}
    losses = losses_of(model, task, **options), losses_of(model, task, forward, **options)
    loader = build_train_loader(cfg, task)
    with closing(loader.batches()) as batches:
        batch = to_device(next(batches), device)
    loader.close()
    return Step(model, optimizer, losses, batch, device, scaler, clip, wrapped)
