"""Models in parts: what they learn, save and continue from is what one process does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from warmstart.engine import load_checkpoint
from warmstart.engine.fsdp import CUTS_ON_CPU
from warmstart.modeling.small_cnn import SmallCNN
from warmstart.tools import export_weights, train_net

from ..conftest import tiny_overrides
from .dying import assert_same_bits
from .optimizers_in_parts import CLIPPING

pytestmark = [
    pytest.mark.slow,  # each launch imports torch three times
    pytest.mark.skipif(not CUTS_ON_CPU, reason="this torch cuts no model on a CPU"),
]

ROOT = Path(__file__).parent.parent.parent

WORDS = [
    *("MODEL.ARGS={norm: group, width: 4, dropout: 0}", "MODEL.PARALLEL=fsdp", "MODEL.FSDP.WRAP=[Conv2d, Linear]"),
    *("SOLVER.MAX_ITER=12", "SOLVER.STEPS=9", "SOLVER.CHECKPOINT_PERIOD=4", "SOLVER.EMA.ENABLED=true"),
    *("SOLVER.CLIP_GRADIENTS.ENABLED=true", "SOLVER.CLIP_GRADIENTS.CLIP_TYPE=full_model"),
]


def launched(ranks: int, words: list[str]) -> str:
    """Run train_net.py on so many ranks; return what it has said. Not forked: FSDP2's backward pass cannot be."""
    command = [sys.executable, "tools/train_net.py", "--num-gpus", str(ranks), *words]
    environ = os.environ | {"OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def build_small() -> torch.nn.Module:
    return SmallCNN(num_classes=3, in_channels=1, norm="group", width=4, dropout=0)


def records(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]


def assert_close(a: Any, b: Any, where: str = "") -> None:
    if isinstance(a, torch.Tensor):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6, msg=lambda text: f"{where}: {text}")
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_close(a[key], b[key], f"{where}.{key}")


def assert_same_run(one: Path, two: Path) -> None:
    """The runs in two folders are the same but for the order in which numbers were added."""
    a, b = (load_checkpoint(folder / "model_final.pth") for folder in (one, two))
    assert_close(a["model"], b["model"])
    assert_close(a["ema"]["model"], b["ema"]["model"])
    assert_close(a["optimizer"]["state"], b["optimizer"]["state"])
    theirs, ours = records(one), records(two)
    for name in ("iteration", "lr", "total_loss", "grad_norm"):
        assert [r[name] for r in ours] == pytest.approx([r[name] for r in theirs], rel=1e-4), name


@pytest.fixture(scope="module")
def words(noise_npz: Path) -> list[str]:
    return [*tiny_overrides(noise_npz, Path("unused")), *WORDS, "LOG_PERIOD=1"]


@pytest.fixture(scope="module")
def one(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of one process."""
    folder = tmp_path_factory.mktemp("fsdp") / "one"
    assert train_net.main([*words, f"OUTPUT_DIR={folder}"]) == 0
    return folder


@pytest.fixture(scope="module")
def half(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two ranks with parts, ended after 8 of 12 updates."""
    folder = tmp_path_factory.mktemp("fsdp") / "half"
    launched(2, [*words, f"OUTPUT_DIR={folder}", "SOLVER.MAX_ITER=8"])
    return folder


@pytest.fixture
def go_on(half: Path, words: list[str], tmp_path: Path) -> Callable[..., Path]:
    """Goes on from `half`, in a copy of it."""

    def resume(ranks: int, *more: str) -> Path:
        folder = tmp_path / "copy"
        shutil.copytree(half, folder)
        arguments = [*words, f"OUTPUT_DIR={folder}", "--resume", *more]
        if ranks == 1:
            assert train_net.main(arguments) == 0
        else:
            launched(ranks, arguments)
        return folder

    return resume


def test_two_ranks_with_parts_learn_what_one_process_does(one: Path, words: list[str], tmp_path: Path) -> None:
    said = launched(2, [*words, f"OUTPUT_DIR={tmp_path}"])
    assert "model: in 2 parts (fsdp), put together by Conv2d, Linear" in said
    assert_same_run(one, tmp_path)


def test_four_ranks_and_accumulation_and_other_moments(words: list[str], tmp_path: Path) -> None:
    adam = [*words, "SOLVER.OPTIMIZER=AdamW", "SOLVER.BASE_LR=0.01"]
    assert train_net.main([*adam, f"OUTPUT_DIR={tmp_path / 'one'}"]) == 0
    launched(4, [*adam, f"OUTPUT_DIR={tmp_path / 'four'}", "SOLVER.GRAD_ACCUM_STEPS=2"])
    assert_same_run(tmp_path / "one", tmp_path / "four")


def test_each_optimizer_and_way_to_clip_does_in_parts_what_it_does_on_the_whole_or_is_refused(
    noise_npz: Path,
) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "tests.engine.optimizers_in_parts", str(noise_npz)]
    ended = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout.splitlines()[-1])
    refused = {name: why for name, why in found.items() if isinstance(why, str)}
    assert refused.keys() == {"Adafactor", "LBFGS", "Muon", "Rprop", "SparseAdam"}
    assert len(found) == 15 + len(CLIPPING)
    assert max(number for number in found.values() if not isinstance(number, str)) < 1e-5


@pytest.mark.need("D1", "D2")
def test_a_checkpoint_in_parts_is_a_small_file_and_a_folder_of_each_ranks_own(half: Path) -> None:
    content = load_checkpoint(half / "model_0000007.pth", whole=False)
    assert {name for name, value in content["model"].items() if value is None} == {
        name for name, _ in build_small().named_parameters()
    }
    folder = Path(content["parts"])
    assert folder.parent == half / "shards"
    assert sorted(path.name for path in folder.iterdir()) == [".metadata", "__0_0.distcp", "__1_0.distcp"]
    # Those of iterations 4 and 8; model_final.pth names the latter too.
    assert len([*(half / "shards").iterdir()]) == 2


def test_a_resume_on_as_many_ranks_is_the_unbroken_run_to_the_last_bit(
    go_on: Callable[..., Path], words: list[str], tmp_path: Path
) -> None:
    launched(2, [*words, f"OUTPUT_DIR={tmp_path / 'whole'}"])
    resumed = go_on(2)
    a, b = (load_checkpoint(folder / "model_final.pth") for folder in (tmp_path / "whole", resumed))
    for part in ("model", "ema", "optimizer", "scheduler", "iteration", "hooks", "rng"):
        assert_same_bits(a[part], b[part], part)


@pytest.mark.need("C8")
@pytest.mark.parametrize("ranks", [1, 4])
def test_a_resume_on_fewer_or_more_ranks_goes_on_as_well(
    go_on: Callable[..., Path], one: Path, ranks: int
) -> None:
    assert_same_run(one, go_on(ranks))


def test_a_run_of_one_process_goes_on_in_parts(one: Path, words: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(one, folder)
    (folder / "last_checkpoint").write_text("model_0000007.pth")
    launched(2, [*words, f"OUTPUT_DIR={folder}", "--resume"])
    assert_same_run(one, folder)


def test_export_puts_weights_in_parts_together(half: Path, tmp_path: Path) -> None:
    assert export_weights.main([str(half), str(tmp_path / "out.safetensors")]) == 0
    weights = load_file(tmp_path / "out.safetensors")
    model = build_small()
    assert {name: tensor.shape for name, tensor in weights.items()} == {
        name: tensor.shape for name, tensor in model.state_dict().items()
    }
    assert_close(load_checkpoint(half / "model_final.pth")["model"], weights)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_bf16_and_parts_in_the_hosts_memory_train(words: list[str], tmp_path: Path, precision: str) -> None:
    more = ["MODEL.FSDP.CPU_OFFLOAD=true", "MODEL.FSDP.RESHARD_AFTER_FORWARD=false", "SOLVER.BASE_LR=0.01"]
    more += ["MODEL.ACTIVATION_CHECKPOINTING=[block2]"]
    launched(2, [*words, *more, f"OUTPUT_DIR={tmp_path}", f"MODEL.FSDP.PRECISION={precision}"])
    found = load_checkpoint(tmp_path / "model_final.pth")["model"]
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}
    assert records(tmp_path)[-1]["total_loss"] < 1.3


def test_parts_are_evaluated_without_training_by_any_number_of_ranks(
    half: Path, words: list[str], tmp_path: Path
) -> None:
    scores = {
        ranks: launched(ranks, [*words, f"OUTPUT_DIR={tmp_path}", "--eval-only", f"--resume={half}"])
        .strip()
        .splitlines()[-2:]
        for ranks in (1, 4)
    }
    lines = {ranks: [line.partition("] ")[2] for line in said] for ranks, said in scores.items()}
    assert lines[1] == lines[4]
    assert "/ema: accuracy" in lines[1][1]
