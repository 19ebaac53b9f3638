"""The range test: its results for known losses, and the state that it leaves unchanged."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from warmstart.config import CfgNode, ConfigError
from warmstart.data import Batch
from warmstart.engine import RangeTest, find_lr, losses_of, range_picture, rng_state, seed_all
from warmstart.engine.analysis.lr_finder import moving_average
from warmstart.modeling import build_model
from warmstart.solver import ScheduleLR, build_optimizer
from warmstart.tasks import build_task

Tiny = Callable[..., CfgNode]
BATCH = (torch.ones(4),)


class Square(nn.Module):
    """Its loss is w^2 / 2, so a learning rate r multiplies w by 1 - r: the loss falls for r < 2, else it grows."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"loss": (x * self.weight).square().mean() / 2}


class Given(nn.Module):
    """Returns the given losses, whatever the learning rate is."""

    def __init__(self, losses: list[float]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.losses, self.calls = losses, 0

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        self.calls += 1
        return {"loss": self.weight.sum() * 0 + self.losses[self.calls - 1]}


def sweep(model: nn.Module, number: int = 60, **arguments: Any) -> RangeTest:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return find_lr(model, optimizer, [BATCH] * number, iters=number, **arguments)


def test_find_lr_grows_the_learning_rate_by_a_constant_factor_from_min_to_max() -> None:
    falling = [1.0 - t / 100 for t in range(30)]
    found = sweep(Given(falling), 30, min_lr=1e-4, max_lr=0.1)
    assert (len(found.rates), found.burst) == (30, False)
    assert found.rates[0] == 1e-4
    assert found.rates[-1] == pytest.approx(0.1)
    steps = np.diff(np.log(found.rates))
    assert steps == pytest.approx([math.log(1000) / 29] * 29)
    assert found.losses == pytest.approx(tuple(falling))


def test_find_lr_updates_with_each_learning_rate_and_the_momentum_of_the_optimizer() -> None:
    """By hand: v = 0.5 v + w; w = w - r v."""
    model = Square()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.5)
    found = find_lr(model, optimizer, [BATCH] * 20, min_lr=1e-3, max_lr=1.0, iters=20, smooth=1.0)
    weight, velocity = 1.0, 0.0
    for rate, loss in zip(found.rates, found.losses, strict=True):
        assert loss == pytest.approx(weight**2 / 2, rel=1e-4, abs=1e-9)
        velocity = 0.5 * velocity + weight
        weight -= rate * velocity


def test_find_lr_scales_all_groups_by_the_same_factor() -> None:
    seen: list[list[float]] = []

    class Spy(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            seen.append([group["lr"] for group in self.param_groups])
            return super().step(closure)

    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = Square(), Square()

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"loss": self.one(x)["loss"] + self.other(x)["loss"]}

    model = Pair()
    optimizer = Spy([{"params": [model.one.weight], "lr": 0.1}, {"params": [model.other.weight], "lr": 0.02}])
    arguments: dict[str, Any] = {"min_lr": 1e-3, "max_lr": 0.3, "iters": 20, "smooth": 1.0}
    found = find_lr(model, optimizer, [BATCH] * 20, **arguments)
    assert seen == [pytest.approx([rate, rate / 5]) for rate in found.rates]
    seen.clear()
    find_lr(model, optimizer, [BATCH] * 20, base_lr=0.02, **arguments)
    assert seen == [pytest.approx([rate * 5, rate]) for rate in found.rates]


def test_range_test_steepest_of_a_logistic_curve_is_its_middle() -> None:
    """The loss is a logistic function of the logarithm of the learning rate."""
    rates = [10 ** (-6 + t / 25) for t in range(151)]
    losses = [2.0 - 1.5 / (1 + math.exp(-4 * (math.log10(rate) + 3))) for rate in rates]
    for smooth in (1.0, 0.3, 0.1):
        found = RangeTest(tuple(rates), tuple(losses), smooth, burst=False)
        assert math.log10(found.steepest) == pytest.approx(-3, abs=0.3)
    assert found.start == pytest.approx(2.0, abs=0.01)


def test_range_test_smoothing_does_not_shift_a_dip_nor_spread_the_divergence() -> None:
    rates = [10 ** (-7 + 8 * t / 99) for t in range(100)]
    losses = [2.0] * 70 + [2.0 - t / 8 for t in range(1, 13)] + [10.0 ** (t / 2) for t in range(1, 19)]
    found = RangeTest(tuple(rates), tuple(losses), 0.05, burst=True)
    assert rates[66] <= found.steepest <= rates[81]
    assert rates[78] <= found.lowest <= rates[85]
    assert max(found.smoothed) <= 2.0 + 1e-9


def test_moving_average_is_bias_corrected() -> None:
    assert moving_average([3.0] * 4, 0.05) == pytest.approx([3.0] * 4)
    assert moving_average([1.0, 5.0], 1.0) == [1.0, 5.0]
    assert moving_average([1.0, 4.0], 0.5) == pytest.approx([1.0, 3.0])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_find_lr_ends_at_a_loss_that_is_not_finite(bad: float) -> None:
    found = sweep(Given([1.0 - t / 100 for t in range(20)] + [bad] * 40))
    assert (len(found.losses), found.burst) == (20, True)


def test_find_lr_ends_when_the_average_exceeds_four_times_its_best() -> None:
    losses = [1.0 - t / 100 for t in range(20)] + [3.0, 5.0] * 20
    found = sweep(Given(losses), smooth=1.0)
    assert (len(found.losses), found.burst) == (22, True)  # 3.0 is below 4 * 0.81, 5.0 is not
    assert not sweep(Given([1.0 - t / 100 for t in range(20)] + [3.2] * 40), smooth=1.0).burst


def test_find_lr_ends_when_a_negative_loss_diverges() -> None:
    found = sweep(Given([-1.0 - t / 100 for t in range(20)] + [2.0, 4.0] * 20), smooth=1.0)
    assert len(found.losses) == 22  # -1.19 + 3 * 1.19 is 2.38


def test_find_lr_refuses_a_loss_that_diverges_within_the_first_ten_updates() -> None:
    message = r"^the loss diverged after 5 updates, at learning rate 4.8e-07, too early to choose one; start lower"
    with pytest.raises(ConfigError, match=message + ", with min_lr 1e-10$"):
        sweep(Given([1.0] * 5 + [math.nan] * 55))


@pytest.mark.parametrize("losses", [[1.0] * 60, [1.0 + t / 100 for t in range(60)], [1.0, 1.2, 0.8] * 20])
def test_find_lr_refuses_a_loss_that_does_not_fall(losses: list[float]) -> None:
    message = r"^the loss did not fall between learning rates 1e-07 and 10; set min_lr and max_lr further apart"
    with pytest.raises(ConfigError, match=message):
        sweep(Given(losses))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"min_lr": 1.0, "max_lr": 0.1}, "^min_lr must be above 0 and max_lr above that; got 1 and 0.1$"),
        ({"min_lr": 0.0}, "^min_lr must be above 0 and max_lr above that; got 0 and 10$"),
        ({"max_lr": math.inf}, "^min_lr must be above 0 and max_lr above that; got 1e-07 and inf$"),
        ({"number": 9}, "^iters must be 10 or more, to choose a learning rate; got 9$"),
        ({"smooth": 0.0}, "^smooth must be above 0 and at most 1, which disables smoothing; got 0$"),
        ({"smooth": 1.5}, "^smooth must be above 0 and at most 1"),
    ],
)
def test_find_lr_refuses_arguments_out_of_range(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        sweep(Square(), **arguments)


def test_find_lr_refuses_too_few_batches() -> None:
    optimizer = torch.optim.SGD((model := Square()).parameters(), lr=0.1)
    with pytest.raises(ValueError, match="^20 updates need as many batches; got 3$"):
        find_lr(model, optimizer, [BATCH] * 3, iters=20)


@pytest.mark.parametrize("fails", [False, True])
def test_find_lr_leaves_model_optimizer_and_generators_unchanged(tiny: Tiny, fails: bool) -> None:
    seed_all(0)
    cfg = tiny("MODEL.NUM_CLASSES", 3, "MODEL.IN_CHANNELS", 1, "MODEL.STEM", "small")
    model = build_model(cfg)
    optimizer = build_optimizer(cfg, model)
    task, batch = build_task(cfg), Batch(torch.randn(8, 1, 8, 8), torch.arange(8) % 3)
    scheduler = ScheduleLR(optimizer, lambda t: 0.5)
    sum(losses_of(model.train(), task)(batch).values()).backward()
    optimizer.step()  # now there are optimizer state, gradients and statistics
    model.eval()
    list(model.modules())[-1].train()

    def picture() -> list[Any]:
        tensors = [t.clone() for t in (*model.parameters(), *model.buffers())]
        tensors += [p.grad.clone() for p in model.parameters() if p.grad is not None]
        tensors += [value.clone() for state in optimizer.state.values() for value in state.values()]
        groups = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
        rng = rng_state()
        return [
            tensors,
            groups,
            [m.training for m in model.modules()],
            rng["torch"],
            random.getstate(),
            rng["numpy"],
        ]

    before = picture()
    batches = [batch] * (5 if fails else 40)
    if fails:
        with pytest.raises(ValueError, match="40 updates need as many batches; got 5"):
            find_lr(model, optimizer, batches, task, iters=40)
    else:
        assert find_lr(model, optimizer, batches, task, iters=40).rates[0] == 1e-7
    for was, now in zip(before, picture(), strict=True):
        if isinstance(was, list) and was and isinstance(was[0], Tensor):
            assert all(torch.equal(a, b) for a, b in zip(was, now, strict=True))
        elif isinstance(was, Tensor):
            assert torch.equal(was, now)
        else:
            assert was == now
    assert scheduler.get_last_lr() == [group["lr"] for group in optimizer.param_groups]


def test_find_lr_accumulates_and_clips_like_training() -> None:
    norms: list[int] = []

    def clip(parameters: Any) -> Tensor:
        norms.append(len(list(parameters)))
        return torch.zeros(())

    model = Square()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    arguments: dict[str, Any] = {"iters": 60, "min_lr": 1e-3}
    plain = find_lr(model, optimizer, [BATCH] * 60, **arguments)
    cut = find_lr(model, optimizer, [BATCH] * 60, **arguments, accum_steps=2, clip=clip)
    assert cut.losses == pytest.approx(plain.losses)
    assert norms == [1] * len(cut.losses)


def test_range_picture_shows_both_learning_rates() -> None:
    found = sweep(Square(), min_lr=1e-3, max_lr=100.0)
    figure = range_picture(found)
    (axes,) = figure.axes
    assert (axes.get_xscale(), axes.get_xlabel(), axes.get_ylabel()) == ("log", "learning rate", "loss")
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "loss of a batch",
        "smoothed",
        f"steepest: {found.steepest:.2g}",
        f"a tenth of the lowest: {found.lowest / 10:.2g}",
    ]
