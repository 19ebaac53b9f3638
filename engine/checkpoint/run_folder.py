"""Checkpoint files: whole or absent, and never code.

A checkpoint is a dict of tensors and plain values in one file. Files are named as in detectron2: after
1,000 updates `model_0000999.pth` holds `iteration: 1000`, and `last_checkpoint` holds that name.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from warmstart.config import ConfigError, read_small_text

from ..runtime import files
from .content import require_plain

logger = logging.getLogger(__name__)

POINTER = "last_checkpoint"
FINAL = "model_final.pth"
BEST = "model_best.pth"
NUMBERED = re.compile(r"model_(\d{7,})\.pth")
NAMES = "names"  # an entry of a checkpoint: what it is called in its folder besides its number
_NAME = re.compile(r"\w[\w. -]*\.pth", re.ASCII)


def checkpoint_name(iteration: int) -> str:
    """Return the file's name after `iteration` updates, numbered as detectron2 does.

    >>> checkpoint_name(1000)
    'model_0000999.pth'
    """
    return f"model_{iteration - 1:07d}.pth"


def checkpoint_number(name: str) -> int:
    """Return the number in a checkpoint's name, by which files are ordered: 9, 10, 100.

    >>> checkpoint_number("model_0000999.pth")
    999
    """
    found = NUMBERED.fullmatch(name)
    if found is None:
        raise ValueError(f"{name} is no numbered checkpoint, such as {checkpoint_name(1000)}")
    return int(found[1])


def require_names(names: Any) -> None:
    """Refuse names under which a checkpoint could not be found, or that would leave its folder.

    Args:
        names: those besides its number, as `names` of a checkpoint or `trainer.save_as` lists them.

    Raises:
        ValueError: one of them is no file name such as model_best.pth; the message shows it.

    >>> require_names(["model_best.pth", "mine.pth"])
    >>> require_names(["../mine.pth"])
    Traceback (most recent call last):
    ValueError: '../mine.pth' cannot be the name of a checkpoint; one is such as model_best.pth
    """
    several = isinstance(names, (list, set))
    for name in names if several else [names]:
        if not several or not isinstance(name, str) or not _NAME.fullmatch(name) or NUMBERED.fullmatch(name):
            raise ValueError(f"{name!r:.99} cannot be the name of a checkpoint; one is such as {BEST}")


def save_checkpoint(
    content: Mapping[str, Any], path: Path, before_commit: Callable[[], object] | None = None
) -> None:
    """Write `content` so that a kill at any instant leaves the old file or the new one, never a part.

    Args:
        content: tensors and plain values.
        path: the file.
        before_commit: called when the new file is verified, right before it takes its name.

    Raises:
        TypeError: something in it is neither tensor nor plain value; the message names the key path.
        OSError: the disk is full, or failed, or what it gives back is not what was written.
    """
    require_plain(content)
    files.write_atomically(path, lambda file: torch.save(dict(content), file), True, before_commit)


def point_to(path: Path) -> None:
    """Make `path` the checkpoint that the next resume in its folder takes."""
    files.write_atomically(path.parent / POINTER, lambda file: file.write(path.name.encode()))


def pointed_to(folder: Path) -> str:
    """Return the name that the pointer in `folder` holds, of a file that may be gone; "" without a pointer."""
    try:
        name = read_small_text(folder / POINTER).strip()
    except (OSError, UnicodeDecodeError):
        return ""
    return name if name == Path(name).name else ""  # never a file elsewhere


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files of saves that a kill cut short; nobody may be saving into `folder`."""
    for path in folder.glob(f".*{files.TEMPORARY}"):
        if files.is_temporary(path.name):
            files.unlink(path)


def has_checkpoints(folder: Path) -> bool:
    """Return whether a run has saved into `folder`."""
    return bool(_newest_first(folder))  # a pointer to nothing is no run


def refuse_used_folder(folder: Path) -> None:
    """Raise ConfigError where another run has saved into `folder`: two runs are never mixed."""
    if has_checkpoints(folder):
        raise ConfigError(
            f"{folder} holds the checkpoints of an earlier run; give --resume to continue it, "
            "--overwrite to replace it, or another folder with OUTPUT_DIR"
        )


def set_aside(path: Path) -> None:
    """Rename a file to the first of NAME.cut, NAME.cut2, NAME.cut3 ... that is free."""
    aside, number = path.with_name(f"{path.name}.cut"), 1
    while os.path.lexists(aside):
        number += 1
        aside = path.with_name(f"{path.name}.cut{number}")
    files.replace(path, aside)
    logger.info("set aside: %s", aside)


def set_aside_after(folder: Path, iteration: int) -> None:
    """Make `iteration` the newest that `folder` holds: later checkpoints are set aside."""
    numbered = [path for path in _newest_first(folder) if NUMBERED.fullmatch(path.name)]
    later = [path for path in numbered if checkpoint_number(path.name) >= iteration]
    if not later:
        return
    # The pointer first: killed in between, the next resume still takes what this one took, and it finds work to
    # do here as long as a numbered file is later.
    own = folder / checkpoint_name(iteration)
    if own.exists():
        point_to(own)
    else:
        files.unlink(folder / POINTER)
    for path in (folder / FINAL, *later) if (folder / FINAL).exists() else later:
        set_aside(path)


def newest_name(folder: Path) -> str:
    """Return the name of the checkpoint that a resume in `folder` would read first; "" where there is none."""
    return next((path.name for path in _candidates(folder)), "")


def _candidates(folder: Path) -> list[Path]:
    """Return the checkpoints in `folder`, in the order in which a resume tries them."""
    candidates, name = _newest_first(folder), pointed_to(folder)
    if name and os.path.isfile(folder / name):
        return [folder / name, *(path for path in candidates if path.name != name)]
    return candidates  # a save was cut short between the pointer and the file that it names


def _newest_first(folder: Path) -> list[Path]:
    numbered = [path for path in folder.glob("model_*.pth") if NUMBERED.fullmatch(path.name) and path.is_file()]
    numbered.sort(key=lambda path: checkpoint_number(path.name), reverse=True)
    return [*numbered, *(path for path in (folder / FINAL, folder / BEST) if path.is_file())]
