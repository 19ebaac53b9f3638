"""Fixtures of the tests of data sets."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from warmstart.config import CfgNode, get_cfg
from warmstart.data.datasets import registry as datasets
from warmstart.data.transforms import registry as transforms


@pytest.fixture(autouse=True)
def _registries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo each test's registrations."""
    monkeypatch.setattr(datasets, "_REGISTRY", dict(datasets._REGISTRY))
    monkeypatch.setattr(transforms, "_REGISTRY", dict(transforms._REGISTRY))


@pytest.fixture
def sized() -> Callable[[str, int], None]:
    """Return a function that sets the registered size of a data set, for a small substitute of a large one."""

    def set_size(name: str, size: int) -> None:
        entry = datasets._REGISTRY[name]
        assert entry.info is not None
        datasets._REGISTRY[name] = replace(entry, info=replace(entry.info, size=size))

    return set_size


@pytest.fixture
def configured() -> Callable[..., CfgNode]:
    """Return a function that makes a config from overrides: configured("SEED", 1)."""

    def configure(*overrides: object) -> CfgNode:
        cfg = get_cfg()
        cfg.merge_from_list(list(overrides))
        return cfg

    return configure


@pytest.fixture
def write_idx() -> Callable[[Path, npt.NDArray[np.uint8]], None]:
    """Return a function that writes a file in MNIST's format."""

    def write(path: Path, array: npt.NDArray[np.uint8]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        head = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
        path.write_bytes(head + array.tobytes())

    return write
