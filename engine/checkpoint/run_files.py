"""The files and folders that a run writes into OUTPUT_DIR, by their exact names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from warmstart.config import ConfigError

from ..records.logging import LOG
from ..runtime import owned
from . import sharded as shards
from .manifest import MANIFEST
from .run_folder import BEST, FINAL, POINTER, has_checkpoints

LAUNCH = ".launch"  # says who has started the run in a folder, where that one may start it anew
PICTURE = "lr.png"
PROFILE = "profile"
# What every run may write, and no other name tells from a file of the user's.
_FIXED = ("config.yaml", LOG, "metrics.json", "metrics.json.cut", POINTER, MANIFEST, PICTURE, LAUNCH)
# All that a run writes into its folder, exactly: what only looks like it is the user's.
_NAMES = re.compile(
    rf"model_(\d{{7,}}|best|final)\.pth(\.cut([2-9]|[1-9]\d+)?)?|{'|'.join(map(re.escape, _FIXED))}"
    r"|events\.out\.tfevents\.\d+\.\d{6}\..+\.\d+"
)
_TRACE = re.compile(r"warmstart_.+\.\d+\.pt\.trace\.json")


def run_files(folder: Path) -> list[Path]:
    """Return the files in `folder` that a run of ours has written, checkpoints in the order of their numbers.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("model_0000999.pth", "model_2024.pth", "model_final.pth", "model_final.pth.bak"):
    ...         Path(folder, name).touch()
    ...     [path.name for path in run_files(Path(folder))]
    ['model_0000999.pth', 'model_final.pth']
    """
    traces = () if (folder / PROFILE).is_symlink() else folder.glob(f"{PROFILE}/*")
    named = [path for path in folder.glob("*") if _NAMES.fullmatch(path.name)]
    named += [path for path in traces if _TRACE.fullmatch(path.name)]
    return sorted(path for path in named if path.is_file() and not path.is_symlink())


def refuse_foreign(folder: Path, subfolders: Iterable[str] = ()) -> None:
    """Raise ConfigError where a run would write over something in `folder` that no run has written.

    Args:
        folder: OUTPUT_DIR.
        subfolders: the names of those that the run needs.
    """
    # Of these the name alone tells: without --resume or --overwrite the folder is refused for them anyway.
    checkpoints = [path.name for path in folder.glob("model_*.pth") if _NAMES.fullmatch(path.name)]
    owned.refuse_foreign_files(folder, (FINAL, BEST, *checkpoints), trusted=True)
    owned.refuse_foreign_files(folder, _FIXED, trusted=has_checkpoints(folder))
    for path in (folder / name for name in subfolders):
        if path.is_symlink():
            problem = "is a symbolic link"
        elif path.exists() and not path.is_dir():
            problem = "is no folder"
        elif path.name == shards.FOLDER and shards.is_foreign(path):
            problem = "holds no checkpoint of a run, but other files"
        else:
            continue
        raise ConfigError(
            f"{path} {problem}, and this run needs a folder of that name; move it away, or name another folder "
            "with OUTPUT_DIR"
        )


def subfolders(profiles: bool, sharded: bool) -> list[str]:
    """Return the names of the folders in OUTPUT_DIR that a run needs.

    Args:
        profiles: whether it writes traces of the profiler.
        sharded: whether its checkpoints are sharded.
    """
    return [*([PROFILE] if profiles else []), *([shards.FOLDER] if sharded else [])]


def claim(folder: Path) -> None:
    """List the names that every run writes as the run's, before the first of them is written.

    Raises:
        OSError: the list cannot be written.
    """
    owned.own(folder, *_FIXED)
