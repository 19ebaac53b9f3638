"""The folder of a run: held, checked, made ready and completed."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from warmstart.config import CfgNode, ConfigError, disk, read_small_text
from warmstart.solver import decay_starts

from ..checkpoint.run_files import LAUNCH, subfolders
from ..checkpoint.run_folder import RunFolder, Start
from ..checkpoint.saver import SaveError, finish_saves
from ..distributed.build import build_strategy
from ..distributed.errors import on_main
from ..hooks.checkpointing import checkpoint_bytes, files_of_last_save
from ..loop.trainer import Trainer
from ..records.logging import setup_logging
from ..runtime import files
from ..runtime.owned import own, refuse_foreign_files
from .resolve import iters_per_epoch

logger = logging.getLogger(__name__)


def run_folder(cfg: CfgNode) -> RunFolder:
    """Return OUTPUT_DIR as an object; nothing is written."""
    milestones = decay_starts(cfg, iters_per_epoch(cfg))
    return RunFolder(cfg.OUTPUT_DIR, cfg.SOLVER.CHECKPOINT_KEEP, needed_folders(cfg), milestones)


def needed_folders(cfg: CfgNode) -> list[str]:
    """Return the names of the folders in OUTPUT_DIR that the run needs."""
    reports = bool(cfg.TEST.REPORT and cfg.DATASETS.TEST)
    return subfolders(bool(cfg.PROFILER.ITERS), build_strategy(cfg).is_sharded, reports)


@contextmanager
def hold_folder(cfg: CfgNode) -> Iterator[None]:
    """Keep OUTPUT_DIR for this process while it looks for a start there, trains and saves.

    At the end, also by an exception, it waits for a save that is under way. Of several ranks the main one does so.

    Raises:
        ConfigError: it is not the name of a folder, cannot be written, or another process is writing a run there.
    """
    with ExitStack() as stack:
        on_main(lambda: _hold(cfg, stack))
        yield


def _hold(cfg: CfgNode, stack: ExitStack) -> None:
    folder = Path(cfg.OUTPUT_DIR)
    if not cfg.OUTPUT_DIR:
        raise ConfigError(f"{cfg.label('OUTPUT_DIR')}: is empty; name the folder of the run, such as output/first")
    try:
        cfg.OUTPUT_DIR.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{cfg.label('OUTPUT_DIR')}: {folder} is not valid UTF-8; choose another name") from None
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{cfg.label('OUTPUT_DIR')}: {folder} is a file; name a folder")
    try:
        stack.enter_context(run_folder(cfg).hold())
    except OSError as error:
        raise _cannot_write(cfg, error) from None
    stack.callback(_finish_saves)


def claim_files(cfg: CfgNode, *names: str) -> None:
    """List files in OUTPUT_DIR as this program's, before they are written.

    Raises:
        ConfigError: one is there already and was not written by this program, or the list cannot be written.
    """
    folder = Path(cfg.OUTPUT_DIR)
    refuse_foreign_files(folder, names)
    try:
        own(folder, *names)
    except OSError as error:
        raise _cannot_write(cfg, error) from None


def _finish_saves() -> None:
    """Wait for a save that is under way, also if a signal ends the first wait: the folder is released next."""
    try:
        finish_saves()
    finally:
        finish_saves()


def _cannot_write(cfg: CfgNode, error: OSError) -> ConfigError:
    folder, path = Path(cfg.OUTPUT_DIR), Path(error.filename or "")
    named = path.parent.resolve() == folder.resolve() and not disk.is_temporary(path.name)
    where = folder / path.name if named else folder
    return ConfigError(f"{cfg.label('OUTPUT_DIR')}: cannot write to {where}: {error.strerror}")


def is_restart(folder: Path) -> bool:
    """Return whether a launcher has restarted this run after a failure, and the run has saved into `folder`.

    Checkpoints of another run do not count: this one may have failed because it was refused the folder.
    """
    with suppress(OSError):
        is_own = read_small_text(folder / LAUNCH) == _launch() and RunFolder(folder).has_checkpoints()
        return is_own and int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    return False


def _launch() -> str:
    """Return what all processes of one launcher have in common, also after a restart."""
    return f"process {os.getppid()} on {socket.gethostname()}"


def complete_run(cfg: CfgNode, start: Start) -> None:
    """Complete the last save of a run of which nothing is left to train.

    Raises:
        SaveError: the disk is full, or failed.
    """
    folder = run_folder(cfg)
    try:
        folder.remove_leftovers()
        folder.overwritten.bring_back()
        folder.complete(*start)
    except OSError as error:
        raise SaveError(f"the last save in {folder.path} could not be completed: {error.strerror}") from error


def prepare_folder(
    cfg: CfgNode, start: Start | None = None, *, overwrite: bool = False, trainer: Trainer | None = None
) -> None:
    """Make OUTPUT_DIR ready for a run: no checkpoint in it is later than the start, config.yaml is written.

    Args:
        cfg: the resolved config.
        start: the checkpoint that the run continues from, whose save is completed if it is of this folder; later
            checkpoints are renamed, ending in `.cut`. None is a start at iteration 0.
        overwrite: whether an earlier run is replaced, once this one has saved its first checkpoint; only files
            that a run of ours writes, by name.
        trainer: whose checkpoints must have space, before anything is changed.

    Raises:
        ConfigError: the folder cannot be written, or holds files of the user that a run would overwrite; or the
            drive is full.
    """
    folder = run_folder(cfg)
    try:
        finish_saves()  # of an earlier run in this process
        folder.refuse_foreign()
        folder.remove_leftovers()
        folder.remove_unused_shards()
        if trainer is not None:
            folder.require_space(files_of_last_save(trainer), checkpoint_bytes(trainer), cfg.label("OUTPUT_DIR"))
        folder.path.mkdir(parents=True, exist_ok=True)
        if overwrite:
            folder.overwritten.set_aside()
        else:
            folder.overwritten.bring_back()
        if start is not None:
            folder.complete(*start)
        folder.cut(0 if start is None else start[1]["iteration"])
        folder.claim()
        files.write_atomically(folder.path / "config.yaml", lambda file: file.write(cfg.dump().encode()))
        if int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")):
            files.write_atomically(folder.path / LAUNCH, lambda file: file.write(_launch().encode()))
        setup_logging(folder.path)
    except OSError as error:
        raise _cannot_write(cfg, error) from None
    if folder.overwritten.files():
        text = "the run that is overwritten stays in %s until this one has saved a checkpoint"
        logger.info(text, folder.overwritten.path)
