"""Fixtures of the tests of data sets that are read from files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from warmstart.data.datasets import registry


@pytest.fixture(autouse=True)
def _nothing_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Look at each data set again, and keep caches in the test's folder."""
    registry._info_by_looking.cache_clear()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def write_images(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes images, {name: (height, width)}, below tmp_path and returns this folder."""

    def write(sizes: dict[str, tuple[int, int]]) -> Path:
        for name, (height, width) in sizes.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (width, height), (10, 20, 30)).save(tmp_path / name)
        return tmp_path

    return write


@pytest.fixture
def coco_content() -> dict[str, list[Any]]:
    """Return an annotation file of three images, with gaps in the category ids; the second has no objects."""
    return {
        "images": [
            {"id": 30, "file_name": "a.png", "height": 8, "width": 10},
            {"id": 10, "file_name": "b.png", "height": 6, "width": 6},
            {"id": 20, "file_name": "c.png", "height": 5, "width": 4},
        ],
        "categories": [{"id": 7, "name": "fox"}, {"id": 3, "name": "cat"}],
        "annotations": [
            _annotation(1, 20, 7, [0.5, 1, 2.25, 3], [[0.5, 1, 2.75, 1, 2.75, 4]], 3.375),
            _annotation(2, 30, 3, [1, 2, 4, 3], {"size": [8, 10], "counts": [10, 3, 5, 3, 59]}, 6, iscrowd=1),
            _annotation(4, 30, 7, [0, 0, 2, 2], [[0, 0, 2, 0, 2, 2, 0, 2]], 4.0),
        ],
    }


def _annotation(
    number: int, image: int, category: int, box: list[float], shape: Any, area: float, **more: Any
) -> Any:
    found = {"id": number, "image_id": image, "category_id": category, "bbox": box, "segmentation": shape}
    return found | {"area": area} | more


@pytest.fixture
def write_coco(write_images: Callable[..., Path], coco_content: dict[str, Any]) -> Callable[..., dict[str, Any]]:
    """Return a function that writes an annotation file with its images, and returns the entry of the data set."""

    def write(content: Any = coco_content, **options: Any) -> dict[str, Any]:
        folder = write_images({"images/a.png": (8, 10), "images/b.png": (6, 6), "images/c.png": (5, 4)})
        path = folder / "annotations.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
        return {"coco": {"path": str(path), "images": str(folder / "images")} | options}

    return write
