"""Images per second of an epoch over a folder of photos, as one JSON line a contender.

    pip install -e '.[bench]' && python benchmarks/photos.py --rounds 4
    python benchmarks/photos.py --folder photos/train --model mobilenet_v3_small --crop 128

All train the same network on the same folder with the same batch size, plain SGD and the same number of images:
a random crop and a flip of each, one epoch, `--workers` loading processes. "ours" is what tools/train_net.py runs,
with its console, log files and records. "timm" is the loop of timm's train.py with its loader, "torchvision" the
loop of torchvision's reference script for classification: as people write them, without the distributed parts.

Each run is a separate process, and contenders take turns, `rounds` times. `images_per_s` counts from the end of
the first update to the end of the last, `epoch_s` from the start of building data, model and loader. Both are
medians. Without `--folder` 2,048 JPEG files of 500x375 pixels are made.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torchvision
from decoding import photo
from loop import silence
from torch import nn

LOG_PERIOD = 10
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Work(NamedTuple):
    """What each contender does.

    Args:
        folder: of folders of photos, one a class.
        model: a name of torchvision.
        crop: pixels a side.
        batch: images per update.
        updates: of the epoch.
        workers: loading processes.
    """

    folder: Path
    model: str
    crop: int
    batch: int
    updates: int
    workers: int

    def net(self) -> nn.Module:
        """Return the network, with the same weights each time."""
        torch.manual_seed(0)
        classes = sum(path.is_dir() for path in self.folder.iterdir())
        net: nn.Module = torchvision.models.get_model(self.model, weights=None, num_classes=classes)
        return net.train()


class Clock:
    """Notes the ends of updates."""

    def __init__(self) -> None:
        self.begin = time.perf_counter()
        self.first = self.last = 0.0

    def tick(self) -> None:
        """Note the end of an update."""
        self.last = time.perf_counter()
        self.first = self.first or self.last

    def watch(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Yield the batches of a loop that asks for the next one after each update."""
        for batch in batches:
            yield batch
            self.tick()

    def result(self, work: Work) -> tuple[float, float]:
        """Return images per second, and seconds to the end of the epoch."""
        return (work.updates - 1) * work.batch / (self.last - self.first), self.last - self.begin


def ours(work: Work, clock: Clock, output: Path) -> None:
    """Train as tools/train_net.py does."""
    from warmstart.config import get_cfg
    from warmstart.engine import HookBase, Trainer, train

    class Watch(HookBase):
        def after_step(self, trainer: Trainer) -> None:
            """Tell the clock."""
            clock.tick()

    cfg = get_cfg()
    cfg.merge_from_list(
        [
            *("MODEL.NAME", work.model, "MODEL.STEM", "standard", "MODEL.DEVICE", "cpu"),
            *("DATASETS.TRAIN", [{"imagefolder": {"path": str(work.folder)}}], "DATASETS.TEST", []),
            *("INPUT.TRANSFORMS_TRAIN", [{"RandomResizedCrop": {"size": work.crop}}, "RandomHorizontalFlip"]),
            *("INPUT.MEAN", list(MEAN), "INPUT.STD", list(STD), "DATALOADER.NUM_WORKERS", work.workers),
            *("DATALOADER.BACKEND", "worker", "SOLVER.IMS_PER_BATCH", work.batch, "SOLVER.MAX_ITER", work.updates),
            *("SOLVER.BASE_LR", 0.01, "LOG_PERIOD", LOG_PERIOD, "OUTPUT_DIR", str(output)),
        ]
    )
    train(cfg, hooks=[Watch()])


def timm(work: Work, clock: Clock, output: Path) -> None:
    """Train in the manner of timm's train.py: its data set, loader, schedule and meters."""
    from timm.data import create_dataset, create_loader
    from timm.scheduler import CosineLRScheduler
    from timm.utils import AverageMeter

    net = work.net()
    loader = create_loader(
        create_dataset("", str(work.folder)),
        input_size=(3, work.crop, work.crop),
        batch_size=work.batch,
        is_training=True,
        use_prefetcher=False,
        no_aug=False,
        color_jitter=None,
        auto_augment=None,
        mean=MEAN,
        std=STD,
        num_workers=work.workers,
        device=torch.device("cpu"),
    )
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    scheduler = CosineLRScheduler(optimizer, t_initial=work.updates, t_in_epochs=False)
    loss_fn = nn.CrossEntropyLoss()
    losses, waits, updates = AverageMeter(), AverageMeter(), AverageMeter()
    end = time.time()
    for number, (images, targets) in enumerate(clock.watch(loader), start=1):
        waits.update(time.time() - end)
        loss = loss_fn(net(images), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        updates.update(time.time() - end)
        if number % LOG_PERIOD == 0:
            losses.update(loss.item(), len(images))
            pace = f"{updates.val:.3f}s, {len(images) / updates.val:.2f}/s"
            print(f"Train: [{number}/{len(loader)}] Loss: {losses.avg:#.3g} Time: {pace}")
        scheduler.step_update(num_updates=number)
        end = time.time()


def reference(work: Work, clock: Clock, output: Path) -> None:
    """Train in the manner of torchvision's reference script: ImageFolder, PIL, and each loss and accuracy read."""
    from torchvision import transforms as t

    net = work.net()
    preset = [t.RandomResizedCrop(work.crop, antialias=True), t.RandomHorizontalFlip(0.5), t.PILToTensor()]
    preset += [t.ConvertImageDtype(torch.float), t.Normalize(MEAN, STD)]
    dataset = torchvision.datasets.ImageFolder(str(work.folder), t.Compose(preset))
    sampler = torch.utils.data.RandomSampler(dataset)
    loader = torch.utils.data.DataLoader(
        dataset, work.batch, sampler=sampler, num_workers=work.workers, pin_memory=False, drop_last=True
    )
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    criterion = nn.CrossEntropyLoss()
    seen: dict[str, list[float]] = {"loss": [], "acc1": [], "img/s": []}
    start = time.time()
    for number, (images, targets) in enumerate(clock.watch(loader)):
        output_ = net(images)
        loss = criterion(output_, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen["acc1"].append((output_.argmax(1) == targets).float().mean().item() * 100)
        seen["loss"].append(loss.item())
        seen["img/s"].append(len(images) / (time.time() - start))
        if number % LOG_PERIOD == 0:
            text = "  ".join(f"{name}: {statistics.median(values[-20:]):.4f}" for name, values in seen.items())
            print(f"Epoch: [0] [{number}/{len(loader)}]  {text}")
        start = time.time()


CONTENDERS: dict[str, Callable[[Work, Clock, Path], None]] = {
    "ours": ours,
    "timm": timm,
    "torchvision": reference,
}


def run(name: str, work: Work) -> tuple[float, float]:
    """Train with one contender, in this process; return images per second and seconds."""
    with tempfile.TemporaryDirectory() as output:
        clock = Clock()
        CONTENDERS[name](work, clock, Path(output, "run"))
        return clock.result(work)


def run_apart(name: str, work: Work) -> tuple[float, float]:
    """Train in a process of its own."""
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=silence) as pool:
        return pool.submit(run, name, work).result()


def make_photos(folder: Path, number: int) -> None:
    """Write JPEG files in 4 classes."""
    for index in range(number):
        path = folder / f"class_{index % 4}" / f"{index}.jpg"
        path.parent.mkdir(exist_ok=True)
        photo(375, 500, index).save(path, quality=90)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="one folder a class; default: generated photos")
    parser.add_argument("--contenders", nargs="+", default=list(CONTENDERS), choices=CONTENDERS)
    parser.add_argument("--model", default="mobilenet_v3_small")
    for name, default in (("crop", 128), ("batch", 32), ("workers", 2), ("rounds", 5), ("images", 2048)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = given.folder or Path(made)
        if given.folder is None:
            make_photos(folder, given.images)
        images = sum(1 for _ in folder.glob("*/*"))
        work = Work(folder, given.model, given.crop, given.batch, images // given.batch, given.workers)
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in given.contenders}
        for _ in range(given.rounds):
            for name in given.contenders:
                found[name].append(run_apart(name, work))
    versions = {"python": platform.python_version(), "torch": str(torch.__version__)}
    for name, results in found.items():
        rates, seconds = zip(*results, strict=True)
        package = name if name in ("timm", "torchvision") else "warmstart"
        about = {
            "contender": name,
            **{"model": work.model, "crop": work.crop, "batch": work.batch, "images": work.updates * work.batch},
            **{"workers": work.workers, "rounds": given.rounds},
            "images_per_s": round(statistics.median(rates), 1),
            "epoch_s": round(statistics.median(seconds), 2),
            "device": f"CPU, {os.cpu_count()} cores",
            "versions": versions | {package: version(package)},
        }
        print(json.dumps(about), flush=True)


if __name__ == "__main__":
    main()
