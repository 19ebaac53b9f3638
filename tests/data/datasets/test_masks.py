"""Masks of objects, against pycocotools."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as oracle

from warmstart.config import ConfigError
from warmstart.data import Objects, encode_mask, masks_of, rle_of
from warmstart.data.datasets.masks import run_lengths

pytestmark = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # pycocotools with numpy 2

SIZE = (37, 53)


def objects_with(*segmentations: Any) -> Objects:
    n = len(segmentations)
    objects = Objects.from_target({"boxes": np.zeros((n, 4)), "labels": np.zeros(n, int)}, SIZE, "image 3")
    return replace(objects, segmentations=[*segmentations])


def polygons(seed: int) -> list[list[float]]:
    rng = np.random.default_rng(seed)
    return [(rng.random(2 * rng.integers(3, 9)) * 70 - 10).round(2).tolist() for _ in range(rng.integers(1, 4))]


def test_masks_equal_those_of_pycocotools() -> None:
    shapes: list[Any] = [polygons(seed) for seed in range(40)]
    expected = [oracle.merge(oracle.frPyObjects(shape, *SIZE)) for shape in shapes]
    masks = masks_of(objects_with(*shapes))
    assert (masks.shape, masks.dtype) == ((40, *SIZE), np.uint8)
    assert np.array_equal(masks, np.moveaxis(oracle.decode(expected), 2, 0))
    assert [rle_of(shape, SIZE) for shape in shapes] == expected


def test_masks_of_every_form_are_equal() -> None:
    array = np.zeros(SIZE, np.uint8)
    array[3:20, 5:9] = array[36, 52] = 1
    compressed = oracle.encode(np.asfortranarray(array))
    runs = np.diff(np.flatnonzero(np.diff(array.T.ravel(), prepend=0, append=2)), prepend=0)
    forms = (
        array,
        compressed,
        {"size": [*SIZE], "counts": compressed["counts"].decode()},
        {"size": [*SIZE], "counts": runs.tolist()},
    )
    assert np.array_equal(masks_of(objects_with(*forms)), np.stack([array] * 4))
    assert encode_mask(array) == forms[2]
    assert encode_mask(array.astype(bool)) == forms[2]
    assert oracle.area(rle_of(forms[3], SIZE)) == 17 * 4 + 1


def test_run_lengths_equal_the_runs_that_pycocotools_has_encoded() -> None:
    rng = np.random.default_rng(0)
    for height, width, share in ((1, 1, 0.5), (200, 300, 0.001), (90, 70, 0.5), (5, 2000, 0.9)):
        mask = (rng.random((height, width)) < share).astype(np.uint8)
        edges = np.flatnonzero(np.diff(mask.T.ravel(), prepend=0, append=2))
        runs = run_lengths(oracle.encode(np.asfortranarray(mask))["counts"].decode())
        assert runs.tolist() == np.diff(edges, prepend=0).tolist()


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ("", "damaged counts"),
        ("P", "damaged counts"),
        ("é", "neither"),
        ([1, -1], "below 0"),
        ([2**70], "neither"),
    ],
)
def test_run_lengths_refuses_other_counts(counts: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run_lengths(counts)


def test_masks_of_no_object_have_the_images_size() -> None:
    assert masks_of(objects_with()).shape == (0, *SIZE)


def test_masks_refuse_objects_without_them() -> None:
    with pytest.raises(ConfigError, match="image 3: its objects have no masks"):
        masks_of(replace(objects_with(), segmentations=None))


def test_masks_use_pycocotools_without_hotcoco(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = polygons(0)
    expected = masks_of(objects_with(shape))
    monkeypatch.setitem(sys.modules, "hotcoco.mask", None)
    assert np.array_equal(masks_of(objects_with(shape)), expected)
    monkeypatch.setitem(sys.modules, "pycocotools.mask", None)
    with pytest.raises(ConfigError, match=r"need the package hotcoco; pip install 'warmstart\[detection\]'"):
        masks_of(objects_with(shape))
    array = np.ones(SIZE, np.uint8)
    assert np.array_equal(masks_of(objects_with(array))[0], array)
