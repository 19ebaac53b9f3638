"""Sharded models: training, checkpoints and resumes equal to those of one process."""

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

from warmstart.engine import load_checkpoint, load_newest
from warmstart.engine.distributed.fsdp import SHARDS_ON_CPU
from warmstart.modeling import catalog
from warmstart.modeling.small_cnn import SmallCNN
from warmstart.tools import export_weights, train_net

from ...conftest import tiny_overrides
from ..dying import assert_same_bits
from ..sharded_optimizers import CLIPPING

pytestmark = [
    pytest.mark.slow,  # each launch imports torch three times
    pytest.mark.skipif(not SHARDS_ON_CPU, reason="this torch shards no model on a CPU"),
]

ROOT = Path(__file__).parent.parent.parent.parent

WORDS = [
    *("MODEL.ARGS={norm: group, width: 4, dropout: 0}", "MODEL.PARALLEL=fsdp", "MODEL.FSDP.WRAP=[Conv2d, Linear]"),
    *("SOLVER.MAX_ITER=12", "SOLVER.STEPS=9", "SOLVER.CHECKPOINT_PERIOD=4", "SOLVER.EMA.ENABLED=true"),
    *("SOLVER.CLIP_GRADIENTS.ENABLED=true", "SOLVER.CLIP_GRADIENTS.CLIP_TYPE=full_model"),
]


def launched(
    ranks: int, words: list[str], modules: Path | None = None, code: int = 0, seconds: float = 120
) -> str:
    """Run train_net.py on several ranks; return its output. Not forked, because FSDP2's backward pass cannot be.

    Args:
        ranks: the number of ranks.
        words: of the command line.
        modules: the folder of the modules that --import names.
        code: the expected exit code; unless it is 0, stderr is returned.
        seconds: the timeout.
    """
    command = [sys.executable, "tools/train_net.py", "--num-gpus", str(ranks), *words]
    environ = os.environ | {"OMP_NUM_THREADS": "1"} | ({"PYTHONPATH": str(modules)} if modules else {})
    ended = subprocess.run(
        command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=seconds, check=False
    )
    assert ended.returncode == code, ended.stderr
    return ended.stderr if code else ended.stdout


def assert_same_final(one: Path, two: Path) -> None:
    """The runs in two folders end with the same bits, and a checkpoint names each folder of shards."""
    a, b = (load_checkpoint(folder / "model_final.pth") for folder in (one, two))
    for part in ("model", "ema", "optimizer", "scheduler", "iteration", "hooks", "rng"):
        assert_same_bits(a[part], b[part], part)
    named = {torch.load(path, map_location="meta")["shards"]["folder"] for path in two.glob("*.pth*")}
    assert {path.name for path in (two / "shards").iterdir()} == named


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


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
    """The runs in two folders are equal except for the order of sums."""
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
    """The folder of a sharded run of two ranks, ended after 8 of 12 updates."""
    folder = tmp_path_factory.mktemp("fsdp") / "half"
    launched(2, [*words, f"OUTPUT_DIR={folder}", "SOLVER.MAX_ITER=8"])
    return folder


@pytest.fixture(scope="module")
def whole(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the same run, uninterrupted for all 12 updates."""
    folder = tmp_path_factory.mktemp("fsdp") / "whole"
    launched(2, [*words, f"OUTPUT_DIR={folder}"])
    return folder


@pytest.fixture
def go_on(half: Path, words: list[str], tmp_path: Path) -> Callable[..., Path]:
    """Resumes `half`, in a copy of it."""

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


def test_fsdp_on_two_ranks_trains_as_one_process_does(one: Path, words: list[str], tmp_path: Path) -> None:
    said = launched(2, [*words, f"OUTPUT_DIR={tmp_path}"])
    assert "model: sharded over 2 ranks (fsdp), all-gathered by Conv2d, Linear" in said
    assert_same_run(one, tmp_path)


def test_fsdp_on_four_ranks_trains_adamw_with_accumulation_as_one_process_does(
    words: list[str], tmp_path: Path
) -> None:
    adam = [*words, "SOLVER.OPTIMIZER=AdamW", "SOLVER.BASE_LR=0.01"]
    assert train_net.main([*adam, f"OUTPUT_DIR={tmp_path / 'one'}"]) == 0
    launched(4, [*adam, f"OUTPUT_DIR={tmp_path / 'four'}", "SOLVER.GRAD_ACCUM_STEPS=2"])
    assert_same_run(tmp_path / "one", tmp_path / "four")


def test_fsdp_matches_ddp_for_each_optimizer_and_clip_type_or_refuses_it(
    noise_npz: Path,
) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "tests.engine.sharded_optimizers", str(noise_npz)]
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
def test_sharded_checkpoint_is_a_small_file_and_a_folder_with_a_file_per_rank(half: Path) -> None:
    content = load_checkpoint(half / "model_0000007.pth", whole=False)
    assert {name for name, value in content["model"].items() if value is None} == {
        name for name, _ in build_small().named_parameters()
    }
    folder = Path(content["parts"])
    assert folder.parent == half / "shards"
    assert sorted(path.name for path in folder.iterdir()) == [".metadata", "__0_0.distcp", "__1_0.distcp"]
    # The shards of iterations 4 and 8; model_final.pth names the latter too.
    assert len([*(half / "shards").iterdir()]) == 2


def test_fsdp_resume_on_the_same_number_of_ranks_is_bit_exact(go_on: Callable[..., Path], whole: Path) -> None:
    assert_same_final(whole, go_on(2))


@pytest.mark.need("D1", "D2")
@pytest.mark.parametrize(
    "damage",
    [
        "flipped",
        pytest.param("truncated", marks=pytest.mark.soak),
        pytest.param("missing", marks=pytest.mark.soak),
        pytest.param("without metadata", marks=pytest.mark.soak),
    ],
)
def test_damaged_shard_falls_back_to_the_checkpoint_before(
    half: Path, whole: Path, words: list[str], tmp_path: Path, damage: str
) -> None:
    """Each is read in one process, which is faster, and one is resumed by two ranks."""
    folder = tmp_path / "copy"
    shutil.copytree(half, folder)
    (parts,) = (folder / "shards").glob("0000007-*")
    part = parts / "__1_0.distcp"
    data = bytearray(part.read_bytes())
    if damage == "flipped":
        data[len(data) // 3] ^= 1
        part.write_bytes(data)
    elif damage == "truncated":
        part.write_bytes(data[:-1])
    else:
        (part if damage == "missing" else parts / ".metadata").unlink()
    found = load_newest(folder)
    assert found is not None
    assert found[0].name == "model_0000003.pth"
    if damage != "flipped":
        return
    said = launched(2, [*words, f"OUTPUT_DIR={folder}", "--resume"])
    assert (
        f"{part} is damaged: its checksum differs from the one when it was written; falling back to model_0000003"
        in said
    )
    assert_same_final(whole, folder)


def test_full_disk_of_one_rank_loses_only_that_checkpoint(whole: Path, words: list[str], tmp_path: Path) -> None:
    (tmp_path / "full.py").write_text(
        """
import errno, os
from torch.distributed.checkpoint import FileSystemWriter
from warmstart.engine import rank

write_data = FileSystemWriter.write_data

def fail(self, plan, planner):
    if rank() == 1 and "/0000007-" in str(self.path):
        (self.path / "__1_0.distcp").write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return write_data(self, plan, planner)

FileSystemWriter.write_data = fail
"""
    )
    out = tmp_path / "out"
    said = launched(2, [*words, f"OUTPUT_DIR={out}", "--import", "full"], tmp_path)
    assert (
        f"{out}/model_0000007.pth could not be saved: No space left on device; the newest is model_0000003.pth; "
        "training continues and the next checkpoint tries again\n"
    ) in said
    assert sorted(path.name for path in out.glob("*.pth")) == [
        *("model_0000003.pth", "model_0000011.pth", "model_final.pth")
    ]
    assert_same_final(whole, out)


@pytest.mark.soak
def test_save_that_hangs_on_one_rank_times_out(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "hangs.py").write_text(
        """
import time
from torch.distributed.checkpoint import FileSystemWriter
from warmstart.engine import rank

write_data = FileSystemWriter.write_data

def hang(self, plan, planner):
    if rank() == 1:
        time.sleep(90)
    return write_data(self, plan, planner)

FileSystemWriter.write_data = hang
"""
    )
    more = [f"OUTPUT_DIR={tmp_path / 'out'}", "--import", "hangs"]
    said = launched(2, [*words, *more, "DISTRIBUTED.TIMEOUT=25"], tmp_path, code=5)
    assert "another rank exited or timed out: " in said
    assert "Timed out waiting 25000ms" in said


def test_overwrite_removes_all_shards_of_the_run_before(
    half: Path, whole: Path, words: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(half, folder)
    before = {path.name for path in (folder / "shards").iterdir()}
    launched(2, [*words, f"OUTPUT_DIR={folder}", "--overwrite"])
    assert not before & {path.name for path in (folder / "shards").iterdir()}
    assert not (folder / "overwritten").exists()
    assert_same_final(whole, folder)


def test_resume_of_a_sharded_file_into_another_folder_leaves_it_unchanged(
    half: Path, whole: Path, words: list[str], tmp_path: Path
) -> None:
    before = contents(half)
    launched(2, [*words, f"OUTPUT_DIR={tmp_path / 'new'}", f"--resume={half / 'model_0000003.pth'}"])
    assert contents(half) == before
    assert_same_final(whole, tmp_path / "new")
    assert len([*(tmp_path / "new" / "shards").iterdir()]) == 2  # of iterations 8 and 12


def test_resume_of_an_earlier_sharded_file_keeps_the_shards_of_later_ones(
    half: Path, whole: Path, words: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(half, folder)
    launched(2, [*words, f"OUTPUT_DIR={folder}", f"--resume={folder / 'model_0000003.pth'}"])
    assert_same_final(whole, folder)
    shutil.copy(folder / "model_0000007.pth.cut", folder / "model_0000099.pth")
    assert_same_bits(
        load_checkpoint(folder / "model_0000099.pth")["model"],
        load_checkpoint(half / "model_0000007.pth")["model"],
    )


def test_checkpoint_keep_prunes_all_shards_but_the_newest_the_best_and_those_before_the_decay(
    words: list[str], tmp_path: Path
) -> None:
    more = ["SOLVER.CHECKPOINT_KEEP=1", "SOLVER.CHECKPOINT_PERIOD=2", "TEST.EVAL_PERIOD=6"]
    launched(2, [*words, *more, f"OUTPUT_DIR={tmp_path}", "TEST.BEST.METRIC=noise.npz/accuracy"])
    best = load_checkpoint(tmp_path / "model_best.pth")["iteration"]
    kept = {"0000007", "0000011", f"{best - 1:07d}"}
    assert {path.name[:7] for path in (tmp_path / "shards").iterdir()} == kept


def test_two_runs_in_succession_in_the_same_processes(whole: Path, words: list[str], tmp_path: Path) -> None:
    """Also if the launcher has one store for both, as torchrun does."""
    script = tmp_path / "twice.py"
    script.write_text(
        """
import sys
from warmstart.engine import run_tool
from warmstart.tools import train_net

run_tool(lambda: max(train_net.main([*sys.argv[1:], f"OUTPUT_DIR={out}"]) for out in ("one", "two")))
"""
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    environ = os.environ | {"OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [*command, *words], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 0, ended.stderr
    for name in ("one", "two"):
        assert_same_final(whole, tmp_path / name)


@pytest.mark.need("C8")
@pytest.mark.parametrize("ranks", [1, 4])
def test_fsdp_resume_on_fewer_or_more_ranks_trains_as_one_process_does(
    go_on: Callable[..., Path], one: Path, ranks: int
) -> None:
    assert_same_run(one, go_on(ranks))


def test_run_of_one_process_resumes_with_fsdp(one: Path, words: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(one, folder)
    (folder / "last_checkpoint").write_text("model_0000007.pth")
    launched(2, [*words, f"OUTPUT_DIR={folder}", "--resume"])
    assert_same_run(one, folder)


def test_export_weights_writes_the_full_weights_of_a_sharded_run(half: Path, tmp_path: Path) -> None:
    assert export_weights.main([str(half), str(tmp_path / "out.safetensors")]) == 0
    weights = load_file(tmp_path / "out.safetensors")
    model = build_small()
    assert {name: tensor.shape for name, tensor in weights.items()} == {
        name: tensor.shape for name, tensor in model.state_dict().items()
    }
    assert_close(load_checkpoint(half / "model_final.pth")["model"], weights)


@pytest.mark.parametrize("precision", [pytest.param("float32", marks=pytest.mark.soak), "bf16"])
def test_fsdp_trains_in_bf16_with_cpu_offload(words: list[str], tmp_path: Path, precision: str) -> None:
    more = ["MODEL.FSDP.CPU_OFFLOAD=true", "MODEL.FSDP.RESHARD_AFTER_FORWARD=false", "SOLVER.BASE_LR=0.01"]
    more += ["MODEL.ACTIVATION_CHECKPOINTING=[block2]"]
    launched(2, [*words, *more, f"OUTPUT_DIR={tmp_path}", f"MODEL.FSDP.PRECISION={precision}"])
    found = load_checkpoint(tmp_path / "model_final.pth")["model"]
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}
    assert records(tmp_path)[-1]["total_loss"] < 1.3


def test_eval_only_of_a_sharded_run_is_equal_on_any_number_of_ranks(
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


OWN = """
from torch.nn import functional as F
from warmstart.modeling import register_model
from warmstart.modeling.small_cnn import SmallCNN

class Focal(SmallCNN):
    def forward(self, images, targets=None):
        logits = super().forward(images)
        return {"loss_focal": 0.5 * F.cross_entropy(logits, targets)} if self.training else logits

register_model("focal", Focal)
"""


@pytest.mark.soak
def test_fsdp_trains_a_model_that_returns_its_losses(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_focal.py").write_text(OWN)
    monkeypatch.setattr(catalog, "_REGISTRY", dict(catalog._REGISTRY))
    monkeypatch.syspath_prepend(tmp_path)
    own = ["--import", "own_focal", *words, "MODEL.NAME=focal"]
    assert train_net.main([*own, f"OUTPUT_DIR={tmp_path}/one"]) == 0
    launched(2, [*own, f"OUTPUT_DIR={tmp_path}/two"], modules=tmp_path)
    assert_same_run(tmp_path / "one", tmp_path / "two")
    assert records(tmp_path / "two")[-1]["loss_focal"] == records(tmp_path / "two")[-1]["total_loss"]


@pytest.mark.soak
def test_model_weights_loads_the_folder_of_a_sharded_run(
    half: Path, words: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    """On one process and on two, with the score of that run."""
    expected = [name for name in records(half)[-1] if name.endswith("noise.npz/loss")]
    loss = f"loss {records(half)[-1][expected[0]]:.4g}"
    evaluated = [*words, "--eval-only", f"MODEL.WEIGHTS={half}"]
    capfd.readouterr()
    assert train_net.main([*evaluated, "MODEL.PARALLEL=ddp"]) == 0
    for said in (capfd.readouterr().out, launched(2, evaluated)):
        assert f"loaded 11/11 tensors from {half}/model_final.pth" in said
        assert loss in said


def test_eval_only_with_fsdp_sets_precise_bn_statistics_as_training_does(words: list[str], tmp_path: Path) -> None:
    normed = [*words, "MODEL.ARGS.norm=batch", "MODEL.ARGS.dropout=0.2", f"OUTPUT_DIR={tmp_path}"]
    precise = ["TEST.PRECISE_BN.ENABLED=true", "TEST.PRECISE_BN.NUM_ITER=3"]
    launched(2, [*normed, *precise])
    scores = {name: value for name, value in records(tmp_path)[-1].items() if name.endswith("/loss")}
    for more in (["--resume"], [f"MODEL.WEIGHTS={tmp_path}"]):
        said = launched(2, [*normed, *precise, "--eval-only", *more])
        assert "BatchNorm has the statistics of the 3 training batches from iteration 12 on" in said
        for name, value in scores.items():
            if "/ema/" not in name or more == ["--resume"]:
                assert f"loss {value:.4g}" in said
