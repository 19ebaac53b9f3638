"""Images per second of data loaders, as one JSON line per loader and number of workers.

    python benchmarks/data.py --data fashion_mnist --root DIR --loaders bare torch worker resident --workers 0 2

Every loader yields shuffled batches, randomly cropped with padding, flipped, converted to float and normalised.
"bare" is the limit: batches gathered from one tensor in shuffled order, converted to float and normalised, without
augmentation. "torch" is a handwritten DataLoader with torchvision's transforms of tensors, "pil" the same with PIL
images, as in most examples. All take turns, `rounds` times, each for `seconds` at a time, after prefetched batches
are used up; `images_per_s` is the median. `cpu_us_per_image` is CPU time, including the workers', if the system
reports it. With `--device cuda`, the default if there is one, batches count once they are on the device: "bare"
gathers there, DataLoaders pin their batches, which are then copied, and ours are copied as in training.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from warmstart.config import CfgNode, get_cfg
from warmstart.data import build_train_loader, dataset_info
from warmstart.data.datasets.arrays import as_tensors
from warmstart.data.datasets.registry import build_dataset
from warmstart.engine.loop.prefetch import prefetched
from warmstart.tasks import build_task

AHEAD = 12  # batches that workers may have prefetched

Batches = Iterator[Any]


def configured(data: str, root: str, batch_size: int, backend: str, workers: int, device: str) -> CfgNode:
    """Return the config of one of our loaders."""
    cfg = get_cfg()
    look = look_at(data, root)
    transforms = [{"RandomCrop": {"size": look.size, "padding": look.size // 8}}, "RandomHorizontalFlip"]
    cfg.merge_from_list(
        [
            *("DATASETS.TRAIN", train_set(data), "DATASETS.TEST", [], "DATASETS.ROOT", root),
            *("DATALOADER.BACKEND", backend, "DATALOADER.NUM_WORKERS", workers),
            *("SOLVER.IMS_PER_BATCH", batch_size, "INPUT.TRANSFORMS_TRAIN", transforms, "MODEL.DEVICE", device),
            *("INPUT.MEAN", list(look.mean), "INPUT.STD", list(look.std)),
        ]
    )
    return cfg


def train_set(data: str) -> str:
    """Return the name of the training set.

    >>> train_set("digits"), train_set("npz:mine.npz")
    ('digits_train', 'npz:mine.npz')
    """
    return data if ":" in data else f"{data}_train"


class Look(NamedTuple):
    """Properties of a data set that contenders need: the images' height and width, and their normalisation."""

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def look_at(data: str, root: str) -> Look:
    """Return the properties of a data set of square images."""
    info = dataset_info(train_set(data), root)
    assert info.image_size is not None
    return Look(info.image_size[0], info.mean or (0.5,) * info.channels, info.std or (0.25,) * info.channels)


class ByHand(Dataset[Any]):
    """A handwritten data set.

    Args:
        images: (N, C, H, W) uint8, or N PIL images.
        labels: (N,).
        transform: applied to each image.
    """

    def __init__(self, images: Any, labels: torch.Tensor, transform: Callable[[Any], torch.Tensor]) -> None:
        self.images, self.labels, self.transform = images, labels.tolist(), transform

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        """Return the transformed image and its label."""
        return self.transform(self.images[index]), self.labels[index]


def copied(loader: DataLoader[Any], device: str) -> Batches:
    """Yield the batches of one pass after another, on the device."""
    while True:
        for images, labels in loader:
            yield images.to(device, non_blocking=True), labels.to(device, non_blocking=True)


def start(name: str, data: str, root: str, batch_size: int, workers: int, device: str = "cpu") -> Batches:
    """Return the endless batches of a contender."""
    if name in ("worker", "resident"):
        cfg = configured(data, root, batch_size, name, workers, device)
        batches = build_train_loader(cfg, build_task(cfg)).batches()
        return batches if device == "cpu" else prefetched(batches, torch.device(device))
    look = look_at(data, root)
    images, labels = as_tensors(build_dataset(train_set(data), root))
    images = images.contiguous()
    if name == "bare":
        return bare(images.to(device), labels.to(device), look.mean, look.std, batch_size)
    augment = [v2.RandomCrop(look.size, padding=look.size // 8), v2.RandomHorizontalFlip()]
    floats = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(look.mean, look.std)]
    pictures: Any = images
    if name == "pil":
        pixels = images.permute(0, 2, 3, 1).squeeze(-1).numpy()
        pictures, floats = [Image.fromarray(image) for image in pixels], [v2.ToImage(), *floats]
    dataset = ByHand(pictures, labels, v2.Compose([*augment, *floats]))
    loader = DataLoader(
        *(dataset, batch_size),
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device != "cpu",
    )
    return copied(loader, device)


def bare(images: torch.Tensor, labels: torch.Tensor, mean: Any, std: Any, batch_size: int) -> Batches:
    """Yield batches that are only gathered, converted to float and normalised."""
    shift, scale = (torch.tensor(values, device=images.device).view(-1, 1, 1) * 255 for values in (mean, std))
    scale = 1 / scale
    for epoch in itertools.count():
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(epoch))
        for indices in order.to(images.device).split(batch_size)[:-1]:
            batch = images.index_select(0, indices).to(torch.float32).sub_(shift).mul_(scale)
            yield batch, labels.index_select(0, indices)


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and its living children."""
    ticks = 0
    for child in multiprocessing.active_children():
        try:
            fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:  # no /proc
            return float("nan")
        ticks += int(fields[11]) + int(fields[12])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def stretch(batches: Batches, seconds: float, workers: int, device: str = "cpu") -> tuple[float, float]:
    """Return images per second, and microseconds of CPU time per image."""
    for _ in range(AHEAD if workers else 1):
        next(batches)
    finish(device)
    count, begin, used = 0, time.perf_counter(), cpu_seconds()
    while time.perf_counter() - begin < seconds:
        count += images_in(next(batches))
    finish(device)
    return count / (time.perf_counter() - begin), (cpu_seconds() - used) / count * 1e6


def images_in(batch: Any) -> int:
    """Return the number of images in a batch; a function, so that no variable keeps the batch alive."""
    _, labels = batch
    return len(labels)


def finish(device: str) -> None:
    """Wait until the device has finished."""
    if device != "cpu":
        torch.cuda.synchronize(device)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="fashion_mnist", help="digits, fashion_mnist, cifar10, npz:PATH ...")
    parser.add_argument("--root", default="./datasets")
    names = ["bare", "torch", "pil", "worker", "resident"]
    parser.add_argument("--loaders", nargs="+", default=names, choices=names)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda[:N]")
    given = parser.parse_args()
    torch.set_num_threads(1)
    wanted = ["bare", *(name for name in names[1:] if name in given.loaders)]
    pairs = [(n, w) for n in wanted for w in ([0] if n in ("bare", "resident") else given.workers)]
    source = given.data, given.root, given.batch_size
    running = {(name, workers): start(name, *source, workers, given.device) for name, workers in pairs}
    found: dict[tuple[str, int], list[tuple[float, float]]] = {pair: [] for pair in pairs}
    for _ in range(given.rounds):
        for pair, batches in running.items():
            found[pair].append(stretch(batches, given.seconds, pair[1], given.device))
    speed = {pair: statistics.median(rate for rate, _ in rounds) for pair, rounds in found.items()}
    by_hand = {workers: rate for (name, workers), rate in speed.items() if name == "torch"}
    for (name, workers), rounds in found.items():
        rate = speed[name, workers]
        # Compared with the same number of workers; a loader without workers is compared with the best.
        other = by_hand.get(workers) if name in ("torch", "pil", "worker") else max(by_hand.values(), default=None)
        line = {
            **{"loader": name, "workers": workers, "data": given.data, "batch_size": given.batch_size},
            **{"rounds": given.rounds, "images_per_s": round(rate)},
            "cpu_us_per_image": round(statistics.median(cpu for _, cpu in rounds), 2),
            "ratio_to_torch": round(rate / other, 2) if other else None,
            "ratio_to_bare": round(rate / speed["bare", 0], 3),
            "device": "CPU" if given.device == "cpu" else torch.cuda.get_device_name(given.device),
            "cores": os.cpu_count(),
            "versions": {
                **{"python": platform.python_version(), "torch": str(torch.__version__)},
                "torchvision": version("torchvision"),
            },
        }
        print(json.dumps(line), flush=True)
    for batches in running.values():
        batches.close()  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
