"""Reports and pictures of detection."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from warmstart.tasks import Detection, InstanceSegmentation, KeypointDetection
from warmstart.tasks.object_pictures import colour_of, tiled

from .detection_sets import info, objects, perfect

pytest.importorskip("hotcoco")

TRUTHS = [
    objects([[2, 4, 22, 24], [30, 10, 50, 40]], [1, 0]),
    objects([], []),
    objects([[2, 4, 22, 24], [0, 0, 60, 40]], [1, 0], iscrowd=np.array([False, True])),
]


def detections() -> list[dict[str, Tensor]]:
    """The first object is found, the second one as another class, the third one missed; and one of nothing."""
    first = perfect(TRUTHS[0], 0.9)
    first["labels"] = torch.tensor([2, 2])
    second = perfect(objects([[40, 40, 46, 46]], [0]), 0.8)
    third = {name: value[:0] for name, value in perfect(TRUTHS[2]).items()}
    return [first, second, third]


def values_of(task: Detection) -> dict[str, Any]:
    samples = []
    for index, truth in enumerate(TRUTHS):
        sample = task.sample(torch.zeros(3, *truth.size, dtype=torch.uint8), truth)
        task.check(sample, "mine: sample 0")
        samples.append(task.finish(sample) | {"index": index})
    batch = task.collate(samples, training=False)
    evaluator = task.evaluator()
    evaluator.update(task.predict(lambda images: detections(), batch.images), batch.targets)
    evaluator.merge([evaluator.state()])
    evaluator.compute()
    return evaluator.report_values()


def image_of(index: int) -> Tensor:
    return torch.full((3, 48, 64), 40, dtype=torch.uint8)


def test_report_counts_confusions_with_background() -> None:
    task = Detection(info())
    content = task.report(values_of(task), "photo{}.jpg".format).content
    assert content["confusion"] == [[0, 1, 0], [0, 1, 1], [1, 0, 0]]
    rows = content["per_class"]
    assert [(row["class"], row["objects"], row["detected"]) for row in rows] == [("disc", 1, 1), ("bar", 2, 2)]
    assert [(row["precision"], row["recall"]) for row in rows] == [(0.0, 0.0), (0.5, 0.5)]
    assert rows[0]["AP"] == 0.0
    assert rows[1]["AP50"] == pytest.approx(51 / 101)


def test_report_lists_the_images_with_most_mistakes() -> None:
    task = Detection(info())
    report = task.report(values_of(task), "photo{}.jpg".format)
    assert report.tables["worst"] == [
        ["index", "file", "missed", "false", "wrong_class"],
        [0, "photo0.jpg", 0, 0, 1],
        [1, "photo1.jpg", 0, 1, 0],
        [2, "photo2.jpg", 1, 0, 0],
    ]
    assert report.content["worst"][1]["detections"] == [[0, 0.8, 40.0, 40.0, 46.0, 46.0]]


def test_report_has_a_score_threshold() -> None:
    task = Detection(info(), score_threshold=0.85)
    assert task.report(values_of(task), str).content["confusion"] == [[0, 1, 0], [0, 1, 1], [0, 0, 0]]


def test_report_has_curves_of_each_kind() -> None:
    task = InstanceSegmentation(info())
    report = task.report(values_of(task), str)
    assert [*report.content["curves"]] == ["bbox", "segm"]
    assert [*report.tables] == ["confusion", "per_class", "worst", "precision_recall", "precision_recall_segm"]
    assert report.tables["precision_recall"][0] == ["recall", "AP", "AP50", "AP75"]
    assert report.tables["precision_recall"][51] == [0.5, 0.5, 0.5, 0.5]
    assert [*report.content["per_class"][0]][2:8] == ["AP", "AP50", "AP75", "segm/AP", "segm/AP50", "segm/AP75"]


def test_report_by_voc() -> None:
    task = Detection(info(), metric="voc")
    content = json.loads(json.dumps(task.report(values_of(task), str).content))
    assert [row["AP50"] for row in content["per_class"]] == [0.0, pytest.approx(0.5)]
    assert {*task.report_pictures(content, image_of)} == {"per_class", "confusion", "worst"}


@pytest.mark.parametrize("cls", [Detection, InstanceSegmentation, KeypointDetection])
def test_result_files_give_pycocotools_the_scores(cls: type[Detection], tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    task = cls(info())
    values = values_of(task)
    files = task.report_files(values, SimpleNamespace())
    for name, entries in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(entries))
    kind = task.kinds[-1]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(tmp_path / "objects.json"))
        found = truth.loadRes(str(tmp_path / ("detections.json" if kind == "bbox" else f"detections_{kind}.json")))
        evaluation = COCOeval(truth, found, kind)
        if kind == "keypoints":
            evaluation.params.kpt_oks_sigmas = np.array([0.05] * 3)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert evaluation.stats[0] == values["curves"][kind].scores()["AP"]


def test_result_files_have_the_ids_of_the_annotation_file() -> None:
    task = Detection(info())
    dataset = SimpleNamespace(image_ids=np.array([42, 7, 9]), category_ids=(3, 90))
    files = task.report_files(values_of(task), dataset)
    assert [*files] == ["detections"]
    assert [(each["image_id"], each["category_id"]) for each in files["detections"]] == [
        (42, 90),
        (42, 90),
        (7, 3),
    ]
    assert files["detections"][0]["bbox"] == [2.0, 4.0, 20.0, 20.0]


def test_pictures_of_a_report() -> None:
    task = Detection(info())
    content = json.loads(json.dumps(task.report(values_of(task), str).content))
    assert {*task.report_pictures(content, image_of)} == {"per_class", "confusion", "precision_recall", "worst"}


def test_pictures_of_an_evaluation_are_of_fixed_images() -> None:
    task = InstanceSegmentation(info(), pictures=2)
    pictures = task.evaluation_pictures(values_of(task), image_of)
    assert {name: picture.shape for name, picture in pictures.items()} == {"detections": (3, 384, 772)}
    assert InstanceSegmentation(info(), pictures=0).evaluation_pictures(values_of(task), image_of) == {}


def test_draw_shows_boxes_masks_and_keypoints_of_confident_detections() -> None:
    image, found = torch.zeros(1, 400, 400, dtype=torch.uint8), objects([[100, 200, 300, 360]], [1], (400, 400))
    prediction = perfect(found, 0.75) | {"labels": torch.tensor([1])}
    prediction["masks"] = prediction["masks"][:, 0]
    task = InstanceSegmentation(info())
    picture = task.draw(image, prediction)
    assert picture.shape == (3, 400, 400)
    assert tuple(picture[:, 330, 100].tolist()) == colour_of(1)  # an edge
    assert picture[:, 240, 200].tolist() == [int(0.45 * part) for part in colour_of(1)]  # the mask
    assert not picture[:, 330, 200].any()
    assert picture[:, :195].any()  # the name
    hidden = prediction | {"scores": torch.tensor([0.25])}
    assert not task.draw(image, hidden).any()


def test_draw_enlarges_small_images() -> None:
    task = KeypointDetection(info())
    prediction = {**perfect(TRUTHS[0]), "labels": torch.tensor([0, 1])}
    del prediction["masks"]
    assert task.draw(image_of(0), prediction).shape == (3, 288, 384)


def test_tiled_pictures_fit_their_squares() -> None:
    sheet = tiled([torch.zeros(3, 100, 50, dtype=torch.uint8)], side=40)
    assert sheet.shape == (3, 40, 40)
    assert not sheet[:, :, :20].any()
    assert (sheet[:, :, 20:] == 255).all()
