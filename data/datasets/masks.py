"""Masks of objects: polygons and run-length encodings as arrays."""

from __future__ import annotations

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
    try:
        import hotcoco.mask as functions
    except ImportError:
        try:
            import pycocotools.mask as functions
        except ImportError:
            raise ConfigError(
                "masks from polygons or RLE need the package hotcoco; pip install 'warmstart[detection]'"
            ) from None
    return functions
