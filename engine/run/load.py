"""Loading of a checkpoint's content into a trainer or a model."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from warmstart.config import CfgNode, ConfigError
from warmstart.solver import EMA

from ..loop.hook import OWN_STATE
from ..loop.optimizer_state import missing_optimizer_state
from ..loop.trainer import Trainer
from ..loop.training_state import load_ema, load_model
from ..runtime.device import versions
from ..runtime.states import read_state
from .scores import why_stopped

logger = logging.getLogger(__name__)


def why_done(cfg: CfgNode, start: Mapping[str, Any]) -> str:
    """Return why nothing is left to train after a checkpoint, and how to continue; "" if something is left.

    Raises:
        ConfigError: a state of a hook in it is invalid.
    """
    own = start["hooks"].get(OWN_STATE, {"pending": False})
    if read_state(own, f"hooks.{OWN_STATE}", {"pending": bool})["pending"]:
        return ""  # a signal came while its last update was evaluated
    number, end = start["iteration"], cfg.SOLVER.MAX_ITER
    if number >= end:
        return f"the checkpoint is at iteration {number}, SOLVER.MAX_ITER is {end}: nothing to do"
    with _fitting():
        reason, key = why_stopped(cfg, start)
    return f"the run has stopped at iteration {number}: {reason}; raise {key} to continue" if reason else ""


def build_average(cfg: CfgNode, model: nn.Module, start: Mapping[str, Any]) -> EMA | None:
    """Return the moving average that a checkpoint has, even if SOLVER.EMA is off; its weights are loaded later."""
    if start.get("ema") is None:
        if cfg.SOLVER.EMA.ENABLED:
            logger.info("SOLVER.EMA is on, but the checkpoint has no moving average")
        return None
    return EMA(model, cfg.SOLVER.EMA.DECAY, cfg.SOLVER.EMA.PERIOD)


def load_models(model: nn.Module, ema: EMA | None, start: Mapping[str, Any]) -> None:
    """Load all of a checkpoint's weights into a model and its moving average.

    Raises:
        ConfigError: they do not fit the model.
    """
    with _fitting():
        load_model(model, start["model"])
        if ema is not None:
            load_ema(ema, start["ema"])


@contextmanager
def _fitting() -> Iterator[None]:
    try:
        yield
    except ConfigError:
        raise
    except (LookupError, RuntimeError, ValueError, TypeError, AttributeError, ArithmeticError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"the checkpoint does not fit this model and optimizer: {reason}") from error


def load_start(trainer: Trainer, start: dict[str, Any]) -> None:
    """Load a checkpoint into a trainer; log a warning if other versions may change the last bits.

    Raises:
        ConfigError: the checkpoint does not fit the trainer's model or optimizer.
    """
    with _fitting():
        trainer.load_state_dict(start)
        missing = missing_optimizer_state(trainer.optimizer)
    if missing:
        raise ConfigError(
            f"the checkpoint does not hold {', '.join(missing)}, which {type(trainer.optimizer).__name__} needs "
            "with these settings; set SOLVER.OPTIMIZER_ARGS and SOLVER.MOMENTUM to their old values, or start a "
            "new run with MODEL.WEIGHTS FILE and another OUTPUT_DIR"
        )
    written_by, now = start.get("versions", {}), versions(trainer.device)
    if not isinstance(written_by, dict):
        raise ConfigError(f"the checkpoint's versions are not a dict, but {type(written_by).__name__}")
    changed = [  # older checkpoints list fewer of them
        f"{name} {written_by[name]} -> {now[name]}"
        for name in now
        if name in written_by and str(written_by[name]) != str(now[name])
    ]
    if changed:
        logger.warning("the continued run may differ in the last bits: %s", ", ".join(changed))
    logger.info("continuing after iteration %d", trainer.iteration)
