"""The end of a run in the log: scores, files, time, and the next commands to type."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from warmstart.config import CfgNode, Flag, get_cfg, parse_command_line, started_as

from ..checkpoint.run_files import BEST, FINAL
from ..distributed import comm
from ..hooks.best_checkpoint import BestHook
from ..hooks.early_stopping import EarlyStoppingHook
from ..loop.trainer import Trainer
from ..records.console import score_lines, shown_score
from ..records.reports import MAIN, REPORT
from .command_line import CONFIG_FLAGS
from .resolve import iters_per_epoch
from .scores import hidden_scores, percent_scores

logger = logging.getLogger(__name__)

_ONCE = ("resume", "overwrite", "allow_config_change", "print_config", "eval_only", "output")


def log_end(cfg: CfgNode, trainer: Trainer, began: int, seconds: float) -> None:
    """Log what a run has done: iterations, time and speed, the last scores, the best one, and their files.

    Args:
        cfg: resolved.
        trainer: after its last update.
        began: the iteration at which this process began to train.
        seconds: that training took, evaluations and saves included.
    """
    done, folder = trainer.iteration - began, Path(cfg.OUTPUT_DIR)
    epochs = float(trainer.iteration / iters_per_epoch(cfg))
    shown = f"{epochs:,.1f}" if epochs >= 1 else f"{epochs:.2g}"
    speed = done * cfg.SOLVER.IMS_PER_BATCH / max(seconds - trainer.paused_seconds, 1e-9)
    took = timedelta(seconds=round(seconds))
    part = f"{done:,} of {trainer.iteration:,} iterations" if began else f"{done:,} iterations"
    text = "trained %s (%s epochs) in %s, %s images/s without evaluation and saving"
    logger.info(text, part, shown, took, f"{speed:,.0f}" if speed >= 10 else f"{speed:.2g}")
    task = trainer.task
    percent, hidden = (percent_scores(task), hidden_scores(task)) if task is not None else (set(), set())
    if trainer.record.get("iteration") == trainer.iteration:
        for name, scores in score_lines(trainer.record, percent, hidden).items():
            logger.info("final: %s %s (%s)", name, scores, folder / FINAL)
    for hook in trainer.hooks:
        if isinstance(hook, BestHook) and hook.best is not None:
            score = shown_score(hook.metric, hook.best, percent)
            place = f" ({folder / BEST})" if hook.has_file else ", whose checkpoint is not in this folder"
            logger.info("best: %s %s after iteration %d%s", hook.metric, score, hook.best_iteration, place)
    if next((folder / REPORT).glob(f"*/{MAIN}"), None) is not None:
        logger.info("report: %s", folder / REPORT)


def log_next_commands(cfg: CfgNode, trainer: Trainer, flags: Sequence[Flag], argv: Sequence[str]) -> None:
    """Log the commands that evaluate a run that has ended and that train it longer.

    Args:
        cfg: as the user wrote it.
        trainer: after its last update.
        flags: of the tool, without `CONFIG_FLAGS`.
        argv: the arguments of the tool.
    """
    if not comm.is_main():
        return
    found, overrides = parse_command_line(argv, (*CONFIG_FLAGS, *flags), get_cfg().has_key)
    kept = {name: value for name, value in found.items() if name not in _ONCE}
    best = [hook for hook in trainer.hooks if isinstance(hook, BestHook)]
    is_best = any(hook.best is not None and hook.has_file for hook in best)
    weights = Path(cfg.OUTPUT_DIR) / (BEST if is_best else FINAL)
    if cfg.DATASETS.TEST:
        evaluating = _with(overrides, "MODEL.WEIGHTS", str(weights))
        logger.info("evaluate: %s", command(argv, kept | {"eval_only": True}, evaluating))
    key, value = _longer(cfg, trainer)
    logger.info("train longer: %s", command(argv, kept | {"resume": ""}, _with(overrides, key, value)))


def command(argv: Sequence[str], flags: Mapping[str, Any], overrides: Sequence[str]) -> str:
    """Return a command line for a shell.

    Args:
        argv: the arguments with which the tool was started.
        flags: the values of its flags by their `key`; those without a value are left out.
        overrides: config keys and their values.

    >>> from unittest.mock import patch
    >>> argv = ["--config-file", "my photos.yaml"]
    >>> with patch("sys.argv", ["bin/warmstart", "train", *argv]):
    ...     command(argv, {"config_file": "my photos.yaml", "resume": "", "num_gpus": None}, ["SEED", "1"])
    "warmstart train --config-file 'my photos.yaml' --resume SEED 1"
    """
    script, *words = started_as(argv)
    # The name of a program that calls the tool would not help.
    words = ["python", script] if script.endswith(".py") else ["warmstart", *(words or ["train"])]
    for key, value in flags.items():
        name = f"--{key.replace('_', '-')}"
        values = value if isinstance(value, list) else [] if value is None or value is False else [value]
        for each in values:
            words += [name] if each is True or each == "" else [name, str(each)]
    return shlex.join([*words, *overrides])


def _with(overrides: Sequence[str], key: str, value: str) -> list[str]:
    """Return overrides in which a key has another value.

    >>> _with(["SEED", "1", "SOLVER.MAX_ITER=60"], "SOLVER.MAX_ITER", "120")
    ['SEED', '1', 'SOLVER.MAX_ITER', '120']
    """
    words, left = [*overrides], []
    while words:
        word = words.pop(0)
        pair = [word] if "=" in word else [word, *words[:1]]
        del words[: len(pair) - 1]
        if word.partition("=")[0] != key:
            left += pair
    return [*left, key, value]


def _longer(cfg: CfgNode, trainer: Trainer) -> tuple[str, str]:
    """Return the key that lets a run continue, and a value for it: twice as long, or twice as patient."""
    for hook in trainer.hooks:
        if isinstance(hook, EarlyStoppingHook) and hook.has_stopped:
            return "TEST.EARLY_STOPPING.PATIENCE", str(2 * cfg.TEST.EARLY_STOPPING.PATIENCE)
    length = cfg.SOLVER.MAX_ITER
    if isinstance(length, str):
        return "SOLVER.MAX_ITER", f"{2 * float(length.removesuffix('ep')):g}ep"
    return "SOLVER.MAX_ITER", str(2 * length)
