"""A training run, from its config to its last checkpoint."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from warmstart.config import CfgNode
from warmstart.data import data_spec
from warmstart.tasks import default_arguments, evaluation_arguments

from ..checkpoint.run_folder import Start
from ..distributed import comm
from ..distributed.errors import on_main, raise_together
from ..loop.hook import HookBase
from ..loop.trainer import Trainer
from ..records.logging import setup_logging
from ..runtime.signals import stop_signals
from .build import build_trainer
from .config_diff import compare_configs
from .data_diff import CONTENT, compare_data
from .describe import log_run
from .folder import complete_run, hold_folder, is_restart, prepare_folder
from .input_defaults import with_saved_input
from .load import load_start, why_done
from .resolve import resolve_scaled
from .resume import find_start, keeping_as_before, read_parts
from .summary import log_end
from .world_size_scaling import check_scaled, log_scaling, scale_of

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
    """Train the model that a config describes, from iteration 0 or from a checkpoint.

    The Python counterpart of tools/train_net.py: checks the config, locks OUTPUT_DIR, resumes, trains, and writes
    records and checkpoints. Progress is logged to stdout and to log.txt. In a distributed run every rank calls it.

    Args:
        cfg: the config as the user wrote it; `train` resolves it.
        resume: None starts a new run; "" continues from the newest checkpoint in OUTPUT_DIR; a path continues from
            this checkpoint, or from the newest in this folder.
        overwrite: whether to replace an earlier run in OUTPUT_DIR; it is deleted once this one has saved.
        allow_config_change: whether to resume although the model, the data or the seed has changed.
        trust: whether to read a checkpoint or MODEL.WEIGHTS even if that can run code in the file.
        hooks: called where those of `register_hook` are: after the evaluation and before the records.

    Returns:
        The trainer after its last update; None if the checkpoint leaves nothing to train.

    Raises:
        ConfigError: the config is invalid, or the run cannot start in OUTPUT_DIR.
        Interrupted: a signal stopped the run, which has been saved.

    >>> import tempfile
    >>> from warmstart.config import get_cfg
    >>> cfg = get_cfg()
    >>> with tempfile.TemporaryDirectory() as folder:  # doctest: +ELLIPSIS
    ...     cfg.merge_from_list(["MODEL.DEVICE", "cpu", "SOLVER.MAX_ITER", 3, "OUTPUT_DIR", folder])
    ...     trainer = train(cfg)
    [...] torch ...
    >>> trainer.iteration
    3
    """
    setup_logging()
    given = cfg
    with raise_together():
        cfg = resolve_scaled(given, comm.world_size())
    with hold_folder(cfg):
        if on_main(lambda: is_restart(Path(cfg.OUTPUT_DIR))):
            logger.info("restarted after a failure: --resume is implied")
            resume, overwrite = "", False
        found = on_main(lambda: find_start(cfg, resume, overwrite, trust))
        start = None if found is None else read_parts(cfg, found[1])
        if start is not None and scale_of(start):  # the run keeps the batches of the one that it continues
            with raise_together():
                cfg = resolve_scaled(given, scale_of(start))
        if start is not None:
            cfg = with_saved_input(keeping_as_before(cfg, start["config"]), start["config"])
        with raise_together():
            check_scaled(given, cfg)
        log_scaling(given, cfg)
        if start is not None and _has_ended(cfg, start, allow_config_change):
            if found is not None and not resume:
                on_main(lambda: complete_run(cfg, found))
            return None
        trainer = _build(cfg, start, trust, hooks)
        _run(cfg, trainer, overwrite, found)
        return trainer


def _has_ended(cfg: CfgNode, start: Mapping[str, Any], allow_change: bool) -> bool:
    """Compare the config with a checkpoint's; return whether the checkpoint leaves nothing to train, and log why.

    Raises:
        ConfigError: the config is of another run; or a state in the checkpoint has a wrong type.
    """
    with raise_together():
        arguments = default_arguments(cfg.MODEL.TASK), evaluation_arguments(cfg.MODEL.TASK)
        data = compare_data(data_spec(cfg).content, start.get(CONTENT))
        compare_configs(cfg, start["config"], allow_change, *arguments, data=data)
        reason = why_done(cfg, start)
    if reason:
        logger.info(reason)
    return bool(reason)


def _build(cfg: CfgNode, start: dict[str, Any] | None, trust: bool, hooks: Iterable[HookBase]) -> Trainer:
    """Return the trainer, with the state of the checkpoint `start` if there is one."""
    with raise_together():
        trainer = build_trainer(cfg, trust, weights=start is None, hooks=hooks)
        if start is not None:
            load_start(trainer, start)
    return trainer


def _run(cfg: CfgNode, trainer: Trainer, overwrite: bool, found: Start | None) -> None:
    """Prepare OUTPUT_DIR and train; a signal stops the run after the current update, and it is saved."""
    on_main(lambda: prepare_folder(cfg, found, overwrite=overwrite, trainer=trainer))
    setup_logging(cfg.OUTPUT_DIR)  # on every rank; on the main one `prepare_folder` has done it
    log_run(cfg, trainer)
    began, start = trainer.iteration, time.perf_counter()
    with stop_signals(trainer.interrupt, comm.is_main):
        trainer.train()
    log_end(cfg, trainer, began, time.perf_counter() - start)
