"""Saving while training goes on: the step waits for a copy, a thread writes it."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.distributed import ProcessGroup

from warmstart.config import ConfigError

from . import comm, files, shards
from .checkpoint import (
    FINAL,
    POINTER,
    checkpoint_name,
    content_bytes,
    point_to,
    pointed_to,
    require_plain,
    save_checkpoint,
    snapshot,
)
from .device import versions
from .fsdp import is_cut_model
from .hook_base import HookBase, every, next_multiple
from .manifest import MANIFEST, add_to_manifest, prune
from .overwrite import FOLDER as OVERWRITTEN
from .overwrite import delete_overwritten
from .trainer import Trainer

logger = logging.getLogger(__name__)

CHECKPOINTS_FREE = 2  # for which there must be space when a run starts: it ends with two, numbered and final


class SaveError(Exception):
    """The last checkpoint of a run could not be written, so that its end is lost."""


class CheckpointHook(HookBase):
    """Saves every `period` updates, when the run ends, and when a signal or another hook asks for it.

    The step waits only until the state of this instant is copied, and the save before is through; then a thread
    writes. The run's last save is waited for. One that fails is logged in one line and the run goes on, with the
    older files as they were; if it is the last one, the run ends with an error. Only the main rank writes.

    Args:
        period: in updates; 0 is only when the run ends.
        folder: where the files go.
        constants: what each checkpoint holds besides the trainer's state; the config, and the versions that wrote
            it, are put in where they are missing.
        keep: numbered checkpoints that stay, the newest; 0 is all. Only what this run's manifest lists is deleted.
        timeout: seconds that a rank waits for the parts of another one; more than the disk takes for them.
    """

    runs_last = True  # what a hook behind it counts in this iteration would be missing in the checkpoint

    def __init__(
        self,
        period: int,
        folder: str | Path,
        constants: Mapping[str, Any] | None = None,
        keep: int = 0,
        timeout: float = 1800,
    ) -> None:
        self.period = period
        self.folder = Path(folder)
        self.constants = {"config": {}} | dict(constants or {})
        self.keep = keep
        self.timeout = timeout
        self._group: ProcessGroup | None = None  # a run's own: a later run in this process has other groups
        self._save: Save | None = None
        self._parts: shards.Writing | None = None
        self._copied: dict[str, Any] = {}

    def before_train(self, trainer: Trainer) -> None:
        """Look whether what the run saves at the least has space, and whether it can be saved.

        Raises:
            ConfigError: there is no space.
            TypeError: a state holds more than tensors and plain values; the message names the key path.
        """
        if is_cut_model(trainer.model):  # now: at the first save the launcher, with whom ranks meet, may be gone
            self._group = shards.new_group(self.timeout)
        if not comm.is_main():
            return
        require_space(self.folder, CHECKPOINTS_FREE * checkpoint_bytes(trainer))
        self.constants.setdefault("versions", versions(trainer.device))
        hooks = {}
        for hook in trainer.hooks:
            with contextlib.suppress(Exception):  # a state may come with the first step: its save tells
                hooks[hook.name] = hook.state_dict()
        states = {
            "model": trainer.model.state_dict(),
            "optimizer": trainer.optimizer.state_dict(),
            "scheduler": trainer.scheduler.state_dict(),
            "hooks": hooks,
        }
        require_plain(shards.split(states | self.constants).content)

    def next_due(self, iteration: int) -> float:
        """Return the next multiple of the period."""
        return next_multiple(self.period, iteration)

    def after_step(self, trainer: Trainer) -> None:
        """Save the state of this instant under its number and, the same, under each name in `trainer.save_as`.

        Raises:
            NonFiniteLossError: the weights are no longer finite; nothing is saved.
            SaveError: this is the run's last save, and it failed.
        """
        last = trainer.is_last_step or bool(trainer.interrupted)
        if not (last or every(self.period, trainer.iteration) or trainer.is_wanted(trainer.save_as)):
            return
        with trainer.paused():
            owed = self._finish()
            is_owed = any(content is self._copied for content in owed.values())
            # On all ranks: each gives its random numbers and, where the model is cut, its parts.
            state, tensors = shards.split(trainer.state_dict())
            if tensors:
                self._parts = shards.Writing(tensors, self.folder, trainer.iteration, self._group)
            if not comm.is_main():
                trainer.save_as.clear()
                if last:
                    self._finish()
                return
            content = snapshot(state | self.constants, spare={} if is_owed else self._copied)
            self._copied = content
            final = [FINAL] if trainer.is_last_step and not trainer.pending else []
            numbered = checkpoint_name(trainer.iteration)
            names = [numbered, *final, *sorted(trainer.save_as)]
            trainer.save_as.clear()
            older = {name: owed[name] for name in owed if name not in names}
            contents = dict.fromkeys(names, content) | older
            self._save = Save(self.folder, contents, numbered, self.keep, last, self._parts)
            self._save.start()
            if last:
                self._finish()

    def after_train(self, trainer: Trainer) -> None:
        """Wait for a save that is under way."""
        self._finish()
        self._copied = {}

    def _finish(self) -> dict[str, Any]:
        """Wait for the save that is under way; return what it could not write and the next one has to."""
        parts, self._parts = self._parts, None
        if parts is not None and not comm.is_main():
            with contextlib.suppress(OSError):  # the main rank says so
                parts.wait()
        if self._save is None:
            return {}
        save, self._save = self._save, None
        return save.finish()


class Save(threading.Thread):
    """One checkpoint, and its copies under other names, on their way to the disk.

    Each file fails by itself. The pointer moves once all files before it are there, read back and found whole. In
    most saves that is the numbered file: other names come after, since the next save, or the next run from the
    numbered file, makes up for them. In the last one it is all files: then nobody does, and the pointer says that
    the run is complete.

    Args:
        folder: where the files go.
        contents: by the names of the files, in the order in which they are written; nobody changes them any more.
        numbered: that of them which the pointer will name.
        keep: numbered checkpoints that stay; 0 is all.
        last: whether no other save follows, so that a failure is an error instead of a line in the log.
        parts: what the numbered content lacks, and has to be there before it.
    """

    def __init__(
        self,
        folder: Path,
        contents: Mapping[str, Any],
        numbered: str,
        keep: int,
        last: bool,
        parts: shards.Writing | None = None,
    ) -> None:
        # No daemon: at its end, however it comes, the process waits for what it has begun to write.
        super().__init__(name=f"saving {numbered}", daemon=False)
        self.folder = folder
        self.contents = dict(contents)
        self.numbered = numbered
        self.keep = keep
        self.last = last
        self.parts = parts
        self._failed: dict[str, OSError] = {}
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
                lost = ", ".join(name for name in self._failed if name not in (self.numbered, *self.contents))
                logger.warning("%s", f"{text}, {lost} when it is next asked for" if lost else text)
            if self.numbered not in self._failed:
                logger.info("saved %s", self.folder / self.numbered)

    def finish(self) -> dict[str, Any]:
        """Wait for the end; return the copies that the next save has to write, since this one could not.

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
        return {name: content for name, content in self.contents.items() if name != self.numbered}

    def _write_all(self) -> None:
        self._complete()
        aside = self.folder / OVERWRITTEN
        replaces = aside.is_dir()
        others = [name for name in self.contents if name != self.numbered]
        pair = [self.numbered, POINTER]
        for name in [*others, *pair] if self.last else [*pair, *others]:
            # Where a signal had put off the work after this update, the pointer names the number already.
            if name in self._failed or (self._failed and name == self.numbered == pointed_to(self.folder)):
                continue
            try:
                if name != POINTER:
                    self._write(name)
                elif not self._failed:
                    point_to(self.folder / self.numbered)
                    delete_overwritten(self.folder)
            except OSError as error:
                self._failed[name] = error.with_traceback(None)  # its frames would hold the content in memory
        try:
            prune(self.folder, self.keep)
            if self.keep or self._failed or replaces:  # else a numbered file, which stays, names each folder
                shards.remove_unused(self.folder, aside, self.contents.values())
        except OSError as error:
            logger.warning(
                "an old checkpoint in %s could not be deleted: %s", self.folder, error.strerror or error
            )

    def _complete(self) -> None:
        """Wait for the parts, and let the content name them; where they are not there, none of it is written.

        Nor can it be later: no rank has kept its parts.
        """
        if self.parts is None:
            return
        content = self.contents[self.numbered]
        try:
            content[shards.KEY] = self.parts.finish()
        except OSError as error:
            for name in [name for name in self.contents if self.contents[name] is content]:
                self._failed[name] = error.with_traceback(None)
                del self.contents[name]

    def _write(self, name: str) -> None:
        # What is replaced still takes its space until the new file is whole.
        if files.free_bytes(self.folder) < content_bytes(self.contents[name]):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        unlisted = self._list() if name == self.numbered else None
        save_checkpoint(self.contents[name], self.folder / name)
        del self.contents[name]
        if unlisted is not None:  # else what is said of the file is enough
            logger.warning(
                "%s could not be written: %s; %s will not be deleted",
                *(self.folder / MANIFEST, unlisted.strerror or unlisted, name),
            )

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
        needed = sum(content_bytes(self.contents.get(name)) for name in self._failed)
        if self._is_full() and needed:
            text += f"; {needed:,} bytes are needed, {_free(self.folder)} are free"
        newest = pointed_to(self.folder)
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
