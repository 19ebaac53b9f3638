"""The benchmark data.py itself: contenders load what they should, and its lines report the requested figures."""

from __future__ import annotations

import json
import runpy
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

SCRIPT = Path(__file__).parent.parent.parent / "benchmarks" / "data.py"


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


@pytest.mark.parametrize("name", ["bare", "torch", "pil", "worker", "resident"])
def test_each_contender_gives_endless_normalised_batches_and_all_but_the_limit_augment(
    script: dict[str, Any], name: str
) -> None:
    batches = script["start"](name, "digits", "", 128, 0)
    loaded = list(islice(batches, 14))  # more than an epoch
    batches.close()
    images = torch.cat([images for images, _ in loaded])
    assert {tuple(images.shape) for images, _ in loaded} == {(128, 1, 8, 8)}
    assert images.dtype == torch.float32
    assert abs(images.mean()) < 0.3  # crops bring in black
    assert 0.8 < images.std() < 1.2
    assert len(torch.cat([labels for _, labels in loaded]).unique()) == 10
    corners = (images[:, 0, 0] == images.min()).all(1).float().mean()
    assert (corners < 0.1) == (name == "bare")  # rows of padding


def test_each_data_line_says_what_was_measured(
    script: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "data.py --data digits --loaders torch worker resident --workers 0 --rounds 2 --seconds 0.02"
    monkeypatch.setattr(sys, "argv", words.split())
    script["main"]()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["loader"], line["workers"]) for line in lines] == [
        *[("bare", 0), ("torch", 0), ("worker", 0), ("resident", 0)]
    ]
    assert lines[0]["ratio_to_bare"] == lines[1]["ratio_to_torch"] == 1
    for line in lines:
        assert line["images_per_s"] > 0
        assert line["cpu_us_per_image"] > 0
