"""Kill training runs at any instant, resume them, and compare what they end with: one JSON line a configuration.

    python benchmarks/torture.py --kills 100 --seed 0

For each configuration one run is left alone. Others are killed (SIGKILL) and resumed until they are done, and then
everything must be equal: each checkpoint to the last bit, metrics.json and TensorBoard but for times, and nothing
may be missing or left over. A kill comes
at an instant drawn uniformly from the length of the whole command, or right after something appeared in the
run's folder: a temporary checkpoint, a new pointer, a line of metrics.json, a file of parts. It hits the process
alone or, as a batch system does, its whole group; in configurations of two ranks all of them, or one, whose end
the launcher and the other one see. After each kill what a resume takes must be whole, and no older than before.
`kills` counts those that found a process to kill, `ranks_killed` those of them that hit one rank, `runs` the
comparisons; `mismatches` counts runs that differ, whose folders stay. The exit code is 1 where one does.
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
MOST_KILLS = 6  # of one run: so many that it goes on from checkpoints that were themselves written after a resume
TIMES = ("time", "data_time")  # names in a record
LONGEST = 300  # seconds that a life may take: one that hangs is a mismatch
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
    "two_ranks": ("SOLVER.STEPS=40,70", "SOLVER.EMA={ENABLED: true, DECAY: 0.9, PERIOD: 2}"),
    "parts": PARTS,
    "parts_keep_two": (
        *(*PARTS, "SOLVER.OPTIMIZER=AdamW", "SOLVER.BASE_LR=0.005", "SOLVER.CHECKPOINT_PERIOD=3"),
        *("SOLVER.CHECKPOINT_KEEP=2", "TEST.EVAL_PERIOD=10", "TEST.BEST.METRIC=digits_test/accuracy"),
    ),
}
RANKS = {"two_ranks": 2, "parts": 2, "parts_keep_two": 2}  # of one where none are said
# What may change from one life of a run to the next, without a change of the result.
VARIED: dict[str, tuple[str, ...]] = {"workers": ("DATALOADER.NUM_WORKERS=0", "DATALOADER.NUM_WORKERS=2")}
# Seconds by which the clock of a life is off, where it is not right in all of them.
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
    """What came of one configuration."""

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
                # Also what a launcher would delete at its end.
                env={**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(folder.parent)},
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,  # so that its group is not ours
            )

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def kill(self, group: bool, rng: random.Random) -> bool:
        """Kill it as it stands, as a whole or one process; return whether that is one of several ranks.

        Args:
            group: whether with its loading processes and its ranks; else alone, or one rank where it has them.
            rng: says which.
        """
        if not self.alive:  # and its number may be another one's by now
            return False
        if self.ranks == 1:
            with contextlib.suppress(ProcessLookupError):
                (os.killpg if group else os.kill)(self._process.pid, signal.SIGKILL)
            return False
        found = frozen(self._process.pid)
        ranks = [pid for pid, parent in found if parent == self._process.pid]
        one = not group and len(ranks) == self.ranks
        victims = [rng.choice(ranks)] if one else [pid for pid, _ in found]
        for pid, _ in found:  # nobody has waited for them: the numbers are still theirs
            os.kill(pid, signal.SIGKILL if pid in victims else signal.SIGCONT)
        # Ranks are no children of ours, and hold the folder until they are gone.
        while any(parent_and_state(pid)[1] not in GONE for pid in victims):
            time.sleep(0.001)
        return one

    def end(self) -> int:
        """Wait for its end and return the exit code, negative for a signal.

        Raises:
            TimeoutExpired: it hangs; it has been killed.
        """
        try:
            return self._process.wait(LONGEST)
        except subprocess.TimeoutExpired:
            for pid, _ in frozen(self._process.pid):
                os.kill(pid, signal.SIGKILL)
            self._process.wait()
            raise

    def complaint(self) -> str:
        """Return the last line that it said on stderr."""
        return (self._errors.read_text(errors="replace").strip().splitlines() or ["no message"])[-1]


GONE = ("Z", "X", "")  # states of a process that runs no more


def parent_and_state(pid: int) -> tuple[int, str]:
    """Return the parent of a process, and its state, a letter of Linux's; 0 and "" where there is none."""
    with contextlib.suppress(OSError):
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]  # behind the name
        return int(parent), state
    return 0, ""


def frozen(root: int) -> list[tuple[int, int]]:
    """Stop a child of ours and all that it has started, so that nothing is started meanwhile.

    Returns:
        Each process that was still running, and its parent; the root first.
    """
    found, waiting = [], [(root, os.getpid())]
    while waiting:
        pid, parent = waiting.pop(0)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
        while (state := parent_and_state(pid)[1]) not in ("T", *GONE):  # it may be starting one at this instant
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
    """Return when the process has lived so long, or has ended."""
    while life.alive and time.monotonic() - life.started < seconds:
        time.sleep(0.001)


def wait_for_change(life: Life, look: Callable[[Path], object], times: int) -> None:
    """Return as soon as what `look` sees has changed so often, or the process has ended."""
    seen = look(life.folder)
    while times and life.alive:
        now = look(life.folder)
        # Temporaries come and go: only what comes counts.
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
    """Train into `folder` with at most so many kills; return what came of it, `first` is what went wrong.

    Args:
        folder: does not exist yet.
        words: overrides.
        varied: further overrides, of which each life gets one.
        seconds: length of the unbroken command.
        most: kills after which the run is left alone.
        rng: says when to kill.
        ranks: processes that train together.
        clocks: seconds by which the clock may be off, of which each life gets one.
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
    """Return the iteration of the checkpoint that a resume takes, read with all its parts; 0 before the first.

    Raises:
        ConfigError: it is not whole.
    """
    name = RunFolder(folder).newest_name()
    return int(load_checkpoint(folder / name)["iteration"]) if name else 0


# ---------------------------------------------------------------- comparing


def compare(whole: Path, killed: Path) -> Iterator[str]:
    """Yield where the folders of two runs differ."""
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
    """Return the names of the checkpoints, and of what a kill has left behind."""
    return sorted(name for name in _names(folder) if name.endswith((".pth", ".tmp", ".lock", ".pth.cut")))


def named_parts(folder: Path) -> list[str]:
    """Return the folders of parts that the checkpoints name, also those that were set aside."""
    files = folder.glob("model_*.pth*") if (folder / SHARDS).is_dir() else ()
    contents = [torch.load(path, map_location="meta", weights_only=True) for path in files]
    return sorted({content[IN_PARTS]["folder"] for content in contents if IN_PARTS in content})


def records_of_start(folder: Path) -> list[str]:
    """Return which of the files are there that each start writes; what they say may differ."""
    return [name for name in ("config.yaml", "log.txt", PICTURE) if (folder / name).is_file()]


def _content(path: Path) -> dict[str, Any]:
    content = load_checkpoint(path)
    content["config"]["OUTPUT_DIR"] = content["config"]["DATALOADER"]["NUM_WORKERS"] = None  # they may differ
    return content


def metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of metrics.json without times."""
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


def events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return what TensorBoard shows: step and value of each scalar but times."""
    from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it tells of each restart
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
        # Bit for bit: torch.equal takes 0.0 for -0.0.
        return a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()
    if isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b):
        return True
    return type(a) is type(b) and bool(a == b)


def _shown(value: Any) -> str:
    text = f"tensor {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


# ---------------------------------------------------------------- the whole


def torture(name: str, kills: int, seed: int, device: str, folder: Path) -> dict[str, Any]:
    """Do a configuration and return its line; folders of runs that differ stay in `folder`."""
    words = [*BASE, *CONFIGS[name], f"MODEL.DEVICE={device}"]
    started, report, rng = time.monotonic(), Report(), random.Random(f"{seed} {name}")
    whole, ranks = folder / name / "whole", RANKS.get(name, 1)
    life = Life(whole, words, ranks)
    if life.end() != 0:
        raise RuntimeError(f"{name}: the unbroken run ended with {life.end()}: {life.complaint()}")
    seconds = time.monotonic() - life.started
    while report.kills < kills:
        run = folder / name / f"run{report.runs}"
        most = min(rng.randint(1, MOST_KILLS), kills - report.kills)
        came = killed_run(run, words, VARIED.get(name, ()), seconds, most, rng, ranks, CLOCKS.get(name, (0,)))
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
    """Return the configurations whose keys there are."""
    cfg = get_cfg()
    return [name for name, words in CONFIGS.items() if all(cfg.has_key(word.partition("=")[0]) for word in words)]


def main() -> int:
    """Do all configurations, print their lines, and return the exit code."""
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
