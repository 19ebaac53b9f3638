"""A training run, from its config to its last checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from warmstart.config import CfgNode
from warmstart.tasks import default_arguments, evaluation_arguments

from ..distributed import comm
from ..distributed.errors import on_main, raise_together
from ..loop.hook import HookBase
from ..loop.trainer import Trainer
from ..records.logging import setup_logging
from ..runtime.signals import stop_signals
from .build import build_trainer
from .config_diff import compare_configs
from .describe import log_run
from .folder import complete_run, hold_folder, is_restart, prepare_folder
from .load import load_start, why_done
from .resolve import resolve_config
from .resume import find_start, read_parts
from .world_size_scaling import log_scaling, scale_of, scaled

logger = logging.getLogger(__name__)


def train(
    cfg: CfgNode,
    *,
    resume: str | None = None,
    overwrite: bool = False,
    allow_config_change: bool = False,
    trust: bool = False,
    hooks: Iterable[HookBase] = (),
) -> Trainer | None:
    """Train what a config describes, from iteration 0 or from a checkpoint; as tools/train_net.py does.

    On several ranks each of them calls it.

    Args:
        cfg: as the user wrote it; it is resolved here.
        resume: None for a new run, "" for the newest checkpoint in OUTPUT_DIR, else a checkpoint's file or folder.
        overwrite: whether the run that OUTPUT_DIR holds is replaced, once this one has saved.
        allow_config_change: whether a run is resumed although its model, data or seed were others.
        trust: whether code in a checkpoint or in MODEL.WEIGHTS may run.
        hooks: run before the default ones.

    Returns:
        The trainer; None if the checkpoint left nothing to train.

    Raises:
        ConfigError: the config is not one that can run, or the run cannot start in OUTPUT_DIR.
        Interrupted: a signal came; the run is saved.
    """
    given = cfg
    with raise_together():
        cfg = resolve_config(scaled(given, comm.world_size()), given=given)
    with hold_folder(cfg):
        if on_main(lambda: is_restart(Path(cfg.OUTPUT_DIR))):
            logger.info("started anew after a failure: --resume is implied")
            resume, overwrite = "", False
        found = on_main(lambda: find_start(cfg, resume, overwrite, trust))
        start = None if found is None else read_parts(cfg, found[1])
        if start is not None and scale_of(start):
            with raise_together():
                cfg = resolve_config(scaled(given, scale_of(start)), given=given)
        log_scaling(given, cfg)
        if start is not None:
            with raise_together():
                arguments = default_arguments(cfg.MODEL.TASK), evaluation_arguments(cfg.MODEL.TASK)
                compare_configs(cfg, start["config"], allow_config_change, *arguments)
                done = why_done(cfg, start)
            if done:
                if found is not None and not resume:
                    on_main(lambda: complete_run(cfg, found))
                logger.info(done)
                return None
        with raise_together():
            trainer = build_trainer(cfg, trust, weights=start is None)
            trainer.hooks[:0] = hooks
            if start is not None:
                load_start(trainer, start)
        on_main(lambda: prepare_folder(cfg, found, overwrite=overwrite, trainer=trainer))
        setup_logging(cfg.OUTPUT_DIR)  # each rank: the main one has, and it changes nothing there
        log_run(cfg, trainer)
        with stop_signals(trainer.interrupt, comm.is_main):
            trainer.train()
        return trainer
