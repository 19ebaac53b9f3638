"""Masks of objects: polygons and run-length encodings as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from warmstart.config import ConfigError

from .objects import Objects, Segmentation


def masks_of(objects: Objects) -> npt.NDArray[np.uint8]:
    """Return the masks of objects, (n, H, W) of 0 and 1, equal to what pycocotools decodes.

    Raises:
        ConfigError: the objects have no masks; or one is not an array, and hotcoco is not installed.

    >>> square = {"boxes": [[1, 1, 3, 3]], "labels": [0], "masks": [[[0, 0, 0], [0, 1, 1]]]}
    >>> masks_of(Objects.from_target(square, (2, 3), "mine: sample 7")).tolist()
    [[[0, 0, 0], [0, 1, 1]]]
    """
    if objects.segmentations is None:
        raise ConfigError(f"{objects.name}: its objects have no masks")
    masks = np.zeros((len(objects), *objects.size), np.uint8)
    for mask, segmentation in zip(masks, objects.segmentations, strict=True):
        if isinstance(segmentation, np.ndarray):
            mask[...] = segmentation
        else:
            mask[...] = mask_functions().decode(rle_of(segmentation, objects.size))
    return masks


def rle_of(segmentation: Segmentation, size: tuple[int, int]) -> dict[str, Any]:
    """Return a mask as COCO's compressed RLE; polygons of one object are united.

    Args:
        segmentation: polygons, COCO's RLE, or an array.
        size: (H, W) of the image.

    >>> rle_of([[0.0, 0.0, 2.0, 0.0, 2.0, 2.0, 0.0, 2.0]], (4, 4))["size"]
    [4, 4]
    """
    if isinstance(segmentation, np.ndarray):
        return encode_mask(segmentation)
    functions, (height, width) = mask_functions(), size
    if isinstance(segmentation, list):
        found = functions.merge(functions.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        found = functions.frPyObjects(segmentation, height, width)
    else:
        found = segmentation
    return dict(found)


def encode_mask(mask: npt.NDArray[Any]) -> dict[str, Any]:
    """Return an array (H, W) of 0 and 1 as COCO's compressed RLE, with `counts` as text, which JSON takes.

    Raises:
        ConfigError: hotcoco is not installed.

    >>> encode_mask(np.array([[0, 1], [0, 1]], np.uint8))
    {'size': [2, 2], 'counts': '22'}
    """
    found = mask_functions().encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [*map(int, found["size"])], "counts": found["counts"].decode("ascii")}


def mask_functions() -> Any:
    """Return hotcoco's module of functions on RLE; pycocotools', which it equals, if only that is installed.

    Raises:
        ConfigError: neither is installed.
    """
    for name in ("hotcoco.mask", "pycocotools.mask"):
        with suppress(ImportError):
            return import_module(name)
    raise ConfigError("masks from polygons or RLE need the package hotcoco; pip install 'warmstart[detection]'")


def polygon_area(polygon: Sequence[float]) -> float:
    """Return the area of a polygon x, y, x, y ... that does not cross itself.

    >>> polygon_area([0, 0, 4, 0, 4, 2, 0, 2])
    8.0
    """
    x, y = np.array(polygon, np.float64).reshape(-1, 2).T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)


def run_lengths(counts: Any) -> npt.NDArray[np.int64]:
    """Return the lengths of the runs of an RLE, of 0 and of 1 in turn, column by column.

    Compressed counts are numbers of 5 bits a character from "0" on, the least bits first; 32 says that another one
    follows, and the last one's 16 is the sign. From the fourth run on they are differences to the run before the
    previous one.

    Args:
        counts: a list of numbers, or COCO's compressed text.

    Raises:
        ValueError: they are damaged.

    >>> run_lengths("d0l0^12N2O2M").tolist(), run_lengths([3, 1]).tolist()
    ([20, 28, 46, 30, 44, 32, 43, 34, 40], [3, 1])
    """
    if isinstance(counts, str) and counts.isascii():
        codes = np.frombuffer(counts.encode("ascii"), np.uint8).astype(np.int64) - 48
        last = np.flatnonzero((codes & 32) == 0)
        begins = np.concatenate([[0], last[:-1] + 1])
        if not len(codes) or last[-1:].tolist() != [len(codes) - 1] or codes.min() < 0 or codes.max() > 63:
            raise ValueError("damaged counts")
        lengths = last - begins + 1
        shifts = 5 * (np.arange(len(codes)) - np.repeat(begins, lengths))
        runs: npt.NDArray[np.int64] = np.add.reduceat((codes & 31) << shifts, begins) - (
            (codes[last] & 16) << 1 << (5 * (lengths - 1))
        )
        runs[1::2], runs[2::2] = np.cumsum(runs[1::2]), np.cumsum(runs[2::2])
    elif isinstance(counts, list) and {*map(type, counts)} <= {int} and all(abs(run) < 2**31 for run in counts):
        runs = np.array(counts, np.int64)
    else:
        raise ValueError("counts are neither whole numbers nor text")
    if (runs < 0).any():
        raise ValueError("counts below 0")
    return runs
