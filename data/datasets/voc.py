"""Objects in Pascal VOC's format: an XML file for each image."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from warmstart.config import read_small_text

from .coco_rows import are_numbers
from .image_files import images_below, shown
from .image_heads import known_sizes
from .listed_files import checked_classes, refuse
from .object_images import ObjectImages
from .packed_objects import PackedObjects, Row

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


class _Object(NamedTuple):
    """An object of an XML file; its box begins at 0."""

    name: str
    box: tuple[float, float, float, float]
    difficult: bool


def build_voc(
    path: str, download: bool, part: str = "", classes: Sequence[str] = (), origin: int = 1
) -> ObjectImages:
    """Build from a folder of VOCdevkit, such as VOC2012, or from a folder with images and XML files beside them.

    VOC counts pixels from 1, and a box includes its last pixel: xmin 1 and xmax 10 are the first 10 pixels of a
    row, x0 0 and x1 10. Objects marked as difficult count as crowd regions: they are left out of training, and in
    evaluation neither finding nor missing one counts.

    Args:
        path: the folder.
        download: not used.
        part: a list in ImageSets/Main, such as train, val or trainval; "": all images, if there are no lists.
        classes: names of the classes in the order of their indices; (): those found, sorted.
        origin: 0 for the files of tools that count pixels from 0, where xmax is not part of the box.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: an option or the content of a file is wrong, or images are missing.
    """
    root = Path(path).expanduser()
    if origin not in (0, 1):
        raise ValueError(f"origin: {origin!r} is neither 0 nor 1, the number of the first pixel")
    if not root.is_dir():
        if root.exists():
            raise ValueError("it is a file; name the folder that holds Annotations/ and JPEGImages/")
        raise FileNotFoundError("no such folder")
    images = _images(root, part)
    objects: list[list[_Object]] = []
    stated: list[tuple[int, int]] = []
    problems = []
    for stem in images:
        file = _xml_file(root, stem)
        try:
            found, size = _read(file, origin)
            objects.append(found)
            stated.append(size)
        except (OSError, ValueError) as error:
            problems.append(f"{file}: {error}")
    refuse(problems, "files")
    names = _class_names(objects, classes)
    labels = {name: label for label, name in enumerate(names)}
    rows = [
        Row(index, labels[name], box, (box[2] - box[0]) * (box[3] - box[1]), iscrowd=difficult)
        for index, found in enumerate(objects)
        for name, box, difficult in found
    ]
    files = [*images.values()]
    packed = PackedObjects.of(rows, len(files))
    return ObjectImages(root, files, known_sizes(files, stated), packed, names)


def _images(root: Path, part: str) -> dict[str, str]:
    """Return the images of a part by their paths without ending, relative to the folder of images."""
    annotations, folder = root / "Annotations", root / "JPEGImages"
    if not annotations.is_dir():
        inner = [each.name for each in sorted(root.iterdir()) if (each / "Annotations").is_dir()]
        if inner:
            raise ValueError(f"it has no Annotations/; name a folder in it: {root / inner[0]}")
        folder = root
    found, _ = images_below(folder if folder.is_dir() else root)
    stems = {os.path.splitext(os.path.relpath(file, folder))[0]: file for file in found}
    lists = root / "ImageSets" / "Main"
    if lists.is_dir() or part:
        wanted = _listed(lists, part)
    else:
        wanted = [stem for stem in stems if _xml_file(root, stem).is_file()]
    missing = [stem for stem in wanted if stem not in stems]
    if missing:
        raise ValueError(f"{len(missing):,} of {len(wanted):,} images are not in {folder}: {shown(missing)}")
    if not wanted:
        raise ValueError("it holds no image with an XML file of the same name in Annotations/ or beside it")
    return {stem: stems[stem] for stem in wanted}


def _xml_file(root: Path, stem: str) -> Path:
    folder = root / "Annotations"
    return (folder if folder.is_dir() else root) / f"{stem}.xml"


def _listed(lists: Path, part: str) -> list[str]:
    """Return the images of a list; a line may have a second word, as the lists of classes have."""
    names = sorted(each.stem for each in lists.glob("*.txt")) if lists.is_dir() else []
    if part not in names:
        given = f"there is no list {part}" if part else "give part"
        raise ValueError(f"part: {given}; ImageSets/Main has {shown(names, 10) or 'no lists, so leave part out'}")
    return [line.split()[0] for line in read_small_text(lists / f"{part}.txt", 2**26).splitlines() if line.strip()]


def _class_names(objects: Sequence[Sequence[_Object]], classes: Sequence[str]) -> list[str]:
    found = sorted({each.name for several in objects for each in several})
    names = checked_classes(classes)
    if not names:
        return found
    other = [name for name in found if name not in names]
    if other:
        raise ValueError(f"classes: objects have other names, too: {shown(other)}; add them")
    return names


def _read(file: Path, origin: int) -> tuple[list[_Object], tuple[int, int]]:
    """Return the objects of an XML file, and (height, width) of the image, (0, 0) if it does not say."""
    text = read_small_text(file, 2**24)
    if "<!DOCTYPE" in text:  # it could define entities that expand to gigabytes, or that name other files
        raise ValueError("it has a DOCTYPE, which annotations do not need; remove it")
    try:
        tree = ElementTree.fromstring(text.encode("utf-8"))
    except ElementTree.ParseError as error:
        raise ValueError(f"it is not XML: {error}") from None
    objects = [
        _object(element, f"object {number}", origin) for number, element in enumerate(tree.iter("object"), 1)
    ]
    size = [tree.findtext(f"size/{side}") or "0" for side in ("height", "width")]
    if not all(side.strip().isdigit() for side in size):
        raise ValueError(f"its size is {size[0]} x {size[1]}; give height and width in pixels")
    return objects, (int(size[0]), int(size[1]))


def _object(element: ElementTree.Element, where: str, origin: int) -> _Object:
    name, box = (element.findtext("name") or "").strip(), element.find("bndbox")
    if not name:
        raise ValueError(f"{where} has no name; add <name>CLASS</name>")
    if box is None:
        raise ValueError(f"{where} ({name}) has no bndbox; give it one with {', '.join(_CORNERS)}")
    texts = [(box.findtext(corner) or "").strip() for corner in _CORNERS]
    try:
        values = [float(text) for text in texts]
    except ValueError:
        values = []
    if not values or not are_numbers(values):
        raise ValueError(f"{where} ({name}) has the bndbox {', '.join(texts)}; give xmin, ymin, xmax and ymax")
    x0, y0, x1, y1 = values
    if min(x0, y0) < origin:
        other = "; write origin: 0 if the tool that wrote it counts from 0" if min(x0, y0) == 0 else ""
        raise ValueError(
            f"{where} ({name}) begins at pixel {min(x0, y0):g}, and pixels count from {origin}{other}"
        )
    x0, y0 = x0 - origin, y0 - origin
    if x1 < x0 or y1 < y0:
        raise ValueError(f"{where} ({name}) has the bndbox {', '.join(texts)}, which ends before it begins")
    return _Object(name, (x0, y0, x1, y1), (element.findtext("difficult") or "0").strip() == "1")
