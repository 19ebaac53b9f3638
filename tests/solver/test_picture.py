"""Plans as curves, and curves as pictures: what is drawn is what each update gets."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from warmstart.config import ConfigError, get_cfg
from warmstart.solver import (
    Curve,
    ascii_plot,
    build_lr_scheduler,
    build_optimizer,
    build_plan,
    describe_groups,
    picture_path,
    plan_picture,
    save_picture,
    scheduler_plan,
)

WAVE = ["SOLVER.LR_SCHEDULER_NAME", "CyclicLR", "SOLVER.LR_SCHEDULER_ARGS.base_lr", 0.01]
WAVE += ["SOLVER.LR_SCHEDULER_ARGS.max_lr", 0.1, "SOLVER.WARMUP_ITERS", 0]
OptimizerWith = Callable[..., torch.optim.Optimizer]


def plan(*overrides: Any) -> list[Curve]:
    cfg = get_cfg()
    cfg.merge_from_list(["SOLVER.BASE_LR", 0.1, *overrides])
    return build_plan(cfg)


def drawn(curves: list[Curve], panel: int = 0) -> list[tuple[list[float], list[float]]]:
    """The (x, y) of each curve that a figure shows; marks have no line."""
    lines = plan_picture(curves).axes[panel].lines
    return [
        (list(map(float, line.get_xdata())), list(map(float, line.get_ydata())))  # type: ignore[arg-type]
        for line in lines
        if line.get_linestyle() != "None"
    ]


@pytest.mark.need("B10")
def test_a_plan_says_where_it_turns() -> None:
    (curve,) = plan("SOLVER.MAX_ITER", 800, "SOLVER.STEPS", "67%,92%", "SOLVER.WARMUP_ITERS", "5%")
    assert (curve.name, curve.length, curve.warmup_end, curve.drops) == ("default", 800, 40, (536, 736))
    assert [curve.rate(t) for t in (0, 40, 536, 736)] == pytest.approx([0.0001, 0.1, 0.01, 0.001])
    assert curve.momentum is None
    assert curve.turning_points() == [0, 39, 40, 535, 536, 735, 736, 799]


def test_groups_have_a_curve_each_where_rates_differ_and_share_one_where_they_do_not() -> None:
    rules = "[{MATCH: fc, LR_FACTOR: 10, NAME: head}, {MATCH: stem, WEIGHT_DECAY: 0}, {MATCH: emb, LR: 0.3}]"
    curves = plan("SOLVER.BIAS_LR_FACTOR", 2, "SOLVER.PARAM_GROUPS", rules)
    assert [(curve.name, round(curve.rate(20000), 9)) for curve in curves] == [
        ("default, stem", 0.1),
        ("bias", 0.2),
        ("head", 1.0),
        ("emb", 0.3),
    ]


def test_a_list_of_rates_is_one_curve_a_group_and_momentum_moves_with_them() -> None:
    words = ["SOLVER.LR_SCHEDULER_NAME", "OneCycleLR", "SOLVER.LR_SCHEDULER_ARGS.max_lr", "[0.1, 0.05]"]
    curves = plan(*words, "SOLVER.WARMUP_ITERS", 0)
    assert [(curve.name, curve.rate(curve.peak())) for curve in curves] == [("group 0", 0.1), ("group 1", 0.05)]
    assert curves[0].momentum is not None
    assert [curves[0].momentum(t) for t in (0, curves[0].peak())] == pytest.approx([0.95, 0.85])


@pytest.mark.parametrize(
    ("words", "momenta"),
    [
        (["SOLVER.OPTIMIZER", "AdamW"], [0.9, 0.8]),
        (["SOLVER.OPTIMIZER", "AdamW", "SOLVER.OPTIMIZER_ARGS.betas", "[0.7, 0.9]"], [0.9, 0.8]),
        (["SOLVER.LR_SCHEDULER_ARGS.cycle_momentum", False], None),
        (["SOLVER.LR_SCHEDULER_ARGS.max_momentum", 0.8], None),  # down from 0.8 to 0.8
    ],
)
def test_momentum_is_drawn_where_it_moves(words: list[Any], momenta: list[float] | None) -> None:
    (curve,) = plan(*WAVE, *words)
    assert (curve.momentum and [curve.momentum(t) for t in (0, 2000)]) == (momenta and pytest.approx(momenta))
    assert len(plan_picture([curve]).axes) == (2 if momenta else 1)


def test_build_plan_refuses_an_impossible_config() -> None:
    with pytest.raises(ConfigError, match=r"^SOLVER.OPTIMIZER \(override\): no optimizer is called 'Adma'"):
        plan("SOLVER.OPTIMIZER", "Adma")
    with pytest.raises(ConfigError, match="CyclicLR.*cycle_momentum needs an optimizer with momentum or betas"):
        plan(*WAVE, "SOLVER.OPTIMIZER", "Adagrad")
    with pytest.raises(ConfigError, match=r"PARAM_GROUPS.*LR and LR_FACTOR both set the learning rate"):
        plan("SOLVER.PARAM_GROUPS", "[{MATCH: fc, LR: 1, LR_FACTOR: 1}]")


def test_the_plan_of_a_scheduler_is_what_its_groups_get() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    cfg = get_cfg()
    cfg.merge_from_list([*WAVE, "SOLVER.BIAS_LR_FACTOR", 2, "SOLVER.MAX_ITER", 50])
    cfg.merge_from_list(["SOLVER.LR_SCHEDULER_ARGS.step_size_up", 7, "SOLVER.LR_SCHEDULER_NAME", "CyclicLR"])
    scheduler = build_lr_scheduler(cfg, build_optimizer(cfg, model))
    names = [group["name"] for group in scheduler.optimizer.param_groups]
    (curve,) = scheduler_plan(scheduler, 50)  # its rates are absolute, and so the same for all
    assert curve.name == ", ".join(names)
    assert curve.momentum is not None
    for t in range(50):
        assert scheduler.lr_at(t) == pytest.approx([curve.rate(t)] * len(names), rel=1e-12)
        assert scheduler.momentum_at(t) == [curve.momentum(t)] * len(names)


def test_a_scheduler_without_momenta_to_move(optimizer_with: OptimizerWith) -> None:
    cfg = get_cfg()
    cfg.merge_from_list(["SOLVER.MAX_ITER", 50, "SOLVER.STEPS", 30, "SOLVER.WARMUP_ITERS", 10])
    scheduler = build_lr_scheduler(cfg, optimizer_with(0.1, 0.2, 0.1))
    assert [(c.name, c.rate(20), c.drops, c.warmup_end) for c in scheduler_plan(scheduler, 50)] == [
        ("0, 2", 0.1, (30,), 10),
        ("1", 0.2, (30,), 10),
    ]


def test_a_group_that_was_just_added_is_in_the_plan(optimizer_with: OptimizerWith) -> None:
    cfg = get_cfg()
    cfg.merge_from_list(["SOLVER.MAX_ITER", 50])
    scheduler = build_lr_scheduler(cfg, optimizer_with(0.1))
    scheduler.optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))], "lr": 0.3})
    assert [(c.name, c.rate(20)) for c in scheduler_plan(scheduler, 50)] == [("0", 0.1), ("1", 0.3)]


def test_each_update_of_a_short_run_is_drawn_from_its_iteration_to_the_next() -> None:
    (curve,) = plan("SOLVER.MAX_ITER", 10, "SOLVER.STEPS", 6, "SOLVER.WARMUP_ITERS", 2)
    ((x, y),) = drawn([curve])
    assert x == list(range(11))
    assert y == [*(curve.rate(t) for t in range(10)), curve.rate(9)]
    (line, *_) = plan_picture([curve]).axes[0].lines
    assert line.get_drawstyle() == "steps-post"


def test_five_million_iterations_are_few_points_and_their_drops_are_vertical() -> None:
    start = time.perf_counter()
    (curve,) = plan("SOLVER.MAX_ITER", 5_000_000, "SOLVER.STEPS", "2500000,4000001")
    ((x, y),) = drawn([curve])
    assert len(x) < 1100
    for drop in (2_500_000, 4_000_001):
        before, after = x.index(drop - 1), x.index(drop)
        assert after == before + 1
        assert y[after] == pytest.approx(y[before] / 10)
    assert time.perf_counter() - start < 5


def test_drops_without_end_are_neither_counted_nor_drawn_one_by_one() -> None:
    words = ["SOLVER.LR_SCHEDULER_NAME", "StepLR", "SOLVER.LR_SCHEDULER_ARGS.step_size", 1]
    (curve,) = plan(*words, "SOLVER.LR_SCHEDULER_ARGS.gamma", 0.999999, "SOLVER.MAX_ITER", 5_000_000)
    assert len(curve.drops) == 1000
    ((x, _),) = drawn([curve])
    assert len(x) < 1100
    assert len(plan_picture([curve]).axes[0].lines) == 3  # the curve, and the marks: none of them for drops


@pytest.mark.parametrize("up", [20, 25, 40])
def test_cycles_shorter_than_a_point_show_as_a_band(up: int) -> None:
    """Evenly spread points, 40 iterations apart, would make them a flat line or a slow wave."""
    (curve,) = plan(*WAVE, "SOLVER.LR_SCHEDULER_ARGS.step_size_up", up, "SOLVER.MAX_ITER", 40_000)
    ((x, y),) = drawn([curve])
    for start in range(0, 40_000, 4000):
        part = [rate for t, rate in zip(x, y, strict=True) if start <= t < start + 4000]
        assert min(part) < 0.02
        assert max(part) > 0.09


def test_the_legend_has_marks_and_names() -> None:
    (curve,) = plan("SOLVER.MAX_ITER", 800, "SOLVER.STEPS", "67%,92%", "SOLVER.WARMUP_ITERS", "5%")

    def legend(curves: list[Curve]) -> list[str]:
        return [text.get_text() for found in plan_picture(curves).legends for text in found.get_texts()]

    assert legend([curve]) == ["warm-up ends at 40", "drops at 536, 736"]
    assert legend(plan("SOLVER.WARMUP_ITERS", 0, "SOLVER.STEPS", "[]")) == []
    assert legend([curve, *plan("SOLVER.MAX_ITER", 100)]) == ["default", "default", "warm-up ends", "drops"]


def test_axes_are_named_and_reach_from_the_first_update_to_the_last() -> None:
    figure = plan_picture(plan(*WAVE))
    rate, momentum = figure.axes
    assert (rate.get_ylabel(), momentum.get_ylabel(), momentum.get_xlabel()) == (
        "learning rate",
        "momentum",
        "iteration",
    )
    low, high = momentum.get_xlim()
    assert low <= 0
    assert high >= 40_000
    assert list(figure.get_size_inches()) == [8.0, 4.5]


def test_a_rate_that_grows_without_end_is_drawn_as_far_as_it_goes(tmp_path: Path) -> None:
    words = ["SOLVER.LR_SCHEDULER_NAME", "ExponentialLR", "SOLVER.LR_SCHEDULER_ARGS.gamma", 1.1]
    curves = plan(*words, "SOLVER.WARMUP_ITERS", 0)
    save_picture(plan_picture(curves), tmp_path / "lr.png")
    ((_, y),) = drawn(curves)
    assert np.isfinite(y[0])
    assert np.isnan(y[-1])
    assert "inf" not in ascii_plot(curves)


@pytest.mark.parametrize("name", ["lr.png", "lr.svg"])
def test_equal_plans_give_equal_files(name: str, tmp_path: Path) -> None:
    for part in ("a", "b"):
        (tmp_path / part).mkdir()
        save_picture(plan_picture(plan()), tmp_path / part / name)
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_png_has_800_by_450_dots(tmp_path: Path) -> None:
    save_picture(plan_picture(plan()), tmp_path / "lr.png")
    with Image.open(tmp_path / "lr.png") as image:
        assert image.size == (800, 450)
    assert (tmp_path / "lr.png").stat().st_size < 60_000


def test_the_name_of_a_picture_is_looked_at_before_it_is_drawn(tmp_path: Path) -> None:
    assert picture_path(f"{tmp_path}/x.SVG") == tmp_path / "x.SVG"
    for name in ("lr", "lr.jpg", "png"):
        with pytest.raises(ValueError, match=r"^a picture's name ends in \.png or \.svg$"):
            picture_path(name)
    with pytest.raises(ValueError, match=r"^there is no folder .*gone; make it, or name another$"):
        picture_path(f"{tmp_path}/gone/lr.png")


def test_text_is_80_columns_wide_and_shows_rate_momentum_and_marks() -> None:
    words = [*WAVE, "SOLVER.LR_SCHEDULER_ARGS.step_size_up", 200, "SOLVER.MAX_ITER", 800]
    text = ascii_plot(plan(*words, "SOLVER.WARMUP_ITERS", 80))
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert text.isascii()
    assert [line for line in lines if "|" not in line] == [
        "learning rate",
        "         +-------w--------------------------------------------------------------",
        "          0                                400                               800",
        "momentum",
        "         +-------w--------------------------------------------------------------",
        "          0                                400                               800",
    ]
    assert lines[1].startswith("     0.1 |")
    assert lines[16].startswith("       0 |*")


def test_text_has_a_symbol_for_each_curve() -> None:
    curves = [Curve("a", 100, lambda t: 0.1), Curve("b", 50, lambda t: 0.2)]
    lines = ascii_plot(curves, width=30, height=3).splitlines()
    assert lines == [
        "learning rate",
        "     0.2 |oooooooooo",
        "         |********************",
        "       0 |",
        "         +--------------------",
        "          0        50      100",
        "* a",
        "o b",
    ]


def test_text_of_a_run_shorter_than_its_columns() -> None:
    text = ascii_plot([Curve("x", 2, [0.5, 0.25].__getitem__, drops=(1,))], width=20, height=3)
    assert text.splitlines()[1:5] == [
        "     0.5 |*****",
        "         |     *****",
        "       0 |",
        "         +-----d----",
    ]


def test_text_of_a_learning_rate_that_is_always_0() -> None:
    lines = ascii_plot([Curve("x", 2, lambda t: 0.0)], width=20, height=3).splitlines()
    assert lines[3] == "       0 |**********"


def test_plan_picture_and_names_take_any_name_of_a_group(tmp_path: Path) -> None:
    groups = [
        {"params": [nn.Parameter(torch.zeros(1))], "lr": rate, "name": name}
        for rate, name in ((0.1, "$\\foo$"), (0.2, "a\n[12:00:00] saved \x1b[2J"))
    ]
    optimizer = torch.optim.SGD(groups)
    scheduler = build_lr_scheduler(get_cfg(), optimizer)
    curves = scheduler_plan(scheduler, 60)
    assert [curve.name for curve in curves] == ["$\\foo$", r"a\n[12:00:00] saved \x1b[2J"]
    save_picture(plan_picture(curves), tmp_path / "lr.png")
    assert describe_groups(optimizer).splitlines()[1].startswith(r"a\n[12:00:00] saved \x1b[2J: 1 tensor,")


def test_of_ten_thousand_curves_a_hundred_are_drawn() -> None:
    asked: set[str] = set()

    def rate(name: str, t: int) -> float:
        asked.add(name)
        return 1.0 / (1 + t)

    curves = [Curve(str(number), 9, partial(rate, str(number))) for number in range(10_000)]
    figure = plan_picture(curves)
    assert figure.axes[0].get_xlabel() == "iteration; 100 of 10,000 groups are drawn"
    assert len(asked) == 100
    assert {"0", "9999"} < asked
    asked.clear()
    assert ascii_plot(curves).splitlines()[-1] == "100 of 10,000 groups are drawn"
    assert len(asked) == 100
    assert plan_picture(curves[:100]).axes[0].get_xlabel() == "iteration"
