"""Tasks of SLURM's srun as ranks: their devices and cores."""

from __future__ import annotations

import os

import pytest

from warmstart.config import ConfigError, get_cfg
from warmstart.data import device_of, usable_cores
from warmstart.engine.distributed.environment import slurm_environment
from warmstart.engine.distributed.process_group import check_devices

# The third of five tasks, of which this machine, the first of three, has three.
TASK = {
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "2",
    "SLURM_NODEID": "0",
    "SLURM_NTASKS": "5",
    "SLURM_STEP_NODELIST": "a[7-9]",
    "SLURM_STEP_TASKS_PER_NODE": "3,1(x2)",
    "SLURM_JOB_ID": "17000",
    "SLURM_STEP_ID": "2",
}


def test_slurm_tasks_with_one_visible_gpu_each_use_their_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """LOCAL_RANK and LOCAL_WORLD_SIZE still count the tasks of the machine, for downloads and cores."""
    found = slurm_environment(TASK | {"SLURM_GPUS_PER_TASK": "1"})
    assert (found["LOCAL_RANK"], found["LOCAL_WORLD_SIZE"]) == ("2", "3")
    monkeypatch.setattr(os, "environ", os.environ | found)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.DEVICE", "cuda"])
    assert device_of(cfg) == "cuda:0"
    check_devices(cfg)
    monkeypatch.delenv("WARMSTART_DEVICE")
    assert device_of(cfg) == "cuda:2"
    with pytest.raises(ConfigError, match="3 processes on this machine need 3 CUDA devices, it has 1"):
        check_devices(cfg)


def test_slurm_cpus_per_task_sets_the_usable_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    found = slurm_environment(TASK | {"SLURM_CPUS_PER_TASK": "5"})
    monkeypatch.setattr(os, "environ", os.environ | found)
    assert usable_cores() == 5


def test_slurm_environment_ignores_the_shell_of_salloc() -> None:
    assert slurm_environment(TASK | {"SLURM_STEP_NUM_TASKS": "1"}) == {}
