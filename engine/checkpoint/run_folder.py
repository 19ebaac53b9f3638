"""A run's folder as one object: its lock, checkpoints, pointer, manifest, and what a start does to them.

The pointer, `last_checkpoint`, holds the name of the newest checkpoint. The manifest, `checkpoints.json`, lists
the numbered checkpoints that the run has written: the only ones that it may delete.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from warmstart.config import ConfigError, disk, open_regular, read_small_text

from ..records.reports import REPORT, foreign_report_file, report_files
from ..runtime import files
from ..runtime.lock import hold
from ..runtime.owned import own, refuse_foreign_files
from .overwrite import OverwrittenRun
from .reader import iteration_of, load_checkpoint
from .run_files import (
    BEST,
    FINAL,
    FIXED,
    MANIFEST,
    NAMES,
    NUMBERED,
    POINTER,
    SHARDS,
    checkpoint_files,
    checkpoint_name,
    checkpoint_number,
)
from .shard_files import is_foreign, remove_unused

Start = tuple[Path, dict[str, Any]]  # a checkpoint that a run continues from: the file, and its content

logger = logging.getLogger(__name__)

_WORDS = {1: "one checkpoint needs", 2: "two checkpoints need", 3: "three checkpoints need"}


class RunFolder:
    """The folder of a run. All that it knows is on the disk, so there may be several objects for one folder.

    Args:
        path: OUTPUT_DIR; the folder need not exist yet.
        keep: numbered checkpoints that stay, the newest; 0 keeps all.
        subfolders: the names of the folders in it that the run needs, by `run_files.subfolders`.
        milestones: iterations; the newest checkpoint at or before each of them stays, too.

    Attributes:
        overwritten: the run in it that --overwrite replaces.
    """

    def __init__(
        self, path: str | Path, keep: int = 0, subfolders: Iterable[str] = (), milestones: Iterable[int] = ()
    ) -> None:
        self.path = Path(path)
        self.keep = keep
        self.subfolders = list(subfolders)
        self.milestones = list(milestones)
        self.overwritten = OverwrittenRun(self.path)

    # The start of a run, in the order in which its steps come.

    def hold(self) -> AbstractContextManager[None]:
        """Keep every other process from writing to the folder within a block; see `runtime.lock.hold`."""
        return hold(self.path)

    def refuse_used(self) -> None:
        """Raise ConfigError if another run has saved into the folder: two runs are never mixed."""
        if self.has_checkpoints():
            raise ConfigError(
                f"{self.path} holds the checkpoints of an earlier run; give --resume to continue it, "
                "--overwrite to replace it, or another folder with OUTPUT_DIR"
            )

    def refuse_foreign(self) -> None:
        """Raise ConfigError if the run would write over something in the folder that no run has written."""
        # Checkpoints are known by name alone: without --resume or --overwrite they refuse the folder anyway.
        checkpoints = [path.name for path in self.path.glob("model_*.pth") if NUMBERED.fullmatch(path.name)]
        refuse_foreign_files(self.path, (FINAL, BEST, *checkpoints), trusted=True)
        refuse_foreign_files(self.path, FIXED, trusted=self.has_checkpoints())
        self.refuse_foreign_folders()

    def refuse_foreign_folders(self) -> None:
        """Raise ConfigError if a folder in it that the run needs is a link, a file, or holds files of the user."""
        for path in (self.path / name for name in self.subfolders):
            if path.is_symlink():
                problem = "is a symbolic link"
            elif path.exists() and not path.is_dir():
                problem = "is not a folder"
            elif path.name == SHARDS and is_foreign(path):
                problem = "holds no checkpoint of a run, but other files"
            elif path.name == REPORT and not self.has_checkpoints() and (file := foreign_report_file(self.path)):
                problem = f"holds {file.name}, which no run has written"
            else:
                continue
            raise ConfigError(
                f"{path} {problem}, and this run needs a folder of that name; move it away, or name another "
                "folder with OUTPUT_DIR"
            )

    def remove_leftovers(self) -> None:
        """Delete the temporary files of saves that a kill has cut short; nobody may be saving into the folder."""
        for path in self.path.glob(f".*{disk.TEMPORARY}"):
            if disk.is_temporary(path.name):
                disk.unlink(path)

    def require_space(self, number: int, size: int, label: str = "OUTPUT_DIR") -> None:
        """Raise ConfigError if the drive has no space for the files of a last save.

        Args:
            number: of files: each copy needs its own space on a drive without reflinks.
            size: bytes of each.
            label: the name of the key, and where its value comes from.
        """
        free, needed = disk.free_bytes(self.path), number * size
        if free < needed:
            raise ConfigError(
                f"{label}: {_WORDS.get(number, f'{number} checkpoints need')} {needed:,} bytes, but {free:,} are "
                f"free on the drive of {self.path}; make space, or name a folder on another drive"
            )

    def claim(self) -> None:
        """List the names that every run writes as the run's, before the first of them is written.

        Raises:
            OSError: the list cannot be written.
        """
        # In a folder that holds checkpoints reports are known by name alone, as the checkpoints are.
        own(self.path, *FIXED, *(path.relative_to(self.path).as_posix() for path in report_files(self.path)))

    # Checkpoints

    def numbered(self, iteration: int) -> Path:
        """Return the path of the checkpoint after `iteration` updates."""
        return self.path / checkpoint_name(iteration)

    def has_checkpoints(self) -> bool:
        """Return whether a run has saved into the folder; a pointer alone does not count."""
        return bool(checkpoint_files(self.path))

    def candidates(self) -> list[Path]:
        """Return the checkpoints in the folder, in the order in which a resume tries them."""
        found, name = checkpoint_files(self.path), self.pointed_to()
        if name and os.path.isfile(self.path / name):
            return [self.path / name, *(path for path in found if path.name != name)]
        return found  # a save was cut short between the pointer and the file that it names

    def newest_name(self) -> str:
        """Return the name of the checkpoint that a resume would read first; "" if there is none."""
        return next((path.name for path in self.candidates()), "")

    def load_newest(self, trust: bool = False, whole: bool = True) -> Start | None:
        """Read the checkpoint that the pointer names, else the newest that can be read.

        Args:
            trust: whether code in a file may run, as --trust-checkpoint says.
            whole: as `load_checkpoint` takes it.

        Returns:
            Its path and content; None if the folder holds no checkpoint.

        Raises:
            ConfigError: there are checkpoints, but none can be read: a new start would lose the run.
        """
        problems: list[str] = []
        for path in self.candidates():
            try:
                content = load_checkpoint(path, trust, whole)
            except ConfigError as error:
                problems.append(str(error))
                continue
            for problem in problems:
                logger.warning("%s; falling back to %s", problem, path.name)
            return path, content
        if problems:
            raise ConfigError([f"no checkpoint in {self.path} can be read; nothing was started", *problems])
        return None

    def copy(self, source: Path, name: str) -> None:
        """Give a checkpoint another name: a copy, which a user may change without changing the original.

        Raises:
            OSError: the disk is full, or failed; the file that had the name is still there.
        """
        with open_regular(source) as file:
            files.copy(file, self.path / name)

    def set_aside(self, name: str) -> None:
        """Rename a file to the first of NAME.cut, NAME.cut2, NAME.cut3 ... that is free."""
        aside, number = self.path / f"{name}.cut", 1
        while os.path.lexists(aside):
            number += 1
            aside = self.path / f"{name}.cut{number}"
        disk.replace(self.path / name, aside)
        logger.info("set aside: %s", aside)

    def cut(self, iteration: int) -> None:
        """Make `iteration` the newest checkpoint: later ones are set aside."""
        numbered = [path.name for path in checkpoint_files(self.path) if NUMBERED.fullmatch(path.name)]
        later = [name for name in numbered if checkpoint_number(name) >= iteration]
        if not later:
            return
        # The pointer first: after a kill in between, the next resume still takes what this one took, and it
        # continues here as long as a numbered file is later.
        if self.numbered(iteration).exists():
            self.point_to(checkpoint_name(iteration))
        else:
            disk.unlink(self.path / POINTER)
        for name in (FINAL, *later) if (self.path / FINAL).exists() else later:
            self.set_aside(name)

    # The pointer

    def pointed_to(self) -> str:
        """Return the name that the pointer holds, of a file that may be gone; "" without a pointer."""
        try:
            name = read_small_text(self.path / POINTER).strip()
        except (OSError, UnicodeDecodeError):
            return ""
        return name if name == Path(name).name else ""  # never a file elsewhere

    def point_to(self, name: str) -> None:
        """Make a checkpoint the one that the next resume takes."""
        files.write_atomically(self.path / POINTER, lambda file: file.write(name.encode()))

    # The manifest

    def manifest(self) -> list[str]:
        """Return the names of the run's numbered checkpoints that still exist, in the order of their numbers."""
        path = self.path / MANIFEST
        try:
            names = json.loads(read_small_text(path))["checkpoints"]
            ours = {name for name in names if NUMBERED.fullmatch(name) and (self.path / name).is_file()}
        except (FileNotFoundError, IsADirectoryError):  # a folder is reported when the manifest is written
            return []
        except (OSError, ValueError, KeyError, TypeError):
            logger.warning("%s cannot be read: the checkpoints that it listed are kept", path)
            return []
        return sorted(ours, key=checkpoint_number)

    def add_to_manifest(self, name: str) -> None:
        """List a checkpoint before it is written: a file that a kill leaves unlisted would never be deleted.

        Names are relative, so that the folder can be moved or copied.
        """
        names = sorted({*self.manifest(), name}, key=checkpoint_number)
        text = json.dumps({"checkpoints": names}, indent=2) + "\n"
        files.write_atomically(self.path / MANIFEST, lambda file: file.write(text.encode()))

    def prune(self) -> None:
        """Delete all but the newest `keep` of the listed checkpoints, those at milestones, and the pointer's."""
        names = self.manifest() if self.keep else []
        before = [[name for name in names if checkpoint_number(name) < milestone] for milestone in self.milestones]
        stay = {name for each in before for name in each[-1:]}
        for name in names[: -self.keep]:
            if name not in stay and name != self.pointed_to():
                disk.unlink(self.path / name)

    def remove_unused_shards(self, owed: Iterable[Mapping[str, Any]] = ()) -> None:
        """Delete the shards that no checkpoint names any more; see `shard_files.remove_unused`."""
        remove_unused(self.path, owed)

    # After a kill

    def complete(self, path: Path, content: Mapping[str, Any]) -> None:
        """Complete the save of a checkpoint that a kill, or a disk that failed, has cut short.

        A save has one order (see saver.Save): once the numbered file has its name, the checkpoint exists, and its
        other names and the deletion of older files follow from it. If nothing is missing, nothing is written. If
        the pointer names another file, because the user continues from an earlier checkpoint or because the newest
        cannot be read, only a missing number is given.

        Args:
            path: the file that the run continues from; a file in another folder needs nothing.
            content: of the file.

        Raises:
            OSError: the disk is full, or failed.
        """
        if path.parent.resolve() != self.path.resolve():
            return
        numbered = self.numbered(content["iteration"])
        if not numbered.exists():  # the file is there under another name only
            self.add_to_manifest(numbered.name)
            self.copy(path, numbered.name)
        pointed = self.pointed_to()
        if pointed not in (path.name, numbered.name) and os.path.isfile(self.path / pointed):
            return
        if pointed != numbered.name:
            self.point_to(numbered.name)
        for name in content.get(NAMES, []):
            self._complete_name(self.path / name, numbered, content["iteration"])
        self.overwritten.delete()
        self.prune()
        self.remove_unused_shards()

    def _complete_name(self, path: Path, numbered: Path, iteration: int) -> None:
        if path.is_file():
            if disk.is_same(path, numbered):
                return
            if iteration_of(path) > iteration:  # of a later checkpoint that is gone, or not a checkpoint
                self.set_aside(path.name)
        self.copy(numbered, path.name)
        logger.info("completed the save of %s: %s", numbered.name, path.name)


def load_newest(folder: Path, trust: bool = False, whole: bool = True) -> Start | None:
    """Read the newest checkpoint in a folder; see `RunFolder.load_newest`."""
    return RunFolder(folder).load_newest(trust, whole)
