"""Our loop, with the hooks that every run has by default."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from warmstart.engine import Trainer, build_trainer, default_hooks, setup_logging, stop_signals
from warmstart.solver import build_lr_scheduler

from .work import Work


class _Losses(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return {"loss_cls": F.cross_entropy(self.net(images), targets)}


def ours(work: Work) -> nn.Module:
    """Train as tools/train_net.py does: rates, console, log.txt, metrics.json, TensorBoard, checkpoints, signals.

    In "cnn" `build_trainer` makes all of it; its model records the training error too.
    """
    setup_logging(work.folder)
    if work.workload == "cnn":
        trainer = build_trainer(work.cfg)
        net = trainer.model
        trainer.data_loader = work.stream
    else:
        net = work.net()
        model, optimizer = _Losses(net), work.optimizer(net)
        scheduler = build_lr_scheduler(work.cfg, optimizer)
        hooks = default_hooks(work.cfg, model, work.stream)  # type: ignore[arg-type]
        trainer = Trainer(model, optimizer, scheduler, work.stream, hooks, max_iter=work.iterations)
    with stop_signals(trainer.interrupt):
        trainer.train()
    return net
