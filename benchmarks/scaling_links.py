"""Updates over links of known speed by ranks whose computing takes no core, beside plan_scale.py's predictions.

    python benchmarks/scaling_links.py --ranks 1 2 4 --rounds 5
    python benchmarks/scaling_links.py --ranks 4 --per-machine 2 --rounds 5

Needs Linux, the commands `ip` and `tc`, and the right to create network namespaces, which root has. Each machine
is such a namespace, connected to the others by a bridge, and sends no faster than `--mbit`, limited by tc's token
bucket. The model's passes sleep (benchmarks/sleepers.py), so that ranks do not share cores while they compute, and
its parameters have given sizes. Everything else is real training: gloo, DistributedDataParallel, `fully_shard`,
the optimizer, and measure_profile() for the work of one device.

First all ranks measure the model alone, at the same time, and all-reduces of several sizes, with
engine/analysis/link_benchmark.py; then they make updates, case by case, all cases `rounds` times. Figures are
medians over the rounds of medians over updates; `ratio` is the measured over the predicted time, by round.
`sent_mib` is what the first machine sends in an update, `held_mib` the weights, gradients, optimizer state and
average that its first rank holds afterwards.

gloo differs from NCCL in three ways. Its all-gather takes longer than its bytes need: the factor, `gather_factor`,
is measured with the links, and used in predictions. Its calls block, so nothing is sent while a unit computes, and
its reduce-scatter is an all-reduce, with twice the bytes: "fsdp in turn", predicted with a single unit that holds
everything. In "fsdp" the same model communicates during its passes, as it does with CUDA streams: it prefetches
one all-gather by FSDP2's own options, and its reduce-scatter sends as much as a ring does and overlaps with
computing until the next one begins.

With `--per-machine`, "ddp" is gloo's ring, which treats all ranks alike, so that the slowest link counts; "ddp in
two levels" sums within machines, then between them, and broadcasts the result, as NCCL can.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from scaling import configured
from sleepers import Run, Sleepers, all_gather, groups

from warmstart.config import CfgNode
from warmstart.data import usable_cores
from warmstart.engine import Cluster, Link, Prediction, Profile, Work, measure_profile, predict
from warmstart.engine.analysis.cost_model import MIB, Mode
from warmstart.engine.analysis.link_benchmark import SIZES, all_reduce_seconds
from warmstart.engine.analysis.links import fit_link
from warmstart.modeling import register_model

UNTIMED = 1  # after the first update DistributedDataParallel rebuilds its buckets
NETWORK, PORT = "10.79.0", 29500
KEPT = ("weights", "gradients", "optimizer", "average")


class Case(NamedTuple):
    """A model, and how it is trained.

    Args:
        name: the aspect that it tests.
        mode: see sleepers.Run.
        layers: layers of the model.
        mib: MiB of parameters per layer.
        seconds: duration of both passes, a third of it forward.
        micro_batches: micro-batches per update.
    """

    name: str
    mode: str
    layers: int
    mib: float
    seconds: float
    micro_batches: int = 1

    @property
    def model(self) -> tuple[int, float, float]:
        """Its layers, their size and seconds."""
        return self.layers, self.mib, self.seconds


RATIOS = {"links": 0.25, "balanced": 1.0, "computing": 1.75}
DDP = [Case(name, "ddp", 8, 4.25, 3.0 * ratio) for name, ratio in RATIOS.items()]  # buckets of 4.25, 25.5, 4.25
FSDP = [Case(name, "fsdp", 8, 1.5, 1.5 * ratio) for name, ratio in RATIOS.items()]
CASES = [
    *(DDP[0]._replace(name="one bucket", layers=1, mib=12.0), *DDP, *FSDP),
    *(case._replace(mode="fsdp in turn") for case in FSDP),
    *(case._replace(name="4 micro-batches", micro_batches=4) for case in (DDP[0], FSDP[0])),
    FSDP[0]._replace(name="4 micro-batches", mode="fsdp in turn", micro_batches=4),
]
CASES_OF_MACHINES = [case._replace(mode=mode) for mode in ("ddp", "ddp in two levels") for case in DDP]


def configure(case: Case) -> CfgNode:
    """Return the config of a case: the digits recipe with the model that sleeps."""
    numbers = f"MODEL.ARGS={{layers: {case.layers}, mib: {case.mib}, seconds: {case.seconds}}}"
    parallel = f"MODEL.PARALLEL={case.mode.split()[0]}", "MODEL.FSDP.WRAP=Sleeper"
    accumulated = f"SOLVER.GRAD_ACCUM_STEPS={case.micro_batches}"
    return configured(["MODEL.NAME=sleepers", numbers, *parallel, accumulated, "SOLVER.EMA.ENABLED=true"])


def work(cases: Sequence[Case], per_machine: int, rounds: int, updates: int) -> None:
    """Run one rank; the first prints a line for each case of each round."""
    dist.init_process_group("gloo")
    ranks, models = dist.get_world_size(), {case.model: case for case in cases}
    profiles = {model: measure_profile(configure(case), 1, rounds=1) for model, case in models.items()}
    for _ in range(rounds):
        flat, (inside, between) = measured(None), map(measured, groups(per_machine))
        # The ranks of a machine have measured at the same time, each its share of the machine's bandwidth.
        between = between._replace(bandwidth=per_machine * between.bandwidth)
        factor = gather_factor(flat)
        for case in cases:
            profile = profiles[case.model]
            if case.mode.startswith("fsdp"):
                profile = replace(profile, gathered=factor)
            if case.mode == "fsdp in turn":
                profile = replace(profile, units=(), summed=2.0)
            levels = case.mode == "ddp in two levels"
            cluster = Cluster(per_machine, inside, between) if levels else Cluster(ranks, flat, flat)
            run = Run(configure(case), case.mode, per_machine)
            for _ in range(UNTIMED):
                run.update()
            dist.barrier()
            before = sent()
            seconds = [run.update() for _ in range(updates)]
            dist.barrier()
            if dist.get_rank() == 0:
                found = predicted(case, profile, cluster)
                line = {
                    "ms": 1e3 * statistics.median(seconds),
                    "predicted_ms": 1e3 * found.seconds,
                    "sent_mib": (sent() - before) / updates / MIB,
                    "predicted_sent_mib": bytes_sent(case, profile, cluster) / MIB,
                    "held_mib": sum(run.held().values()) / MIB,
                    "predicted_held_mib": sum(found.memory[what] for what in KEPT) / MIB,
                    "gradient": run.gradient(),
                    "gather_factor": factor,
                    "latency_us": 1e6 * cluster.between.latency,
                    "mbit": 8e-6 * cluster.between.bandwidth if ranks > 1 else 0.0,
                }
                print(json.dumps([case, line]), flush=True)
    dist.destroy_process_group()


def measured(group: dist.ProcessGroup | None) -> Link:
    """Return the link between the ranks of a group; an ideal one for a single rank."""
    ranks, sizes = dist.get_world_size(group), SIZES[3:7]  # 256 KiB to 16 MiB, far more than a token bucket
    if ranks == 1:
        return Link(0.0, math.inf)
    return fit_link(sizes, [all_reduce_seconds(size, 5, torch.device("cpu"), group) for size in sizes], ranks)


def gather_factor(link: Link) -> float:
    """Return the time of gloo's sequential all-gathers relative to a ring on this link."""
    ranks, size = dist.get_world_size(), int(FSDP[0].mib * MIB)
    whole, seconds = torch.zeros(size // 4), []
    part = whole.chunk(ranks)[dist.get_rank()]
    for _ in range(9):
        begin = time.perf_counter()
        all_gather(whole, part)
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds) / link.ring(size, ranks) if ranks > 1 else 1.0


def predicted(case: Case, profile: Profile, cluster: Cluster) -> Prediction:
    """Return the prediction for a case."""
    mode: Mode = "ddp" if case.mode.startswith("ddp") else "fsdp"
    return predict(profile, cluster, dist.get_world_size(), 1, mode, case.micro_batches)


def bytes_sent(case: Case, profile: Profile, cluster: Cluster) -> float:
    """Return the bytes that a machine sends per update: the seconds at one byte per second, with idle devices."""
    idle = replace(profile, gathered=1.0, forward=Work(0.0, 0.0), backward=Work(0.0, 0.0), update=0.0)
    slow = Link(0.0, 1.0)
    inside = Link(0.0, math.inf) if cluster.per_machine < dist.get_world_size() else slow
    return predicted(case, idle, Cluster(cluster.per_machine, inside, slow)).seconds


def sent() -> int:
    """Return the bytes that this machine has sent."""
    cable = next(line for line in Path("/proc/net/dev").read_text().splitlines() if "cable:" in line)
    return int(cable.split()[9])


def ip(*words: str) -> None:
    """Run the command `ip`."""
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@contextmanager
def network(machines: int, mbit: int) -> Iterator[list[str]]:
    """Create machines that send at most `mbit` megabits per second each; yield the names of their namespaces.

    Raises:
        SystemExit: namespaces are not permitted here.
    """
    hub, *names = (f"scale{os.getpid()}{number}" for number in range(machines + 1))
    try:
        try:
            build(hub, names, mbit)
        except (OSError, subprocess.CalledProcessError) as error:
            reason = getattr(error, "stderr", "") or str(error)
            raise SystemExit(f"network namespaces are not permitted here: {reason.strip()}") from None
        yield names
    finally:
        for name in (hub, *names):
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def build(hub: str, names: Sequence[str], mbit: int) -> None:
    """Create a namespace for each name, and connect them by a bridge in another one, the hub."""
    for name in (hub, *names):
        ip("netns", "add", name)
        ip("-n", name, "link", "set", "lo", "up")
    ip("-n", hub, "link", "add", "bridge", "up", "type", "bridge")
    for number, name in enumerate(names, 1):
        port = f"port{number}"
        ip("link", "add", "cable", "netns", name, "type", "veth", "peer", "name", port, "netns", hub)
        ip("-n", hub, "link", "set", port, "master", "bridge", "up")
        ip("-n", name, "addr", "add", f"{NETWORK}.{number}/24", "dev", "cable")
        # The bucket holds a full TCP packet, so that packets are not segmented, which would need cores.
        ip("-n", name, "link", "set", "cable", "up", "gso_max_size", "16384")
        # BBR would estimate the rate that is set here; if it cannot be changed, it stays.
        reno = ["sysctl", "-w", "net.ipv4.tcp_congestion_control=reno"]
        subprocess.run(["ip", "netns", "exec", name, *reno], check=False, capture_output=True)
        shape = ["root", "tbf", "rate", f"{mbit}mbit", "burst", "20kb", "latency", "400ms"]
        ip("netns", "exec", name, "tc", "qdisc", "add", "dev", "cable", *shape)


def launch(names: Sequence[str], per_machine: int, words: Sequence[str]) -> list[tuple[Case, dict[str, float]]]:
    """Return what the first of the ranks in these namespaces prints."""
    ranks = len(names) * per_machine
    environ = {
        **os.environ,
        **{"MASTER_ADDR": f"{NETWORK}.1", "MASTER_PORT": str(PORT), "WORLD_SIZE": str(ranks)},
        **{"GLOO_SOCKET_IFNAME": "cable", "OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"},
        # Freed memory stays with the process, as with CUDA's allocator: allocating it again would need cores.
        **{"MALLOC_MMAP_THRESHOLD_": str(2**32), "MALLOC_TRIM_THRESHOLD_": str(2**34)},
    }
    command = [sys.executable, __file__, "--work", *words]
    processes = [
        subprocess.Popen(
            ["ip", "netns", "exec", names[rank // per_machine], *command],
            env={**environ, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]
    try:
        said = [process.communicate()[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    if any(process.returncode for process in processes):
        raise SystemExit(f"{ranks} ranks ended with {[process.returncode for process in processes]}")
    return [(Case(*case), line) for case, line in map(json.loads, said[0].splitlines())]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--per-machine", type=int, default=1, help="ranks in a machine")
    parser.add_argument("--mbit", type=int, default=200, help="megabits per second that a machine sends at most")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=3)
    parser.add_argument(
        "--cases", nargs="+", default=[*RATIOS, "one bucket", "4 micro-batches"], help="their names"
    )
    parser.add_argument("--modes", nargs="+", default=["ddp", "ddp in two levels", "fsdp", "fsdp in turn"])
    parser.add_argument("--work", action="store_true", help="run as a rank")
    given = parser.parse_args()
    if any(ranks % given.per_machine for ranks in given.ranks):
        parser.error(f"--ranks: give multiples of --per-machine {given.per_machine}")
    known = CASES if given.per_machine == 1 else CASES_OF_MACHINES
    cases = [case for case in known if case.name in given.cases and case.mode in given.modes]
    torch.set_num_threads(1)
    if given.work:
        register_model("sleepers", Sleepers)
        work(cases, given.per_machine, given.rounds, given.updates)
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the namespaces are deleted
    for ranks in given.ranks:
        with network(ranks // given.per_machine, given.mbit) as names:
            found = launch(names, given.per_machine, sys.argv[1:])
        for case in cases:
            print(json.dumps(summary(case, ranks, [line for each, line in found if each == case])), flush=True)


def summary(case: Case, ranks: int, lines: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Return a case's medians."""
    ratios = [line["ms"] / line["predicted_ms"] for line in lines]
    return {
        **{"case": case.name, "mode": case.mode, "ranks": ranks, "rounds": len(lines)},
        **{"ratio": round(statistics.median(ratios), 3), "ratios": sorted(round(each, 3) for each in ratios)},
        **{name: round(statistics.median(line[name] for line in lines), 2) for name in lines[0]},
        **{"cores": usable_cores(), "python": platform.python_version(), "torch": str(torch.__version__)},
    }


if __name__ == "__main__":
    main()
