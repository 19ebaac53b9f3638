"""A benchmark of the links between processes, by all-reduces of several sizes.

    torchrun --standalone --nproc_per_node 8 -m warmstart.engine.analysis.link_benchmark

prints one JSON line. For several machines add torchrun's --nnodes, --node_rank and --master_addr. It measures NCCL
if there are CUDA devices, else gloo.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from subprocess import PIPE

import torch
import torch.distributed as dist

from warmstart.config import ConfigError

from ..distributed.environment import FILE, stay_on_loopback
from ..distributed.launch import run_here
from .links import Link, fit_link

SIZES = tuple(4**power for power in range(6, 14))  # 4 KiB to 64 MiB
_TIMEOUT = 300


def measure_links(ranks: int = 2) -> Link:
    """Return the measured link between processes on this machine.

    Raises:
        ConfigError: the processes could not be started.
    """
    command = [sys.executable, "-m", __name__, str(ranks)]
    env = {"OMP_NUM_THREADS": "1", **os.environ}
    with subprocess.Popen(command, stdout=PIPE, stderr=PIPE, text=True, env=env) as launcher:
        try:
            out, err = launcher.communicate(timeout=_TIMEOUT)
        except subprocess.TimeoutExpired:
            launcher.terminate()  # and its ranks with it
            launcher.communicate()
            raise ConfigError(f"--measure-links: {ranks} processes did not answer in {_TIMEOUT} s") from None
    if launcher.returncode:
        reason = (err.strip().splitlines() or ["no message"])[-1]
        raise ConfigError(f"--measure-links: {ranks} processes could not be started: {reason}")
    found = json.loads(out.strip().splitlines()[-1])
    return Link(found["latency_us"] / 1e6, found["gb_per_s"] * 1e9)


def all_reduce_seconds(
    size: int, rounds: int, device: torch.device, group: dist.ProcessGroup | None = None
) -> float:
    """Return the median seconds of an all-reduce of `size` bytes in a group; None: the default group."""
    values, seconds = torch.zeros(size // 4, device=device), []
    for _ in range(2 + rounds):
        dist.barrier(group)
        begin = time.perf_counter()
        dist.all_reduce(values, group=group)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds[2:])


def main() -> None:
    """Measure the links and print the result on rank 0; with a number as argument, start so many ranks."""
    if sys.argv[1:]:
        sys.exit(run_here(["-m", __spec__.name], int(sys.argv[1])))
    on_cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if on_cuda else torch.device("cpu")
    if on_cuda:
        torch.cuda.set_device(device)
    stay_on_loopback()
    host = os.environ["MASTER_ADDR"]
    dist.init_process_group(
        "nccl" if on_cuda else "gloo",
        init_method=host if host.startswith(FILE) else "env://",
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
        device_id=device if on_cuda else None,
    )
    seconds = [all_reduce_seconds(size, 7, device) for size in SIZES]
    if dist.get_rank() == 0:
        ranks = dist.get_world_size()
        link = fit_link(SIZES, seconds, ranks)
        each = {size: round(1e6 * took) for size, took in zip(SIZES, seconds, strict=True)}
        found = {"latency_us": link.latency * 1e6, "gb_per_s": link.bandwidth / 1e9}
        print(json.dumps({"ranks": ranks, **found, "us_of_bytes": each}))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
