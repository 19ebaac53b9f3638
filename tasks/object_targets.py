"""Objects as samples, as targets of a detector, and as columns for evaluation."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from warmstart.config import ConfigError
from warmstart.data import (
    OBJECT_ENTRIES,
    DatasetInfo,
    KeypointInfo,
    Objects,
    Sample,
    frame_of,
    mask_functions,
    masks_of,
    points_in,
    rle_of,
)

from .coco_scores import Table


def refuse_objects(info: DatasetInfo, task: str) -> None:
    """Raise ConfigError if targets of the training set are objects, which a task for images cannot learn.

    >>> refuse_objects(DatasetInfo(9, 2, channels=3, image_size=None, annotations=("boxes",)), "regression")
    Traceback (most recent call last):
    warmstart.config.errors.ConfigError: DATASETS.TRAIN: the training set has objects with boxes in each image, \
which MODEL.TASK regression does not take; set MODEL.TASK to detection
    """
    if info.annotations:
        others = {"masks": "instance_segmentation", "keypoints": "keypoint_detection"}
        tasks = ["detection", *(others[kind] for kind in info.annotations if kind in others)]
        raise ConfigError(
            f"DATASETS.TRAIN: the training set has objects with {', '.join(info.annotations)} in each image, which"
            f" MODEL.TASK {task} does not take; set MODEL.TASK to {' or '.join(tasks)}"
        )


def require_annotations(info: DatasetInfo, task: str, needed: str) -> None:
    """Raise ConfigError if the training set's targets are not objects with what the task needs."""
    label = f"DATASETS.TRAIN: MODEL.TASK {task} needs"
    if "boxes" not in info.annotations:
        other = "one class index" if info.num_classes else "numbers"
        found = f"{other} for each" if info.num_classes or info.num_values else "targets of an unknown kind"
        raise ConfigError(
            f"{label} objects with boxes as targets, but the training set has {found}; use a data set of objects,"
            " such as coco, or register it with a DatasetInfo that has annotations"
        )
    if needed not in info.annotations or (needed == "keypoints" and info.keypoints is None):
        known = ", ".join(info.annotations)
        raise ConfigError(f"{label} {needed}, but objects of the training set have {known} alone")
    if not info.num_classes:
        raise ConfigError(f"{label} the number of classes; set MODEL.NUM_CLASSES, or give the data set `classes`")
    if len(info.classes) > info.num_classes:
        raise ConfigError(
            f"MODEL.NUM_CLASSES: is {info.num_classes}, but the training set has {len(info.classes)} classes; set"
            " it to 0 to use their number"
        )
    if info.object_counts and not any(info.object_counts):
        raise ConfigError(f"{label} objects, but no image of the training set has one")


def require_objects(
    objects: Objects, where: str, num_classes: int, has_masks: bool, keypoints: KeypointInfo | None
) -> None:
    """Raise ConfigError if objects cannot be trained on.

    Args:
        objects: of a sample.
        where: the sample, for messages: "mine: sample 7".
        num_classes: labels run from 0 to num_classes - 1.
        has_masks: whether each needs a mask.
        keypoints: those that each needs; None if it needs none.
    """
    wrong = (objects.labels < 0) | (objects.labels >= num_classes)
    for place in np.flatnonzero(wrong)[:1]:
        raise ConfigError(
            f"{where}: object {place}{_annotation(objects, place)} has label {objects.labels[place]}; with"
            f" {num_classes} classes labels run from 0 to {num_classes - 1}, without one for background"
        )
    for place in np.flatnonzero(~np.isfinite(objects.boxes).all(axis=1))[:1]:
        raise ConfigError(
            f"{where}: object {place}{_annotation(objects, place)} has the box {objects.boxes[place].tolist()};"
            " a box is four finite numbers"
        )
    if has_masks and objects.segmentations is None:
        raise ConfigError(f"{where} has objects without masks; MODEL.TASK instance_segmentation needs them")
    found = 0 if objects.keypoints is None else objects.keypoints.shape[1]
    if keypoints is not None and found != len(keypoints.names):
        raise ConfigError(
            f"{where} has {found} keypoints for each object, but the training set has {len(keypoints.names)}:"
            f" {', '.join(keypoints.names)}"
        )


def _annotation(objects: Objects, place: int) -> str:
    return f" (annotation {objects.ids[place]})" if objects.ids[place] else ""


def object_sample(image: Tensor, objects: Objects, has_masks: bool, has_keypoints: bool) -> Sample:
    """Return a sample whose entries follow the image through transforms.

    Args:
        image: uint8 (C, H, W).
        objects: in this image.
        has_masks: whether to decode the masks.
        has_keypoints: whether it gets the keypoints.

    Returns:
        "image", the entries that `finish_objects` knows, "frame", which maps coordinates back to this image, and
        "original", the objects.
    """
    from torchvision import tv_tensors  # slow to import

    size = objects.size
    sample: Sample = {
        "image": tv_tensors.Image(image),
        "boxes": tv_tensors.BoundingBoxes(
            torch.from_numpy(objects.boxes.astype(np.float32)),
            format=tv_tensors.BoundingBoxFormat.XYXY,
            canvas_size=size,
        ),
        "labels": torch.tensor(objects.labels),
        "iscrowd": torch.tensor(objects.iscrowd),
        "area": torch.from_numpy(objects.area.astype(np.float32)),
    }
    if has_masks:
        sample["masks"] = tv_tensors.Mask(torch.from_numpy(masks_of(objects)))
    if has_keypoints and objects.keypoints is not None:
        sample["keypoints"] = points_in(torch.from_numpy(objects.keypoints[:, :, :2].astype(np.float32)), size)
        sample["visibility"] = torch.from_numpy(objects.keypoints[:, :, 2].astype(np.int64))
    return sample | {"frame": frame_of(size), "original": objects}


def training_target(sample: Sample) -> dict[str, Tensor]:
    """Return a target in torchvision's form, without crowd regions: labels from 1, because 0 is background."""
    kept = ~sample["iscrowd"]
    columns = {name: sample[name][kept] for name in OBJECT_ENTRIES if name in sample}
    target = {"boxes": columns["boxes"], "labels": columns["labels"] + 1}
    if "masks" in columns:
        target["masks"] = columns["masks"]
    if "keypoints" in columns:
        target["keypoints"] = torch.cat([columns["keypoints"], columns["visibility"][..., None].float()], dim=2)
    return target


def truth_table(objects: Objects, image: int, has_masks: bool, has_keypoints: bool) -> Table:
    """Return the objects of an image, as they are before all transforms, as columns."""
    n = len(objects)
    masks: list[str] | None = None
    if has_masks:
        masks = [_text(rle_of(each, objects.size)) for each in objects.segmentations or ()]
    return Table(
        image=np.full(n, image, np.int64),
        label=objects.labels,
        boxes=objects.boxes,
        score=np.ones(n),
        area=objects.area,
        iscrowd=objects.iscrowd,
        masks=masks,
        keypoints=objects.keypoints if has_keypoints else None,
    )


def found_table(found: dict[str, Any], image: int) -> Table:
    """Return the detections in an image as columns.

    Args:
        found: "boxes" (n, 4), "labels" (n,) from 0, "scores" (n,), maybe "masks" (n, H, W) of 0 and 1, uint8, and
            "keypoints" (n, K, 3), in coordinates of the image before all transforms, on the CPU.
        image: its number.
    """
    n = len(found["labels"])
    points = found["keypoints"].double().numpy() if "keypoints" in found else None
    return Table(
        image=np.full(n, image, np.int64),
        label=found["labels"].numpy(),
        boxes=found["boxes"].double().numpy(),
        score=found["scores"].double().numpy(),
        area=np.zeros(n),
        iscrowd=np.zeros(n, bool),
        masks=_encoded(found["masks"]) if "masks" in found else None,
        keypoints=points,
    )


def _encoded(masks: Tensor) -> list[str]:
    """Return the RLE of masks (n, H, W) of 0 and 1; one call for all, in the column order that RLE has."""
    columns = masks.transpose(1, 2).contiguous().numpy().T  # (H, W, n)
    return [_text(rle) for rle in mask_functions().encode(columns)] if len(masks) else []


def _text(rle: dict[str, Any]) -> str:
    counts = rle["counts"]
    return counts.decode("ascii") if isinstance(counts, bytes) else str(counts)
