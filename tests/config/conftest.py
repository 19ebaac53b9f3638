"""A config file written and merged in one call."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from warmstart.config import CfgNode, get_cfg


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Write a file and return its name as a user in the same folder would type it."""
    monkeypatch.chdir(tmp_path)

    def make(text: str | bytes, name: str = "x.yaml") -> str:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return name

    return make


@pytest.fixture
def merged(write: Callable[..., str]) -> Callable[..., CfgNode]:
    """Return the defaults with a file's text and overrides merged into them."""

    def make(text: str | bytes = "", *overrides: object) -> CfgNode:
        cfg = get_cfg()
        cfg.merge(write(text), overrides)
        return cfg

    return make
