"""Milliseconds per update on several processes, measured and as predicted by the formulas of tools/plan_scale.py.

    python benchmarks/scaling.py --ranks 1 2 4 --rounds 5 MODEL.NAME resnet18
    python benchmarks/scaling.py --ranks 1 2 4 --rounds 5

Each rank is a separate process with one thread, started by torchrun, in a gloo group. First all ranks measure
their forward pass, backward pass and step at the same time, so that contention for shared cores is included; then
all-reduces of several sizes; then they train the digits recipe's model, with the changes of the command line, each
on a separate batch in memory, in DistributedDataParallel and nothing else: weak scaling. All numbers of ranks take
turns, `rounds` times; figures are medians over the rounds of medians over updates. `predicted_ms` assumes that
all-reduces overlap with the backward pass, as on a device whose network needs none of its cores,
`predicted_in_turn_ms` that they follow it, as when both need the same cores; `ratio` and `ratio_in_turn` are the
measured time over each prediction, by round.
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
from warmstart.data import build_train_loader, usable_cores
from warmstart.engine import Cluster, Link, losses_of, measure_profile, predict, resolve_config
from warmstart.engine.analysis.link_benchmark import SIZES, all_reduce_seconds
from warmstart.engine.analysis.links import fit_link
from warmstart.modeling import build_model
from warmstart.solver import build_optimizer
from warmstart.tasks import build_task

UNTIMED = 3


def configured(overrides: list[str]) -> CfgNode:
    """Return the digits recipe with the changes of the command line, on the CPU."""
    cfg = get_cfg()
    cfg.merge("recipe:digits.yaml", ["MODEL.DEVICE", "cpu", *overrides], source="command line")
    return resolve_config(cfg)


def work(cfg: CfgNode, updates: int) -> None:
    """Run one rank; the first prints the measured and predicted milliseconds of an update."""
    dist.init_process_group("gloo")
    ranks, images = dist.get_world_size(), cfg.SOLVER.IMS_PER_BATCH
    dist.barrier()
    profile = measure_profile(cfg, images, rounds=updates)
    link = Link(0.0, math.inf)
    if ranks > 1:
        link = fit_link(SIZES, [all_reduce_seconds(size, 7, torch.device("cpu")) for size in SIZES], ranks)
    seconds = ddp_seconds(cfg, updates)
    if dist.get_rank() == 0:
        in_turn = replace(profile, ready=(1.0,) * len(profile.ready))
        found = [predict(each, Cluster(ranks, link, link), ranks, images).seconds for each in (profile, in_turn)]
        times = [1e3 * each for each in (seconds, *found)]
        print(json.dumps([*times, 1e6 * link.latency, link.bandwidth / 1e9, sum(profile.gradients) / 1e6]))
    dist.destroy_process_group()


def ddp_seconds(cfg: CfgNode, updates: int) -> float:
    """Return the median seconds of an update of all ranks together."""
    torch.manual_seed(cfg.SEED)
    options = {"gradient_as_bucket_view": True, "broadcast_buffers": False}  # as in training
    model = torch.nn.parallel.DistributedDataParallel(build_model(cfg).train(), **options)
    optimizer = build_optimizer(cfg, model.module)
    task = build_task(cfg)
    losses_of_batch = losses_of(model.module, task, model)
    batch = next(build_train_loader(cfg, task).batches(start=dist.get_rank()))
    seconds = []
    for _ in range(UNTIMED + updates):
        begin = time.perf_counter()
        optimizer.zero_grad()
        losses = losses_of_batch(batch)
        sum(value for name, value in losses.items() if name.startswith("loss")).backward()
        optimizer.step()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds[UNTIMED:])


def launch(ranks: int, updates: int, overrides: list[str]) -> list[float]:
    """Return what the first of `ranks` ranks prints."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    command = [sys.executable, *launcher, __file__, "--work", f"--updates={updates}", *overrides]
    env = {"OMP_NUM_THREADS": "1", **os.environ}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=env)
    found: list[float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=30)
    parser.add_argument("--work", action="store_true", help="run as a rank")
    given, overrides = parser.parse_known_args()
    torch.set_num_threads(1)
    cfg = configured(overrides)
    if given.work:
        work(cfg, given.updates)
        return
    rounds = [[launch(ranks, given.updates, overrides) for ranks in given.ranks] for _ in range(given.rounds)]
    for ranks, found in zip(given.ranks, zip(*rounds, strict=True), strict=True):
        ms, beside, in_turn, latency, bandwidth, gradients = map(statistics.median, zip(*found, strict=True))
        line = {
            **{"model": cfg.MODEL.NAME, "images": cfg.SOLVER.IMS_PER_BATCH, "gradients_mb": round(gradients, 1)},
            **{"ranks": ranks, "rounds": given.rounds, "ms": round(ms, 2)},
            **{"predicted_ms": round(beside, 2), "predicted_in_turn_ms": round(in_turn, 2)},
            "ratio": round(statistics.median(each[0] / each[1] for each in found), 2),
            "ratio_in_turn": round(statistics.median(each[0] / each[2] for each in found), 2),
            "latency_us": round(latency, 1),
            "gb_per_s": round(bandwidth, 2) if ranks > 1 else None,
            **{"cores": usable_cores(), "python": platform.python_version(), "torch": str(torch.__version__)},
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
