"""Files of sharded checkpoints: folders `shards/NUMBER-RANDOM/`, listed, verified and deleted."""

from __future__ import annotations

import logging
import re
import stat
import zlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from warmstart.config import ConfigError, disk, open_regular

from ..runtime.owned import disown, own, owned
from .run_files import OVERWRITTEN, SHARDS

logger = logging.getLogger(__name__)

KEY = "shards"  # the entry of a checkpoint that describes its shards
_CHUNK = 2**20  # bytes
_FOLDER = re.compile(r"\d{7,}-[0-9a-f]{8}")  # the name of a folder of shards
_FILE = re.compile(r"(__\d+)?\.metadata(\.tmp)?|__\d+_\d+\.distcp")  # what torch writes into it


def list_shards(folder: Path) -> None:
    """List a folder of shards as a run's, so that it may be deleted again; a failure is one warning."""
    try:
        own(folder.parent.parent, f"{SHARDS}/{folder.name}")
    except OSError as error:
        text = "%s could not be written: %s; %s will not be deleted"
        logger.warning(text, error.filename or folder, error.strerror or error, folder)


def checksum(path: Path) -> int:
    """Return the CRC-32 of a regular file."""
    crc = 0
    with open_regular(path) as file:
        while chunk := file.read(_CHUNK):
            crc = zlib.crc32(chunk, crc)
    return crc


def verify_file(path: Path, crc: int, checkpoint: Path) -> None:
    """Raise ConfigError if a file of a checkpoint's shards is missing, damaged or not a regular file."""
    try:
        is_regular = stat.S_ISREG(path.lstat().st_mode)
        found = checksum(path) if is_regular else None
    except OSError as error:
        raise ConfigError(
            f"checkpoint: {checkpoint} has shards in {path.parent}, and {path.name} cannot be read: "
            f"{error.strerror or error}; the folder belongs beside the file, in {SHARDS}/"
        ) from None
    if not is_regular:
        raise ConfigError(f"checkpoint: {path} is refused: it is a link or a device, and a shard is a file")
    if found != crc:
        raise ConfigError(f"checkpoint: {path} is damaged: its checksum differs from the one when it was written")


def is_foreign(place: Path) -> bool:
    """Return whether a folder `shards` is the user's: it holds something, but no folder of a run's name."""
    names = [path.name for path in place.glob("*")]
    return bool(names) and not any(_FOLDER.fullmatch(name) for name in names)


def remove_unused(folder: Path, owed: Iterable[Mapping[str, Any]] = ()) -> None:
    """Delete the shards in a run's folder that no checkpoint names; it reads each checkpoint, which takes 10 ms.

    Only folders that a run has listed before it wrote them, and in them only files of torch's names, are deleted.
    Nobody may be saving into the folder. If a checkpoint cannot be read, nothing is deleted.

    Args:
        folder: the run's. The checkpoints in its subfolder `overwritten` count too: their shards are still here.
        owed: contents whose files are still to be written.
    """
    place = folder / SHARDS
    listed = [name.removeprefix(f"{SHARDS}/") for name in owned(folder)]
    there = [place / name for name in sorted(listed) if _FOLDER.fullmatch(name) and (place / name).is_dir()]
    if not there or place.is_symlink():
        return
    found = (path for each in (folder, folder / OVERWRITTEN) for path in each.glob("*.pth*"))
    checkpoints = [path for path in found if path.is_file()]
    try:
        contents = [torch.load(path, map_location="meta", weights_only=True) for path in checkpoints]
        used = {about[KEY]["folder"] for about in (*contents, *owed) if KEY in about}
    except Exception as error:  # a damaged file fails in any way
        logger.warning("all shards in %s are kept: %s", place, " ".join(str(error).split()))
        return
    unused = [path for path in there if path.name not in used and not path.is_symlink()]
    with suppress(OSError):  # a folder that stays stays listed
        for path in unused:
            _remove(path)
        disown(folder, *(f"{SHARDS}/{path.name}" for path in unused if not path.exists()))


def _remove(folder: Path) -> None:
    for path in folder.iterdir():
        if _FILE.fullmatch(path.name):
            disk.unlink(path)
    with suppress(OSError):  # it holds files of the user
        folder.rmdir()
