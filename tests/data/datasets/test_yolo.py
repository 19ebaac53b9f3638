"""Objects in Ultralytics' format: what is read, kept, refused."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from warmstart.config import ConfigError
from warmstart.data import build_dataset, dataset_info, masks_of
from warmstart.data.datasets.part import digest_of

Write = Callable[..., dict[str, Any]]

YAML = "train: images/train\nval: images/val\nnames: [cat, fox]\n"
LABELS = {"train/1": "1 0.5 0.5 0.25 1\n\n0 0.1 0.25 0.2 0.5\n", "val/3": "0 0.5 0.5 1 1"}


@pytest.fixture
def write_yolo(write_images: Callable[..., Path]) -> Write:
    """Return a function that writes a data.yaml with images and text files, and returns the entry."""

    def write(yaml: str = YAML, labels: dict[str, str] = LABELS, **options: Any) -> dict[str, Any]:
        folder = write_images(
            {"images/train/1.png": (8, 20), "images/train/2.png": (6, 6), "images/val/3.png": (5, 4)}
        )
        for name, text in labels.items():
            path = folder / "labels" / f"{name}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        (folder / "data.yaml").write_text(yaml)
        return {"yolo": {"path": str(folder / "data.yaml")} | options}

    return write


def test_yolo_gives_images_and_boxes(write_yolo: Write) -> None:
    dataset = build_dataset(write_yolo(), "")
    assert (dataset.classes, dataset.names) == (("cat", "fox"), ["images/train/1.png", "images/train/2.png"])
    assert (dataset.annotations, dataset.object_counts) == (("boxes",), (1, 1))
    assert dataset.notes == ["1 of 2 images have no objects"]
    image, objects = dataset[0]
    assert (image.shape, objects.size, objects.name) == ((3, 8, 20), (8, 20), "images/train/1.png")
    assert objects.boxes.tolist() == [[7.5, 0, 12.5, 8], [0, 0, 4, 4]]
    assert (objects.labels.tolist(), objects.area.tolist()) == ([1, 0], [40.0, 16.0])
    assert len(dataset[1][1]) == 0
    assert build_dataset(write_yolo(part="val"), "").names == ["images/val/3.png"]


def test_yolo_info_and_digest(write_yolo: Write) -> None:
    info = dataset_info(write_yolo(), "")
    assert (info.size, info.classes, info.annotations, info.object_counts) == (
        2,
        ("cat", "fox"),
        ("boxes",),
        (1, 1),
    )
    first = digest_of(build_dataset(write_yolo(), ""))
    assert digest_of(build_dataset(write_yolo(labels=LABELS | {"train/2": "0 0.5 0.5 1 1"}), "")) != first


def test_yolo_reads_polygons_as_masks(write_yolo: Write) -> None:
    dataset = build_dataset(write_yolo(labels={"train/1": "1 0.1 0.25 0.4 0.25 0.4 1 0.1 1"}), "")
    objects = dataset[0][1]
    assert dataset.annotations == ("boxes", "masks")
    assert (objects.boxes.tolist(), objects.area.tolist()) == ([[2, 2, 8, 8]], [36.0])
    assert objects.segmentations == [[[2, 2, 8, 2, 8, 8, 2, 8]]]
    assert masks_of(objects).sum() == 36


def test_yolo_reads_a_file_in_the_working_directory(
    write_yolo: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_yolo()
    monkeypatch.chdir(tmp_path)
    assert build_dataset("yolo:data.yaml", "").object_counts == (1, 1)


@pytest.mark.parametrize(
    ("shape", "line", "keypoints"),
    [
        ("[3, 3]", "0.5 0.5 2 0.25 1 1 0 0 0", [[10, 4, 2], [5, 8, 1], [0, 0, 0]]),
        ("[3, 2]", "0.5 0.5 0.25 1 0 0", [[10, 4, 2], [5, 8, 2], [0, 0, 0]]),
    ],
)
def test_yolo_reads_keypoints(write_yolo: Write, shape: str, line: str, keypoints: Any) -> None:
    yaml = f"{YAML}kpt_shape: {shape}\nflip_idx: [0, 2, 1]\n"
    dataset = build_dataset(write_yolo(yaml, {"train/1": f"0 0.5 0.5 1 1 {line}"}, sigmas=[0.1, 0.2, 0.2]), "")
    assert dataset[0][1].keypoints.tolist() == [keypoints]
    assert dataset.keypoint_info.names == ("keypoint 0", "keypoint 1", "keypoint 2")
    assert dataset.keypoint_info.flip_pairs == ((1, 2),)
    assert dataset.annotations == ("boxes", "keypoints")


def test_yolo_takes_names_of_keypoints(write_yolo: Write) -> None:
    yaml = f"{YAML}kpt_shape: [2, 3]\nkpt_names: {{0: [left_ear, right_ear]}}\n"
    dataset = build_dataset(write_yolo(yaml, {"train/1": "0 0.5 0.5 1 1 0 0 1 1 1 1"}), "")
    assert (dataset.keypoint_info.names, dataset.keypoint_info.flip_pairs) == (
        ("left_ear", "right_ear"),
        ((0, 1),),
    )


@pytest.mark.parametrize(
    "train",
    [
        "images/train",
        "[images/train]",
        "../images/train",
        "list.txt",
        "path: .\ntrain: images/train",
        "'./images/train/'",
    ],
)
def test_yolo_finds_images(write_yolo: Write, tmp_path: Path, train: str) -> None:
    (tmp_path / "list.txt").write_text("./images/train/1.png\nimages/train/2.png\n\n")
    text = train if "train:" in train else f"train: {train}"
    dataset = build_dataset(write_yolo(f"{text}\nnames: {{0: cat, 1: fox}}\n"), "")
    assert dataset.names == ["images/train/1.png", "images/train/2.png"]
    assert dataset.object_counts == (1, 1)


def test_yolo_holds_out_a_share_of_a_part(write_yolo: Write) -> None:
    train, test = (build_dataset(write_yolo(holdout=0.7, part=part), "") for part in ("train", "test"))
    assert (train.names, test.names) == (["images/train/2.png"], ["images/train/1.png"])
    assert (train.object_counts, test.object_counts) == ((0, 0), (1, 1))
    assert train.warnings == [
        "the train part has no image of cat, fox: all are in the test part, so that these are not learned"
    ]


def test_yolo_leaves_a_damaged_image_to_the_loader(write_yolo: Write, tmp_path: Path) -> None:
    entry = write_yolo()
    (tmp_path / "images" / "train" / "2.png").write_bytes(b"nothing")
    dataset = build_dataset(entry, "")
    assert len(dataset) == 2
    with pytest.raises(OSError, match="it is not an image"):
        dataset[1]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2 0.5 0.5 1 1", "line 1: its class is 2; with 2 names classes run from 0 to 1"),
        ("0.5 0.5 0.5 1 1", "line 1: its class is 0.5"),
        ("\n0 10 10 20 20", "line 2: 10 is not from 0 to 1; coordinates are shares of .*: divide pixels by these"),
        ("0 0.5 0.5 -1 1", "line 1: -1 is not from 0 to 1"),
        ("0 0.5 0.5 1 nan", "line 1: nan is not from 0 to 1"),
        ("0 0.5 0.5 1 1 0.9", "line 1: it has 6 numbers; a class and a box are 5, a class and a polygon 7, 9"),
        ("cat 0.5 0.5 1 1", "line 1: 'cat' is not a number; a line is the index of the class and numbers"),
    ],
)
def test_yolo_refuses_wrong_lines(write_yolo: Write, line: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"data.yaml cannot be read: .*labels/train/1.txt: {message}"):
        build_dataset(write_yolo(labels={"train/1": line}), "")


def test_yolo_refuses_wrong_keypoints(write_yolo: Write) -> None:
    yaml = f"{YAML}kpt_shape: [2, 3]\n"
    with pytest.raises(ConfigError, match="it has 5 numbers; class, box and 2 keypoints are 11"):
        build_dataset(write_yolo(yaml), "")
    with pytest.raises(ConfigError, match="the visibility of a keypoint is 0"):
        build_dataset(write_yolo(yaml, {"train/1": "0 0.5 0.5 1 1 0 0 7 1 1 1"}), "")


def test_yolo_counts_files_with_mistakes(write_yolo: Write) -> None:
    with pytest.raises(ConfigError, match="train/1.txt: line 1: .*; 2 files have mistakes, this is the first"):
        build_dataset(write_yolo(labels={"train/1": "x", "train/2": "y"}), "")


@pytest.mark.parametrize(
    ("yaml", "options", "message"),
    [
        (YAML, {"part": "test"}, "it has no test; set part to one of: train, val"),
        (YAML, {"part": "training"}, "part: 'training' is not a part; choose train, val or test"),
        (YAML, {"sigmas": [1]}, "sigmas: the file has no kpt_shape, so that they have no effect"),
        ("{", {}, "it is not valid YAML: "),
        ("3", {}, "it is not a mapping with names, train and val"),
        ("train: images/train", {}, "names: give the names of the classes, as a list or numbered from 0"),
        ("train: images/train\nnames: {1: cat, 2: fox}", {}, "names: give the names of the classes"),
        ("train: images/train\nnames: [a, a]", {}, "names: two classes have the same name"),
        (f"{YAML}nc: 3", {}, "nc is 3, but names has 2 classes; correct one of them"),
        (f"{YAML}path: nowhere", {}, "path: there is no folder nowhere, neither beside the file nor here"),
        ("train: images/trains\nnames: [a]", {}, "train: there is no images/trains in .*; correct train or path"),
        ("train: 3\nnames: [a]", {}, "train: 3 is not a folder, nor a .txt file"),
        ("train: labels\nnames: [a]", {}, "train: the folder .*labels holds no images"),
        ("train: list.txt\nnames: [a]", {}, "train: 1 of 1 images in list.txt are missing: a.png"),
        ("train: [images, images/train]\nnames: [a]", {}, "train: its folders and lists name some images twice"),
        (f"{YAML}kpt_shape: [2, 4]", {}, r"kpt_shape is \[2, 4\]; give the number of keypoints"),
        (
            f"{YAML}kpt_shape: [2, 3]\nflip_idx: [0, 0]",
            {},
            r"flip_idx is \[0, 0\]; give the index that each of the 2",
        ),
        (f"{YAML}kpt_shape: [2, 3]\nkpt_names: [a]", {}, "kpt_names has other than the 2 names"),
    ],
)
def test_yolo_refuses_other_files(
    write_yolo: Write, tmp_path: Path, yaml: str, options: dict[str, Any], message: str
) -> None:
    (tmp_path / "list.txt").write_text("a.png\n")
    with pytest.raises(ConfigError, match=f"data.yaml.* cannot be read: {message}"):
        build_dataset(write_yolo(yaml, **options), "")


def test_yolo_refuses_images_without_any_text_file(write_yolo: Write, tmp_path: Path) -> None:
    entry = write_yolo()
    os.rename(tmp_path / "labels", tmp_path / "annotations")
    with pytest.raises(
        ConfigError, match="none of 2 images has a file of objects; .*labels/train/1.txt is missing"
    ):
        build_dataset(entry, "")
    with pytest.raises(ConfigError, match="it is a folder; name the file in it that ends with .yaml"):
        build_dataset({"yolo": {"path": str(tmp_path)}}, "")
