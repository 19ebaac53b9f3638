"""The cost of an update in each kind of arithmetic, as JSON lines.

    python benchmarks/precision.py --model resnet18 --batch 128 --rounds 7

Each variant is a separate config, which determines the model, its optimizer and the trainer's update, on one batch
on the device. The variants take turns, `rounds` times, a few updates each; `ms_per_update` is the median of the
rounds, `ratio_to_auto` the median of the ratios within a round. `first_seconds` is the first update, including
compilation, or what remains of it with torch's cache (set TORCHINDUCTOR_CACHE_DIR to an empty folder, then use it
again). A variant that the device does not support is a line with `refused`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time

import torch

from warmstart.config import ConfigError, get_cfg
from warmstart.data import Batch
from warmstart.engine import Trainer, build_autocast, build_scaler, compiled, prepare_torch
from warmstart.engine.runtime.device import versions
from warmstart.engine.runtime.precision import check_precision
from warmstart.modeling import build_model
from warmstart.solver import build_lr_scheduler, build_optimizer
from warmstart.tasks import build_task

AMP = ["SOLVER.AMP.ENABLED", True]
LAST = ["MODEL.CHANNELS_LAST", True]
COMPILE = ["MODEL.COMPILE", "default"]
# The others are compared with the first, which has every key at its default.
VARIANTS: dict[str, list[object]] = {
    "auto": [],
    "exact": ["PROFILE", "exact"],
    "channels_last": LAST,
    "bf16": AMP,
    "bf16+channels_last": [*AMP, *LAST],
    "fp16+channels_last": [*AMP, "SOLVER.AMP.PRECISION", "fp16", *LAST],
    "compile": COMPILE,
    "bf16+channels_last+compile": [*AMP, *LAST, *COMPILE],
    "bf16+channels_last+graphs": [*AMP, *LAST, "MODEL.COMPILE", "reduce-overhead"],
    "checkpointed": ["MODEL.ACTIVATION_CHECKPOINTING", ["^(layer|block)"]],
}


class Variant:
    """A trainer for one kind of arithmetic, with its settings of torch."""

    def __init__(self, name: str, model: str, side: int, batch: int) -> None:
        self.cfg = get_cfg()
        self.cfg.merge_from_list(
            [
                *("MODEL.NAME", model, "MODEL.NUM_CLASSES", 10, "MODEL.IN_CHANNELS", 3, "MODEL.STEM", "small"),
                *("SOLVER.IMS_PER_BATCH", batch, "SOLVER.BASE_LR", 0.01, *VARIANTS[name]),
            ]
        )
        check_precision(self.cfg)
        self.device = self.prepare()
        net = build_model(self.cfg).to(self.device)
        images, labels = torch.randn(batch, 3, side, side), torch.randint(0, 10, (batch,))
        if self.cfg.MODEL.CHANNELS_LAST:
            images = images.to(memory_format=torch.channels_last)
        self.batches = itertools.repeat(Batch(images, labels).to(self.device))
        optimizer = build_optimizer(self.cfg, net)
        mode = self.cfg.MODEL.COMPILE
        self.trainer = Trainer(
            *(net, optimizer, build_lr_scheduler(self.cfg, optimizer), ()),
            max_iter=10**9,
            task=build_task(self.cfg),
            device=self.device,
            scaler=build_scaler(self.cfg, net),
            forward=compiled(net, mode) if mode else None,
            autocast=build_autocast(self.cfg),
        )
        self.first = self.seconds(1)

    def prepare(self) -> torch.device:
        """Apply this variant's settings of torch, which are global to the process."""
        torch.use_deterministic_algorithms(False)
        return prepare_torch(self.cfg)

    def seconds(self, updates: int) -> float:
        """Do `updates` updates and return the seconds they took."""
        self.prepare()
        self.wait()
        start = time.perf_counter()
        for _ in range(updates):
            self.trainer.run_step(self.batches)
            self.trainer.iteration += 1
        self.wait()
        taken = time.perf_counter() - start
        self.trainer.losses = type(self.trainer.losses)()  # nobody reads the losses of synthetic images
        return taken

    def wait(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def main() -> None:
    """Measure the requested variants and print one line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="small_cnn")
    parser.add_argument("--side", type=int, default=32, help="pixels of a side of an image")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--updates", type=int, default=3, help="updates of a variant in a round")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    arguments = parser.parse_args()
    variants: dict[str, Variant] = {}
    for name in dict.fromkeys(["auto", *arguments.variants]):
        try:
            variants[name] = Variant(name, arguments.model, arguments.side, arguments.batch)
        except ConfigError as error:
            print(json.dumps({"variant": name, "refused": str(error)}), flush=True)
    for variant in variants.values():
        variant.seconds(2)
    taken: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(arguments.rounds):
        for name, variant in variants.items():
            taken[name].append(variant.seconds(arguments.updates) / arguments.updates)
    torch.use_deterministic_algorithms(False)
    for name, variant in variants.items():
        ratios = [ours / auto for ours, auto in zip(taken[name], taken["auto"], strict=True)]
        line = {
            "variant": name,
            "model": arguments.model,
            "side": arguments.side,
            "batch": arguments.batch,
            "rounds": arguments.rounds,
            "ms_per_update": round(1e3 * statistics.median(taken[name]), 2),
            "ratio_to_auto": round(statistics.median(ratios), 3),
            "first_seconds": round(variant.first, 1),
            **versions(variant.device),
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
