"""Reading of checkpoints: verified, complete, and never code."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from warmstart.config import ConfigError
from warmstart.modeling import read_tensor_file

from . import sharded as shards
from .run_files import CLASSES, NAMES, require_names

logger = logging.getLogger(__name__)

PARTS = ("model", "optimizer", "scheduler", "iteration", "hooks", "rng", "config")
SHARDS_IN = "parts"  # an entry of what `load_checkpoint` returns: the folder of shards that are still to be read


def load_checkpoint(path: str | Path, trust: bool = False, whole: bool = True) -> dict[str, Any]:
    """Read a checkpoint onto the CPU: checksums verified, no code run, no entry missing.

    Args:
        path: the file.
        trust: whether code in the file may run, as --trust-checkpoint says.
        whole: whether sharded tensors (see sharded.py) are read unsharded. If not, they are None, and the entry
            `parts` holds the path of the folder with their shards.

    Raises:
        ConfigError: the file is missing, damaged or incomplete, or holds more than tensors and plain values.
    """
    content = read_tensor_file(path, "checkpoint", trust)
    kinds = {"iteration": int, "rng": list}  # all other entries are dicts
    missing = [
        part
        for part in PARTS
        if not isinstance(content, dict) or not isinstance(content.get(part), kinds.get(part, dict))
    ]
    if missing or type(content["iteration"]) is not int or content["iteration"] < 0:
        missing = missing or ["a number of updates as its iteration"]
        raise ConfigError(
            f"checkpoint: {path} is incomplete, it lacks {', '.join(missing)}; to start a new run from its "
            f"weights use MODEL.WEIGHTS {path}"
        )
    try:
        require_names(content.get(NAMES, []))
    except ValueError as error:
        raise ConfigError(f"checkpoint: {path} is refused: {error}") from None
    folder = shards.verify(content, Path(path))
    if folder is None:
        return dict(content)
    return shards.fill(content, folder) if whole else content | {SHARDS_IN: str(folder)}


def classes_of(content: Mapping[str, Any]) -> list[str]:
    """Return the class names in a checkpoint, in the order of the model's outputs; [] if it has none.

    Checkpoints of older versions have none.

    >>> classes_of({"classes": ["cat", "dog"]}), classes_of({})
    (['cat', 'dog'], [])
    """
    names = content.get(CLASSES, [])
    return [*names] if isinstance(names, list) and all(isinstance(name, str) for name in names) else []


def iteration_of(path: Path) -> float:
    """Return the iteration of a checkpoint: 0 if there is no file, infinite if it cannot be read."""
    if not path.is_file():
        return 0
    try:
        return int(load_checkpoint(path, whole=False)["iteration"])
    except ConfigError as error:
        logger.warning("%s", error)
        return math.inf
