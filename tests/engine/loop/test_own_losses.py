"""Training on the losses that a registered model returns, with all other features of a run."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from warmstart.config import ConfigError
from warmstart.engine import Trainer, load_checkpoint, run_tool
from warmstart.modeling import catalog, register_model
from warmstart.modeling.small_cnn import SmallCNN
from warmstart.tools import find_lr, plain_train_net, train_net

from ..dying import assert_same_bits
from ..ranks import trained


class Focal(SmallCNN):
    """Its losses in training, logits else."""

    def forward(self, images: Tensor, targets: Tensor | None = None) -> Any:
        logits = super().forward(images)
        if not self.training:
            return logits
        assert targets is not None
        loss = F.cross_entropy(logits, targets, reduction="none")
        focal = ((1 - (-loss).exp()) * loss).mean()
        return {"loss_focal": focal, "loss_size": 0.1 * logits.square().mean(), "train/loss": loss.mean()}


class Plain(SmallCNN):
    """The same network, trained on cross-entropy."""


@pytest.fixture(autouse=True)
def models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "_REGISTRY", dict(catalog._REGISTRY))
    for model in (Focal, Plain):
        register_model(model.__name__.lower(), model)


def words_of(tiny_words: list[str], *more: str) -> list[str]:
    return [*tiny_words, "MODEL.NAME=focal", "MODEL.ARGS={norm: batch, dropout: 0.2, width: 4}", *more]


def records(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]


@pytest.mark.parametrize(
    "more",
    [
        (),
        (
            *(
                "SOLVER.AMP.ENABLED=true",
                "SOLVER.AMP.PRECISION=fp16",
                "SOLVER.GRAD_ACCUM_STEPS=2",
                "MODEL.TASK_ARGS.flip=true",
            ),
            *("SOLVER.EMA.ENABLED=true", "MODEL.ACTIVATION_CHECKPOINTING=[block2]"),
            "INPUT.TRANSFORMS_TRAIN=[{MixUp: {alpha: 0.4}}]",
        ),
    ],
    ids=["plain", "all"],
)
def test_run_trains_on_losses_of_the_model_as_the_plain_loop_does(
    tiny_words: list[str], tmp_path: Path, more: tuple[str, ...]
) -> None:
    words, out = words_of(tiny_words, *more), tmp_path / "out"
    train_net.main(words)
    plain_train_net.main(words)
    assert all({"loss_focal", "loss_size", "train/loss"} <= record.keys() for record in records(out))
    assert not any("loss_cls" in record for record in records(out))
    for record in records(out):
        assert record["total_loss"] == pytest.approx(record["loss_focal"] + record["loss_size"], rel=1e-5)
        assert record["loss_focal"] < record["train/loss"]
    ours = load_checkpoint(out / "model_final.pth")
    assert_same_bits(ours["model"], torch.load(out / "plain_model_final.pth")["model"])
    train_net.main([*words, "MODEL.NAME=plain", f"OUTPUT_DIR={tmp_path}/plain"])
    other = load_checkpoint(tmp_path / "plain" / "model_final.pth")["model"]
    assert not torch.equal(ours["model"]["fc.weight"], other["fc.weight"])


def test_precise_bn_and_find_lr_use_the_losses_of_the_model(
    tiny_words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = words_of(tiny_words, "TEST.PRECISE_BN.ENABLED=true", "TEST.PRECISE_BN.NUM_ITER=3", "SOLVER.MAX_ITER=5")
    assert train_net.main(words) == 0
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="the loss"):  # with noise of so few images the loss does not fall
        find_lr.main([*words, "--iters", "12"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="forks this process, which may have used the GPU")
def test_several_ranks_train_on_losses_of_the_model(tiny_words: list[str], tmp_path: Path) -> None:
    words = words_of(tiny_words, "MODEL.ARGS={norm: group, dropout: 0.0, width: 4}")
    ended = trained(tmp_path, 2, words)
    assert [each.code for each in ended] == [0, 0], [each.err for each in ended]
    train_net.main([*words, f"OUTPUT_DIR={tmp_path}/one"])
    for several, one in zip(records(tmp_path / "out"), records(tmp_path / "one"), strict=True):
        for name in ("total_loss", "loss_focal", "loss_size"):
            assert several[name] == pytest.approx(one[name], rel=1e-4)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ["MODEL.TASK_ARGS.label_smoothing=0.1"],
            "error: MODEL.TASK_ARGS.label_smoothing: is 0.1, but the model computes its own losses, which it does",
        ),
        (["MODEL.NAME=total"], "error: the model returns a loss named total_loss, as a number of each record is"),
    ],
)
def test_train_net_refuses_options_without_meaning_for_losses_of_the_model(
    tiny_words: list[str], capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    class Total(SmallCNN):
        def forward(self, images: Tensor, targets: Tensor | None = None) -> Any:
            logits = super().forward(images)
            return {"total_loss": logits.mean(), "loss_a": logits.mean()} if self.training else logits

    register_model("total", Total)
    with pytest.raises(SystemExit) as caught:
        run_tool(functools.partial(train_net.main, words_of(tiny_words, *more)))
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith(message)


def test_run_step_refuses_a_loss_with_the_name_of_a_records_own_number() -> None:
    class Rate(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"loss": x.sum(), "lr": x.sum()}

    weight = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer)
    trainer = Trainer(Rate(), optimizer, scheduler, [(weight,)], max_iter=1)
    with pytest.raises(ConfigError, match="a loss named lr, as a number of each record is; rename it"):
        trainer.train()
