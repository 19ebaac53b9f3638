"""Saves in the background: one thread a checkpoint, one at a time, one order of writes."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from warmstart.config import disk

from ..distributed import comm
from ..runtime import files
from . import sharded as shards
from .content import content_bytes, require_plain, snapshot
from .copies import Copies
from .run_files import MANIFEST, NAMES, require_names
from .run_folder import RunFolder

logger = logging.getLogger(__name__)


class SaveError(Exception):
    """The last checkpoint of a run could not be written, so that its end is lost."""


def save_checkpoint(
    content: Mapping[str, Any],
    path: Path,
    before_commit: Callable[[], object] | None = None,
    written: Callable[[Path], object] | None = None,
) -> None:
    """Write `content` so that a kill at any instant leaves the old file or the new one, never a part.

    Args:
        content: tensors and plain values.
        path: the file.
        before_commit: called when the new file is verified, right before it is renamed.
        written: called with its temporary name when all is written, before it is synced and verified.

    Raises:
        TypeError: something in it is neither tensor nor plain value; the message names the key path.
        OSError: the disk is full, or failed, or what it gives back is not what was written.
    """
    require_plain(content)
    files.write_atomically(path, lambda file: torch.save(dict(content), file), True, before_commit, written)


class Saver:
    """Saves the checkpoints of a run in the background, one at a time; on several ranks each of them has one.

    Args:
        folder: the run's.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._save: Save | None = None
        self._shards: shards.ShardWriter | None = None
        self._owed: dict[str, Any] = {}  # contents that could not be written, by their names
        self._copied: dict[str, Any] = {}  # the last content

    def save(
        self,
        content: Mapping[str, Any],
        names: list[str],
        last: bool = False,
        sharded: shards.ShardWriter | None = None,
    ) -> None:
        """Copy a content and begin to write it; `finish` must have been called since the last save.

        Args:
            content: tensors and plain values; changes after the call are not saved.
            names: of the checkpoint besides its number.
            last: whether no other save follows, so that a failure is an error instead of a warning.
            sharded: writes the tensors that the content lacks. All other arguments are the main rank's.

        Raises:
            ValueError: a name cannot be the name of a checkpoint.
        """
        self._shards = sharded
        if not comm.is_main():
            return
        require_names(names)
        is_owed = any(owed is self._copied for owed in self._owed.values())
        self._copied = snapshot({**content, NAMES: names}, {} if is_owed else self._copied)
        owed = {name: older for name, older in self._owed.items() if name not in names}
        self._save = Save(self._folder, self._copied, owed, last, sharded)
        self._save.start()

    def finish(self) -> None:
        """Wait for the save that is under way; what it could not write is written with the next one.

        Raises:
            SaveError: it was the last one, and the disk failed.
        """
        sharded, self._shards = self._shards, None
        if sharded is not None and not comm.is_main():
            with contextlib.suppress(OSError):  # the main rank reports it
                sharded.wait()
        save, self._save = self._save, None
        if save is not None:
            self._owed = {}
            self._owed = save.finish()

    def close(self) -> None:
        """Wait for the save that is under way, and release the memory of contents."""
        self.finish()
        self._owed, self._copied = {}, {}


class Save(threading.Thread):
    """One checkpoint on its way to the disk, under its number and its other names.

    Each save has one order, so that wherever a kill comes, `--resume` knows what is left to do
    (`RunFolder.complete`): the manifest lists the number; the numbered file is written, synced and verified under
    a temporary name; the pointer moves to the number; the file is renamed to its number, which commits the save.
    Then its copies get its other names, contents that an earlier save could not write are written, and files that
    are no longer needed are deleted.

    Args:
        folder: where the files go.
        content: of the checkpoint, with its other names; nobody changes it any more.
        owed: contents that an earlier save could not write, by their names.
        last: whether no other save follows, so that a failure is an error instead of a warning.
        sharded: writes the tensors that the content lacks; they must be on the disk before it.
    """

    def __init__(
        self,
        folder: RunFolder,
        content: dict[str, Any],
        owed: Mapping[str, Any],
        last: bool,
        sharded: shards.ShardWriter | None = None,
    ) -> None:
        self.numbered = folder.numbered(content["iteration"])
        # Not a daemon: however the process ends, it waits for what it has begun to write.
        super().__init__(name=f"saving {self.numbered.name}", daemon=False)
        self.folder = folder
        self.last = last
        self.sharded = sharded
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
                text = f"{self._sentence()}; training continues and the next checkpoint tries again"
                lost = ", ".join(name for name in self._failed if name not in (self.numbered.name, *self._owed))
                logger.warning("%s", f"{text}, {lost} when it is next asked for" if lost else text)
            if self.numbered.name not in self._failed:
                logger.info("saved %s", self.numbered)

    def finish(self) -> dict[str, Any]:
        """Wait for the end; return the contents that this save could not write and the next one has to.

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
        replaces = self.folder.overwritten.path.is_dir()
        try:
            if self.sharded is not None:
                content[shards.KEY] = self.sharded.finish()
        except OSError as error:  # no rank has kept its shards: nothing of this content can be written later
            self._fail([self.numbered.name, *self._names], error)
        else:
            self._write_numbered(content)
        for name in [name for name in self._owed if name not in self._failed]:
            try:
                self._require_space(self._owed[name])
                save_checkpoint(self._owed[name], self.folder.path / name)
                del self._owed[name]
            except OSError as error:
                self._fail([name], error, self._owed[name])
        self._content = None
        try:
            self.folder.prune()
            # Else each folder of shards has a numbered file, which stays.
            if self.folder.keep or self._failed or replaces:
                self.folder.remove_unused_shards(self._owed.values())
        except OSError as error:
            logger.warning(
                "an old checkpoint in %s could not be deleted: %s", self.folder.path, error.strerror or error
            )

    def _write_numbered(self, content: dict[str, Any]) -> None:
        """Write the numbered file and copy it to its other names; what fails is owed under these."""
        copies = Copies(self.folder.path, self._names)
        point_to_it = partial(self.folder.point_to, self.numbered.name)
        try:
            self._require_space(content)
            unlisted = self._list()
            save_checkpoint(content, self.numbered, point_to_it, copies.begin)
        except BaseException as error:
            copies.cancel(error)
            if not isinstance(error, OSError):
                raise
            self._fail([self.numbered.name, *self._names], error, content)
            self._needed += len(self._names) * content_bytes(content)  # of the copies
            self._owed |= dict.fromkeys(self._names, content)
            return
        if unlisted is not None:  # else the one line about the file is enough
            logger.warning(
                "%s could not be written: %s; %s will not be deleted",
                *(self.folder.path / MANIFEST, unlisted.strerror or unlisted, self.numbered.name),
            )
        try:
            self.folder.overwritten.delete()
        finally:  # else the copies would wait for ever
            failures = copies.finish()
        for name, failure in failures.items():
            self._fail([name], failure, content)
            self._owed[name] = content

    def _require_space(self, content: Mapping[str, Any]) -> None:
        """Raise OSError if a file has no space; the file that it replaces takes its own until it is complete."""
        if disk.free_bytes(self.folder.path) < content_bytes(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _fail(self, names: Iterable[str], error: OSError, content: Any = None) -> None:
        # The error's frames would hold the content in memory.
        self._failed |= dict.fromkeys(names, error.with_traceback(None))
        self._needed += content_bytes(content)

    def _list(self) -> OSError | None:
        """List the numbered file as this run's; return the error if that fails, which costs only its deletion."""
        try:
            self.folder.add_to_manifest(self.numbered.name)
        except OSError as error:
            return error
        return None

    def _is_full(self) -> bool:
        return any(error.errno in (errno.ENOSPC, errno.EDQUOT) for error in self._failed.values())

    def _sentence(self) -> str:
        names = ", ".join(str(self.folder.path / name) for name in self._failed)
        error = next(iter(self._failed.values()))
        text = f"{names} could not be saved: {error.strerror or error}"
        if self._is_full() and self._needed:
            text += f"; {self._needed:,} bytes are needed, {_free(self.folder.path)} are free"
        newest = self.folder.newest_name()
        return text + (f"; the newest is {newest}" if newest else "")


def _free(folder: Path) -> str:
    try:
        return f"{disk.free_bytes(folder):,}"
    except OSError:
        return "an unknown number"


def finish_saves() -> None:
    """Wait until this process has no save under way, also one of a run that an exception has ended."""
    for thread in threading.enumerate():
        if isinstance(thread, Save):
            thread.join()
