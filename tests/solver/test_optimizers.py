from __future__ import annotations

import copy
import importlib.util
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from warmstart.config import CfgNode, ConfigError
from warmstart.solver import build_lr_scheduler, build_optimizer, check_solver, optimizers, register_optimizer
from warmstart.solver.optimizers import FOREACH_NUMBERS, OPTIMIZERS, REFUSED, fastest_kind

Cfg = Callable[..., CfgNode]
USABLE = [name for name in OPTIMIZERS if name not in REFUSED]


class Attention(nn.Module):
    """A transformer's block: an embedding of positions, norms before attention and before a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.zeros(1, 4, 8))
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.norm(images.flatten(1).unflatten(1, (4, 8)) + self.positions)
        return self.head(self.attention(x, x, x, need_weights=False)[0].mean(dim=1))


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 1),
        nn.GroupNorm(2, 8),
        nn.Flatten(),
        nn.Linear(32, 2),
    )


def train(model: nn.Module, optimizer: torch.optim.Optimizer, scheduler: Any, updates: int) -> list[float]:
    images = torch.linspace(-1, 1, 8 * 32).sin().view(8, 2, 4, 4)
    losses = []
    for _ in range(updates):
        loss = nn.functional.cross_entropy(model(images), torch.arange(8) % 2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
    return losses


@pytest.mark.need("E13")
@pytest.mark.parametrize("build", [convolutions, Attention])
@pytest.mark.parametrize("name", USABLE)
def test_every_optimizer_trains_and_continues_from_its_saved_state_bit_for_bit(
    name: str, build: Callable[[], nn.Module], cfg_with: Cfg
) -> None:
    torch.manual_seed(0)
    model = build()
    cfg = cfg_with(OPTIMIZER=name, BASE_LR=0.003, MAX_ITER=40, WARMUP_ITERS=4, BIAS_LR_FACTOR=2)
    check_solver(cfg)
    optimizer = build_optimizer(cfg, model)
    scheduler = build_lr_scheduler(cfg, optimizer)
    losses = train(model, optimizer, scheduler, 10)

    file = io.BytesIO()
    torch.save({"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    names = [name for group in saved["optimizer"]["param_groups"] for name in group["param_names"]]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    resumed = copy.deepcopy(model)
    its_optimizer = build_optimizer(cfg, resumed)
    its_scheduler = build_lr_scheduler(cfg, its_optimizer)
    its_optimizer.load_state_dict(saved["optimizer"])
    its_scheduler.load_state_dict(saved["scheduler"])

    losses += train(model, optimizer, scheduler, 30)
    assert train(resumed, its_optimizer, its_scheduler, 30) == losses[10:]
    assert losses[-1] < losses[0]
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), resumed.parameters(), strict=True))


def test_every_class_of_torch_has_its_name() -> None:
    classes = {name for name, cls in vars(torch.optim).items() if isinstance(cls, type)} - {"Optimizer"}
    assert classes == set(OPTIMIZERS)
    assert set(OPTIMIZERS) - set(USABLE) == {"LBFGS", "SparseAdam"}


def test_muon_is_refused_by_a_torch_without_it(monkeypatch: pytest.MonkeyPatch, cfg_with: Cfg) -> None:
    monkeypatch.delattr(torch.optim, "Muon", raising=False)
    spec = importlib.util.spec_from_file_location("warmstart.solver.optimizers_again", optimizers.__file__)
    assert spec is not None
    assert spec.loader is not None
    again = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(again)
    assert "Muon" not in again.OPTIMIZERS
    monkeypatch.setattr("warmstart.solver.build.REFUSED", again.REFUSED)
    with pytest.raises(
        ConfigError, match=r"SOLVER.OPTIMIZER \(merged.*: Muon needs torch 2.9 or later, and this is"
    ):
        check_solver(cfg_with(OPTIMIZER="Muon"))


# ---------------------------------------------------------------- fused, foreach


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "Adagrad"])
def test_fused_where_torch_has_it(name: str, cfg_with: Cfg) -> None:
    assert build_optimizer(cfg_with(OPTIMIZER=name), nn.Linear(2, 2)).defaults["fused"] is True


@pytest.mark.parametrize(
    ("arguments", "fused"),
    [({"foreach": True}, None), ({"fused": False}, False), ({"differentiable": True}, None)],
)
def test_not_fused_where_the_user_asks_for_something_else(
    arguments: dict[str, bool], fused: bool | None, cfg_with: Cfg
) -> None:
    optimizer = build_optimizer(cfg_with(OPTIMIZER="Adam", OPTIMIZER_ARGS=arguments), nn.Linear(2, 2))
    assert optimizer.defaults["fused"] is fused


def test_not_fused_for_parameters_that_the_fused_kind_refuses(cfg_with: Cfg) -> None:
    model = nn.ParameterList([torch.zeros(2, dtype=torch.complex64), torch.zeros(2)])
    assert build_optimizer(cfg_with(), model).defaults["fused"] is None


class TwoBranches(nn.Module):
    """A model whose second branch gets its first gradient later than the first."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x: torch.Tensor, both: bool) -> torch.Tensor:
        return (self.first(x) + (self.second(x) if both else 0)).square().mean()


CYCLE = {"MOMENTUM": 0.0, "LR_SCHEDULER_NAME": "OneCycleLR", "LR_SCHEDULER_ARGS": {"max_lr": 0.1}}


@pytest.mark.parametrize("keys", [{}, CYCLE], ids=["momentum", "momentum that a cycle brings"])
def test_fused_sgd_takes_a_first_gradient_that_comes_late_bit_for_bit_as_the_plain_one(
    keys: dict[str, Any], cfg_with: Cfg
) -> None:
    results = []
    for fused in (True, False):
        model = TwoBranches()
        cfg = cfg_with(**keys, **({} if fused else {"OPTIMIZER_ARGS": {"fused": False}}))
        optimizer = build_optimizer(cfg, model)
        build_lr_scheduler(cfg, optimizer)
        assert optimizer.defaults["fused"] is fused
        assert optimizer.param_groups[0]["momentum"] > 0
        for both in (False, True, True):
            optimizer.zero_grad()
            model(torch.ones(1, 2), both).backward()
            optimizer.step()
        results.append([parameter.detach().clone() for parameter in model.parameters()])
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-6, atol=0)


def test_sgd_with_dampening_is_not_fused(cfg_with: Cfg) -> None:
    optimizer = build_optimizer(cfg_with(OPTIMIZER_ARGS={"dampening": 0.5}), nn.Linear(2, 2))
    assert not optimizer.defaults["fused"]


FOREACH = ["Adadelta", "Adafactor", "Adamax", "NAdam", "RAdam", "RMSprop", "Rprop"]


@pytest.mark.parametrize("name", FOREACH)
def test_foreach_for_small_models_without_a_fused_kind(name: str, cfg_with: Cfg) -> None:
    arguments: list[dict[str, Any]] = [{}, {"foreach": False}]
    results = []
    for given in arguments:
        torch.manual_seed(0)
        model = convolutions()
        cfg = cfg_with(OPTIMIZER=name, OPTIMIZER_ARGS=given, BASE_LR=0.01, MAX_ITER=20, WARMUP_ITERS=0)
        optimizer = build_optimizer(cfg, model)
        assert optimizer.defaults["foreach"] is given.get("foreach", True)
        train(model, optimizer, build_lr_scheduler(cfg, optimizer), 20)
        results.append([parameter.detach() for parameter in model.parameters()])
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "arguments", "size"),
    [
        ("RMSprop", {}, FOREACH_NUMBERS + 1),
        ("RMSprop", {"differentiable": True}, 2),
        ("ASGD", {}, 2),
    ],
)
def test_not_foreach_where_it_is_slower_or_not_possible(name: str, arguments: dict[str, bool], size: int) -> None:
    assert fastest_kind(OPTIMIZERS[name], arguments, [nn.Parameter(torch.zeros(size))]) == {}


def test_the_kind_of_an_optimizer_of_ones_own_is_left_to_it() -> None:
    def own(params: Any, lr: float, foreach: bool = False) -> None: ...

    assert fastest_kind(own, {}, [nn.Parameter(torch.zeros(2))]) == {}


def test_on_cuda_torch_chooses_foreach_itself() -> None:
    parameter = nn.Parameter(torch.zeros(2, device="meta"))
    assert fastest_kind(torch.optim.RMSprop, {}, [parameter]) == {}


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "Adagrad"])
def test_fused_steps_on_cuda(name: str, cfg_with: Cfg) -> None:
    model = nn.Linear(2, 2).cuda()
    optimizer = build_optimizer(cfg_with(OPTIMIZER=name), model)
    model(torch.ones(1, 2, device="cuda")).sum().backward()
    optimizer.step()
    assert optimizer.defaults["fused"] or name == "Adagrad"  # which old versions of torch fuse on the CPU only


# ---------------------------------------------------------------- registry


def test_an_optimizer_of_ones_own(cfg_with: Cfg) -> None:
    def half_sgd(params: Any, lr: float, scale: float = 0.5) -> torch.optim.Optimizer:
        return torch.optim.SGD(params, lr=lr * scale)

    register_optimizer("HalfSGD", half_sgd)
    try:
        cfg = cfg_with(OPTIMIZER="HalfSGD", OPTIMIZER_ARGS={"scale": 0.25}, BASE_LR=0.4)
        check_solver(cfg)
        optimizer = build_optimizer(cfg, nn.Linear(2, 2))
        assert (optimizer.param_groups[0]["lr"], optimizer.defaults["lr"]) == (
            0.4,
            0.1,
        )  # groups bring their rates
        with pytest.raises(ConfigError, match="an optimizer called 'HalfSGD' is registered already"):
            register_optimizer("HalfSGD", half_sgd)
    finally:
        del OPTIMIZERS["HalfSGD"]


@pytest.mark.parametrize("name", sorted({*OPTIMIZERS} - {*REFUSED}))
def test_a_rate_of_0_keeps_parameters_and_nothing_else(name: str, cfg_with: Cfg) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4), nn.Linear(4, 2))
    keys: dict[str, Any] = {"OPTIMIZER": name, "WEIGHT_DECAY": 0.5} if name != "Rprop" else {"OPTIMIZER": name}
    optimizer = build_optimizer(cfg_with(PARAM_GROUPS=[{"MATCH": "^[012]", "LR_FACTOR": 0}], **keys), model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(8, 4)).square().mean().backward()
        optimizer.step()
    kept = {key for key, value in model.state_dict().items() if torch.equal(value, before[key])}
    still = {key for key, _ in model.named_parameters() if not key.startswith("3.")}
    assert kept == (set() if name == "Rprop" else still)
    assert all(parameter in optimizer.state for parameter in model.parameters())
