"""Microseconds that a training loop adds to an update, as one JSON line per contender.

    pip install -e '.[bench]' && python benchmarks/loop.py --workload overhead --rounds 4 --picture loop.png
    python benchmarks/loop.py --workload cnn --root DIR --contenders bare careful ours

"bare" is the limit: a handwritten loop that does nothing but update, with precomputed learning rates. "careful" is
such a loop with everything that people add to it; the other contenders are loops of frameworks, set up in
`benchmarks/loops`. All train the same network from the same weights, with the same fused SGD in the same groups,
at the same learning rates: linear warm-up and two drops. All record every 20 updates. `--workload overhead` is a
network of two layers on batches of 32 in memory, the same list for all, so that the loop is all that remains.
`cnn` is small_cnn on Fashion-MNIST's files, in batches of 128, cropped and flipped: "bare" and "ours" with our
resident loader, all others with a DataLoader with `--workers` processes, which is "torch" in benchmarks/data.py.

Each run is a separate process; contenders take turns, `rounds` times, and figures are medians. The stream of
batches measures the time, in the same way for all: from the request for the batch after the first tenth to the
request for the last one. So start and end do not count, nor do checkpoints, the first of which are due at the end;
everything else that a loop does counts. `cpu_us_per_iter` is CPU time, including the workers'. `same_weights` says
whether each run ended with the weights, to the last bit, of the first run here with the same `loader`.

detectron2 cannot be installed from a package index, and MosaicML's composer requires a torch before 2.7.1.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import platform
import statistics
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch
from loops import CONTENDERS, PACKAGES, prepare

ITERATIONS = {"overhead": 3000, "cnn": 300}


class Run(NamedTuple):
    """The results of one run.

    Args:
        us: microseconds per iteration.
        cpu_us: microseconds of CPU time per iteration.
        images: images per batch.
        loader: the loader that made the batches.
        weights: digest of the final weights.
    """

    us: float
    cpu_us: float
    images: int
    loader: str
    weights: str


def run(name: str, workload: str, iterations: int, root: str, workers: int, threads: int) -> Run:
    """Train with one contender, in this process."""
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        work = prepare(name, workload, iterations, Path(folder), root, workers)
        net = CONTENDERS[name](work)
    digest = hashlib.sha256()
    for tensor in net.state_dict().values():
        digest.update(tensor.numpy().tobytes())
    return Run(*work.stream.us_per_iter(), work.cfg.SOLVER.IMS_PER_BATCH, work.loader, digest.hexdigest())


def silence() -> None:
    """Redirect stdout and stderr to the null device: contenders pay for writing, but nothing is shown."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)


def run_apart(*arguments: Any) -> Run:
    """Do the same in a separate process, so that nobody pays for what others have imported or left behind."""
    with ProcessPoolExecutor(1, get_context("spawn"), silence) as pool:
        return pool.submit(run, *arguments).result()


def installed(names: list[str]) -> list[str]:
    """Return the contenders that are installed; report what is missing for each of the others."""
    found = []
    for name in names:
        package = PACKAGES.get(name, "")
        if name != "ours" and package and importlib.util.find_spec(name) is None:
            print(f"{name} is skipped: {package} is not installed; pip install -e '.[bench]'", file=sys.stderr)
        else:
            found.append(name)
    return found


def line(name: str, found: dict[str, list[Run]]) -> dict[str, Any]:
    """Return the printed results of a contender, without the settings of the run."""
    runs, package = found[name], PACKAGES.get(name)
    us, limit = (statistics.median(run.us for run in found[which]) for which in (name, "bare"))
    reference = next(other for others in found.values() for other in others if other.loader == runs[0].loader)
    return {
        "loader": runs[0].loader,
        "us_per_iter": round(us, 1),
        "over_bare_us": round(us - limit, 1),
        "ratio_to_bare": round(us / limit, 3),
        "images_per_s": round(runs[0].images / us * 1e6),
        "cpu_us_per_iter": round(statistics.median(run.cpu_us for run in runs), 1),
        "same_weights": all(run.weights == reference.weights for run in runs),
        "device": f"CPU, {os.cpu_count()} cores",
        "versions": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            **({package: version(package)} if package else {}),
        },
    }


def draw(lines: list[dict[str, Any]], path: Path) -> None:
    """Save a picture of the time that each contender adds, the least at the top."""
    from matplotlib.figure import Figure

    shown = sorted((line for line in lines if line["contender"] != "bare"), key=lambda line: -line["over_bare_us"])
    figure = Figure(figsize=(8.0, 0.8 + 0.4 * len(shown)), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    colors = ["tab:orange" if line["contender"] == "ours" else "tab:blue" for line in shown]
    bars = axes.barh([line["contender"] for line in shown], [line["over_bare_us"] for line in shown], color=colors)
    axes.bar_label(bars, fmt="%.0f", padding=3)
    axes.set_xlabel(f"microseconds per update over a bare loop ({lines[0]['workload']})")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def main() -> None:
    """Measure, print, and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workload", default="overhead", choices=ITERATIONS)
    parser.add_argument("--contenders", nargs="+", default=list(CONTENDERS), choices=CONTENDERS)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--iterations", type=int, help="updates of a run; default: 3000 for overhead, 300 for cnn")
    parser.add_argument("--threads", type=int, default=1, help="of torch; default: 1")
    parser.add_argument("--root", default="./datasets", help="folder with Fashion-MNIST, for cnn")
    parser.add_argument("--workers", type=int, default=2, help="of DataLoaders, for cnn")
    parser.add_argument("--picture", type=Path, help="a .png or .svg file to draw into")
    given = parser.parse_args()
    iterations = given.iterations or ITERATIONS[given.workload]
    names = installed([name for name in CONTENDERS if name in {"bare", *given.contenders}])
    found: dict[str, list[Run]] = {name: [] for name in names}
    for _ in range(given.rounds):
        for name in names:
            arguments = (given.workload, iterations, given.root, given.workers, given.threads)
            found[name].append(run_apart(name, *arguments))
    settings = {"rounds": given.rounds, "iterations": iterations, "threads": given.threads}
    lines = [{"contender": name, "workload": given.workload} | settings | line(name, found) for name in names]
    for each in lines:
        print(json.dumps(each), flush=True)
    if given.picture:
        draw(lines, given.picture)


if __name__ == "__main__":
    main()
