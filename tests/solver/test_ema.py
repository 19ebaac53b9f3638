"""The moving average: numbers by hand, buffers of every kind, and a state under the model's own names."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from warmstart.config import get_cfg
from warmstart.solver import EMA, build_ema


class Scale(nn.Module):
    """A weight, a statistic, a count and a switch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.0]))
        self.register_buffer("mean", torch.tensor([0.0]))
        self.register_buffer("count", torch.tensor(0))
        self.register_buffer("seen", torch.tensor(False))

    def set(self, value: float) -> None:
        with torch.no_grad():
            self.weight.fill_(value)
            self.mean.fill_(10 * value)
            self.count.fill_(int(value))
            self.seen.fill_(value > 0)


@pytest.mark.need("E4")
def test_weights_and_statistics_are_averaged_and_counts_are_copied() -> None:
    """2, then 0.75 * 2 + 0.25 * 6 = 3, then 0.75 * 3 + 0.25 * 7 = 4."""
    model = Scale()
    ema = EMA(model, decay=0.75)
    for iteration, value in enumerate((2.0, 6.0, 7.0), start=1):
        model.set(value)
        ema.update(model, iteration)
    averaged = ema.model.state_dict()
    assert averaged["weight"].tolist() == [4.0]
    assert averaged["mean"].tolist() == [40.0]
    assert averaged["count"].item() == 7
    assert averaged["seen"].item() is True
    assert ema.num_updates == 3


@pytest.mark.need("E4")
def test_ema_copies_the_number_of_batches_of_batch_norm() -> None:
    model = nn.BatchNorm1d(1)
    ema = EMA(model, decay=0.999)
    for iteration in range(1, 6):
        model(torch.randn(4, 1))
        ema.update(model, iteration)
    assert ema.model.num_batches_tracked.item() == 5


def test_the_period_is_counted_in_updates_of_the_run() -> None:
    model = Scale()
    ema = EMA(model, decay=0.5, period=3)
    for iteration in range(1, 8):
        model.set(float(iteration))
        ema.update(model, iteration)
    assert ema.num_updates == 2
    assert ema.model.weight.tolist() == [4.5]  # 3 and 6


def test_decay_0_is_the_model_itself() -> None:
    model = Scale()
    ema = EMA(model, decay=0.0)
    for iteration, value in enumerate((2.0, 6.0), start=1):
        model.set(value)
        ema.update(model, iteration)
    assert ema.model.weight.tolist() == [6.0]


def test_ema_before_the_first_averaging_step_is_the_initial_model() -> None:
    model = Scale()
    model.set(3.0)
    ema = EMA(model, decay=0.5, period=10)
    model.set(5.0)
    ema.update(model, 1)
    assert ema.model.weight.tolist() == [3.0]


def test_ema_model_has_no_gradients() -> None:
    model = Scale()
    ema = EMA(model, decay=0.5)
    assert not any(parameter.requires_grad for parameter in ema.model.parameters())
    assert model.weight.requires_grad


@pytest.mark.need("E4")
def test_the_state_has_the_models_own_names_and_continues_bit_for_bit() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    inputs = [torch.randn(4, 3) for _ in range(6)]

    def run(ema: EMA, first: int, last: int) -> None:
        for iteration in range(first, last + 1):
            model.load_state_dict(states[iteration - 1])
            ema.update(model, iteration)

    states = []
    for x in inputs:
        model(x)
        nn.init.normal_(model[0].weight)
        states.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
    whole = EMA(model, decay=0.9)
    run(whole, 1, 6)
    first = EMA(model, decay=0.9)
    run(first, 1, 2)
    state = first.state_dict()
    assert list(state) == ["model", "num_updates"]
    assert list(state["model"]) == list(model.state_dict())
    second = EMA(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)), decay=0.9)
    second.load_state_dict(state)
    run(second, 3, 6)
    assert second.num_updates == whole.num_updates == 6
    for name, tensor in whole.state_dict()["model"].items():
        assert torch.equal(second.state_dict()["model"][name], tensor), name


def test_ema_restart_copies_the_current_model() -> None:
    model = Scale()
    ema = EMA(model, decay=0.5)
    for iteration, value in enumerate((2.0, 6.0), start=1):
        model.set(value)
        ema.update(model, iteration)
    model.set(8.0)
    ema.restart(model)
    assert (ema.model.weight.tolist(), ema.num_updates) == ([8.0], 0)
    model.set(9.0)
    ema.update(model, 3)
    assert ema.model.weight.tolist() == [9.0]  # the first averaging copies


def test_the_config_decides() -> None:
    cfg = get_cfg()
    assert build_ema(cfg, Scale()) is None
    cfg.merge_from_list(["SOLVER.EMA.ENABLED", "true", "SOLVER.EMA.DECAY", "0.5", "SOLVER.EMA.PERIOD", "2"])
    ema = build_ema(cfg, Scale())
    assert ema is not None
    assert ema.period == 2
