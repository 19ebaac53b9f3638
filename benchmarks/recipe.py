"""The score and time of a recipe over several seeds, as one JSON line.

    python benchmarks/recipe.py --config-file recipe:digits.yaml --seeds 10

Each seed is a process of its own, one after the other. `score` is what the last evaluation gave; `seconds`
is the whole command, imports included.
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

TOOL = Path(__file__).parent.parent / "tools" / "train_net.py"


def run(config: str, seed: int, overrides: list[str]) -> tuple[float, float]:
    """Train once; return the accuracy on the first test set and the seconds it took."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(TOOL), "--config-file", config, *overrides]
        start = time.perf_counter()
        subprocess.run([*command, "SEED", str(seed), "OUTPUT_DIR", folder], check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - start
        last = json.loads((Path(folder) / "metrics.json").read_text().splitlines()[-1])
    return next(value for key, value in last.items() if key.endswith("/accuracy")), seconds


def main() -> None:
    """Run every seed and print one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--seeds", type=int, default=10)
    arguments, overrides = parser.parse_known_args()
    runs = [run(arguments.config_file, seed, overrides) for seed in range(arguments.seeds)]
    scores, seconds = zip(*runs, strict=True)
    line = {
        "config": arguments.config_file,
        "overrides": overrides,
        "n": len(runs),
        "score_mean": round(statistics.mean(scores), 5),
        "score_std": round(statistics.stdev(scores), 5) if len(runs) > 1 else None,
        "score_min": round(min(scores), 5),
        "score_max": round(max(scores), 5),
        "seconds_median": round(statistics.median(seconds), 1),
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
