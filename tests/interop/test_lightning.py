"""Schedulers with Lightning: with interval "step" they step after each update."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer
from torch.utils.data import DataLoader

from warmstart.modeling import load_weights
from warmstart.solver import ScheduleLR

lightning = pytest.importorskip("lightning", reason="lightning is missing: pip install -e '.[interop]'")

# Its advice about speed, which depends on the machine, and its use of torch's trees (2.6.6 with torch 2.15).
pytestmark = [
    pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:GPU available but not used"),
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.. is deprecated:FutureWarning"),
]

Fresh = Callable[[], tuple[nn.Module, Optimizer, ScheduleLR, list[list[float]]]]


class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
    def __init__(self, model: nn.Module, optimizer: Optimizer, scheduler: ScheduleLR) -> None:
        super().__init__()
        self.model = model
        self.parts = (optimizer, scheduler)

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        loss: Tensor = self.model(batch).square().mean()
        return loss

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer, scheduler = self.parts
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def fit(module: Module, batches: DataLoader[Tensor], ckpt_path: Path | None = None, **arguments: Any) -> Any:
    """Train for real; return the trainer."""
    trainer = lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **arguments,
    )
    trainer.fit(module, batches, ckpt_path=ckpt_path)
    return trainer


@pytest.mark.need("B2", "B15")
@pytest.mark.parametrize("micro_batches", [1, 2, 4])
def test_the_rates_are_those_of_a_plain_loop(
    fresh: Fresh, batches: DataLoader[Tensor], plain_loop: list[list[float]], micro_batches: int
) -> None:
    model, optimizer, scheduler, used = fresh()
    fit(Module(model, optimizer, scheduler), batches, max_steps=12, accumulate_grad_batches=micro_batches)
    assert used == plain_loop
    assert scheduler.last_epoch == 12


@pytest.mark.need("B5", "B15")
# It is about which samples come next, not about rates.
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
@pytest.mark.parametrize("stop", [5, 6])  # within an epoch of 3 updates, and at the end of one
def test_a_run_continues_from_its_checkpoint(
    fresh: Fresh, batches: DataLoader[Tensor], plain_loop: list[list[float]], tmp_path: Path, stop: int
) -> None:
    checkpoint = tmp_path / "half.ckpt"
    model, optimizer, scheduler, first = fresh()
    trainer = fit(Module(model, optimizer, scheduler), batches, max_steps=stop, accumulate_grad_batches=2)
    trainer.save_checkpoint(checkpoint)
    model, optimizer, scheduler, second = fresh()
    fit(Module(model, optimizer, scheduler), batches, checkpoint, max_steps=12, accumulate_grad_batches=2)
    assert first == plain_loop[:stop]
    assert second == plain_loop[stop:]


def test_load_weights_reads_the_checkpoint_that_lightning_writes(
    fresh: Fresh, batches: DataLoader[Tensor], tmp_path: Path
) -> None:
    model, optimizer, scheduler, _ = fresh()
    trainer = fit(Module(model, optimizer, scheduler), batches, max_epochs=1)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    new, *_ = fresh()
    count = len(new.state_dict())
    assert load_weights(new, tmp_path / "last.ckpt") == (
        f"loaded {count}/{count} tensors from {tmp_path / 'last.ckpt'} (prefix model. removed)"
    )
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in new.state_dict().items())
