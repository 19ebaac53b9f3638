"""Objects in COCO's annotation files: what is read, kept, refused."""

from __future__ import annotations

import json
import logging
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as oracle
from pycocotools.coco import COCO

from warmstart.config import ConfigError
from warmstart.data import build_dataset, dataset_info, masks_of
from warmstart.data.datasets import coco as module
from warmstart.data.datasets.part import digest_of

Write = Callable[..., dict[str, Any]]
Content = dict[str, Any]

pytestmark = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # pycocotools with numpy 2


def test_coco_gives_images_and_objects(write_coco: Write) -> None:
    dataset = build_dataset(write_coco(), "")
    assert (dataset.classes, dataset.category_ids) == (("cat", "fox"), (3, 7))
    assert dataset.names == ["a.png", "b.png", "c.png"]
    assert dataset.sizes.tolist() == [[8, 10], [6, 6], [5, 4]]
    assert dataset.image_ids.tolist() == [30, 10, 20]
    assert (dataset.annotations, dataset.object_counts) == (("boxes", "masks"), (0, 2))
    assert dataset.notes == ["1 of 3 images have no objects", "1 of 2 classes have no objects: cat"]
    image, objects = dataset[0]
    assert (image.shape, image[:, 0, 0].tolist()) == ((3, 8, 10), [10, 20, 30])
    assert objects.boxes.tolist() == [[1, 2, 5, 5], [0, 0, 2, 2]]
    assert (objects.labels.tolist(), objects.ids.tolist()) == ([0, 1], [2, 4])
    assert (objects.iscrowd.tolist(), objects.area.tolist()) == ([True, False], [6.0, 4.0])
    assert (objects.size, objects.name) == ((8, 10), "image 30 (a.png)")
    assert (len(dataset[1][1]), dataset[1][1].boxes.shape) == (0, (0, 4))
    assert dataset[2][1].boxes.tolist() == [[0.5, 1.0, 2.75, 4.0]]


def test_coco_masks_equal_those_of_pycocotools(write_coco: Write, capsys: pytest.CaptureFixture[str]) -> None:
    entry = write_coco()
    dataset, theirs = build_dataset(entry, ""), COCO(entry["coco"]["path"])
    for index, image in enumerate(dataset.image_ids.tolist()):
        masks = masks_of(dataset[index][1])
        expected = [theirs.annToMask(each) for each in theirs.loadAnns(theirs.getAnnIds(image))]
        assert np.array_equal(masks, np.array(expected, np.uint8).reshape(masks.shape))


def test_coco_computes_missing_areas(write_coco: Write, coco_content: Content) -> None:
    compressed = oracle.encode(np.asfortranarray(np.eye(8, 10, dtype=np.uint8)))
    coco_content["annotations"][1]["segmentation"] = {"size": [8, 10], "counts": compressed["counts"].decode()}
    for annotation in coco_content["annotations"]:
        del annotation["area"]
    dataset = build_dataset(write_coco(), "")
    assert [dataset[index][1].area.tolist() for index in range(3)] == [[8.0, 4.0], [], [3.375]]
    del coco_content["annotations"][0]["segmentation"]
    assert build_dataset(write_coco(), "")[2][1].area.tolist() == [6.75]


def test_coco_takes_some_classes_in_their_order(write_coco: Write) -> None:
    dataset = build_dataset(write_coco(classes=["fox"]), "")
    assert (dataset.classes, dataset.category_ids, dataset.object_counts) == (("fox",), (7,), (2,))
    assert dataset[0][1].ids.tolist() == [4]
    assert dataset.notes[0] == "1 of 3 objects are of other classes and not used"
    assert build_dataset(write_coco(classes=["fox", "cat"]), "")[0][1].labels.tolist() == [1, 0]


def test_coco_warns_of_boxes_without_area_and_of_missing_masks(write_coco: Write, coco_content: Content) -> None:
    coco_content["annotations"][2] |= {"bbox": [1, 1, 0, 3], "segmentation": []}
    dataset = build_dataset(write_coco(), "")
    assert dataset.warnings == [
        "1 of 3 boxes have no area and are left out of training; the first is annotation 4 of image 30 (a.png)",
        "1 of 3 objects have no segmentation, so that masks are not used; the first is annotation 4 of image 30"
        " (a.png)",
    ]
    assert dataset.annotations == ("boxes",)
    assert dataset[0][1].segmentations is None


def test_coco_reads_images_beside_the_file_and_their_sizes(write_coco: Write, coco_content: Content) -> None:
    for image in coco_content["images"]:
        image["file_name"] = f"images/{image['file_name']}"
        del image["height"]
    entry = write_coco()
    del entry["coco"]["images"]
    dataset = build_dataset(entry, "")
    assert dataset.sizes.tolist() == [[8, 10], [6, 6], [5, 4]]
    assert dataset[0][1].name == "image 30 (images/a.png)"


def test_coco_refuses_an_image_of_another_size_when_it_is_read(write_coco: Write, coco_content: Content) -> None:
    coco_content["images"][1] |= {"height": 3}
    coco_content["images"][0] |= {"height": 10, "width": 8}
    coco_content["annotations"][1]["segmentation"]["size"] = [10, 8]
    dataset = build_dataset(write_coco(), "")
    with pytest.raises(OSError, match="it is 6x6 .*, but its annotations say 3x6; correct the size"):
        dataset[1]
    with pytest.raises(OSError, match="it is 8x10 .* say 10x8; annotations are of the image as its EXIF"):
        dataset[0]


POINTS = {"keypoints": ["nose", "left_eye", "right_eye"], "skeleton": [[1, 2], [1, 3]]}


def test_coco_reads_keypoints(write_coco: Write, coco_content: Content) -> None:
    coco_content["categories"][0] |= POINTS
    coco_content["annotations"][0]["keypoints"] = [1, 1, 2, 2.5, 3, 1, 0, 0, 0]
    dataset = build_dataset(write_coco(sigmas=[0.1, 0.2, 0.3]), "")
    assert dataset.annotations == ("boxes", "masks", "keypoints")
    info = dataset.keypoint_info
    assert (info.names, info.skeleton) == (("nose", "left_eye", "right_eye"), ((0, 1), (0, 2)))
    assert (info.flip_pairs, info.sigmas) == (((1, 2),), (0.1, 0.2, 0.3))
    assert dataset[2][1].keypoints.tolist() == [[[1, 1, 2], [2.5, 3, 1], [0, 0, 0]]]
    assert dataset[0][1].keypoints.tolist() == [[[0, 0, 0]] * 3] * 2  # objects of a category without keypoints
    assert dataset_info(write_coco(), "").keypoints.sigmas == (0.05, 0.05, 0.05)
    renamed = build_dataset(write_coco(keypoint_names=["a", "b", "c"], skeleton=[["a", "c"]], flip_pairs=[]), "")
    assert (renamed.keypoint_info.skeleton, renamed.keypoint_info.flip_pairs) == (((0, 2),), ())


def test_coco_info_is_found_without_decoding_all_images(
    write_coco: Write, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "warmstart"):
        info = dataset_info(write_coco(), "")
    assert (info.size, info.num_classes, info.classes, info.channels) == (3, 2, ("cat", "fox"), 3)
    assert (info.annotations, info.object_counts, info.class_counts) == (("boxes", "masks"), (0, 2), ())
    assert info.sizes == ((5, 4), (8, 10))
    assert "1 of 3 images have no objects" in caplog.text


def test_coco_digest_follows_names_and_annotations_but_not_places(
    write_coco: Write, coco_content: Content, tmp_path: Path
) -> None:
    first = digest_of(build_dataset(write_coco(), ""))
    os.rename(tmp_path / "annotations.json", tmp_path / "moved.json")
    os.rename(tmp_path / "images", tmp_path / "moved")
    moved = {"coco": {"path": str(tmp_path / "moved.json"), "images": str(tmp_path / "moved")}}
    assert digest_of(build_dataset(moved, "")) == first
    coco_content["annotations"][0]["bbox"][0] = 0.25
    assert digest_of(build_dataset(write_coco(), "")) != first


def test_coco_file_is_parsed_once(
    write_coco: Write, coco_content: Content, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    original = module.read_coco
    monkeypatch.setattr(module, "read_coco", lambda path, classes: (read.append(path), original(path, classes))[1])
    entry = write_coco()
    first, second = build_dataset(entry, ""), build_dataset(entry, "")
    assert len(read) == 1
    for one, other in zip(first, second, strict=True):
        assert vars(one[1]).keys() == vars(other[1]).keys()
        assert repr(one[1]) == repr(other[1])
    assert (first.notes, first.names, first.category_ids) == (second.notes, second.names, second.category_ids)
    coco_content["annotations"].pop()
    build_dataset(write_coco(), "")
    build_dataset(write_coco(classes=["fox"]), "")
    assert len(read) == 3


def test_coco_cache_that_is_damaged_is_made_again(
    write_coco: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    entry = write_coco()
    build_dataset(entry, "", cache=str(tmp_path / "kept"))
    (kept,) = (tmp_path / "kept").iterdir()
    content = bytearray(kept.read_bytes())
    content[len(content) // 2] ^= 1
    kept.write_bytes(content)
    dataset = build_dataset(entry, "", cache=str(tmp_path / "kept"))
    assert "is read again" in caplog.text
    assert len(dataset) == 3
    with np.load(kept) as arrays:
        assert arrays["labels"].tolist() == [0, 1, 1]


def test_coco_reports_an_unwritable_cache(write_coco: Write, caplog: pytest.LogCaptureFixture) -> None:
    assert len(build_dataset(write_coco(), "", cache="/dev/null/kept")) == 3
    assert "so that" in caplog.text
    assert "is read in every run" in caplog.text


def test_coco_data_set_is_pickled_for_spawned_workers(write_coco: Write) -> None:
    dataset = build_dataset(write_coco(), "")
    assert repr(pickle.loads(pickle.dumps(dataset))[0][1]) == repr(dataset[0][1])


def test_coco_parts_hold_out_images_with_their_objects(write_coco: Write) -> None:
    parts = {part: build_dataset(write_coco(holdout=0.4, part=part), "") for part in ("train", "test")}
    assert {part: found.names for part, found in parts.items()} == {"train": ["a.png"], "test": ["b.png", "c.png"]}
    assert parts["train"][0][1].ids.tolist() == [2, 4]
    assert parts["test"][1][1].boxes.tolist() == [[0.5, 1.0, 2.75, 4.0]]
    assert parts["test"].image_ids.tolist() == [10, 20]
    assert len({digest_of(part) for part in parts.values()}) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "it is not JSON: "),
        ("[]", "it holds a list, such as a file of results; an annotation file is a mapping"),
        ('{"images": [], "categories": []}', "it has no list of annotations"),
        (
            '{"images": [{}], "annotations": [], "categories": []}',
            r"images\[0\] has no id; an id is a whole number",
        ),
        ('{"images": [], "annotations": [], "categories": [{"id": "1"}]}', r"categories\[0\] has the id '1'"),
        ('{"images": [], "annotations": [], "categories": []}', "it has no categories; add one for each class"),
        (
            '{"images": [{"id": 1}], "annotations": [], "categories": [{"id": 1, "name": "a"}]}',
            "image 1 has the file_name None",
        ),
    ],
)
def test_coco_refuses_other_files(write_coco: Write, content: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"coco:.*annotations.json cannot be read: {message}"):
        build_dataset(write_coco(content), "")


@pytest.mark.parametrize(
    ("place", "changes", "message"),
    [
        ("images", {"id": 10}, "1 of 2 ids of images occur more than once, the first is 10; make"),
        ("images", {"width": 2.5}, r"image 30 \(a.png\) has height 8 and width 2.5; give pixels"),
        ("categories", {"name": "cat"}, "two categories are called cat; give them different names"),
        ("categories", {"name": None}, "category 7 has the name None"),
        ("categories", {"keypoints": "nose"}, "category 7 has keypoints 'nose'; give a list of names"),
        ("categories", POINTS | {"skeleton": [[0, 1]]}, r"category 7 has \[0, 1\] in its skeleton; .* 1 to 3"),
        ("annotations", {"id": 2}, "1 of 2 ids of annotations occur more than once, the first is 2"),
        ("annotations", {"image_id": 9}, "annotation 1: image_id 9 is not the id of an image"),
        (
            "annotations",
            {"category_id": 1},
            r"annotation 1 of image 20 \(c.png\): category_id 1 is not the id of a",
        ),
        (
            "annotations",
            {"bbox": None},
            r"annotation 1 of image 20 \(c.png\): bbox is None; it is 4 finite numbers",
        ),
        ("annotations", {"bbox": [1, 2, 3, float("nan")]}, r"bbox is \[1, 2, 3, nan\]; it is 4 finite numbers"),
        ("annotations", {"bbox": [3, 3, -1, 2]}, r"bbox is \[3, 3, -1, 2\]; COCO's boxes are x, y, width, height"),
        ("annotations", {"iscrowd": 2}, "iscrowd is 2; it is 0 or 1"),
        ("annotations", {"area": -1}, "area is -1; it is a number from 0, or missing"),
        ("annotations", {"segmentation": [[1, 1, 2, 2]]}, "it has a polygon of 4 numbers; three points or more"),
        (
            "annotations",
            {"segmentation": [1, 1, 2, 2, 3, 3]},
            r"its segmentation has 1; a polygon is a list \[x, y",
        ),
        (
            "annotations",
            {"segmentation": {"size": [4, 5], "counts": [20]}},
            r"size \[4, 5\]; the image has \[5, 4\]",
        ),
        ("annotations", {"segmentation": {"size": [5, 4], "counts": [19]}}, "its RLE covers 19 pixels; .* has 20"),
        ("annotations", {"segmentation": {"size": [5, 4], "counts": "\x7f"}}, "its RLE has damaged counts"),
        ("annotations", {"segmentation": {"size": [5, 4]}}, "its RLE has counts are neither"),
    ],
)
def test_coco_refuses_wrong_entries(
    write_coco: Write, coco_content: Content, place: str, changes: Content, message: str
) -> None:
    coco_content[place][0] |= changes
    with pytest.raises(ConfigError, match=f"annotations.json cannot be read: .*{message}"):
        build_dataset(write_coco(), "")


def test_coco_counts_annotations_with_mistakes(write_coco: Write, coco_content: Content) -> None:
    for annotation in coco_content["annotations"]:
        annotation["bbox"] = []
    with pytest.raises(ConfigError, match=r"annotation 1 of .*: bbox is \[\].*; 3 annotations have mistakes"):
        build_dataset(write_coco(), "")


def test_coco_refuses_wrong_keypoints(write_coco: Write, coco_content: Content) -> None:
    coco_content["categories"][0] |= POINTS
    coco_content["annotations"][0]["keypoints"] = [1, 1, 2, 2.5, 3, 1]
    with pytest.raises(ConfigError, match="keypoints are 6 values; 3 keypoints need 9 numbers: x, y"):
        build_dataset(write_coco(), "")
    coco_content["annotations"][0]["keypoints"] = [1, 1, 3] * 3
    with pytest.raises(ConfigError, match="the visibility of a keypoint is 0"):
        build_dataset(write_coco(), "")
    coco_content["categories"][1]["keypoints"] = ["tail"]
    with pytest.raises(ConfigError, match="the categories 3 and 7 have different keypoints"):
        build_dataset(write_coco(), "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": ["foxes"]}, "classes: there is no category 'foxes'; did you mean 'fox'"),
        ({"classes": ["fox", "fox"]}, "classes: .* is not a list of different names"),
        ({"sigmas": [0.1]}, "its categories have no keypoints, so that .* have no effect; leave them out"),
        ({"images": "nowhere"}, "images: there is no folder nowhere"),
        ({"image": "x"}, "coco takes no argument 'image'; did you mean 'images'"),
    ],
)
def test_coco_refuses_wrong_options(write_coco: Write, options: Content, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_dataset(write_coco(**options), "")


def test_coco_names_missing_files_and_folders(write_coco: Write, tmp_path: Path) -> None:
    entry = write_coco()
    del entry["coco"]["images"]
    with pytest.raises(ConfigError, match=r"3 of 3 files are not in .*: a.png.*; the first is in images/: set"):
        build_dataset(entry, "")
    (tmp_path / "annotations").mkdir()
    os.rename(tmp_path / "annotations.json", tmp_path / "annotations" / "train.json")
    entry["coco"]["path"] = str(tmp_path / "annotations" / "train.json")
    with pytest.raises(ConfigError, match=rf"the first is in .*images: set images: {tmp_path}/images"):
        build_dataset(entry, "")
    entry["coco"]["path"] = str(tmp_path / "annotations")
    with pytest.raises(ConfigError, match=r"it is a folder; name the annotation file, such as .*train.json"):
        build_dataset(entry, "")
    entry["coco"]["path"] = str(tmp_path / "annotations" / "trains.json")
    with pytest.raises(ConfigError, match=r"was not found .*; did you mean .*train.json"):
        build_dataset(entry, "")


def test_coco_test_set_may_lack_classes(write_coco: Write, coco_content: Content) -> None:
    from warmstart.data.datasets.part import with_classes

    dataset = with_classes(build_dataset(write_coco(), ""), ["ant", "cat", "dog", "fox"])
    assert dataset[0][1].labels.tolist() == [1, 3]
    assert (dataset.category_ids, dataset.object_counts) == ((-1, 3, -1, 7), (0, 0, 0, 2))
    assert json.dumps(dataset.notes) == json.dumps(
        ["1 of 3 images have no objects", "3 of 4 classes have no objects: ant, cat, dog"]
    )
