"""Completing a save that a kill, or a disk that failed, has cut short.

A save has one order (see saver.Save): once the numbered file has its name, the checkpoint is there, and all that
can be missing follows from it. A resume first does the rest, so that the folder is that of an uninterrupted run.
"""

from __future__ import annotations

import filecmp
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..runtime import files
from . import sharded as shards
from .manifest import add_to_manifest, prune
from .overwrite import FOLDER as OVERWRITTEN
from .overwrite import delete_overwritten
from .reader import iteration_of
from .run_folder import NAMES, checkpoint_name, point_to, pointed_to, set_aside

logger = logging.getLogger(__name__)


def complete_save(folder: Path, path: Path, content: Mapping[str, Any], keep: int) -> None:
    """Do what is left to do after the numbered file of a checkpoint: its names, the pointer, deleting.

    Where all is in place it writes nothing. Where `path` is not what the pointer stands for, because the user has
    named an earlier file, or the pointer's own is there and could not be read, only the number is seen to.

    Args:
        folder: the run's, which no other process is writing.
        path: the file that the run continues from; a file in another folder needs nothing.
        content: of the file.
        keep: SOLVER.CHECKPOINT_KEEP.

    Raises:
        OSError: the disk is full, or failed.
    """
    if path.parent.resolve() != folder.resolve():
        return
    numbered = folder / checkpoint_name(content["iteration"])
    if not numbered.exists():  # only one of its other names is left
        add_to_manifest(folder, numbered.name)
        files.add_name(path, numbered)
    pointed = pointed_to(folder)
    if pointed not in (path.name, numbered.name) and os.path.isfile(folder / pointed):
        return
    if pointed != numbered.name:
        point_to(numbered)
    for name in content.get(NAMES, []):
        _complete_name(folder / name, numbered, content["iteration"])
    delete_overwritten(folder)
    prune(folder, keep)
    shards.remove_unused(folder, folder / OVERWRITTEN)


def _complete_name(path: Path, numbered: Path, iteration: int) -> None:
    if path.is_file():
        if path.samefile(numbered) or filecmp.cmp(path, numbered, shallow=False):
            return
        if iteration_of(path) > iteration:  # of a later checkpoint that is gone, or no checkpoint at all
            set_aside(path)
    files.add_name(numbered, path)
    logger.info("completed the save of %s: %s", numbered.name, path.name)
