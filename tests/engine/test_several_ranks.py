"""What a run of one process takes, a run of several takes too, or says in one sentence why not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from .ranks import Ended, trained

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="forks this process, which may have used the GPU"
)


def codes(ended: list[Ended]) -> list[int]:
    return [each.code for each in ended]


def test_rank_0_alone_writes_a_profile(tiny_words: list[str], tmp_path: Path) -> None:
    words = [*tiny_words, "PROFILER.START=3", "PROFILER.ITERS=4"]
    main, other = trained(tmp_path, 2, words)
    assert (main.code, other.code, other.out, other.err) == (0, 0, "", "")
    assert "saved a profile up to iteration 7 in " in main.out
    assert len([*(tmp_path / "out" / "profile").iterdir()]) == 1
