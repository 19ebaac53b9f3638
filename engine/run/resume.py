"""The checkpoint that a run continues from."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from warmstart.config import CfgNode, ConfigError
from warmstart.data import named_test_sets

from ..checkpoint import sharded as shards
from ..checkpoint.reader import SHARDS_IN, load_checkpoint
from ..checkpoint.run_folder import RunFolder, Start
from ..checkpoint.saver import finish_saves
from ..checkpoint.score_names import with_current_names
from ..distributed.build import build_strategy
from ..distributed.fsdp import mesh_of
from .folder import run_folder

logger = logging.getLogger(__name__)


def find_start(cfg: CfgNode, resume: str | None, overwrite: bool, trust: bool = False) -> Start | None:
    """Return the checkpoint to continue from, its file and content, or None to start at iteration 0.

    Writes nothing.

    Args:
        cfg: the resolved config.
        resume: None without --resume, "" for the newest checkpoint in OUTPUT_DIR, else a file or folder.
        overwrite: whether checkpoints of an earlier run in OUTPUT_DIR may go.
        trust: whether code in the checkpoint may run, as --trust-checkpoint says.

    Raises:
        ConfigError: OUTPUT_DIR holds another run's checkpoints, or files of the user that a run would overwrite;
            both flags were given; or the checkpoint cannot be read.
    """
    folder = run_folder(cfg)
    finish_saves()  # of an earlier run in this process
    folder.refuse_foreign()
    if resume is None:
        if not overwrite:
            folder.refuse_used()
        return None
    if overwrite:
        raise ConfigError("command line: --resume and --overwrite contradict each other; give one of them")
    source = Path(resume or folder.path)
    origin = source if source.is_dir() else source.parent
    if source.exists() and origin.resolve() != folder.path.resolve() and folder.has_checkpoints():
        raise ConfigError(
            f"{folder.path} holds the checkpoints of another run than {source}; give --resume without a path to "
            "continue that one, or another folder with OUTPUT_DIR"
        )
    if origin.resolve() == folder.overwritten.path.resolve():
        raise ConfigError(
            f"{origin} is deleted when a run in {folder.path} saves; move its files up into {folder.path} first"
        )
    start = read_start(cfg, resume, trust)
    if start is None:
        logger.info("--resume: no checkpoint in %s yet, starting at iteration 0", folder.path)
    return start


def read_start(cfg: CfgNode, resume: str, trust: bool = False) -> Start | None:
    """Return the checkpoint that --resume means, its file and content; None if OUTPUT_DIR, "", has none.

    Code in it only runs with `trust`. If the run shards its model, the checkpoint's shards must still be read, by
    `read_parts`.

    Raises:
        ConfigError: the file or folder that `resume` names holds none, or none that can be read.
    """
    source, whole = Path(resume or cfg.OUTPUT_DIR), not build_strategy(cfg).is_sharded
    if resume and not source.exists():
        raise ConfigError(f"command line: --resume {resume}: no such file or folder")
    if resume and not source.is_dir():
        found: Start | None = (source, load_checkpoint(source, trust, whole))
    else:
        found = RunFolder(source).load_newest(trust, whole)
    if found is not None:
        logger.info("reading %s", found[0])
        found = found[0], with_current_names(found[1], named_test_sets(cfg))
    elif resume:
        raise ConfigError(f"command line: --resume {resume}: the folder holds no checkpoint")
    return found


def read_parts(cfg: CfgNode, start: dict[str, Any]) -> dict[str, Any]:
    """Return a checkpoint of `read_start` with this rank's shard of each tensor; waits for all ranks.

    Raises:
        ConfigError: they cannot be read.
    """
    folder = start.pop(SHARDS_IN, "")
    return shards.fill(start, Path(folder), mesh_of("cpu")) if folder else start  # a device has no memory to spare


def keeping_as_before(cfg: CfgNode, saved: Mapping[str, Any]) -> CfgNode:
    """Return a config with the checkpoint's own SOLVER.CHECKPOINT_KEEP, unless the user has set the key.

    A run of a version that kept all checkpoints loses none when it is resumed.

    Args:
        cfg: resolved.
        saved: the checkpoint's config.
    """
    solver = saved.get("SOLVER")
    keep = solver.get("CHECKPOINT_KEEP", 0) if isinstance(solver, Mapping) else None
    is_valid = type(keep) is int and keep >= 0
    if cfg.is_set("SOLVER.CHECKPOINT_KEEP") or not is_valid or keep == cfg.SOLVER.CHECKPOINT_KEEP:
        return cfg
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SOLVER["CHECKPOINT_KEEP"] = keep  # item access keeps the recorded source
    cfg.freeze()
    logger.info("SOLVER.CHECKPOINT_KEEP: %d, as before", keep)
    return cfg
