"""A user-defined task in a user's folder, with the guarantees of the built-in tasks."""

from __future__ import annotations

import functools
import importlib
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from warmstart.config import ConfigError, get_cfg
from warmstart.data import Batch, DatasetInfo, build_train_loader
from warmstart.data.datasets import registry as data_sets
from warmstart.engine import HookBase, Interrupted, load_checkpoint, register_hook, run_tool
from warmstart.engine.run import evaluate as run_evaluate
from warmstart.engine.run.default_hooks import _HOOKS
from warmstart.engine.runtime import precision
from warmstart.modeling import catalog
from warmstart.tasks import build_task
from warmstart.tasks import registry as task_registry
from warmstart.tools import find_lr, plain_train_net, train_net

from ..engine.dying import assert_same_bits

ROOT = Path(__file__).parent.parent.parent
EXAMPLE = ["--import", "depth", "--config-file", "depth.yaml"]
# 12 updates, evaluated after 4, 8 and 12; the example's crops of 32 pixels from 40 and its flips are kept.
SHORT = [
    *EXAMPLE,
    "SOLVER.MAX_ITER=12",
    "SOLVER.IMS_PER_BATCH=4",
    "SOLVER.WARMUP_ITERS=2",
    "TEST.EVAL_PERIOD=4",
    "MODEL.ARGS.width=2",
    "MODEL.DEVICE=cpu",
    "DATALOADER.NUM_WORKERS=0",
    "LOG_PERIOD=3",
    "OUTPUT_DIR=out",
]
# The plain loop has no hooks, so it supports neither of these.
NO_HOOKS = ["TEST.BEST.METRIC=", "TEST.EARLY_STOPPING.PATIENCE=0"]
OUT = Path("out")


@pytest.fixture(scope="module", autouse=True)
def names_of_the_example() -> Iterator[None]:
    """Undo the example's registrations after these tests."""
    registries: list[dict[str, Any]] = [catalog._REGISTRY, data_sets._REGISTRY, task_registry._REGISTRY]
    before = [dict(names) for names in registries]
    yield
    for names, known in zip(registries, before, strict=True):
        names.clear()
        names.update(known)
    sys.modules.pop("depth", None)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder outside the repository, with a copy of the example."""
    return shutil.copytree(ROOT / "examples" / "depth", tmp_path_factory.mktemp("user") / "depth")


@pytest.fixture(autouse=True)
def folder(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: empty except for the config; the module is on the path."""
    shutil.copy(home / "depth.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(home))
    return tmp_path


@pytest.fixture
def depth(folder: Path) -> ModuleType:
    return importlib.import_module("depth")


@pytest.fixture
def own_names(depth: ModuleType) -> Iterator[None]:
    """Undo a test's registrations of models, data sets and hooks, but keep the example's."""
    registries: list[dict[str, Any]] = [catalog._REGISTRY, data_sets._REGISTRY, _HOOKS]
    before = [dict(names) for names in registries]
    yield
    for names, known in zip(registries, before, strict=True):
        names.clear()
        names.update(known)


def scores_of(record: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in record.items() if name.startswith("scenes_test/")}


def records(out: Path = OUT) -> list[dict[str, float]]:
    """The lines of metrics.json without times."""
    lines = [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]
    return [{name: line[name] for name in line if not name.endswith("time")} for line in lines]


def final(out: Path = OUT, name: str = "model_final.pth") -> dict[str, Any]:
    return load_checkpoint(out / name)


def as_a_user(home: Path, *words: str, tool: str = "train_net") -> subprocess.CompletedProcess[str]:
    """Run the tool by its path, in the folder of the module."""
    return subprocess.run(
        [sys.executable, str(ROOT / "tools" / f"{tool}.py"), *words],
        cwd=home,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )


@pytest.mark.slow
def test_depth_is_imported_from_the_users_folder(home: Path) -> None:
    """By the command; the slow tests train in this way."""
    done = as_a_user(home, *SHORT, "--print-config")
    assert (done.returncode, done.stderr) == (0, "")
    assert "TASK: depth" in done.stdout


def test_depth_trains_with_two_workers_as_without(capfd: pytest.CaptureFixture[str]) -> None:
    words = [*SHORT, "TEST.EVAL_PERIOD=0", *NO_HOOKS]
    assert train_net.main([*words, "DATALOADER.NUM_WORKERS=2", "OUTPUT_DIR=two"]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert "data: scenes_train, 512 images of 3x32x32, 1 output\n" in out
    assert "scenes_test after 12 iterations: abs_rel " in out
    assert train_net.main(words) == 0
    assert_same_bits(final(Path("two"))["model"], final()["model"], "model")
    assert records(Path("two")) == records()


def test_depth_interrupted_by_a_signal_and_resumed_equals_the_uninterrupted_run(own_names: None) -> None:
    class Signal(HookBase):
        def after_step(self, trainer: Any) -> None:
            if trainer.iteration == 6 and not resuming:
                trainer.interrupt(15)

    words = [*SHORT, "SOLVER.EMA.ENABLED=true", "SOLVER.EMA.DECAY=0.5"]
    assert train_net.main([*words, "OUTPUT_DIR=whole"]) == 0
    resuming = False
    register_hook("signal", lambda cfg: Signal())
    with pytest.raises(Interrupted):
        train_net.main(words)
    assert final(name="model_0000006.pth")["iteration"] == 7  # the current iteration was finished
    assert not (OUT / "model_final.pth").exists()
    resuming = True
    assert train_net.main([*words, "--resume"]) == 0
    whole, resumed = final(Path("whole")), final()
    for part in ("model", "optimizer", "ema", "scheduler", "rng"):
        assert_same_bits(resumed[part], whole[part], part)
    assert records() == records(Path("whole"))
    assert {"scenes_test/abs_rel", "scenes_test/ema/abs_rel"} < {*records()[-1]}


def test_depth_evaluated_separately_gives_the_scores_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[str, float] = {}
    monkeypatch.setattr(run_evaluate, "log_scores", lambda scores, task: found.update(scores))
    assert train_net.main(SHORT) == 0
    assert train_net.main([*SHORT, "--eval-only", "--resume"]) == 0
    assert {*found} == {"scenes_test/abs_rel", "scenes_test/rmse", "scenes_test/delta1"}
    assert found == scores_of(records()[-1])


def test_depth_keeps_the_checkpoint_of_the_lowest_error_and_stops_early(depth: ModuleType) -> None:
    words = [*SHORT, "TEST.EARLY_STOPPING.PATIENCE=1", "TEST.EARLY_STOPPING.MIN_DELTA=100", "SOLVER.MAX_ITER=40"]
    assert train_net.main(words) == 0
    assert final()["iteration"] == 9  # the second evaluation, at 8, was no better; one more update ends the run
    assert final()["config"]["TEST"]["BEST"]["MODE"] == "min"
    errors = {r["iteration"]: r["scenes_test/abs_rel"] for r in records() if "scenes_test/abs_rel" in r}
    assert {*errors} == {4, 8, 9}
    assert final(name="model_best.pth")["iteration"] == min(errors, key=lambda iteration: errors[iteration])


def test_depth_in_the_plain_loop_gives_the_same_weights() -> None:
    assert train_net.main([*SHORT, *NO_HOOKS]) == 0
    assert plain_train_net.main([*SHORT, *NO_HOOKS]) == 0
    plain = torch.load(OUT / "plain_model_final.pth", weights_only=True)
    assert_same_bits(plain["model"], final()["model"], "model")


def test_the_learning_rate_finder_trains_depth(capsys: pytest.CaptureFixture[str]) -> None:
    assert find_lr.main([*SHORT, "SOLVER.IMS_PER_BATCH=8", "--iters", "40", "--max-lr", "1"]) == 0
    assert "the loss falls fastest at learning rate " in capsys.readouterr().out
    assert not OUT.exists()


class Flat(nn.Module):
    """One convolution: without BatchNorm, so that micro-batches do not matter."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, num_classes, kernel_size=3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        output: Tensor = self.conv(images)
        return output


def test_depth_micro_batches_add_up_to_the_batch(own_names: None) -> None:
    catalog.register_model("flat", Flat)
    words = [word for word in SHORT if "width" not in word] + ["MODEL.NAME=flat"]
    assert train_net.main(words) == 0
    assert train_net.main([*words, "SOLVER.GRAD_ACCUM_STEPS=2", "OUTPUT_DIR=parts"]) == 0
    for name, value in final()["model"].items():
        torch.testing.assert_close(final(Path("parts"))["model"][name], value, rtol=1e-4, atol=1e-6)
    for whole, parts in zip(records(), records(Path("parts")), strict=True):
        assert parts == pytest.approx(whole, rel=1e-4)


def test_depth_in_half_precision_computes_the_loss_in_float32(
    monkeypatch: pytest.MonkeyPatch, depth: ModuleType
) -> None:
    """A CPU without bf16 gives the same numbers, slowly."""
    monkeypatch.setattr(precision, "has_bf16", lambda device: True)
    types: list[torch.dtype] = []
    losses = depth.Depth.losses

    def spied(task: Any, forward: Any, batch: Batch) -> dict[str, Tensor]:
        types.append(forward(batch.images).dtype)
        found: dict[str, Tensor] = losses(task, forward, batch)
        return found

    monkeypatch.setattr(depth.Depth, "losses", spied)
    words = [*SHORT, "SOLVER.MAX_ITER=4", "SOLVER.AMP.ENABLED=true"]
    assert train_net.main(words) == 0
    assert {*types} == {torch.float32}
    assert math.isfinite(records()[-1]["scenes_test/abs_rel"])


class OwnLosses(Flat):
    """Computes its own losses in training, and takes the targets by name."""

    def forward(self, images: Tensor, targets: Tensor | None = None) -> Any:
        maps = self.conv(images)
        if not self.training:
            return maps
        assert targets is not None
        return {"loss_l1": (maps.exp() - targets).abs().mean(), "train/depth": targets.mean()}


def test_depth_trains_on_losses_that_the_model_returns(own_names: None) -> None:
    catalog.register_model("own_losses", OwnLosses)
    words = [word for word in SHORT if "width" not in word] + ["MODEL.NAME=own_losses", "SOLVER.MAX_ITER=6"]
    assert train_net.main(words) == 0
    (record,) = (record for record in records() if record["iteration"] == 3)
    assert {*record} == {"iteration", "total_loss", "loss_l1", "train/depth", "lr"}
    assert record["total_loss"] == record["loss_l1"]
    assert {*scores_of(records()[-1])} == {"scenes_test/abs_rel", "scenes_test/rmse", "scenes_test/delta1"}


class Coded(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """Images whose depth is their own brightness, from 1 to 255, so that any relative shift is detected."""

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        random = torch.Generator().manual_seed(index)
        image = torch.randint(1, 256, (1, 32, 32), generator=random, dtype=torch.uint8)
        return image, image.float()


@pytest.mark.parametrize(
    "transforms",
    [
        "[{RandomHorizontalFlip: {p: 0.5}}, {RandomVerticalFlip: {p: 0.5}}]",
        "[{RandomCrop: {size: 24, padding: 6}}]",
        "[{RandomRotation: {degrees: 90}}]",
        "[{RandomResizedCrop: {size: [16, 20], interpolation: 0}}, RandomHorizontalFlip]",
    ],
)
def test_depth_maps_are_transformed_with_their_image(transforms: str, own_names: None) -> None:
    info = DatasetInfo(size=16, num_classes=0, channels=1, image_size=(32, 32))
    data_sets.register_dataset("coded", lambda root, download: Coded(), info)
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.TASK", "depth", "DATASETS.TRAIN", "coded", "DATALOADER.NUM_WORKERS", 0])
    cfg.merge_from_list(["INPUT.TRANSFORMS_TRAIN", transforms, "SOLVER.IMS_PER_BATCH", 16])
    batch = next(build_train_loader(cfg, build_task(cfg)).batches())
    assert batch.targets.shape == batch.images.shape
    assert torch.equal((batch.images * 255).round(), batch.targets)
    corners = {target[0, 0, 0].item() for target in batch.targets}
    assert corners != {Coded()[index][1][0, 0, 0].item() for index in range(16)}


def test_depth_loss_of_two_known_pixels(depth: ModuleType) -> None:
    """One of unknown depth beside them. Off by 1 and 3: 5 - 4 weight; both by 2: 4 - 4 weight."""
    info = DatasetInfo(size=1, num_classes=0, channels=3, image_size=(1, 3))
    batch = Batch(torch.zeros(1, 3, 1, 3), torch.tensor([[[[1.0, 1.0, 0.0]]]]))
    for weight, apart, even in ((0.0, 5.0, 4.0), (0.5, 3.0, 2.0), (1.0, 1.0, 0.0)):
        task = depth.Depth(info, variance_weight=weight)
        for logs, loss in (([1.0, 3.0, 9.0], apart), ([2.0, 2.0, 9.0], even)):
            found = task.losses(lambda images, logs=logs: torch.tensor([[[logs]]]), batch)
            assert {name: value.item() for name, value in found.items()} == {"loss_depth": loss, "train/bias": 2.0}


def test_depth_scores_of_three_known_pixels(depth: ModuleType) -> None:
    """Depth 2, 4 and 1 predicted as 3, 4 and 1.1, and a pixel of unknown depth."""
    scores = depth.DepthScores()
    assert scores.state() is None
    scores.update(torch.tensor([[[[3.0, 4.0, 1.1, 7.0]]]]), torch.tensor([[[[2.0, 4.0, 1.0, 0.0]]]]))
    expected = {"abs_rel": (0.5 + 0.1) / 3, "rmse": math.sqrt((1 + 0.01) / 3), "delta1": 2 / 3}
    assert scores.compute() == pytest.approx(expected, rel=1e-6)


def test_depth_scores_of_several_ranks_equal_one_process_to_the_bit(depth: ModuleType) -> None:
    random = torch.Generator().manual_seed(0)
    batches = [tuple(torch.rand(5, 1, 8, 8, generator=random) + 0.1 for _ in range(2)) for _ in range(7)]
    whole, ranks = depth.DepthScores(), [depth.DepthScores() for _ in range(3)]
    for number, batch in enumerate(batches):
        whole.update(*batch)
        ranks[number % 2].update(*batch)  # the third one has none
    states = [rank.state() for rank in ranks if rank.state() is not None]
    assert len(states) == 2
    merged = depth.DepthScores()
    merged.merge(states)
    assert merged.compute() == whole.compute()


def test_depth_draws_the_prediction_beside_the_image(depth: ModuleType) -> None:
    task = depth.Depth(DatasetInfo(size=1, num_classes=0, channels=3, image_size=(4, 4)))
    image = torch.full((3, 4, 4), 7, dtype=torch.uint8)
    prediction = torch.full((1, 4, 4), 4.0)
    prediction[:, :2] = 1.0
    drawn = task.draw(image, prediction)
    assert (drawn.dtype, drawn.shape) == (torch.uint8, (3, 4, 8))
    assert torch.equal(drawn[:, :, :4], image)
    assert drawn[:, 0, 4].tolist() == [253, 231, 36]  # viridis ends in yellow
    assert drawn[:, 3, 7].tolist() == [68, 1, 84]  # and begins in violet


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["MODEL.TASK_ARGS.variance_weight=2"],
            "MODEL.TASK_ARGS.variance_weight: expected 0 to 1; got 2",
        ),
        (
            ["MODEL.TASK_ARGS.variance_wieght=0.5"],
            "MODEL.TASK_ARGS.variance_wieght (command line): depth takes no argument 'variance_wieght'; did you"
            " mean 'variance_weight'? It takes: variance_weight",
        ),
        (["MODEL.NUM_CLASSES=3"], "MODEL.NUM_CLASSES: depth is one output of the model; leave it at 0"),
        (["MODEL.STEM=small"], "MODEL.STEM (command line): MODEL.TASK depth does not read it; leave it out"),
        (
            ["INPUT.TRANSFORMS_TRAIN=[{MixUp: {}}]"],
            "INPUT.TRANSFORMS_TRAIN (command line): MixUp mixes class indices, which MODEL.TASK depth does not"
            " have",
        ),
        (
            ["TEST.BEST.METRIC=scenes_test/absrel"],
            "TEST.BEST.METRIC (command line): no evaluation gives the score 'scenes_test/absrel'; did you mean"
            " scenes_test/abs_rel? Known: scenes_test/abs_rel, scenes_test/rmse, scenes_test/delta1",
        ),
        (
            ["TEST.BEST.MODE=max"],
            "TEST.BEST.MODE (command line): max would keep the checkpoint of the highest scenes_test/abs_rel;"
            " set it",
        ),
        (
            ["DATALOADER.SAMPLER_TRAIN=WeightedTrainingSampler"],
            "DATALOADER.SAMPLER_TRAIN (command line): WeightedTrainingSampler needs the class of each"
            " sample, but the training set has ",
        ),
        (
            ["DATALOADER.BACKEND=resident"],
            "DATALOADER.BACKEND (command line): resident is not possible: MODEL.TASK depth loads sample by sample",
        ),
        (
            ["MODEL.TASK=dept"],
            "MODEL.TASK (command line): no task is called 'dept'; did you mean 'depth'? Known: ",
        ),
    ],
)
def test_depth_mistakes_are_reported_in_one_sentence(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        run_tool(functools.partial(train_net.main, [*SHORT, *words]))
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {message}"), said
    assert said.count("\n") == 1
    assert not OUT.exists()


def test_depth_refuses_a_map_of_another_size_with_its_sample(depth: ModuleType) -> None:
    task = depth.Depth(DatasetInfo(size=1, num_classes=0, channels=3, image_size=(4, 4)))
    sample = task.sample(torch.zeros(3, 4, 4, dtype=torch.uint8), torch.ones(1, 4, 5))
    message = r"^a: sample 7 has depth of shape \(1, 4, 5\); its image needs \(1, 4, 4\)$"
    with pytest.raises(ConfigError, match=message):
        task.check(sample, "a: sample 7")


FLAT = """

register_model("flat", lambda num_classes, in_channels: nn.Conv2d(in_channels, num_classes, 3, padding=1))
"""


@pytest.mark.slow
def test_depth_on_two_ranks_trains_and_scores_as_on_one(home: Path, folder: Path) -> None:
    """Without BatchNorm, whose statistics differ between ranks, gradients differ by rounding alone."""
    (folder / "depth.py").write_text((home / "depth.py").read_text() + FLAT)
    words = [word for word in SHORT if "width" not in word] + ["MODEL.NAME=flat"]
    for more in (["OUTPUT_DIR=one"], ["OUTPUT_DIR=two", "--num-gpus=2"]):
        done = as_a_user(folder, *words, *more)
        assert done.returncode == 0, done.stderr
    for one, two in zip(records(folder / "one"), records(folder / "two"), strict=True):
        assert two == pytest.approx(one, rel=1e-4)
    said = [
        as_a_user(folder, *words, "OUTPUT_DIR=two", "--eval-only", "--resume", *more).stdout
        for more in ([], ["--num-gpus=2"])
    ]
    scores = [text[text.index("scenes_test: ") :] for text in said]
    assert scores[0] == scores[1]


@pytest.mark.slow
def test_depth_killed_and_resumed_ends_with_the_bits_of_the_uninterrupted_run(home: Path, folder: Path) -> None:
    words = [*SHORT, "SOLVER.CHECKPOINT_PERIOD=5", "SOLVER.MAX_ITER=20"]
    shutil.copy(home / "depth.py", folder)
    assert as_a_user(folder, *words, "OUTPUT_DIR=whole").returncode == 0
    (folder / "depth.py").write_text((home / "depth.py").read_text() + KILL)
    killed = as_a_user(folder, *words)
    assert killed.returncode == -9, killed.stderr
    shutil.copy(home / "depth.py", folder)
    resumed = as_a_user(folder, *words, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    for part in ("model", "optimizer", "rng"):
        assert_same_bits(final(folder / "out")[part], final(folder / "whole")[part], part)
    assert records(folder / "out") == records(folder / "whole")


KILL = """

import os
import signal

from warmstart.engine import HookBase, register_hook


class Kill(HookBase):
    def after_step(self, trainer):
        if trainer.iteration == 13:
            os.kill(os.getpid(), signal.SIGKILL)


register_hook("kill", lambda cfg: Kill())
"""


@pytest.mark.slow
def test_depth_reaches_its_score(home: Path) -> None:
    done = as_a_user(home, *EXAMPLE, "OUTPUT_DIR=full")
    assert done.returncode == 0, done.stderr
    assert min(record.get("scenes_test/abs_rel", 1.0) for record in records(home / "full")) < 0.055
