"""What --overwrite replaces: kept in the folder until the new run has saved, and then deleted, file by file."""

from __future__ import annotations

import contextlib
import logging
from os.path import lexists
from pathlib import Path

from warmstart.config import ConfigError, no_follow

from ..runtime import files
from ..runtime.owned import disown, own, owned
from .run_files import PROFILE, run_files
from .run_folder import has_checkpoints

logger = logging.getLogger(__name__)

FOLDER = "overwritten"
_WHOLE = ".whole"  # in it, once all of the run is


def overwritten_files(folder: Path) -> list[Path]:
    """Return the files that `set_aside_run` has moved, and nobody has moved back or deleted."""
    return run_files(folder / FOLDER) if _is_ours(folder) else []


def set_aside_run(folder: Path) -> None:
    """Move the run in `folder` out of the way; killed in between, it is moved on the next time.

    Where an earlier one lies there still, the later one of the two that has a checkpoint stays.

    Raises:
        ConfigError: it would be moved onto files of the user's, or to where a link leads.
        OSError: a file cannot be moved.
    """
    aside = folder / FOLDER
    is_folder = all(path.is_dir() and not path.is_symlink() for path in (aside, aside / PROFILE) if lexists(path))
    if not is_folder or (_files_in(aside) and not _is_ours(folder)):
        raise ConfigError(
            f"--overwrite would move the earlier run into {aside}, which was not made by a run; move it away, or "
            "name another folder with OUTPUT_DIR"
        )
    if (aside / _WHOLE).exists() and has_checkpoints(folder):
        delete_overwritten(folder)
    attempt = (aside / _WHOLE).exists()
    moved = run_files(folder)
    if moved and not attempt:
        own(folder, FOLDER)
    for path in moved:
        if attempt:
            files.unlink(path)
        else:
            _move(path, aside / path.relative_to(folder))
    if run_files(aside):
        open(aside / _WHOLE, "ab", opener=no_follow).close()


def bring_back_half_a_run(folder: Path) -> None:
    """Undo what `set_aside_run` had done when a kill came: the run is to go on."""
    aside = folder / FOLDER
    if _is_ours(folder) and not (aside / _WHOLE).exists():
        for path in run_files(aside):
            _move(path, folder / path.relative_to(aside))
        _remove_emptied(folder)


def delete_overwritten(folder: Path) -> None:
    """Delete what `set_aside_run` has moved: there is a checkpoint now that takes its place."""
    aside = folder / FOLDER
    if not _is_ours(folder) or not (aside / _WHOLE).exists():
        return
    try:
        for path in _files_in(aside):
            files.unlink(path)
        _remove_emptied(folder)
    except OSError as error:
        logger.warning("the overwritten run in %s could not be deleted: %s", aside, error.strerror or error)


def _is_ours(folder: Path) -> bool:
    """Return whether `set_aside_run` has made the subfolder, or found it without a file of a run's name."""
    aside = folder / FOLDER
    return aside.is_dir() and not aside.is_symlink() and FOLDER in owned(folder)


def _files_in(aside: Path) -> list[Path]:
    return [*run_files(aside), *([aside / _WHOLE] if (aside / _WHOLE).exists() else [])]


def _move(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    files.replace(path, target)


def _remove_emptied(folder: Path) -> None:
    for emptied in (folder / FOLDER / PROFILE, folder / FOLDER):
        with contextlib.suppress(OSError):  # not there, or something of the user's is in it
            emptied.rmdir()
    disown(folder, FOLDER)
