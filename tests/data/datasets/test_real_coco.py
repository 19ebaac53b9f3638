"""Genuine annotations of COCO val2017, against pycocotools.

$WARMSTART_REAL_DATA is a folder with coco/instances.json and coco/rle.json: tests/data/assets/coco in the source
archive of labelbox 7.17.0 on PyPI, SHA-256 0714b355a4398d4d2fc6be54e9989331c3cedf0dc79ddd378514ecfd72894752. The
annotations are CC BY 4.0.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from warmstart.data import build_dataset, dataset_info, encode_mask, masks_of, object_problems, rle_of

FOLDER = Path(os.environ.get("WARMSTART_REAL_DATA", "")) / "coco"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        "WARMSTART_REAL_DATA" not in os.environ or not (FOLDER / "rle.json").is_file(),
        reason="WARMSTART_REAL_DATA names no folder with coco/instances.json and coco/rle.json",
    ),
    pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning"),  # pycocotools with numpy 2
]


@pytest.mark.parametrize(("name", "objects", "crowds"), [("instances", 62, 0), ("rle", 231, 10)])
def test_genuine_annotations_equal_those_of_pycocotools(
    tmp_path: Path, name: str, objects: int, crowds: int
) -> None:
    path = FOLDER / f"{name}.json"
    for image in json.loads(path.read_text())["images"]:
        Image.new("L", (image["width"], image["height"])).save(tmp_path / image["file_name"])
    entry = {"coco": {"path": str(path), "images": str(tmp_path)}}
    dataset, theirs = build_dataset(entry, "", cache=str(tmp_path)), COCO(str(path))
    info = dataset_info(entry, "", cache=str(tmp_path))
    assert (len(dataset), info.num_classes, info.annotations) == (10, 80, ("boxes", "masks"))
    assert (sum(info.object_counts), int(dataset.packed.iscrowd.sum())) == (objects - crowds, crowds)
    for index, number in enumerate(dataset.image_ids.tolist()):
        found, annotations = dataset[index][1], theirs.loadAnns(theirs.getAnnIds(number))
        masks = masks_of(found)
        assert found.ids.tolist() == [each["id"] for each in annotations]
        assert [dataset.category_ids[label] for label in found.labels] == [
            each["category_id"] for each in annotations
        ]
        assert found.area.tolist() == [each["area"] for each in annotations]
        corners = [[x, y, x + width, y + height] for x, y, width, height in (each["bbox"] for each in annotations)]
        assert found.boxes.tolist() == corners
        assert np.array_equal(masks, [theirs.annToMask(each) for each in annotations])
        assert found.segmentations is not None
        for mask, shape, annotation in zip(masks, found.segmentations, annotations, strict=True):
            expected = theirs.annToRLE(annotation)
            assert encode_mask(mask)["counts"].encode() == expected["counts"]
            assert rle_of(shape, found.size)["counts"] in (expected["counts"], expected["counts"].decode())
        assert {problem.kind for problem in object_problems(found)} <= {"mask"}
