"""The benchmark checkpoint.py itself: contenders save what they should, and report when training may continue."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

SCRIPT = Path(__file__).parent.parent.parent / "benchmarks" / "checkpoint.py"


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


def test_the_state_has_the_requested_size(script: dict[str, Any]) -> None:
    tensors = script["tensors_of"](script["build_trainer"](20))
    assert sum(tensor.numel() * tensor.element_size() for tensor in tensors) == pytest.approx(20e6, rel=0.1)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("torch.save", "torch.pth"),
        ("torch.save+fsync", "torch.pth"),
        ("fvcore", "fvcore.pth"),
        ("ours", "model_0000000.pth"),
    ],
)
def test_each_contender_saves_weights_and_optimizer_state(
    script: dict[str, Any], tmp_path: Path, name: str, file: str
) -> None:
    trainer = script["build_trainer"](2)
    went_on = []
    script["CONTENDERS"][name](trainer, tmp_path)(lambda: went_on.append((tmp_path / file).exists()))
    assert len(went_on) == 1
    assert went_on[0] or name == "ours"
    saved = torch.load(tmp_path / file, weights_only=True)
    assert torch.equal(saved["model"]["0.weight"], trainer.model[0].weight)
    assert len(saved["optimizer"]["state"]) == 2


def test_each_checkpoint_line_says_what_was_measured(
    script: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        sys, "argv", ["checkpoint.py", "--megabytes", "2", "4", "--rounds", "2", "--contenders", "ours"]
    )
    script["main"]()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["contender"], line["megabytes"]) for line in lines] == [
        *[("copy", 2), ("ours", 2), ("copy", 4), ("ours", 4)]
    ]
    assert [line["ratio_to_copy"] for line in lines[::2]] == [1, 1]
    for line in lines[1::2]:
        assert 0 < line["stall_min_ms"] <= line["stall_ms"] <= line["stall_max_ms"]
        assert line["stall_ms"] <= line["written_ms"]
