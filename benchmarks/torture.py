"""Torture test: training runs are killed at any instant, resumed and compared; one JSON line per configuration.

    python benchmarks/torture.py --kills 100 --seed 0

For each configuration one run is left alone. Others are killed (SIGKILL) and resumed until they finish, and then
everything must be equal: each checkpoint to the last bit, metrics.json and TensorBoard except for times, and
nothing may be missing or left over. A kill comes at an instant drawn uniformly from the duration of the command,
or right after something has appeared in the run's folder: a temporary checkpoint, a new pointer, a line of
metrics.json, a file of a sharded checkpoint. It hits the process alone or, as a batch system does, its process
group; in configurations of two ranks it hits all of them, or one, whose end the launcher and the other rank see.
After each kill the checkpoint that a resume would use must be complete, and no older than before. `kills` counts
the kills that found a process, `ranks_killed` those that hit a single rank, `runs` the comparisons; `mismatches`
counts runs that differ, whose folders are kept. The exit code is 1 if there are any.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import math
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from warmstart.config import ConfigError, get_cfg
from warmstart.engine import load_checkpoint
from warmstart.engine.checkpoint.run_files import MANIFEST, PICTURE, SHARDS
from warmstart.engine.checkpoint.run_folder import RunFolder
from warmstart.engine.checkpoint.sharded import KEY as IN_PARTS

TOOL = Path(__file__).parent.parent / "tools" / "train_net.py"
MOST_KILLS = 6  # per run: enough to resume from checkpoints that were themselves written after a resume
TIMES = ("time", "data_time")  # names in a record
LONGEST = 300  # seconds that a life may take: a hang is a mismatch
RANK_KILLED = 128 + signal.SIGKILL  # the launcher's exit code

BASE = (
    *("MODEL.ARGS={norm: batch, dropout: 0.2, width: 4}", "SOLVER.IMS_PER_BATCH=16", "SOLVER.MAX_ITER=90"),
    *("SOLVER.BASE_LR=0.05", "SOLVER.WARMUP_ITERS=10", "SOLVER.CHECKPOINT_PERIOD=7", "TEST.EVAL_PERIOD=30"),
    *("LOG_PERIOD=4", "INPUT.TRANSFORMS_TRAIN=[{RandomCrop: {size: 8, padding: 1}}, RandomHorizontalFlip]"),
)
PLATEAU = (
    *("SOLVER.LR_SCHEDULER_NAME=ReduceLROnPlateau", "SOLVER.LR_METRIC=total_loss"),
    *("SOLVER.LR_SCHEDULER_ARGS={patience: 1, factor: 0.7}", "SOLVER.WARMUP_ITERS=60"),
    "SOLVER.WARMUP_UNTIL={METRIC: train/error, BELOW: 0.8}",
)
PARTS = (
    *("MODEL.PARALLEL=fsdp", "MODEL.FSDP.WRAP=[Conv2d, Linear]", "SOLVER.STEPS=40,70"),
    "SOLVER.EMA={ENABLED: true, DECAY: 0.9, PERIOD: 2}",
)
CSV = "path: '{ROOT}/digits.csv', file: name, label: digit, holdout: 0.2, name: photos"
# Draws on everything random inside a detector: sampled anchors and regions, and the size of each image.
DETECTION = (
    *("MODEL.NAME=small_rcnn", "MODEL.ARGS={width: 8, min_size: [40, 48], max_size: 64, box_score_thresh: 0}"),
    "DATASETS.TRAIN=[{shapes: {part: train, number: 24, size: [40, 56], name: shapes_train}}]",
    "DATASETS.TEST=[{shapes: {part: test, number: 5, size: [40, 56], name: shapes_test}}]",
    "INPUT.TRANSFORMS_TRAIN=[{ScaleJitter: {target_size: [48, 48]}}, {FixedSizeCrop: {size: 48}},"
    " RandomHorizontalFlip]",
    *("SOLVER.IMS_PER_BATCH=4", "SOLVER.MAX_ITER=20", "SOLVER.STEPS=15", "LOG_PERIOD=3"),
    *("SOLVER.OPTIMIZER=AdamW", "SOLVER.BASE_LR=0.004", "SOLVER.WARMUP_ITERS=3"),
    *("DATALOADER.NUM_WORKERS=0", "TEST.IMS_PER_BATCH=2", "SOLVER.CHECKPOINT_PERIOD=4", "TEST.REPORT=false"),
)
CONFIGS: dict[str, tuple[str, ...]] = {
    "sgd": ("SOLVER.STEPS=40,70",),
    "one_save": ("SOLVER.CHECKPOINT_PERIOD=5000", "TEST.BEST.METRIC=digits_test/accuracy", "TEST.EVAL_PERIOD=0"),
    "clock": ("SOLVER.STEPS=40,70", "SOLVER.CHECKPOINT_PERIOD=5", "LOG_PERIOD=2"),
    "plain": (
        *("MODEL.ARGS={norm: batch, width: 4}", "INPUT.TRANSFORMS_TRAIN=[]"),
        "SOLVER.LR_SCHEDULER_NAME=WarmupCosineLR",
    ),
    "workers": ("SOLVER.STEPS=40,70",),
    "resident": ("SOLVER.STEPS=40,70", "DATALOADER.BACKEND=resident"),
    "accumulation": ("SOLVER.GRAD_ACCUM_STEPS=4", "SOLVER.CLIP_GRADIENTS={ENABLED: true, CLIP_TYPE: full_model}"),
    "ema": ("SOLVER.EMA={ENABLED: true, DECAY: 0.9, PERIOD: 2}", "TEST.PRECISE_BN={ENABLED: true, NUM_ITER: 3}"),
    "plateau": PLATEAU,
    "one_cycle": (
        *("SOLVER.OPTIMIZER=AdamW", "SOLVER.LR_SCHEDULER_NAME=OneCycleLR", "SOLVER.LR_SCHEDULER_ARGS.max_lr=0.01"),
    ),
    "muon": ("SOLVER.OPTIMIZER=Muon", "SOLVER.BASE_LR=0.005", "SOLVER.MOMENTUM=0.95", "SOLVER.NESTEROV=true"),
    "every_step": ("SOLVER.CHECKPOINT_PERIOD=1", "SOLVER.MAX_ITER=60", "LOG_PERIOD=1"),
    "keep_two": ("SOLVER.CHECKPOINT_PERIOD=2", "SOLVER.CHECKPOINT_KEEP=2"),
    "evaluations": ("TEST.EVAL_PERIOD=5", "SOLVER.CHECKPOINT_PERIOD=3"),
    "best": ("TEST.EVAL_PERIOD=5", "TEST.BEST.METRIC=digits_test/accuracy", "SOLVER.CHECKPOINT_KEEP=3"),
    "early_stopping": (
        *("TEST.EVAL_PERIOD=5", "TEST.BEST.METRIC=digits_test/loss"),
        *("TEST.EARLY_STOPPING.PATIENCE=4", "SOLVER.MAX_ITER=150"),
    ),
    "multilabel": (
        *("MODEL.TASK=multilabel_classification", "DATASETS.TRAIN=digits_attributes_train"),
        *(
            "DATASETS.TEST=digits_attributes_test",
            "TEST.EVAL_PERIOD=5",
            "TEST.BEST.METRIC=digits_attributes_test/f1",
        ),
    ),
    "regression": (
        *("MODEL.TASK=regression", "DATASETS.TRAIN=digits_numbers_train", "DATASETS.TEST=digits_numbers_test"),
        *("TEST.EVAL_PERIOD=5", "TEST.BEST.METRIC=digits_numbers_test/mae", "DATALOADER.BACKEND=worker"),
    ),
    "frozen": (
        *("MODEL.FREEZE=^block[12]", "SOLVER.STEPS=40,70", "TEST.PRECISE_BN={ENABLED: true, NUM_ITER: 3}"),
        "SOLVER.EMA={ENABLED: true, DECAY: 0.9, PERIOD: 2}",
    ),
    "unfreezing": (
        "MODEL.FREEZE=[{MATCH: ^block3, UNTIL: 14}, {MATCH: ^block2, UNTIL: 45}, {MATCH: ^block1, UNTIL: 60}]",
        *(
            "SOLVER.CHECKPOINT_PERIOD=3",
            "SOLVER.EMA={ENABLED: true, DECAY: 0.9, PERIOD: 2}",
            "TEST.EVAL_PERIOD=15",
        ),
        "TEST.PRECISE_BN={ENABLED: true, NUM_ITER: 3}",
    ),
    "unfreezing_ranks": (
        "MODEL.FREEZE=[{MATCH: ^block3, UNTIL: 14}, {MATCH: ^block2, UNTIL: 45}, ^block1]",
        *("SOLVER.CHECKPOINT_PERIOD=3", "TEST.EVAL_PERIOD=15"),
    ),
    "timm": (
        *("MODEL.NAME=timm:test_resnet", "MODEL.ARGS={drop_path_rate: 0.1}", "MODEL.STEM=standard"),
        *("MODEL.HEAD={dropout: 0.2}", "SOLVER.OPTIMIZER=AdamW", "SOLVER.BASE_LR=0.002", "SOLVER.LAYER_DECAY=0.8"),
        *("SOLVER.STEPS=40,70", "INPUT.TRANSFORMS_TRAIN=[{RandomResizedCrop: {size: 32}}]"),
        "INPUT.TRANSFORMS_TEST=[{Resize: {size: [32, 32]}}]",
    ),
    "csv": (
        *(f"DATASETS.{key}=[{{csv: {{{CSV}, part: {key.lower()}}}}}]" for key in ("TRAIN", "TEST")),
        *("INPUT.FORMAT=L", "DATALOADER={BACKEND: worker, NUM_WORKERS: 0}", "SOLVER.STEPS=40,70"),
        *("TEST.EVAL_PERIOD=10", "TEST.BEST.METRIC=photos/accuracy"),
    ),
    "detection": (
        *("MODEL.TASK=detection", *DETECTION, "TEST.EVAL_PERIOD=5", "TEST.BEST.METRIC=shapes_test/AP"),
        "SOLVER.EMA={ENABLED: true, DECAY: 0.9, PERIOD: 2}",
    ),
    "masks": (
        *("MODEL.TASK=instance_segmentation", *DETECTION, "TEST.EVAL_PERIOD=10", "SOLVER.GRAD_ACCUM_STEPS=2"),
        "SOLVER.AMP={ENABLED: true, PRECISION: bf16}",
    ),
    "keypoints": ("MODEL.TASK=keypoint_detection", *DETECTION, "TEST.EVAL_PERIOD=10"),
    "two_ranks": ("SOLVER.STEPS=40,70", "SOLVER.EMA={ENABLED: true, DECAY: 0.9, PERIOD: 2}"),
    "parts": PARTS,
    "parts_keep_two": (
        *(*PARTS, "SOLVER.OPTIMIZER=AdamW", "SOLVER.BASE_LR=0.005", "SOLVER.CHECKPOINT_PERIOD=3"),
        *("SOLVER.CHECKPOINT_KEEP=2", "TEST.EVAL_PERIOD=10", "TEST.BEST.METRIC=digits_test/accuracy"),
    ),
}
RANKS = {
    "unfreezing_ranks": 2,
    "keypoints": 2,
    "two_ranks": 2,
    "parts": 2,
    "parts_keep_two": 2,
}  # the others have one
# Overrides that may change from one life of a run to the next without changing the result.
VARIED: dict[str, tuple[str, ...]] = {
    "workers": ("DATALOADER.NUM_WORKERS=0", "DATALOADER.NUM_WORKERS=2"),
    "masks": ("DATALOADER.NUM_WORKERS=0", "DATALOADER.NUM_WORKERS=2"),
    "csv": ("DATASETS.ROOT={DATA}/one", "DATASETS.ROOT={DATA}/two"),  # the data moves
}
# Seconds by which the clock is off in the lives of a run.
CLOCKS: dict[str, tuple[float, ...]] = {"clock": (0, -7200, 3600, -86400)}
OFF = """
import runpy, sys, time
now, off = time.time, float(sys.argv[1])
time.time = lambda: now() + off
del sys.argv[:2]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@dataclass
class Report:
    """The results for one configuration."""

    kills: int = 0
    ranks_killed: int = 0
    resumes: int = 0
    runs: int = 0
    mismatches: int = 0
    first: str = ""


# ---------------------------------------------------------------- killing


class Life:
    """A command that trains into `folder`, until it ends or is killed: a process, or a launcher and its ranks."""

    def __init__(self, folder: Path, words: Sequence[str], ranks: int = 1, off: float = 0) -> None:
        self.folder = folder
        self.ranks = ranks
        self.started = time.monotonic()
        self._errors = folder.with_suffix(".stderr")
        self._errors.parent.mkdir(parents=True, exist_ok=True)
        several = ["--num-gpus", str(ranks)] if ranks > 1 else []
        command = ["-c", OFF, str(off), str(TOOL)] if off else [str(TOOL)]
        with open(self._errors, "wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, *command, "--resume", *several, *words, f"OUTPUT_DIR={folder}"],
                # TMPDIR: also for files that a launcher would delete at its end.
                env={**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(folder.parent)},
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,  # so that its group is not ours
            )

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def kill(self, group: bool, rng: random.Random) -> bool:
        """Kill all its processes or one of them; return whether that is one of several ranks.

        Args:
            group: whether to kill its workers and ranks too; else the process alone, or one rank if it has
                several.
            rng: chooses the rank.
        """
        if not self.alive:  # its process id may have been reused by now
            return False
        if self.ranks == 1:
            with contextlib.suppress(ProcessLookupError):
                (os.killpg if group else os.kill)(self._process.pid, signal.SIGKILL)
            return False
        found = frozen(self._process.pid)
        ranks = [pid for pid, parent in found if parent == self._process.pid]
        one = not group and len(ranks) == self.ranks
        victims = [rng.choice(ranks)] if one else [pid for pid, _ in found]
        for pid, _ in found:  # nobody has reaped them, so the ids are still theirs
            os.kill(pid, signal.SIGKILL if pid in victims else signal.SIGCONT)
        # Ranks are not children of this process, and hold the folder until they are gone.
        while any(parent_and_state(pid)[1] not in GONE for pid in victims):
            time.sleep(0.001)
        return one

    def end(self) -> int:
        """Wait for its end and return the exit code, negative for a signal.

        Raises:
            TimeoutExpired: it hung, and has been killed.
        """
        try:
            return self._process.wait(LONGEST)
        except subprocess.TimeoutExpired:
            for pid, _ in frozen(self._process.pid):
                os.kill(pid, signal.SIGKILL)
            self._process.wait()
            raise

    def complaint(self) -> str:
        """Return the last line that it wrote to stderr."""
        return (self._errors.read_text(errors="replace").strip().splitlines() or ["no message"])[-1]


GONE = ("Z", "X", "")  # states of a process that no longer runs


def parent_and_state(pid: int) -> tuple[int, str]:
    """Return the parent of a process, and its state, one of Linux's letters; 0 and "" if it does not exist."""
    with contextlib.suppress(OSError):
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]  # after the name
        return int(parent), state
    return 0, ""


def frozen(root: int) -> list[tuple[int, int]]:
    """Stop a child process and all its descendants, so that they start no further ones.

    Returns:
        Each process that was still running, and its parent; the root first.
    """
    found, waiting = [], [(root, os.getpid())]
    while waiting:
        pid, parent = waiting.pop(0)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
        while (state := parent_and_state(pid)[1]) not in (
            "T",
            *GONE,
        ):  # it may be starting a process at this instant
            time.sleep(0.0001)
        if state == "T":
            found.append((pid, parent))
        everyone = [int(name) for name in os.listdir("/proc") if name.isdigit()]
        waiting += [(each, pid) for each in everyone if parent_and_state(each)[0] == pid]
    return found


def temporaries(folder: Path) -> object:
    return {name for name in _names(folder) if name.startswith(".model_") and name.endswith(".tmp")}


def pointer(folder: Path) -> object:
    with contextlib.suppress(OSError):
        return (folder / "last_checkpoint").read_bytes()
    return None


def parts(folder: Path) -> object:
    return {(name, part) for name in _names(folder / SHARDS) for part in ("", *_names(folder / SHARDS / name))}


def records(folder: Path) -> object:
    with contextlib.suppress(OSError):
        return (folder / "metrics.json").stat().st_size
    return None


def _names(folder: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return os.listdir(folder)
    return []


AIMS: dict[str, Callable[[Path], object]] = {"temporary": temporaries, "pointer": pointer, "record": records}
AIMS_IN_PARTS = AIMS | {"parts": parts, "parts again": parts}


def wait_for_instant(life: Life, seconds: float) -> None:
    """Return when the process has lived for `seconds`, or has ended."""
    while life.alive and time.monotonic() - life.started < seconds:
        time.sleep(0.001)


def wait_for_change(life: Life, look: Callable[[Path], object], times: int) -> None:
    """Return as soon as the result of `look` has changed `times` times, or the process has ended."""
    seen = look(life.folder)
    while times and life.alive:
        now = look(life.folder)
        # Temporary files come and go: only new ones count.
        times -= now != seen and bool(now)
        seen = now
        time.sleep(0.0002)


def killed_run(
    folder: Path,
    words: Sequence[str],
    varied: Sequence[str],
    seconds: float,
    most: int,
    rng: random.Random,
    ranks: int = 1,
    clocks: Sequence[float] = (0,),
) -> Report:
    """Train into `folder` with at most `most` kills; return the results, with the first problem in `first`.

    Args:
        folder: does not exist yet.
        words: overrides.
        varied: further overrides, one of which each life gets.
        seconds: duration of the uninterrupted command.
        most: kills after which the run is left alone.
        rng: decides when to kill.
        ranks: processes that train together.
        clocks: seconds by which the clock may be off, one of which each life gets.
    """
    report, reached = Report(runs=1, resumes=-1), 0
    aims = AIMS_IN_PARTS if "MODEL.PARALLEL=fsdp" in words else AIMS
    while True:
        off = rng.choice(clocks) if len(clocks) > 1 else 0
        life = Life(folder, [*words, *([rng.choice(varied)] if varied else [])], ranks, off)
        report.resumes += 1
        one = False
        if report.kills < most:
            aim = rng.choice(["instant", "instant", "instant", *aims])
            if aim == "instant":
                wait_for_instant(life, rng.uniform(0, seconds))
            else:
                wait_for_change(life, aims[aim], rng.randint(1, 8))
                time.sleep(rng.choice([0, 0, rng.expovariate(200)]))
            one = life.kill(rng.random() < 0.5, rng)
        try:
            code = life.end()
        except subprocess.TimeoutExpired:
            report.first = f"life {report.resumes + 1}: hangs"
            return report
        if code == 0:
            return report
        if code != (RANK_KILLED if one else -signal.SIGKILL):
            report.first = f"life {report.resumes + 1}: exit code {code}: {life.complaint()}"
            return report
        report.kills += 1
        report.ranks_killed += one
        try:
            before, reached = reached, newest(folder)
        except (ConfigError, OSError) as error:
            report.first = f"after life {report.resumes + 1}: {error}"
            return report
        if reached < before:
            report.first = f"after life {report.resumes + 1}: the newest is of {reached}, it was of {before}"
            return report


def newest(folder: Path) -> int:
    """Return the iteration of the checkpoint that a resume uses, read with all its shards; 0 before the first.

    Raises:
        ConfigError: it is incomplete.
    """
    name = RunFolder(folder).newest_name()
    return int(load_checkpoint(folder / name)["iteration"]) if name else 0


# ---------------------------------------------------------------- comparing


def compare(whole: Path, killed: Path) -> Iterator[str]:
    """Yield the differences between the folders of two runs."""
    names = checkpoints(whole)
    yield from differences(records_of_start(whole), records_of_start(killed), "files")
    yield from differences(names, checkpoints(killed), "files")
    yield from differences(named_parts(killed), sorted(_names(killed / SHARDS)), SHARDS)
    yield from differences(RunFolder(whole).manifest(), RunFolder(killed).manifest(), MANIFEST)
    for name in names:
        if (killed / name).exists():
            yield from differences(_content(whole / name), _content(killed / name), name)
    yield from differences(pointer(whole), pointer(killed), "last_checkpoint")
    yield from differences(metrics(whole), metrics(killed), "metrics.json")
    yield from differences(events(whole), events(killed), "TensorBoard")


def checkpoints(folder: Path) -> list[str]:
    """Return the names of the checkpoints, and of files that a kill has left behind."""
    return sorted(name for name in _names(folder) if name.endswith((".pth", ".tmp", ".lock", ".pth.cut")))


def named_parts(folder: Path) -> list[str]:
    """Return the shard folders that the checkpoints name, including checkpoints that were set aside."""
    files = folder.glob("model_*.pth*") if (folder / SHARDS).is_dir() else ()
    contents = [torch.load(path, map_location="meta", weights_only=True) for path in files]
    return sorted({content[IN_PARTS]["folder"] for content in contents if IN_PARTS in content})


def records_of_start(folder: Path) -> list[str]:
    """Return which of the files that each start writes exist; their contents may differ."""
    return [name for name in ("config.yaml", "log.txt", PICTURE) if (folder / name).is_file()]


def _content(path: Path) -> dict[str, Any]:
    content = load_checkpoint(path)
    config = content["config"]  # what may differ
    config["OUTPUT_DIR"] = config["DATALOADER"]["NUM_WORKERS"] = config["DATASETS"]["ROOT"] = None
    for entry in (each for sets in content.get("data", {}).values() for each in sets):
        entry["text"] = None
    return content


def metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of metrics.json without times."""
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


def events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return what TensorBoard shows: steps and values of each scalar, except times."""
    from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it logs each restart
    found = EventAccumulator(str(folder), size_guidance={SCALARS: 0}).Reload()
    tags = [tag for tag in found.Tags()["scalars"] if tag not in TIMES]
    return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in tags}


def differences(a: Any, b: Any, path: str) -> Iterator[str]:
    """Yield the paths at which two values differ, in type or in any bit.

    >>> list(differences({"lr": [0.1, 1]}, {"lr": [0.1, 2], "x": 0}, "state"))
    ['state.lr[1]: 1, then 2', 'state.x: missing, then 0']
    """
    if isinstance(a, dict) and isinstance(b, dict):
        for key in {**a, **b}:
            yield from differences(a.get(key, _MISSING), b.get(key, _MISSING), f"{path}.{key}")
    elif isinstance(a, (list, tuple)) and type(a) is type(b) and len(a) == len(b):
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from differences(x, y, f"{path}[{index}]")
    elif not _equal(a, b):
        yield f"{path}: {_shown(a)}, then {_shown(b)}"


class _Missing:
    def __repr__(self) -> str:
        return "missing"


_MISSING = _Missing()


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        # Bit for bit: torch.equal treats 0.0 and -0.0 as equal.
        return a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()
    if isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b):
        return True
    return type(a) is type(b) and bool(a == b)


def _shown(value: Any) -> str:
    text = f"tensor {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


# ---------------------------------------------------------------- running


def write_photos(folder: Path, count: int = 160) -> None:
    """Write the first digits as image files with a csv file, in `folder`."""
    from PIL import Image

    from warmstart.data import build_dataset

    digits, rows = build_dataset("digits_train", ""), ["name,digit"]
    (folder / "images").mkdir(parents=True)
    for index in range(count):
        pixels, digit = digits[index]
        Image.fromarray(pixels).save(folder / "images" / f"{index}.png")
        rows.append(f"images/{index}.png,{digit}")
    (folder / "digits.csv").write_text("\n".join(rows))


def torture(name: str, kills: int, seed: int, device: str, folder: Path) -> dict[str, Any]:
    """Run a configuration and return its line; folders of runs that differ stay in `folder`."""
    words = [*CONFIGS[name], f"MODEL.DEVICE={device}"]
    given = {word.partition("=")[0] for word in words}
    words = [*(word for word in BASE if word.partition("=")[0] not in given), *words]
    started, report, rng = time.monotonic(), Report(), random.Random(f"{seed} {name}")
    whole, ranks = folder / name / "whole", RANKS.get(name, 1)
    varied = [word.replace("{DATA}", str(folder / name / "data")) for word in VARIED.get(name, ())]
    for root in (word.partition("=")[2] for word in varied if word.startswith("DATASETS.ROOT=")):
        write_photos(Path(root))
    life = Life(whole, [*words, *varied[:1]], ranks)
    if life.end() != 0:
        raise RuntimeError(f"{name}: the uninterrupted run ended with {life.end()}: {life.complaint()}")
    seconds = time.monotonic() - life.started
    while report.kills < kills:
        run = folder / name / f"run{report.runs}"
        most = min(rng.randint(1, MOST_KILLS), kills - report.kills)
        came = killed_run(run, words, varied, seconds, most, rng, ranks, CLOCKS.get(name, (0,)))
        report.kills += came.kills
        report.ranks_killed += came.ranks_killed
        report.resumes += came.resumes
        report.runs += 1
        problem = came.first or next(compare(whole, run), "")
        if problem:
            report.mismatches += 1
            report.first = report.first or f"{run}: {problem}"
        else:
            shutil.rmtree(run)
    if not report.mismatches:
        shutil.rmtree(folder / name)
    return {
        "config": name,
        **vars(report),
        "seconds": round(time.monotonic() - started, 1),
        "seconds_unbroken": round(seconds, 1),
        "seed": seed,
        "device": device,
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__)},
    }


def known_configs() -> list[str]:
    """Return the configurations whose keys exist."""
    cfg = get_cfg()
    return [name for name, words in CONFIGS.items() if all(cfg.has_key(word.partition("=")[0]) for word in words)]


def main() -> int:
    """Run all configurations, print their lines, and return the exit code."""
    known = known_configs()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="in each configuration")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--configs", nargs="+", default=known, choices=known)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="configurations side by side")
    arguments = parser.parse_args()
    folder, mismatches = Path(tempfile.mkdtemp(prefix="torture")), 0
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for line in pool.map(
            lambda name: torture(name, arguments.kills, arguments.seed, arguments.device, folder),
            arguments.configs,
        ):
            print(json.dumps(line), flush=True)
            mismatches += line["mismatches"]
    if not mismatches:
        shutil.rmtree(folder)
    return 1 if mismatches else 0


if __name__ == "__main__":
    sys.exit(main())
