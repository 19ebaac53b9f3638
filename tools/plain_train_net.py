"""The run of train_net.py as one plain loop, without Trainer, hooks and resume.

Read it to see what a run consists of, or copy it as the start of your own loop. Its final weights are equal to the
weights that train_net.py saves, bit for bit. It saves, evaluates and draws nothing before the end. Keys that need
hooks, and SOLVER.NAN_POLICY skip, are refused. It runs in one process.

    python tools/plain_train_net.py --config-file config/recipes/digits.yaml
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from warmstart.tools import interruptible

with interruptible(__name__):
    import torch

    from warmstart.config import CfgNode, ConfigError, Flag
    from warmstart.data import build_train_loader
    from warmstart.engine import (
        build_autocast,
        build_for_ranks,
        build_scaler,
        build_test_loaders,
        check_scaled,
        claim_files,
        compiled,
        evaluate_all,
        hold_folder,
        init_from_data,
        iters_per_epoch,
        log_scores,
        losses_of,
        output_names,
        prepare_torch,
        read_command_line,
        refuse_ranks,
        resolve_config,
        run_tool,
        save_checkpoint,
        scaled,
        seed_forward,
        setup_logging,
        unfreeze,
    )
    from warmstart.solver import (
        build_ema,
        build_gradient_clipping,
        build_lr_scheduler,
        build_optimizer,
        follows_metrics,
    )
    from warmstart.tasks import build_task

logger = logging.getLogger("warmstart.tools")

FLAGS = (Flag("--trust-checkpoint", "none", "read MODEL.WEIGHTS even if that can run code in it"),)
MODEL = "plain_model_final.pth"  # in OUTPUT_DIR


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool with the arguments of a command line and return its exit code."""
    refuse_ranks("plain_train_net.py runs in one process; train_net.py in as many as you like")
    flags, cfg = read_command_line(argv, FLAGS, "Train the model that a YAML file describes, in one plain loop.")
    setup_logging()
    given, cfg = cfg, resolve_config(scaled(cfg, 1), given=cfg)
    check_scaled(given, cfg)
    refuse_hooks(cfg)
    with hold_folder(cfg):
        claim_files(cfg, MODEL)
        train(cfg, flags["trust_checkpoint"])
    return 0


def refuse_hooks(cfg: CfgNode) -> None:
    """Raise ConfigError if a key is set that only the Trainer and its hooks support."""
    asked = {
        "SOLVER.LR_SCHEDULER_NAME": follows_metrics(cfg) and not cfg.SOLVER.WARMUP_UNTIL.METRIC,
        "SOLVER.WARMUP_UNTIL.METRIC": cfg.SOLVER.WARMUP_UNTIL.METRIC,
        "SOLVER.NAN_POLICY": cfg.SOLVER.NAN_POLICY == "skip",
        "TEST.BEST.METRIC": cfg.TEST.BEST.METRIC,
        "TEST.EARLY_STOPPING.PATIENCE": cfg.TEST.EARLY_STOPPING.PATIENCE,
        "TEST.PRECISE_BN.ENABLED": cfg.TEST.PRECISE_BN.ENABLED,
        "PROFILER.ITERS": cfg.PROFILER.ITERS,
        "MEMORY_STATS": cfg.MEMORY_STATS,
    }
    problems = [
        f"{cfg.label(key)}: the plain loop does not support it; use train_net.py, or leave it out"
        for key, is_set in asked.items()
        if is_set
    ]
    if problems:
        raise ConfigError(problems)


def train(cfg: CfgNode, trust: bool = False) -> None:
    """Train from iteration 0, evaluate, and save the weights."""
    device, task = prepare_torch(cfg), build_task(cfg)
    model = build_for_ranks(cfg, trust, task=task).to(device)
    loader = build_train_loader(cfg, task)
    init_from_data(cfg, task, model, loader)
    optimizer = build_optimizer(cfg, model)
    scheduler = build_lr_scheduler(cfg, optimizer, iters_per_epoch(cfg))
    clip = build_gradient_clipping(cfg)
    scaler = build_scaler(cfg, model) or torch.amp.GradScaler(device.type, enabled=False)
    forward = compiled(model, cfg.MODEL.COMPILE) if cfg.MODEL.COMPILE else model
    autocast = build_autocast(cfg)
    losses = losses_of(model, task, forward, autocast, device)
    ema = build_ema(cfg, model)
    batches = loader.batches()
    parts = cfg.SOLVER.GRAD_ACCUM_STEPS

    model.train()
    for iteration in range(1, cfg.SOLVER.MAX_ITER + 1):
        batch = next(batches)
        unfreeze(model, optimizer, iteration - 1)
        optimizer.zero_grad()
        loss = torch.zeros((), device=device)
        for index, micro_batch in enumerate(batch.split(parts)):
            if task.draws_in_forward:
                seed_forward(loader, iteration - 1, index, parts, device)
            values = losses(micro_batch.to(device))
            part = sum(value for name, value in values.items() if not name.startswith("train/")) / parts
            scaler.scale(part).backward()
            loss += part.detach()
        scaler.unscale_(optimizer)
        if clip is not None:
            clip(parameter for group in optimizer.param_groups for parameter in group["params"])
        scaler.step(optimizer)  # in fp16 it skips an update whose gradients overflow; the schedule does not
        scaler.update()
        rate = scheduler.get_last_lr()[0]
        scheduler.step()
        if ema is not None:
            ema.update(model, iteration)
        if iteration % cfg.LOG_PERIOD == 0:
            logger.info("iter %d/%d  loss %.4g  lr %.4g", iteration, cfg.SOLVER.MAX_ITER, loss.item(), rate)
    batches.close()

    averaged = ema.model if ema is not None else None
    loaders, with_losses = build_test_loaders(cfg, task), cfg.TEST.LOSSES
    scores = evaluate_all(model, task, loaders, averaged, autocast=autocast, with_losses=with_losses)
    log_scores(scores, task)
    path = Path(cfg.OUTPUT_DIR) / MODEL
    average = None if ema is None else ema.state_dict()
    save_checkpoint({"model": model.state_dict(), "ema": average, "classes": output_names(cfg)}, path)
    logger.info("saved %s", path)


if __name__ == "__main__":
    run_tool(main)
