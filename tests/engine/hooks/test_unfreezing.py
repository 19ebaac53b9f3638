"""Runs with MODEL.FREEZE: equal to loops by hand, to themselves after a resume, and on several ranks."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from warmstart.config import CfgNode, ConfigError, get_cfg
from warmstart.data import build_train_loader
from warmstart.engine import (
    HookBase,
    Interrupted,
    Trainer,
    build_trainer,
    evaluate_only,
    find_lr,
    load_checkpoint,
    resolve_config,
    train,
)
from warmstart.engine.distributed.fsdp import SHARDS_ON_CPU
from warmstart.engine.distributed.strategy import with_sync_bn
from warmstart.modeling import build_model
from warmstart.tasks import build_task
from warmstart.tools import plain_train_net

from ...conftest import tiny_overrides
from ..dying import assert_same_bits
from ..ranks import trained

Tiny = Callable[..., CfgNode]

ROOT = Path(__file__).parent.parent.parent.parent
FROZEN = ["MODEL.FREEZE", ["^block"]]
UNFREEZING = [
    "MODEL.FREEZE",
    [{"MATCH": r"^block3", "UNTIL": 5}, {"MATCH": "^block2", "UNTIL": "1.5ep"}, "^block"],
]
ADAMW = ["SOLVER.OPTIMIZER", "AdamW", "SOLVER.MOMENTUM", 0, "SOLVER.BASE_LR", 0.01]
CONSTANT = ["SOLVER.STEPS", "()", "SOLVER.WARMUP_ITERS", 0]
# One weight decay for all.
DECAY = ["SOLVER.WEIGHT_DECAY", 0.05, "SOLVER.WEIGHT_DECAY_NORM", 0.05, "SOLVER.WEIGHT_DECAY_BIAS", 0.05]


def by_hand(cfg: CfgNode, opened: dict[int, list[str]]) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Train as a script does: requires_grad and eval() by hand, and a parameter group for each opened block.

    Args:
        cfg: resolved; MODEL.FREEZE is not read.
        opened: names of modules that begin to train, by the number of completed updates.
    """
    torch.manual_seed(cfg.SEED)
    plain = cfg.clone()
    plain.defrost()
    plain.MODEL["FREEZE"] = ()
    model: Any = build_model(plain)
    blocks = ["block1", "block2", "block3"]
    for name in blocks:
        model.get_submodule(name).requires_grad_(False).eval()
    sgd = cfg.SOLVER.OPTIMIZER == "SGD"
    kind: Any = torch.optim.SGD if sgd else torch.optim.AdamW
    options = {"lr": cfg.SOLVER.BASE_LR, "weight_decay": 0.05, "fused": True} | ({"momentum": 0.9} if sgd else {})
    optimizer = kind(model.fc.parameters(), **options)
    batches = build_train_loader(cfg, build_task(cfg)).batches()
    for iteration in range(cfg.SOLVER.MAX_ITER):
        for name in opened.get(iteration, ()):
            module = model.get_submodule(name).requires_grad_(True).train()
            optimizer.add_param_group({"params": list(module.parameters())})
        images, targets = next(batches)
        optimizer.zero_grad()
        F.cross_entropy(model(images), targets).backward()
        optimizer.step()
    return model, optimizer


@pytest.mark.parametrize("optimizer", [["SOLVER.BASE_LR", 0.05], ADAMW], ids=["sgd", "adamw"])
@pytest.mark.parametrize(
    ("freezing", "opened"), [(FROZEN, {}), (UNFREEZING, {5: ["block3"], 9: ["block2"]})], ids=["frozen", "until"]
)
def test_a_run_with_frozen_parameters_equals_a_loop_by_hand_to_the_bit(
    tiny: Tiny, freezing: list[Any], opened: dict[int, list[str]], optimizer: list[Any]
) -> None:
    cfg = tiny(*freezing, *optimizer, *CONSTANT, *DECAY, "DATASETS.TEST", [])
    hand, by_name = by_hand(resolve_config(cfg), opened)
    trainer = train(cfg)
    assert trainer is not None
    assert_same_bits(dict(trainer.model.state_dict()), dict(hand.state_dict()))
    names = {parameter: name for name, parameter in trainer.model.named_parameters()}
    state = {names[parameter]: {**state} for parameter, state in trainer.optimizer.state.items()}
    expected = {name: {**by_name.state[parameter]} for name, parameter in hand.named_parameters()}
    assert {*state} == {name for name, entries in expected.items() if entries}
    for name, entries in state.items():
        assert_same_bits(entries, {key: expected[name][key] for key in entries}, name)


def test_optimizer_groups_hold_parameters_that_train_and_state_only_from_then_on(tiny: Tiny) -> None:
    trainer = build_trainer(tiny(*UNFREEZING))
    names = {name for group in trainer.optimizer.param_groups for name in group["param_names"]}
    assert {name.partition(".")[0] for name in names} == {"block2", "block3", "fc"}
    model: Any = trainer.model
    assert {*trainer.optimizer.state} == {*model.fc.parameters()}  # momentum, which torch's fused SGD needs
    weight = model.block3[0].weight.clone()
    trainer.max_iter = 5
    trainer.train()
    assert {*trainer.optimizer.state} == {*model.fc.parameters()}
    assert torch.equal(model.block3[0].weight, weight)


def test_evaluation_precise_bn_and_the_average_keep_frozen_statistics(tiny: Tiny) -> None:
    words = ["TEST.EVAL_PERIOD", 2, "TEST.PRECISE_BN", {"ENABLED": True, "NUM_ITER": 2}]
    words += ["SOLVER.EMA.ENABLED", True, "SOLVER.EMA.DECAY", 0.5]
    before = build_trainer(tiny(*UNFREEZING)).model.state_dict()
    trainer = train(tiny(*UNFREEZING, *words))
    assert trainer is not None
    assert trainer.ema is not None
    for model in (trainer.model, trainer.ema.model):
        state = model.state_dict()
        changed = {name[:6] for name in state if "running" in name and not torch.equal(state[name], before[name])}
        assert changed == {"block2", "block3"}
        assert [name for name, each in model.named_modules() if not each.training and len(name) < 7] == ["block1"]


class Modes(HookBase):
    """Keeps which blocks are in training mode in each update."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def after_backward(self, trainer: Trainer) -> None:
        names = ("block1", "block2", "block3", "fc")
        self.seen.append("".join(str(int(trainer.model.get_submodule(name).training)) for name in names))


@pytest.mark.parametrize("words", [[], ["TEST.EVAL_PERIOD", 1], ["SOLVER.GRAD_ACCUM_STEPS", 2]])
def test_blocks_are_in_training_mode_from_the_update_on_in_which_they_train(tiny: Tiny, words: list[Any]) -> None:
    modes = Modes()
    train(tiny(*UNFREEZING, *words), hooks=[modes])
    assert modes.seen == ["0001"] * 5 + ["0011"] * 4 + ["0111"] * 5


@pytest.mark.parametrize(
    ("optimizer", "places"),
    [
        (["SOLVER.BASE_LR", 0.05], (5, 9)),
        pytest.param(["SOLVER.BASE_LR", 0.05], (1, 4, 6, 8, 10), marks=pytest.mark.slow),
        pytest.param(ADAMW, (4, 5, 6, 9, 10), marks=pytest.mark.slow),
    ],
    ids=["sgd", "sgd-more", "adamw"],
)
def test_a_run_resumed_at_any_update_equals_the_unbroken_one(
    tiny: Tiny, tmp_path: Path, optimizer: list[Any], places: tuple[int, ...]
) -> None:
    words = [*UNFREEZING, *optimizer, "SOLVER.CHECKPOINT_PERIOD", 1, "SOLVER.EMA.ENABLED", True]
    words += ["TEST.EVAL_PERIOD", 5, "TEST.PRECISE_BN", {"ENABLED": True, "NUM_ITER": 2}]
    train(tiny(*words))
    whole = load_checkpoint(tmp_path / "out" / "model_final.pth")
    for done in places:
        folder = tmp_path / f"from{done}"
        resumed = tmp_path / "out" / f"model_{done - 1:07d}.pth"
        train(tiny(*words, "OUTPUT_DIR", str(folder)), resume=str(resumed))
        again = load_checkpoint(folder / "model_final.pth")
        for part in ("model", "ema", "optimizer", "scheduler", "rng"):
            assert_same_bits(again[part], whole[part], f"{done}: {part}")


class SignalIn(HookBase):
    """A signal that comes during an update, so that the evaluation after it is left to the resumed run."""

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def before_step(self, trainer: Trainer) -> None:
        if trainer.iteration == self.iteration:
            trainer.interrupt(15)


def test_an_evaluation_that_a_resumed_run_catches_up_on_comes_before_unfreezing(
    tiny: Tiny, tmp_path: Path
) -> None:
    words = [*UNFREEZING, "TEST.EVAL_PERIOD", 5, "TEST.PRECISE_BN", {"ENABLED": True, "NUM_ITER": 2}]
    train(tiny(*words, "OUTPUT_DIR", str(tmp_path / "whole")))
    with pytest.raises(Interrupted):
        train(tiny(*words), hooks=[SignalIn(4)])
    train(tiny(*words), resume="")
    whole, cut = (load_checkpoint(tmp_path / name / "model_final.pth") for name in ("whole", "out"))
    for part in ("model", "optimizer", "rng"):
        assert_same_bits(cut[part], whole[part], part)


@pytest.mark.parametrize("last", [5, 6])  # before block3 trains, and after its first update
def test_eval_only_recomputes_the_statistics_that_the_run_did(
    tiny: Tiny, tmp_path: Path, last: int, logged: list[Any]
) -> None:
    words = [*UNFREEZING, "SOLVER.MAX_ITER", last, "TEST.PRECISE_BN", {"ENABLED": True, "NUM_ITER": 2}]
    train(tiny(*words, "SOLVER.STEPS", "()"))
    lines = [record.getMessage() for record in logged if record.getMessage().startswith("noise")]
    logged.clear()
    evaluate_only(tiny(*words, "SOLVER.STEPS", "()"), resume="")
    again = [record.getMessage() for record in logged if record.getMessage().startswith("noise")]
    assert [line.partition(": ")[2] for line in again] == [line.partition(": ")[2] for line in lines]


@pytest.mark.parametrize("freezing", [FROZEN, UNFREEZING], ids=["frozen", "until"])
def test_the_plain_loop_ends_with_the_same_weights(
    tiny: Tiny, tiny_words: list[str], tmp_path: Path, freezing: list[Any]
) -> None:
    train(tiny(*freezing))
    plain = tmp_path / "plain"
    assert plain_train_net.main([*tiny_words, f"MODEL.FREEZE={freezing[1]}", f"OUTPUT_DIR={plain}"]) == 0
    ours, theirs = (
        load_checkpoint(tmp_path / "out" / "model_final.pth")["model"],
        torch.load(plain / "plain_model_final.pth", weights_only=True)["model"],
    )
    assert_same_bits({**theirs}, {**ours})


def test_find_lr_trains_what_the_first_update_trains(tiny: Tiny) -> None:
    trainer = build_trainer(tiny(*UNFREEZING))
    seen: list[list[bool]] = []

    def forward(module: nn.Module, inputs: Any) -> None:
        seen.append([module.get_submodule(name).training for name in ("block3", "fc")])

    trainer.model.register_forward_pre_hook(forward)
    batch = next(trainer.data_loader.batches())  # type: ignore[attr-defined]  # one, on which the loss surely falls
    find_lr(trainer.model, trainer.optimizer, [batch] * 30, trainer.task, min_lr=1e-3, max_lr=10.0, iters=30)
    assert {tuple(each) for each in seen} == {(False, True)}


@pytest.mark.parametrize(
    "words",
    [
        ["MODEL.ACTIVATION_CHECKPOINTING", ["^block"]],
        ["SOLVER.CLIP_GRADIENTS", {"ENABLED": True, "CLIP_TYPE": "full_model"}],
        ["SOLVER.OPTIMIZER", "Muon", "SOLVER.MOMENTUM", 0.95, "SOLVER.BASE_LR", 0.005],
        ["SOLVER.OPTIMIZER", "Rprop", "SOLVER.MOMENTUM", 0, "SOLVER.WEIGHT_DECAY", 0],
        ["SOLVER.NAN_POLICY", "skip"],
        ["SOLVER.AMP.ENABLED", True, "SOLVER.AMP.PRECISION", "fp16"],
        pytest.param(["MODEL.COMPILE", "default"], marks=pytest.mark.slow),
    ],
    ids=lambda words: words[0].rpartition(".")[2] + str(words[1])[:5],
)
def test_freezing_works_with_other_keys(tiny: Tiny, words: list[Any]) -> None:
    before = build_trainer(tiny(*UNFREEZING, *words)).model.state_dict()
    trainer = train(tiny(*UNFREEZING, *words))
    assert trainer is not None
    after = trainer.model.state_dict()
    changed = {name.partition(".")[0] for name in after if not torch.equal(after[name], before[name])}
    assert changed == {"block2", "block3", "fc"}


def test_layer_decay_keeps_the_rates_of_layers_that_train() -> None:
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.NAME", "resnet18", "SOLVER.LAYER_DECAY", 0.5, "SOLVER.BASE_LR", 0.8])
    cfg.merge_from_list(["MODEL.FREEZE", [{"MATCH": "^layer4.0", "UNTIL": 3}, "^(?!fc|layer4)"]])
    trainer = build_trainer(cfg)
    rates = {
        each: group["initial_lr"] for group in trainer.optimizer.param_groups for each in group["param_names"]
    }
    assert [rates[name] for name in ("fc.weight", "layer4.1.conv1.weight", "layer4.0.conv1.weight")] == [
        0.8,
        0.4,
        0.2,
    ]
    assert {name.partition(".")[0] for name in rates} == {"fc", "layer4"}


def test_the_log_says_how_many_values_train(tiny: Tiny, logged: list[Any]) -> None:
    train(tiny(*UNFREEZING, "SOLVER.MAX_ITER", 9, "SOLVER.STEPS", "()"))
    lines = [record.getMessage() for record in logged if "train (MODEL.FREEZE)" in record.getMessage()]
    assert lines == [
        "model: 51 of 1,583 values train (MODEL.FREEZE); 1,184 more from iteration 5 on; 304 more from iteration 9"
        " on, which the run does not reach",
        "iteration 5: 1,184 more values train (MODEL.FREEZE)",
    ]


def test_resume_refuses_other_frozen_parameters(tiny: Tiny) -> None:
    train(tiny(*FROZEN, "SOLVER.MAX_ITER", 10, "SOLVER.STEPS", "()"))
    changed = tiny("MODEL.FREEZE", ["^block1"])
    with pytest.raises(
        ConfigError, match=r"this is not the run that wrote the checkpoint: MODEL.FREEZE: .*\^block'.*\^block1"
    ):
        train(changed, resume="")
    with pytest.raises(
        ConfigError,
        match="^the checkpoint does not fit this model and optimizer: the optimizer has no saved state for"
        " block2.0.weight, block2.1.bias, block2.1.weight and 3 more; keep MODEL.FREEZE and the"
        " model as they were, or start a new run with MODEL.WEIGHTS FILE and another OUTPUT_DIR$",
    ):
        train(changed, resume="", allow_config_change=True)


def test_a_resume_may_move_until(tiny: Tiny) -> None:
    first, later = ([{"MATCH": "^block", "UNTIL": until}] for until in (5, 12))
    train(tiny("MODEL.FREEZE", first, "SOLVER.MAX_ITER", 8, "SOLVER.STEPS", "()"))
    modes = Modes()
    train(tiny("MODEL.FREEZE", later), resume="", hooks=[modes])
    assert modes.seen == ["0001"] * 4 + ["1111"] * 2


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            "fc(",
            "entry 1, MATCH 'fc(': is not a regular expression: missing ), unterminated subpattern at position 2",
        ),
        ([""], "entry 1, MATCH '': is empty and matches everything; write '.' if that is intended"),
        ("^head", "entry 1, MATCH '^head': matches no trainable parameter; the nearest names are "),
        (
            ".",
            r"freezes every parameter in the first update, so nothing would train; leave out the last layer, fc:",
        ),
    ],
)
def test_train_refuses_freezing_before_it_touches_the_folder(
    tiny: Tiny, tmp_path: Path, value: Any, message: str
) -> None:
    with pytest.raises(ConfigError, match=rf"^MODEL.FREEZE \(override\): {re.escape(message)}"):
        train(tiny("MODEL.FREEZE", value))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("^(?!fc)", ({"MATCH": "^(?!fc)"},)),
        ("^a{2,3},b", ({"MATCH": "^a{2,3},b"},)),
        ("['^(?!fc)', ^b]", ({"MATCH": "^(?!fc)"}, {"MATCH": "^b"})),
        ("{MATCH: ^a, UNTIL: 2ep}", ({"MATCH": "^a", "UNTIL": "2ep"},)),
        ("[]", ()),
    ],
)
def test_freeze_takes_a_regex_a_list_and_mappings_on_a_command_line(text: str, parsed: Any) -> None:
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.FREEZE", text])
    assert parsed == cfg.MODEL.FREEZE


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[^(?!fc), ^b]", "put text with special characters in quotes"),
        (
            "{MATCH: ^a, UNTIL: soon}",
            "UNTIL is a number of iterations, 1 or more, or a string with a unit such as",
        ),
        ("{UNTIL: 5}", "entry 1 needs MATCH"),
    ],
)
def test_freeze_refuses_other_values(text: str, message: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"MODEL.FREEZE \(override\): expected a list of values of MATCH, .*{message}"
    ):
        get_cfg().merge_from_list(["MODEL.FREEZE", text])


# ---------------------------------------------------------------- several ranks


def test_sync_bn_layers_of_frozen_modules_stay_in_evaluation_mode(tiny: Tiny) -> None:
    model = with_sync_bn(build_model(resolve_config(tiny(*FROZEN))))
    model.eval()
    model.train()
    layers = [each for each in model.modules() if isinstance(each, nn.SyncBatchNorm)]
    assert [each.training for each in layers] == [False] * 3
    assert not any(parameter.requires_grad for each in layers for parameter in each.parameters())


def states_of(folder: Path) -> list[dict[str, torch.Tensor]]:
    return [load_checkpoint(path)["model"] for path in sorted(folder.glob("model_0*.pth"))]


@pytest.mark.skipif(torch.cuda.is_available(), reason="forks this process, which may have used the GPU")
@pytest.mark.parametrize(
    "freezing", [pytest.param(FROZEN, marks=pytest.mark.slow), UNFREEZING], ids=["frozen", "until"]
)
def test_two_ranks_equal_one_process_with_two_micro_batches(
    tiny: Tiny, tiny_words: list[str], tmp_path: Path, freezing: list[Any]
) -> None:
    exact = ["MODEL.ARGS={norm: group, width: 4, dropout: 0}", "SOLVER.CHECKPOINT_PERIOD=1"]
    train(tiny(*freezing, *[word for each in exact for word in each.split("=", 1)], "SOLVER.GRAD_ACCUM_STEPS", 2))
    words = [*tiny_words, *exact, f"MODEL.FREEZE={freezing[1]}", f"OUTPUT_DIR={tmp_path}/two"]
    assert [each.code for each in trained(tmp_path, 2, words)] == [0, 0]
    one, two = states_of(tmp_path / "out"), states_of(tmp_path / "two")
    assert len(one) == len(two) == 14
    for number, (ours, theirs) in enumerate(zip(one, two, strict=True)):
        for name in ours:
            assert torch.equal(ours[name], theirs[name]), (number, name)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="forks this process, which may have used the GPU")
def test_two_ranks_resumed_after_unfreezing_equal_the_unbroken_run(tiny_words: list[str], tmp_path: Path) -> None:
    words = [*tiny_words, "SOLVER.CHECKPOINT_PERIOD=1", f"MODEL.FREEZE={UNFREEZING[1]}"]
    assert [each.code for each in trained(tmp_path, 2, words)] == [0, 0]
    whole = load_checkpoint(tmp_path / "out" / "model_final.pth")
    for done in (5, 7):
        resume = ["--resume", f"{tmp_path}/out/model_{done - 1:07d}.pth", f"OUTPUT_DIR={tmp_path}/again{done}"]
        assert [each.code for each in trained(tmp_path, 2, [*words, *resume])] == [0, 0]
        again = load_checkpoint(tmp_path / f"again{done}" / "model_final.pth")
        for part in ("optimizer", "rng", "model"):
            assert_same_bits(again[part], whole[part], part)


SHARDED = ["MODEL.PARALLEL=fsdp", "MODEL.FSDP.WRAP=[Conv2d, Linear]"]


def launched(words: list[str]) -> None:
    """Run train_net.py on two ranks; not forked, because FSDP2's backward pass cannot be."""
    command = [sys.executable, "tools/train_net.py", "--num-gpus", "2", *words]
    environ = os.environ | {"OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=200, check=False
    )
    assert ended.returncode == 0, ended.stderr


@pytest.mark.slow
@pytest.mark.skipif(not SHARDS_ON_CPU, reason="this torch shards no model on a CPU")
@pytest.mark.parametrize("freezing", [FROZEN, UNFREEZING], ids=["frozen", "until"])
def test_a_sharded_run_equals_one_process_except_for_the_order_of_sums(
    tiny: Tiny, noise_npz: Path, tmp_path: Path, freezing: list[Any]
) -> None:
    exact = ["MODEL.ARGS={norm: group, width: 4, dropout: 0}", "SOLVER.CHECKPOINT_PERIOD=1"]
    train(tiny(*freezing, *[word for each in exact for word in each.split("=", 1)]))
    words = [*tiny_overrides(noise_npz, tmp_path / "two"), *exact, f"MODEL.FREEZE={freezing[1]}"]
    launched([*words, *SHARDED])
    one, two = states_of(tmp_path / "out"), states_of(tmp_path / "two")
    for ours, theirs in zip(one, two, strict=True):
        for name in ours:
            torch.testing.assert_close(theirs[name], ours[name], rtol=1e-4, atol=1e-6)
    frozen = [name for name in one[0] if name.startswith("block1")]
    assert all(torch.equal(one[-1][name], two[-1][name]) for name in frozen)


@pytest.mark.slow
@pytest.mark.skipif(not SHARDS_ON_CPU, reason="this torch shards no model on a CPU")
@pytest.mark.parametrize("done", [5, 7])  # right before block3 trains, and after
def test_a_sharded_run_resumed_around_unfreezing_equals_the_unbroken_one(
    noise_npz: Path, tmp_path: Path, done: int
) -> None:
    words = [*tiny_overrides(noise_npz, tmp_path / "out"), *SHARDED, f"MODEL.FREEZE={UNFREEZING[1]}"]
    launched([*words, "SOLVER.CHECKPOINT_PERIOD=1"])
    resume = ["--resume", f"{tmp_path}/out/model_{done - 1:07d}.pth", f"OUTPUT_DIR={tmp_path}/again"]
    launched([*words, "SOLVER.CHECKPOINT_PERIOD=1", *resume])
    whole, again = (load_checkpoint(tmp_path / name / "model_final.pth") for name in ("out", "again"))
    for part in ("model", "optimizer", "rng"):
        assert_same_bits(again[part], whole[part], part)
