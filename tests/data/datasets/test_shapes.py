"""The drawn shapes: the same pixels everywhere, and annotations that fit them."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from warmstart.config import ConfigError
from warmstart.data import Objects, build_dataset, dataset_info
from warmstart.data.datasets.shapes import Shapes


def _digest(dataset: Shapes) -> str:
    found = hashlib.sha256()
    for index in range(len(dataset)):
        image, objects = dataset[index]
        found.update(np.ascontiguousarray(image).tobytes())
        assert objects.segmentations is not None
        for array in (objects.boxes, objects.labels, objects.keypoints, *objects.segmentations):
            found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:16]


@pytest.mark.parametrize(
    ("part", "size", "digest"),
    [
        ("train", 96, "8ff2ad7e8235039c"),
        ("test", 96, "3454723194bf1712"),
        ("train", (64, 160), "3ad09f139d922923"),
    ],
)
def test_shapes_has_the_same_pixels_and_annotations_on_every_machine(
    part: str, size: int | tuple[int, int], digest: str
) -> None:
    assert _digest(Shapes(part, 32, size)) == digest


def test_shapes_images_do_not_depend_on_the_number() -> None:
    few, many = Shapes("train", 5, (64, 160)), Shapes("train", 5000, (64, 160))
    assert np.array_equal(few[4][0], many[4][0])
    assert np.array_equal(few[4][1].boxes, many[4][1].boxes)


def test_shapes_boxes_areas_and_semantic_map_follow_from_the_masks() -> None:
    dataset = Shapes("test", 100, (48, 128))
    for index in range(len(dataset)):
        image, objects = dataset[index]
        assert image.shape == (*objects.size, 3)
        assert image.dtype == np.uint8
        assert tuple(dataset.sizes[index]) == dataset.size_of(index) == objects.size
        semantic = np.zeros(objects.size, np.uint8)
        assert objects.segmentations is not None
        for mask, box, area, label in zip(
            objects.segmentations, objects.boxes, objects.area, objects.labels, strict=True
        ):
            assert isinstance(mask, np.ndarray)
            rows, columns = np.nonzero(mask)
            assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert area == mask.sum()
            assert not semantic[mask > 0].any()  # the parts that are visible do not overlap
            semantic[mask > 0] = label + 1
        assert np.array_equal(dataset.semantic(index), semantic)


def _points(objects: Objects) -> list[tuple[int, np.ndarray, np.ndarray]]:
    assert objects.keypoints is not None
    return list(zip(objects.labels.tolist(), objects.boxes, objects.keypoints, strict=True))


def test_shapes_keypoints_are_on_the_outline() -> None:
    dataset = Shapes("train", 100)
    seen = {0: 0, 1: 0, 2: 0}
    for index in range(len(dataset)):
        for label, box, points in _points(dataset[index][1]):
            seen = {flag: seen[flag] + int((points[:, 2] == flag).sum()) for flag in seen}
            assert not points[points[:, 2] == 0].any()
            labelled = points[points[:, 2] > 0, :2]
            assert ((labelled >= 0) & (labelled < 96)).all()
            if (points[:, 2] == 2).all():
                top, left, right = points[:, :2]
                assert left[0] <= top[0] <= right[0]
                assert top[1] < max(left[1], right[1])
            if label == 0 and points[0, 2] == 2:  # the top of a circle is the top of its box
                assert abs(points[0, 1] - box[1]) <= 1
    assert seen == {0: 81, 1: 26, 2: 775}


def test_shapes_train_statistics_and_counts_are_of_its_images() -> None:
    dataset, info = Shapes("train", 512), dataset_info("shapes_train", "nowhere")
    images, objects = zip(*(dataset[index] for index in range(len(dataset))), strict=True)
    pixels = np.stack(images)
    assert info.mean == pytest.approx(pixels.mean(axis=(0, 1, 2)) / 255, abs=5e-5)
    assert info.std == pytest.approx(pixels.std(axis=(0, 1, 2)) / 255, abs=5e-5)
    labels = [each.labels for each in objects]
    assert sum(not len(each) for each in labels) == 12
    assert dataset.object_counts == tuple(np.bincount(np.concatenate(labels), minlength=4).tolist())


@pytest.mark.parametrize(("name", "number"), [("shapes_train", 512), ("shapes_test", 128)])
def test_shapes_info_of_registered_names_agrees_with_the_data_set(name: str, number: int) -> None:
    info, dataset = dataset_info(name, "nowhere"), build_dataset(name, "nowhere")
    assert isinstance(dataset, Shapes)
    assert (info.size, info.num_classes, info.image_size, info.classes) == (number, 4, (96, 96), Shapes.classes)
    assert info.object_counts == dataset.object_counts
    assert info.annotations == ("boxes", "masks", "keypoints")
    assert info.keypoints == dataset.keypoint_info


def test_shapes_options_are_part_number_and_size() -> None:
    dataset = build_dataset({"shapes": {"part": "test", "number": 3, "size": [40, 60]}}, "nowhere")
    assert len(dataset) == 3
    assert np.array_equal(dataset[2][0], Shapes("test", 3, (40, 60))[2][0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"part": "val"}, "part is train or test; got 'val'"),
        ({"number": 0}, "number is how many images are drawn, at least 1; got 0"),
        ({"number": "many"}, "number"),
        ({"size": 16}, "size is from 32 to 4096 pixels, the least first; got 16"),
        ({"size": [96, 64]}, r"size is from 32 to 4096 pixels, the least first; got \[96, 64\]"),
        ({"size": [64]}, r"size is the pixels of a side, such as 96, or \[least, most\]; got \[64\]"),
        ({"size": 96.5}, "size"),
        ({"sise": 96}, "did you mean 'size'"),
    ],
)
def test_shapes_refuses_wrong_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"DATASETS.TRAIN: shapes.*{message}"):
        build_dataset({"shapes": options}, "nowhere", label="DATASETS.TRAIN")
