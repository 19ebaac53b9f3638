"""Scores by the names that older versions gave them."""

from __future__ import annotations

from typing import Any

import pytest

from warmstart.data import named_sets
from warmstart.engine.checkpoint.score_names import current_name, with_current_names

SETS = named_sets(["npz:/a/b", "npz:/a", "val=imagefolder:photos/val/", "digits_test"], "", "")


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        ("npz:/a/accuracy", "a/accuracy"),
        ("npz:/a/ema/loss", "a/ema/loss"),
        ("npz:/a/b/accuracy", "b/accuracy"),
        ("imagefolder:photos/val//top5", "val/top5"),
        ("val/accuracy", "val/accuracy"),
        ("digits_test/ema/loss", "digits_test/ema/loss"),
        ("imagefolder:photos/test/loss", "imagefolder:photos/test/loss"),
        ("total_loss", "total_loss"),
        ("", ""),
    ],
)
def test_current_name_replaces_the_entry_in_front(score: str, expected: str) -> None:
    assert current_name(score, SETS) == expected


def test_with_current_names_renames_what_hooks_watch_and_what_is_still_to_be_recorded() -> None:
    content = {
        "iteration": 3,
        "hooks": {
            "trainer": {"scalars": {"npz:/a/loss": 0.5, "mine": 1.0}, "stop": ""},
            "BestHook": {"metric": "npz:/a/loss", "best": 0.5},
            "mine": [1],
        },
    }
    assert with_current_names(content, SETS) == {
        "iteration": 3,
        "hooks": {
            "trainer": {"scalars": {"a/loss": 0.5, "mine": 1.0}, "stop": ""},
            "BestHook": {"metric": "a/loss", "best": 0.5},
            "mine": [1],
        },
    }
    assert content["hooks"]["BestHook"] == {"metric": "npz:/a/loss", "best": 0.5}  # type: ignore[index]


@pytest.mark.parametrize(
    "hooks", [None, 3, {"a": 1}, {"a": {"metric": 1, "scalars": [1]}}, {"a": {"scalars": {1: 2}}}]
)
def test_with_current_names_ignores_a_content_without_hook_states(hooks: Any) -> None:
    assert with_current_names({"hooks": hooks}, SETS) == {"hooks": hooks}
