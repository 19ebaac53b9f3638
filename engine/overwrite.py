"""What --overwrite replaces: kept in the folder until the new run has saved, and then deleted, file by file."""

from __future__ import annotations

import contextlib
import logging
import re
from pathlib import Path

from . import files
from .checkpoint import POINTER, has_checkpoints
from .manifest import MANIFEST
from .picture import FILE as PICTURE

logger = logging.getLogger(__name__)

FOLDER = "overwritten"
_WHOLE = ".whole"  # in it, once all of the run is
# All that a run writes into its folder, exactly: what only looks like it is the user's.
_OWN = re.compile(
    r"model_(\d{7,}|best|final)\.pth(\.cut([2-9]|[1-9]\d+)?)?|metrics\.json(\.cut)?|config\.yaml|log\.txt"
    rf"|{re.escape(POINTER)}|{re.escape(MANIFEST)}|{re.escape(PICTURE)}|events\.out\.tfevents\.\d+\.\d{{6}}\..+\.\d+"
)


def run_files(folder: Path) -> list[Path]:
    """Return the files in `folder` that a run of ours has written, checkpoints in the order of their numbers.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("model_0000999.pth", "model_2024.pth", "model_final.pth", "model_final.pth.bak"):
    ...         Path(folder, name).touch()
    ...     [path.name for path in run_files(Path(folder))]
    ['model_0000999.pth', 'model_final.pth']
    """
    named = [path for path in folder.glob("*") if _OWN.fullmatch(path.name) and path.is_file()]
    return sorted([*named, *folder.glob("profile/*.pt.trace.json")])


def set_aside_run(folder: Path) -> None:
    """Move the run in `folder` out of the way; killed in between, it is moved on the next time.

    Where an earlier one lies there still, the later one of the two that has a checkpoint stays.
    """
    aside = folder / FOLDER
    if (aside / _WHOLE).exists() and has_checkpoints(folder):
        delete_overwritten(folder)
    attempt = (aside / _WHOLE).exists()
    for path in run_files(folder):
        if attempt:
            files.unlink(path)
        else:
            _move(path, aside / path.relative_to(folder))
    if run_files(aside):
        (aside / _WHOLE).touch()


def bring_back_half_a_run(folder: Path) -> None:
    """Undo what `set_aside_run` had done when a kill came: the run is to go on."""
    aside = folder / FOLDER
    if not (aside / _WHOLE).exists():
        for path in run_files(aside):
            _move(path, folder / path.relative_to(aside))
        _remove_emptied(aside)


def delete_overwritten(folder: Path) -> None:
    """Delete what `set_aside_run` has moved: there is a checkpoint now that takes its place."""
    aside = folder / FOLDER
    if not (aside / _WHOLE).exists():
        return
    try:
        for path in (*run_files(aside), aside / _WHOLE):
            files.unlink(path)
    except OSError as error:
        logger.warning("the overwritten run in %s could not be deleted: %s", aside, error.strerror or error)
    _remove_emptied(aside)


def _move(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    files.replace(path, target)


def _remove_emptied(aside: Path) -> None:
    for emptied in (aside / "profile", aside):
        with contextlib.suppress(OSError):  # not there, or something of the user's is in it
            emptied.rmdir()
