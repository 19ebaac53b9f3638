"""The folder of a run: held, checked, made ready and completed."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from warmstart.config import CfgNode, ConfigError, read_small_text

from ..checkpoint import sharded as shards
from ..checkpoint.completion import complete_save
from ..checkpoint.overwrite import FOLDER as OVERWRITTEN
from ..checkpoint.overwrite import bring_back_half_a_run, overwritten_files, set_aside_run
from ..checkpoint.run_files import LAUNCH, claim, refuse_foreign, subfolders
from ..checkpoint.run_folder import has_checkpoints, remove_leftovers, set_aside_after
from ..checkpoint.saver import CHECKPOINTS_FREE, SaveError, finish_saves, require_space
from ..distributed.build import build_strategy
from ..distributed.errors import on_main
from ..hooks.checkpointing import checkpoint_bytes
from ..loop.trainer import Trainer
from ..records.logging import setup_logging
from ..runtime import files
from ..runtime.lock import hold
from ..runtime.owned import own, refuse_foreign_files
from .resume import Start

logger = logging.getLogger(__name__)


@contextmanager
def hold_folder(cfg: CfgNode) -> Iterator[None]:
    """Keep OUTPUT_DIR for this process while it looks for a start there, trains and saves.

    At the end, also by an exception, it waits for a save that is under way. Of several ranks the main one does so.

    Raises:
        ConfigError: it is no folder's name, cannot be written, or another process is writing a run there.
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
        stack.enter_context(hold(folder))
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
    """Wait for a save that is under way, also where a signal ends the waiting: the folder is given back next."""
    try:
        finish_saves()
    finally:
        finish_saves()


def _cannot_write(cfg: CfgNode, error: OSError) -> ConfigError:
    folder, path = Path(cfg.OUTPUT_DIR), Path(error.filename or "")
    named = path.parent.resolve() == folder.resolve() and not files.is_temporary(path.name)
    where = folder / path.name if named else folder
    return ConfigError(f"{cfg.label('OUTPUT_DIR')}: cannot write to {where}: {error.strerror}")


def is_restart(folder: Path) -> bool:
    """Return whether a launcher has started this run anew after a failure, and it has saved before into `folder`.

    What another run has saved there does not count: this one may have failed since it was refused the folder.
    """
    with suppress(OSError):
        is_own = read_small_text(folder / LAUNCH) == _launch()
        return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0 and is_own and has_checkpoints(folder)
    return False


def _launch() -> str:
    """Return what the processes that a launcher starts have in common, also after a restart."""
    return f"process {os.getppid()} on {socket.gethostname()}"


def complete_run(cfg: CfgNode, start: Start) -> None:
    """Complete the last save of a run of which nothing is left to train.

    Raises:
        SaveError: the disk is full, or failed.
    """
    folder = Path(cfg.OUTPUT_DIR)
    try:
        remove_leftovers(folder)
        bring_back_half_a_run(folder)
        complete_save(folder, *start, cfg.SOLVER.CHECKPOINT_KEEP)
    except OSError as error:
        raise SaveError(f"the last save in {folder} could not be completed: {error.strerror}") from error


def prepare_folder(
    cfg: CfgNode,
    overwrite: bool = False,
    iteration: int = 0,
    trainer: Trainer | None = None,
    start: Start | None = None,
) -> None:
    """Make OUTPUT_DIR ready for a run: config.yaml and log.txt begun, nothing later than its start in it.

    Args:
        cfg: the resolved config.
        overwrite: whether an earlier run goes, when this one has saved its first checkpoint; only files that a
            run of ours writes, by name.
        iteration: where the run starts; checkpoints of later iterations are renamed, ending in `.cut`.
        trainer: whose checkpoints must have space, before anything is touched.
        start: the checkpoint that the run continues from, whose save is completed where it is of this folder.

    Raises:
        ConfigError: the folder cannot be written, or holds files of the user's that a run would overwrite; or the
            drive is full.
    """
    folder = Path(cfg.OUTPUT_DIR)
    try:
        finish_saves()  # of an earlier run in this process
        refuse_foreign(folder, subfolders(bool(cfg.PROFILER.ITERS), build_strategy(cfg).is_sharded))
        remove_leftovers(folder)
        shards.remove_unused(folder, folder / OVERWRITTEN)
        if trainer is not None:
            require_space(folder, CHECKPOINTS_FREE * checkpoint_bytes(trainer), cfg.label("OUTPUT_DIR"))
        folder.mkdir(parents=True, exist_ok=True)
        if overwrite:
            set_aside_run(folder)
        else:
            bring_back_half_a_run(folder)
        if start is not None:
            complete_save(folder, *start, cfg.SOLVER.CHECKPOINT_KEEP)
        set_aside_after(folder, iteration)
        claim(folder)
        files.write_atomically(folder / "config.yaml", lambda file: file.write(cfg.dump().encode()))
        if int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")):
            files.write_atomically(folder / LAUNCH, lambda file: file.write(_launch().encode()))
        setup_logging(folder)
    except OSError as error:
        raise _cannot_write(cfg, error) from None
    if overwritten_files(folder):
        text = "the run that is overwritten lies in %s until this one has saved a checkpoint"
        logger.info(text, folder / OVERWRITTEN)
