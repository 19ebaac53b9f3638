"""The trainer of a config, with the default hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor

from warmstart.config import CfgNode
from warmstart.data import build_train_loader
from warmstart.modeling import next_change
from warmstart.solver import build_ema, build_gradient_clipping, build_lr_scheduler, build_optimizer
from warmstart.tasks import build_task

from ..distributed import comm
from ..distributed.build import build_strategy
from ..distributed.errors import local_rank_zero_first
from ..hooks.unfreezing import UnfreezingHook
from ..loop.forward import losses_of
from ..loop.hook import HookBase
from ..loop.trainer import Trainer
from ..runtime.precision import build_autocast, build_scaler, compiled
from ..runtime.rng import seed_rank
from .default_hooks import default_hooks
from .init_from_data import build_for_ranks, init_from_data
from .prepare_torch import prepare_torch
from .resolve import iters_per_epoch, resolve_config


def build_trainer(
    cfg: CfgNode, trust: bool = False, weights: bool = True, hooks: Iterable[HookBase] = ()
) -> Trainer:
    """Return a trainer for a config: seeded model, optimizer, schedule, data and the default hooks.

    On several ranks (see distributed/) each is given its part of every batch; waits for all ranks.

    Args:
        cfg: resolved or not; the checks of `resolve_config` run in any case.
        trust: whether code in the file that MODEL.WEIGHTS names may run, as --trust-checkpoint says.
        weights: whether that file is read or, without one, first weights may follow from training images; a
            checkpoint that is loaded afterwards holds all weights.
        hooks: called where those of `register_hook` are.

    Raises:
        ConfigError: the config is not one that can run.
    """
    cfg = resolve_config(cfg)
    device, task = prepare_torch(cfg), build_task(cfg)
    strategy = build_strategy(cfg)
    model = strategy.place(build_for_ranks(cfg, trust, weights, task), device)
    loader = local_rank_zero_first(lambda: build_train_loader(cfg, task, comm.rank(), comm.world_size()))
    if weights and strategy.has_weights:
        init_from_data(cfg, task, model, loader)
    strategy.release(model)
    ema = build_ema(cfg, model)
    strategy.prepare(model, *([] if ema is None else [ema.model]))
    optimizer = build_optimizer(cfg, model)  # before strategy.forward: it says what is wrong with a model
    autocast, averaged = build_autocast(cfg), ema.model if ema is not None else None

    def training_forward() -> Callable[..., Any]:
        forward = strategy.forward(model)
        return compiled(forward, cfg.MODEL.COMPILE) if cfg.MODEL.COMPILE else forward

    def losses() -> Callable[[Any], Mapping[str, Tensor]]:
        return losses_of(model, task, training_forward(), autocast, device)

    forward = training_forward()
    unfreezes = next_change(model, 0) is not None
    if comm.world_size() > 1:
        seed_rank(cfg.SEED, comm.rank())
    return Trainer(
        model,
        optimizer,
        build_lr_scheduler(cfg, optimizer, iters_per_epoch(cfg)),
        loader,
        [
            *([UnfreezingHook(averaged, losses if strategy.counts_gradients else None)] if unfreezes else []),
            *default_hooks(cfg, task, model, loader, averaged, hooks),
        ],
        task,
        max_iter=cfg.SOLVER.MAX_ITER,
        device=device,
        accum_steps=cfg.SOLVER.GRAD_ACCUM_STEPS,
        clip=build_gradient_clipping(cfg),
        ema=ema,
        nan_limit=cfg.SOLVER.NAN_LIMIT if cfg.SOLVER.NAN_POLICY == "skip" else 0,
        scaler=build_scaler(cfg, model),
        forward=forward,
        autocast=autocast,
        strategy=strategy,
    )
