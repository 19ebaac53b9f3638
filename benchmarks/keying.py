"""Microseconds that keyed random numbers cost per sample, and their share of loading it, as JSON lines.

    python benchmarks/keying.py --data fashion_mnist --root DIR

"loading" is the time for a sample with DATALOADER.BACKEND worker in this process, cropped and flipped, keying
included. "key" computes a sample's key; "torch", "random" and "numpy" each seed a generator with it; "batch" saves
and restores torch's state around a batch. Keying is key + torch + batch with torchvision's transforms, and the
same with all three generators with a user-defined transform. All take turns, `rounds` times; `us` is the median
over the rounds of CPU time minus an empty call, and `share` the median of the ratios to "loading".
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version

import numpy as np
import torch

from warmstart.config import CfgNode, get_cfg
from warmstart.data import build_train_loader, dataset_info, sample_key
from warmstart.data.seeds import random_numbers_kept, seed_random_numbers
from warmstart.tasks import build_task

KEY = sample_key(0, 0)


def configured(data: str, root: str, batch_size: int) -> CfgNode:
    """Return the config of the loader."""
    cfg = get_cfg()
    size = dataset_info(f"{data}_train", root).image_size
    assert size is not None
    augment = [{"RandomCrop": {"size": size[0], "padding": size[0] // 8}}, "RandomHorizontalFlip"]
    cfg.merge_from_list(
        [
            *("DATASETS.TRAIN", f"{data}_train", "DATASETS.TEST", [], "DATASETS.ROOT", root),
            *("DATALOADER.BACKEND", "worker", "SOLVER.IMS_PER_BATCH", batch_size),
            *("INPUT.TRANSFORMS_TRAIN", augment, "MODEL.DEVICE", "cpu"),
        ]
    )
    return cfg


def keep_for_a_batch(everything: bool) -> None:
    """Save and restore the generators as is done around each batch."""
    with random_numbers_kept(everything):
        pass


def parts(batch_size: int) -> dict[str, tuple[Callable[[int], object], int]]:
    """Return the measured parts: calls with a position, and the number of samples that one call serves."""
    return {
        "nothing": (lambda position: None, 1),
        "key": (lambda position: sample_key(0, position), 1),
        "torch": (lambda position: torch.default_generator.manual_seed(KEY + position), 1),
        "random": (lambda position: random.seed(KEY + position), 1),
        "numpy": (lambda position: np.random.seed(position), 1),
        "batch": (lambda position: keep_for_a_batch(False), batch_size),
        "batch, all": (lambda position: keep_for_a_batch(True), batch_size),
        "key, torch": (lambda position: seed_random_numbers(sample_key(0, position), False), 1),
        "key, all": (lambda position: seed_random_numbers(sample_key(0, position), True), 1),
    }


def microseconds(call: Callable[[int], object], count: int) -> float:
    """Return the CPU time of one of `count` calls."""
    begin = time.process_time()
    for position in range(count):
        call(position)
    return (time.process_time() - begin) / count * 1e6


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="fashion_mnist", help="digits, fashion_mnist, cifar10 ...")
    parser.add_argument("--root", default="./datasets")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--samples", type=int, default=2560, help="of one round")
    given = parser.parse_args()
    torch.set_num_threads(1)
    cfg = configured(given.data, given.root, given.batch_size)
    batches = build_train_loader(cfg, build_task(cfg)).batches()
    next(batches)
    rounds: list[dict[str, float]] = []
    for _ in range(given.rounds):
        found = {}
        for name, (call, samples) in parts(given.batch_size).items():
            taken = microseconds(call, given.samples // samples or 1)
            found[name] = (taken - found.get("nothing", 0)) / samples
        loading = microseconds(lambda _: next(batches), given.samples // given.batch_size or 1) / given.batch_size
        rounds.append(
            {
                **{name: found[name] for name in ("key", "torch", "random", "numpy", "batch")},
                "keying, torchvision's": found["key, torch"] + found["batch"],
                "keying, a user's": found["key, all"] + found["batch, all"],
                "loading": loading,
            }
        )
    for name in rounds[0]:
        line = {
            **{"part": name, "us": round(statistics.median(each[name] for each in rounds), 2)},
            "share": round(statistics.median(each[name] / each["loading"] for each in rounds), 4),
            **{"data": given.data, "batch_size": given.batch_size, "rounds": given.rounds},
            **{"samples": given.samples, "device": f"CPU, {os.cpu_count()} cores"},
            "versions": {
                **{"python": platform.python_version(), "torch": str(torch.__version__)},
                **{"torchvision": version("torchvision"), "numpy": np.__version__},
            },
        }
        print(json.dumps(line), flush=True)
    batches.close()


if __name__ == "__main__":
    main()
