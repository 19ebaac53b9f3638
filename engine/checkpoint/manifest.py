"""Which checkpoints in a folder are this run's own: the only ones that it may delete."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from warmstart.config import read_small_text

from ..runtime import files
from .run_folder import NUMBERED, checkpoint_number, pointed_to

logger = logging.getLogger(__name__)

MANIFEST = "checkpoints.json"


def read_manifest(folder: Path) -> list[str]:
    """Return the names of the run's numbered checkpoints that are still there, in the order of their numbers."""
    path = folder / MANIFEST
    try:
        names = json.loads(read_small_text(path))["checkpoints"]
        ours = {name for name in names if NUMBERED.fullmatch(name) and (folder / name).is_file()}
    except (FileNotFoundError, IsADirectoryError):  # what cannot be replaced either is said when it is written
        return []
    except (OSError, ValueError, KeyError, TypeError):
        logger.warning("%s cannot be read: the checkpoints that it listed are kept", path)
        return []
    return sorted(ours, key=checkpoint_number)


def add_to_manifest(folder: Path, name: str) -> None:
    """List a checkpoint before it is written: one that a kill left unlisted would stay for ever.

    Names are relative, so that a folder can be moved or copied.
    """
    names = sorted({*read_manifest(folder), name}, key=checkpoint_number)
    text = json.dumps({"checkpoints": names}, indent=2) + "\n"
    files.write_atomically(folder / MANIFEST, lambda file: file.write(text.encode()))


def prune(folder: Path, keep: int) -> None:
    """Delete all but the newest `keep` of the listed checkpoints, never the one that the pointer names.

    Args:
        folder: the run's.
        keep: 0 keeps all.
    """
    for name in read_manifest(folder)[:-keep] if keep else []:
        if name != pointed_to(folder):
            files.unlink(folder / name)
