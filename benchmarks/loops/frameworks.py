"""The loops of other frameworks, each as lean as its documentation shows it.

All of them record loss and learning rate in TensorBoard every 20 updates, without a progress bar or validation; if
a framework saves checkpoints by itself, the first one is due after the clock has stopped.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .work import GAMMA, LOG_PERIOD, WARMUP_FACTOR, WARMUP_ITERS, Loss, Work


def ignite(work: Work) -> nn.Module:
    """Train with ignite's Engine: an update function, and handlers for schedule, TensorBoard and checkpoints."""
    from ignite.engine import Engine, Events
    from ignite.handlers import Checkpoint, DiskSaver, TensorboardLogger
    from ignite.handlers.param_scheduler import LRScheduler

    net = work.net()
    model, optimizer = Loss(net), work.optimizer(net)

    def update(engine: Engine, batch: Any) -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = model(*batch)
        loss.backward()
        optimizer.step()
        return loss.detach()

    trainer = Engine(update)
    trainer.add_event_handler(Events.ITERATION_STARTED, LRScheduler(work.torch_scheduler(optimizer)))
    logger = TensorboardLogger(log_dir=work.folder)
    now = Events.ITERATION_COMPLETED(every=LOG_PERIOD)
    logger.attach_output_handler(trainer, now, tag="train", output_transform=lambda loss: {"loss": loss})
    logger.attach_opt_params_handler(trainer, now, optimizer)
    saved = {"net": net, "optimizer": optimizer, "trainer": trainer}
    period = Events.ITERATION_COMPLETED(every=work.cfg.SOLVER.CHECKPOINT_PERIOD)
    trainer.add_event_handler(period, Checkpoint(saved, DiskSaver(str(work.folder), require_empty=False)))
    trainer.run(work.stream, max_epochs=1)
    logger.close()
    return net


def mmengine(work: Work) -> nn.Module:
    """Train with mmengine's Runner and its default hooks.

    Its linear warm-up is complete one update before its `end`.
    """
    from mmengine.model import BaseModel
    from mmengine.optim import LinearLR, MultiStepLR, OptimWrapper
    from mmengine.runner import Runner

    class Model(BaseModel):  # type: ignore[misc]
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.loss = Loss(net)

        def forward(self, images: Tensor, targets: Tensor, mode: str) -> dict[str, Tensor]:
            return {"loss": self.loss(images, targets)}

    net = work.net()
    optimizer, solver = work.optimizer(net), work.cfg.SOLVER
    runner = Runner(
        Model(net),
        str(work.folder),
        train_dataloader=work.stream,
        train_cfg={"by_epoch": False, "max_iters": work.iterations},
        optim_wrapper=OptimWrapper(optimizer),
        param_scheduler=[
            LinearLR(optimizer, WARMUP_FACTOR, end=WARMUP_ITERS + 1, by_epoch=False),
            MultiStepLR(optimizer, list(solver.STEPS), GAMMA, by_epoch=False),
        ],
        default_hooks={
            "logger": {"type": "LoggerHook", "interval": LOG_PERIOD},
            "checkpoint": {"type": "CheckpointHook", "interval": solver.CHECKPOINT_PERIOD, "by_epoch": False},
        },
        visualizer={"type": "Visualizer", "vis_backends": [{"type": "TensorboardVisBackend"}]},
        log_processor={"by_epoch": False},
    )
    runner.train()
    return net


def accelerate(work: Work) -> nn.Module:
    """Train in the loop of accelerate's documentation, with its tracker; the loader is not prepared."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, log_with="tensorboard", project_dir=work.folder)
    accelerator.init_trackers("run")
    net = work.net()
    optimizer = work.optimizer(net)
    model, optimizer, scheduler = accelerator.prepare(Loss(net), optimizer, work.torch_scheduler(optimizer))
    for iteration, (images, targets) in enumerate(work.stream, start=1):
        optimizer.zero_grad()
        loss = model(images, targets)
        accelerator.backward(loss)
        optimizer.step()
        scheduler.step()
        if iteration % LOG_PERIOD == 0:
            accelerator.log({"loss": loss.item(), "lr": scheduler.get_last_lr()[0]}, step=iteration)
    accelerator.end_training()
    return net


def transformers(work: Work) -> nn.Module:
    """Train with transformers.Trainer; gradients are not clipped, as in the other loops."""
    from transformers import Trainer, TrainingArguments

    class Model(nn.Module):
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.loss = Loss(net)

        def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
            return {"loss": self.loss(images, labels)}

    class OwnBatches(Trainer):
        def get_train_dataloader(self) -> Any:
            return work.stream

        def _prepare_inputs(self, batch: Any) -> dict[str, Tensor]:
            return {"images": batch[0], "labels": batch[1]}

    net = work.net()
    optimizer = work.optimizer(net)
    arguments = TrainingArguments(
        output_dir=str(work.folder),
        max_steps=work.iterations,
        per_device_train_batch_size=work.cfg.SOLVER.IMS_PER_BATCH,
        max_grad_norm=0,
        logging_steps=LOG_PERIOD,
        report_to="tensorboard",
        save_steps=work.cfg.SOLVER.CHECKPOINT_PERIOD,
        disable_tqdm=True,
        use_cpu=True,
    )
    OwnBatches(Model(net), arguments, optimizers=(optimizer, work.torch_scheduler(optimizer))).train()
    return net


def lightning(work: Work) -> nn.Module:
    """Train with Lightning's Trainer, its TensorBoard logger, and callbacks for learning rates and checkpoints."""
    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
    from lightning.pytorch.loggers import TensorBoardLogger

    class Module(LightningModule):
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.model = Loss(net)

        def training_step(self, batch: Any, index: int) -> Tensor:
            loss: Tensor = self.model(*batch)
            self.log("loss", loss)
            return loss

        def configure_optimizers(self) -> Any:
            optimizer = work.optimizer(net)
            return [optimizer], [{"scheduler": work.torch_scheduler(optimizer), "interval": "step"}]

    net = work.net()
    saves = ModelCheckpoint(work.folder, every_n_train_steps=work.cfg.SOLVER.CHECKPOINT_PERIOD)
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        logger=TensorBoardLogger(work.folder),
        log_every_n_steps=LOG_PERIOD,
        callbacks=[LearningRateMonitor("step"), saves],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Module(net), work.stream)
    return net
