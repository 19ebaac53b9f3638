"""The benchmark scheduler.py itself: contenders follow their schedules, and its lines report the right figures."""

from __future__ import annotations

import importlib.util
import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

SCRIPT = Path(__file__).parent.parent.parent / "benchmarks" / "scheduler.py"

# The rate at 650 of 1000: half a wave over all of it, or over the 900 after warm-up; or two drops of three.
WHOLE, REST, DROPS = 0.0273005, 0.0328990, 0.001
RATES = {
    "floor": WHOLE,
    "ours:WarmupCosineLR": WHOLE,
    "ours:WarmupMultiStepLR": DROPS,
    "ours:CosineAnnealingLR": REST,
    "ours:MultiStepLR": DROPS,
    "ours:LRMultiplier": WHOLE,
    "torch:CosineAnnealingLR": WHOLE,
    "torch:MultiStepLR": DROPS,
    "torch:SequentialLR": REST,
    "timm:CosineLRScheduler": WHOLE,
    "mmengine:LinearLR+CosineAnnealingLR": REST,
    "mmengine:MultiStepLR": DROPS,
}


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


def test_every_contender_is_here(script: dict[str, Any]) -> None:
    assert list(script["CONTENDERS"]) == list(RATES)


@pytest.mark.parametrize("name", RATES)
def test_a_contender_follows_its_schedule(script: dict[str, Any], name: str) -> None:
    if not script["installed"]([name]):
        pytest.skip(f"{name.partition(':')[0]} is missing: pip install -e '.[bench]'")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    step = script["CONTENDERS"][name](optimizer, 1000)
    optimizer.step()
    for _ in range(650):
        step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(RATES[name], rel=1e-5)


def test_each_contender_and_number_of_groups_has_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "scheduler.py --groups 1 3 --rounds 3 --steps 5 --contenders ours torch:MultiStepLR"
    monkeypatch.setattr(sys, "argv", words.split())
    runpy.run_path(str(SCRIPT), run_name="__main__")
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    names = [name for name in RATES if name.startswith(("floor", "ours"))] + ["torch:MultiStepLR"]
    assert [(line["groups"], line["contender"]) for line in lines] == [(g, name) for g in (1, 3) for name in names]
    for line in lines:
        assert (line["rounds"], line["steps"]) == (3, 5)
        assert 0 < line["us_min"] <= line["us_per_step"] <= line["us_max"]
        assert line["ratio_to_floor"] == 1.0 if line["contender"] == "floor" else line["ratio_to_floor"] > 0
        assert line["versions"]["torch"] == str(torch.__version__)
        assert ("warmstart" in line["versions"]) == line["contender"].startswith("ours:")


def test_scheduler_skips_a_contender_that_is_not_installed(
    script: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert script["installed"](["floor", "timm:CosineLRScheduler"]) == ["floor"]
    said = capsys.readouterr().err
    assert said == "timm:CosineLRScheduler is skipped: timm is not installed; pip install -e '.[bench]'\n"
