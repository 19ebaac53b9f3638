"""Saves in the background: one thread a checkpoint, one order of writes."""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from warmstart.config import ConfigError

from ..runtime import files
from . import sharded as shards
from .content import content_bytes
from .manifest import MANIFEST, add_to_manifest, prune
from .overwrite import FOLDER as OVERWRITTEN
from .overwrite import delete_overwritten
from .run_folder import NAMES, checkpoint_name, newest_name, point_to, save_checkpoint

logger = logging.getLogger(__name__)

CHECKPOINTS_FREE = 2  # for which there must be space when a run starts: it ends with two, numbered and final


class SaveError(Exception):
    """The last checkpoint of a run could not be written, so that its end is lost."""


class Save(threading.Thread):
    """One checkpoint on its way to the disk, under its number and its other names.

    Each save has one order, so that wherever a kill comes, `--resume` knows what is left to do (completion.py):
    the manifest lists the number; the numbered file is written, synced and verified under a temporary name; the
    pointer moves to the number; the file gets its name, which commits the save. Then its other names follow, what
    an earlier save could not write, and the deletion of what is no longer needed.

    Args:
        folder: where the files go.
        content: of the checkpoint, with its other names; nobody changes it any more.
        owed: contents that an earlier save could not write, by their names.
        keep: numbered checkpoints that stay; 0 is all.
        last: whether no other save follows, so that a failure is an error instead of a line in the log.
        parts: what the content lacks, and has to be on the disk before it.
    """

    def __init__(
        self,
        folder: Path,
        content: dict[str, Any],
        owed: Mapping[str, Any],
        keep: int,
        last: bool,
        parts: shards.Writing | None = None,
    ) -> None:
        self.numbered = checkpoint_name(content["iteration"])
        # No daemon: at its end, however it comes, the process waits for what it has begun to write.
        super().__init__(name=f"saving {self.numbered}", daemon=False)
        self.folder = folder
        self.keep = keep
        self.last = last
        self.parts = parts
        self._content: dict[str, Any] | None = content
        self._names: list[str] = content[NAMES]
        self._owed = dict(owed)
        self._failed: dict[str, OSError] = {}
        self._needed = 0  # bytes of the files that failed
        self._mistake: BaseException | None = None

    def run(self) -> None:
        """Write; failures of the disk are logged, and kept for `finish` like all others."""
        try:
            self._write_all()
        except BaseException as error:
            self._mistake = error
        else:
            if self._failed and not self.last:
                text = f"{self._sentence()}; the run goes on and tries again at its next checkpoint"
                lost = ", ".join(name for name in self._failed if name not in (self.numbered, *self._owed))
                logger.warning("%s", f"{text}, {lost} when it is next asked for" if lost else text)
            if self.numbered not in self._failed:
                logger.info("saved %s", self.folder / self.numbered)

    def finish(self) -> dict[str, Any]:
        """Wait for the end; return the contents that the next save has to write, since this one could not.

        Raises:
            SaveError: there is no next one, and the disk failed.
        """
        self.join()
        if self._mistake is not None:
            raise self._mistake
        if self._failed and self.last:
            make_space = "make space, and " if self._is_full() else ""
            error = next(iter(self._failed.values()))
            raise SaveError(f"{self._sentence()}; {make_space}--resume does the rest again") from error
        return self._owed

    def _write_all(self) -> None:
        content = self._content
        assert content is not None, "a thread runs once"
        replaces = (self.folder / OVERWRITTEN).is_dir()
        try:
            if self.parts is not None:
                content[shards.KEY] = self.parts.finish()
        except OSError as error:  # no rank has kept its parts: nothing of this content can be written later
            self._fail([self.numbered, *self._names], error)
        else:
            self._write_content(content)
        for name in [name for name in self._owed if name not in self._failed]:
            try:
                self._require_space(self._owed[name])
                save_checkpoint(self._owed[name], self.folder / name)
                del self._owed[name]
            except OSError as error:
                self._fail([name], error, self._owed[name])
        self._content = None
        try:
            prune(self.folder, self.keep)
            if self.keep or self._failed or replaces:  # else a numbered file, which stays, names each folder
                shards.remove_unused(self.folder, self.folder / OVERWRITTEN, self._owed.values())
        except OSError as error:
            logger.warning(
                "an old checkpoint in %s could not be deleted: %s", self.folder, error.strerror or error
            )

    def _write_content(self, content: dict[str, Any]) -> None:
        """Write the numbered file and give it its other names; what fails is owed under these."""
        path = self.folder / self.numbered
        try:
            self._require_space(content)
            unlisted = self._list()
            save_checkpoint(content, path, before_commit=lambda: point_to(path))
        except OSError as error:
            self._fail([self.numbered, *self._names], error, content)
            self._owed |= dict.fromkeys(self._names, content)
            return
        if unlisted is not None:  # else what is said of the file is enough
            logger.warning(
                "%s could not be written: %s; %s will not be deleted",
                *(self.folder / MANIFEST, unlisted.strerror or unlisted, self.numbered),
            )
        delete_overwritten(self.folder)
        for name in self._names:
            try:
                files.add_name(path, self.folder / name)
            except OSError as error:
                self._fail([name], error, content)
                self._owed[name] = content

    def _require_space(self, content: Mapping[str, Any]) -> None:
        """Raise OSError where a file has no space; what it replaces takes its own until it is complete."""
        if files.free_bytes(self.folder) < content_bytes(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _fail(self, names: Iterable[str], error: OSError, content: Any = None) -> None:
        # The error's frames would hold the content in memory.
        self._failed |= dict.fromkeys(names, error.with_traceback(None))
        self._needed += content_bytes(content)

    def _list(self) -> OSError | None:
        """List the numbered file as this run's; return what kept us from it, which costs only its deletion."""
        try:
            add_to_manifest(self.folder, self.numbered)
        except OSError as error:
            return error
        return None

    def _is_full(self) -> bool:
        return any(error.errno in (errno.ENOSPC, errno.EDQUOT) for error in self._failed.values())

    def _sentence(self) -> str:
        names = ", ".join(str(self.folder / name) for name in self._failed)
        error = next(iter(self._failed.values()))
        text = f"{names} could not be saved: {error.strerror or error}"
        if self._is_full() and self._needed:
            text += f"; {self._needed:,} bytes are needed, {_free(self.folder)} are free"
        newest = newest_name(self.folder)
        return text + (f"; the newest is {newest}" if newest else "")


def _free(folder: Path) -> str:
    try:
        return f"{files.free_bytes(folder):,}"
    except OSError:
        return "an unknown number"


def finish_saves() -> None:
    """Wait until nothing that this process saves is under way, also where an exception ended a run."""
    for thread in threading.enumerate():
        if isinstance(thread, Save):
            thread.join()


def require_space(folder: Path, needed: int, label: str = "OUTPUT_DIR") -> None:
    """Raise ConfigError where `folder` has no space for `needed` bytes."""
    free = files.free_bytes(folder)
    if free < needed:
        raise ConfigError(
            f"{label}: two checkpoints need {needed:,} bytes, and where {folder} lies {free:,} are free; "
            "make space, or name a folder on another drive"
        )
