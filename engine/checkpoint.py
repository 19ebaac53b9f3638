"""Checkpoint files: whole or absent, and never code.

A checkpoint is a dict of tensors and plain values in one file. Files are named as in detectron2: after
1,000 updates `model_0000999.pth` holds `iteration: 1000`, and `last_checkpoint` holds that name.
"""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from warmstart.config import ConfigError
from warmstart.modeling import read_tensor_file

logger = logging.getLogger(__name__)

POINTER = "last_checkpoint"
FINAL = "model_final.pth"
PARTS = ("model", "optimizer", "scheduler", "iteration", "hooks", "rng", "config")


def checkpoint_name(iteration: int) -> str:
    """Return the file's name after `iteration` updates, numbered as detectron2 does.

    >>> checkpoint_name(1000)
    'model_0000999.pth'
    """
    return f"model_{iteration - 1:07d}.pth"


def save_checkpoint(content: Mapping[str, Any], path: Path) -> None:
    """Write `content` so that a kill at any instant leaves the old file or the new one, never a part.

    Raises:
        TypeError: something in it is neither tensor nor plain value; the message names the key path.
    """
    _require_plain(content, "")
    _write_atomically(path, lambda file: torch.save(dict(content), file))


def point_to(path: Path) -> None:
    """Make `path` the checkpoint that the next resume in its folder takes."""
    _write_atomically(path.parent / POINTER, lambda file: file.write(path.name.encode()))


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU: checksums verified, no code run, all parts there.

    Raises:
        ConfigError: the file is missing, damaged, holds more than tensors and plain values, or is
            not a whole checkpoint.
    """
    content = read_tensor_file(path, "checkpoint")
    kinds = {"iteration": int, "rng": list}  # all other parts are dicts
    missing = [
        part
        for part in PARTS
        if not isinstance(content, dict) or not isinstance(content.get(part), kinds.get(part, dict))
    ]
    if missing:
        raise ConfigError(
            f"checkpoint: {path} is not whole, it lacks {', '.join(missing)}; to start a new run from its weights "
            f"use MODEL.WEIGHTS {path}"
        )
    return dict(content)


def has_checkpoints(folder: Path) -> bool:
    """Return whether a run has saved into `folder`."""
    return bool(_newest_first(folder))  # a pointer to nothing is no run


def refuse_used_folder(folder: Path) -> None:
    """Raise ConfigError where another run has saved into `folder`: two runs are never mixed."""
    if has_checkpoints(folder):
        raise ConfigError(
            f"{folder} holds the checkpoints of an earlier run; give --resume to continue it, "
            "--overwrite to delete it, or another folder with OUTPUT_DIR"
        )


def load_newest(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """Read the checkpoint that `last_checkpoint` names, else the newest that can be read.

    Returns:
        Its path and content; None where the folder holds no checkpoint.

    Raises:
        ConfigError: there are files, but none can be read: starting anew would lose the run.
    """
    candidates = _newest_first(folder)
    pointer = folder / POINTER
    try:
        name = pointer.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        name = ""
    if name and (folder / name).is_file():
        candidates = [folder / name, *(path for path in candidates if path.name != name)]
    problems: list[str] = []
    for path in candidates:
        try:
            content = load_checkpoint(path)
        except ConfigError as error:
            problems.append(str(error))
            continue
        for problem in problems:
            logger.warning("%s; falling back to %s", problem, path.name)
        return path, content
    if problems:
        raise ConfigError([f"no checkpoint in {folder} can be read; nothing was started", *problems])
    return None


def set_aside_after(folder: Path, iteration: int) -> None:
    """Make `iteration` the newest that `folder` holds: later checkpoints get the ending `.cut`."""
    later = [path for path in _newest_first(folder) if path.name != FINAL and _number(path) >= iteration]
    if not later:
        return
    for path in (*later, folder / FINAL) if (folder / FINAL).exists() else later:
        os.replace(path, f"{path}.cut")
        logger.info("set aside: %s.cut", path)
    own = folder / checkpoint_name(iteration)
    if own.exists():
        point_to(own)
    else:
        (folder / POINTER).unlink(missing_ok=True)


def _newest_first(folder: Path) -> list[Path]:
    numbered = [path for path in folder.glob("model_*.pth") if path.stem.removeprefix("model_").isdigit()]
    numbered.sort(key=_number, reverse=True)
    final = folder / FINAL
    return [*numbered, final] if final.is_file() else numbered


def _number(path: Path) -> int:
    return int(path.stem.removeprefix("model_"))


def _write_atomically(path: Path, write: Any) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    if os.name == "posix":  # makes the new name itself survive a power failure
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _require_plain(value: Any, where: str) -> None:
    if value is None or type(value) in (int, float, str, bytes, bool, Tensor, Parameter):
        return
    if type(value) in (dict, OrderedDict):  # what torch.load(weights_only=True) takes, and no subclass
        for key, inner in value.items():
            _require_plain(key, f"{where} (a key)")
            _require_plain(inner, f"{where}.{key}" if where else str(key))
    elif type(value) in (list, tuple):
        for index, inner in enumerate(value):
            _require_plain(inner, f"{where}[{index}]")
    else:
        raise TypeError(
            f"{where} is a {type(value).__name__}: a checkpoint holds only tensors and plain values "
            "(int, float, str, bytes, bool, None, list, tuple, dict)"
        )
