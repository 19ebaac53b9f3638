"""Our loop, with the hooks that every run has by default."""

from __future__ import annotations

from torch import nn

from warmstart.engine import Trainer, build_trainer, default_hooks, setup_logging, stop_signals
from warmstart.solver import build_lr_scheduler
from warmstart.tasks import build_task

from .work import Work


def ours(work: Work) -> nn.Module:
    """Train as tools/train_net.py does: rates, console, log.txt, metrics.json, TensorBoard, checkpoints, signals.

    The task computes the loss, and the training error, which is recorded too. In "cnn" `build_trainer` makes
    everything.
    """
    setup_logging(work.folder)
    if work.workload == "cnn":
        trainer = build_trainer(work.cfg)
        net = trainer.model
        trainer.data_loader = work.stream
    else:
        net, task = work.net(), build_task(work.cfg)
        optimizer = work.optimizer(net)
        scheduler = build_lr_scheduler(work.cfg, optimizer)
        hooks = default_hooks(work.cfg, task, net, work.stream)  # type: ignore[arg-type]
        trainer = Trainer(net, optimizer, scheduler, work.stream, hooks, task, max_iter=work.iterations)
    with stop_signals(trainer.interrupt):
        trainer.train()
    return net
