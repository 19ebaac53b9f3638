"""States in a checkpoint: each entry has the kind that was saved, or one sentence names it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import pytest
import torch

from warmstart.config import CfgNode, ConfigError
from warmstart.engine import build_trainer, load_checkpoint, load_start, resolve_config
from warmstart.engine.run.load import why_done
from warmstart.engine.runtime.states import read_state


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (bool, True),
        (int, -3),
        (float, 0.5),
        (float, 2),
        ((float, None), None),
        ([float], [1.0, 2]),
        ([float], ()),
        ({str: [float]}, {"a": [1.0, 3]}),
        (str, ""),
    ],
)
def test_read_state_returns_entries_of_the_right_kind(kind: Any, value: Any) -> None:
    assert read_state({"x": value, "y": object()}, "hooks.Mine", {"x": kind}) == {"x": value}


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (bool, torch.zeros(2), "hooks.Mine.x is a tensor, not true or false"),
        (bool, 1, "hooks.Mine.x is an int, not true or false"),
        (int, True, "hooks.Mine.x is a bool, not a whole number"),
        (float, "1", "hooks.Mine.x is a str, not a number"),
        ((float, None), torch.tensor(1.0), "hooks.Mine.x is a tensor, not a number or null"),
        ([float], 1.0, "hooks.Mine.x is a float, not a list"),
        ([float], [1.0, None], r"hooks.Mine.x\[1\] is null, not a number"),
        ({str: int}, {"a": 1, 2: 3}, r"hooks.Mine.x \(a key\) is an int, not text"),
        ({str: int}, {"a": 1.5}, "hooks.Mine.x.a is a float, not a whole number"),
    ],
)
def test_read_state_names_an_entry_of_another_kind(kind: Any, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^the checkpoint's {message}$"):
        read_state({"x": value}, "hooks.Mine", {"x": kind})


def test_read_state_names_a_missing_entry_and_a_state_that_is_none() -> None:
    with pytest.raises(ConfigError, match="^the checkpoint's hooks.Mine lacks x$"):
        read_state({}, "hooks.Mine", {"x": int})
    with pytest.raises(ConfigError, match="^the checkpoint's hooks.Mine is a list, not a mapping$"):
        read_state([], "hooks.Mine", {"x": int})


PATHS = [
    *("trainer", "trainer.pending", "trainer.stop", "trainer.stopped", "trainer.rates", "trainer.losses"),
    *("trainer.scalars", "trainer.skipped.total", "EarlyStoppingHook", "EarlyStoppingHook.stopped"),
    *("EarlyStoppingHook.bad", "BestHook", "BestHook.best", "BestHook.best_iteration", "BestHook.metric"),
]


def test_a_tensor_in_a_state_is_one_sentence_before_training(tiny: Callable[..., CfgNode]) -> None:
    words = ["TEST.BEST.METRIC", "noise.npz/accuracy", "TEST.EARLY_STOPPING.PATIENCE", 9]
    cfg = resolve_config(tiny(*words, "TEST.EVAL_PERIOD", 7, "SOLVER.MAX_ITER", 7, "SOLVER.STEPS", 5))
    build_trainer(cfg).train()
    saved = load_checkpoint(Path(cfg.OUTPUT_DIR) / "model_final.pth")
    longer = resolve_config(tiny(*words, "TEST.EVAL_PERIOD", 7))
    trainer = build_trainer(longer)
    load_start(trainer, saved)
    for path in PATHS:
        start = copy.deepcopy(saved)
        *way, last = path.split(".")
        reduce(getitem, way, start["hooks"])[last] = torch.zeros(2)
        with pytest.raises(ConfigError, match=rf"^the checkpoint's hooks.{path} is a tensor, not "):
            why_done(longer, start)
            load_start(trainer, start)
