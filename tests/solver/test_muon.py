from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from warmstart.config import CfgNode, ConfigError
from warmstart.solver import MuonWithAdamW, build_lr_scheduler, build_optimizer
from warmstart.solver.muon import hidden_matrices, split_groups

Cfg = Callable[..., CfgNode]

pytestmark = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 12), nn.LayerNorm(12), nn.ReLU(), nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 3)
    )


def composite(model: nn.Module, **arguments: Any) -> MuonWithAdamW:
    group = {"name": "default", "params": list(model.named_parameters())}
    return MuonWithAdamW(split_groups([group], model), **arguments)


def update(model: nn.Module, *optimizers: torch.optim.Optimizer, seed: int) -> None:
    inputs = torch.randn(16, 6, generator=torch.Generator().manual_seed(seed))
    model.zero_grad()
    model(inputs).square().mean().backward()
    for optimizer in optimizers:
        optimizer.step()


def equal(first: nn.Module, second: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def saved_and_loaded(optimizer: MuonWithAdamW, model: nn.Module) -> MuonWithAdamW:
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    loaded = composite(model, lr=123.0, momentum=0.5, adamw_eps=0.5)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    return loaded


def copied(optimizer: MuonWithAdamW, model: nn.Module) -> MuonWithAdamW:
    copies = copy.deepcopy({"model": model, "optimizer": optimizer})
    model.__dict__ = copies["model"].__dict__  # the copy's parameters are those that the copied optimizer has
    return copies["optimizer"]


def pickled(optimizer: MuonWithAdamW, model: nn.Module) -> MuonWithAdamW:
    model.__dict__, loaded = pickle.loads(pickle.dumps((model.__dict__, optimizer)))
    return loaded


@pytest.mark.parametrize("again", [lambda optimizer, model: optimizer, saved_and_loaded, copied, pickled])
@pytest.mark.parametrize("fused", [True, False])
def test_muon_with_adamw_equals_torchs_muon_and_adamw_bit_for_bit(again: Any, fused: bool) -> None:
    ours, theirs = mlp(), mlp()
    optimizer = composite(
        ours, lr=0.02, weight_decay=0.1, momentum=0.9, nesterov=False, adamw_betas=(0.8, 0.99), fused=fused
    )
    hidden = [theirs[0].weight, theirs[3].weight]
    rest = [p for p in theirs.parameters() if all(p is not h for h in hidden)]
    muon = torch.optim.Muon(hidden, 0.02, 0.1, momentum=0.9, nesterov=False, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(rest, 0.02, betas=(0.8, 0.99), weight_decay=0.1, fused=fused)
    for seed in range(8):
        if seed == 4:
            optimizer = again(optimizer, ours)
        rate = 0.02 / (1 + seed)
        for group in (*optimizer.param_groups, *muon.param_groups, *adamw.param_groups):
            group["lr"] = rate
        update(ours, optimizer, seed=seed)
        update(theirs, muon, adamw, seed=seed)
        assert equal(ours, theirs), seed
    assert not equal(ours, mlp())


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_convolution_is_a_matrix_of_one_row_an_output_channel(memory_format: torch.memory_format) -> None:
    torch.manual_seed(0)
    weight, gradients = torch.randn(4, 3, 2, 2), torch.randn(3, 4, 3, 2, 2)
    conv = nn.Parameter(weight.clone(memory_format=memory_format))
    matrix = nn.Parameter(weight.flatten(1).clone())
    ours = MuonWithAdamW([{"params": [conv], "use_muon": True}], lr=0.1)
    theirs = torch.optim.Muon([matrix], lr=0.1, adjust_lr_fn="match_rms_adamw")
    for gradient in gradients:
        conv.grad, matrix.grad = gradient.clone(memory_format=memory_format), gradient.flatten(1).clone()
        ours.step()
        theirs.step()
    buffer, its = ours.state[conv]["momentum_buffer"], theirs.state[matrix]["momentum_buffer"]
    assert buffer.shape == conv.shape
    assert torch.equal(buffer.flatten(1), its)
    assert conv.is_contiguous(memory_format=memory_format)
    if memory_format == torch.contiguous_format:
        assert torch.equal(conv.flatten(1), matrix)
    else:  # sums of the same products in another order, in bfloat16
        torch.testing.assert_close(conv.detach().flatten(1), matrix.detach(), rtol=0, atol=0.01)
    assert (conv.detach() - weight).abs().max() > 0.05


def test_muon_with_adamw_of_a_gradient_with_another_memory_format() -> None:
    torch.manual_seed(0)
    weight, gradient = torch.randn(4, 3, 2, 2), torch.randn(4, 3, 2, 2)
    results = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        conv = nn.Parameter(weight.clone())
        conv.grad = gradient.clone(memory_format=memory_format)
        MuonWithAdamW([{"params": [conv], "use_muon": True}], lr=0.1).step()
        results.append(conv.detach())
    assert torch.equal(*results)


def test_groups_have_the_settings_of_their_kind_only() -> None:
    muon, adamw = composite(mlp()).param_groups
    assert (muon["name"], muon["param_names"]) == ("default muon", ["0.weight", "3.weight"])
    assert {"momentum", "nesterov", "ns_steps", "adjust_lr_fn"} <= muon.keys()
    assert "betas" not in muon
    assert adamw["name"] == "default"
    assert {"betas", "fused"} <= adamw.keys()
    assert "momentum" not in adamw


def test_a_group_added_later_is_trained_by_its_kind() -> None:
    model, late = mlp(), nn.Parameter(torch.ones(2, 2))
    optimizer = composite(model, lr=0.1)
    optimizer.add_param_group({"params": [("late", late)], "use_muon": True})
    late.grad = torch.eye(2)
    optimizer.step()
    assert list(optimizer.state[late]) == ["momentum_buffer"]
    assert not torch.equal(late, torch.ones(2, 2))


def test_parameters_without_a_gradient_stay_as_they_are() -> None:
    model = mlp()
    model[0].requires_grad_(False)
    optimizer = composite(model, lr=0.1)
    before = model[0].weight.clone()
    update(model, optimizer, seed=0)
    assert torch.equal(model[0].weight, before)


def test_muon_with_adamw_keeps_no_gradient_alive() -> None:
    model = mlp()
    optimizer = composite(model)
    update(model, optimizer, seed=0)
    assert all(not inner.param_groups and not inner.state for inner in (optimizer._muon, optimizer._adamw))


def test_a_closure_is_called_once_with_gradients_on() -> None:
    model, calls = mlp(), []

    def closure() -> float:
        loss = model(torch.ones(1, 6)).square().mean()
        loss.backward()
        calls.append(torch.is_grad_enabled())
        return loss.item()

    loss = composite(model).step(closure)
    assert calls == [True]
    assert loss is not None
    assert loss > 0


def test_a_scaler_skips_an_update_whose_gradients_are_infinite() -> None:
    ours, theirs = mlp(), mlp()
    optimizer, plain = composite(ours, lr=0.1, fused=True), composite(theirs, lr=0.1, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for inputs in (torch.ones(2, 6), torch.full((2, 6), torch.inf), torch.ones(2, 6)):
        optimizer.zero_grad()
        scaler.scale(ours(inputs).square().mean()).backward()
        scaler.step(optimizer)
        scaler.update()
        if inputs.isfinite().all():
            plain.zero_grad()
            theirs(inputs).square().mean().backward()
            plain.step()
    assert scaler.get_scale() == 2.0
    assert equal(ours, theirs)


def test_from_a_config_with_rates_and_momenta_that_cycle(cfg_with: Cfg) -> None:
    model = mlp()
    cycle = {"max_lr": 0.1, "total_steps": 10, "base_momentum": 0.85, "max_momentum": 0.95}
    cfg = cfg_with(
        OPTIMIZER="Muon", MAX_ITER=10, WARMUP_ITERS=0, LR_SCHEDULER_NAME="OneCycleLR", LR_SCHEDULER_ARGS=cycle
    )
    optimizer = build_optimizer(cfg, model)
    scheduler = build_lr_scheduler(cfg, optimizer)
    momenta = []
    for seed in range(4):
        update(model, optimizer, seed=seed)
        momenta.append(
            [group["betas"][0] if "betas" in group else group["momentum"] for group in optimizer.param_groups]
        )
        scheduler.step()
    assert [group["name"] for group in optimizer.param_groups] == ["default muon", "default", "norm"]
    assert [len(set(row)) for row in momenta] == [1, 1, 1, 1]  # all groups follow
    assert momenta[0] == [0.95] * 3
    assert momenta[2][0] == pytest.approx(0.85)  # 30 % of the way
    assert optimizer.param_groups[0]["lr"] == optimizer.param_groups[1]["lr"] == scheduler.lr_at(4)[0]


def test_keys_and_arguments_of_a_config(cfg_with: Cfg) -> None:
    own = {"ns_steps": 3, "adamw_betas": [0.8, 0.9], "adjust_lr_fn": "original"}
    cfg = cfg_with(OPTIMIZER="Muon", OPTIMIZER_ARGS=own, MOMENTUM=0.95, NESTEROV=True, WEIGHT_DECAY=0.05)
    muon, default, norm = build_optimizer(cfg, mlp()).param_groups
    assert [muon[key] for key in ("ns_steps", "adjust_lr_fn", "momentum", "nesterov", "weight_decay")] == [
        3,
        "original",
        0.95,
        True,
        0.05,
    ]
    assert [default[key] for key in ("betas", "fused", "weight_decay")] == [(0.8, 0.9), True, 0.05]
    assert norm["weight_decay"] == 0.0


@pytest.mark.gpu
def test_on_cuda_the_adamw_part_is_fused(cfg_with: Cfg) -> None:
    model = mlp().cuda()
    before = copy.deepcopy(model)
    optimizer = build_optimizer(cfg_with(OPTIMIZER="Muon"), model)
    model(torch.ones(4, 6, device="cuda")).square().mean().backward()
    optimizer.step()
    assert optimizer.param_groups[1]["fused"] is True
    assert not equal(model, before)


def test_muon_with_adamw_refuses_unsuitable_parameters_and_settings(cfg_with: Cfg) -> None:
    with pytest.raises(
        ValueError, match=r"Muon takes matrices and weights of convolutions, not .* of shape \(3,\)"
    ):
        MuonWithAdamW([{"params": [nn.Parameter(torch.zeros(3))], "use_muon": True}])
    with pytest.raises(ConfigError, match="SOLVER.OPTIMIZER_ARGS: Muon refuses it: Adjust learning rate function"):
        build_optimizer(cfg_with(OPTIMIZER="Muon", OPTIMIZER_ARGS={"adjust_lr_fn": "fast"}), mlp())
    with pytest.raises(
        ConfigError, match=r"SOLVER.OPTIMIZER \(merged config\): this model has no parameters for Muon"
    ):
        build_optimizer(cfg_with(OPTIMIZER="Muon"), nn.Linear(2, 2))


# ---------------------------------------------------------------- whose a parameter is


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(5, 4)
        self.attention = nn.MultiheadAttention(4, 1, add_bias_kv=True)
        self.tied = nn.Linear(4, 5)
        self.tied.weight = self.words.weight
        self.table = nn.Parameter(torch.zeros(7, 2))
        self.depthwise = nn.Conv2d(4, 4, 3, groups=4)
        self.cross = nn.MultiheadAttention(4, 1, kdim=3, vdim=3)
        self.conv = nn.Conv1d(4, 4, 3)
        self.head = nn.Linear(4, 2)


def test_hidden_matrices_are_the_weights_of_inner_layers() -> None:
    model = Tied()
    hidden = set(hidden_matrices(model))
    assert [name for name, parameter in model.named_parameters() if parameter in hidden] == [
        "attention.in_proj_weight",
        "attention.out_proj.weight",
        "cross.q_proj_weight",
        "cross.k_proj_weight",
        "cross.v_proj_weight",
        "cross.out_proj.weight",
        "conv.weight",
    ]


def test_hidden_matrices_of_a_model_without_layers() -> None:
    assert hidden_matrices(nn.LayerNorm(3)) == []
