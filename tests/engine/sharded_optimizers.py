"""Distance between sharded and unsharded training, for each optimizer and clip type; run by test_fsdp.py.

torchrun --standalone --nproc-per-node 2 -m tests.engine.sharded_optimizers DATA
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from torch import Tensor

from warmstart.config import ConfigError, get_cfg
from warmstart.engine import build_process_group, build_trainer, is_main
from warmstart.engine.distributed.fsdp import is_sharded_tensor
from warmstart.solver.optimizers import OPTIMIZERS

from ..conftest import tiny_overrides

CLIPPING = ("full_model", "norm", "value")


def trained(words: list[str], parallel: str) -> list[Tensor]:
    """Return the full weights after 6 updates."""
    cfg = get_cfg()
    cfg.merge_from_list([*words, f"MODEL.PARALLEL={parallel}"])
    trainer = build_trainer(cfg)
    trainer.hooks = []
    trainer.train()
    return [
        each.full_tensor() if is_sharded_tensor(each) else each.detach() for each in trainer.model.parameters()
    ]


def distance(words: list[str]) -> float | str:
    """Return the maximum difference of a weight relative to the maximum of its tensor; or the error."""
    try:
        pairs = zip(trained(words, "ddp"), trained(words, "fsdp"), strict=True)
    except ConfigError as error:
        return str(error)
    return max(((one - two).abs().max() / one.abs().max()).item() for one, two in pairs)


def main(data: Path) -> None:
    """Print one JSON line: the distance or the error, by the name of the optimizer or the clip type."""
    common = [*tiny_overrides(data, Path("unused")), "MODEL.ARGS={norm: group, width: 4, dropout: 0}"]
    common += ["MODEL.FSDP.WRAP=[Conv2d, Linear]", "SOLVER.MAX_ITER=6", "SOLVER.STEPS=5", "SOLVER.BASE_LR=0.003"]
    cfg = get_cfg()
    cfg.merge_from_list(common)
    with build_process_group(cfg):
        found = {name: distance([*common, f"SOLVER.OPTIMIZER={name}"]) for name in sorted(OPTIMIZERS)}
        for kind in CLIPPING:
            key = "SOLVER.CLIP_GRADIENTS"
            words = [f"{key}.ENABLED=true", f"{key}.CLIP_TYPE={kind}", f"{key}.CLIP_VALUE=0.001"]
            found[kind] = distance([*common, *words])
        if is_main():
            print(json.dumps(found))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
