"""Runs of several ranks: the same samples, weights and scores as one process, stopped and resumed together."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from warmstart.config import CfgNode, ConfigError, get_cfg
from warmstart.data import Batch, DatasetInfo
from warmstart.engine import (
    HookBase,
    Trainer,
    build_process_group,
    build_trainer,
    evaluate,
    load_checkpoint,
    preserved_rng,
    raise_together,
    rank,
    register_hook,
    resolve_config,
    set_rng_state,
)
from warmstart.engine.distributed.errors import local_rank_zero_first
from warmstart.engine.distributed.fsdp import SHARDS_ON_CPU
from warmstart.engine.run.default_hooks import _HOOKS
from warmstart.modeling import build_model
from warmstart.tasks import Classification
from warmstart.tools import train_net

from ...built import build_train_loader
from ..dying import assert_same_bits
from ..ranks import Ended, Ranks, trained

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="forks this process, which may have used the GPU"
)
needs_sharding = pytest.mark.skipif(not SHARDS_ON_CPU, reason="this torch shards no model on a CPU")

# No batch statistics, nothing random: two ranks compute the same as one process with two micro-batches.
EXACT = ["MODEL.ARGS={norm: group, width: 4, dropout: 0}", "SOLVER.MAX_ITER=60", "SOLVER.STEPS=40"]
WEIGHTS = ("model", "optimizer", "scheduler", "iteration")

Register = Callable[[HookBase], None]


def checkpoint(folder: Path, name: str = "model_final.pth") -> dict[str, Any]:
    return load_checkpoint(folder / name)


def records(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]


def cfg_of(words: list[str]) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_list(words)
    return cfg


def codes(ended: list[Ended]) -> list[int]:
    return [each.code for each in ended]


@pytest.fixture
def own_hook() -> Iterator[Register]:
    """Registers a hook for the ranks that are forked during the test."""
    yield lambda hook: register_hook("own", lambda cfg: hook)
    _HOOKS.pop("own", None)


class Spoil(HookBase):
    """Makes the images of one rank NaN in the update after `after` others."""

    def __init__(self, rank: int, after: int) -> None:
        self.rank, self.after = rank, after

    def before_train(self, trainer: Trainer) -> None:
        inner = trainer.update.compute_losses

        def losses(batch: Batch) -> Any:
            spoilt = trainer.iteration == self.after and rank() == self.rank
            return inner(Batch(batch.images * float("nan"), batch.targets) if spoilt else batch)

        trainer.update.compute_losses = losses


class Do(HookBase):
    """Calls a function on one rank after `after` updates."""

    def __init__(self, rank: int, after: int, what: Callable[[Trainer], object]) -> None:
        self.rank, self.after, self.what = rank, after, what

    @property
    def name(self) -> str:
        return "Do"

    def after_step(self, trainer: Trainer) -> None:
        if rank() == self.rank and trainer.iteration == self.after:
            self.what(trainer)


@pytest.mark.need("B15", "E7")
def test_two_ranks_equal_one_process_with_two_micro_batches_bit_for_bit(
    tiny_words: list[str], tmp_path: Path
) -> None:
    one, two = tmp_path / "one", tmp_path / "out"
    clipping = ["SOLVER.CLIP_GRADIENTS.ENABLED=true", "SOLVER.CLIP_GRADIENTS.CLIP_TYPE=full_model"]
    words = [*tiny_words, *EXACT, *clipping, "TEST.EVAL_PERIOD=25", "TEST.IMS_PER_BATCH=20"]
    assert train_net.main([*words, f"OUTPUT_DIR={one}", "SOLVER.GRAD_ACCUM_STEPS=2"]) == 0
    assert codes(trained(tmp_path, 2, words)) == [0, 0]
    a, b = checkpoint(one), checkpoint(two)
    for part in WEIGHTS:
        assert_same_bits(a[part], b[part], part)
    theirs, ours = records(one), records(two)
    assert [r["iteration"] for r in ours] == [5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 55, 60]
    assert [r["lr"] for r in ours] == [r["lr"] for r in theirs]
    for name in ("total_loss", "train/error", "grad_norm"):
        assert [r[name] for r in ours] == pytest.approx([r[name] for r in theirs], rel=1e-6)
    scored = [(r, s) for r, s in zip(ours, theirs, strict=True) if any(name.endswith("/loss") for name in r)]
    assert [r["iteration"] for r, _ in scored] == [25, 50, 60]
    for r, s in scored:
        (accuracy, loss) = (name for name in s if name.startswith("noise.npz/"))
        assert r[accuracy] == s[accuracy]
        assert r[loss] == pytest.approx(s[loss], rel=1e-6)
    assert len(b["rng"]) == 2


@pytest.mark.need("B17")
def test_gradients_are_averaged_once_per_bucket_and_update_and_ranks_stay_equal(
    tiny: Callable[..., CfgNode], tmp_path: Path
) -> None:
    """With BatchNorm and dropout, whose statistics and masks differ between ranks; 12 / 3 / 2 images at a time."""
    cfg = tiny("SOLVER.IMS_PER_BATCH", 12, "SOLVER.GRAD_ACCUM_STEPS", 3, "SOLVER.MAX_ITER", 5)

    def train() -> Any:
        with build_process_group(cfg):
            trainer = build_trainer(cfg)
            sent: list[int] = []
            parallel: Any = trainer.update.compute_losses.forward.module
            parallel.register_comm_hook(
                sent, lambda sent, bucket: (sent.append(bucket.index()), allreduce_hook(None, bucket))[1]
            )
            trainer.train()
            return sent, trainer.model.state_dict(), torch.rand(1)

    one, other = (each.result for each in Ranks(tmp_path, 2, train).end())
    sent, model, drawn = one
    also_sent, also_model, also_drawn = other
    assert sent == also_sent == [0] * 5
    assert_same_bits(dict(model), dict(also_model))
    assert not torch.equal(drawn, also_drawn)


@pytest.mark.need("E6")
def test_nan_loss_on_one_rank_ends_all_ranks_with_one_message(
    tiny_words: list[str], tmp_path: Path, own_hook: Register
) -> None:
    own_hook(Spoil(rank=1, after=7))
    main, other = trained(tmp_path, 2, tiny_words)
    assert (main.code, other.code) == (3, 3)
    assert main.err.startswith("error: iteration 8: total_loss is nan (loss_cls nan, train/error ")
    assert "), on rank 1; samples of its batch: " in main.err
    cfg = get_cfg()
    cfg.merge_from_list(tiny_words)
    samples = main.err.partition("batch: ")[2].partition(";")[0]
    assert samples == build_train_loader(cfg, rank=1, world_size=2).describe_samples(7)
    assert (other.out, other.err) == ("", "")
    assert not (tmp_path / "out" / "last_checkpoint").exists()
    assert (tmp_path / "out" / "log.txt").read_text().count("iteration 8: total_loss is nan") == 1


@pytest.mark.need("E6")
def test_nan_loss_on_one_rank_is_skipped_by_all_ranks(
    tiny_words: list[str], tmp_path: Path, own_hook: Register
) -> None:
    own_hook(Spoil(rank=1, after=7))
    main, other = trained(tmp_path, 2, [*tiny_words, "SOLVER.NAN_POLICY=skip"])
    assert (main.code, other.code, other.out) == (0, 0, "")
    assert main.out.count("iteration 8 is skipped: total_loss is nan") == 1
    assert "on rank 1; samples of its batch: " in main.out
    assert [r.get("skipped_steps") for r in records(tmp_path / "out")] == [None, 1, 1]
    assert all(tensor.isfinite().all() for tensor in checkpoint(tmp_path / "out")["model"].values())


@pytest.mark.need("G2")
def test_exception_on_one_rank_names_it_above_the_traceback_and_ends_the_others_at_once(
    tiny_words: list[str], tmp_path: Path, own_hook: Register
) -> None:
    def fail(trainer: Trainer) -> None:
        raise RuntimeError("what a bug says")

    own_hook(Do(rank=1, after=3, what=fail))
    began = time.monotonic()
    main, other = trained(tmp_path, 2, tiny_words)
    assert time.monotonic() - began < 10
    assert (main.code, other.code) == (5, 1)
    first = other.err.splitlines()[0]
    assert first.startswith("rank 1 of 2, on ")
    assert first.endswith(" has failed:")
    assert "Traceback" in other.err
    assert "RuntimeError: what a bug says" in other.err
    assert main.err.startswith("rank 0 of 2, on ")
    assert ": another rank exited or timed out: " in main.err
    assert "Traceback" not in main.err


@pytest.mark.need("D14", "C1", "C7")
def test_signal_to_one_rank_stops_all_after_the_same_iteration_and_a_resume_is_bit_exact(
    tiny_words: list[str], tmp_path: Path, own_hook: Register
) -> None:
    words = [*tiny_words, "SOLVER.EMA.ENABLED=true"]  # with BatchNorm, dropout, crops, flips
    straight = tmp_path / "straight"
    assert codes(trained(tmp_path / "a", 2, [*words, f"OUTPUT_DIR={straight}"])) == [0, 0]
    own_hook(Do(rank=1, after=6, what=lambda trainer: os.kill(os.getpid(), signal.SIGTERM)))
    assert codes(trained(tmp_path / "b", 2, words)) == [143, 143]
    out = tmp_path / "out"
    stopped = checkpoint(out, (out / "last_checkpoint").read_text())["iteration"]
    assert 7 <= stopped <= 11  # within a tenth of a second, and after the record at 10 at the latest
    _HOOKS.clear()
    assert codes(trained(tmp_path / "c", 2, [*words, "--resume"])) == [0, 0]
    a, b = checkpoint(straight), checkpoint(out)
    for part in (*WEIGHTS, "ema", "rng"):
        assert_same_bits(a[part], b[part], part)
    assert [r["iteration"] for r in records(out)] == [5, 10, 14]
    assert [r["total_loss"] for r in records(out)] == [r["total_loss"] for r in records(straight)]


@pytest.mark.need("D14")
def test_request_stop_on_one_rank_ends_all_after_the_same_iteration(
    tiny_words: list[str], tmp_path: Path, own_hook: Register
) -> None:
    own_hook(Do(rank=1, after=5, what=lambda trainer: trainer.request_stop("enough")))  # at a record
    main, other = trained(tmp_path, 2, tiny_words)
    assert (main.code, other.code) == (0, 0)
    assert "stopped after iteration 6: enough" in main.out
    assert checkpoint(tmp_path / "out")["iteration"] == 6


@pytest.mark.need("C8")
@pytest.mark.parametrize("ranks", [1, 4])
def test_run_of_two_ranks_resumes_on_one_and_on_four(tiny_words: list[str], tmp_path: Path, ranks: int) -> None:
    """Without dropout the weights differ from the unbroken run only by the order in which gradients are summed."""
    words = [*tiny_words, *EXACT[:1], "TEST.EVAL_PERIOD=0"]
    straight, out = tmp_path / "straight", tmp_path / "out"
    assert train_net.main([*words, f"OUTPUT_DIR={straight}"]) == 0
    assert codes(trained(tmp_path / "a", 2, [*words, "SOLVER.MAX_ITER=7"])) == [0, 0]
    assert len(checkpoint(out)["rng"]) == 2
    main, *others = trained(tmp_path / "b", ranks, [*words, "--resume"])
    assert codes([main, *others]) == [0] * ranks
    text = f"processes: 2 -> {ranks}; batches stay the same, the random numbers of dropout and the like are new"
    assert main.out.count(text) == 1
    assert len(checkpoint(out)["rng"]) == ranks
    for name, tensor in checkpoint(straight)["model"].items():
        torch.testing.assert_close(checkpoint(out)["model"][name], tensor, rtol=1e-4, atol=1e-6)


@pytest.mark.need("C8")
@pytest.mark.parametrize("ranks", [2, 4])
def test_run_of_one_process_resumes_on_two_ranks_and_on_four(
    tiny_words: list[str], tmp_path: Path, ranks: int
) -> None:
    """Afterwards the generators of Python, NumPy and torch draw different numbers on each rank."""
    words = [*tiny_words, *EXACT[:1], "TEST.EVAL_PERIOD=0"]
    straight, out = tmp_path / "straight", tmp_path / "out"
    assert train_net.main([*words, f"OUTPUT_DIR={straight}"]) == 0
    assert train_net.main([*words, "SOLVER.MAX_ITER=7"]) == 0
    ended = trained(tmp_path / "b", ranks, [*words, "--resume"])
    assert codes(ended) == [0] * ranks
    text = f"processes: 1 -> {ranks}; batches stay the same, the random numbers of dropout and the like are new"
    assert [each.out.count(text) for each in ended] == [1] + [0] * (ranks - 1)
    rates = {r["iteration"]: r["lr"] for r in records(straight)}
    assert {r["iteration"]: r["lr"] for r in records(out) if r["iteration"] != 7} == rates
    assert list(rates) == [5, 10, 14]
    for name, tensor in checkpoint(straight)["model"].items():
        torch.testing.assert_close(checkpoint(out)["model"][name], tensor, rtol=1e-4, atol=1e-6)
    drawn = []
    with preserved_rng():
        for state in checkpoint(out)["rng"]:
            set_rng_state(state)
            drawn.append((random.random(), np.random.rand(), torch.rand(1).item()))
    assert [len({*numbers}) for numbers in zip(*drawn, strict=True)] == [ranks] * 3


@pytest.mark.need("C8", "E15")
def test_resume_refuses_a_world_size_that_does_not_divide_the_batch_and_changes_no_file(
    tiny_words: list[str], tmp_path: Path
) -> None:
    assert codes(trained(tmp_path / "a", 4, [*tiny_words, "SOLVER.MAX_ITER=7"])) == [0] * 4
    before = contents(tmp_path / "out")
    assert "model_final.pth" in before
    main, *others = trained(tmp_path / "b", 3, [*tiny_words, "--resume"])
    assert main.err == (
        "error: SOLVER.IMS_PER_BATCH (command line): 8 images cannot be shared evenly by 3 processes; set it to "
        "6 or 9\n"
    )
    assert main.code == 2
    assert [(each.code, each.err) for each in others] == [(2, "")] * 2
    assert contents(tmp_path / "out") == before


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """Return the size and the modification time of each file."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


@pytest.mark.need("G2")
def test_hanging_rank_ends_the_others_after_the_timeout(
    tiny_words: list[str], tmp_path: Path, own_hook: Register
) -> None:
    def hang(trainer: Trainer) -> None:
        (tmp_path / "hangs").touch()
        time.sleep(60)

    own_hook(Do(rank=1, after=3, what=hang))
    words = [*tiny_words, "DISTRIBUTED.TIMEOUT=3"]
    ranks = Ranks(tmp_path, 2, lambda: train_net.main(words))
    main, other = ranks.processes
    while not (tmp_path / "hangs").exists() and other.is_alive():
        time.sleep(0.01)
    began = time.monotonic()
    main.join(20)
    took = time.monotonic() - began
    other.kill()
    ended, _ = ranks.end()
    assert ended.code == 5
    assert 2 < took < 10
    assert ended.err.startswith("rank 0 of 2, on ")
    assert ended.err.partition(": ")[2].startswith("another rank exited or timed out: ")
    assert ended.err.count("\n") == 1
    assert "Timed out waiting 3000ms" in ended.err


@pytest.mark.need("G3")
def test_evaluate_three_samples_on_four_ranks(tiny: Callable[..., CfgNode], tmp_path: Path) -> None:
    images = torch.tensor([[2.0, 0.0, 1.0], [0.5, 2.0, 0.0], [2.0, 0.0, 3.0]])
    labels = torch.tensor([0, 1, 1])

    def score(world: int) -> dict[str, float]:
        own = [Batch(images[i : i + 1], labels[i : i + 1]) for i in range(rank(), 3, world)]
        task = Classification(DatasetInfo(size=3, num_classes=3, channels=1, image_size=(1, 1)))
        return evaluate(torch.nn.Identity(), task, own)

    def in_group() -> dict[str, float]:
        with build_process_group(tiny()):
            return score(4)

    found = [each.result for each in Ranks(tmp_path, 4, in_group).end()]
    assert found == [found[0]] * 4
    assert found[0]["accuracy"] == pytest.approx(2 / 3, abs=1e-7)
    assert found[0]["loss"] == pytest.approx(score(1)["loss"], rel=1e-6)


def test_precise_bn_takes_statistics_over_all_ranks(tiny_words: list[str], tmp_path: Path) -> None:
    """Of the first layer, whose inputs do not depend on the division of batches."""
    words = [*tiny_words, "TEST.PRECISE_BN.ENABLED=true", "TEST.PRECISE_BN.NUM_ITER=6"]
    words += ["SOLVER.MAX_ITER=1", "SOLVER.WARMUP_ITERS=0", "SOLVER.BASE_LR=1e-9"]
    assert train_net.main([*words, f"OUTPUT_DIR={tmp_path}/one"]) == 0
    assert codes(trained(tmp_path, 2, words)) == [0, 0]
    one, two = (checkpoint(tmp_path / name)["model"] for name in ("one", "out"))
    name = next(name for name in one if name.endswith("running_mean")).removesuffix("mean")
    for each in ("mean", "var"):
        torch.testing.assert_close(two[name + each], one[name + each], rtol=1e-4, atol=1e-5)


@pytest.mark.need("E15")
def test_batch_that_ranks_cannot_share_is_refused_once_with_the_nearest_sizes(
    tiny_words: list[str], tmp_path: Path
) -> None:
    main, other = trained(tmp_path, 2, [*tiny_words, "SOLVER.IMS_PER_BATCH=9", "SOLVER.GRAD_ACCUM_STEPS=3"])
    assert (main.code, other.code, other.err) == (2, 2, "")
    assert main.err == (
        "error: SOLVER.IMS_PER_BATCH (command line): 9 images cannot be shared evenly by 2 processes, in 3 "
        "micro-batches each; set it to 6 or 12\n"
    )


def test_config_error_on_rank_0_ends_all_ranks_and_is_printed_once(tiny_words: list[str], tmp_path: Path) -> None:
    assert train_net.main(tiny_words) == 0
    main, other = trained(tmp_path, 2, tiny_words)
    assert (main.code, other.code, other.err) == (2, 2, "")
    assert main.err.startswith(f"error: {tmp_path}/out holds the checkpoints of an earlier run; give --resume")


def test_config_error_on_another_rank_is_printed_by_that_rank(
    tiny_words: list[str], tmp_path: Path, own_hook: Register
) -> None:
    def mistake(trainer: Trainer) -> None:
        raise ConfigError("images/7.jpg cannot be read")

    own_hook(Do(rank=1, after=3, what=mistake))
    main, other = trained(tmp_path, 2, tiny_words)
    assert (main.code, other.code) == (5, 2)
    assert other.err == "error: rank 1: images/7.jpg cannot be read\n"


def test_raise_together_passes_an_error_to_ranks_in_an_inner_block(
    tiny: Callable[..., CfgNode], tmp_path: Path
) -> None:
    """As when only one machine lacks the weights: its ranks leave before the others load data in turn."""

    def run() -> None:
        with build_process_group(tiny()), raise_together():
            if rank() == 1:
                raise ConfigError("MODEL.WEIGHTS: no such file: a.pth")
            local_rank_zero_first(lambda: None)

    main, other = Ranks(tmp_path, 2, run).end()
    assert (main.code, other.code, other.err) == (2, 2, "")
    assert main.err == "error: rank 1: MODEL.WEIGHTS: no such file: a.pth\n"


@pytest.mark.parametrize(("parallel", "lacks"), [("ddp", 1), pytest.param("fsdp", 0, marks=needs_sharding)])
def test_eval_only_refuses_weights_that_one_rank_lacks(
    tiny_words: list[str], tmp_path: Path, parallel: str, lacks: int
) -> None:
    main, other = evaluated(tiny_words, tmp_path, parallel, lacks)
    assert (main.code, other.code, other.err) == (2, 2, "")
    who = "" if lacks == 0 else f"rank {lacks}: "
    text = f"error: {who}MODEL.WEIGHTS (command line): no such file: {tmp_path}/weights{lacks}.pth\n"
    assert main.err == text


@needs_sharding
def test_eval_only_with_fsdp_reads_weights_on_rank_0_alone(tiny_words: list[str], tmp_path: Path) -> None:
    main, other = evaluated(tiny_words, tmp_path, "fsdp", lacks=1)
    assert (main.code, other.code, other.err) == (0, 0, "")
    same, _ = evaluated(tiny_words, tmp_path, "ddp", lacks=2)
    scores, others = (each.out.splitlines()[-1].partition("] ")[2] for each in (main, same))
    assert ": accuracy " in scores
    assert scores == others


def evaluated(words: list[str], folder: Path, parallel: str, lacks: int) -> list[Ended]:
    """Evaluate with a file of weights for each of two ranks, of which rank `lacks` has none; with BatchNorm."""
    torch.manual_seed(0)
    model = build_model(resolve_config(cfg_of(words)))
    with torch.no_grad():
        for buffer in model.buffers():
            buffer += 1
    for number in {0, 1} - {lacks}:
        torch.save(model.state_dict(), folder / f"weights{number}.pth")
    (folder / f"weights{lacks}.pth").unlink(missing_ok=True)

    def run() -> int:
        own = [f"MODEL.PARALLEL={parallel}", f"MODEL.WEIGHTS={folder}/weights{os.environ['RANK']}.pth"]
        return train_net.main([*words, *own, "--eval-only"])

    return Ranks(folder, 2, run).end()


@pytest.mark.need("D14")
def test_early_stopping_ends_two_ranks_at_the_iteration_of_one_process(
    tiny_words: list[str], tmp_path: Path
) -> None:
    """Both stop after the evaluation in which patience runs out, however fast updates are."""
    words = [
        *tiny_words,
        *EXACT[:1],
        "TEST.EVAL_PERIOD=2",
        "TEST.BEST.METRIC=noise.npz/accuracy",
        "LOG_PERIOD=100",
    ]
    words += ["TEST.EARLY_STOPPING.PATIENCE=2"]
    assert train_net.main([*words, f"OUTPUT_DIR={tmp_path}/one"]) == 0
    main, other = trained(tmp_path, 2, words)
    assert (main.code, other.code) == (0, 0)
    assert checkpoint(tmp_path / "out")["iteration"] == checkpoint(tmp_path / "one")["iteration"] < 14
    assert (tmp_path / "out" / "model_best.pth").exists()
    assert records(tmp_path / "out")[-1]["iteration"] == checkpoint(tmp_path / "out")["iteration"]


def test_bf16_gradients_are_rounded_and_train_similar_weights(tiny_words: list[str], tmp_path: Path) -> None:
    words = [*tiny_words, *EXACT[:1], "SOLVER.MAX_ITER=9"]
    assert codes(trained(tmp_path / "a", 2, words)) == [0, 0]
    rounded = [*words, "DISTRIBUTED.GRADIENTS=bf16", f"OUTPUT_DIR={tmp_path}/rounded"]
    assert codes(trained(tmp_path / "b", 2, rounded)) == [0, 0]
    a, b = (checkpoint(tmp_path / name)["model"] for name in ("out", "rounded"))
    assert not all(torch.equal(a[name], b[name]) for name in a)
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0.05, atol=0.01)


@pytest.mark.need("E15", "C8")
def test_scaled_run_keeps_batch_learning_rate_and_length_on_another_number_of_ranks(
    tiny_words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*tiny_words, "SOLVER.REFERENCE_WORLD_SIZE=1", "SOLVER.CHECKPOINT_PERIOD=4"]
    main, _ = trained(tmp_path, 2, words)
    assert "SOLVER.IMS_PER_BATCH: 8 -> 16" in main.out
    assert "plan: 7 iterations" in main.out
    out = tmp_path / "out"
    for name in ("model_final.pth", "model_0000006.pth", "last_checkpoint"):
        (out / name).unlink()
    assert train_net.main([*words, "--resume"]) == 0
    said = capsys.readouterr().out
    assert "SOLVER.IMS_PER_BATCH: 8 -> 16" in said
    assert "continuing after iteration 6\n" in said
    assert "changed since the checkpoint" not in said
    assert checkpoint(out)["iteration"] == 7
