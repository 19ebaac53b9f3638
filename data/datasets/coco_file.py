"""COCO's annotation files: images, categories and annotations, checked one by one."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from warmstart.config import did_you_mean, open_regular

from .annotation_index import AnnotationIndex
from .coco_rows import RowReader, short
from .image_files import shown
from .listed_files import refuse
from .packed_objects import PackedObjects, Row

_PARTS = ("images", "annotations", "categories")


def read_coco(path: Path, classes: Sequence[str] = ()) -> AnnotationIndex:
    """Return the content of an annotation file.

    Args:
        path: the file.
        classes: the categories to take, in the order of class indices; (): all, in the order of their ids.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not an annotation file, or something in it is wrong; the message names the first.
    """
    content = _content(path)
    images, categories = _by_id(content, "images"), _by_id(content, "categories")
    _by_id(content, "annotations")  # because results refer to them
    names = _category_names(categories)
    ids = _chosen(names, classes)
    keypoints, skeleton = _keypoints([categories[each] for each in ids])
    reader = RowReader(images, {each: label for label, each in enumerate(ids)}, names, len(keypoints))
    rows: list[Row] = []
    problems, dropped = [], 0
    for annotation in content["annotations"]:
        try:
            row = reader.row(annotation)
        except ValueError as error:
            problems.append(f"{reader.where(annotation)}: {error}")
            continue
        if row is None:
            dropped += 1
        else:
            rows.append(row)
    refuse(problems, "annotations")
    total = dropped + len(rows)
    doubled = [file for file, count in Counter(reader.files).items() if count > 1]
    return AnnotationIndex(
        files=reader.files,
        image_ids=[*images],
        sizes=reader.sizes,
        classes=[names[each] for each in ids],
        category_ids=ids,
        keypoints=keypoints,
        skeleton=skeleton,
        notes=[f"{dropped:,} of {total:,} objects are of other classes and not used"] * bool(dropped),
        warnings=[f"image files are listed more than once: {shown(doubled)}"] * bool(doubled),
        packed=PackedObjects.of(rows, len(images), len(keypoints)),
    )


def _content(path: Path) -> dict[str, list[Any]]:
    with open_regular(path) as file:
        try:
            content = json.loads(file.read())
        except (ValueError, RecursionError) as error:
            raise ValueError(f"it is not JSON: {error}") from None
    needed = "an annotation file is a mapping with images, annotations and categories"
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}, such as a file of results; {needed}")
    for part in _PARTS:
        if not isinstance(content.get(part), list):
            raise ValueError(f"it has no list of {part}; {needed}")
    return content


def _by_id(content: Mapping[str, list[Any]], part: str) -> dict[int, Any]:
    """Return the entries of a part of the file by their ids."""
    for place, entry in enumerate(content[part]):
        found = entry.get("id") if isinstance(entry, dict) else None
        if type(found) is not int or abs(found) >= 2**63:
            what = f"the id {found!r}" if isinstance(entry, dict) and "id" in entry else "no id"
            raise ValueError(f"{part}[{place}] has {what}; an id is a whole number")
    entries = {entry["id"]: entry for entry in content[part]}
    if len(entries) < len(content[part]):
        doubled = [each for each, count in Counter(entry["id"] for entry in content[part]).items() if count > 1]
        count = f"{len(doubled):,} of {len(entries):,} ids of {part} occur more than once"
        raise ValueError(f"{count}, the first is {doubled[0]}; make them unique")
    return entries


def _category_names(categories: Mapping[int, Any]) -> dict[int, str]:
    """Return the names of the categories, in the order of their ids."""
    names = {each: categories[each].get("name") for each in sorted(categories)}
    for each, name in names.items():
        if not isinstance(name, str) or not name:
            raise ValueError(f"category {each} has the name {name!r}; give it a name")
    doubled = [name for name, count in Counter(names.values()).items() if count > 1]
    if doubled:
        raise ValueError(f"two categories are called {shown(doubled)}; give them different names")
    if not names:
        raise ValueError("it has no categories; add one for each class")
    return names


def _chosen(names: Mapping[int, str], classes: Sequence[str]) -> list[int]:
    """Return the ids of the categories in the order of class indices."""
    if not classes:
        return [*names]
    ids = {name: each for each, name in names.items()}
    for name in classes:
        if name not in ids:
            hint = did_you_mean(name, ids, f"; there are {shown([*ids], 20)}")
            raise ValueError(f"classes: there is no category {name!r}{hint}")
    return [ids[name] for name in classes]


def _keypoints(categories: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[tuple[int, int]]]:
    """Return names and skeleton of the keypoints; in the file skeletons count from 1."""
    having = [each for each in categories if each.get("keypoints")]
    if not having:
        return [], []
    first, names = having[0], having[0]["keypoints"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"category {first['id']} has keypoints {short(names)}; give a list of names")
    for other in having[1:]:
        if other["keypoints"] != names:
            raise ValueError(
                f"the categories {first['id']} and {other['id']} have different keypoints; choose one of them by"
                " classes: [NAME]"
            )
    pairs, last = first.get("skeleton") or [], len(names)
    for pair in pairs if isinstance(pairs, list) else [pairs]:
        is_pair = isinstance(pair, list) and len(pair) == 2
        if not is_pair or not all(type(each) is int and 1 <= each <= last for each in pair):
            raise ValueError(
                f"category {first['id']} has {short(pair)} in its skeleton; give two numbers from 1 to {last}"
            )
    return names, [(one - 1, other - 1) for one, other in pairs]
