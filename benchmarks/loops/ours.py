"""Our loop, with the hooks that every run has by default."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from warmstart.data import Batch, train_info
from warmstart.engine import Trainer, build_trainer, default_hooks, setup_logging, stop_signals
from warmstart.solver import build_lr_scheduler
from warmstart.tasks import Classification, Forward

from .work import Work


class _LossAlone(Classification):
    """Classification without the training error, which no other contender computes."""

    def losses(self, forward: Forward, batch: Batch) -> dict[str, Tensor]:
        return {"loss_cls": F.cross_entropy(forward(batch.images), batch.targets)}


def ours(work: Work) -> nn.Module:
    """Train as tools/train_net.py does: schedule, console, log files, TensorBoard, checkpoints, signals.

    The task computes the loss. In "cnn" `build_trainer` builds everything, and the training error is recorded too.
    """
    setup_logging(work.folder)
    if work.workload == "cnn":
        trainer = build_trainer(work.cfg)
        net = trainer.model
        trainer.data_loader = work.stream
    else:
        net, task = work.net(), _LossAlone(train_info(work.cfg))
        optimizer = work.optimizer(net)
        scheduler = build_lr_scheduler(work.cfg, optimizer)
        hooks = default_hooks(work.cfg, task, net, work.stream)  # type: ignore[arg-type]
        trainer = Trainer(net, optimizer, scheduler, work.stream, hooks, task, max_iter=work.iterations)
    with stop_signals(trainer.interrupt):
        trainer.train()
    return net
