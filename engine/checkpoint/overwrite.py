"""The run that --overwrite replaces: kept in the folder until the new run has saved, then deleted file by file."""

from __future__ import annotations

import contextlib
import logging
from os.path import lexists
from pathlib import Path

from warmstart.config import ConfigError, disk, no_follow

from ..records.reports import REPORT
from ..runtime.owned import disown, own, owned
from .run_files import OVERWRITTEN, PROFILE, checkpoint_files, run_files

logger = logging.getLogger(__name__)

_COMPLETE = ".whole"  # a file in it, once all files of the run are there


class OverwrittenRun:
    """The subfolder `overwritten` of a run's folder.

    Args:
        folder: the run's.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / OVERWRITTEN
        self._folder = folder

    def files(self) -> list[Path]:
        """Return the files that `set_aside` has moved, and that were neither moved back nor deleted."""
        return run_files(self.path) if self._is_ours() else []

    def set_aside(self) -> None:
        """Move the run out of its folder; after a kill in between, the next call moves the rest.

        If an earlier run is there already, the later one of the two that has a checkpoint stays.

        Raises:
            ConfigError: files of the user, or a link, have the names.
            OSError: a file cannot be moved.
        """
        inner = (self.path, self.path / PROFILE)
        is_folder = all(path.is_dir() and not path.is_symlink() for path in inner if lexists(path))
        if not is_folder or (self._all_files() and not self._is_ours()):
            raise ConfigError(
                f"--overwrite would move the earlier run into {self.path}, which was not made by a run; move it "
                "away, or name another folder with OUTPUT_DIR"
            )
        if self._is_complete() and checkpoint_files(self._folder):
            self.delete()
        is_failed_attempt = self._is_complete()  # the run in the folder died before its first checkpoint
        moved = run_files(self._folder)
        if moved and not is_failed_attempt:
            own(self._folder, OVERWRITTEN)
        for path in moved:
            if is_failed_attempt:
                disk.unlink(path)
            else:
                _move(path, self.path / path.relative_to(self._folder))
        if run_files(self.path):
            open(self.path / _COMPLETE, "ab", opener=no_follow).close()

    def bring_back(self) -> None:
        """Undo a `set_aside` that a kill has cut short: the run in the folder continues."""
        if self._is_ours() and not self._is_complete():
            for path in run_files(self.path):
                _move(path, self._folder / path.relative_to(self.path))
            self._remove_empty_folders()

    def delete(self) -> None:
        """Delete the run that `set_aside` has moved, once a checkpoint replaces it; a failure is one warning."""
        if not self._is_ours() or not self._is_complete():
            return
        try:
            for path in self._all_files():
                disk.unlink(path)
            self._remove_empty_folders()
        except OSError as error:
            logger.warning(
                "the overwritten run in %s could not be deleted: %s", self.path, error.strerror or error
            )

    def _is_ours(self) -> bool:
        """Return whether `set_aside` has made the subfolder, or found it without a file of a run's name."""
        return self.path.is_dir() and not self.path.is_symlink() and OVERWRITTEN in owned(self._folder)

    def _is_complete(self) -> bool:
        return (self.path / _COMPLETE).exists()

    def _all_files(self) -> list[Path]:
        return [*run_files(self.path), *([self.path / _COMPLETE] if self._is_complete() else [])]

    def _remove_empty_folders(self) -> None:
        reports = sorted(self.path.glob(f"{REPORT}/**/"), reverse=True)  # those within others first
        for folder in (self.path / PROFILE, *reports, self.path):
            with contextlib.suppress(OSError):  # not there, or it holds files of the user
                folder.rmdir()
        disown(self._folder, OVERWRITTEN)


def _move(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    disk.replace(path, target)
