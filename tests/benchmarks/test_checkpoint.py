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
        ("ours+best+final", "three/model_final.pth"),
    ],
)
def test_each_contender_saves_weights_and_optimizer_state(
    script: dict[str, Any], tmp_path: Path, name: str, file: str
) -> None:
    trainer = script["build_trainer"](2)
    resumed = []
    script["CONTENDERS"][name](trainer, tmp_path)(lambda: resumed.append((tmp_path / file).exists()))
    assert len(resumed) == 1
    assert resumed[0] or name.startswith("ours")
    saved = torch.load(tmp_path / file, weights_only=True)
    assert torch.equal(saved["model"]["0.weight"], trainer.model[0].weight)
    assert len(saved["optimizer"]["state"]) == 2


def test_each_checkpoint_line_says_what_was_measured(
    script: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        sys,
        "argv",
        ["checkpoint.py", "--megabytes", "2", "4", "--rounds", "2", "--contenders", "ours", "ours+best+final"],
    )
    script["main"]()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["contender"], line["megabytes"]) for line in lines] == [
        *[(name, size) for size in (2, 4) for name in ("copy", "ours", "ours+best+final")]
    ]
    assert [line["ratio_to_copy"] for line in lines[::3]] == [1, 1]
    assert all(line["ratio_to_ours"] > 0 for line in lines[2::3])
    for line in (line for line in lines if line["contender"] != "copy"):
        assert 0 < line["stall_min_ms"] <= line["stall_ms"] <= line["stall_max_ms"]
        assert line["stall_ms"] <= line["written_ms"]
