"""The table "Coming from timm" in docs/SCHEDULES.md, compared with timm."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from warmstart.config import get_cfg
from warmstart.solver import build_lr_scheduler, build_schedule, register_lr_lambda
from warmstart.solver.lr_lambdas import LAMBDAS

TEXT = (Path(__file__).parents[2] / "docs" / "SCHEDULES.md").read_text(encoding="utf-8")
TABLE = TEXT.partition("### Coming from timm")[2]
ROWS = re.findall(r"^\| `(\w+)\((.+?)\)` \| `(.+)` \|$", TABLE, re.MULTILINE)
OURS, THEIRS = "MAX_ITER=10 WARMUP_ITERS=2 WARMUP_FACTOR=0.001 BASE_LR=1", "warmup_t=2, warmup_lr_init=0.001"
LENGTH = 24  # past the end of each row, of cycles too


@pytest.fixture(scope="module")
def timm() -> Any:
    """timm's schedulers, imported only when a test needs them, because that takes seconds."""
    return pytest.importorskip("timm.scheduler", reason="timm is missing: pip install -e '.[bench]'")


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)


def curve_of_timm(timm: Any, name: str, arguments: str, length: int = LENGTH) -> Iterator[float]:
    inner = optimizer()
    scheduler = eval(f"make(inner, {arguments})", {"make": getattr(timm, name), "inner": inner})
    for t in range(length):
        scheduler.step(t)
        yield inner.param_groups[0]["lr"]


def curve_here(keys: str, length: int = LENGTH) -> list[float]:
    cfg = get_cfg()
    cfg.merge_from_list([f"SOLVER.{key}" for key in re.split(r" (?=[A-Z_]+=)", keys)])
    schedule = build_schedule(cfg)
    return [schedule(t) for t in range(length)]


def test_the_table_has_its_rows_and_its_settings() -> None:
    assert len(ROWS) == 7
    assert OURS in TABLE
    assert THEIRS in TABLE


@pytest.mark.parametrize(("name", "arguments", "keys"), ROWS, ids=[f"{row[0]} {row[1]}" for row in ROWS])
def test_a_row_gives_the_rates_of_timm(timm: Any, name: str, arguments: str, keys: str) -> None:
    if not hasattr(timm, name):
        pytest.skip(f"this timm has no {name}: pip install -U timm")
    prefix = "" if name == "WSDLRScheduler" else ", warmup_prefix=True"
    theirs = list(curve_of_timm(timm, name, f"{arguments}, {THEIRS}{prefix}"))
    assert curve_here(f"{OURS} {keys}") == pytest.approx(theirs, rel=1e-9, abs=1e-12)
    assert len(set(theirs)) > 3


@pytest.mark.parametrize(
    ("name", "arguments", "keys"),
    [
        ("CosineLRScheduler", "t_initial=10, lr_min=0.1", "LR_SCHEDULER_NAME=WarmupCosineLR BASE_LR_END=0.1"),
        ("PolyLRScheduler", "t_initial=10, power=2", "LR_SCHEDULER_NAME=WarmupPolyLR POLY_LR_POWER=2"),
    ],
)
def test_without_prefix_the_rates_of_timm_are_the_same_after_warm_up(
    timm: Any, name: str, arguments: str, keys: str
) -> None:
    theirs = list(curve_of_timm(timm, name, f"{arguments}, {THEIRS}"))
    ours = curve_here(f"{OURS} {keys}")
    assert ours[2:] == pytest.approx(theirs[2:], rel=1e-9, abs=1e-12)
    assert ours[1] < theirs[1]


def test_a_formula_of_timm_as_a_registered_function(timm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def tanh(t: int) -> float:
        return (1 - math.tanh(-7 + 10 * t / 8)) / 2 if t < 8 else 0.0

    monkeypatch.setattr("warmstart.solver.lr_lambdas.LAMBDAS", LAMBDAS.copy())
    register_lr_lambda("timm_tanh", tanh)
    theirs = list(curve_of_timm(timm, "TanhLRScheduler", f"t_initial=8, {THEIRS}, warmup_prefix=True"))
    ours = curve_here(f"{OURS} LR_SCHEDULER_NAME=LambdaLR LR_SCHEDULER_ARGS={{lr_lambda: timm_tanh}}")
    assert ours[2:] == pytest.approx(theirs[2:], rel=1e-9, abs=1e-12)


@pytest.mark.filterwarnings("ignore:PlateauLRScheduler is deprecated:FutureWarning")
def test_a_plateau_of_timm_drops_where_ours_does(timm: Any) -> None:
    scores = [0.1, 0.2, 0.2, 0.2, 0.2, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3]
    inner, outer = optimizer(), optimizer()
    theirs = timm.PlateauLRScheduler(inner, decay_rate=0.5, patience_t=1)
    cfg = get_cfg()
    arguments = {"mode": "max", "factor": 0.5, "patience": 1}
    solver = {"LR_SCHEDULER_NAME": "ReduceLROnPlateau", "LR_SCHEDULER_ARGS": arguments, "WARMUP_ITERS": 0}
    cfg.merge_from_other_cfg({"SOLVER": solver})
    ours = build_lr_scheduler(cfg, outer)
    for epoch, score in enumerate(scores, start=1):
        theirs.step(epoch, score)
        ours.step()
        ours.observe(score)
        assert outer.param_groups[0]["lr"] == pytest.approx(inner.param_groups[0]["lr"]), epoch
    assert outer.param_groups[0]["lr"] == 0.125
