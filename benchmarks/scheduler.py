"""Microseconds per step() of learning-rate schedulers, as one JSON line per contender and number of groups.

    pip install -e '.[bench]' && python benchmarks/scheduler.py --groups 1 3 200

All contenders take turns, `rounds` times, with `steps` calls at a time; `us_per_step` is the median over the
rounds of CPU time, so that other processes matter little. Only these calls are timed, all of them between warm-up
and the schedule's end. Ours writes every learning rate in each call, whether it changes or not. "floor" is a
handwritten cosine without warm-up. timm is told the count, so it pays for a counter; mmengine has a list of
schedulers, each of which is stepped. detectron2 cannot be installed from a package index: LRMultiplier is ours,
over a function of fvcore.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import math
import os
import platform
import statistics
import sys
import time
import timeit
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import torch
from fvcore.common.param_scheduler import CosineParamScheduler
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, MultiStepLR, SequentialLR
from torch.optim.optimizer import Optimizer

from warmstart.config import get_cfg
from warmstart.solver import LRMultiplier, build_lr_scheduler

WARMUP = 100
START = 0.001  # learning rate at the start of warm-up, relative to the base learning rate

Step = Callable[[], object]
# Takes an optimizer and the length of the schedule, and returns what a loop calls after each update.
Contender = Callable[[Optimizer, int], Step]


def floor(optimizer: Optimizer, length: int) -> Step:
    """Return a handwritten cosine."""
    groups = optimizer.param_groups
    bases = [group["lr"] for group in groups]
    counter = itertools.count(1)

    def step() -> None:
        factor = (1 + math.cos(math.pi * next(counter) / length)) / 2
        for group, base in zip(groups, bases, strict=True):
            group["lr"] = base * factor

    return step


def ours(name: str, **arguments: Any) -> Contender:
    """Return a schedule by its name in a config; each argument is a function of the length."""

    def make(optimizer: Optimizer, length: int) -> Step:
        given = {key: value(length) for key, value in arguments.items()}
        cfg = get_cfg()
        solver = {"LR_SCHEDULER_NAME": name, "MAX_ITER": length, "WARMUP_ITERS": WARMUP, "WARMUP_FACTOR": START}
        cfg.merge_from_other_cfg({"SOLVER": solver | given})
        return build_lr_scheduler(cfg, optimizer).step

    return make


def milestones(length: int) -> list[int]:
    """Return three drops, evenly spread."""
    return [length // 4, length // 2, 3 * length // 4]


def torch_sequential(optimizer: Optimizer, length: int) -> Step:
    """Return torch's idiom for warm-up and a cosine."""
    phases = [LinearLR(optimizer, START, total_iters=WARMUP), CosineAnnealingLR(optimizer, length - WARMUP)]
    return SequentialLR(optimizer, phases, [WARMUP]).step


def timm_cosine(optimizer: Optimizer, length: int) -> Step:
    """Return timm's cosine with warm-up, told the number of updates."""
    from timm.scheduler import CosineLRScheduler

    scheduler = CosineLRScheduler(optimizer, length, warmup_t=WARMUP, warmup_lr_init=1e-4, t_in_epochs=False)
    counter = itertools.count(1)
    return lambda: scheduler.step_update(next(counter))


def mmengine_cosine(optimizer: Optimizer, length: int) -> Step:
    """Return mmengine's idiom for warm-up and a cosine."""
    from mmengine.optim import scheduler

    schedulers = [
        scheduler.LinearLR(optimizer, START, end=WARMUP, by_epoch=False),
        scheduler.CosineAnnealingLR(optimizer, T_max=length - WARMUP, begin=WARMUP, by_epoch=False),
    ]

    def step() -> None:
        for one in schedulers:
            one.step()

    return step


def mmengine_multi_step(optimizer: Optimizer, length: int) -> Step:
    """Return mmengine's drops, without warm-up."""
    from mmengine.optim import scheduler

    step: Step = scheduler.MultiStepLR(optimizer, milestones(length), by_epoch=False).step
    return step


# By kind and name; --contenders takes either.
CONTENDERS: dict[str, Contender] = {
    "floor": floor,
    "ours:WarmupCosineLR": ours("WarmupCosineLR"),
    "ours:WarmupMultiStepLR": ours("WarmupMultiStepLR", STEPS=milestones),
    "ours:CosineAnnealingLR": ours("CosineAnnealingLR", LR_SCHEDULER_ARGS=lambda n: {"T_max": n - WARMUP}),
    "ours:MultiStepLR": ours("MultiStepLR", LR_SCHEDULER_ARGS=lambda n: {"milestones": milestones(n)}),
    "ours:LRMultiplier": lambda o, n: LRMultiplier(o, CosineParamScheduler(1.0, 0.0), n).step,
    "torch:CosineAnnealingLR": lambda o, n: CosineAnnealingLR(o, n).step,
    "torch:MultiStepLR": lambda o, n: MultiStepLR(o, milestones(n)).step,
    "torch:SequentialLR": torch_sequential,
    "timm:CosineLRScheduler": timm_cosine,
    "mmengine:LinearLR+CosineAnnealingLR": mmengine_cosine,
    "mmengine:MultiStepLR": mmengine_multi_step,
}


def package_of(name: str) -> str:
    """Return the package that a contender needs besides torch; "" if it needs none."""
    kind = name.partition(":")[0]
    return {"floor": "", "torch": "", "ours": "warmstart"}.get(kind, kind)


def installed(names: list[str]) -> list[str]:
    """Return the contenders that are installed; report what is missing for each of the others."""
    found = []
    for name in names:
        package = package_of(name)
        if package and importlib.util.find_spec(package) is None:
            print(f"{name} is skipped: {package} is not installed; pip install -e '.[bench]'", file=sys.stderr)
        else:
            found.append(name)
    return found


def prepare(name: str, groups: int, length: int) -> Step:
    """Return the step of a contender with a separate optimizer."""
    parameters = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 0.1 * 0.99**i} for i in range(groups)]
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
    step = CONTENDERS[name](optimizer, length)
    optimizer.step()  # torch and mmengine warn if a scheduler steps before its optimizer has
    return step


def measure(names: list[str], groups: int, rounds: int, steps: int) -> dict[str, list[float]]:
    """Return the microseconds per step of each contender, round by round."""
    before = WARMUP + steps
    length = before + rounds * steps + 1
    contenders = {name: prepare(name, groups, length) for name in names}
    for step in contenders.values():
        timeit.timeit(step, number=before)
    found: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for name, step in contenders.items():
            found[name].append(timeit.timeit(step, number=steps, timer=time.process_time) / steps * 1e6)
    return found


def line(name: str, times: list[float], floor_times: list[float]) -> dict[str, Any]:
    """Return the printed results of a contender, without the settings of the run."""
    middle, package = statistics.median(times), package_of(name)
    return {
        "us_per_step": round(middle, 3),
        "us_min": round(min(times), 3),
        "us_max": round(max(times), 3),
        "ratio_to_floor": round(middle / statistics.median(floor_times), 3),
        "device": f"CPU, {os.cpu_count()} cores",
        "versions": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            **({package: version(package)} if package else {}),
        },
    }


def main() -> None:
    """Measure each number of groups in turn and print its lines."""
    known = [*dict.fromkeys(name.partition(":")[0] for name in CONTENDERS), *CONTENDERS]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--groups", type=int, nargs="+", default=[1, 3, 200])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--contenders", nargs="+", default=known, choices=known)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    wanted = {"floor", *arguments.contenders}  # ratios are relative to the floor
    names = installed([name for name in CONTENDERS if wanted & {name, name.partition(":")[0]}])
    for groups in arguments.groups:
        found = measure(names, groups, arguments.rounds, arguments.steps)
        for name, times in found.items():
            run = {"contender": name, "groups": groups, "rounds": arguments.rounds, "steps": arguments.steps}
            print(json.dumps(run | line(name, times, found["floor"])), flush=True)


if __name__ == "__main__":
    main()
