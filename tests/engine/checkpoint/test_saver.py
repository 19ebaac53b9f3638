"""Saves in the background: the state of their iteration, one at a time, and a disk that fails."""

from __future__ import annotations

import functools
import json
import logging
import shutil
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from warmstart import engine
from warmstart.config import CfgNode, ConfigError, disk
from warmstart.engine import (
    CheckpointHook,
    FolderHook,
    HookBase,
    SaveError,
    Trainer,
    build_trainer,
    find_start,
    finish_saves,
    load_checkpoint,
    load_newest,
    load_start,
    prepare_folder,
    resolve_config,
    run_tool,
)
from warmstart.engine.checkpoint.content import content_bytes, snapshot
from warmstart.engine.checkpoint.run_folder import RunFolder
from warmstart.engine.checkpoint.saver import Save
from warmstart.tools import train_net

from ..dying import assert_same_bits
from ..faults import target

Tiny = Callable[..., CfgNode]


def train(cfg: CfgNode, *hooks: HookBase, resume: str | None = None) -> Trainer:
    """Train with more hooks before the default ones."""
    trainer = engine.train(cfg, resume=resume, hooks=hooks)
    assert trainer is not None
    return trainer


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("model_*"))


def warnings(logged: list[logging.LogRecord]) -> list[str]:
    return [record.getMessage() for record in logged if record.levelname == "WARNING"]


class At(HookBase):
    """Does something after some iterations."""

    def __init__(self, **actions: Callable[[Trainer], object]) -> None:
        self.actions = {int(name.lstrip("_")): action for name, action in actions.items()}

    def after_step(self, trainer: Trainer) -> None:
        if trainer.iteration in self.actions:
            self.actions[trainer.iteration](trainer)


class Disk:
    """A disk that is slow, full or broken while the test says so, and that notes what happens on it."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.open = threading.Event()
        self.open.set()
        self.error: OSError | None = None
        self.waiting = threading.Event()
        self.created: list[str] = []
        create = disk.create

        def wait_or_fail(path: Path) -> Any:
            self.waiting.set()
            assert self.open.wait(30)
            if self.error is not None:
                raise self.error
            self.created.append(target(path))
            return create(path)

        patch.setattr(disk, "create", wait_or_fail)


@pytest.fixture
def drive(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def test_a_snapshot_shares_nothing_with_the_state_and_keeps_bits_strides_ties_and_versions() -> None:
    weight = torch.randn(4, 3, 5, 5).to(memory_format=torch.channels_last)
    model = torch.nn.Module()
    model.a = torch.nn.Parameter(weight)
    model.b = model.a
    state = {"model": model.state_dict(), "n": [1, (2.5, "x", None)], "step": torch.tensor(3)}
    copied = snapshot(state)
    before = weight.clone()
    with torch.no_grad():
        model.a.add_(1)
    state["n"].append(4)  # type: ignore[attr-defined]
    state["step"] += 1
    assert torch.equal(copied["model"]["a"], before)
    assert copied["model"]["a"].stride() == weight.stride()
    assert copied["model"]["a"] is copied["model"]["b"]
    assert not copied["model"]["a"].requires_grad
    assert copied["model"]._metadata == state["model"]._metadata  # type: ignore[attr-defined]
    assert copied["n"] == [1, (2.5, "x", None)]
    assert copied["step"] == 3


def test_tensors_at_one_place_that_are_not_one_tensor_stay_apart() -> None:
    base = torch.arange(6.0)
    empty = torch.empty(0)
    copied = snapshot(
        {"row": base[:3], "column": base.view(2, 3)[:, 0], "whole": base, "none": [empty, empty[:0]]}
    )
    assert [copied[name].tolist() for name in ("row", "column", "whole")] == [
        [0, 1, 2],
        [0, 3],
        [0, 1, 2, 3, 4, 5],
    ]
    assert content_bytes(copied) == 4 * (3 + 2 + 6)


def test_one_memory_read_in_two_ways_is_two_tensors() -> None:
    numbers = torch.tensor([1, 2, 3], dtype=torch.int32)
    z = torch.tensor([1 + 2j, 3 - 4j])
    views = {"int": numbers, "float": numbers.view(torch.float32), "z": z, "conjugate": z.conj()}
    views |= {"imaginary": z.imag, "negative": z.conj().imag}
    copied = snapshot(views)
    for name, view in views.items():
        assert copied[name].dtype == view.dtype
        assert copied[name].tolist() == view.tolist(), name
        assert (copied[name].is_conj(), copied[name].is_neg()) == (False, False)
    assert content_bytes(copied) == content_bytes(views) == 12 + 12 + 16 + 16 + 8 + 8


def test_tied_tensors_are_counted_once() -> None:
    weight = torch.zeros(10)
    model = torch.nn.Linear(5, 4)
    tied = torch.nn.Sequential(model, model)
    assert content_bytes({"a": weight, "b": [weight, weight.view(10)], "c": weight.view(2, 5)}) == 40 + 40
    assert content_bytes(tied.state_dict()) == content_bytes(snapshot(tied.state_dict())) == 4 * 24
    assert content_bytes([weight.to_sparse(), torch.empty(0)]) == 40


def test_a_snapshot_goes_into_the_memory_of_an_earlier_one_where_it_fits() -> None:
    tied = torch.ones(3)
    earlier = snapshot({"a": tied, "b": tied, "c": torch.ones(3), "d": torch.ones(2, 3), "e": torch.ones(4)})
    later = {"a": torch.full((3,), 1.5), "b": torch.full((3,), 2.5), "c": torch.full((3,), 3.5)}
    later |= {"d": torch.full((3, 2), 4.5).t(), "e": torch.full((4,), 5.5, dtype=torch.float64)}
    copied = snapshot(later, spare=earlier)
    assert {name: tensor.unique().tolist() for name, tensor in copied.items()} == {
        **{"a": [1.5], "b": [2.5], "c": [3.5], "d": [4.5], "e": [5.5]}
    }
    assert {name: (tensor.stride(), tensor.dtype) for name, tensor in copied.items()} == {
        name: (tensor.stride(), tensor.dtype) for name, tensor in later.items()
    }
    places = {tensor.data_ptr() for tensor in copied.values()}
    assert len(places) == 5
    assert places & {tensor.data_ptr() for tensor in earlier.values()} == {
        earlier["a"].data_ptr(),
        earlier["c"].data_ptr(),
    }


@pytest.mark.gpu
def test_a_snapshot_of_cuda_tensors_is_complete_when_it_returns() -> None:
    weight = torch.full((4096, 4096), 1.0, device="cuda")
    copied = snapshot({"w": weight})
    weight.zero_()
    assert copied["w"].is_pinned()
    assert bool((copied["w"] == 1).all())


class Odd(HookBase):
    """Has a state that cannot be saved from an iteration on, and none at all before its first step."""

    def __init__(self, first: int, needs_a_step: bool = False) -> None:
        self.first = first
        self.iteration = -1 if needs_a_step else 0

    def after_step(self, trainer: Trainer) -> None:
        self.iteration = trainer.iteration

    def state_dict(self) -> dict[str, Any]:
        if self.iteration < 0:
            raise AttributeError("no step yet")
        return {"where": Path() if self.iteration >= self.first else ""}


@pytest.mark.need("D7")
@pytest.mark.parametrize(
    ("odd", "seen"), [(Odd(0), 0), (Odd(8), 9), (Odd(20), 14), (Odd(1, needs_a_step=True), 3)]
)
def test_checkpoint_hook_refuses_a_state_that_cannot_be_saved_before_the_first_update_or_at_its_first_save(
    tiny: Tiny, tmp_path: Path, odd: Odd, seen: int
) -> None:
    cfg = resolve_config(tiny("SOLVER.CHECKPOINT_PERIOD", 3))
    trainer = build_trainer(cfg)
    trainer.hooks[-1:-1] = [odd]
    prepare_folder(cfg)
    if odd.first == 20:
        trainer.train()
    else:
        with pytest.raises(TypeError, match=r"^hooks\.Odd\.where is a \w*Path: a checkpoint holds only"):
            trainer.train()
        finish_saves()
        assert len(checkpoints(tmp_path / "out")) == max(0, seen // 3 - 1)
    assert trainer.iteration == seen


@pytest.mark.need("D7")
def test_torchs_own_scheduler_with_a_counter_is_saved_and_resumed(tmp_path: Path) -> None:
    def trainer(length: int) -> Trainer:
        model = torch.nn.Linear(1, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 2, 4])
        hook = CheckpointHook(0, tmp_path)
        return Trainer(Losses(model), optimizer, scheduler, [(torch.ones(1, 1),)], [hook], max_iter=length)

    trainer(3).train()
    again = trainer(5)
    load_start(again, load_checkpoint(tmp_path / "model_final.pth"))
    again.train()
    assert_same_bits(again.scheduler.state_dict()["milestones"], Counter({2: 2, 4: 1}))


class Losses(torch.nn.Module):
    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": self.net(x).mean()}


def test_checkpoint_hook_without_constants_writes_complete_files_with_versions(
    tiny: Tiny, tmp_path: Path, logged: list[logging.LogRecord]
) -> None:
    trainer = build_trainer(tiny("SOLVER.MAX_ITER", 10))
    trainer.hooks = [CheckpointHook(4, tmp_path)]
    trainer.train()
    start = load_checkpoint(tmp_path / "model_0000003.pth")
    assert start["config"] == {}
    assert start["versions"]["torch"] == torch.__version__
    load_start(trainer, start)
    assert warnings(logged) == []


@pytest.mark.need("D13")
def test_a_save_holds_the_state_of_its_iteration_while_training_continues(
    tiny: Tiny, tmp_path: Path, drive: Disk
) -> None:
    """The disk sleeps from iteration 5 on, and wakes at 9: four updates later."""
    reference, out = tmp_path / "reference", tmp_path / "out"
    train(tiny("SOLVER.CHECKPOINT_PERIOD", 5, "SOLVER.EMA.ENABLED", True, "OUTPUT_DIR", str(reference)))
    seen = []

    def look(trainer: Trainer) -> None:
        seen.append(checkpoints(out))
        drive.open.set()

    hook = At(_4=lambda trainer: drive.open.clear(), _9=look)
    train(tiny("SOLVER.CHECKPOINT_PERIOD", 5, "SOLVER.EMA.ENABLED", True), hook)
    assert seen == [[]]
    for name in ("model_0000004.pth", "model_0000009.pth", "model_final.pth"):
        ours, theirs = load_checkpoint(out / name), load_checkpoint(reference / name)
        for part in ("model", "optimizer", "ema", "rng"):
            assert_same_bits(ours[part], theirs[part], part)


def test_a_save_waits_for_the_previous_one(tiny: Tiny, tmp_path: Path, drive: Disk) -> None:
    """At iteration 6 the save of 5 still sleeps; a timer wakes it."""
    threads = []

    def count(trainer: Trainer) -> None:
        threads.append(sum(isinstance(thread, Save) for thread in threading.enumerate()))

    def sleep(trainer: Trainer) -> None:
        drive.open.clear()
        threading.Timer(0.3, drive.open.set).start()

    train(tiny("SOLVER.CHECKPOINT_PERIOD", 1), At(_5=sleep, _6=count, _7=count, _8=count))
    assert all(number <= 1 for number in threads)
    numbered = [name for name in drive.created if name.startswith("model_0")]
    assert numbered == [f"model_{number:07d}.pth" for number in range(14)]


def test_train_returns_when_the_last_files_and_the_pointer_are_written(
    tiny: Tiny, tmp_path: Path, drive: Disk, logged: list[logging.LogRecord]
) -> None:
    def sleep(trainer: Trainer) -> None:
        drive.open.clear()
        threading.Timer(0.3, drive.open.set).start()

    train(tiny(), At(_14=sleep))
    assert not any(isinstance(thread, Save) for thread in threading.enumerate())
    last = drive.created[-4:]
    last.remove("model_final.pth")  # the copy is begun while the numbered file is synced
    assert last == ["checkpoints.json", "model_0000013.pth", "last_checkpoint"]
    assert (tmp_path / "out" / "last_checkpoint").read_text() == "model_0000013.pth"
    for name in ("model_final.pth", "model_0000013.pth"):
        assert load_checkpoint(tmp_path / "out" / name)["iteration"] == 14
    assert [r.getMessage() for r in logged if "saved" in r.getMessage()] == [
        f"saved {tmp_path}/out/model_0000013.pth"
    ]


def test_an_exception_leaves_no_half_written_file_where_the_tool_or_a_new_start_looks(
    tiny_words: list[str], tmp_path: Path, drive: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fails(HookBase):
        def before_step(self, trainer: Trainer) -> None:
            if trainer.iteration == 5:
                drive.open.clear()
            if trainer.iteration == 6:
                threading.Timer(0.3, drive.open.set).start()
                raise ZeroDivisionError

    monkeypatch.setattr("warmstart.engine.run.default_hooks._HOOKS", {"fails": lambda cfg: Fails()})
    with pytest.raises(ZeroDivisionError):
        train_net.main([*tiny_words, "SOLVER.CHECKPOINT_PERIOD=6"])
    assert not any(isinstance(thread, Save) for thread in threading.enumerate())
    found = load_newest(tmp_path / "out")
    assert found is not None
    assert found[1]["iteration"] == 6
    assert not list((tmp_path / "out").glob(".*"))


def test_a_start_waits_for_what_the_process_still_saves(tiny: Tiny, drive: Disk) -> None:
    def fail(trainer: Trainer) -> None:
        threading.Timer(0.3, drive.open.set).start()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train(tiny("SOLVER.CHECKPOINT_PERIOD", 6), At(_5=lambda trainer: drive.open.clear(), _7=fail))
    start = find_start(resolve_config(tiny()), "", overwrite=False)
    assert start is not None
    assert start[1]["iteration"] == 6


def test_a_mistake_in_the_thread_is_raised_in_the_run(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(folder: RunFolder) -> None:
        raise ZeroDivisionError("in the thread")

    monkeypatch.setattr(RunFolder, "prune", broken)
    with pytest.raises(ZeroDivisionError, match="in the thread"):
        train(tiny("SOLVER.CHECKPOINT_PERIOD", 3))


@pytest.mark.need("D11")
def test_save_as_saves_the_checkpoint_under_another_name(tiny: Tiny, tmp_path: Path) -> None:
    asked: list[set[str]] = []

    def ask(trainer: Trainer) -> None:
        trainer.save_as.add("model_best.pth")

    trainer = train(tiny(), At(_3=ask, _9=ask, _10=lambda trainer: asked.append(set(trainer.save_as))))
    out = tmp_path / "out"
    assert asked == [set()]
    assert trainer.save_as == set()
    assert checkpoints(out) == [
        *("model_0000002.pth", "model_0000008.pth", "model_0000013.pth", "model_best.pth", "model_final.pth")
    ]
    best, numbered = load_checkpoint(out / "model_best.pth"), load_checkpoint(out / "model_0000008.pth")
    assert_same_bits(best, numbered)
    assert (out / "last_checkpoint").read_text() == "model_0000013.pth"


@pytest.mark.need("S3")
def test_the_pointer_names_the_number_of_a_best_checkpoint(tiny: Tiny, tmp_path: Path) -> None:
    named = []

    def ask(trainer: Trainer) -> None:
        trainer.save_as.add("model_best.pth")

    def look(trainer: Trainer) -> None:
        finish_saves()
        named.append((tmp_path / "out" / "last_checkpoint").read_text())

    train(tiny(), At(_3=ask, _4=look))
    assert named == ["model_0000002.pth"]


@pytest.mark.need("D13")
def test_a_hook_after_the_checkpoint_hook_is_saved_with_its_state_after_the_iteration(
    tiny: Tiny, tmp_path: Path
) -> None:
    class Count(HookBase):
        steps = 0

        def after_step(self, trainer: Trainer) -> None:
            self.steps += 1

        def state_dict(self) -> dict[str, Any]:
            return {"steps": self.steps}

    trainer = build_trainer(tiny())
    trainer.hooks = [CheckpointHook(4, tmp_path), Count()]
    trainer.train()
    saved = [load_checkpoint(path)["hooks"]["Count"]["steps"] for path in sorted(tmp_path.glob("model_0*"))]
    assert saved == [4, 8, 12, 14]


@pytest.mark.need("E1")
def test_a_run_that_is_stopped_replaces_the_final_checkpoint_of_a_shorter_one(tiny: Tiny, tmp_path: Path) -> None:
    train(tiny("SOLVER.MAX_ITER", 10, "SOLVER.STEPS", [9]))
    final = tmp_path / "out" / "model_final.pth"
    assert load_checkpoint(final)["iteration"] == 10
    trainer = train(tiny(), At(_11=lambda trainer: trainer.request_stop("enough")), resume="")
    assert trainer.iteration == 12
    assert_same_bits(load_checkpoint(final), load_checkpoint(tmp_path / "out" / "model_0000011.pth"))


@pytest.mark.need("D14")
def test_an_interrupted_or_not_yet_evaluated_run_has_no_final_checkpoint(tiny: Tiny, tmp_path: Path) -> None:
    trainer = build_trainer(tiny())
    trainer.hooks = []
    trainer.iteration, trainer.interrupted = 7, 15
    CheckpointHook(0, tmp_path).after_step(trainer)
    trainer.iteration, trainer.pending = 14, True
    CheckpointHook(0, tmp_path).after_step(trainer)
    assert checkpoints(tmp_path) == ["model_0000006.pth", "model_0000013.pth"]
    trainer.is_last_step, trainer.pending, trainer.interrupted = True, False, 0
    CheckpointHook(0, tmp_path).after_step(trainer)
    assert load_checkpoint(tmp_path / "model_final.pth")["iteration"] == 14


@pytest.mark.need("D14")
def test_an_interrupted_iteration_is_on_the_disk_when_after_step_returns(
    tiny: Tiny, tmp_path: Path, drive: Disk
) -> None:
    def sleep(trainer: Trainer) -> None:
        trainer.interrupted = 15
        drive.open.clear()
        threading.Timer(0.3, drive.open.set).start()

    hook = CheckpointHook(0, tmp_path)
    trainer = build_trainer(tiny())
    trainer.hooks = []
    trainer.iteration = 7
    sleep(trainer)
    hook.after_step(trainer)
    assert load_checkpoint(tmp_path / "model_0000006.pth")["iteration"] == 7
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000006.pth"
    assert not (tmp_path / "model_final.pth").exists()


def full(*arguments: Any) -> OSError:
    return OSError(28, "No space left on device")


@pytest.mark.need("D5")
def test_a_save_that_fails_is_one_line_and_the_next_period_tries_again(
    tiny: Tiny, tmp_path: Path, drive: Disk, logged: list[logging.LogRecord]
) -> None:
    def break_it(trainer: Trainer) -> None:
        finish_saves()  # of iteration 3
        drive.error = full()

    def mend_it(trainer: Trainer) -> None:
        finish_saves()
        drive.error = None

    trainer = train(tiny("SOLVER.CHECKPOINT_PERIOD", 3), At(_5=break_it, _8=mend_it))
    assert trainer.iteration == 14
    out = tmp_path / "out"
    assert checkpoints(out) == [
        *("model_0000002.pth", "model_0000008.pth", "model_0000011.pth", "model_0000013.pth", "model_final.pth")
    ]
    needed = content_bytes(load_checkpoint(out / "model_0000008.pth"))
    (said,) = warnings(logged)
    before, free, after = said.partition(", ")[0], said.partition(", ")[2].partition(" are free; ")[0], ""
    assert (
        before
        == f"{out}/model_0000005.pth could not be saved: No space left on device; {needed:,} bytes are needed"
    )
    assert int(free.replace(",", "")) > 0
    after = said.partition(" are free; ")[2]
    assert after == "the newest is model_0000002.pth; training continues and the next checkpoint tries again"


@pytest.mark.need("D5", "D12")
def test_the_best_checkpoint_that_could_not_be_written_is_written_with_the_next_save(
    tiny: Tiny, tmp_path: Path, drive: Disk
) -> None:
    weights = {}

    def ask_and_break(trainer: Trainer) -> None:
        finish_saves()
        trainer.save_as.add("model_best.pth")
        weights.update({name: tensor.clone() for name, tensor in trainer.model.state_dict().items()})
        drive.error = full()

    def mend(trainer: Trainer) -> None:
        finish_saves()
        drive.error = None

    train(tiny("SOLVER.CHECKPOINT_PERIOD", 3), At(_5=ask_and_break, _7=mend))
    best = load_checkpoint(tmp_path / "out" / "model_best.pth")
    assert best["iteration"] == 5
    for name, tensor in weights.items():
        assert torch.equal(best["model"][name], tensor), name
    assert not (tmp_path / "out" / "model_0000004.pth").exists()


@pytest.mark.need("D5", "D12")
def test_contents_that_could_not_be_written_wait_for_the_save_that_can_write_them(
    tiny: Tiny, tmp_path: Path, drive: Disk
) -> None:
    """The best of iteration 5 cannot be written then, nor at 6, nor at 9; at 12 it can."""

    def ask_and_break(trainer: Trainer) -> None:
        finish_saves()
        trainer.save_as.add("model_best.pth")
        drive.error = full()

    def mend(trainer: Trainer) -> None:
        finish_saves()
        drive.error = None

    train(tiny("SOLVER.CHECKPOINT_PERIOD", 3), At(_5=ask_and_break, _10=mend))
    for iteration, name in ((5, "model_best.pth"), (12, "model_0000011.pth"), (14, "model_final.pth")):
        assert load_checkpoint(tmp_path / "out" / name)["iteration"] == iteration
    assert not (tmp_path / "out" / "model_0000008.pth").exists()


@pytest.mark.parametrize("name", ["../x.pth", "/tmp/x.pth", ".x.pth", "x", "model_0000001.pth", "a/b.pth", ""])
def test_save_as_refuses_a_name_that_is_not_of_a_checkpoint_in_the_folder(
    tiny: Tiny, tmp_path: Path, name: str
) -> None:
    with pytest.raises(ValueError, match="cannot be the name of a checkpoint; one is such as model_best.pth"):
        train(tiny(), At(_3=lambda trainer: trainer.save_as.add(name)))
    assert checkpoints(tmp_path / "out") == []


@pytest.mark.need("D5")
def test_checkpoint_hook_refuses_a_full_drive_before_training(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "free_bytes", lambda folder: 20_000)
    with pytest.raises(ConfigError, match="two checkpoints need .* bytes, but 20,000 are free on the drive of "):
        CheckpointHook(0, tmp_path).before_train(build_trainer(tiny()))


@pytest.mark.need("D1")
@pytest.mark.parametrize("by", ["prepare_folder", "FolderHook"])
def test_a_start_deletes_temporary_files_of_a_killed_save(tiny: Tiny, tmp_path: Path, by: str) -> None:
    cfg, left = resolve_config(tiny()), tmp_path / "out" / ".model_0000002.pth.77.warmstart.tmp"
    left.parent.mkdir()
    left.touch()
    if by == "FolderHook":
        FolderHook(tmp_path / "out").before_train(build_trainer(cfg))
    else:
        prepare_folder(cfg)
    assert not left.exists()


@pytest.mark.need("D5")
def test_too_little_space_is_seen_before_anything_is_written(
    tiny: Tiny, tmp_path: Path, drive: Disk, monkeypatch: pytest.MonkeyPatch, logged: list[logging.LogRecord]
) -> None:
    def run_full(trainer: Trainer) -> None:
        finish_saves()
        drive.created.clear()
        monkeypatch.setattr(disk, "free_bytes", lambda folder: 1000)

    def make_space(trainer: Trainer) -> None:
        finish_saves()
        assert drive.created == []
        monkeypatch.setattr(disk, "free_bytes", lambda folder: 10**9)

    train(tiny("SOLVER.CHECKPOINT_PERIOD", 3), At(_5=run_full, _7=make_space))
    (said,) = warnings(logged)
    assert "model_0000005.pth could not be saved: No space left on device; " in said
    assert " bytes are needed, 1,000 are free; the newest is model_0000002.pth; training continues" in said


@pytest.mark.need("D5")
def test_a_last_save_that_fails_ends_the_run_with_exit_code_4(
    tiny_words: list[str],
    tmp_path: Path,
    drive: Disk,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def break_it(trainer: Trainer) -> None:
        finish_saves()
        drive.error = full()

    monkeypatch.setattr("warmstart.engine.run.default_hooks._HOOKS", {"at": lambda cfg: At(_14=break_it)})
    words = [*tiny_words, "SOLVER.CHECKPOINT_PERIOD=6"]
    with pytest.raises(SystemExit) as caught:
        run_tool(functools.partial(train_net.main, words))
    assert caught.value.code == 4
    printed = capsys.readouterr()
    out = tmp_path / "out"
    assert printed.err.startswith(
        f"error: {out}/model_0000013.pth, {out}/model_final.pth could not be saved: No space left on device; "
    )
    assert printed.err.endswith(
        " are free; the newest is model_0000011.pth; make space, and --resume does the rest again\n"
    )
    assert printed.err.count("\n") == 1
    assert "could not be saved" not in printed.out
    drive.error = None
    monkeypatch.setattr("warmstart.engine.run.default_hooks._HOOKS", {})
    assert train_net.main([*words, "--resume"]) == 0
    assert load_checkpoint(out / "model_final.pth")["iteration"] == 14


def test_an_interrupted_run_whose_save_fails_says_so(tiny: Tiny, tmp_path: Path, drive: Disk) -> None:
    def signalled(trainer: Trainer) -> None:
        trainer.interrupted = 15
        drive.error = full()

    with pytest.raises(SaveError, match="model_0000004.pth could not be saved: No space left on device"):
        train(tiny(), At(_5=signalled))


@pytest.mark.need("D5")
def test_a_run_does_not_start_where_two_checkpoints_have_no_space(
    tiny_words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1,583 parameters and 59 numbers of BatchNorm, once more for the momentum of the first, in each file.

    One is the numbered file, one its copy as the final one and, if it is asked for, one its copy as the best.
    """
    monkeypatch.setattr(disk, "free_bytes", lambda folder: 20_000)
    with pytest.raises(ConfigError) as error:
        train_net.main(tiny_words)
    state = 1583 * 4 + 56 * 4 + 3 * 8
    assert str(error.value) == (
        f"OUTPUT_DIR (command line): two checkpoints need {2 * (state + 1583 * 4):,} bytes, but 20,000 "
        f"are free on the drive of {tmp_path}/out; make space, or name a folder on another drive"
    )
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match="need .* bytes, but 20,000 are free on the drive of"):
        train_net.main([*tiny_words, "SOLVER.OPTIMIZER=AdamW"])
    with pytest.raises(ConfigError, match=f"three checkpoints need {3 * (state + 1583 * 4):,} bytes, but"):
        train_net.main([*tiny_words, "TEST.BEST.METRIC=noise.npz/accuracy"])


@pytest.mark.need("D5")
def test_prepare_folder_does_not_count_the_overwritten_run_as_free_space(
    tiny_words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_net.main(tiny_words)
    before = sorted((tmp_path / "out").iterdir())
    monkeypatch.setattr(disk, "free_bytes", lambda folder: 20_000)
    with pytest.raises(ConfigError, match="two checkpoints need .* bytes, but 20,000 are free on the drive of "):
        train_net.main([*tiny_words, "--overwrite"])
    assert sorted((tmp_path / "out").iterdir()) == before


@pytest.mark.need("D3", "S4")
def test_the_newest_two_stay_by_number_over_three_starts(tiny: Tiny, tmp_path: Path) -> None:
    """Iterations 9, 10 and 100: by name or by text the order would be another."""
    out = tmp_path / "out"
    words = ("SOLVER.CHECKPOINT_KEEP", 2, "SOLVER.CHECKPOINT_PERIOD", 1, "SOLVER.STEPS", [4], "LOG_PERIOD", 50)
    kept = []
    for length in (9, 10, 100):
        train(tiny(*words, "SOLVER.MAX_ITER", length), resume="")
        (out / "notes.txt").write_text("mine")
        (out / "model_0000001.pth").write_bytes(b"somebody else's")
        (out / "model_mine.pth").write_bytes(b"mine")
        (out / "model_0000003.pth.cut").write_bytes(b"set aside")
        kept.append(
            [name for name in checkpoints(out) if name.startswith("model_0") and name != "model_0000001.pth"]
        )
    assert [[name for name in names if name.endswith(".pth")] for names in kept] == [
        ["model_0000003.pth", "model_0000007.pth", "model_0000008.pth"],  # the first is before the decay
        ["model_0000003.pth", "model_0000008.pth", "model_0000009.pth"],
        ["model_0000003.pth", "model_0000098.pth", "model_0000099.pth"],
    ]
    assert (out / "model_0000001.pth").read_bytes() == b"somebody else's"
    for name in ("notes.txt", "model_mine.pth", "model_0000003.pth.cut", "model_final.pth"):
        assert (out / name).exists(), name
    assert json.loads((out / "checkpoints.json").read_text())["checkpoints"][-1] == "model_0000099.pth"
    assert RunFolder(out).manifest() == ["model_0000003.pth", "model_0000098.pth", "model_0000099.pth"]


@pytest.mark.need("D3")
def test_the_best_the_last_and_what_the_pointer_names_are_never_deleted(tiny: Tiny, tmp_path: Path) -> None:
    def ask(trainer: Trainer) -> None:
        trainer.save_as.add("model_best.pth")

    words = ("SOLVER.CHECKPOINT_KEEP", 1, "SOLVER.CHECKPOINT_PERIOD", 2)
    train(tiny(*words), At(_3=ask))
    out = tmp_path / "out"
    assert checkpoints(out) == ["model_0000007.pth", "model_0000013.pth", "model_best.pth", "model_final.pth"]
    assert load_checkpoint(out / "model_best.pth")["iteration"] == 3
    (out / "last_checkpoint").write_text("model_0000013.pth")
    shutil.copy(out / "model_0000013.pth", out / "model_0000099.pth")
    (out / "checkpoints.json").write_text('{"checkpoints": ["model_0000013.pth", "model_0000099.pth"]}')
    RunFolder(out, keep=1).prune()
    assert (out / "model_0000013.pth").exists()


@pytest.mark.need("D4")
def test_a_run_resumed_in_another_folder_deletes_nothing_of_the_old_one(tiny: Tiny, tmp_path: Path) -> None:
    old = tmp_path / "old"
    train(tiny("OUTPUT_DIR", str(old), "SOLVER.CHECKPOINT_PERIOD", 2))
    before = {path.name: path.read_bytes() for path in old.glob("[cml]*[!t]")}  # but log.txt
    assert len(before) == 12
    keep = ("SOLVER.CHECKPOINT_KEEP", 1, "SOLVER.CHECKPOINT_PERIOD", 2)
    train(tiny(*keep, "OUTPUT_DIR", str(tmp_path / "new")), resume=str(old / "model_0000003.pth"))
    assert {name: (old / name).read_bytes() for name in before} == before
    assert checkpoints(tmp_path / "new") == ["model_0000007.pth", "model_0000013.pth", "model_final.pth"]


@pytest.mark.need("D3", "D4")
def test_in_a_copied_folder_the_copies_are_the_runs_own(tiny: Tiny, tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    train(tiny("OUTPUT_DIR", str(old), "SOLVER.CHECKPOINT_PERIOD", 5))
    shutil.copytree(old, new)
    words = ("SOLVER.MAX_ITER", 16, "SOLVER.CHECKPOINT_KEEP", 2, "SOLVER.CHECKPOINT_PERIOD", 5)
    train(tiny(*words, "OUTPUT_DIR", str(new)), resume="")
    assert checkpoints(new) == ["model_0000004.pth", "model_0000014.pth", "model_0000015.pth", "model_final.pth"]
    assert checkpoints(old) == ["model_0000004.pth", "model_0000009.pth", "model_0000013.pth", "model_final.pth"]


@pytest.mark.need("D4")
@pytest.mark.parametrize(
    "text", ["", "{", "[1]", '{"checkpoints": 3}', '{"checkpoints": [1]}', '{"checkpoints": null}', "\xff"]
)
def test_manifest_of_a_damaged_file_is_empty_with_a_warning(
    tmp_path: Path, text: str, logged: list[logging.LogRecord]
) -> None:
    (tmp_path / "checkpoints.json").write_text(text, encoding="latin-1")
    (tmp_path / "model_0000001.pth").touch()
    assert RunFolder(tmp_path).manifest() == []
    assert warnings(logged) == [
        f"{tmp_path}/checkpoints.json cannot be read: the checkpoints that it listed are kept"
    ]


@pytest.mark.need("D4")
def test_manifest_ignores_names_that_are_not_numbered_checkpoints_of_the_folder(tmp_path: Path) -> None:
    names = ["../model_0000001.pth", "notes.txt", "model_best.pth", "model_0000001.pth.cut", "model_0000002.pth"]
    (tmp_path / "run").mkdir()
    for name in names:
        (tmp_path / "run" / name).touch()
    (tmp_path / "run" / "checkpoints.json").write_text(json.dumps({"checkpoints": [*names, "model_0000009.pth"]}))
    assert RunFolder(tmp_path / "run").manifest() == ["model_0000002.pth"]


def test_an_old_checkpoint_that_cannot_be_deleted_is_one_line(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: list[logging.LogRecord]
) -> None:
    unlink = disk.unlink

    def refuse(path: Path) -> None:
        if path.name == "model_0000002.pth":
            raise PermissionError(13, "Permission denied")
        unlink(path)

    monkeypatch.setattr(disk, "unlink", refuse)
    trainer = train(
        tiny("SOLVER.CHECKPOINT_PERIOD", 6, "SOLVER.CHECKPOINT_KEEP", 1), At(_3=lambda t: t.save_as.add("x.pth"))
    )
    assert trainer.iteration == 14
    assert set(warnings(logged)) == {
        f"an old checkpoint in {tmp_path}/out could not be deleted: Permission denied"
    }
    assert (tmp_path / "out" / "model_0000013.pth").exists()
