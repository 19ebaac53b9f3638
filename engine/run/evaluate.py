"""An evaluation outside of training, with the statistics that one in training has."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from warmstart.config import CfgNode, ConfigError
from warmstart.data import build_train_loader
from warmstart.tasks import Task, build_task

from ..checkpoint.reader import PARTS
from ..distributed import comm
from ..distributed.build import build_strategy
from ..distributed.errors import local_rank_zero_first, on_main, raise_together
from ..distributed.fsdp import computing_device
from ..loop.forward import losses_of
from ..loop.precise_bn import norm_layers, update_from_training
from ..runtime.precision import build_autocast
from ..runtime.rng import restore_rng
from .default_hooks import build_test_loaders, evaluate_all
from .describe import log_scores
from .init_from_data import build_for_ranks, read_weights
from .load import build_average, load_models
from .prepare_torch import prepare_torch
from .resolve import resolve_config
from .resume import read_parts, read_start
from .world_size_scaling import scale_of, scaled

logger = logging.getLogger(__name__)


def evaluate_only(cfg: CfgNode, *, resume: str | None = None, trust: bool = False) -> dict[str, float]:
    """Return the scores on every test set, as in the run that wrote the weights, and log them; writes nothing.

    On several ranks each of them calls it.

    Args:
        cfg: as the user wrote it; it is resolved here.
        resume: None for MODEL.WEIGHTS, "" for the newest checkpoint in OUTPUT_DIR, else a checkpoint's file or
            folder.
        trust: whether code in the checkpoint or in MODEL.WEIGHTS may run.

    Raises:
        ConfigError: there are no weights or no test sets, or they do not fit together.
    """
    given = cfg
    with raise_together():
        cfg = _resolved(given, comm.world_size())
    found = None if resume is None else on_main(lambda: read_start(cfg, resume, trust))
    start = None if found is None else read_parts(cfg, found[1])
    with raise_together():
        if start is not None and scale_of(start):  # its batches, which TEST.PRECISE_BN takes
            cfg = _resolved(given, scale_of(start))
        if start is None and not cfg.MODEL.WEIGHTS:
            missing = "needs weights" if resume is None else f"found no checkpoint in {cfg.OUTPUT_DIR}"
            raise ConfigError(f"command line: --eval-only {missing}; give MODEL.WEIGHTS FILE or --resume=PATH")
        if not cfg.DATASETS.TEST:
            raise ConfigError(f"{cfg.label('DATASETS.TEST')}: names no data set to evaluate on")
        device, task = prepare_torch(cfg), build_task(cfg)
        file = read_weights(cfg, trust) if start is None else None
        model = build_for_ranks(cfg, weights=file or start is None, extra_outputs=task.extra_outputs)
    strategy = build_strategy(cfg)
    with raise_together():  # apart from what one rank alone may fail in: from here on ranks wait for each other
        model = strategy.place(model, device)
        strategy.release(model)
        ema = None if start is None else build_average(cfg, model, start)
        models = [model] if ema is None else [model, ema.model]
        strategy.prepare(*models)
        if start is not None:
            load_models(model, ema, start, strategy)
    if cfg.TEST.PRECISE_BN.ENABLED:
        set_statistics(cfg, task, models, start if file is None else file.content)
    loaders = build_test_loaders(cfg, task)
    averaged = None if ema is None else ema.model
    scores = evaluate_all(model, task, loaders, averaged, autocast=build_autocast(cfg), strategy=strategy)
    log_scores(scores, task)
    return scores


def _resolved(given: CfgNode, ranks: int) -> CfgNode:
    """Return a config resolved for an evaluation; only TEST.PRECISE_BN takes training's batches there."""
    return resolve_config(scaled(given, ranks), given=given, trains=given.TEST.PRECISE_BN.ENABLED)


def set_statistics(cfg: CfgNode, task: Task, models: Sequence[nn.Module], content: Any) -> None:
    """Do for an evaluation of its own what TEST.PRECISE_BN does before one in training, bit for bit.

    Waits for all ranks.

    Args:
        cfg: resolved.
        task: computes the losses, as in training.
        models: in training mode, with their weights.
        content: of the file that these are from: a checkpoint says which batches would have come next, and with
            which random numbers; for any other they are the first ones.

    Raises:
        ConfigError: the checkpoint's random state cannot be restored, or the training set not be read.
    """
    known = isinstance(content, Mapping) and content.keys() >= {*PARTS}
    models = [model for model in models if norm_layers(model)]
    if not models:
        logger.info("TEST.PRECISE_BN: the model has no BatchNorm layer that trains, nothing to do")
        return
    device = computing_device(models[0])
    iteration, states = comm.broadcast_object((content["iteration"], content["rng"]) if known else (0, None))
    try:
        if states is not None:
            restore_rng(states, device, comm.rank(), comm.world_size())
    except (LookupError, TypeError, ValueError, RuntimeError, AttributeError, ArithmeticError) as error:
        raise ConfigError(f"the checkpoint's random state is not one of ours: {error}") from None
    loader = local_rank_zero_first(lambda: build_train_loader(cfg, task, comm.rank(), comm.world_size()))
    number, parts = cfg.TEST.PRECISE_BN.NUM_ITER, cfg.SOLVER.GRAD_ACCUM_STEPS
    for model in models:
        run = losses_of(model, task, autocast=build_autocast(cfg), device=device)
        update_from_training(model, loader.batches(iteration), number, parts, device, run)
    loader.close()
    text = "TEST.PRECISE_BN: BatchNorm has the statistics of the %d training batches from iteration %d on"
    logger.info(text, number, iteration)
