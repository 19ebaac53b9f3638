"""Objects in a COCO annotation file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .annotation_index import kept_index
from .coco_file import read_coco
from .image_heads import known_sizes
from .keypoints import keypoint_info
from .listed_files import checked_classes, require_files
from .object_images import ObjectImages


def build_coco(
    path: str,
    download: bool,
    cache: str,
    images: str = "",
    classes: Sequence[str] = (),
    keypoint_names: Sequence[str] = (),
    skeleton: Sequence[Any] = (),
    flip_pairs: Sequence[Any] | None = None,
    sigmas: Sequence[float] = (),
) -> ObjectImages:
    """Build from an annotation file in COCO's format.

    Categories become class indices in the order of their ids, which may have gaps. Images without objects stay.

    Args:
        path: the file.
        download: not used.
        cache: DATASETS.CACHE.
        images: the folder that file names are relative to; "": the folder of the annotation file.
        classes: the categories to take, in the order of class indices; (): all.
        keypoint_names: names of the keypoints; (): those of the categories.
        skeleton: pairs of keypoints, names or indices from 0; (): of the categories.
        flip_pairs: pairs that trade places in a mirror image; None: of names that differ in left and right.
        sigmas: the tolerance of each keypoint; (): COCO's for its 17, 0.05 for others.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: an option or the content of the file is wrong, or image files are missing.
    """
    file = Path(path).expanduser()
    if file.is_dir():
        found = sorted(name for name in os.listdir(file) if name.endswith(".json"))
        hint = f", such as {os.path.join(path, found[0])}" if found else ""
        raise ValueError(f"it is a folder; name the annotation file{hint}")
    names = checked_classes(classes)
    index = kept_index(file, names, cache, lambda: read_coco(file, names))
    root = Path(images).expanduser() if images else file.parent
    require_files(root, index.files, path, images, "these images from the file")
    info, notes = None, list(index.notes)
    if index.keypoints:
        points = keypoint_names or index.keypoints
        info, assumed = keypoint_info(points, skeleton or index.skeleton, flip_pairs, sigmas)
        if len(info.names) != len(index.keypoints):
            raise ValueError(f"keypoint_names: there are {len(index.keypoints)} keypoints; give as many names")
        notes += assumed
    elif keypoint_names or skeleton or flip_pairs is not None or sigmas:
        raise ValueError(
            "its categories have no keypoints, so that keypoint_names, skeleton, flip_pairs and sigmas have no"
            " effect; leave them out, or add keypoints: [NAME, ...] to the category"
        )
    files = [os.path.join(root, name) for name in index.files]
    return ObjectImages(
        root,
        files,
        known_sizes(files, index.sizes),
        index.packed,
        index.classes,
        keypoint_info=info,
        notes=notes,
        warnings=index.warnings,
        image_ids=index.image_ids,
        category_ids=index.category_ids,
    )
