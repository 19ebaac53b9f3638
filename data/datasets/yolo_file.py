"""Ultralytics' data.yaml: where images are, and what classes and keypoints mean."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from warmstart.config import parse_yaml, read_small_text

from .image_files import images_below, shown

_LONGEST_LIST = 2**28  # bytes of a file that lists images


class YoloFile(NamedTuple):
    """What a data.yaml says of a part.

    Attributes:
        root: the folder of the data set.
        images: the paths of the part's images.
        classes: names of the classes.
        num_keypoints: of an object; 0 without keypoints.
        keypoint_dims: numbers of a keypoint: 2, or 3 with visibility.
        keypoint_names: names of the keypoints; [] if they have none.
        flip_pairs: keypoints that trade places in a mirror image; None if it does not say.
    """

    root: Path
    images: list[str]
    classes: list[str]
    num_keypoints: int = 0
    keypoint_dims: int = 0
    keypoint_names: Sequence[str] = ()
    flip_pairs: list[tuple[int, int]] | None = None


def read_yolo(path: Path, part: str) -> YoloFile:
    """Return what a data.yaml says of a part.

    Args:
        path: the file.
        part: train, val or test.

    Raises:
        OSError: a file cannot be read.
        ValueError: the content is wrong, or images are missing.
    """
    if path.is_dir():
        raise ValueError(f"it is a folder; name the file in it that ends with .yaml: {path / 'data.yaml'}")
    content = parse_yaml(read_small_text(path))
    if not isinstance(content, Mapping):
        raise ValueError("it is not a mapping with names, train and val")
    classes = _class_names(content)
    root = _root(path, content)
    given = content.get(part)
    if not given:
        there = [name for name in ("train", "val", "test") if content.get(name)]
        raise ValueError(f"it has no {part}; set part to one of: {', '.join(there) or 'none is there'}")
    images = [
        image for place in (given if isinstance(given, list) else [given]) for image in _images(root, place, part)
    ]
    if len({*images}) < len(images):
        raise ValueError(f"{part}: its folders and lists name some images twice")
    return YoloFile(root, images, classes, *_keypoints(content))


def _class_names(content: Mapping[str, Any]) -> list[str]:
    names = content.get("names")
    if isinstance(names, Mapping) and {*names} == {*range(len(names))}:
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not names:
        raise ValueError("names: give the names of the classes, as a list or numbered from 0: {0: cat, 1: dog}")
    names = [*map(str, names)]
    if len({*names}) < len(names):
        raise ValueError("names: two classes have the same name; give them different names")
    if content.get("nc", len(names)) != len(names):
        raise ValueError(f"nc is {content['nc']}, but names has {len(names)} classes; correct one of them")
    return names


def _root(path: Path, content: Mapping[str, Any]) -> Path:
    """Return the folder of the data set: `path`, relative to the file or the working directory."""
    given = content.get("path") or ""
    if not isinstance(given, str):
        raise ValueError(f"path: {given!r} is not text")
    beside = path.parent / Path(given).expanduser()
    root = beside if beside.is_dir() else Path(given).expanduser()
    if not root.is_dir():
        raise ValueError(f"path: there is no folder {given}, neither beside the file nor here; correct it")
    return root.absolute()  # so that a path has its images/ between two separators


def _images(root: Path, given: Any, part: str) -> list[str]:
    """Return the images of a folder, or of a file that lists them."""
    if not isinstance(given, str):
        raise ValueError(f"{part}: {given!r} is not a folder, nor a .txt file that lists images")
    # Exports of some tools name folders beside the file as if it were one folder further down.
    places = [root / given, root / given.removeprefix("../")]
    place = next((each for each in places if each.exists()), None)
    if place is None:
        raise ValueError(f"{part}: there is no {given} in {root}; correct {part} or path in the file")
    if place.is_dir():
        found, _ = images_below(place)
        if not found:
            raise ValueError(f"{part}: the folder {place} holds no images")
        return found
    lines = [line.strip() for line in read_small_text(place, _LONGEST_LIST).splitlines()]
    files = [os.path.normpath(place.parent / line) for line in lines if line]
    files = [file if os.path.exists(file) else os.path.normpath(root / file) for file in files]
    missing = [line for line, file in zip(filter(None, lines), files, strict=True) if not os.path.exists(file)]
    if missing:
        raise ValueError(
            f"{part}: {len(missing):,} of {len(files):,} images in {given} are missing: {shown(missing)}"
        )
    return files


def _keypoints(content: Mapping[str, Any]) -> tuple[int, int, list[str], list[tuple[int, int]] | None]:
    """Return the number of keypoints, numbers of each, their names, and flip pairs."""
    shape, flip, names = content.get("kpt_shape"), content.get("flip_idx"), content.get("kpt_names") or []
    if shape is None:
        return 0, 0, [], None
    whole = isinstance(shape, list) and len(shape) == 2 and all(type(each) is int for each in shape)
    if not whole or shape[0] < 1 or shape[1] not in (2, 3):
        raise ValueError(
            f"kpt_shape is {shape!r}; give the number of keypoints, and 2 or 3 numbers of each: [17, 3]"
        )
    count, dims = shape
    names = next(iter(names.values()), []) if isinstance(names, Mapping) else names
    if names and (not isinstance(names, list) or len(names) != count):
        raise ValueError(f"kpt_names has other than the {count} names that kpt_shape says")
    if flip is None:
        return count, dims, names, None
    inverse = (
        isinstance(flip, list) and all(type(each) is int for each in flip) and sorted(flip) == [*range(count)]
    )
    if not inverse or any(flip[flip[place]] != place for place in range(count)):
        raise ValueError(
            f"flip_idx is {flip!r}; give the index that each of the {count} keypoints has in a mirror image"
        )
    return count, dims, names, [(place, other) for place, other in enumerate(flip) if place < other]
