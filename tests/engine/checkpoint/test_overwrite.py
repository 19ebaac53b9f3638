"""--overwrite costs nothing before the new run has saved, and no file that is not a run's."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from warmstart.config import CfgNode, ConfigError, disk
from warmstart.engine import (
    NonFiniteLossError,
    build_trainer,
    find_start,
    load_checkpoint,
    load_newest,
    prepare_folder,
    resolve_config,
)
from warmstart.engine.checkpoint.overwrite import OverwrittenRun
from warmstart.engine.runtime.owned import LIST, own
from warmstart.tools import train_net

from ..dying import killed_after
from ..faults import Disk

Tiny = Callable[..., CfgNode]

OURS = [
    *("checkpoints.json", "config.yaml", "events.out.tfevents.1763740000.123456.host.example.org.4711", "lr.png"),
    *("last_checkpoint", "log.txt", "metrics.json", "metrics.json.cut", "model_0000009.pth", "model_final.pth"),
    *("model_0000009.pth.cut", "model_0000009.pth.cut2", "model_12345678.pth", "model_best.pth.cut10"),
    "profile/warmstart_host_4711.1763740000000.pt.trace.json",
]
USERS = [
    *("model_50_imagenet.pth", "model_2024.pth", "model_final.pth.bak", "model_best.pth.mine", "model_mine.pth"),
    *("model_0000009.pth.cut0", "model_0000009.pth.cut.bak", "my_model_final.pth", "metrics.json.bak"),
    *("metrics.json.cut2", "config.yaml~", "log.txt.1", "lr.png.old", "events.out.tfevents.best"),
    "events.out.tfevents.1763740000.host.4711.0",
    *("profile/notes.txt", "profile/host_4711.1763740000000.pt.trace.json", "overwritten/notes.txt"),
]


def contents(folder: Path) -> dict[str, bytes]:
    """Return what the files in a folder hold, all but the list of those that runs have written."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != LIST]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def filled(folder: Path, names: list[str]) -> dict[str, bytes]:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return contents(folder)


@pytest.mark.need("D4")
def test_only_files_of_exactly_the_names_that_a_run_writes_go(tmp_path: Path) -> None:
    out = tmp_path / "out"
    before = filled(out, USERS)
    filled(out, OURS)
    (out / "model_0000003.pth").mkdir()  # whatever it is, no checkpoint
    OverwrittenRun(out).set_aside()
    moved = {f"overwritten/{name}": name.encode() for name in OURS}
    assert contents(out) == {**before, **moved, "overwritten/.whole": b""}
    OverwrittenRun(out).delete()
    assert contents(out) == before
    assert (out / "model_0000003.pth").is_dir()


@pytest.mark.need("D4")
def test_overwriting_touches_nothing_beside_the_folder_and_nothing_of_the_users_in_it(
    tiny_words: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    train_net.main([*tiny_words, f"OUTPUT_DIR={tmp_path}/other", "SOLVER.CHECKPOINT_PERIOD=5"])
    train_net.main([*tiny_words, "SOLVER.CHECKPOINT_PERIOD=5"])
    filled(out, USERS)
    filled(tmp_path, ["model_0000004.pth", "metrics.json", "profile/a.pt.trace.json"])
    spared = {
        name: data for name, data in contents(tmp_path).items() if not name.startswith("out/") or name[4:] in USERS
    }
    assert train_net.main([*tiny_words, "--overwrite"]) == 0
    assert {name: data for name, data in contents(tmp_path).items() if name in spared} == spared
    assert not (out / "model_0000004.pth").exists()
    assert load_checkpoint(out / "model_final.pth")["iteration"] == 14
    assert [path.name for path in (out / "overwritten").iterdir()] == ["notes.txt"]


def test_without_files_of_the_user_no_trace_is_left(tiny_words: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    train_net.main([*tiny_words, "PROFILER.ITERS=1"])
    train_net.main([*tiny_words, "--overwrite"])
    assert not (out / "overwritten").exists()
    assert len(list(out.glob("events.out.*"))) == 1


@pytest.mark.need("D4")
def test_the_old_run_stays_until_the_new_one_has_saved(
    tiny: Tiny, tmp_path: Path, logged: list[logging.LogRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dead before its first checkpoint, twice, and a third time with one."""
    out = tmp_path / "out"
    build_trainer(tiny()).train()
    old = {name: data for name, data in contents(out).items() if name != "log.txt"}
    cfg = resolve_config(tiny("SOLVER.CHECKPOINT_PERIOD", 6, "LOG_PERIOD", 2))
    for overwrite in (True, True, False):
        logged.clear()
        prepare_folder(cfg, overwrite=overwrite)
        said = f"the run that is overwritten stays in {out}/overwritten until this one has saved a checkpoint"
        assert said in [record.getMessage() for record in logged]
        killed_after(build_trainer(cfg), 4)
        kept = contents(out / "overwritten")
        assert {name: kept[name] for name in old} == old
        assert load_newest(out) is None
        assert len(list(out.glob("events.out.*"))) == (1 if overwrite else 2)  # of this attempt, not those before
    found = load_newest(out / "overwritten")
    assert found is not None
    assert found[1]["iteration"] == 14

    pointed: list[bool] = []
    point_to = disk.replace

    def replace(source: Path, target: Path) -> None:
        point_to(source, target)
        pointed.append(target.name == "last_checkpoint" and (out / "overwritten" / "model_final.pth").exists())

    monkeypatch.setattr(disk, "replace", replace)
    prepare_folder(cfg, overwrite=True)
    killed_after(build_trainer(cfg), 8)
    assert pointed.count(True) == 1  # it goes after the pointer names the new one
    assert (out / "last_checkpoint").read_text() == "model_0000005.pth"
    assert not (out / "overwritten").exists()


@pytest.mark.need("E6")
def test_a_run_that_diverges_before_its_first_checkpoint_has_overwritten_nothing(
    tiny_words: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    train_net.main(tiny_words)
    old = load_checkpoint(out / "model_final.pth")
    with pytest.raises(NonFiniteLossError):
        train_net.main([*tiny_words, "--overwrite", "SOLVER.BASE_LR=1e30"])
    (tmp_path / "again").mkdir()
    for path in OverwrittenRun(out).files():
        path.rename(tmp_path / "again" / path.name)
    found = load_newest(tmp_path / "again")
    assert found is not None
    assert found[1]["iteration"] == old["iteration"] == 14


@pytest.mark.parametrize("operation", range(6))
def test_set_aside_after_a_kill_moves_the_rest_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: int
) -> None:
    names = ["last_checkpoint", "log.txt", "model_0000001.pth", "model_0000003.pth", "model_final.pth"]
    before = filled(tmp_path, names)
    own(tmp_path, "overwritten")  # before the first of them is moved
    with monkeypatch.context() as patch:
        disk = Disk(patch, "EIO", operation)
        if operation < len(names):
            with pytest.raises(OSError, match="Input/output error"):
                OverwrittenRun(tmp_path).set_aside()
            assert disk.calls[-1] == f"replace {names[operation]}"
    OverwrittenRun(tmp_path).set_aside()
    moved = {f"overwritten/{name}": data for name, data in before.items()}
    assert contents(tmp_path) == {**moved, "overwritten/.whole": b""}


@pytest.mark.need("D4")
def test_set_aside_keeps_the_latest_run_that_has_a_checkpoint(tmp_path: Path) -> None:
    """The second died between its first checkpoint and the pointer, so that the first was still there."""
    filled(tmp_path, ["model_0000004.pth", "model_0000009.pth", "metrics.json"])
    OverwrittenRun(tmp_path).set_aside()
    filled(tmp_path, ["model_0000004.pth", "config.yaml"])
    OverwrittenRun(tmp_path).set_aside()
    assert sorted(contents(tmp_path / "overwritten")) == [".whole", "config.yaml", "model_0000004.pth"]


def test_bring_back_returns_the_files_of_a_run_that_was_half_moved(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    killed_after(build_trainer(tiny("SOLVER.CHECKPOINT_PERIOD", 5, "LOG_PERIOD", 1)), 12)
    before = contents(out)
    with monkeypatch.context() as patch:
        own(out, "overwritten")
        Disk(patch, "EIO", 6)
        with pytest.raises(OSError, match="Input/output error"):
            OverwrittenRun(out).set_aside()
    assert contents(out / "overwritten")
    assert load_newest(out) is not None
    prepare_folder(resolve_config(tiny()), load_newest(out))
    assert not (out / "overwritten").exists()
    after = contents(out)
    assert {name: after[name] for name in before if name not in ("config.yaml", "log.txt")} == {
        name: data for name, data in before.items() if name not in ("config.yaml", "log.txt")
    }


def test_find_start_refuses_the_run_that_is_being_overwritten(tiny: Tiny, tmp_path: Path) -> None:
    build_trainer(tiny()).train()
    OverwrittenRun(tmp_path / "out").set_aside()
    aside = tmp_path / "out" / "overwritten"
    for source in (aside, aside / "model_final.pth"):
        with pytest.raises(ConfigError, match=f"^{aside} is deleted when a run in .* saves; move its files"):
            find_start(resolve_config(tiny()), str(source), overwrite=False)


def test_an_old_run_that_cannot_be_deleted_is_one_line_and_no_failed_save(
    tiny_words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train_net.main(tiny_words)
    unlink = disk.unlink

    def refuse(path: Path) -> None:
        if path.parent.name == "overwritten":
            raise PermissionError(13, "Permission denied")
        unlink(path)

    monkeypatch.setattr(disk, "unlink", refuse)
    capsys.readouterr()
    assert train_net.main([*tiny_words, "--overwrite"]) == 0
    said = capsys.readouterr().out
    assert (
        said.count(f"overwritten run in {tmp_path}/out/overwritten could not be deleted: Permission denied") == 1
    )


def test_a_file_of_the_users_where_the_old_run_would_go_is_one_sentence(tiny: Tiny, tmp_path: Path) -> None:
    filled(tmp_path / "out", ["model_0000003.pth", "overwritten"])
    with pytest.raises(
        ConfigError, match="^--overwrite would move the earlier run into .*, which was not made by"
    ):
        prepare_folder(resolve_config(tiny()), overwrite=True)
    assert sorted(contents(tmp_path / "out")) == ["model_0000003.pth", "overwritten"]
