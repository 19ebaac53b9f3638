"""Sharding of a model that only rank 0 builds with weights, because no other rank could hold the full model."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from warmstart.config import CfgNode
from warmstart.engine import Trainer, build_process_group, build_trainer, rank
from warmstart.engine.distributed.fsdp import SHARDS_ON_CPU
from warmstart.engine.distributed.meta_device import take_weights, without_weights
from warmstart.modeling import build_model, catalog, register_model

from ..ranks import Ranks, trained

pytestmark = [
    pytest.mark.skipif(torch.cuda.is_available(), reason="forks this process, which may have used the GPU"),
    pytest.mark.skipif(not SHARDS_ON_CPU, reason="this torch shards no model on a CPU"),
]

LAYERS, WIDTH = 32, 1600
BYTES = 4 * LAYERS * WIDTH**2

BuildCut = Callable[[str, Callable[[Trainer], Any]], list[Any]]


@pytest.fixture(autouse=True)
def own_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "_REGISTRY", dict(catalog._REGISTRY))


@pytest.fixture
def build_cut(tiny: Callable[..., CfgNode], tmp_path: Path) -> BuildCut:
    """Builds a trainer of a sharded model on two ranks; returns a function's result on each rank."""

    def build(model: str, function: Callable[[Trainer], Any]) -> list[Any]:
        cfg = tiny("MODEL.ARGS", {}, "MODEL.NAME", model, "MODEL.PARALLEL", "fsdp")

        def run() -> Any:
            with build_process_group(cfg):
                return function(build_trainer(cfg))

        ended = Ranks(tmp_path, 2, run).end()
        assert [each.code for each in ended] == [0, 0], [each.err for each in ended]
        return [each.result for each in ended]

    return build


def full_state(trainer: Trainer) -> dict[str, Tensor]:
    """Return the unsharded state of the model."""
    state = trainer.model.state_dict()
    return {name: each.full_tensor() if hasattr(each, "full_tensor") else each for name, each in state.items()}


class Wide(nn.Module):
    """Has more bytes than anything else that a process allocates meanwhile."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(LAYERS))
        self.head = nn.Linear(in_channels * 64, num_classes)

    def forward(self, images: Tensor) -> Any:
        return self.head(images.flatten(1))


def peak_bytes(function: Callable[[], object]) -> int:
    """Return the maximum growth of this process's memory while a function ran."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    function()
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0]) - before


@pytest.mark.parametrize("weights", [True, False])
def test_build_trainer_holds_the_full_model_on_rank_0_alone_and_nowhere_at_a_resume(
    tiny: Callable[..., CfgNode], tmp_path: Path, weights: bool
) -> None:
    register_model("wide", Wide)
    cfg = tiny("MODEL.ARGS", {}, "MODEL.NAME", "wide", "MODEL.PARALLEL", "fsdp", "SOLVER.MOMENTUM", 0.0)
    small = tiny("MODEL.PARALLEL", "fsdp")

    def run() -> int:
        with build_process_group(cfg):
            kept = [build_trainer(small)]  # its imports take more than a small model
            return peak_bytes(lambda: kept.append(build_trainer(cfg, weights=weights)))

    main, other = (each.result / BYTES for each in Ranks(tmp_path, 2, run).end())
    # Half of the model, one full layer at a time, and on rank 0 the weights that it sends to the others.
    assert other < 0.9
    assert 1.0 < main < 1.9 if weights else main < 0.9


def test_build_trainer_sends_weights_and_buffers_of_rank_0_to_all_ranks(build_cut: BuildCut) -> None:
    class Drawn(nn.Module):
        """Buffers that differ between ranks, one of which no checkpoint holds; tied and frozen weights."""

        def __init__(self, num_classes: int, in_channels: int) -> None:
            super().__init__()
            torch.manual_seed(7 + rank())
            self.first = nn.Linear(in_channels * 64, 5)
            self.second = nn.Linear(5, 5)
            self.third = nn.Linear(5, 5)
            self.third.weight = self.second.weight
            self.head = nn.Linear(5, num_classes).requires_grad_(False)
            self.register_buffer("saved", torch.rand(3))
            self.register_buffer("unsaved", torch.rand(3), persistent=False)

        def forward(self, images: Tensor) -> Any:
            return self.head(self.third(self.second(self.first(images.flatten(1)))))

    register_model("drawn", Drawn)

    def found(trainer: Trainer) -> Any:
        net: Any = trainer.model
        frozen = [name for name, each in net.named_parameters() if not each.requires_grad]
        return full_state(trainer), net.unsaved, net.second.weight is net.third.weight, frozen

    results = build_cut("drawn", found)
    expected = Drawn(3, 1)  # this process counts as rank 0
    for state, unsaved, tied, frozen in results:
        assert state.keys() == expected.state_dict().keys()
        for name, tensor in expected.state_dict().items():
            assert torch.equal(state[name], tensor), name
        assert torch.equal(unsaved, expected.unsaved)
        assert tied
        assert frozen == ["head.weight", "head.bias"]


def test_build_trainer_shards_a_model_whose_constructor_computes_with_weights(build_cut: BuildCut) -> None:
    class Normed(nn.Module):
        def __init__(self, num_classes: int, in_channels: int) -> None:
            super().__init__()
            self.head = nn.Linear(in_channels * 64, num_classes)
            self.scale = 1 / self.head.weight.norm().item()  # fails on the meta device

        def forward(self, images: Tensor) -> Any:
            return self.head(images.flatten(1))

    register_model("normed", Normed)
    one, other = build_cut("normed", full_state)
    assert torch.equal(one["head.weight"], other["head.weight"])


def test_train_net_refuses_a_model_that_torch_cannot_shard(tiny_words: list[str], tmp_path: Path) -> None:
    class Scaled(nn.Module):
        def __init__(self, num_classes: int, in_channels: int) -> None:
            super().__init__()
            self.head = nn.Linear(in_channels * 64, num_classes)
            self.scale = nn.Parameter(torch.tensor(1.0))

        def forward(self, images: Tensor) -> Any:
            return self.scale * self.head(images.flatten(1))

    register_model("scaled", Scaled)
    words = [word for word in tiny_words if not word.startswith("MODEL.ARGS")]
    words += ["MODEL.NAME=scaled", "MODEL.PARALLEL=fsdp"]
    main, other = trained(tmp_path, 2, words)
    assert (main.code, other.code, other.err) == (2, 2, "")
    assert main.err.startswith("error: MODEL.PARALLEL (command line): torch cannot shard scaled: ")
    assert "scale" in main.err.partition("scaled: ")[2]
    assert main.err.count("\n") == 1


def test_train_net_refuses_a_wrap_class_that_the_model_lacks(tiny_words: list[str], tmp_path: Path) -> None:
    words = [*tiny_words, "MODEL.PARALLEL=fsdp", "MODEL.FSDP.WRAP=[Linaer]"]
    main, other = trained(tmp_path, 2, words)
    assert (main.code, other.code, other.err) == (2, 2, "")
    text = "MODEL.FSDP.WRAP (command line): small_cnn has no module of class Linaer; did you mean Linear?"
    assert main.err == f"error: {text}\n"


def test_without_weights_makes_parameters_on_meta_and_buffers_as_usual(tiny: Callable[..., CfgNode]) -> None:
    cfg = tiny("MODEL.NUM_CLASSES", 3, "MODEL.IN_CHANNELS", 1)
    whole = build_model(cfg)
    with without_weights():
        empty = build_model(cfg)
    assert all(parameter.is_meta for parameter in empty.parameters())
    for name, buffer in empty.named_buffers():
        assert torch.equal(buffer, whole.get_buffer(name))
    assert [(n, p.shape, p.dtype, p.requires_grad) for n, p in empty.named_parameters()] == [
        (n, p.shape, p.dtype, p.requires_grad) for n, p in whole.named_parameters()
    ]
    assert not nn.Linear(1, 1).weight.is_meta  # modules made afterwards have their weights


def test_take_weights_returns_the_same_memory_and_keeps_tied_weights_tied() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    weight = model[0].weight
    taken = take_weights(model)
    assert [*taken] == ["0.weight", "0.bias", "1.bias"]
    assert taken["0.weight"].data_ptr() == weight.data_ptr()
    assert model[0].weight is model[1].weight
    assert model[0].weight.is_meta
