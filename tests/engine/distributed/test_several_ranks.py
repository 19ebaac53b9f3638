"""Features of one process on several ranks, supported or refused in one sentence."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from warmstart.config import CfgNode, ConfigError
from warmstart.engine import (
    HookBase,
    Trainer,
    load_checkpoint,
    rank,
    register_hook,
    resolve_config,
    scaled,
)
from warmstart.engine.run.default_hooks import _HOOKS
from warmstart.modeling import register_model
from warmstart.modeling.catalog import _REGISTRY
from warmstart.tools import train_net

from ..ranks import Ended, trained

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="forks this process, which may have used the GPU"
)

Tiny = Callable[..., CfgNode]
WithModel = Callable[[Callable[[], nn.Module]], list[str]]


def codes(ended: list[Ended]) -> list[int]:
    return [each.code for each in ended]


def test_profiler_writes_on_rank_0_alone(tiny_words: list[str], tmp_path: Path) -> None:
    words = [*tiny_words, "PROFILER.START=3", "PROFILER.ITERS=4"]
    main, other = trained(tmp_path, 2, words)
    assert (main.code, other.code, other.out, other.err) == (0, 0, "", "")
    assert "saved a profile up to iteration 7 in " in main.out
    assert len([*(tmp_path / "out" / "profile").iterdir()]) == 1


def test_eval_only_runs_on_a_world_size_that_does_not_divide_the_batch(
    tiny_words: list[str], tmp_path: Path
) -> None:
    """Neither the batch of an update nor its micro-batches matter to an evaluation."""
    assert train_net.main([*tiny_words, "SOLVER.MAX_ITER=5", "SOLVER.STEPS=3"]) == 0
    words = [*tiny_words, "SOLVER.GRAD_ACCUM_STEPS=5", "--eval-only", "--resume"]
    main, *others = trained(tmp_path, 3, words)
    assert codes([main, *others]) == [0, 0, 0], main.err
    assert ": accuracy " in main.out


@pytest.mark.parametrize(
    ("words", "ranks", "sentence"),
    [
        (
            ["SOLVER.IMS_PER_BATCH=64"],
            2,
            "SOLVER.IMS_PER_BATCH (command line): 64 images for 3 processes (SOLVER.REFERENCE_WORLD_SIZE) are 43 "
            "for 2, which cannot be shared evenly by 2 processes; set it to 63 or 66",
        ),
        (
            ["SOLVER.IMS_PER_BATCH=2", "SOLVER.GRAD_ACCUM_STEPS=2"],
            2,
            "SOLVER.IMS_PER_BATCH (command line): 2 images for 3 processes (SOLVER.REFERENCE_WORLD_SIZE) are 1 "
            "for 2, which cannot be shared evenly by 2 processes, in 2 micro-batches each; set it to 6",
        ),
        (
            ["SOLVER.IMS_PER_BATCH=64", "SOLVER.GRAD_ACCUM_STEPS=2"],
            1,
            "SOLVER.GRAD_ACCUM_STEPS (command line): 64 images for 3 processes (SOLVER.REFERENCE_WORLD_SIZE) are "
            "21 for 1, which cannot be cut into 2 equal micro-batches; set SOLVER.GRAD_ACCUM_STEPS to 1 or 3, or "
            "SOLVER.IMS_PER_BATCH to 61 or 65",
        ),
    ],
)
def test_resolve_config_names_a_scaled_batch_as_the_user_wrote_it(
    tiny: Tiny, words: list[str], ranks: int, sentence: str
) -> None:
    cfg = tiny("SOLVER.REFERENCE_WORLD_SIZE", 3)
    cfg.merge_from_list(words, "command line")
    with pytest.raises(ConfigError) as error:
        resolve_config(scaled(cfg, ranks), ranks, given=cfg)
    assert str(error.value) == sentence
    for images in (number for number in re.findall(r"\d+", sentence.rpartition(" to ")[2])):
        cfg.merge_from_list(["SOLVER.IMS_PER_BATCH", images])
        resolve_config(scaled(cfg, ranks), ranks, given=cfg)


def test_launch_refuses_a_scaled_batch_for_training_but_not_for_eval_only(
    tiny_words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*tiny_words, "SOLVER.REFERENCE_WORLD_SIZE=3", "SOLVER.IMS_PER_BATCH=64", "--num-gpus", "2"]
    words += ["MODEL.DEVICE=cpu"]
    with pytest.raises(ConfigError, match=r"64 images for 3 processes .* set it to 63 or 66$"):
        train_net.main(words)
    started: list[object] = []

    def run(agent: object) -> SimpleNamespace:
        started.append(agent)
        return SimpleNamespace(is_failed=lambda: False)

    monkeypatch.setattr("warmstart.engine.distributed.elastic_agent.Agent.run", run)
    assert train_net.main([*words, "--eval-only", "MODEL.WEIGHTS=none.pth"]) == 0
    assert len(started) == 1


@pytest.fixture
def with_model(tiny_words: list[str]) -> Iterator[WithModel]:
    """Registers a model for the ranks forked during the test; returns the words of a run that trains it."""

    def register(make: Callable[[], nn.Module]) -> list[str]:
        register_model("own", lambda num_classes, in_channels: make())
        return [*(word for word in tiny_words if not word.startswith("MODEL.ARGS")), "MODEL.NAME=own"]

    yield register
    _REGISTRY.pop("own", None)


def test_frozen_model_is_refused_once_on_two_ranks(with_model: WithModel, tmp_path: Path) -> None:
    words = with_model(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).requires_grad_(False))
    main, other = trained(tmp_path, 2, words)
    assert (main.code, other.code, other.err) == (2, 2, "")
    assert main.err == "error: the model has no parameter to train: all are frozen, or there are none\n"


class Branches(nn.Module):
    """Uses one of its layers, depending on the mean of its images, or never the second one."""

    def __init__(self, varies: bool) -> None:
        super().__init__()
        self.varies = varies
        self.first, self.second = nn.Linear(64, 3), nn.Linear(64, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pixels = images.flatten(1)
        layer = self.second if self.varies and pixels[0].mean() > 0 else self.first
        logits: torch.Tensor = layer(pixels)
        return logits


UNUSED = (
    "DISTRIBUTED.UNUSED_PARAMETERS: parameters got no gradient in this update (second.weight, second.bias), and "
    "the other processes wait for them; set it to true"
)


@pytest.mark.parametrize(
    ("words", "advice"),
    [([], ", or, if they never get one, DISTRIBUTED.STATIC_GRAPH"), (["SOLVER.GRAD_ACCUM_STEPS=2"], "")],
)
def test_parameters_without_gradient_are_refused_once_before_any_update(
    with_model: WithModel, tmp_path: Path, words: list[str], advice: str
) -> None:
    main, other = trained(tmp_path, 2, [*with_model(lambda: Branches(varies=False)), *words])
    assert (main.code, other.code, other.err) == (2, 2, "")
    assert main.err == f"error: {UNUSED}{advice}\n"
    assert (tmp_path / "out" / "log.txt").read_text().count(UNUSED) == 1
    assert not (tmp_path / "out" / "last_checkpoint").exists()


def test_parameters_without_gradient_on_one_rank_are_printed_by_that_rank(
    with_model: WithModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("warmstart.engine.distributed.ddp._LAG", 0.5)

    class OnOne(Branches):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            both = super().forward(images)
            return both + self.second(images.flatten(1)) if rank() == 0 else both

    main, other = trained(tmp_path, 2, with_model(lambda: OnOne(varies=False)))
    assert (main.code, other.code) == (5, 2)
    assert other.err == f"error: rank 1: {UNUSED}, or, if they never get one, DISTRIBUTED.STATIC_GRAPH\n"


@pytest.mark.parametrize("steps", [1, 2])
def test_unused_parameters_trains_varying_branches_as_one_process_does(
    with_model: WithModel, tmp_path: Path, steps: int
) -> None:
    """With accumulation a parameter may get its gradient in an earlier micro-batch only."""
    words = [*with_model(lambda: Branches(varies=True)), "INPUT.TRANSFORMS_TRAIN=[]", "SOLVER.WEIGHT_DECAY=0.01"]
    one = [f"OUTPUT_DIR={tmp_path}/one", f"SOLVER.GRAD_ACCUM_STEPS={2 * steps}"]
    assert train_net.main([*words, *one]) == 0
    words += [f"SOLVER.GRAD_ACCUM_STEPS={steps}", "DISTRIBUTED.UNUSED_PARAMETERS=true"]
    ended = trained(tmp_path, 2, words)
    assert codes(ended) == [0, 0], ended
    ours, theirs = (load_checkpoint(tmp_path / name / "model_final.pth")["model"] for name in ("out", "one"))
    assert {name: tensor.shape for name, tensor in ours.items()} == {n: t.shape for n, t in theirs.items()}
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-5, atol=1e-6)


def test_static_graph_refuses_unused_parameters(tiny: Tiny) -> None:
    cfg = tiny("DISTRIBUTED.STATIC_GRAPH", True, "DISTRIBUTED.UNUSED_PARAMETERS", True)
    with pytest.raises(ConfigError) as error:
        resolve_config(cfg, 2)
    assert str(error.value) == (
        "DISTRIBUTED.UNUSED_PARAMETERS (override): with DISTRIBUTED.STATIC_GRAPH torch finds once which "
        "parameters get no gradient; set one of the two to false"
    )


class Puts(HookBase):
    """Puts a scalar, and a name to save under, every so many updates on one rank; called after each update."""

    def __init__(self, label: str, updates: int, rank: int) -> None:
        self.label, self.updates, self.rank = label, updates, rank

    @property
    def name(self) -> str:
        return self.label

    def put(self, trainer: Trainer, iteration: int) -> None:
        if iteration % self.updates == 0 and rank() == self.rank:
            trainer.scalars[self.label] = float(iteration)
            trainer.save_as.add(f"{self.label}.pth")

    def after_step(self, trainer: Trainer) -> None:
        self.put(trainer, trainer.iteration)


class PutsWhenDue(Puts):
    def __init__(self, label: str, updates: int, rank: int) -> None:
        super().__init__(label, updates, rank)
        self.period = updates


class PutsBefore(Puts):
    """Puts it before the update is done."""

    after_step = HookBase.after_step

    def before_step(self, trainer: Trainer) -> None:
        self.put(trainer, trainer.iteration + 1)


@pytest.mark.parametrize(
    ("hooks", "found", "saved"),
    [
        (
            [PutsWhenDue("a", 3, rank=0), PutsWhenDue("b", 3, rank=1), PutsBefore("c", 4, rank=0)],
            [
                (3, {"a": 3}),
                (5, {"c": 4}),
                (6, {"a": 6}),
                (9, {"a": 9, "c": 8}),
                (10, {}),
                (12, {"a": 12, "c": 12}),
                (14, {}),
            ],
            12,
        ),
        (
            [Puts("a", 3, rank=0), Puts("b", 3, rank=1), Puts("c", 4, rank=0)],
            [(5, {"a": 3, "c": 4}), (7, {"a": 6}), (10, {"a": 9, "c": 8}), (14, {"a": 12, "c": 12})],
            14,
        ),
    ],
)
def test_scalars_and_names_to_save_under_count_on_rank_0_when_a_hook_with_a_period_is_due(
    tiny_words: list[str], tmp_path: Path, hooks: list[Puts], found: list[Any], saved: int
) -> None:
    """A record is due every 5 updates, a checkpoint every 7; nothing depends on the clock."""
    for hook in hooks:
        register_hook(hook.label, lambda cfg, hook=hook: hook)  # type: ignore[misc]
    try:
        ended = trained(tmp_path, 2, [*tiny_words, "SOLVER.CHECKPOINT_PERIOD=7"])
    finally:
        for hook in hooks:
            _HOOKS.pop(hook.label)
    assert codes(ended) == [0, 0], ended
    out = tmp_path / "out"
    records = [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]
    named = [(r["iteration"], {name: r[name] for name in ("a", "b", "c") if name in r}) for r in records]
    assert named == found
    iterations = {path.name: load_checkpoint(path)["iteration"] for path in out.glob("?.pth")}
    assert iterations == {"a.pth": saved, "c.pth": saved}
    assert load_checkpoint(out / "model_0000006.pth")["hooks"]["trainer"]["scalars"] == {}
