"""The run of train_net.py as one plain loop: no Trainer, no hooks, no resume.

Read it to see what a run is, or copy it to start a loop of your own. Its final weights equal those of
train_net.py bit for bit. What hooks do is left out: checkpoints on the way, TEST.PRECISE_BN, PROFILER; and so is
SOLVER.NAN_POLICY. It is one process; train_net.py trains in several.

    python tools/plain_train_net.py --config-file config/recipes/digits.yaml
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from warmstart.tools import interruptible

with interruptible(__name__):
    import torch

    from warmstart.config import CfgNode
    from warmstart.data import build_train_loader
    from warmstart.engine import (
        build_scaler,
        build_test_loaders,
        claim_files,
        compiled,
        evaluate_all,
        hold_folder,
        init_from_data,
        iters_per_epoch,
        log_scores,
        prepare_torch,
        read_command_line,
        refuse_ranks,
        resolve_config,
        run_tool,
        save_checkpoint,
        scaled,
        setup_logging,
    )
    from warmstart.modeling import build_model
    from warmstart.solver import build_ema, build_gradient_clipping, build_lr_scheduler, build_optimizer

logger = logging.getLogger("warmstart.tools")

MODEL = "plain_model_final.pth"  # in OUTPUT_DIR


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool with the words of a command line and return its exit code."""
    refuse_ranks("plain_train_net.py is one process; train_net.py is as many as you like")
    _, cfg = read_command_line(argv, (), "Train the model that a YAML file describes, in one plain loop.")
    setup_logging()
    cfg = resolve_config(scaled(cfg, 1), given=cfg)
    with hold_folder(cfg):
        claim_files(cfg, MODEL)
        train(cfg)
    return 0


def train(cfg: CfgNode) -> None:
    """Train from iteration 0, evaluate, and save the weights."""
    device = prepare_torch(cfg)
    model = build_model(cfg).to(device)
    loader = build_train_loader(cfg)
    init_from_data(cfg, model, loader)
    optimizer = build_optimizer(cfg, model)
    scheduler = build_lr_scheduler(cfg, optimizer, iters_per_epoch(cfg))
    clip = build_gradient_clipping(cfg)
    scaler = build_scaler(cfg, model) or torch.amp.GradScaler(device.type, enabled=False)
    forward = compiled(model, cfg.MODEL.COMPILE) if cfg.MODEL.COMPILE else model
    ema = build_ema(cfg, model)
    batches = loader.batches()
    parts = cfg.SOLVER.GRAD_ACCUM_STEPS

    model.train()
    for iteration in range(1, cfg.SOLVER.MAX_ITER + 1):
        images, targets = next(batches)
        optimizer.zero_grad()
        loss = torch.zeros((), device=device)
        for x, y in zip(images.chunk(parts), targets.chunk(parts), strict=True):
            values = forward(x.to(device), y.to(device))
            part = sum(value for name, value in values.items() if not name.startswith("train/")) / parts
            scaler.scale(part).backward()
            loss += part.detach()
        scaler.unscale_(optimizer)
        if clip is not None:
            clip(parameter for group in optimizer.param_groups for parameter in group["params"])
        scaler.step(optimizer)  # in fp16 it skips an update whose gradients overflow; the schedule goes on
        scaler.update()
        rate = scheduler.get_last_lr()[0]
        scheduler.step()
        if ema is not None:
            ema.update(model, iteration)
        if iteration % cfg.LOG_PERIOD == 0:
            logger.info("iter %d/%d  loss %.4g  lr %.4g", iteration, cfg.SOLVER.MAX_ITER, loss.item(), rate)
    batches.close()

    averaged = ema.model if ema is not None else None
    log_scores(evaluate_all(model, build_test_loaders(cfg), averaged, flip=cfg.TEST.FLIP))
    path = Path(cfg.OUTPUT_DIR) / MODEL
    save_checkpoint({"model": model.state_dict(), "ema": None if ema is None else ema.state_dict()}, path)
    logger.info("saved %s", path)


if __name__ == "__main__":
    run_tool(main)
