"""COCO's average precision and recall of detected objects, computed by hotcoco or pycocotools."""

from __future__ import annotations

import contextlib
import importlib
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from warmstart.config import ConfigError

Array = npt.NDArray[Any]
Kind = Literal["bbox", "segm", "keypoints"]

#: What the names of scores of each kind begin with.
PREFIXES: Mapping[Kind, str] = {"bbox": "", "segm": "segm/", "keypoints": "keypoints/"}
_AREAS = {"": "all", "s": "small", "m": "medium", "l": "large"}
_KEYPOINT_DETECTIONS = 20  # per image and class, where COCO has 100 for boxes and masks


@dataclass(frozen=True)
class Table:
    """Objects of many images, or detections, in columns with one entry each.

    Args:
        image: int64 (n,), the number of the image.
        label: int64 (n,), class indices from 0.
        boxes: float64 (n, 4), x0, y0, x1, y1.
        score: float64 (n,) of detections; of objects all 1.
        area: float64 (n,) of objects; what COCO computes for detections is not in here.
        iscrowd: bool (n,) of objects.
        masks: `counts` of COCO's compressed RLE; None if masks are not evaluated.
        keypoints: float64 (n, K, 3), x, y and visibility; None if keypoints are not evaluated.
    """

    image: Array
    label: Array
    boxes: Array
    score: Array
    area: Array
    iscrowd: Array
    masks: list[str] | None = None
    keypoints: Array | None = None

    def __len__(self) -> int:
        """Return the number of entries."""
        return len(self.image)

    def select(self, chosen: Array) -> Table:
        """Return some of the entries.

        Args:
            chosen: their places, in order.
        """
        masks = None if self.masks is None else [self.masks[place] for place in chosen.tolist()]
        names = ("image", "label", "boxes", "score", "area", "iscrowd")
        columns = {name: getattr(self, name)[chosen] for name in names}
        keypoints = None if self.keypoints is None else self.keypoints[chosen]
        return Table(**columns, masks=masks, keypoints=keypoints)


def joined(tables: Sequence[Table]) -> Table:
    """Return the entries of tables one after the other; at least one table."""
    first = tables[0]
    if len(tables) == 1:
        return first
    names = ("image", "label", "boxes", "score", "area", "iscrowd")
    columns = {name: np.concatenate([getattr(table, name) for table in tables]) for name in names}
    masks = None if first.masks is None else [mask for table in tables for mask in table.masks or ()]
    points = None if first.keypoints is None else np.concatenate([table.keypoints for table in tables])
    return Table(**columns, masks=masks, keypoints=points)


@dataclass(frozen=True)
class Curves:
    """Precision and recall of one kind of annotation.

    Args:
        precision: float64 (10, 101, K, A): at the IoU thresholds 0.50, 0.55, ... 0.95, recalls 0, 0.01, ... 1, of
            each class, for objects of all sizes, small, medium and large ones (keypoints: without small); -1 for a
            class without objects.
        recall: float64 (10, K, A), the highest one.
        areas: names of the A sizes.
    """

    precision: Array
    recall: Array
    areas: tuple[str, ...]

    def scores(self) -> dict[str, float]:
        """Return COCO's summary: AP, AP50, AP75, APs, APm, APl, AR; NaN without objects of that size."""
        found = {"AP": _mean(self.precision[..., 0])}
        found |= {"AP50": _mean(self.precision[:1, ..., 0]), "AP75": _mean(self.precision[5:6, ..., 0])}
        for suffix, area in _AREAS.items():
            if suffix and area in self.areas:
                found[f"AP{suffix}"] = _mean(self.precision[..., self.areas.index(area)])
        return found | {"AR": _mean(self.recall[..., 0])}

    def class_scores(self) -> dict[str, list[float]]:
        """Return AP, AP50 and AP75 of each class, in the order of classes; NaN of a class without objects."""
        thresholds = {"AP": slice(None), "AP50": slice(0, 1), "AP75": slice(5, 6)}
        classes = range(self.precision.shape[2])
        return {
            name: [_mean(self.precision[chosen, :, k, 0]) for k in classes] for name, chosen in thresholds.items()
        }


def summary_names(kind: Kind) -> list[str]:
    """Return the names of the scores of a kind of annotation, in the order of records.

    >>> summary_names("keypoints")
    ['AP', 'AP50', 'AP75', 'APm', 'APl', 'AR']
    """
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR")
    return [name for name in names if (kind, name) != ("keypoints", "APs")]


def coco_curves(
    kind: Kind,
    sizes: Mapping[int, tuple[int, int]],
    truths: Table,
    detections: Table,
    num_classes: int,
    max_detections: int = 100,
    sigmas: Sequence[float] = (),
) -> Curves:
    """Return precision and recall over images, equal to pycocotools' to the last bit.

    Args:
        kind: what is compared: boxes, masks or keypoints.
        sizes: (H, W) of each image, by its number.
        truths: objects and crowd regions, of images in `sizes`.
        detections: in images in `sizes`.
        num_classes: K.
        max_detections: per image and class; those with the highest scores count. For keypoints at most 20.
        sigmas: of keypoints.

    Raises:
        ConfigError: neither hotcoco nor pycocotools is installed.

    >>> one = Table(*map(np.array, ([7], [0], [[0.0, 0.0, 10.0, 10.0]], [0.5], [100.0], [False])))
    >>> curves = coco_curves("bbox", {7: (20, 20)}, one, one, num_classes=2)
    >>> {name: round(score, 9) for name, score in curves.scores().items()}
    {'AP': 1.0, 'AP50': 1.0, 'AP75': 1.0, 'APs': 1.0, 'APm': nan, 'APl': nan, 'AR': 1.0}
    """
    module = coco_module()
    is_fast = module.__name__ == "hotcoco"
    evaluation = (_hotcoco if is_fast else _pycocotools)(module, kind, sizes, truths, detections, num_classes)
    parameters = evaluation.params
    largest = min(max_detections, _KEYPOINT_DETECTIONS) if kind == "keypoints" else max_detections
    parameters.maxDets = [largest]
    if kind == "keypoints":
        parameters.kpt_oks_sigmas = [float(each) for each in sigmas] if is_fast else np.array(sigmas, float)
    with _quiet(is_fast):
        evaluation.evaluate()
        evaluation.accumulate()
    # The last dimension is the number of detections: there is one.
    precision, recall = (np.asarray(evaluation.eval[name])[..., -1] for name in ("precision", "recall"))
    return Curves(precision, recall, tuple(parameters.areaRngLbl))


def coco_module() -> Any:
    """Return hotcoco, or the slower pycocotools.cocoeval if that alone is installed.

    Raises:
        ConfigError: neither is installed.
    """
    for name in ("hotcoco", "pycocotools.cocoeval"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise ConfigError("the scores of detection need the package hotcoco; pip install 'warmstart[detection]'")


def _mean(values: Array) -> float:
    """Return the mean of the values that are not -1, which means none, as pycocotools computes it."""
    found = values[values > -1]
    return float(np.mean(found)) if found.size else math.nan


def _images(sizes: Mapping[int, tuple[int, int]]) -> list[dict[str, Any]]:
    return [{"id": number, "height": size[0], "width": size[1]} for number, size in sizes.items()]


def _categories(num_classes: int) -> list[dict[str, Any]]:
    return [{"id": number, "name": str(number)} for number in range(1, num_classes + 1)]


def sides(boxes: Array) -> Array:
    """Return boxes x0, y0, x1, y1 as x, y, width, height.

    >>> sides(np.array([[1.0, 2.0, 4.0, 8.0]])).tolist()
    [[1.0, 2.0, 3.0, 6.0]]
    """
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def coco_dicts(
    table: Table, kind: Kind, sizes: Mapping[int, tuple[int, int]], is_truth: bool
) -> list[dict[str, Any]]:
    """Return objects as in COCO's annotation files, or detections as in its result files.

    Args:
        table: the objects; image numbers are written as they are, class k as category k + 1.
        sizes: (H, W) of each image, by its number.
        kind: what is annotated; a detection has that alone, because pycocotools takes its area from the box if it
            has one.
        is_truth: whether these are objects.
    """
    found: list[dict[str, Any]] = [
        {"image_id": image, "category_id": label + 1}
        for image, label in zip(table.image.tolist(), table.label.tolist(), strict=True)
    ]
    columns: dict[str, Any] = {} if is_truth else {"score": table.score.tolist()}
    if is_truth or kind == "bbox":
        columns["bbox"] = sides(table.boxes).tolist()
    if kind == "segm":
        columns["segmentation"] = _rles(table, sizes)
    if kind == "keypoints" and table.keypoints is not None:
        columns["keypoints"] = [points.ravel().tolist() for points in table.keypoints]
        if is_truth:
            columns["num_keypoints"] = (table.keypoints[:, :, 2] > 0).sum(axis=1).tolist()
    if is_truth:
        columns |= {"area": table.area.tolist(), "iscrowd": table.iscrowd.astype(int).tolist()}
        columns["id"] = range(1, len(table) + 1)  # 0 would be taken for no match
    for name, column in columns.items():
        for entry, value in zip(found, column, strict=True):
            entry[name] = value
    return found


def _rles(table: Table, sizes: Mapping[int, tuple[int, int]]) -> list[dict[str, Any]]:
    sides_of = {image: [*size] for image, size in sizes.items()}
    found = zip(table.image.tolist(), table.masks or (), strict=True)
    return [{"size": sides_of[image], "counts": counts} for image, counts in found]


def _hotcoco(
    module: Any,
    kind: Kind,
    sizes: Mapping[int, tuple[int, int]],
    truths: Table,
    detections: Table,
    num_classes: int,
) -> Any:
    """Return an evaluation that has taken the columns as arrays; keypoints, which are few, as dicts."""
    images, categories = _images(sizes), _categories(num_classes)
    if kind == "keypoints":
        objects = coco_dicts(truths, kind, sizes, is_truth=True)
        truth = module.COCO({"images": images, "categories": categories, "annotations": objects})
        return module.COCOeval(truth, truth.load_res(coco_dicts(detections, kind, sizes, is_truth=False)), kind)
    options: dict[str, Any] = {"area": truths.area, "iscrowd": truths.iscrowd.astype(np.int64)}
    columns = truths.image, truths.label + 1, sides(truths.boxes)
    masks = {"segmentation": _rles(truths, sizes)} if kind == "segm" else {}
    truth = module.COCO.from_arrays(images, categories, *columns, **options, **masks)
    numbers = [each[:, None] for each in (detections.image, detections.score, detections.label + 1)]
    rows = np.concatenate([numbers[0], sides(detections.boxes), *numbers[1:]], axis=1)
    if kind == "bbox":
        return module.COCOeval(truth, truth.load_res(rows), kind)
    encoded = _rles(detections, sizes)
    found = truth.load_res(rows, segmentation=encoded)
    if encoded:  # load_res takes the areas of the boxes
        areas = np.asarray(module.mask.area(encoded), np.float64)
        found.update_anns(ids=np.arange(1, len(rows) + 1), area=areas)
    return module.COCOeval(truth, found, kind)


def _pycocotools(
    module: Any,
    kind: Kind,
    sizes: Mapping[int, tuple[int, int]],
    truths: Table,
    detections: Table,
    num_classes: int,
) -> Any:
    from pycocotools.coco import COCO

    truth = COCO()
    truth.dataset = {
        "images": _images(sizes),
        "categories": _categories(num_classes),
        "annotations": coco_dicts(truths, kind, sizes, is_truth=True),
    }
    with _quiet():
        truth.createIndex()
        entries = coco_dicts(detections, kind, sizes, is_truth=False)
        found = truth.loadRes(entries) if entries else COCO()  # loadRes fails without an entry
    return module.COCOeval(truth, found, kind)


@contextlib.contextmanager
def _quiet(is_silent: bool = False) -> Any:
    """Keep what pycocotools prints off the console; `is_silent`: nothing is printed."""
    with contextlib.nullcontext() if is_silent else contextlib.redirect_stdout(io.StringIO()):
        yield
