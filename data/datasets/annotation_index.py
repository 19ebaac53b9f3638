"""The content of an annotation file, parsed once and kept in the cache."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .arrays import read_npz
from .cache_dir import cache_folder, whole_file
from .packed_objects import PackedObjects

logger = logging.getLogger(__name__)

_VERSION = 1  # changes whenever the same file gives another index
_LARGE = 50_000_000  # bytes from which reading is announced


@dataclass(frozen=True)
class AnnotationIndex:
    """What an annotation file says of N images.

    Args:
        files: names of the image files.
        image_ids: the images' ids.
        sizes: (height, width) of each image; (0, 0) if the file does not say.
        classes: names of the classes.
        category_ids: their ids.
        keypoints: names of the keypoints; [] without.
        skeleton: pairs of indices from 0.
        notes: what a user should know, a sentence each.
        warnings: what a user should correct, a sentence each.
        packed: the objects.
    """

    files: list[str]
    image_ids: list[int]
    sizes: list[tuple[int, int]]
    classes: list[str]
    category_ids: list[int]
    keypoints: list[str]
    skeleton: list[tuple[int, int]]
    notes: list[str]
    warnings: list[str]
    packed: PackedObjects

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return arrays from which `of_arrays` makes the same index."""
        about = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "packed"}
        return vars(self.packed) | {"about": np.frombuffer(json.dumps(about).encode(), np.uint8)}

    @classmethod
    def of_arrays(cls, arrays: dict[str, npt.NDArray[Any]]) -> AnnotationIndex:
        """Return the index; raise ValueError if the arrays do not belong together."""
        about = json.loads(arrays["about"].tobytes())
        index = cls(**about, packed=PackedObjects(**{e.name: arrays[e.name] for e in fields(PackedObjects)}))
        lengths = {len(index.files), len(index.image_ids), len(index.sizes), len(index.packed.ends)}
        if len(lengths) > 1 or (index.packed.labels >= len(index.classes)).any():
            raise ValueError("its arrays do not belong together")
        return index


def kept_index(
    path: Path, options: Sequence[Any], cache: str, read: Callable[[], AnnotationIndex]
) -> AnnotationIndex:
    """Return the index of an annotation file, from the cache if the file has not changed since it was made.

    Args:
        path: the file.
        options: what else the index depends on, plain data.
        cache: DATASETS.CACHE.
        read: parses the file.
    """
    stat = path.stat()
    known = json.dumps([os.path.abspath(path), stat.st_size, stat.st_mtime_ns, options, _VERSION])
    kept = cache_folder(cache) / f"{hashlib.sha256(known.encode()).hexdigest()[:32]}.npz"
    try:
        return AnnotationIndex.of_arrays(read_npz(kept))
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError, TypeError, KeyError) as error:
        logger.warning(f"{kept} cannot be used ({error}); {path} is read again")
    if stat.st_size > _LARGE:
        logger.info(f"Reading {path} ({stat.st_size / 1e6:,.0f} MB), once; cached in {kept.parent}")
    index = read()
    try:
        with whole_file(kept) as file:
            np.savez(file, **index.arrays())  # type: ignore[arg-type]  # not allow_pickle
    except OSError as error:
        logger.warning(f"{kept} cannot be written ({error.strerror}), so that {path} is read in every run")
    return index
