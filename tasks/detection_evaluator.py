"""The evaluator of detection, instance segmentation and keypoint detection."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from warmstart.config import ConfigError
from warmstart.data import to_original

from .box_matching import voc_average_precision
from .coco_scores import PREFIXES, Curves, Kind, Table, coco_curves, joined, summary_names
from .object_targets import found_table

VOC_POINTS = {"voc": 0, "voc2007": 11}  # of recall at which precision is averaged; 0: the area below the curve


class ObjectScores:
    """Collects objects and detections of all images, and computes COCO's or PASCAL VOC's scores.

    Args:
        kinds: what is compared.
        classes: names of the classes, in the order of labels.
        metric: coco, voc or voc2007.
        max_detections: per image and class that count for COCO's scores.
        per_class: whether each class has a score.
        sigmas: of keypoints.
    """

    def __init__(
        self,
        kinds: Sequence[Kind],
        classes: Sequence[str],
        *,
        metric: str = "coco",
        max_detections: int = 100,
        per_class: bool = True,
        sigmas: Sequence[float] = (),
    ) -> None:
        self.kinds, self.classes, self.metric = list(kinds), list(classes), metric
        self.max_detections, self.per_class, self.sigmas = max_detections, per_class, sigmas
        self._sizes: dict[int, tuple[int, int]] = {}
        self._truths: list[Table] = []
        self._detections: list[Table] = []
        self._curves: dict[Kind, Curves] = {}
        self._class_scores: dict[str, list[float]] = {}

    def update(self, predictions: Sequence[Mapping[str, Tensor]], targets: Sequence[Mapping[str, Any]]) -> None:
        """Take the detections in a batch's images, and the objects; an image that it has is not taken again."""
        for prediction, target in zip(predictions, targets, strict=True):
            image, size = target["index"], target["size"]
            if image in self._sizes:
                continue
            found = to_original(dict(prediction), target["frame"], size)
            if "masks" in found:
                found["masks"] = (found["masks"] > 0.5).to(torch.uint8)
            table = found_table({name: value.cpu() for name, value in found.items()}, image)
            self._check(table.label)
            self._sizes[image] = size
            self._truths.append(target["truth"])
            self._detections.append(table)

    def _check(self, labels: Any) -> None:
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(self.classes):
            wrong = labels.min() if labels.min() < 0 else labels.max()
            raise ConfigError(
                f"MODEL.NAME: the model detected class {wrong + 1}; with {len(self.classes)} classes it must"
                f" return labels from 1 to {len(self.classes)}, and 0, background, never"
            )

    def state(self) -> Any:
        """Return what was collected, in arrays."""
        if not self._sizes:
            return None
        return self._sizes, joined(self._truths), joined(self._detections)

    def merge(self, states: Sequence[Any]) -> None:
        """Join the states, in the order of the images; of an image that several ranks have one is taken."""
        sizes: dict[int, tuple[int, int]] = {}
        tables: list[tuple[Table, Table]] = []
        for own, *columns in states:
            if sizes.keys() & own.keys():
                seen = np.array([*sizes])
                columns = [table.select(np.flatnonzero(~np.isin(table.image, seen))) for table in columns]
            sizes |= {image: size for image, size in own.items() if image not in sizes}
            tables.append((columns[0], columns[1]))
        self._sizes = dict(sorted(sizes.items()))
        both = (joined(column) for column in zip(*tables, strict=True))
        truths, detections = (table.select(np.argsort(table.image, kind="stable")) for table in both)
        self._truths, self._detections = [truths], [detections]

    def compute(self) -> dict[str, float]:
        """Return the scores; NaN for what the test set has no object of."""
        truths, detections = joined(self._truths), joined(self._detections)
        if self.metric in VOC_POINTS:
            points = VOC_POINTS[self.metric]
            each = voc_average_precision(truths, detections, len(self.classes), points)
            known = [value for value in each if not math.isnan(value)]
            scores = {"AP50": math.fsum(known) / len(known) if known else math.nan}
            self._class_scores = {"AP50": each}
        else:
            scores, each, self._class_scores = {}, [], {}
            for kind in self.kinds:
                options = len(self.classes), self.max_detections, self.sigmas
                curves = self._curves[kind] = coco_curves(kind, self._sizes, truths, detections, *options)
                scores |= {f"{PREFIXES[kind]}{name}": value for name, value in curves.scores().items()}
                of_classes = curves.class_scores()
                each += of_classes["AP"]
                self._class_scores |= {f"{PREFIXES[kind]}{name}": values for name, values in of_classes.items()}
        if self.per_class:
            names = class_score_names(self.kinds, self.metric, self.classes)
            scores |= dict(zip(names, each, strict=True))
        return scores

    def report_values(self) -> dict[str, Any]:
        """Return what a report is made of, after `compute`.

        "index", the images' numbers, their "sizes", (H, W) by number, "truths" and "detections", a `Table` each,
        "curves", `Curves` by kind, and "class_scores", the scores of each class by names as `segm/AP`.
        """
        return {
            "index": [*self._sizes],
            "sizes": self._sizes,
            "truths": joined(self._truths),
            "detections": joined(self._detections),
            "curves": self._curves,
            "class_scores": self._class_scores,
        }


def score_names(kinds: Sequence[Kind], metric: str) -> list[str]:
    """Return the names of the scores over all classes, in the order of records.

    >>> score_names(["bbox", "keypoints"], "coco")[6:9]
    ['AR', 'keypoints/AP', 'keypoints/AP50']
    """
    if metric in VOC_POINTS:
        return ["AP50"]
    return [f"{PREFIXES[kind]}{name}" for kind in kinds for name in summary_names(kind)]


def class_score_names(kinds: Sequence[Kind], metric: str, classes: Sequence[str]) -> list[str]:
    """Return the names of the scores of each class, after those over all classes.

    >>> class_score_names(["bbox", "segm"], "coco", ["cat", "dog"])
    ['AP/cat', 'AP/dog', 'segm/AP/cat', 'segm/AP/dog']
    """
    scores = ["AP50"] if metric in VOC_POINTS else [f"{PREFIXES[kind]}AP" for kind in kinds]
    return [f"{score}/{name}" for score in scores for name in classes]
