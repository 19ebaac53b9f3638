"""Launchers: a run has the same bits with --num-gpus, torchrun and srun."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from warmstart.engine import load_checkpoint

from ..dying import assert_same_bits
from ..ranks import free_port

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent.parent
TOOL = "tools/train_net.py"
SECONDS = 200  # more than any of them takes


def said_by(commands: list[tuple[list[str], dict[str, str]]]) -> list[str]:
    """Run commands at once, with one thread per rank; return the output of each after all have succeeded."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    processes = [
        subprocess.Popen(
            [sys.executable, *words],
            cwd=ROOT,
            env=environ | {"OMP_NUM_THREADS": "1"} | own,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for words, own in commands
    ]
    try:
        said = [process.communicate(timeout=SECONDS) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [(process.returncode, err) for process, (_, err) in zip(processes, said, strict=True)] == [
        (0, "")
    ] * len(processes)
    return [out for out, _ in said]


def tasks_of_srun(words: list[str]) -> list[tuple[list[str], dict[str, str]]]:
    """Return the commands that SLURM runs on one machine for `srun --ntasks 2`."""
    step = {
        "SLURM_NTASKS": "2",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_NODEID": "0",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_STEP_TASKS_PER_NODE": "2",
        "SLURM_JOB_ID": str(free_port() - 15000),  # which the port follows from
        "SLURM_STEP_ID": "0",
        "SLURM_CPUS_PER_TASK": "1",
    }
    return [([TOOL, *words], step | {"SLURM_PROCID": each, "SLURM_LOCALID": each}) for each in ("0", "1")]


@pytest.mark.need("G1")
def test_num_gpus_torchrun_and_srun_train_the_same_bits(tiny_words: list[str], tmp_path: Path) -> None:
    """With BatchNorm, dropout, crops and flips."""
    common = [*tiny_words, "MODEL.DEVICE=cpu", "SOLVER.EMA.ENABLED=true"]
    words = {name: [*common, f"OUTPUT_DIR={tmp_path}/{name}"] for name in ("flag", "torchrun", "srun")}
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}"]
    said = [
        said_by([([TOOL, *words["flag"], "--num-gpus=2"], {})]),
        said_by([([*torchrun, TOOL, *words["torchrun"]], {})]),
        said_by(tasks_of_srun(words["srun"])),
    ]
    for outs in said:
        assert "".join(outs).count("processes: 2, with 4 of the 8 images of a batch each") == 1
    assert said[2][1] == ""  # the second task
    first, *others = (load_checkpoint(tmp_path / name / "model_final.pth") for name in words)
    assert len(first["rng"]) == 2
    for other in others:
        for part in ("model", "optimizer", "scheduler", "ema", "iteration", "rng"):
            assert_same_bits(first[part], other[part], part)
