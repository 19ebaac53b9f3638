"""The device of a run, and its kernels with PROFILE exact and auto."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from warmstart.config import CfgNode, ConfigError
from warmstart.data import device_of, free_memory, pins_memory
from warmstart.engine import (
    build_device,
    build_trainer,
    check_device,
    load_checkpoint,
    prepare_torch,
    resolve_config,
    run_tool,
)
from warmstart.engine.distributed.process_group import check_devices
from warmstart.engine.records.console import memory_stats
from warmstart.engine.run.prepare_torch import describe_profile
from warmstart.engine.runtime.device import device_name, versions
from warmstart.engine.runtime.rng import rng_state, seed_generators, set_rng_state
from warmstart.tools import train_net

from ..dying import assert_same_bits

Tiny = Callable[..., CfgNode]


@pytest.fixture(autouse=True)
def free_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(os, "environ", dict(os.environ))
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "mps:x"])
def test_check_device_refuses_an_unknown_device(tiny: Tiny, name: str) -> None:
    with pytest.raises(ConfigError, match=f"expected auto, cpu, cuda or cuda:N, mps, xpu or xpu:N; got '{name}'"):
        check_device(tiny("MODEL.DEVICE", name))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_check_device_refuses_cuda_if_there_is_none(tiny: Tiny) -> None:
    with pytest.raises(ConfigError, match="'cuda' asked for, but torch finds no CUDA device; use auto or cpu"):
        check_device(tiny("MODEL.DEVICE", "cuda"))
    assert build_device(tiny()) == torch.device("cpu")


@pytest.mark.parametrize("name", ["mps", "mps:0", "xpu:1"])
def test_check_device_refuses_an_accelerator_that_is_not_here(
    tiny: Tiny, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    kind = name[:3].upper()
    with pytest.raises(
        ConfigError, match=f"'{name}' asked for, but torch finds no {kind} device; use auto or cpu"
    ):
        check_device(tiny("MODEL.DEVICE", name))


class Generators:
    """What torch.mps and torch.xpu have: a generator's state and seed, and a number of devices; no memory."""

    def __init__(self) -> None:
        self.generator = torch.Generator()

    def device_count(self) -> int:
        return 2

    def get_rng_state(self) -> Tensor:
        return self.generator.get_state()

    def set_rng_state(self, state: Tensor) -> None:
        self.generator.set_state(state)

    def manual_seed(self, seed: int) -> None:
        self.generator.manual_seed(seed)


@pytest.fixture
def xpu(monkeypatch: pytest.MonkeyPatch) -> Generators:
    """A machine on which torch finds two xpu devices."""
    found, real = Generators(), torch.get_device_module
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("xpu"))
    monkeypatch.setattr(
        torch,
        "get_device_module",
        lambda kind=None: found if torch.device(kind).type in ("xpu", "mps") else real(kind),
    )
    return found


def test_device_auto_takes_any_accelerator(tiny: Tiny, xpu: Generators, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (device_of(tiny()), device_of(tiny("MODEL.DEVICE", "cpu"))) == ("xpu", "cpu")
    check_device(tiny("MODEL.DEVICE", "xpu:1"))
    with pytest.raises(ConfigError, match="'xpu:2' asked for, but there are 2 XPU devices"):
        check_device(tiny("MODEL.DEVICE", "xpu:2"))
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert device_of(tiny()) == "xpu:1"
    assert device_of(tiny("MODEL.DEVICE", "mps")) == "mps"


def test_random_states_of_any_accelerator_are_kept(xpu: Generators) -> None:
    device = torch.device("xpu")
    xpu.manual_seed(5)
    state = rng_state(device)
    assert [*state] == ["python", "numpy", "torch", "cuda", "xpu"]
    drawn = torch.rand(3, generator=xpu.generator)
    set_rng_state(state, device)
    assert torch.rand(3, generator=xpu.generator).equal(drawn)
    set_rng_state({**state, "xpu": torch.zeros(0)}, "cpu")  # on another device its own state alone matters
    seed_generators(7, device)
    assert torch.rand(1, generator=xpu.generator).equal(torch.rand(1, generator=torch.Generator().manual_seed(7)))


def test_memory_and_names_of_an_accelerator_that_does_not_tell_are_left_out(xpu: Generators) -> None:
    device = torch.device("xpu")
    assert [*memory_stats(device)] == ["memory/host_mb"]
    assert versions(device)["device"] == device_name(device) == "xpu"
    assert free_memory(device) > 0
    assert (pins_memory(device), pins_memory("mps"), pins_memory("cpu"), pins_memory("cuda")) == (
        *(True, False, False, False),
    )


def test_several_processes_need_one_accelerator_each_and_cannot_share_mps(
    tiny: Tiny, xpu: Generators, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_devices(tiny(), 2)
    with pytest.raises(ConfigError, match="3 processes on this machine need 3 XPU devices, it has 2; start 2, as"):
        check_devices(tiny(), 3)
    with pytest.raises(ConfigError, match="each process needs its own device; set it to xpu, for the first 2"):
        check_devices(tiny("MODEL.DEVICE", "xpu:1"), 2)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("mps"))
    with pytest.raises(
        ConfigError, match="several processes cannot train together on mps; set MODEL.DEVICE to cpu"
    ):
        check_devices(tiny(), 2)


@pytest.mark.gpu
def test_build_device_auto_uses_cuda_if_there_is_one(tiny: Tiny) -> None:
    assert build_device(tiny()).type == "cuda"
    with pytest.raises(ConfigError, match="there are .* CUDA devices"):
        check_device(tiny("MODEL.DEVICE", "cuda:99"))


def test_profile_auto_keeps_deterministic_kernels_that_were_requested(tiny: Tiny) -> None:
    prepare_torch(tiny())
    assert not torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    prepare_torch(tiny())
    assert torch.are_deterministic_algorithms_enabled()


def test_profile_exact_uses_deterministic_kernels_only(tiny: Tiny) -> None:
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
    prepare_torch(tiny("PROFILE", "exact"))
    assert torch.are_deterministic_algorithms_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


@pytest.mark.need("C1")
def test_profile_auto_on_a_cpu_changes_no_bit_and_no_switch(tiny: Tiny, tmp_path: Path) -> None:
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark
    runs = []
    for profile in ("auto", "exact"):
        build_trainer(tiny("PROFILE", profile, "OUTPUT_DIR", str(tmp_path / profile))).train()
        runs.append(load_checkpoint(tmp_path / profile / "model_final.pth"))
        now = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark
        assert now == before == ("highest", True, False)
    for key in ("model", "optimizer", "hooks", "rng"):
        assert_same_bits(runs[0][key], runs[1][key], key)


@pytest.mark.parametrize(
    ("device", "capability", "words", "line"),
    [
        (
            *("cpu", (0, 0), ()),
            "profile auto: nothing that changes a bit on a CPU; AMP off (SOLVER.AMP.ENABLED), not compiled "
            "(MODEL.COMPILE)",
        ),
        (
            *("cpu", (0, 0), ("PROFILE", "exact", "SOLVER.AMP.ENABLED", True, "MODEL.COMPILE", "default")),
            "profile exact: deterministic kernels only; AMP bf16, compiled (default)",
        ),
        (
            *("cuda", (9, 0), ("SOLVER.AMP.ENABLED", True, "MODEL.COMPILE", "default")),
            "profile auto: TF32 on, cudnn.benchmark on (images of one size); AMP bf16, compiled (default)",
        ),
        (
            *("cuda", (7, 5), ("DATALOADER.ASPECT_RATIO_GROUPING", True)),
            "profile auto: no TF32 on a GPU of capability 7.5, cudnn.benchmark off; AMP off (SOLVER.AMP.ENABLED), "
            "not compiled (MODEL.COMPILE)",
        ),
        (
            *("cuda", (9, 0), ("PROFILE", "exact")),
            "profile exact: deterministic kernels only, TF32 off, cudnn.benchmark off; AMP off "
            "(SOLVER.AMP.ENABLED), not compiled (MODEL.COMPILE)",
        ),
        (
            *("cuda", (9, 0), ("CUDNN_BENCHMARK", False)),
            "profile auto: TF32 on, cudnn.benchmark off; AMP off (SOLVER.AMP.ENABLED), not compiled "
            "(MODEL.COMPILE)",
        ),
    ],
)
def test_profile_logs_its_choices_in_one_line(
    tiny: Tiny,
    device: str,
    capability: tuple[int, int],
    words: tuple[Any, ...],
    line: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert describe_profile(tiny(*words), torch.device(device)) == line


@pytest.mark.gpu
@pytest.mark.parametrize(("profile", "precision"), [("auto", "high"), ("exact", "highest")])
def test_profile_auto_on_a_gpu_uses_tf32_and_exact_does_not(tiny: Tiny, profile: str, precision: str) -> None:
    prepare_torch(tiny("PROFILE", profile))
    assert torch.get_float32_matmul_precision() == precision
    assert torch.backends.cudnn.benchmark == (profile == "auto")


def test_profile_exact_refuses_cudnn_benchmark(tiny: Tiny) -> None:
    with pytest.raises(ConfigError, match=r"^CUDNN_BENCHMARK .* PROFILE exact rules out; set one of them back$"):
        resolve_config(tiny("PROFILE", "exact", "CUDNN_BENCHMARK", True))


def test_profile_exact_names_an_operation_without_a_deterministic_kernel(
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
def test_profile_exact_on_cuda_resumes_bit_for_bit(tmp_path: Path) -> None:
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
