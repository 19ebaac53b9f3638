"""Milliseconds of an update on several processes, measured beside what tools/plan_scale.py's formulas predict.

    python benchmarks/scaling.py --ranks 1 2 4 --rounds 5 MODEL.NAME resnet18
    python benchmarks/scaling.py --ranks 1 2 4 --rounds 5

Each rank is a process of its own with one thread, started by torchrun, in a gloo group. It trains the digits
recipe's model, with what the command line changes, on a batch of its own that lies in memory, in
DistributedDataParallel and nothing else: weak scaling. All numbers of ranks take turns, `rounds` times; a
round's time is the median of its updates, a line's the median of the rounds. The prediction comes from one
process and from all-reduces of as many ranks that do nothing else. `predicted_ms` has them run beside the
backward pass, as on a device whose network needs none of its cores, `predicted_in_turn_ms` after it, as where
they want the same cores.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import replace

import torch
import torch.distributed as dist

from warmstart.config import CfgNode, get_cfg
from warmstart.data import build_train_loader
from warmstart.data.workers import usable_cores
from warmstart.engine import Cluster, Link, Profile, measure_profile, predict, resolve_config
from warmstart.engine.links import measure_links
from warmstart.modeling import build_model
from warmstart.solver import build_optimizer

UNTIMED = 3


def configured(overrides: list[str]) -> CfgNode:
    """Return the digits recipe with what the command line changes, on the CPU."""
    cfg = get_cfg()
    cfg.merge("recipe:digits.yaml", ["MODEL.DEVICE", "cpu", *overrides], source="command line")
    return resolve_config(cfg)


def work(cfg: CfgNode, updates: int) -> None:
    """Train as one rank of many; the first prints the median seconds of an update."""
    dist.init_process_group("gloo")
    torch.manual_seed(cfg.SEED)
    model = torch.nn.parallel.DistributedDataParallel(build_model(cfg).train())
    optimizer = build_optimizer(cfg, model.module)
    images, labels = next(build_train_loader(cfg).batches(start=dist.get_rank()))
    seconds = []
    for _ in range(UNTIMED + updates):
        begin = time.perf_counter()
        optimizer.zero_grad()
        losses = model(images, labels)
        sum(value for name, value in losses.items() if name.startswith("loss")).backward()
        optimizer.step()
        seconds.append(time.perf_counter() - begin)
    if dist.get_rank() == 0:
        print(statistics.median(seconds[UNTIMED:]))
    dist.destroy_process_group()


def launch(ranks: int, updates: int, overrides: list[str]) -> float:
    """Return what the first of so many ranks prints."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    command = [sys.executable, *launcher, __file__, "--work", f"--updates={updates}", *overrides]
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env={"OMP_NUM_THREADS": "1", **os.environ}
    )
    return float(done.stdout.strip().splitlines()[-1])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=30)
    parser.add_argument("--work", action="store_true", help="be a rank")
    given, overrides = parser.parse_known_args()
    torch.set_num_threads(1)
    cfg = configured(overrides)
    if given.work:
        work(cfg, given.updates)
        return
    images = cfg.SOLVER.IMS_PER_BATCH
    alone = Link(0.0, math.inf)
    profiles: list[Profile] = []
    measured: dict[int, list[float]] = {ranks: [] for ranks in given.ranks}
    for _ in range(given.rounds):
        profiles.append(measure_profile(cfg, images, rounds=given.updates))
        for ranks in given.ranks:
            measured[ranks].append(launch(ranks, given.updates, overrides))
    profiles.sort(key=lambda profile: predict(profile, Cluster(1, alone, alone), 1, images).seconds)
    beside = profiles[len(profiles) // 2]
    in_turn = replace(beside, ready=(1.0,) * len(beside.ready))
    for ranks in given.ranks:
        link = measure_links(ranks) if ranks > 1 else alone
        predicted, later = (predict(each, Cluster(ranks, link, link), ranks, images) for each in (beside, in_turn))
        line = {
            **{"model": cfg.MODEL.NAME, "images": images, "gradients_mb": round(sum(beside.gradients) / 1e6, 1)},
            **{"ranks": ranks, "rounds": given.rounds, "ms": round(1e3 * statistics.median(measured[ranks]), 2)},
            "ms_of_rounds": [round(1e3 * seconds, 2) for seconds in measured[ranks]],
            "predicted_ms": round(1e3 * predicted.seconds, 2),
            "predicted_in_turn_ms": round(1e3 * later.seconds, 2),
            **{
                "latency_us": round(1e6 * link.latency, 1),
                "gb_per_s": round(link.bandwidth / 1e9, 2) if ranks > 1 else None,
            },
            **{"cores": usable_cores(), "python": platform.python_version(), "torch": str(torch.__version__)},
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
