"""Schedulers with accelerate: a prepared scheduler steps with the optimizer, once per process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer
from torch.utils.data import DataLoader

from warmstart.config import CfgNode
from warmstart.solver import ScheduleLR, build_lr_scheduler, build_optimizer

accelerate = pytest.importorskip("accelerate", reason="accelerate is missing: pip install -e '.[interop]'")

SCRIPT = Path(__file__).parent / "two_processes.py"
SCHEDULES = ["WarmupMultiStepLR", "WarmupCosineLR"]

Fresh = Callable[[], tuple[nn.Module, Optimizer, ScheduleLR, list[list[float]]]]


@pytest.fixture(autouse=True)
def fresh_state() -> Iterator[None]:
    """Without it the first Accelerator of a process decides for all later ones."""
    yield
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerate.state.GradientState._reset_state()


def train(accelerator: Any, epochs: int, model: Any, optimizer: Any, batches: Any, scheduler: Any) -> None:
    """The loop of accelerate's manual."""
    for _ in range(epochs):
        for batch in batches:
            with accelerator.accumulate(model):
                accelerator.backward(model(batch).square().mean())
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()


@pytest.mark.need("B2", "B15")
@pytest.mark.parametrize(("micro_batches", "epochs"), [(1, 2), (2, 4), (4, 6)])
def test_the_rates_are_those_of_a_plain_loop(
    fresh: Fresh, batches: DataLoader[Tensor], plain_loop: list[list[float]], micro_batches: int, epochs: int
) -> None:
    model, optimizer, scheduler, used = fresh()
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=micro_batches)
    train(accelerator, epochs, *accelerator.prepare(model, optimizer, batches, scheduler))
    assert used == plain_loop
    assert scheduler.last_epoch == 12


@pytest.mark.need("B5", "B15")
def test_a_run_continues_from_its_saved_state(
    fresh: Fresh, batches: DataLoader[Tensor], plain_loop: list[list[float]], tmp_path: Path
) -> None:
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    model, optimizer, scheduler, first = fresh()
    train(accelerator, 2, *accelerator.prepare(model, optimizer, batches, scheduler))
    accelerator.save_state(tmp_path)
    accelerator.free_memory()  # which forgets what was prepared
    model, optimizer, scheduler, second = fresh()
    prepared = accelerator.prepare(model, optimizer, batches, scheduler)
    accelerator.load_state(tmp_path)
    train(accelerator, 2, *prepared)
    assert first == plain_loop[:6]
    assert second == plain_loop[6:]


@pytest.mark.need("B15")
def test_a_scheduler_may_be_built_over_the_prepared_optimizer(
    fresh: Fresh, batches: DataLoader[Tensor], plain_loop: list[list[float]]
) -> None:
    accelerator = accelerate.Accelerator(cpu=True)
    model, optimizer, before, used = fresh()
    model, prepared, batches = accelerator.prepare(model, optimizer, batches)
    scheduler = ScheduleLR(prepared, before.schedule)
    with pytest.raises(RuntimeError, match="ScheduleLR was built after this"):
        before.step()
    del before
    train(accelerator, 2, model, prepared, batches, accelerator.prepare(scheduler))
    assert used == plain_loop
    prepared.load_state_dict(prepared.state_dict())
    assert [group["lr"] for group in optimizer.param_groups] == scheduler.lr_at(12)


@pytest.fixture(scope="module")
def two_processes(config: Callable[[str], CfgNode], tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What each of two processes used, by schedule and loop; see two_processes.py."""
    folder = tmp_path_factory.mktemp("processes")
    for name in SCHEDULES:
        (folder / f"{name}.yaml").write_text(config(name).dump())
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launch, str(SCRIPT), str(folder), *(str(folder / f"{name}.yaml") for name in SCHEDULES)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            _, errors = process.communicate(timeout=300)
        except subprocess.TimeoutExpired:
            process.terminate()  # not kill: the launcher passes this on to its processes
            raise
    assert process.returncode == 0, errors
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.slow
@pytest.mark.need("B15")
@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(
    ("loop", "steps"),
    [
        ("split, prepared", 1),
        # Where batches are not split, accelerate steps a prepared scheduler once for each process.
        ("whole, prepared", 2),
        ("whole, by hand", 1),
    ],
)
def test_both_of_two_processes_use_the_rates_of_one(
    two_processes: list[Any], config: Callable[[str], CfgNode], name: str, loop: str, steps: int
) -> None:
    cfg = config(name)
    scheduler = build_lr_scheduler(cfg, build_optimizer(cfg, nn.Linear(3, 2)))
    expected = [scheduler.lr_at(steps * t) for t in range(12)]
    assert [rank[name][loop] for rank in two_processes] == [expected, expected]
