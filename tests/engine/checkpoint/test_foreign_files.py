"""Files that no run has written are never changed, moved or deleted: each operation on a folder, beside bait."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from warmstart.config import CfgNode, ConfigError, disk, no_follow
from warmstart.data.datasets.cache_dir import whole_file
from warmstart.engine import (
    JSONWriter,
    TensorBoardWriter,
    build_trainer,
    find_start,
    hold_folder,
    prepare_folder,
    resolve_config,
    run_tool,
    save_checkpoint,
    setup_logging,
)
from warmstart.engine.checkpoint import sharded as shards
from warmstart.engine.checkpoint.overwrite import OverwrittenRun
from warmstart.engine.checkpoint.run_folder import RunFolder
from warmstart.engine.checkpoint.shard_files import remove_unused
from warmstart.engine.runtime import files
from warmstart.engine.runtime.lock import hold
from warmstart.engine.runtime.owned import LIST, own, owned
from warmstart.solver import picture_path, save_picture
from warmstart.tools import export_weights, find_lr, plain_train_net, plot_lr, train_net

from ..dying import killed_after

Tiny = Callable[..., CfgNode]

FILES = [
    *("notes.txt", "model_2024.pth", "model_final.pth.bak", "my_model_final.pth", "model_0000001.pth.cut0"),
    *(
        ".model_x.pth.123.tmp",
        ".model_final.pth.123.tmp",
        ".last_checkpoint.1.tmp",
        ".config.yaml.1.warmstart.tmp~",
    ),
    *("metrics.json.bak", "log.txt.1", "config.yaml~", "checkpoints.json.old", "warmstart.json.1", ".lock.mine"),
    *(
        "events.out.tfevents.1763740000.host.4711.0",
        "events.out.tfevents.best",
        "lr.png.old",
        "last_checkpoint.txt",
    ),
    *("shards/0000001-0123abcd/__0_0.distcp", "shards/train/00.tar", "shards/0000003-0123abcd.tar"),
    *("profile/host_4711.1763740000000.pt.trace.json", "profile/notes.txt"),
    *("overwritten/model_final.pth", "overwritten/config.yaml", "overwritten/metrics.json"),
    *("model_0000999.pth.d/weights.bin", "plain_model_final.pth.bak", f".{'0' * 32}.notes.tmp"),
]
OUTSIDE = ["run/model_final.pth", "run/.metadata", "run/log.txt", "data.bin"]
LINKS = {
    "photos": "run",
    "data": "data.bin",
    "shards/0000005-0123abcd": "run",
    "model_link.pth": "run/model_final.pth",
}

Seen = dict[str, tuple[int, str, bytes]]


def look(folder: Path) -> Seen:
    """Return inode, link and content of everything in a folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        link = os.readlink(path) if path.is_symlink() else ""
        found[path.relative_to(folder).as_posix()] = (path.lstat().st_ino, link, content)
    return found


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def bait(out: Path, tmp_path: Path) -> Callable[[], None]:
    """Lay it into `out`; called, look whether all of it is as it was."""
    for folder, names in ((out, FILES), (tmp_path / "outside", OUTSIDE)):
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(f"the user's {name}")
    for name, target in LINKS.items():
        (out / name).symlink_to(tmp_path / "outside" / target)
    laid = {folder: look(folder) for folder in (out, tmp_path / "outside")}

    def require_untouched() -> None:
        for folder, before in laid.items():
            now = look(folder)
            assert {name: now.get(name) for name in before} == before

    return require_untouched


def content(iteration: int) -> dict[str, Any]:
    parts = {"optimizer": {}, "scheduler": {}, "hooks": {}, "rng": [], "config": {}}
    return {**parts, "model": {"w": torch.ones(3)}, "iteration": iteration}


def save_and_prune(folder: Path) -> None:
    for iteration in (1, 2, 3):
        path = folder / f"model_{iteration - 1:07d}.pth"
        RunFolder(folder).add_to_manifest(path.name)
        save_checkpoint(content(iteration), path)
        RunFolder(folder).point_to(path.name)
    RunFolder(folder, keep=1).prune()
    assert sorted(path.name for path in folder.glob("model_000000?.pth")) == ["model_0000002.pth"]


def cut(folder: Path) -> None:
    save_and_prune(folder)
    (folder / "model_0000002.pth.cut").symlink_to("nowhere")
    RunFolder(folder).cut(1)
    assert (folder / "model_0000002.pth.cut2").exists()
    assert os.readlink(folder / "model_0000002.pth.cut") == "nowhere"


def leave(folder: Path) -> None:
    (folder / ".model_final.pth.123.warmstart.tmp").touch()
    RunFolder(folder).remove_leftovers()
    assert not (folder / ".model_final.pth.123.warmstart.tmp").exists()


def write_and_remove_parts(folder: Path) -> None:
    for name in ("0000005-0123abcd", "train", "../photos", "0000007-fedcba98"):
        own(folder, f"shards/{name}")
    ours = folder / "shards" / "0000007-fedcba98"
    ours.mkdir()
    for name in (".metadata", ".metadata.tmp", "__0_0.distcp", "__11_2.distcp"):
        (ours / name).touch()
    (ours / "mine.txt").touch()
    remove_unused(folder)
    assert len([*ours.iterdir()]) == 5  # for all that is known the user's model_2024.pth needs them
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "load", lambda path, **more: {})
        remove_unused(folder)
    assert [path.name for path in ours.iterdir()] == ["mine.txt"]


def overwrite(folder: Path) -> None:
    shutil.move(folder / "overwritten", folder / "kept")
    (folder / "overwritten").mkdir()
    (folder / "overwritten" / "notes.txt").touch()
    save_and_prune(folder)
    OverwrittenRun(folder).set_aside()
    assert (folder / "overwritten" / "model_0000002.pth").exists()
    OverwrittenRun(folder).delete()
    assert [path.name for path in (folder / "overwritten").iterdir()] == ["notes.txt"]
    shutil.rmtree(folder / "overwritten")
    shutil.move(folder / "kept", folder / "overwritten")


def delete_overwritten(folder: Path) -> None:
    OverwrittenRun(folder).delete()


def bring_back(folder: Path) -> None:
    OverwrittenRun(folder).bring_back()


def records(folder: Path) -> None:
    for writer in (JSONWriter(folder / "metrics.json"), TensorBoardWriter(folder)):
        for iteration in (0, 1, 0):
            writer.open(iteration)
            writer.write({"iteration": iteration + 1, "lr": 0.1})
            writer.close()


def log(folder: Path) -> None:
    setup_logging(folder)
    setup_logging()


def held(folder: Path) -> None:
    with hold(folder):
        pass


def cached(folder: Path) -> None:
    path = folder / f"{'0' * 32}.u8"
    (folder / f".{path.name}.1234.warmstart.tmp").touch()
    for left in folder.glob(".*"):
        os.utime(left, (0, 0))
    for _ in range(2):
        with whole_file(path) as file:
            file.write(b"x")
    assert not (folder / f".{path.name}.1234.warmstart.tmp").exists()


def exported(folder: Path) -> None:
    save_checkpoint(content(3), folder / "x.pth")
    assert export_weights.main([str(folder / "x.pth"), str(folder / "x.safetensors")]) == 0


@pytest.mark.parametrize(
    "operation",
    [
        *(
            save_and_prune,
            cut,
            leave,
            write_and_remove_parts,
            overwrite,
            delete_overwritten,
            bring_back,
        ),
        *(records, log, held, cached, exported),
    ],
    ids=lambda operation: operation.__name__,
)
def test_an_operation_changes_nothing_but_what_a_run_has_written(
    operation: Callable[[Path], None], out: Path, bait: Callable[[], None]
) -> None:
    operation(out)
    bait()


@pytest.mark.need("D4")
def test_a_run_from_its_start_to_its_replacement_changes_nothing_of_the_users(
    tiny_words: list[str], out: Path, bait: Callable[[], None]
) -> None:
    words = [*tiny_words, "SOLVER.CHECKPOINT_PERIOD=3", "SOLVER.CHECKPOINT_KEEP=2"]
    shutil.move(out / "overwritten", out / "kept")  # --overwrite needs the name
    for more in (
        ["SOLVER.MAX_ITER=8", "SOLVER.STEPS=5"],
        ["--resume", "TEST.BEST.METRIC=noise.npz/accuracy"],
        [f"--resume={out}/model_0000011.pth"],
        ["--overwrite"],
    ):
        assert train_net.main([*words, *more]) == 0
    assert plain_train_net.main(words) == 0
    shutil.move(out / "kept", out / "overwritten")
    bait()


def a_file(path: Path, outside: Path) -> None:
    path.write_text("the user's")


def a_folder(path: Path, outside: Path) -> None:
    (path / "x").mkdir(parents=True)


def a_link(path: Path, outside: Path) -> None:
    outside.write_text("the user's")
    path.symlink_to(outside)


def a_dangling_link(path: Path, outside: Path) -> None:
    path.symlink_to(outside)


FIXED = [
    *("config.yaml", "log.txt", "metrics.json", "metrics.json.cut", "lr.png", "last_checkpoint"),
    *("checkpoints.json", ".launch"),
]
CHECKPOINTS = ["model_0000013.pth", "model_final.pth", "model_best.pth"]


@pytest.mark.parametrize(
    ("kind", "names", "message"),
    [
        (a_file, FIXED, "{} was not written by a run, and this one would overwrite it; move it away, or"),
        (
            a_folder,
            [*FIXED, *CHECKPOINTS],
            "{} is not a file, and a run would write one of that name; move it",
        ),
        (
            a_link,
            [*FIXED, *CHECKPOINTS, LIST],
            "{} is a symbolic link, and a run writes nothing through one; move",
        ),
        (a_dangling_link, [*FIXED, *CHECKPOINTS, LIST], "{} is a symbolic link, and a run writes nothing through"),
        (a_file, [LIST], "{} is not the list of files that a run keeps under that name; move it away, or name"),
        (a_file, [".lock"], "{} is not the lock of a run, which needs that name; move it away, or name another"),
        (a_link, [".lock"], "cannot write to {}: it is a symbolic link, and nothing is written through one"),
        (a_dangling_link, [".lock"], "cannot write to {}: it is a symbolic link, and nothing is written through"),
        (a_folder, [".lock"], "cannot write to {}: Is a directory"),
    ],
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_name_that_a_run_would_write_is_refused_where_it_is_taken(
    kind: Callable[[Path, Path], None], names: list[str], message: str, overwrite: bool, tiny: Tiny, tmp_path: Path
) -> None:
    cfg = resolve_config(tiny())
    for name in names:
        out = tmp_path / f"{name}.out"
        cfg.defrost()
        cfg.OUTPUT_DIR = str(out)
        cfg.freeze()
        out.mkdir()
        kind(out / name, tmp_path / f"{name}.outside")
        before = look(tmp_path)
        with pytest.raises(ConfigError) as error, hold_folder(cfg):
            find_start(cfg, None, overwrite)
        assert message.format(out / name) in str(error.value)
        assert look(tmp_path) == before


def test_the_config_file_in_the_folder_of_the_run_is_not_overwritten(
    tiny_words: list[str], out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out.mkdir()
    (out / "config.yaml").write_text("SOLVER: {BASE_LR: 0.01}  # what I found to be best\n")
    before = look(out)
    words = ["--config-file", str(out / "config.yaml"), *tiny_words]
    with pytest.raises(SystemExit) as caught:
        run_tool(functools.partial(train_net.main, words))
    assert caught.value.code == 2
    assert capsys.readouterr().err == (
        f"error: {out}/config.yaml was not written by a run, and this one would overwrite it; move it away, or "
        "name another folder with OUTPUT_DIR\n"
    )
    assert look(out) == before


@pytest.mark.parametrize("name", ["log.txt", "config.yaml", "lr.png"])
def test_folder_hook_refuses_a_taken_name(name: str, tiny: Tiny, out: Path) -> None:
    out.mkdir()
    (out / name).write_text("the user's")
    before = look(out)
    with pytest.raises(ConfigError, match=f"{name} was not written by a run"):
        build_trainer(tiny()).train()
    assert look(out) == before


@pytest.mark.parametrize("end", ["before its first checkpoint", "at its end"])
@pytest.mark.parametrize("has_list", [True, False])
def test_refuse_foreign_accepts_the_files_of_an_earlier_run(
    end: str, has_list: bool, tiny: Tiny, tiny_words: list[str], out: Path
) -> None:
    """A folder with checkpoints is a run's also where an earlier version has kept no list."""
    cfg = resolve_config(tiny())
    prepare_folder(cfg)
    if end == "at its end":
        build_trainer(cfg).train()
    else:
        killed_after(build_trainer(cfg), 6)
    if not has_list:
        (out / LIST).unlink()
    if end == "at its end":
        assert train_net.main([*tiny_words, "SOLVER.MAX_ITER=16", "--resume"]) == 0
        assert train_net.main([*tiny_words, "--overwrite"]) == 0
    elif has_list:
        assert train_net.main(tiny_words) == 0
        assert (out / "metrics.json.cut").exists()
    else:
        with pytest.raises(ConfigError, match="config.yaml was not written by a run"):
            train_net.main(tiny_words)


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        (a_folder, "holds no checkpoint of a run, but other files"),
        (a_file, "is not a folder"),
        (a_link, "is a symbolic link"),
    ],
)
def test_a_folder_shards_of_the_users_is_refused_only_where_a_run_needs_the_name(
    kind: Callable[[Path, Path], None], problem: str, tmp_path: Path
) -> None:
    kind(tmp_path / "shards", tmp_path / "outside")
    RunFolder(tmp_path).refuse_foreign()
    with pytest.raises(
        ConfigError, match=f"^{tmp_path}/shards {problem}, and this run needs a folder of that name;"
    ):
        RunFolder(tmp_path, subfolders=["shards"]).refuse_foreign()


def test_a_folder_shards_that_is_empty_or_a_runs_is_used(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    RunFolder(tmp_path, subfolders=["shards"]).refuse_foreign()
    (tmp_path / "shards" / "notes").mkdir()
    (tmp_path / "shards" / "0000003-0123abcd").mkdir()
    RunFolder(tmp_path, subfolders=["shards"]).refuse_foreign()


def test_output_dir_may_be_a_link_to_a_folder(tiny_words: list[str], out: Path, tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    out.symlink_to(tmp_path / "scratch")
    words = [*tiny_words, "SOLVER.MAX_ITER=4", "SOLVER.STEPS=3", "SOLVER.WARMUP_ITERS=1"]
    assert train_net.main(words) == 0
    assert train_net.main([*words, "SOLVER.MAX_ITER=5", "--resume"]) == 0
    assert train_net.main([*words, "--overwrite"]) == 0
    assert out.is_symlink()
    assert (tmp_path / "scratch" / "model_final.pth").exists()
    assert not (tmp_path / "scratch" / ".lock").exists()


@pytest.mark.parametrize("name", ["overwritten", "overwritten/profile"])
def test_overwriting_moves_nothing_to_where_a_link_leads(name: str, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "model_final.pth").write_text("another run's")
    (tmp_path / "out" / "model_final.pth").parent.mkdir()
    (tmp_path / "out" / "model_final.pth").write_text("x")
    (tmp_path / "out" / name).parent.mkdir(exist_ok=True)
    (tmp_path / "out" / name).symlink_to(tmp_path / "other")
    own(tmp_path / "out", "overwritten")
    before = look(tmp_path)
    with pytest.raises(
        ConfigError, match="^--overwrite would move the earlier run into .*overwritten, which was not"
    ):
        OverwrittenRun(tmp_path / "out").set_aside()
    for operation in (bring_back, delete_overwritten):
        operation(tmp_path / "out")
    after = look(tmp_path)
    assert {name: after[name] for name in before if LIST not in name} == {
        name: seen for name, seen in before.items() if LIST not in name
    }


def write_text(path: Path) -> None:
    with open(path, "w", opener=no_follow) as file:
        file.write("x")


WRITES: list[Callable[[Path], object]] = [
    write_text,
    lambda path: files.write_atomically(path, lambda file: file.write(b"x")),
    lambda path: disk.replace(path.with_name("source"), path),
    lambda path: JSONWriter(path).write({"iteration": 1}),
    lambda path: JSONWriter(path).open(0),
    lambda path: save_picture(_Figure(), path),  # type: ignore[arg-type]
    lambda path: setup_logging(path.parent),
    lambda path: set_aside_then(path),
]


class _Figure:
    def savefig(self, file: Any, **more: Any) -> None:
        file.write(b"x")


def set_aside_then(path: Path) -> None:
    path.with_name("model_final.pth").write_text("x")
    RunFolder(path.parent).set_aside("model_final.pth")
    raise OSError("set aside under another name")


@pytest.mark.parametrize("number", range(len(WRITES)))
@pytest.mark.parametrize("kind", [a_link, a_dangling_link])
def test_nothing_is_written_through_a_link(
    number: int, kind: Callable[[Path, Path], None], tmp_path: Path
) -> None:
    for name in ("log.txt", "model_final.pth.cut"):
        kind(tmp_path / name, tmp_path / f"{name}.outside")
    (tmp_path / "source").touch()
    path = tmp_path / ("model_final.pth.cut" if WRITES[number] is WRITES[-1] else "log.txt")
    before = look(tmp_path)
    with pytest.raises(OSError, match="it is a symbolic link, and nothing is written through one|set aside under"):
        WRITES[number](path)
    after = look(tmp_path)
    assert {name: after.get(name) for name in before} == before


@pytest.mark.parametrize("special", ["pipe", "device"])
def test_a_pipe_and_a_device_are_not_opened(special: str, tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    if special == "pipe":
        os.mkfifo(path)
    else:
        path = Path("/dev/null")
    for mode in ("ab", "wb", "r+b"):
        with (
            pytest.raises(OSError, match="it is not a regular file|No such device"),
            open(path, mode, opener=no_follow),
        ):
            pass


def test_unlink_leaves_links_and_folders(tmp_path: Path) -> None:
    a_link(tmp_path / "link", tmp_path / "outside")
    a_folder(tmp_path / "folder", tmp_path)
    (tmp_path / "file").touch()
    for name in ("link", "folder", "file", "gone"):
        disk.unlink(tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == ["folder", "link", "outside"]


def test_a_cached_file_is_not_written_in_the_place_of_a_link(tmp_path: Path) -> None:
    a_link(tmp_path / "x.u8", tmp_path / "outside")
    before = look(tmp_path)
    with pytest.raises(OSError, match="it is a symbolic link"), whole_file(tmp_path / "x.u8"):
        pass
    assert look(tmp_path) == before


PLOT = ["--config-file", "recipe:digits.yaml", "SOLVER.MAX_ITER", "60"]


@pytest.mark.parametrize(("tool", "name"), [(plot_lr, "lr.png"), (find_lr, "find_lr.png")])
def test_a_picture_that_nobody_has_named_replaces_only_one_of_its_kind(
    tool: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = PLOT if tool is plot_lr else [*PLOT, "--iters", "30", "MODEL.DEVICE", "cpu"]
    for kind in (a_file, a_folder, a_link):
        kind(tmp_path / name, tmp_path / "outside")
        before = look(tmp_path)
        with pytest.raises(
            ConfigError, match=f"^{name} in this folder was not drawn by this program and would be"
        ):
            tool.main(words)
        assert look(tmp_path) == before
        shutil.rmtree(tmp_path / name) if kind is a_folder else (tmp_path / name).unlink()
    for _ in range(2):
        assert tool.main(words) == 0


def test_a_picture_or_weights_are_not_written_through_a_link_that_the_user_names(tmp_path: Path) -> None:
    a_link(tmp_path / "x.png", tmp_path / "outside")
    a_link(tmp_path / "x.safetensors", tmp_path / "outside")
    with pytest.raises(ValueError, match="^nothing is written through a symbolic link; name the file"):
        picture_path(str(tmp_path / "x.png"))
    with pytest.raises(ConfigError, match=r"x.safetensors is a symbolic link; name the file that it leads to$"):
        export_weights.main([str(tmp_path / "x.pth"), str(tmp_path / "x.safetensors")])


def test_the_plain_loop_replaces_only_weights_of_its_own(tiny_words: list[str], out: Path) -> None:
    words = [*tiny_words, "SOLVER.MAX_ITER=2", "SOLVER.STEPS=[]", "SOLVER.WARMUP_ITERS=0"]
    out.mkdir()
    (out / "plain_model_final.pth").write_text("the user's")
    before = look(out)
    with pytest.raises(ConfigError, match=r"plain_model_final.pth was not written by a run, and this one would"):
        plain_train_net.main(words)
    assert look(out) == before
    (out / "plain_model_final.pth").unlink()
    for _ in range(2):
        assert plain_train_net.main(words) == 0


@pytest.mark.parametrize("text", ["[]", "{}", '{"written": 3}', "\xff", '{"written": ["log.txt"'])
def test_own_does_not_overwrite_a_file_that_is_not_a_list(text: str, tmp_path: Path) -> None:
    (tmp_path / LIST).write_bytes(text.encode("latin-1"))
    before = look(tmp_path)
    assert owned(tmp_path) == set()
    with pytest.raises(OSError, match="it is not the list of files that a run keeps there"):
        own(tmp_path, "log.txt")
    with pytest.raises(ConfigError, match=f"^{tmp_path}/{LIST} is not the list of files that a run keeps"):
        RunFolder(tmp_path).refuse_foreign()
    assert look(tmp_path) == before


def test_shard_writer_lists_its_folder_before_it_is_written(tmp_path: Path) -> None:
    from torch.distributed.checkpoint import state_dict_saver

    found = []

    def saved(named: Any, checkpoint_id: Path, process_group: Any) -> Any:
        found.append((f"shards/{checkpoint_id.name}" in owned(tmp_path), checkpoint_id.exists()))
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(state_dict_saver, "async_save", saved)
        shards.ShardWriter({}, tmp_path, 4)
    assert found == [(True, False)]


def test_the_data_of_a_user_in_shards_survive_a_run_there(
    noise_npz: Path, tiny_words: list[str], out: Path
) -> None:
    (out / "shards" / "train").mkdir(parents=True)
    np.savez(out / "shards" / "train" / "00.tar", x=np.zeros(3))
    before = look(out)
    assert train_net.main([*tiny_words, "SOLVER.CHECKPOINT_KEEP=1", "SOLVER.CHECKPOINT_PERIOD=5"]) == 0
    after = look(out)
    assert {name: after.get(name) for name in before} == before
