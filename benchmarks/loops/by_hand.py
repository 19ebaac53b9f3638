"""Handwritten loops."""

from __future__ import annotations

import csv
import math
import time

import torch
from torch import nn

from .work import BASE_LR, GAMMA, LOG_PERIOD, WARMUP_FACTOR, WARMUP_ITERS, Loss, Work


def bare(work: Work) -> nn.Module:
    """Train, and do nothing else: the limit. The learning rates are precomputed."""
    net = work.net()
    model, optimizer = Loss(net), work.optimizer(net)
    rates = [BASE_LR * factor for factor in work.factors()]
    groups = optimizer.param_groups
    for rate, (images, targets) in zip(rates, work.stream, strict=False):
        for group in groups:
            group["lr"] = rate
        optimizer.zero_grad()
        model(images, targets).backward()
        optimizer.step()
    return net


def careful(work: Work) -> nn.Module:
    """Train as a careful engineer writes it.

    torch's scheduler; the loss is summed on the device and read every 20 updates; it is then looked at for NaN,
    printed, and written with the rate to TensorBoard and a CSV file; checkpoints of model and optimizer.
    """
    from torch.utils.tensorboard import SummaryWriter

    net = work.net()
    model, optimizer = Loss(net), work.optimizer(net)
    scheduler = work.torch_scheduler(optimizer)
    writer = SummaryWriter(work.folder)
    total = torch.zeros(())
    with open(work.folder / "metrics.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["iteration", "loss", "lr"])
        for iteration, (images, targets) in enumerate(work.stream, start=1):
            optimizer.zero_grad()
            loss = model(images, targets)
            loss.backward()
            optimizer.step()
            total += loss.detach()
            rate = scheduler.get_last_lr()[0]
            scheduler.step()
            if iteration % LOG_PERIOD == 0:
                mean = total.item() / LOG_PERIOD
                if not math.isfinite(mean):
                    raise FloatingPointError(f"the loss is {mean} at iteration {iteration}")
                total.zero_()
                writer.add_scalar("loss", mean, iteration)
                writer.add_scalar("lr", rate, iteration)
                table.writerow([iteration, mean, rate])
                file.flush()
                print(f"iter {iteration}/{work.iterations}  loss {mean:.4g}  lr {rate:.4g}")
            if iteration % work.cfg.SOLVER.CHECKPOINT_PERIOD == 0:
                torch.save(
                    {"net": net.state_dict(), "optimizer": optimizer.state_dict(), "iteration": iteration},
                    work.folder / "last.pth",
                )
    writer.close()
    return net


def timm(work: Work) -> nn.Module:
    """Train in the manner of timm's train.py: its scheduler and its meters, a line every 20 updates, no files."""
    from timm.scheduler import MultiStepLRScheduler
    from timm.utils import AverageMeter

    net = work.net()
    model, optimizer = Loss(net), work.optimizer(net)
    scheduler = MultiStepLRScheduler(
        optimizer,
        decay_t=[step + 1 for step in work.cfg.SOLVER.STEPS],  # it drops one update before them
        decay_rate=GAMMA,
        warmup_t=WARMUP_ITERS,
        warmup_lr_init=BASE_LR * WARMUP_FACTOR,
        warmup_prefix=False,
        t_in_epochs=False,
    )
    losses, waits, updates = AverageMeter(), AverageMeter(), AverageMeter()
    end = time.time()
    for iteration, (images, targets) in enumerate(work.stream, start=1):
        waits.update(time.time() - end)
        loss = model(images, targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        updates.update(time.time() - end)
        if iteration % LOG_PERIOD == 0:
            losses.update(loss.item(), len(images))
            rate = sum(group["lr"] for group in optimizer.param_groups) / len(optimizer.param_groups)
            print(
                f"Train: {iteration}/{work.iterations} Loss: {losses.val:#.3g} ({losses.avg:#.3g}) "
                f"Time: {updates.val:.3f}s ({updates.avg:.3f}s) LR: {rate:.3e} "
                f"Data: {waits.val:.3f} ({waits.avg:.3f})"
            )
        scheduler.step_update(num_updates=iteration, metric=losses.avg)
        end = time.time()
    return net
