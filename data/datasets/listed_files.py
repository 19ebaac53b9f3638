"""Image files and classes that a file or an option lists."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .image_files import is_hidden, shown


def require_files(
    root: Path, names: Sequence[str], path: str, images: str, entries: str, *, ending: bool = False
) -> None:
    """Raise ValueError if files are missing; lists each folder once, which is faster than asking for each file.

    Args:
        root: the folder that the names are relative to.
        names: of the files.
        path: the file that lists them.
        images: the option for the folder; "" if it is not given.
        entries: what to remove from the listing file, for the message: "these rows".
        ending: whether there is an option for the ending of files.
    """
    if not root.is_dir():
        beside = Path(path).expanduser().parent / images
        hint = f"; did you mean images: {Path(path).parent / images}?" if beside.is_dir() else ""
        raise ValueError(f"images: there is no folder {images}{hint}")
    listed: dict[str, set[str]] = {}
    missing = []
    for name in names:
        folder, base = os.path.split(os.path.join(root, name))
        if folder not in listed:
            listed[folder] = {*os.listdir(folder)} if os.path.isdir(folder) else set()
        if base not in listed[folder]:
            missing.append(name)
    if missing:
        fix = _fix(root, missing[0], ending) or (
            f"set images: FOLDER to the folder that the names are relative to, or remove {entries}"
        )
        raise ValueError(f"{len(missing):,} of {len(names):,} files are not in {root}: {shown(missing)}; {fix}")


def refuse(problems: Sequence[str], entries: str) -> None:
    """Raise ValueError if there are problems, with the first and, if there are more, their number.

    >>> refuse(["1.txt: line 3: no number", "2.txt: line 1: no number"], "files")
    Traceback (most recent call last):
    ValueError: 1.txt: line 3: no number; 2 files have mistakes, this is the first
    """
    if problems:
        more = f"; {len(problems):,} {entries} have mistakes, this is the first" if len(problems) > 1 else ""
        raise ValueError(problems[0] + more)


def checked_classes(classes: Any) -> list[str]:
    """Return the value of an option `classes` as text; [] if it is not given.

    Raises:
        ValueError: it is not a list of different names.

    >>> checked_classes(["cat", 7])
    ['cat', '7']
    """
    names = [*map(str, classes)] if isinstance(classes, (list, tuple)) else [""] * 2
    if len({*names}) < len(names):
        raise ValueError(f"classes: {classes!r} is not a list of different names, such as [cat, dog]")
    return names


def _fix(root: Path, name: str, ending: bool) -> str:
    """Return what may be wrong about a missing file; "" if that is not clear."""
    folder, base = os.path.split(os.path.join(root, name))
    present = sorted(each for each in os.listdir(folder) if not is_hidden(each)) if os.path.isdir(folder) else []
    for each in present:
        stem, extension = os.path.splitext(each)
        if stem == base and extension and ending:
            return f"{each} is there: add ending: {extension}"
        if each.lower() == base.lower():
            return f"{each} is there: upper and lower case count"
    if "\\" in name:
        return "write / instead of \\ in file names"
    for each in present:
        if os.path.exists(os.path.join(folder, each, base)):
            return f"the first is in {each}/: set images: {os.path.join(folder, each)}"
    above = root.absolute().parent  # as COCO has annotations/ and train2017/
    for each in sorted(entry.name for entry in above.iterdir() if entry.is_dir()):
        if (above / each / name).exists():
            return f"the first is in {above / each}: set images: {above / each}"
    return ""
