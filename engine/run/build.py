"""From a command line to a config, and from a config to a trainer with the default hooks."""

from __future__ import annotations

from warmstart.config import CfgNode
from warmstart.data import build_train_loader
from warmstart.solver import build_ema, build_gradient_clipping, build_lr_scheduler, build_optimizer
from warmstart.tasks import build_task

from ..distributed import comm
from ..distributed.ddp import build_data_parallel, check_of, no_sync_of, with_synchronised_norms
from ..distributed.errors import local_rank_zero_first
from ..distributed.fsdp import build_shards, is_sharded, take_weights
from ..loop.trainer import Trainer
from ..runtime.precision import build_autocast, build_scaler, compiled
from ..runtime.rng import seed_rank
from .default_hooks import default_hooks
from .init_from_data import build_for_ranks, init_from_data
from .prepare_torch import prepare_torch
from .resolve import iters_per_epoch, resolve_config


def build_trainer(cfg: CfgNode, trust: bool = False, weights: bool = True) -> Trainer:
    """Return a trainer for a config: seeded model, optimizer, schedule, data and the default hooks.

    On several ranks (see distributed/) each is given its part of every batch; waits for all ranks.

    Args:
        cfg: resolved or not; the checks of `resolve_config` run in any case.
        trust: whether code in the file that MODEL.WEIGHTS names may run, as --trust-checkpoint says.
        weights: whether that file is read or, without one, first weights may follow from training images; a
            checkpoint that is loaded afterwards holds all weights.

    Raises:
        ConfigError: the config is not one that can run.
    """
    cfg = resolve_config(cfg)
    device, task = prepare_torch(cfg), build_task(cfg)
    model = with_synchronised_norms(build_for_ranks(cfg, trust, weights, task.extra_outputs), cfg.MODEL.SYNC_BN)
    if not is_sharded(cfg.MODEL.PARALLEL):  # else the whole may not fit
        model = model.to(device)
    loader = local_rank_zero_first(lambda: build_train_loader(cfg, task, comm.rank(), comm.world_size()))
    if weights and (comm.is_main() or not is_sharded(cfg.MODEL.PARALLEL)):
        init_from_data(cfg, task, model, loader)
    whole = take_weights(model) if is_sharded(cfg.MODEL.PARALLEL) else {}
    ema = build_ema(cfg, model)
    if is_sharded(cfg.MODEL.PARALLEL):
        for each in (model,) if ema is None else (model, ema.model):
            build_shards(cfg, each, whole)
    optimizer = build_optimizer(cfg, model)  # before torch looks at the model: it refuses what cannot train
    parallel = build_data_parallel(cfg, model)
    forward = model if parallel is None else parallel
    if comm.world_size() > 1:
        seed_rank(cfg.SEED, comm.rank())
    return Trainer(
        model,
        optimizer,
        build_lr_scheduler(cfg, optimizer, iters_per_epoch(cfg)),
        loader,
        default_hooks(cfg, task, model, loader, ema.model if ema is not None else None),
        task,
        max_iter=cfg.SOLVER.MAX_ITER,
        device=device,
        accum_steps=cfg.SOLVER.GRAD_ACCUM_STEPS,
        clip=build_gradient_clipping(cfg),
        ema=ema,
        nan_limit=cfg.SOLVER.NAN_LIMIT if cfg.SOLVER.NAN_POLICY == "skip" else 0,
        scaler=build_scaler(cfg, model),
        forward=compiled(forward, cfg.MODEL.COMPILE) if cfg.MODEL.COMPILE else forward,
        autocast=build_autocast(cfg),
        no_sync=no_sync_of(model if parallel is None else parallel),
        check=check_of(cfg, parallel),
    )
