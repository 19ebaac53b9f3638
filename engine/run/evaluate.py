"""An evaluation of its own, with the statistics that one in training has."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from warmstart.config import CfgNode, ConfigError
from warmstart.data import build_train_loader
from warmstart.tasks import Task

from ..checkpoint.reader import PARTS
from ..distributed import comm
from ..distributed.errors import local_rank_zero_first
from ..distributed.fsdp import computing_device
from ..loop.forward import losses_of
from ..loop.precise_bn import norm_layers, update_from_training
from ..runtime.precision import build_autocast
from ..runtime.rng import restore_rng

logger = logging.getLogger(__name__)


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
        logger.info("TEST.PRECISE_BN: the model has no BatchNorm layer that trains, nothing is to be done")
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
