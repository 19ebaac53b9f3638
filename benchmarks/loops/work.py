"""The common parts of all contenders: network, optimizer, learning rates, batches, and the clock."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from data import cpu_seconds, start
from warmstart.config import CfgNode, get_cfg
from warmstart.data import Batch, build_train_loader
from warmstart.engine import resolve_config
from warmstart.modeling.small_cnn import SmallCNN
from warmstart.solver import build_lr_scheduler, build_optimizer
from warmstart.tasks import build_task

LOG_PERIOD = 20
INPUTS, HIDDEN, CLASSES = 64, 32, 10  # of the workload "overhead"
IN_MEMORY = 64  # batches of it

# All powers of two, so that no way of computing a learning rate rounds it.
BASE_LR, WARMUP_ITERS, WARMUP_FACTOR, GAMMA = 2**-4, 16, 0.25, 0.25


class Stream:
    """One pass over `length` batches that measures the time itself, in the same way for every contender.

    The clock runs from the request for the batch after the first `skip` to the request for the last one.
    """

    dataset = None  # mmengine reads it

    def __init__(self, source: Iterable[Any], length: int, skip: int) -> None:
        self.source, self.length, self.skip = source, length, skip
        self.times = ((0.0, 0.0), (0.0, 0.0))

    def __len__(self) -> int:
        """Return the number of batches."""
        return self.length

    def __iter__(self) -> Iterator[Any]:
        """Yield the batches; the seed set here determines what a DataLoader draws."""
        torch.manual_seed(0)
        source = iter(self.source)
        yield from islice(source, self.skip)
        begin = time.perf_counter(), cpu_seconds()
        yield from islice(source, self.length - self.skip - 1)
        self.times = begin, (time.perf_counter(), cpu_seconds())
        yield next(source)

    def batches(self, start: int) -> Iterator[Any]:
        """Yield the same, as our trainer asks its loaders."""
        return iter(self)

    def us_per_iter(self) -> tuple[float, float]:
        """Return the microseconds per iteration, in wall-clock and CPU time."""
        (begin, used), (end, used_then) = self.times
        count = self.length - self.skip - 1
        return (end - begin) / count * 1e6, (used_then - used) / count * 1e6


class Loss(nn.Module):
    """The network with its loss, as a loop calls it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy of (N, C, H, W) or (N, INPUTS) images and N class indices."""
        return F.cross_entropy(self.net(images), targets)


@dataclass
class Work:
    """One run of one contender.

    Args:
        workload: "overhead" or "cnn".
        cfg: the resolved config, from which each contender's parts are built.
        loader: the source of the batches: "memory", or "resident" or "DataLoader".
        stream: the batches.
        folder: an empty folder for logs.
    """

    workload: str
    cfg: CfgNode
    loader: str
    stream: Stream
    folder: Path

    @property
    def iterations(self) -> int:
        """Return the number of updates."""
        return int(self.cfg.SOLVER.MAX_ITER)

    def net(self) -> nn.Module:
        """Return the network, which returns logits, with the same weights each time."""
        torch.manual_seed(self.cfg.SEED)
        if self.workload == "cnn":
            return SmallCNN(num_classes=self.cfg.MODEL.NUM_CLASSES, in_channels=self.cfg.MODEL.IN_CHANNELS)
        return nn.Sequential(nn.Linear(INPUTS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES))

    def optimizer(self, net: nn.Module) -> Optimizer:
        """Return SGD with momentum, fused, in the groups that our config makes."""
        return build_optimizer(self.cfg, net)

    def factors(self) -> list[float]:
        """Return the learning rate of each update, and of one more, relative to the base learning rate."""
        scheduler = build_lr_scheduler(self.cfg, self.optimizer(self.net()))
        return [scheduler.lr_at(t)[0] / BASE_LR for t in range(self.iterations + 1)]

    def torch_scheduler(self, optimizer: Optimizer) -> LambdaLR:
        """Return these learning rates as a scheduler of torch, which looks them up."""
        factors = self.factors()
        return LambdaLR(optimizer, lambda t: factors[t])


def prepare(name: str, workload: str, iterations: int, folder: Path, root: str, workers: int) -> Work:
    """Return the work of the contender called `name`.

    Args:
        name: name of the contender.
        workload: "overhead" or "cnn".
        iterations: updates, at least 32.
        folder: an empty folder.
        root: DATASETS.ROOT; for "cnn".
        workers: of the DataLoader; for "cnn".
    """
    cfg = get_cfg()
    real = workload == "cnn"
    if real:
        crop = {"RandomCrop": {"size": 28, "padding": 3}}
        cfg.merge_from_list(["INPUT.TRANSFORMS_TRAIN", [crop, "RandomHorizontalFlip"]])
    cfg.merge_from_list(
        [
            *("DATASETS.TRAIN", "fashion_mnist_train" if real else "digits_train", "DATASETS.TEST", []),
            *("DATASETS.ROOT", root, "DATALOADER.BACKEND", "resident"),
            *("MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(folder)),
            *("SOLVER.IMS_PER_BATCH", 128 if real else 32, "SOLVER.MAX_ITER", iterations),
            *("SOLVER.BASE_LR", BASE_LR, "SOLVER.STEPS", ["50%", "75%"], "SOLVER.GAMMA", GAMMA),
            *("SOLVER.WARMUP_ITERS", WARMUP_ITERS, "SOLVER.WARMUP_FACTOR", WARMUP_FACTOR),
            *("SOLVER.CHECKPOINT_PERIOD", iterations, "LOG_PERIOD", LOG_PERIOD),
        ]
    )
    cfg = resolve_config(cfg)
    source: Iterable[Any]
    if not real:
        generator = torch.Generator().manual_seed(1)
        size = cfg.SOLVER.IMS_PER_BATCH
        images = torch.randn(IN_MEMORY, size, INPUTS, generator=generator)
        targets = torch.randint(CLASSES, (IN_MEMORY, size), generator=generator)
        pairs = list(zip(images, targets, strict=True))
        loader, source = "memory", cycle([Batch(*pair) for pair in pairs] if name == "ours" else pairs)
    elif name in ("bare", "ours"):
        loader, source = "resident", build_train_loader(cfg, build_task(cfg))
    else:
        loader, source = "DataLoader", start("torch", "fashion_mnist", root, cfg.SOLVER.IMS_PER_BATCH, workers)
    return Work(workload, cfg, loader, Stream(source, iterations, iterations // 10), folder)
