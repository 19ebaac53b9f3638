"""The benchmark precision.py itself: variants match their names, and its lines report the requested figures."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from warmstart.engine.runtime import precision

SCRIPT = Path(__file__).parent.parent.parent / "benchmarks" / "precision.py"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(precision, "has_bf16", lambda device: True)
    return runpy.run_path(str(SCRIPT))


def test_each_variant_has_one_line_in_order(
    script: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "precision.py --side 8 --batch 4 --rounds 3 --updates 1 --variants bf16 channels_last"
    monkeypatch.setattr(sys, "argv", words.split())
    script["main"]()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["variant"] for line in lines] == ["auto", "bf16", "channels_last"]
    for line in lines:
        assert (line["model"], line["side"], line["batch"], line["rounds"]) == ("small_cnn", 8, 4, 3)
        assert line["ms_per_update"] > 0
        assert line["torch"] == str(torch.__version__)
    assert lines[0]["ratio_to_auto"] == 1


def test_a_variant_that_is_not_possible_is_reported(
    script: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CXX", "nowhere-g++")
    words = "precision.py --side 8 --batch 4 --rounds 1 --updates 1 --variants compile"
    monkeypatch.setattr(sys, "argv", words.split())
    script["main"]()
    refused, auto = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert refused["variant"] == "compile"
    assert refused["refused"].startswith("MODEL.COMPILE (override): torch.compile needs a C++ compiler")
    assert auto["variant"] == "auto"


def types_of_convolutions(variant: Any) -> set[torch.dtype]:
    """Return in which types a variant's model computes an update."""
    found: set[torch.dtype] = set()
    for module in variant.trainer.model.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda module, given, output: found.add(output.dtype))
    variant.seconds(1)
    return found


def test_variants_are_what_their_names_say(script: dict[str, Any]) -> None:
    variant = script["Variant"]("fp16+channels_last", "small_cnn", 8, 4)
    assert variant.trainer.update.scaler is not None
    assert types_of_convolutions(variant) == {torch.float16}
    images, _ = next(variant.batches)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert types_of_convolutions(script["Variant"]("auto", "small_cnn", 8, 4)) == {torch.float32}
