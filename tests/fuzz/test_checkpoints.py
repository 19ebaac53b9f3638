"""Fuzz tests of checkpoints: damaged bytes or content give an equal state or one clear error."""

from __future__ import annotations

import copy
import io
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, note, settings
from hypothesis import strategies as st
from torch import Tensor

from warmstart.config import ConfigError, get_cfg
from warmstart.engine import (
    Trainer,
    build_trainer,
    compare_configs,
    load_checkpoint,
    load_newest,
    load_start,
    resolve_config,
)

FEWER = settings(max_examples=settings().max_examples // 2)


class Run:
    """A run that has saved after 2 and 4 updates."""

    def __init__(self, folder: Path, data: Path) -> None:
        cfg = get_cfg()
        cfg.merge_from_list(
            [
                *("DATASETS.TRAIN", f"npz:{data}", "DATASETS.TEST", f"npz:{data}", "OUTPUT_DIR", str(folder)),
                *("MODEL.ARGS", "{norm: batch, width: 2}", "SOLVER.OPTIMIZER", "AdamW", "SOLVER.MOMENTUM", "0"),
                *(
                    "SOLVER.IMS_PER_BATCH",
                    8,
                    "SOLVER.MAX_ITER",
                    4,
                    "SOLVER.WARMUP_ITERS",
                    1,
                    "TEST.EVAL_PERIOD",
                    1,
                ),
                *("SOLVER.LR_SCHEDULER_NAME", "ReduceLROnPlateau", "SOLVER.EMA.ENABLED", True),
                *("SOLVER.CHECKPOINT_PERIOD", 2),
            ]
        )
        self.folder, self.cfg = folder, resolve_config(cfg)
        build_trainer(self.cfg).train()
        self.older, self.newest = folder / "model_0000001.pth", folder / "model_0000003.pth"
        self.content = load_checkpoint(self.newest)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, noise_npz: Path) -> Run:
    return Run(tmp_path_factory.mktemp("run"), noise_npz)


def same(a: Any, b: Any) -> bool:
    if a is b:  # also NaN
        return True
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and bool(a == b)


def is_refused(load: Callable[[], Any]) -> bool:
    """Return whether the loading raises ConfigError, with a line for each problem; no other exception is one."""
    try:
        load()
    except ConfigError:
        return True
    return False


# ---------------------------------------------------------------- bytes

places = st.floats(0, 1, exclude_max=True)  # shares of the file's length
# What happens to a file: where, how much, and with which bytes.
damages = st.lists(
    st.tuples(
        st.sampled_from(["flip", "cut", "insert", "erase", "swap", "append"]),
        places | places.map(lambda place: 1 - place**4),  # most of a zip's structure is at its end
        st.integers(1, 4096),
        st.binary(min_size=1, max_size=30) | st.integers(1, 1 << 17).map(bytes),
    ),
    min_size=1,
    max_size=4,
)


def damaged(data: bytes, damage: list[tuple[str, float, int, bytes]]) -> bytes:
    for kind, place, length, new in damage:
        at = min(int(place * len(data)), max(len(data) - 1, 0))
        before, part, rest = data[:at], data[at : at + length], data[at + length :]
        if kind == "flip" and part:
            data = before + bytes([part[0] ^ 1 << length % 8]) + part[1:] + rest
        elif kind == "cut":
            data = before
        elif kind == "insert":
            data = before + new + part + rest
        elif kind == "erase":
            data = before + bytes(len(part)) + rest
        elif kind == "swap":
            data = before + rest[: len(part)] + part + rest[len(part) :]
        elif kind == "append":
            data += new
    return data


@given(damages)
def test_a_damaged_file_is_refused_or_read_completely(
    run: Run, damage: list[tuple[str, float, int, bytes]]
) -> None:
    file = run.folder / "damaged.pth"
    file.write_bytes(damaged(run.newest.read_bytes(), damage))
    if not is_refused(lambda: load_checkpoint(file)):
        assert same(load_checkpoint(file), run.content)


@FEWER
@given(damages)
def test_a_resume_falls_back_to_the_newest_complete_file(
    run: Run, tmp_path_factory: pytest.TempPathFactory, damage: list[tuple[str, float, int, bytes]]
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    (folder / run.older.name).write_bytes(run.older.read_bytes())
    (folder / run.newest.name).write_bytes(damaged(run.newest.read_bytes(), damage))
    (folder / "last_checkpoint").write_text(run.newest.name)
    found = load_newest(folder)
    assert found is not None
    expected = run.content if found[0].name == run.newest.name else load_checkpoint(run.older)
    assert same(found[1], expected)


@FEWER
@given(st.binary(max_size=50) | st.sampled_from([b"..", b"/", b"model_0000009.pth", b"config.yaml", b"a\0b"]))
def test_whatever_the_pointer_holds_the_newest_file_is_found(run: Run, pointer: bytes) -> None:
    place = run.folder / "last_checkpoint"
    before = place.read_bytes()
    place.write_bytes(pointer)
    try:
        found = load_newest(run.folder)
    finally:
        place.write_bytes(before)
    assert found is not None
    assert same(found[1], run.content)


def test_a_pointer_that_is_too_long_for_a_name(run: Run) -> None:
    test_whatever_the_pointer_holds_the_newest_file_is_found.hypothesis.inner_test(run, b"x" * 300)


# ---------------------------------------------------------------- pickles


class Harmful:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.mkdir, (self.path,)


def with_pickle(archive: bytes, pickled: bytes) -> bytes:
    """Return the archive with another pickle in it, and right checksums."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(made, "w") as new:
        for entry in old.infolist():
            new.writestr(entry.filename, pickled if entry.filename.endswith("data.pkl") else old.read(entry))
    return made.getvalue()


plain = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.binary(max_size=5)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("in_archive", [False, True])
def test_no_pickle_runs_code(run: Run, tmp_path: Path, protocol: int, in_archive: bool) -> None:
    harm, file = tmp_path / "harm", tmp_path / "x.pth"
    pickled = pickle.dumps(run.content | {"hooks": Harmful(harm)}, protocol)
    file.write_bytes(with_pickle(run.newest.read_bytes(), pickled) if in_archive else pickled)
    with pytest.raises(ConfigError, match="is refused|is damaged"):
        load_checkpoint(file)
    assert not harm.exists()
    pickle.loads(pickle.dumps(Harmful(harm)))  # it would have been
    assert harm.exists()


@FEWER
@given(st.binary() | st.builds(pickle.dumps, plain, st.integers(0, pickle.HIGHEST_PROTOCOL)), st.booleans())
def test_another_pickle_is_refused(run: Run, pickled: bytes, in_archive: bool) -> None:
    file = run.folder / "other.pth"
    file.write_bytes(with_pickle(run.newest.read_bytes(), pickled) if in_archive else pickled)
    assert is_refused(lambda: load_checkpoint(file))


# ---------------------------------------------------------------- content


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of each value; of long lists only the ends."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from paths(inner, (*path, key))
    elif isinstance(value, list) and value:
        for index in {0, len(value) - 1}:
            yield from paths(value[index], (*path, index))


wild = plain | st.sampled_from([torch.zeros(3, dtype=torch.int64), torch.ones(2, 2), 10**400, -1])
# What is done to a content, where, and the value for it.
changes = st.tuples(st.sampled_from(["delete", "replace", "add"]), places, wild)


def changed(content: dict[str, Any], kind: str, place: float, value: Any) -> str:
    """Change a content, and return where."""
    every = list(paths(content))
    *way, last = every[int(place * len(every))]
    holder: Any = content
    for key in way:
        holder = holder[key]
    if kind == "delete":
        del holder[last]
    elif kind == "replace":
        holder[last] = value
    elif isinstance(holder, dict):
        holder["added"] = value
    else:
        holder.append(value)
    return ".".join(map(str, [*way, last]))


@FEWER  # each builds a trainer
@given(st.lists(changes, min_size=1, max_size=2))
def test_a_changed_content_is_taken_as_it_is_or_refused(run: Run, change: list[tuple[str, float, Any]]) -> None:
    file, content = run.folder / "changed.pth", copy.deepcopy(run.content)
    for one in change:
        note(f"{one[0]} {changed(content, *one)}")
    torch.save(content, file)

    trainers: list[Trainer] = []

    def resume() -> None:
        start = load_checkpoint(file)
        compare_configs(run.cfg, start["config"], allow_change=False)
        trainers.append(build_trainer(run.cfg))  # as late as this: many contents are refused before
        load_start(trainers[0], start)

    if is_refused(resume):
        return
    (trainer,) = trainers
    state, iteration = trainer.state_dict(), trainer.iteration
    for part in ("model", "ema", "scheduler"):
        if part == "ema" and content.get("ema") is None:
            continue  # an average may begin in the middle of a run, and it says so
        assert same({**content[part], **state[part]}, content[part]), part  # what else a file has is left alone
        if part != "scheduler":
            assert tensors(state[part]) == tensors(run.content[part]), part
    assert same(iteration, content["iteration"])
    # The state of a parameter may be empty, as without a gradient, but not incomplete.
    for number, entries in state["optimizer"]["state"].items():
        assert not entries or entries.keys() >= run.content["optimizer"]["state"][number].keys()
    assert iteration >= 0
    assert type(iteration) is int


def tensors(value: Any, path: tuple[Any, ...] = ()) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    """Return dtype and shape of each tensor: what the next update relies on."""
    if isinstance(value, Tensor):
        return {path: (value.dtype, value.shape)}
    inner = value.items() if isinstance(value, dict) else ()
    return {name: kind for key, each in inner for name, kind in tensors(each, (*path, key)).items()}
