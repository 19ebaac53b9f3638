"""The score and time of a recipe over several seeds, as one JSON line.

    python benchmarks/recipe.py --config-file recipe:digits.yaml --seeds 10
    python benchmarks/recipe.py --config-file recipe:cifar10_speedrun.yaml --seeds 25 --warm --score ema/accuracy

`score` is the score of the last evaluation. Each seed runs in a separate process, one after another, and `seconds`
is the full command, imports included.

With --warm all seeds run in this process, after a warm-up run that does not count, and `seconds` is the time for
learning: initialisation from images, all updates with their batches and records, and every evaluation. It excludes
what is done once per process or can be done in advance: imports, compilation, the choice of kernels, reading the
data and copying it to the device, building model and optimizer, opening files; and also the picture of the
schedule, and the checkpoint at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torchvision

from warmstart.engine import (
    HookBase,
    PictureHook,
    Trainer,
    build_trainer,
    finish_saves,
    init_from_data,
    read_command_line,
    register_hook,
    resolve_config,
)

TOOL = Path(__file__).parent.parent / "tools" / "train_net.py"


class Clock(HookBase):
    """Measures the time from the first update to the scores of the last evaluation; it is the last hook."""

    def __init__(self) -> None:
        self.start = self.seconds = 0.0

    def before_step(self, trainer: Trainer) -> None:
        """Begin with the first update."""
        if trainer.iteration == 0:
            self.start = now()

    def after_step(self, trainer: Trainer) -> None:
        """End with the last one."""
        if trainer.is_last_step:
            self.seconds = now() - self.start


def now() -> float:
    """Return the time once the device has finished its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def run_apart(words: list[str]) -> float:
    """Train in a separate process; return the seconds it took."""
    start = time.perf_counter()
    subprocess.run([sys.executable, str(TOOL), *words], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def run_here(words: list[str], clock: Clock) -> float:
    """Train in this process; return the seconds of learning."""
    cfg = resolve_config(read_command_line(words, (), "")[1])
    trainer = build_trainer(cfg)
    trainer.hooks = [hook for hook in trainer.hooks if not isinstance(hook, PictureHook)]
    start = now()
    assert trainer.task is not None
    init_from_data(cfg, trainer.task, trainer.model, trainer.data_loader)  # once more, with the same result
    seconds = now() - start
    trainer.train()
    finish_saves()
    return seconds + clock.seconds


def last_score(folder: str, name: str) -> float:
    """Return a score of the first test set in the last record of a run."""
    last = json.loads((Path(folder) / "metrics.json").read_text().splitlines()[-1])
    return next(value for key, value in last.items() if key.endswith(f"/{name}"))


def main() -> None:
    """Run every seed and print one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--warm", action="store_true", help="time learning alone, in one process")
    parser.add_argument("--score", default="accuracy", help="a name after the test set's: ema/accuracy")
    arguments, overrides = parser.parse_known_args()
    clock = Clock()
    if arguments.warm:
        register_hook("clock", lambda cfg: clock)
    scores, seconds = [], []
    for seed in range(-arguments.warm, arguments.seeds):
        with tempfile.TemporaryDirectory() as folder:
            words = ["--config-file", arguments.config_file, *overrides]
            words += ["SEED", str(abs(seed)), "OUTPUT_DIR", folder]
            taken = run_here(words, clock) if arguments.warm else run_apart(words)
            if seed >= 0:
                scores.append(last_score(folder, arguments.score))
                seconds.append(taken)
    line = {
        "config": arguments.config_file,
        "overrides": overrides,
        "n": len(scores),
        "score": arguments.score,
        "score_mean": round(statistics.mean(scores), 5),
        "score_std": round(statistics.stdev(scores), 5) if len(scores) > 1 else None,
        "score_min": round(min(scores), 5),
        "score_max": round(max(scores), 5),
        "timed": "learning" if arguments.warm else "the full command",
        "seconds_median": round(statistics.median(seconds), 3 if arguments.warm else 1),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {os.cpu_count()} cores",
        "versions": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "torchvision": str(torchvision.__version__),
        },
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
