"""Optimizers over a few numbers, configs from a few words, and the golden curves."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from warmstart.config import CfgNode, get_cfg, imports

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def optimizer_with() -> Callable[..., torch.optim.Optimizer]:
    """SGD with one parameter group for each of the given rates."""

    def make(*rates: Any) -> torch.optim.Optimizer:
        groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates]
        return torch.optim.SGD(groups, momentum=0.9)

    return make


@pytest.fixture
def cfg_with() -> Callable[..., CfgNode]:
    """The default config with SOLVER keys set: cfg_with(MAX_ITER=10, STEPS=[5])."""

    def make(**keys: Any) -> CfgNode:
        cfg = get_cfg()
        cfg.merge_from_other_cfg({"SOLVER": keys})
        return cfg

    return make


@pytest.fixture
def math_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with --import math."""
    monkeypatch.setitem(imports._IMPORTED, "math", math)


@pytest.fixture(scope="session")
def golden() -> Callable[[str], list[dict[str, Any]]]:
    """Entries of a golden file, by the file's name."""

    def load(name: str) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = json.loads((GOLDEN / name).read_text())
        return entries

    return load
