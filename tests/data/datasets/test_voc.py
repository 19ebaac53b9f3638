"""Objects in Pascal VOC's format: what is read, kept, refused."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from warmstart.config import ConfigError
from warmstart.data import build_dataset, dataset_info

Write = Callable[..., dict[str, Any]]


def xml_of(*objects: str, size: str = "<size><width>20</width><height>8</height><depth>3</depth></size>") -> str:
    return f"<annotation><filename>x.jpg</filename>{size}{''.join(objects)}</annotation>"


def object_of(name: str, box: str, more: str = "") -> str:
    corners = zip(("xmin", "ymin", "xmax", "ymax"), box.split(), strict=False)
    bndbox = "".join(f"<{corner}>{value}</{corner}>" for corner, value in corners)
    part = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"
    return f"<object><name>{name}</name>{more}<bndbox>{bndbox}</bndbox>{part}</object>"


FOX, CAT = object_of("fox", "1 1 20 8"), object_of("cat", "3 2 3 4", "<difficult>1</difficult>")
FILES = {"1": xml_of(FOX, CAT), "2": xml_of(size="")}


@pytest.fixture
def write_voc(write_images: Callable[..., Path]) -> Write:
    """Return a function that writes a folder of VOCdevkit, and returns the entry."""

    def write(files: dict[str, str] = FILES, **options: Any) -> dict[str, Any]:
        folder = write_images({"voc/JPEGImages/1.png": (8, 20), "voc/JPEGImages/2.png": (6, 6)}) / "voc"
        (folder / "Annotations").mkdir(exist_ok=True)
        for name, text in files.items():
            (folder / "Annotations" / f"{name}.xml").write_text(text)
        return {"voc": {"path": str(folder)} | options}

    return write


def write_lists(folder: Path) -> None:
    (folder / "voc" / "ImageSets" / "Main").mkdir(parents=True)
    (folder / "voc" / "ImageSets" / "Main" / "train.txt").write_text("2\n")
    (folder / "voc" / "ImageSets" / "Main" / "fox_val.txt").write_text("1  1\n")


def test_voc_gives_images_and_boxes(write_voc: Write) -> None:
    dataset = build_dataset(write_voc(), "")
    assert (dataset.classes, dataset.names) == (("cat", "fox"), ["JPEGImages/1.png", "JPEGImages/2.png"])
    assert (dataset.annotations, dataset.object_counts) == (("boxes",), (0, 1))
    assert dataset.sizes.tolist() == [[8, 20], [6, 6]]
    image, objects = dataset[0]
    assert (image.shape, objects.name) == ((3, 8, 20), "JPEGImages/1.png")
    assert objects.boxes.tolist() == [[0, 0, 20, 8], [2, 1, 3, 4]]
    assert (objects.labels.tolist(), objects.iscrowd.tolist()) == ([1, 0], [False, True])
    assert objects.area.tolist() == [160.0, 3.0]
    assert len(dataset[1][1]) == 0
    assert dataset_info(write_voc(), "").object_counts == (0, 1)


def test_voc_reads_the_lists_of_parts(write_voc: Write, tmp_path: Path) -> None:
    write_lists(tmp_path)
    assert build_dataset(write_voc(part="train"), "").names == ["JPEGImages/2.png"]
    assert build_dataset(write_voc(part="fox_val"), "").names == ["JPEGImages/1.png"]
    with pytest.raises(ConfigError, match="part: there is no list val; ImageSets/Main has fox_val, train"):
        build_dataset(write_voc(part="val"), "")
    with pytest.raises(ConfigError, match="part: give part; ImageSets/Main has fox_val, train"):
        build_dataset(write_voc(), "")


def test_voc_reads_files_beside_images(write_voc: Write, tmp_path: Path) -> None:
    write_voc()
    os.rename(tmp_path / "voc" / "Annotations" / "1.xml", tmp_path / "voc" / "JPEGImages" / "1.xml")
    dataset = build_dataset({"voc": {"path": str(tmp_path / "voc" / "JPEGImages")}}, "")
    assert (dataset.names, dataset.object_counts) == (["1.png"], (0, 1))
    with pytest.raises(ConfigError, match="it has no Annotations/; name a folder in it: .*/voc"):
        build_dataset({"voc": {"path": str(tmp_path)}}, "")


def test_voc_takes_files_that_count_from_0(write_voc: Write) -> None:
    files = {"1": xml_of(object_of("fox", "0 0 20.5 8"))}
    assert build_dataset(write_voc(files, origin=0), "")[0][1].boxes.tolist() == [[0, 0, 20.5, 8]]
    with pytest.raises(ConfigError, match=r"1.xml: object 1 \(fox\) begins at pixel 0, .*; write origin: 0 if"):
        build_dataset(write_voc(files), "")


def test_voc_takes_classes_in_their_order(write_voc: Write) -> None:
    dataset = build_dataset(write_voc(classes=["fox", "dog", "cat"]), "")
    assert (dataset.classes, dataset[0][1].labels.tolist()) == (("fox", "dog", "cat"), [0, 2])
    with pytest.raises(ConfigError, match="classes: objects have other names, too: cat; add them"):
        build_dataset(write_voc(classes=["fox"]), "")


BOMB = '<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;">]><annotation>&c;</annotation>'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "it has a DOCTYPE, which annotations do not need; remove it"),
        ("<annotation>", "it is not XML: no element found"),
        (xml_of(object_of("", "1 1 2 2")), "object 1 has no name; add <name>CLASS</name>"),
        (
            xml_of(FOX, "<object><name>fox</name></object>"),
            r"object 2 \(fox\) has no bndbox; give it one with xmin",
        ),
        (xml_of(object_of("fox", "1 1 2")), r"object 1 \(fox\) has the bndbox 1, 1, 2, ; give xmin, ymin, xmax"),
        (xml_of(object_of("fox", "1 1 2 nan")), r"has the bndbox 1, 1, 2, nan; give xmin"),
        (xml_of(object_of("fox", "9 1 2 2")), "has the bndbox 9, 1, 2, 2, which ends before it begins"),
        (xml_of(object_of("fox", "-3 1 2 2")), "begins at pixel -3, and pixels count from 1$"),
        (xml_of(size="<size><width>8.5</width></size>"), "its size is 0 x 8.5; give height and width in pixels"),
    ],
)
def test_voc_refuses_wrong_files(write_voc: Write, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"voc cannot be read: .*Annotations/2.xml: .*{message}"):
        build_dataset(write_voc(FILES | {"2": text}), "")


def test_voc_counts_files_with_mistakes(write_voc: Write) -> None:
    with pytest.raises(ConfigError, match="1.xml: .*; 2 files have mistakes, this is the first"):
        build_dataset(write_voc({"1": "", "2": ""}), "")


def test_voc_refuses_other_paths_and_options(write_voc: Write, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="origin: 2 is neither 0 nor 1"):
        build_dataset(write_voc(origin=2), "")
    with pytest.raises(ConfigError, match="part: there is no list train; .*no lists, so leave part out"):
        build_dataset(write_voc(part="train"), "")
    with pytest.raises(ConfigError, match="was not found"):
        build_dataset({"voc": {"path": str(tmp_path / "vocs")}}, "")
    with pytest.raises(ConfigError, match="it is a file; name the folder that holds Annotations"):
        build_dataset({"voc": {"path": str(tmp_path / "voc" / "JPEGImages" / "1.png")}}, "")
    with pytest.raises(ConfigError, match="it holds no image with an XML file of the same name"):
        build_dataset({"voc": {"path": str(tmp_path / "voc" / "JPEGImages")}}, "")
    write_lists(tmp_path)
    os.remove(tmp_path / "voc" / "JPEGImages" / "2.png")
    with pytest.raises(ConfigError, match="1 of 1 images are not in .*JPEGImages: 2"):
        build_dataset({"voc": {"path": str(tmp_path / "voc"), "part": "train"}}, "")
