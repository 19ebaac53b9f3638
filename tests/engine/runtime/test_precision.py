"""Mixed precision: skipped updates, saved state, compilation, and what the hardware supports."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from warmstart.config import CfgNode, ConfigError
from warmstart.data import Batch
from warmstart.engine import (
    HookBase,
    LossScaler,
    NonFiniteLossError,
    Trainer,
    build_scaler,
    build_trainer,
    load_checkpoint,
    load_start,
    resolve_config,
)
from warmstart.engine.checkpoint.saver import finish_saves
from warmstart.engine.runtime import precision
from warmstart.modeling import build_model
from warmstart.solver import EMA, GradientClipping
from warmstart.tools import train_net

from ..dying import assert_same_bits

Tiny = Callable[..., CfgNode]
AMP = ("SOLVER.AMP.ENABLED", True)
FP16 = (*AMP, "SOLVER.AMP.PRECISION", "fp16")
KINDS: dict[str, dict[str, Any]] = {"fused": {"fused": True}, "plain": {"foreach": False}}


@pytest.fixture(autouse=True)
def any_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """bf16 gives the same bits, slowly, on a CPU without bf16 arithmetic."""
    monkeypatch.setattr(precision, "has_bf16", lambda device: True)


class Line(nn.Module):
    """A loss whose gradient is twice the weight, and infinite in the iterations of `bad`."""

    def __init__(self, bad: Sequence[int] = ()) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.seen, self.bad = 0, bad
        self.weight.register_hook(self.overflow)

    def overflow(self, gradient: Tensor) -> Tensor:
        self.seen += 1
        return gradient * torch.inf if self.seen - 1 in self.bad else gradient

    def forward(self, factor: Tensor) -> dict[str, Tensor]:
        return {"loss": (self.weight * factor).square().sum()}


def make(
    bad: Sequence[int] = (),
    n: int = 5,
    kind: str = "fused",
    batch: float = 1.0,
    decay: float | None = None,
    **options: Any,
) -> Trainer:
    model = Line(bad)
    ema = None if decay is None else EMA(model, decay)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, **KINDS[kind])
    # torch's own, which warns if it does not see the first update
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)
    options = {"scaler": LossScaler("cpu", limit=2)} | options
    batches = [(torch.full((3,), batch),)]
    return Trainer(model, optimizer, scheduler, batches, max_iter=n, ema=ema, **options)


class See(HookBase):
    def __init__(self) -> None:
        self.rates: list[Any] = []
        self.skipped: list[bool] = []
        self.moved: list[bool] = []

    def before_step(self, trainer: Trainer) -> None:
        self.before = trainer.model.weight.detach().clone()

    def after_step(self, trainer: Trainer) -> None:
        self.rates += trainer.rates
        self.skipped.append(bool(trainer.step_skipped))
        self.moved.append(not torch.equal(self.before, trainer.model.weight))


@pytest.mark.need("B3")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [0, 3])
def test_fp16_overflow_skips_an_update_that_counts_and_is_logged(
    bad: int, kind: str, logged: list[logging.LogRecord]
) -> None:
    trainer = make([bad], kind=kind, hooks=[see := See()])
    trainer.train()
    trainer.flush_losses()
    assert see.rates == [0.1, 0.1, 0.05, 0.05, 0.025]
    assert see.skipped == [index == bad for index in range(5)]
    assert see.moved == [index != bad for index in range(5)]
    assert trainer.skipped.state_dict() == {"total": 1, "in_a_row": 0}
    assert [record.getMessage() for record in logged] == [
        f"skipped because gradients overflow in fp16: iteration {bad + 1}; the scale is now 32768"
    ]


@pytest.mark.need("B3", "E8")
def test_fp16_skipped_steps_are_recorded_and_saved(tiny: Tiny, tmp_path: Path) -> None:
    trainer = overflowing(resolve_config(tiny(*FP16, "LOG_PERIOD", 1)), 3)
    trainer.train()
    records = [json.loads(line) for line in (tmp_path / "out" / "metrics.json").read_text().splitlines()]
    assert [record.get("skipped_steps") for record in records] == [None] * 3 + [1] * 11
    assert all(record["total_loss"] > 0 for record in records)
    content = load_checkpoint(tmp_path / "out" / "model_final.pth")
    assert content["scaler"] == {
        "scale": 32768.0,
        "growth_factor": 2.0,
        "backoff_factor": 0.5,
        "growth_interval": 2000,
        "_growth_tracker": 10,
    }


def overflowing(cfg: CfgNode, *iterations: int) -> Trainer:
    """A trainer whose gradients overflow in these iterations, from 0."""
    trainer = build_trainer(cfg)
    weight = next(trainer.model.parameters())
    weight.register_hook(lambda grad: grad * torch.inf if trainer.iteration in iterations else grad)
    return trainer


@pytest.mark.need("C9", "D1")
@pytest.mark.parametrize("policy", ["raise", "skip"])
def test_fp16_resume_after_an_overflow_and_a_kill_is_bit_exact(tiny: Tiny, tmp_path: Path, policy: str) -> None:
    words = (*FP16, "SOLVER.CHECKPOINT_PERIOD", 4, "SOLVER.EMA.ENABLED", True, "SOLVER.NAN_POLICY", policy)
    whole, part = (resolve_config(tiny(*words, "OUTPUT_DIR", str(tmp_path / name))) for name in ("whole", "part"))
    overflowing(whole, 2, 3, 9).train()
    finish_saves()
    trainer = overflowing(part, 2, 3, 9)
    load_start(trainer, load_checkpoint(tmp_path / "whole" / "model_0000003.pth"))
    assert trainer.update.scaler is not None
    assert trainer.update.scaler.get_scale() == 16384
    assert trainer.skipped.state_dict() == {"total": 2, "in_a_row": 2}
    trainer.train()
    ours, theirs = (load_checkpoint(tmp_path / name / "model_final.pth") for name in ("part", "whole"))
    assert theirs["scaler"]["scale"] == 8192
    for key in ("model", "optimizer", "scheduler", "scaler", "ema", "hooks", "rng"):
        assert_same_bits(ours[key], theirs[key], key)


@pytest.mark.need("C9")
def test_checkpoint_holds_the_state_of_the_scaler(tiny: Tiny) -> None:
    """Fails if the trainer gets another object with state that is not saved."""
    trainer = build_trainer(tiny(*FP16, "SOLVER.EMA.ENABLED", True))
    objects = vars(trainer) | vars(trainer.update)
    stateful = {name: value for name, value in objects.items() if hasattr(value, "state_dict")}
    assert (stateful.pop("state"), stateful.pop("update")) == (trainer.state, trainer.update)  # have the others
    assert sorted(stateful) == ["ema", "losses", "model", "optimizer", "scaler", "scheduler", "skipped"]
    stateful |= {hook.name: hook for hook in trainer.hooks}
    for name, value in stateful.items():
        marked = {**value.state_dict(), "mark": torch.tensor(1.0)}
        value.state_dict = lambda marked=marked: marked
        assert any(found is marked for found in dicts_in(trainer.state_dict())), name


def dicts_in(tree: Any) -> list[Any]:
    if not isinstance(tree, dict):
        return []
    return [tree, *(found for value in tree.values() for found in dicts_in(value))]


@pytest.mark.need("E11", "E12")
@pytest.mark.parametrize("policy", [0, 2])
def test_loss_scaler_with_a_power_of_two_changes_no_bit(policy: int) -> None:
    """Hooks and clipping see unscaled gradients, and the norm is the one before clipping."""
    norms: list[Tensor] = []

    class Norm(HookBase):
        def after_backward(self, trainer: Trainer) -> None:
            norms.append(trainer.model.weight.grad.norm())

    clip = GradientClipping("full_model", 0.5)
    options: dict[str, Any] = {
        "hooks": [Norm()],
        "clip": clip,
        "accum_steps": 3,
        "nan_limit": policy,
        "batch": 0.3,
    }
    plain, scaled = make(scaler=None, **options), make(**options)
    averages = []
    for trainer in (plain, scaled):
        trainer.train()
        trainer.flush_losses()
        averages.append(trainer.losses.averages())
    assert torch.equal(plain.model.weight, scaled.model.weight)
    assert averages[0] == averages[1]
    assert norms[:5] == norms[5:]


def test_grad_norm_of_an_overflow_is_not_averaged() -> None:
    trainer = make([1], n=2, clip=GradientClipping("full_model", 100.0))
    trainer.train()
    trainer.flush_losses()
    assert trainer.losses.averages() == {
        "total_loss": pytest.approx(3 * (1 + 0.8**2) / 2),
        "loss": pytest.approx(3 * (1 + 0.8**2) / 2),
        "grad_norm": pytest.approx(2 * 3**0.5),
    }


@pytest.mark.need("E6")
def test_more_consecutive_overflows_than_the_limit_end_the_run(logged: list[logging.LogRecord]) -> None:
    trainer = make([0, 2, 3, 4], n=6)
    trainer.train()
    expected = (
        r"^iteration 5: the gradients overflow in fp16, as in the 2 updates before, which were skipped "
        r"\(SOLVER.NAN_LIMIT\); the learning rate of the last update was 0.025"
    )
    with pytest.raises(NonFiniteLossError, match=expected):
        trainer.flush_losses()


@pytest.mark.need("E6")
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_non_finite_loss_is_an_error_in_fp16_too(value: str) -> None:
    """Losses are checked before they are scaled: no scale would help."""
    trainer = make(batch=float(value))
    trainer.train()
    with pytest.raises(NonFiniteLossError, match=rf"^iteration 1: total_loss is {value} \(loss {value}\)"):
        trainer.flush_losses()
    assert torch.equal(trainer.model.weight, torch.ones(3))


@pytest.mark.need("E6", "E4")
@pytest.mark.parametrize("clip", [None, GradientClipping("full_model", 100.0)])
def test_nan_policy_skip_counts_an_overflow_once_and_logs_it(clip: Any, logged: list[logging.LogRecord]) -> None:
    trainer = make([1], hooks=[see := See()], clip=clip, nan_limit=2, decay=0.5)
    trainer.train()
    trainer.flush_losses()
    assert trainer.skipped.state_dict() == {"total": 1, "in_a_row": 0}
    assert see.skipped == [False, True, False, False, False]
    assert see.moved == [True, False, True, True, True]
    assert trainer.ema is not None
    assert trainer.ema.num_updates == 4
    assert trainer.update.scaler is not None
    assert trainer.update.scaler.get_scale() == 32768
    found = "grad_norm is inf" if clip else "gradients overflow in fp16"
    assert [record.getMessage().partition(" (")[0] for record in logged] == [f"iteration 2 is skipped: {found}"]


@pytest.mark.need("B3", "S9")
@pytest.mark.parametrize(("kind", "reads"), [("fused", []), ("plain", ["item"] * 20)])
def test_fused_optimizers_skip_without_a_read_and_others_read_once_per_step(
    kind: str, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make([3], n=20, kind=kind, clip=GradientClipping("full_model", 1.0))
    seen: list[str] = []
    for method in ("item", "cpu", "tolist", "numpy", "__bool__", "__float__"):
        original = getattr(Tensor, method)

        def counted(self: Tensor, *args: Any, _name: str = method, _original: Any = original) -> Any:
            seen.append(_name)
            return _original(self, *args)

        monkeypatch.setattr(Tensor, method, counted)
    trainer.train()
    assert seen == reads


def test_build_scaler_refuses_float16_weights(tiny: Tiny) -> None:
    cfg = resolve_config(tiny(*FP16))
    expected = (
        r"^SOLVER.AMP.PRECISION \(override\): fp16 needs float32 weights, which autocast converts, but "
        r"block1.0.weight of small_cnn is float16; build the model without half\(\)$"
    )
    with pytest.raises(ConfigError, match=expected):
        build_scaler(cfg, build_model(cfg).half())
    assert build_scaler(resolve_config(tiny(*AMP)), build_model(cfg)) is None


@pytest.mark.need("E4")
@pytest.mark.parametrize(("words", "dtype"), [(AMP, torch.bfloat16), (FP16, torch.float16), ((), torch.float32)])
def test_autocast_computes_in_half_precision_and_keeps_state_in_float32(
    tiny: Tiny, words: tuple[Any, ...], dtype: torch.dtype
) -> None:
    """Training, evaluation of model and average, precise BatchNorm: 14 updates, 2 x 6 and 2 x 2 batches."""
    precise = ("TEST.PRECISE_BN.ENABLED", True, "TEST.PRECISE_BN.NUM_ITER", 2, "TEST.IMS_PER_BATCH", 8)
    trainer = build_trainer(tiny(*words, *precise, "SOLVER.EMA.ENABLED", True))
    assert trainer.ema is not None
    seen: list[torch.dtype] = []
    for model in (trainer.model, trainer.ema.model):
        model.get_submodule("block2.0").register_forward_hook(lambda *call: seen.append(call[2].dtype))
    trainer.train()
    assert seen == [dtype] * (14 + 2 * 6 + 2 * 2)
    state = trainer.state_dict()
    kept = [*state["model"].values(), *state["ema"]["model"].values()]
    kept += [tensor for entries in state["optimizer"]["state"].values() for tensor in entries.values()]
    assert {tensor.dtype for tensor in kept} == {torch.float32, torch.int64}
    trainer.model.train()
    losses = trainer.update.compute_losses(Batch(torch.zeros(2, 1, 8, 8), torch.zeros(2, dtype=torch.int64)))
    assert losses["loss_cls"].dtype == torch.float32


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            AMP,
            "SOLVER.AMP.PRECISION: this cpu has no bf16 arithmetic, which would be slower than float32; set it to "
            "fp16, or SOLVER.AMP.ENABLED to false",
        ),
        (
            ("MODEL.COMPILE", "default"),
            "MODEL.COMPILE (override): torch.compile needs a C++ compiler, and there is no nowhere-g++ (or what "
            'CXX names) here; install it, or set MODEL.COMPILE to ""',
        ),
        (
            ("MODEL.COMPILE", "default", "MODEL.ACTIVATION_CHECKPOINTING", ["block1"]),
            "MODEL.COMPILE (override): a compiled model decides by itself which activations to recompute; "
            "set MODEL.COMPILE or MODEL.ACTIVATION_CHECKPOINTING back",
        ),
        (
            ("MODEL.COMPILE", "max-autotune", "PROFILE", "exact"),
            "MODEL.COMPILE (override): the kernels that max-autotune picks differ from run to run, which PROFILE "
            "exact rules out; use default",
        ),
        (
            ("MODEL.COMPILE", "reduce-overhead", "SOLVER.GRAD_ACCUM_STEPS", 2),
            "MODEL.COMPILE (override): reduce-overhead records CUDA graphs, in whose memory each micro-batch "
            "overwrites the gradients of the one before; with SOLVER.GRAD_ACCUM_STEPS use default or "
            "max-autotune-no-cudagraphs",
        ),
    ],
)
def test_check_precision_refuses_what_the_machine_or_other_keys_rule_out(
    tiny: Tiny, words: tuple[Any, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "has_bf16", lambda device: False)
    monkeypatch.setenv("CXX", "nowhere-g++")
    with pytest.raises(ConfigError) as caught:
        resolve_config(tiny(*words))
    assert str(caught.value) == message


def test_unknown_compile_mode_lists_the_known_ones(tiny: Tiny) -> None:
    modes = "expected one of \"\", default, reduce-overhead, max-autotune, max-autotune-no-cudagraphs; got 'fast'"
    with pytest.raises(ConfigError, match=rf"^MODEL.COMPILE \(override\): {modes}"):
        tiny("MODEL.COMPILE", "fast")


@pytest.mark.parametrize(
    ("text", "has"),
    [
        ("flags\t\t: fpu avx512_bf16 amx_tile\n", True),
        ("Features\t: fp asimd bf16\n", True),
        ("flags\t\t: fpu avx2\n", False),
        ("", True),
    ],
)
def test_has_bf16_reads_the_flags_of_the_cpu(text: str, has: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # of the fixture
    monkeypatch.setattr(Path, "read_text", lambda *args, **kwargs: text)
    assert precision.has_bf16(torch.device("cpu")) == has


class Fake:
    """Counts the calls of a model instead of compiling it, which takes a minute."""

    def __init__(self, model: nn.Module, **options: Any) -> None:
        self.model, self.options, self.calls = model, options, 0

    def __call__(self, *batch: Any) -> Any:
        self.calls += 1
        return self.model(*batch)


def test_compile_affects_training_alone_and_keeps_names(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Fake] = []
    monkeypatch.setattr(torch, "compile", lambda *args, **options: made.append(Fake(*args, **options)) or made[-1])
    for name, words in (("plain", ()), ("compiled", ("MODEL.COMPILE", "reduce-overhead", "TEST.EVAL_PERIOD", 3))):
        build_trainer(tiny(*words, "OUTPUT_DIR", str(tmp_path / name))).train()
    (fake,) = made
    assert fake.options == {"mode": "reduce-overhead", "dynamic": False}
    assert fake.calls == 14
    ours, theirs = (load_checkpoint(tmp_path / name / "model_final.pth") for name in ("compiled", "plain"))
    assert_same_bits(ours["model"], theirs["model"], "model")


@pytest.mark.slow
@pytest.mark.need("C1")
def test_compiled_run_resumes_bit_for_bit(tiny: Tiny, tmp_path: Path) -> None:
    words = ("MODEL.COMPILE", "default", "SOLVER.EMA.ENABLED", True, "SOLVER.CHECKPOINT_PERIOD", 5)
    whole, part = (resolve_config(tiny(*words, "OUTPUT_DIR", str(tmp_path / name))) for name in ("whole", "part"))
    build_trainer(whole).train()
    finish_saves()
    trainer = build_trainer(part)
    load_start(trainer, load_checkpoint(tmp_path / "whole" / "model_0000004.pth"))
    trainer.train()
    ours, theirs = (load_checkpoint(tmp_path / name / "model_final.pth") for name in ("part", "whole"))
    assert list(ours["model"]) == list(build_model(whole).state_dict())
    for key in ("model", "optimizer", "ema", "hooks", "rng"):
        assert_same_bits(ours[key], theirs[key], key)


@pytest.mark.gpu
def test_cuda_graphs_return_the_losses_of_their_own_updates(tiny: Tiny, tmp_path: Path) -> None:
    """The losses are read after later replays have overwritten the same memory."""
    losses = []
    for mode in ("default", "reduce-overhead"):
        out = tmp_path / mode
        build_trainer(tiny("MODEL.COMPILE", mode, "MODEL.ARGS.dropout", 0.0, "OUTPUT_DIR", str(out))).train()
        records = [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]
        losses.append([record["total_loss"] for record in records])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.gpu
@pytest.mark.need("B3", "S9")
def test_fp16_update_does_not_synchronize_with_the_gpu(tiny: Tiny) -> None:
    trainer = overflowing(resolve_config(tiny(*FP16, "SOLVER.CLIP_GRADIENTS.ENABLED", True)), 1)
    batches = iter([next(trainer.data_loader.batches(0))] * 4)
    trainer.run_step(batches)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for trainer.iteration in (1, 2):
            trainer.run_step(batches)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    trainer.flush_losses()
    assert trainer.skipped.total == 1


@pytest.mark.parametrize("words", [(), ("SOLVER.GRAD_ACCUM_STEPS", 2), AMP])
def test_activation_checkpointing_changes_no_bit(tiny: Tiny, tmp_path: Path, words: tuple[Any, ...]) -> None:
    """With dropout, which draws again, and BatchNorm, whose statistics are updated once."""
    calls: dict[str, int] = {}
    for name, patterns in (("plain", []), ("again", ["^block", "drop"])):
        cfg = tiny(*words, "MODEL.ACTIVATION_CHECKPOINTING", patterns, "OUTPUT_DIR", str(tmp_path / name))
        trainer = build_trainer(cfg)
        calls[name] = 0

        def count(*call: Any, _name: str = name) -> None:
            calls[_name] += 1

        trainer.model.get_submodule("block1.0").register_forward_hook(count)
        trainer.train()
    parts = 2 if "SOLVER.GRAD_ACCUM_STEPS" in words else 1
    assert calls["again"] - calls["plain"] == 14 * parts
    ours, theirs = (load_checkpoint(tmp_path / name / "model_final.pth") for name in ("again", "plain"))
    for key in ("model", "optimizer", "hooks", "rng"):
        assert_same_bits(ours[key], theirs[key], key)


def test_activation_checkpointing_refuses_a_pattern_without_match(tiny: Tiny) -> None:
    expected = (
        r"^MODEL.ACTIVATION_CHECKPOINTING \(override\): '\^layer' matches no module; there are block1, block2, "
        r"block3, pool, dropout, fc, and the modules inside them$"
    )
    with pytest.raises(ConfigError, match=expected):
        build_trainer(tiny("MODEL.ACTIVATION_CHECKPOINTING", ["^layer"]))


def test_eval_only_in_half_precision_gives_the_scores_of_the_run(
    tiny_words: list[str], tmp_path: Path, logged: list[logging.LogRecord]
) -> None:
    words = [*tiny_words, "SOLVER.AMP.ENABLED=true"]
    train_net.main(words)
    train_net.main([*words, "--eval-only", "--resume"])
    scores = [record.getMessage() for record in logged if record.getMessage().startswith("noise.npz")]
    assert len(scores) == 2
    assert scores[0].partition("accuracy")[2] == scores[1].partition("accuracy")[2]
