"""The cost of an update as a run grows: in length, in parameter groups, in hooks; as JSON lines.

    python benchmarks/growth.py length --updates 1000000
    python benchmarks/growth.py groups --counts 1 10 100 1000 10000
    python benchmarks/growth.py hooks --counts 0 10 100 1000

"length" is one run with all defaults, of a network of two layers on batches in memory, with one line for each
tenth: `us_per_iter` is the median over stretches of 1,000 updates, records included; `memory_mb` the resident
memory at the end; `record_bytes` the bytes per record in metrics.json. The first stretch is excluded, because
lr.png is drawn in it.

"groups" trains as many numbers, each a parameter in a separate group, by SGD with momentum; so does "bare", a loop
that does nothing else. `over_bare_us_per_group` is the cost of our loop, a cosine and a record every 20 updates.

"hooks" adds hooks to a run of that tiny network: "inherits" does nothing in any event, "waits" acts only after the
last update. `over_none_us` is what all of them together add to an update.

The variants of "groups" and "hooks" take turns, `rounds` times; figures are medians of CPU time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise, repeat
from pathlib import Path
from typing import Any

import torch
from loops import prepare
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from warmstart.config import get_cfg
from warmstart.engine import HookBase, RecordHook, Trainer, default_hooks, setup_logging, stop_signals
from warmstart.solver import build_lr_scheduler
from warmstart.tasks import build_task

STRETCH = 1000  # updates
WARM_UP = 20  # updates that are not timed in "groups" and "hooks"


class Sum(nn.Module):
    """`count` numbers, each a parameter; the loss is half the sum of their squares."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.numbers = nn.ParameterList(nn.Parameter(torch.ones(())) for _ in range(count))

    def forward(self) -> dict[str, Tensor]:
        """Return the loss."""
        return {"loss_sum": torch.stack([*self.numbers]).square().sum() / 2}


class Inherits(HookBase):
    """A hook that does nothing."""

    def __init__(self, number: int) -> None:
        self.number = number

    @property
    def name(self) -> str:
        """Return a unique name."""
        return f"hook {self.number}"


class Waits(Inherits):
    """Is called after the last update only."""

    period = 0

    def after_step(self, trainer: Trainer) -> None:
        """Put a number into the last record."""
        trainer.scalars["last"] = 1.0


class Clock(HookBase):
    """Measures CPU time from the first timed update on."""

    def __init__(self) -> None:
        self.begin = 0.0

    def before_step(self, trainer: Trainer) -> None:
        """Start the clock."""
        if trainer.iteration == WARM_UP:
            self.begin = time.process_time()

    def after_train(self, trainer: Trainer) -> None:
        """Stop the clock."""
        self.us = (time.process_time() - self.begin) / (trainer.iteration - WARM_UP) * 1e6


class Mark(HookBase):
    """Records the time, the memory and the length of metrics.json after each stretch of updates."""

    period = STRETCH

    def __init__(self, folder: Path) -> None:
        self.path = folder / "metrics.json"
        self.marks: list[tuple[float, int, int]] = []

    def after_step(self, trainer: Trainer) -> None:
        """Take a mark."""
        if trainer.iteration % STRETCH == 0:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            mark = (time.perf_counter(), pages * os.sysconf("SC_PAGESIZE"), self.path.stat().st_size)
            self.marks.append(mark)


def length(updates: int) -> Iterator[dict[str, Any]]:
    """Yield one line for each tenth of a run."""
    with tempfile.TemporaryDirectory() as folder:
        work = prepare("ours", "overhead", updates, Path(folder), "", 0)
        setup_logging(folder)
        net, task = work.net(), build_task(work.cfg)
        optimizer, mark = work.optimizer(net), Mark(Path(folder))
        hooks = [*default_hooks(work.cfg, task, net, work.stream), mark]  # type: ignore[arg-type]
        scheduler = build_lr_scheduler(work.cfg, optimizer)
        trainer = Trainer(net, optimizer, scheduler, work.stream, hooks, task, max_iter=updates)
        with stop_signals(trainer.interrupt), silence():
            trainer.train()
        records = STRETCH // work.cfg.LOG_PERIOD
    tenth = max(1, len(mark.marks) // 10)
    for begin in range(0, len(mark.marks) - 1, tenth):
        stretches = [*pairwise(mark.marks[begin : begin + tenth + 1])]
        yield {
            "updates": (begin + len(stretches) + 1) * STRETCH,
            "us_per_iter": round(statistics.median((b[0] - a[0]) / STRETCH for a, b in stretches) * 1e6, 1),
            "memory_mb": round(stretches[-1][1][1] / 2**20, 1),
            "record_bytes": round((stretches[-1][1][2] - stretches[0][0][2]) / len(stretches) / records),
        }


def in_groups(count: int) -> tuple[Sum, Optimizer]:
    """Return `count` numbers, each in a separate group with a separate learning rate."""
    model = Sum(count)
    groups = [{"params": [number], "lr": 2.0**-10} for number in model.numbers]
    return model, SGD(groups, lr=2.0**-10, momentum=0.9, fused=True)


def bare(count: int, updates: int) -> float:
    """Return microseconds per update of a loop that does nothing else."""
    model, optimizer = in_groups(count)
    begin = 0.0
    for iteration in range(updates):
        if iteration == WARM_UP:
            begin = time.process_time()
        optimizer.zero_grad()
        model()["loss_sum"].backward()
        optimizer.step()
    return (time.process_time() - begin) / (updates - WARM_UP) * 1e6


def ours(count: int, updates: int, hooks: list[HookBase]) -> float:
    """Return microseconds per update of our loop, with a cosine and these hooks."""
    cfg = get_cfg()
    cfg.merge_from_list(["SOLVER.MAX_ITER", updates, "SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR"])
    cfg.merge_from_list(["SOLVER.WARMUP_ITERS", 0])
    model, optimizer = in_groups(count)
    clock, scheduler = Clock(), build_lr_scheduler(cfg, optimizer)
    Trainer(model, optimizer, scheduler, repeat(()), [*hooks, clock], max_iter=updates).train()
    return clock.us


def groups(counts: list[int], rounds: int) -> Iterator[dict[str, Any]]:
    """Yield one line for each count of groups."""
    updates = {count: WARM_UP + max(20, 5000 // count) for count in counts}
    found: dict[int, list[tuple[float, float]]] = {count: [] for count in counts}
    for _ in range(rounds):
        for count in counts:
            found[count].append((bare(count, updates[count]), ours(count, updates[count], [RecordHook(20, [])])))
    for count, pairs in found.items():
        limit, us = (statistics.median(column) for column in zip(*pairs, strict=True))
        over = (us - limit) / count
        yield {
            **{"groups": count, "rounds": rounds, "bare_us": round(limit, 1), "us_per_iter": round(us, 1)},
            **{"ratio_to_bare": round(us / limit, 3), "over_bare_us_per_group": round(over, 3)},
        }


def hooks(counts: list[int], rounds: int, updates: int) -> Iterator[dict[str, Any]]:
    """Yield one line for each kind and count of hooks."""
    kinds = [(kind, count) for kind in (Inherits, Waits) for count in counts if count]
    found: dict[tuple[type[Inherits] | None, int], list[float]] = {(None, 0): [], **{kind: [] for kind in kinds}}
    for _ in range(rounds):
        for kind, count in found:
            found[kind, count].append(ours(1, updates, [kind(number) for number in range(count)] if kind else []))
    none = statistics.median(found[None, 0])
    for (kind, count), runs in found.items():
        us = statistics.median(runs)
        name = "none" if kind is None else kind.__name__.lower()
        yield {
            **{"hooks": name, "count": count, "rounds": rounds, "us_per_iter": round(us, 1)},
            "over_none_us": round(us - none, 1),
        }


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Discard what the block prints."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("length", "groups", "hooks"))
    parser.add_argument("--updates", type=int, help="default: 1,000,000 for length, 5,000 for hooks")
    parser.add_argument("--counts", type=int, nargs="+", help="default: 1 to 10000 groups, 10 to 1000 hooks")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="of torch; default: 1")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.what == "length":
        lines = length(given.updates or 1_000_000)
    elif given.what == "groups":
        lines = groups(given.counts or [1, 10, 100, 1000, 10_000], given.rounds)
    else:
        lines = hooks(given.counts or [10, 100, 1000], given.rounds, given.updates or 5000)
    versions = {"python": platform.python_version(), "torch": str(torch.__version__)}
    for line in lines:
        print(json.dumps(line | {"cores": os.cpu_count(), "versions": versions}), flush=True)


if __name__ == "__main__":
    main()
