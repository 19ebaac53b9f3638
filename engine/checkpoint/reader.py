"""Reading checkpoints: verified, complete, and never code."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

from warmstart.config import ConfigError
from warmstart.modeling import read_tensor_file

from . import sharded as shards
from .run_folder import NAMES, _candidates, require_names

logger = logging.getLogger(__name__)
PARTS = ("model", "optimizer", "scheduler", "iteration", "hooks", "rng", "config")
PARTS_IN = "parts"  # an entry of what `load_checkpoint` returns


def load_checkpoint(path: str | Path, trust: bool = False, whole: bool = True) -> dict[str, Any]:
    """Read a checkpoint onto the CPU: checksums verified, no code run, all parts there.

    Args:
        path: the file.
        trust: whether code in the file may run, as --trust-checkpoint says.
        whole: whether tensors that lie in parts (see sharded.py) are put together; else None stands for them, and
            the entry `parts` holds the path of their folder.

    Raises:
        ConfigError: the file is missing, damaged, holds more than tensors and plain values, or is
            not a whole checkpoint.
    """
    content = read_tensor_file(path, "checkpoint", trust)
    kinds = {"iteration": int, "rng": list}  # all other parts are dicts
    missing = [
        part
        for part in PARTS
        if not isinstance(content, dict) or not isinstance(content.get(part), kinds.get(part, dict))
    ]
    if missing or type(content["iteration"]) is not int or content["iteration"] < 0:
        missing = missing or ["a number of updates as its iteration"]
        raise ConfigError(
            f"checkpoint: {path} is not whole, it lacks {', '.join(missing)}; to start a new run from its weights "
            f"use MODEL.WEIGHTS {path}"
        )
    try:
        require_names(content.get(NAMES, []))
    except ValueError as error:
        raise ConfigError(f"checkpoint: {path} is refused: {error}") from None
    folder = shards.verify(content, Path(path))
    if folder is None:
        return dict(content)
    return shards.fill(content, folder) if whole else content | {PARTS_IN: str(folder)}


def iteration_of(path: Path) -> float:
    """Return the iteration of a checkpoint: 0 where there is no file, infinite where it cannot be read."""
    if not path.is_file():
        return 0
    try:
        return int(load_checkpoint(path, whole=False)["iteration"])
    except ConfigError as error:
        logger.warning("%s", error)
        return math.inf


def load_newest(folder: Path, trust: bool = False, whole: bool = True) -> tuple[Path, dict[str, Any]] | None:
    """Read the checkpoint that `last_checkpoint` names, else the newest that can be read.

    Args:
        folder: the run's.
        trust: whether code in a file may run, as --trust-checkpoint says.
        whole: as `load_checkpoint` takes it.

    Returns:
        Its path and content; None where the folder holds no checkpoint.

    Raises:
        ConfigError: there are files, but none can be read: starting anew would lose the run.
    """
    problems: list[str] = []
    for path in _candidates(folder):
        try:
            content = load_checkpoint(path, trust, whole)
        except ConfigError as error:
            problems.append(str(error))
            continue
        for problem in problems:
            logger.warning("%s; falling back to %s", problem, path.name)
        return path, content
    if problems:
        raise ConfigError([f"no checkpoint in {folder} can be read; nothing was started", *problems])
    return None
