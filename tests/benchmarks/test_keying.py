"""The benchmark keying.py itself: one line per part, and correct keys."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from warmstart.data.seeds import random_numbers_kept

SCRIPT = Path(__file__).parent.parent.parent / "benchmarks" / "keying.py"


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


def test_each_part_of_keying_has_a_line(
    script: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["keying.py", "--data", "digits", "--rounds", "2", "--samples", "256"])
    with random_numbers_kept(everything=True):
        script["main"]()
    lines = {line["part"]: line for line in map(json.loads, capsys.readouterr().out.splitlines())}
    assert [*lines] == [
        *("key", "torch", "random", "numpy", "batch"),
        *("keying, torchvision's", "keying, a user's", "loading"),
    ]
    assert lines["loading"]["share"] == 1
    assert lines["loading"]["us"] > 0
    assert {line["versions"]["torch"] for line in lines.values()} == {str(torch.__version__)}


def test_the_parts_do_what_their_names_say(script: dict[str, Any]) -> None:
    parts = script["parts"](128)
    with random_numbers_kept(everything=True):
        parts["key, torch"][0](7)
        first = torch.rand(1)
        parts["key, all"][0](7)
        assert torch.equal(torch.rand(1), first)
        parts["key, torch"][0](8)
        assert not torch.equal(torch.rand(1), first)
    assert [name for name, (_, samples) in parts.items() if samples == 128] == ["batch", "batch, all"]
