"""COCO's scores against pycocotools, to the last bit."""

from __future__ import annotations

import contextlib
import io
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warmstart.config import ConfigError
from warmstart.tasks import coco_scores
from warmstart.tasks.coco_scores import Kind, Table, coco_curves, summary_names

pytest.importorskip("pycocotools")
pytest.importorskip("hotcoco")

SIGMAS = (0.03, 0.1, 0.07)
KINDS: tuple[Kind, ...] = ("bbox", "segm", "keypoints")


def random_table(rng: np.random.Generator, images: int, classes: int, most: int, is_truth: bool) -> Table:
    """Objects with boxes on a coarse grid, so that ties of scores and overlaps on a threshold occur."""
    from pycocotools import mask

    counts = rng.integers(0, most + 1, images)
    image = np.repeat(np.arange(images) * 3, counts)
    n = len(image)
    corner, side = rng.integers(0, 60, (n, 2)), rng.choice([2, 10, 20, 33, 97, 130], (n, 2))
    boxes = np.concatenate([corner, corner + side], axis=1).astype(float)
    masks = []
    for x0, y0, x1, y1 in boxes.astype(int).tolist():
        array = np.zeros((200, 200), np.uint8, order="F")
        array[y0:y1, x0 : x1 - (x1 - x0) // 3] = 1
        masks.append(mask.encode(array)["counts"].decode())
    points = np.concatenate([rng.integers(0, 200, (n, 3, 2)), rng.integers(0, 3, (n, 3, 1))], axis=2).astype(float)
    score = np.ones(n) if is_truth else rng.choice([0.1, 0.5, 0.5, 0.9, float(np.float32(0.3))], n)
    crowd = rng.random(n) < 0.2 if is_truth else np.zeros(n, bool)
    area = np.prod(side, axis=1) * rng.choice([0.5, 1.0], n)
    return Table(image, rng.integers(0, classes, n), boxes, score, area, crowd, masks, points)


def oracle(
    kind: Kind, sizes: dict[int, tuple[int, int]], truths: Table, found: Table, classes: int
) -> list[float]:
    """pycocotools' own summary and AP of each class, from dicts written here."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def entry(table: Table, place: int) -> dict[str, Any]:
        x0, y0, x1, y1 = table.boxes[place].tolist()
        parts: dict[str, Any] = {
            "bbox": {"bbox": [x0, y0, x1 - x0, y1 - y0]},
            "segm": {"segmentation": {"size": [200, 200], "counts": (table.masks or [])[place]}},
            "keypoints": {"keypoints": table.keypoints[place].ravel().tolist()},  # type: ignore[index]
        }
        base = {"image_id": int(table.image[place]), "category_id": int(table.label[place])}
        if table is found:
            return base | parts[kind] | {"score": float(table.score[place])}
        number = int((table.keypoints[place, :, 2] > 0).sum())  # type: ignore[index]
        facts = {"area": float(table.area[place]), "iscrowd": int(table.iscrowd[place]), "num_keypoints": number}
        return base | parts["bbox"] | parts[kind] | facts | {"id": place + 1}

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": number, "height": size[0], "width": size[1]} for number, size in sizes.items()],
            "categories": [{"id": number, "name": f"c{number}"} for number in range(classes)],
            "annotations": [entry(truths, place) for place in range(len(truths))],
        }
        truth.createIndex()
        results = [entry(found, place) for place in range(len(found))]
        evaluation = COCOeval(truth, truth.loadRes(results) if results else COCO(), kind)
        if kind == "keypoints":
            evaluation.params.kpt_oks_sigmas = np.array(SIGMAS)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    stats = evaluation.stats.tolist()
    summary = stats[:6] + [stats[8]] if kind != "keypoints" else stats[:6]
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    each = [values[values > -1] for values in np.moveaxis(precision, 2, 0)]
    return [math.nan if value == -1 else value for value in summary] + [
        float(np.mean(values)) if len(values) else math.nan for values in each
    ]


def ours(kind: Kind, sizes: dict[int, tuple[int, int]], truths: Table, found: Table, classes: int) -> list[float]:
    curves = coco_curves(kind, sizes, truths, found, classes, sigmas=SIGMAS)
    assert [*curves.scores()] == summary_names(kind)
    return [*curves.scores().values(), *curves.class_scores()["AP"]]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(1, 3), st.integers(0, 9), st.integers(0, 12))
@pytest.mark.parametrize("kind", KINDS)
def test_scores_of_random_detections_are_those_of_pycocotools(
    kind: Kind, seed: int, images: int, classes: int, objects: int, detections: int
) -> None:
    rng = np.random.default_rng(seed)
    truths = random_table(rng, images, classes, objects, is_truth=True)
    found = random_table(rng, images, classes, detections, is_truth=False)
    sizes = {number * 3: (200, 200) for number in range(images)}
    expected = oracle(kind, sizes, truths, found, classes)
    np.testing.assert_array_equal(ours(kind, sizes, truths, found, classes), expected)


def test_scores_by_pycocotools_are_those_by_hotcoco(monkeypatch: pytest.MonkeyPatch) -> None:
    import pycocotools.cocoeval

    rng, sizes = np.random.default_rng(1), {0: (200, 200), 3: (200, 200)}
    truths, found = random_table(rng, 2, 2, 9, is_truth=True), random_table(rng, 2, 2, 9, is_truth=False)
    empty = found.select(np.arange(0))
    for kind in KINDS:
        expected = [ours(kind, sizes, truths, each, 2) for each in (found, empty)]
        with monkeypatch.context() as patch:
            patch.setattr(coco_scores, "coco_module", lambda: pycocotools.cocoeval)
            np.testing.assert_array_equal(
                [ours(kind, sizes, truths, each, 2) for each in (found, empty)], expected
            )


@pytest.mark.parametrize("kind", KINDS)
def test_scores_print_nothing(kind: Kind, capfd: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(1)
    truths, found = random_table(rng, 2, 2, 9, is_truth=True), random_table(rng, 2, 2, 9, is_truth=False)
    ours(kind, {0: (200, 200), 3: (200, 200)}, truths, found, 2)
    assert capfd.readouterr() == ("", "")


def test_coco_module_names_the_extra_if_neither_package_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(coco_scores.importlib, "import_module", missing)
    with pytest.raises(ConfigError, match=r"need the package hotcoco; pip install 'warmstart\[detection\]'"):
        coco_scores.coco_module()
