"""Where a run computes, and with PROFILE exact with which kernels."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from warmstart.config import CfgNode, ConfigError
from warmstart.engine import check_device, get_device, load_checkpoint, prepare_torch, resolve_config, run_tool
from warmstart.tools import train_net

from .dying import assert_same_bits

Tiny = Callable[..., CfgNode]


@pytest.fixture(autouse=True)
def free_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(os, "environ", dict(os.environ))
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "mps:0"])
def test_a_device_that_is_none_is_refused(tiny: Tiny, name: str) -> None:
    with pytest.raises(ConfigError, match=f"MODEL.DEVICE .*expected auto, cpu, cuda or cuda:N; got '{name}'"):
        check_device(tiny("MODEL.DEVICE", name))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_where_there_is_none_is_refused(tiny: Tiny) -> None:
    with pytest.raises(ConfigError, match="'cuda' asked for, but torch finds no CUDA device; use auto or cpu"):
        check_device(tiny("MODEL.DEVICE", "cuda"))
    assert get_device(tiny()) == torch.device("cpu")


@pytest.mark.gpu
def test_auto_takes_cuda_where_there_is_one(tiny: Tiny) -> None:
    assert get_device(tiny()).type == "cuda"
    with pytest.raises(ConfigError, match="there are .* CUDA devices"):
        check_device(tiny("MODEL.DEVICE", "cuda:99"))


def test_auto_leaves_deterministic_kernels_to_who_asked_for_them(tiny: Tiny) -> None:
    prepare_torch(tiny())
    assert not torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    prepare_torch(tiny())
    assert torch.are_deterministic_algorithms_enabled()


def test_exact_takes_deterministic_kernels_only(tiny: Tiny) -> None:
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
    prepare_torch(tiny("PROFILE", "exact"))
    assert torch.are_deterministic_algorithms_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_exact_and_a_search_for_kernels_contradict_each_other(tiny: Tiny) -> None:
    with pytest.raises(ConfigError, match=r"^CUDNN_BENCHMARK .* PROFILE exact rules out; set one of them back$"):
        resolve_config(tiny("PROFILE", "exact", "CUDNN_BENCHMARK", True))


def test_an_operation_without_a_deterministic_kernel_is_one_sentence(
    tiny_words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    models = {"scatters": lambda num_classes, in_channels, **tiny: Scatters()}
    monkeypatch.setattr("warmstart.modeling.catalog._REGISTRY", models)
    with pytest.raises(SystemExit) as end:
        run_tool(lambda: train_net.main([*tiny_words, "MODEL.NAME=scatters", "PROFILE=exact"]))
    assert end.value.code == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == ("error: PROFILE exact: put_ does not have a deterministic implementation; use PROFILE auto")


@pytest.mark.gpu
@pytest.mark.need("C1")
def test_exact_resumes_to_the_same_bits_on_cuda(tmp_path: Path) -> None:
    words = ["--config-file", "recipe:digits.yaml", "SOLVER.MAX_ITER=40", "SOLVER.CHECKPOINT_PERIOD=20"]
    words += ["MODEL.DEVICE=cuda", "PROFILE=exact", f"OUTPUT_DIR={tmp_path}"]
    train_net.main(words)
    whole = load_checkpoint(tmp_path / "model_final.pth")
    for name in ("last_checkpoint", "model_0000039.pth", "model_final.pth"):
        (tmp_path / name).unlink()
    train_net.main([*words, "--resume"])
    resumed = load_checkpoint(tmp_path / "model_final.pth")
    for part in ("iteration", "model", "optimizer", "scheduler", "hooks", "rng"):
        assert_same_bits(resumed[part], whole[part], part)


class Scatters(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, images: Tensor) -> Tensor:
        return self.weight.clone().put_(torch.tensor([0, 0]), torch.ones(2)).expand(len(images), 3)
