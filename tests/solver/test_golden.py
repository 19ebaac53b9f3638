"""Golden curves, recorded from torch's and detectron2's schedulers, with the momentum if it changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from warmstart.config import get_cfg
from warmstart.solver import build_lr_scheduler, schedule_names

CURVES: list[dict[str, Any]] = json.loads((Path(__file__).parent / "golden" / "lr_curves.json").read_text())


def test_every_curve_is_here() -> None:
    assert len(CURVES) == 43
    # Those that torch and detectron2 could not be asked for: made of others, of functions, or ours.
    ours = {
        "SequentialLR",
        "ChainedScheduler",
        "LambdaLR",
        "MultiplicativeLR",
        "WarmupPolyLR",
        "WarmupStableDecayLR",
    }
    assert {*schedule_names()} - {curve["solver"]["LR_SCHEDULER_NAME"] for curve in CURVES} == ours


@pytest.mark.parametrize("curve", CURVES, ids=[curve["id"] for curve in CURVES])
def test_the_curve(curve: dict[str, Any]) -> None:
    cfg = get_cfg()
    cfg.merge_from_other_cfg({"SOLVER": curve["solver"]})
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": rate} for rate in curve["base_lrs"]]
    optimizer = torch.optim.SGD(groups, momentum=0.9)
    scheduler = build_lr_scheduler(cfg, optimizer, curve.get("iters_per_epoch"))
    metrics = iter(curve.get("metrics", ()))
    for t in range(len(curve["lr"][0])):
        expected = [rates[t] for rates in curve["lr"]]
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx(expected, rel=1e-9), t
        assert scheduler.lr_at(t) == scheduler.get_last_lr()
        if "momentum" in curve:
            moved = [momenta[t] for momenta in curve["momentum"]]
            assert [group["momentum"] for group in optimizer.param_groups] == pytest.approx(moved, rel=1e-9), t
        else:
            assert [group["momentum"] for group in optimizer.param_groups] == [0.9, 0.9]
        optimizer.step()
        scheduler.step()
        if "metrics" in curve and (t + 1) % curve["metric_every"] == 0:
            scheduler.observe(next(metrics))
