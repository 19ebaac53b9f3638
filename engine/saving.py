"""Saving while training goes on: the step waits for a copy, a thread writes it."""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from warmstart.config import ConfigError

from . import files
from .checkpoint import FINAL, checkpoint_name, content_bytes, point_to, pointed_to, save_checkpoint, snapshot
from .manifest import add_to_manifest, prune
from .overwrite import delete_overwritten
from .trainer import HookBase, Trainer, every

logger = logging.getLogger(__name__)

CHECKPOINTS_FREE = 2  # for which there must be space when a run starts: it ends with two, numbered and final


class SaveError(Exception):
    """The last checkpoint of a run could not be written, so that its end is lost."""


class CheckpointHook(HookBase):
    """Saves every `period` updates, when the run ends, and when a signal or another hook asks for it.

    The step waits only until the state of this instant is copied, and the save before is through; then a thread
    writes. The run's last save is waited for. One that fails is logged in one line and the run goes on, with the
    older files as they were; if it is the last one, the run ends with an error.

    Args:
        period: in updates; 0 is only when the run ends.
        folder: where the files go.
        constants: what each checkpoint holds besides the trainer's state (config, versions).
        keep: numbered checkpoints that stay, the newest; 0 is all. Only what this run's manifest lists is deleted.
    """

    runs_last = True

    def __init__(self, period: int, folder: str | Path, constants: Mapping[str, Any], keep: int = 0) -> None:
        self.period = period
        self.folder = Path(folder)
        self.constants = dict(constants)
        self.keep = keep
        self._save: Save | None = None
        self._copied: dict[str, Any] = {}

    def before_train(self, trainer: Trainer) -> None:
        """Look whether what the run saves at the least has space.

        Raises:
            ConfigError: it has not.
        """
        require_space(self.folder, CHECKPOINTS_FREE * checkpoint_bytes(trainer))

    def after_step(self, trainer: Trainer) -> None:
        """Save the state of this instant under its number and, the same, under each name in `trainer.save_as`.

        Raises:
            NonFiniteLossError: the weights are no longer finite; nothing is saved.
            SaveError: this is the run's last save, and it failed.
        """
        last = trainer.is_last_step or bool(trainer.interrupted)
        if not (last or trainer.save_as or every(self.period, trainer.iteration)):
            return
        with trainer.paused():
            owed = self._finish()
            content = snapshot(trainer.state_dict() | self.constants, spare={} if owed else self._copied)
            self._copied = content
            final = [FINAL] if trainer.iteration >= trainer.max_iter and not trainer.pending else []
            numbered = checkpoint_name(trainer.iteration)
            others = sorted(trainer.save_as)
            # After the last save nobody makes up for what a kill leaves out: the pointer moves last.
            names = [*final, *others, numbered] if last else [numbered, *others]
            trainer.save_as.clear()
            contents = {name: owed[name] for name in owed if name not in names} | dict.fromkeys(names, content)
            self._save = Save(self.folder, contents, numbered, self.keep, last)
            self._save.start()
            if last:
                self._finish()

    def after_train(self, trainer: Trainer) -> None:
        """Wait for a save that is under way."""
        self._finish()
        self._copied = {}

    def _finish(self) -> dict[str, Any]:
        """Wait for the save that is under way; return what it could not write and the next one has to."""
        if self._save is None:
            return {}
        save, self._save = self._save, None
        return save.finish()


class Save(threading.Thread):
    """One checkpoint, and its copies under other names, on their way to the disk.

    The pointer moves as soon as the numbered file is there, read back and found whole. model_final.pth is written
    before: the pointer never says that a run is complete whose result is missing. Other names come after, since
    the next run makes them again from the numbered file; in the last save, which may have no next run, before.

    Args:
        folder: where the files go.
        contents: by the names of the files, in the order in which they are written; nobody changes them any more.
        numbered: that of them which the pointer will name.
        keep: numbered checkpoints that stay; 0 is all.
        last: whether no other save follows, so that a failure is an error instead of a line in the log.
    """

    def __init__(self, folder: Path, contents: Mapping[str, Any], numbered: str, keep: int, last: bool) -> None:
        # No daemon: at its end, however it comes, the process waits for what it has begun to write.
        super().__init__(name=f"saving {numbered}", daemon=False)
        self.folder = folder
        self.contents = dict(contents)
        self.numbered = numbered
        self.keep = keep
        self.last = last
        self._error: BaseException | None = None

    def run(self) -> None:
        """Write; failures of the disk are logged, and kept for `finish` like all others."""
        try:
            self._write()
        except OSError as error:
            self._error = error
            if not self.last:
                logger.warning("%s; the run goes on and tries again at its next checkpoint", self._sentence(error))
        except BaseException as error:
            self._error = error
        else:
            logger.info("saved %s", self.folder / self.numbered)

    def finish(self) -> dict[str, Any]:
        """Wait for the end; return the copies that the next save has to write, since this one could not.

        Raises:
            SaveError: there is no next one, and the disk failed.
        """
        self.join()
        error, self._error = self._error, None
        if isinstance(error, OSError) and self.last:
            raise SaveError(f"{self._sentence(error)}; make space, and --resume does the rest again") from error
        if error is not None and not isinstance(error, OSError):
            raise error
        return {name: content for name, content in self.contents.items() if name != self.numbered}

    def _write(self) -> None:
        # What is replaced still takes its space until the new file is whole.
        if files.free_bytes(self.folder) < self._needed():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        add_to_manifest(self.folder, self.numbered)
        for name in list(self.contents):
            save_checkpoint(self.contents[name], self.folder / name)
            if name == self.numbered:
                point_to(self.folder / name)
                delete_overwritten(self.folder)
            del self.contents[name]
        try:
            prune(self.folder, self.keep)
        except OSError as error:
            logger.warning(
                "an old checkpoint in %s could not be deleted: %s", self.folder, error.strerror or error
            )

    def _needed(self) -> int:
        return sum(map(content_bytes, self.contents.values()))

    def _sentence(self, error: OSError) -> str:
        try:
            free = f"{files.free_bytes(self.folder):,}"
        except OSError:
            free = "an unknown number"
        newest = pointed_to(self.folder)
        return (
            f"{self.folder / next(iter(self.contents))} could not be saved: {error.strerror or error}; "
            f"{self._needed():,} bytes are needed, {free} are free"
            + (f"; the newest is {newest}" if newest else "")
        )


def finish_saves() -> None:
    """Wait until nothing that this process saves is under way, also where an exception ended a run."""
    for thread in threading.enumerate():
        if isinstance(thread, Save):
            thread.join()


def checkpoint_bytes(trainer: Trainer) -> int:
    """Return about how large a trainer's checkpoints get, before it has done an update."""
    weights = content_bytes(trainer.model.state_dict())
    moments = content_bytes(trainer.optimizer.state_dict()["state"])
    if not moments:  # they come with the first update: two, as Adam's, or one
        trained = [p for group in trainer.optimizer.param_groups for p in group["params"] if p.requires_grad]
        moments = content_bytes(trained) * (2 if "betas" in trainer.optimizer.defaults else 1)
    return weights * (1 if trainer.ema is None else 2) + moments


def require_space(folder: Path, needed: int, label: str = "OUTPUT_DIR") -> None:
    """Raise ConfigError where `folder` has no space for `needed` bytes."""
    free = files.free_bytes(folder)
    if free < needed:
        raise ConfigError(
            f"{label}: two checkpoints need {needed:,} bytes, and where {folder} lies {free:,} are free; "
            "make space, or name a folder on another drive"
        )
