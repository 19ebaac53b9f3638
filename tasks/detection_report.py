"""The report of detection: classes, confusions, precision and recall, the worst images, COCO's result files."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from .box_matching import Matches, match
from .classification_report import MOST_IMAGES, confusion_picture, table_of
from .coco_scores import PREFIXES, Array, Curves, Kind, Table, coco_dicts
from .object_pictures import Drawn, draw_objects
from .report_pictures import MOST_CELLS, bars_picture, curves_picture, images_picture
from .task import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BACKGROUND = "background"
_MOST_WORST = 50  # images that a report lists
_LARGEST = 2000  # classes up to which the confusion matrix is written
_WORST_COLUMNS = ("index", "file", "missed", "false", "wrong_class")


def build_report(
    values: Mapping[str, Any], classes: Sequence[str], threshold: float, sample_name: Callable[[int], str]
) -> Report:
    """Return the report of an evaluation.

    Its entries: `per_class`, for each class its objects, AP, AP50 and AP75 (also of masks and keypoints), and at
    the score threshold and an intersection over union of 0.5 how often it is detected, precision and recall; null
    where there are none. `confusion`, the counts of objects by true class (rows) and detected class at this
    threshold, with background as the last one of both: objects that were missed, and detections of nothing.
    `curves`, precision at the recalls 0, 0.01, ... 1, the mean over classes. `worst`, the images with the most
    objects that were missed, detections of nothing, and detections of another class.

    Args:
        values: see `ObjectScores.report_values`.
        classes: their names.
        threshold: score from which detections count.
        sample_name: returns a sample's file, or "".
    """
    truths: Table = values["truths"]
    detections: Table = values["detections"].select(np.flatnonzero(values["detections"].score >= threshold))
    matches, number = match(detections, truths), len(classes)
    confusion = _confusion(detections, truths, matches, number)
    content: dict[str, Any] = {
        "classes": [*classes],
        "score_threshold": threshold,
        "per_class": _per_class(values["class_scores"], confusion, classes),
    }
    tables: dict[str, Sequence[Sequence[Any]]] = {}
    if number <= _LARGEST:
        content["confusion"], names = confusion.tolist(), [*classes, BACKGROUND]
        rows = [[name, *row] for name, row in zip(names, content["confusion"], strict=True)]
        tables["confusion"] = [["true \\ detected", *names], *rows]
    content["curves"] = {kind: _mean_curves(curves) for kind, curves in values["curves"].items()}
    content["worst"] = _worst(values["sizes"], detections, truths, matches, sample_name)
    worst = [{name: row[name] for name in _WORST_COLUMNS} for row in content["worst"]]
    tables |= {"per_class": table_of(content["per_class"]), "worst": table_of(worst)}
    for kind, curves in content["curves"].items():
        recalls = [place / 100 for place in range(101)]
        rows = [list(row) for row in zip(recalls, *curves.values(), strict=True)]
        tables["precision_recall" if kind == "bbox" else f"precision_recall_{kind}"] = [["recall", *curves], *rows]
    return Report(content, {name: rows for name, rows in tables.items() if rows})


def result_files(
    values: Mapping[str, Any],
    kinds: Sequence[Kind],
    classes: Sequence[str],
    image_ids: Sequence[int],
    category_ids: Sequence[int],
    sample_name: Callable[[int], str],
) -> dict[str, Any]:
    """Return all detections as COCO's result files: `detections`, `detections_segm`, `detections_keypoints`.

    Args:
        values: see `ObjectScores.report_values`.
        kinds: what is detected.
        classes: their names.
        image_ids: of each image of the test set in its annotation file; (): there is none, and `objects` has the
            objects in the format of an annotation file, with the index of each image as its id.
        category_ids: of each class there; (): from 1.
        sample_name: returns a sample's file, or "".
    """
    sizes, detections, truths = values["sizes"], values["detections"], values["truths"]
    of_image = (lambda image: int(image_ids[image])) if len(image_ids) else int
    of_class = [*category_ids] or [*range(1, len(classes) + 1)]
    files: dict[str, Any] = {}
    for kind in kinds:
        found = coco_dicts(detections, kind, sizes, is_truth=False)
        for entry in found:
            entry["image_id"], entry["category_id"] = (
                of_image(entry["image_id"]),
                of_class[entry["category_id"] - 1],
            )
        files["detections" if kind == "bbox" else f"detections_{kind}"] = found
    if not len(image_ids):
        images = [
            {"id": image, "file_name": sample_name(image), "height": size[0], "width": size[1]}
            for image, size in sizes.items()
        ]
        named = zip(of_class, classes, strict=True)
        categories: list[dict[str, Any]] = [{"id": number, "name": name} for number, name in named]
        entries = coco_dicts(truths, kinds[-1], sizes, is_truth=True)
        files["objects"] = {"images": images, "categories": categories, "annotations": entries}
    return files


def draw_report(content: Mapping[str, Any], image_of: Callable[[int], Tensor | None]) -> dict[str, Figure]:
    """Return the pictures of a report: `per_class`, `confusion`, `precision_recall` and `worst`.

    Of more classes than can be read in a picture, those with the lowest AP, and those that are confused most
    often, are drawn. On the worst images objects are drawn without, detections with their scores.

    Args:
        content: of `build_report`.
        image_of: see `Task.report_pictures`.
    """
    figures = {}
    score = "AP" if content["curves"] else "AP50"
    found = [row for row in content["per_class"] if row[score] is not None]
    if found:
        shown, title = found, f"{score} of {len(found)} classes"
        if len(found) > MOST_CELLS:
            shown = sorted(found, key=lambda row: row[score])[:MOST_CELLS]
            title = f"lowest {score}: {MOST_CELLS} of {len(found):,} classes"
        values, names, counts = ([row[key] for row in shown] for key in (score, "class", "objects"))
        figures["per_class"] = bars_picture(values, names, counts, title, score)
    if "confusion" in content:
        figures["confusion"] = confusion_picture({**content, "classes": [*content["classes"], BACKGROUND]})
    curves = {
        f"{PREFIXES[kind]}{name}": values
        for kind, named in content["curves"].items()
        for name, values in named.items()
    }
    if curves:
        figures["precision_recall"] = curves_picture(curves, "recall", "precision, mean over classes")
    worst = content["worst"][:MOST_IMAGES]
    if worst:
        captions = [
            f"{row['missed']} missed, {row['false']} false,\n{row['wrong_class']} of another class"
            for row in worst
        ]
        images = [_drawn_worst(row, image_of(row["index"]), content["classes"]) for row in worst]
        figures["worst"] = images_picture(images, captions, "most mistakes")
    return figures


def _confusion(detections: Table, truths: Table, matches: Matches, number: int) -> Array:
    """Return the matrix (K + 1, K + 1) of true and detected classes."""
    matrix = np.zeros((number + 1, number + 1), np.int64)
    hit = matches.truth >= 0
    np.add.at(matrix, (truths.label[matches.truth[hit]], detections.label[hit]), 1)
    np.add.at(matrix[number], detections.label[~hit & ~matches.ignored], 1)
    missed = ~truths.iscrowd.astype(bool)
    missed[matches.truth[hit]] = False
    np.add.at(matrix[:, number], truths.label[missed], 1)
    return matrix


def _per_class(
    scores: Mapping[str, Sequence[float]], confusion: Array, classes: Sequence[str]
) -> list[dict[str, Any]]:
    rows = []
    for k, name in enumerate(classes):
        objects, detected, right = int(confusion[k].sum()), int(confusion[:, k].sum()), int(confusion[k, k])
        row: dict[str, Any] = {"class": name, "objects": objects}
        row |= {score: None if math.isnan(values[k]) else values[k] for score, values in scores.items()}
        row["detected"] = detected
        row["precision"] = right / detected if detected else None
        row["recall"] = right / objects if objects else None
        rows.append(row)
    return rows


def _mean_curves(curves: Curves) -> dict[str, list[float]]:
    """Return precision at 101 recalls, the mean over the classes with objects: at all thresholds, 0.5 and 0.75."""
    precision = curves.precision[..., 0]
    known = precision[:, :, (precision > -1).all(axis=(0, 1))]
    if not known.shape[2]:
        return {}
    parts = {"AP": known.mean(axis=(0, 2)), "AP50": known[0].mean(axis=1), "AP75": known[5].mean(axis=1)}
    return {name: np.round(values, 6).tolist() for name, values in parts.items()}


def _worst(
    sizes: Mapping[int, tuple[int, int]],
    detections: Table,
    truths: Table,
    matches: Matches,
    sample_name: Callable[[int], str],
) -> list[dict[str, Any]]:
    """Return the images with the most mistakes; of equal ones the first."""
    images = np.array([*sizes])
    hit = matches.truth >= 0
    wrong = hit.copy()
    wrong[hit] = truths.label[matches.truth[hit]] != detections.label[hit]
    missed = ~truths.iscrowd.astype(bool)
    missed[matches.truth[hit]] = False
    false = ~hit & ~matches.ignored
    counts = [
        np.bincount(np.searchsorted(images, table.image[chosen]), minlength=len(images))
        for table, chosen in ((truths, missed), (detections, false), (detections, wrong))
    ]
    total = np.sum(counts, axis=0)
    order = np.argsort(-total, kind="stable")[:_MOST_WORST]
    rows = []
    for place in order[total[order] > 0].tolist():
        image = int(images[place])
        row = {"index": image, "file": sample_name(image), "size": [*sizes[image]]}
        row |= dict(zip(("missed", "false", "wrong_class"), (int(each[place]) for each in counts), strict=True))
        row["objects"] = _listed(truths, image)
        row["detections"] = _listed(detections, image)
        rows.append(row)
    return rows


def _listed(table: Table, image: int) -> list[list[float]]:
    """Return the entries of an image as [class index, score, x0, y0, x1, y1]."""
    chosen = np.flatnonzero(table.image == image)
    columns = [table.label[chosen, None], table.score[chosen, None], table.boxes[chosen]]
    return [[int(row[0]), *row[1:]] for row in np.round(np.concatenate(columns, axis=1), 3).tolist()]


def _drawn_worst(row: Mapping[str, Any], image: Tensor | None, classes: Sequence[str]) -> Tensor | None:
    if image is None:
        return None
    scale = image.shape[2] / row["size"][1]  # images of pictures are smaller
    entries = [*row["objects"], *row["detections"]]
    boxes = np.array([entry[2:] for entry in entries]).reshape(-1, 4) * scale
    texts = [""] * len(row["objects"])
    texts += [f"{classes[int(entry[0])]} {entry[1]:.2f}" for entry in row["detections"]]
    return draw_objects(image, Drawn(boxes, np.array([entry[0] for entry in entries], np.int64), texts))
