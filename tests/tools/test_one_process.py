"""Single-process tools: they refuse to run in several processes, once, and write nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from warmstart.config import ConfigError
from warmstart.tools import find_lr, plain_train_net, plan_scale, plot_lr

from ..engine.ranks import Ranks

TOOLS = {
    find_lr.main: "find_lr.py runs in one process",
    plot_lr.main: "plot_lr.py runs in one process",
    plan_scale.main: "plan_scale.py runs in one process",
    plain_train_net.main: "plain_train_net.py runs in one process; train_net.py in as many as you like",
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    return tmp_path


@pytest.mark.skipif(torch.cuda.is_available(), reason="forks this process, which may have used the GPU")
@pytest.mark.parametrize("main", TOOLS)
def test_ranks_of_torchrun_are_refused_once(
    main: Callable[[list[str]], int], tiny_words: list[str], folder: Path
) -> None:
    one, other = Ranks(folder / "said", 2, lambda: main(tiny_words)).end()
    assert (one.code, one.out) == (2, "")
    assert one.err == f"error: {TOOLS[main]}, and 2 were started: leave torchrun or srun out\n"
    assert (other.code, other.out, other.err) == (2, "", "")
    assert [path.name for path in folder.iterdir()] == ["said"]


@pytest.mark.parametrize("main", TOOLS)
def test_tasks_of_srun_are_refused(main: Callable[[list[str]], int], folder: Path) -> None:
    step = {"SLURM_PROCID": 0, "SLURM_LOCALID": 0, "SLURM_NODEID": 0, "SLURM_NTASKS": 3, "SLURM_JOB_ID": 1}
    os.environ |= {name: str(number) for name, number in step.items()}
    os.environ |= {"SLURM_STEP_NODELIST": "a", "SLURM_STEP_TASKS_PER_NODE": "3"}
    with pytest.raises(ConfigError, match=r"in one process.*, and 3 were started: leave torchrun or srun out$"):
        main([])
    assert list(folder.iterdir()) == []
