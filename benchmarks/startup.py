"""Seconds from a command to its first update, as one JSON line per contender.

    python benchmarks/startup.py --rounds 8

"imports" is `python -c "import torch, torchvision"`. "bare" is the minimal handwritten script: torch, a model,
SGD, one batch of the digits; "train_net" runs the digits' recipe up to the end of its first update.
"bare_resnet18" and "train_net_resnet18" are the same with torchvision's model; "plot_lr", "print_config" and
"help" run to their end. Each is a separate process; all take turns, `rounds` times. `wall_s` and `cpu_s` are
medians, from the start of the process to its last line, without the interpreter's exit; `cpu_s` is user and system
time, which other work on the machine affects less. `ratio_to_imports` is the ratio of `cpu_s`.
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
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parent.parent

# The module with which each contender ends. All processes of a machine share the monotonic clock.
STAMP = """
import json, time

def stamp():
    print("\\n" + json.dumps([time.monotonic(), time.process_time()]), flush=True)
"""

NET = """
from torch import nn
model = nn.Sequential(
    nn.Conv2d(1, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)
)
"""

RESNET = """
from torch import nn
from torchvision.models import resnet18
model = resnet18(num_classes=10)
model.conv1, model.maxpool = nn.Conv2d(1, 64, 3, padding=1, bias=False), nn.Identity()
"""

UPDATE = """
import sys
import numpy as np
import torch
from stamp import stamp

digits = np.load(sys.argv[1])
images = torch.from_numpy(digits["train_images"][:64]).unsqueeze(1) / 255
labels = torch.from_numpy(digits["train_labels"][:64]).long()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
nn.functional.cross_entropy(model(images), labels).backward()
optimizer.step()
stamp()
"""

# A user-defined hook: it runs after the first update, before anything is recorded.
HOOK = """
import os
from stamp import stamp
from warmstart.engine import HookBase, register_hook

class Stamp(HookBase):
    def after_step(self, trainer):
        stamp()
        os._exit(0)

register_hook("stamp", lambda cfg: Stamp())
"""

TOOL = """
import runpy, sys
from stamp import stamp
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    stamp()
"""

TRAIN = ["tools/train_net.py", "--config-file", "recipe:digits.yaml"]
CONTENDERS = {
    "imports": ["-c", "import torch, torchvision, stamp; stamp.stamp()"],
    "bare": ["-c", NET + UPDATE, "data/digits/digits.npz"],
    "train_net": [*TRAIN, "--import", "hook"],
    "bare_resnet18": ["-c", RESNET + UPDATE, "data/digits/digits.npz"],
    "train_net_resnet18": [*TRAIN, "--import", "hook", "MODEL.NAME", "resnet18", "MODEL.ARGS", "{}"],
    "plot_lr": ["-c", TOOL, "tools/plot_lr.py", *TRAIN[1:], "--out", "{folder}/lr.png"],
    "print_config": ["-c", TOOL, *TRAIN, "--print-config"],
    "help": ["-c", TOOL, "tools/train_net.py", "--help"],
}


def measure(name: str) -> tuple[float, float]:
    """Return the wall-clock and CPU seconds of one process."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "stamp.py").write_text(STAMP)
        Path(folder, "hook.py").write_text(HOOK)
        words = [word.replace("{folder}", folder) for word in CONTENDERS[name]]
        if "hook" in words:
            words += ["OUTPUT_DIR", f"{folder}/out"]
        path = os.pathsep.join([folder, os.environ.get("PYTHONPATH", "")])
        begin = time.monotonic()
        said = subprocess.check_output(
            [sys.executable, *words], cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, text=True
        )
    end, cpu = json.loads(said.splitlines()[-1])
    return end - begin, cpu


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--contenders", nargs="+", default=list(CONTENDERS), choices=CONTENDERS)
    parser.add_argument("--rounds", type=int, default=8)
    given = parser.parse_args()
    names = [name for name in CONTENDERS if name in {"imports", *given.contenders}]
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for name in names:
        measure(name)  # warm-up: brings files into the page cache
    for _ in range(given.rounds):
        for name in names:
            found[name].append(measure(name))
    medians = {
        name: [statistics.median(column) for column in zip(*runs, strict=True)] for name, runs in found.items()
    }
    for name, (wall, cpu) in medians.items():
        line = {
            **{"contender": name, "rounds": given.rounds, "wall_s": round(wall, 3), "cpu_s": round(cpu, 3)},
            "ratio_to_imports": round(cpu / medians["imports"][1], 3),
            "cores": os.cpu_count(),
            "versions": {
                "python": platform.python_version(),
                **{package: version(package) for package in ("torch", "torchvision", "matplotlib", "tensorboard")},
            },
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
