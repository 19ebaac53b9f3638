"""A script for test_accelerate.py that writes the learning rates of each process, one JSON file per process.

torchrun --standalone --nproc-per-node 2 tests/interop/two_processes.py FOLDER CONFIG...
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DataLoaderConfiguration
from torch import nn
from torch.utils.data import DataLoader

from warmstart.config import get_cfg
from warmstart.solver import build_lr_scheduler, build_optimizer

# From the loop's name to whether each batch is split over the processes, and who steps the scheduler.
LOOPS = {
    "split, prepared": (True, True),
    "whole, prepared": (False, True),
    "whole, by hand": (False, False),
}


def rates(config: Path, split: bool, prepared: bool) -> list[list[float]]:
    """Return the rates of each update, one for each parameter group."""
    accelerator = Accelerator(
        cpu=True,
        gradient_accumulation_steps=2,
        dataloader_config=DataLoaderConfiguration(split_batches=split),
    )
    cfg = get_cfg()
    cfg.merge_from_file(config)
    model = nn.Linear(3, 2)
    inner = build_optimizer(cfg, model)
    used: list[list[float]] = []
    inner.register_step_pre_hook(lambda *_: used.append([group["lr"] for group in inner.param_groups]))
    scheduler = build_lr_scheduler(cfg, inner)
    # Either way each process has 6 micro-batches of 4 an epoch.
    batches = DataLoader(torch.ones(48, 3), batch_size=8 if split else 4)  # type: ignore[arg-type, var-annotated]
    model, optimizer, batches = accelerator.prepare(model, inner, batches)
    if prepared:
        scheduler = accelerator.prepare(scheduler)
    for _ in range(4):
        for batch in batches:
            with accelerator.accumulate(model):
                accelerator.backward(model(batch).square().mean())
                optimizer.step()
                if prepared or accelerator.sync_gradients:
                    scheduler.step()
                optimizer.zero_grad()
    return used


def main() -> None:
    """Run every loop with every config."""
    folder, *configs = map(Path, sys.argv[1:])
    found = {config.stem: {loop: rates(config, *how) for loop, how in LOOPS.items()} for config in configs}
    state = PartialState()
    (folder / f"rank{state.process_index}.json").write_text(json.dumps(found))
    state.destroy_process_group()


if __name__ == "__main__":
    main()
