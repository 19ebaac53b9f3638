"""The files and folders that a run writes into OUTPUT_DIR, by their exact names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ..records.logging import LOG
from ..records.reports import REPORT, report_files

# Checkpoints are named as in detectron2: after 1,000 updates `model_0000999.pth` holds `iteration: 1000`.
FINAL = "model_final.pth"
BEST = "model_best.pth"
NUMBERED = re.compile(r"model_(\d{7,})\.pth")
NAMES = "names"  # an entry of a checkpoint: its names besides its number
CLASSES = "classes"  # an entry of a checkpoint: the names of the outputs, in order; [] where they have none
POINTER = "last_checkpoint"  # holds the name of the newest checkpoint
MANIFEST = "checkpoints.json"  # lists the numbered checkpoints that the run may delete
LAUNCH = ".launch"  # says which launcher has started the run in the folder and may restart it
PICTURE = "lr.png"
PROFILE = "profile"  # a folder of traces
SHARDS = "shards"  # a folder with a folder for each sharded checkpoint
OVERWRITTEN = "overwritten"  # a folder for the run that --overwrite replaces

# What every run may write. These names do not tell a run's file from a user's.
FIXED = ("config.yaml", LOG, "metrics.json", "metrics.json.cut", POINTER, MANIFEST, PICTURE, LAUNCH)
_NAME = re.compile(r"\w[\w. -]*\.pth", re.ASCII)
# All that a run writes into its folder, exactly: a file of a similar name is the user's.
_OURS = re.compile(
    rf"model_(\d{{7,}}|best|final)\.pth(\.cut([2-9]|[1-9]\d+)?)?|{'|'.join(map(re.escape, FIXED))}"
    r"|events\.out\.tfevents\.\d+\.\d{6}\..+\.\d+"
)
_TRACE = re.compile(r"warmstart_.+\.\d+\.pt\.trace\.json")


def checkpoint_name(iteration: int) -> str:
    """Return the file's name after `iteration` updates, numbered as detectron2 does.

    >>> checkpoint_name(1000)
    'model_0000999.pth'
    """
    return f"model_{iteration - 1:07d}.pth"


def checkpoint_number(name: str) -> int:
    """Return the number in a checkpoint's name, by which files are ordered: 9, 10, 100.

    >>> checkpoint_number("model_0000999.pth")
    999
    """
    found = NUMBERED.fullmatch(name)
    if found is None:
        raise ValueError(f"{name} is not a numbered checkpoint, such as {checkpoint_name(1000)}")
    return int(found[1])


def require_names(names: Any) -> None:
    """Refuse names under which a checkpoint could not be found, or that would leave its folder.

    Args:
        names: a checkpoint's names besides its number, as its entry `names` or `trainer.save_as` lists them.

    Raises:
        ValueError: one of them is not a file name such as model_best.pth; the message shows it.

    >>> require_names(["model_best.pth", "mine.pth"])
    >>> require_names(["../mine.pth"])
    Traceback (most recent call last):
    ValueError: '../mine.pth' cannot be the name of a checkpoint; one is such as model_best.pth
    """
    several = isinstance(names, (list, set))
    for name in names if several else [names]:
        if not several or not isinstance(name, str) or not _NAME.fullmatch(name) or NUMBERED.fullmatch(name):
            raise ValueError(f"{name!r:.99} cannot be the name of a checkpoint; one is such as {BEST}")


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
    named = [path for path in folder.glob("*") if _OURS.fullmatch(path.name)]
    named += [path for path in traces if _TRACE.fullmatch(path.name)]
    return sorted(path for path in named if path.is_file() and not path.is_symlink()) + report_files(folder)


def checkpoint_files(folder: Path) -> list[Path]:
    """Return the checkpoints in `folder`: the numbered ones, newest first, then the final and the best one."""
    numbered = [path for path in folder.glob("model_*.pth") if NUMBERED.fullmatch(path.name) and path.is_file()]
    numbered.sort(key=lambda path: checkpoint_number(path.name), reverse=True)
    return [*numbered, *(path for path in (folder / FINAL, folder / BEST) if path.is_file())]


def subfolders(profiles: bool, sharded: bool, reports: bool = False) -> list[str]:
    """Return the names of the folders in OUTPUT_DIR that a run needs.

    Args:
        profiles: whether it writes traces of the profiler.
        sharded: whether its checkpoints are sharded.
        reports: whether it writes reports.
    """
    needed = {PROFILE: profiles, SHARDS: sharded, REPORT: reports}
    return [name for name, is_needed in needed.items() if is_needed]
