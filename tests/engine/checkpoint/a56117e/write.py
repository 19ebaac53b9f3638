"""The runs of commit a56117e whose checkpoints are in this folder: writes them, and says how each ended.

A run is trained twice: to its end, and killed two updates after the checkpoint of iteration 33. RUN/ keeps what a
resume of the killed one needs; RUN.json and RUN.safetensors how the other ended. README.md has the commands.

Today's tests call `machine`, `weights` and `how_it_ended` too.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from safetensors.torch import save_file

from warmstart.engine import Trainer, finish_saves, load_checkpoint
from warmstart.tools import train_net

HERE = Path(__file__).parent
# What the command line says besides RUN.yaml, in the words of a56117e.
WORDS = {"resident": [], "worker": ["MODEL.LABEL_SMOOTHING", "0.1", "TEST.FLIP", "true"]}
CUT = 33  # the iteration of the checkpoint; the losses of 31 to 33 are in no record yet
KILLED = 35  # with this record, which the resumed run writes again
KEPT = ("model_0000032.pth", "last_checkpoint", "checkpoints.json", "metrics.json")
TIMES = ("time", "data_time")


def machine() -> dict[str, Any]:
    """Return what the bits of a run on the CPU depend on."""
    try:
        processor = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").partition("\n\n")[0]
    except OSError:
        processor = ""
    facts = dict(re.findall(r"^(.+?)\s*: (.*)$", processor, re.MULTILINE))
    flags = facts.get("flags", "").split()
    return {
        "torch": str(torch.__version__),
        "torchvision": str(torchvision.__version__),
        "numpy": np.__version__,
        "threads": torch.get_num_threads(),
        "processor": [facts.get(name, "") for name in ("vendor_id", "cpu family", "model", "model name")],
        "instructions": sorted(flag for flag in flags if re.match("s?sse|avx|amx|fma|f16c", flag)),
        "used by torch": torch.backends.cpu.get_cpu_capability(),
    }


def tensors(content: Any) -> Iterator[torch.Tensor]:
    """Return the tensors in dicts and lists, in their order."""
    if isinstance(content, torch.Tensor):
        yield content
    elif isinstance(content, (dict, list, tuple)):
        for inner in content.values() if isinstance(content, dict) else content:
            yield from tensors(inner)


def sha256(content: Any) -> str:
    """Return the SHA-256 of the bytes of the tensors in `content`, in their order."""
    return hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in tensors(content))).hexdigest()


def weights(end: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Return the weights and buffers in a checkpoint, of the model and of its average."""
    both = {"model": end["model"], "ema": (end["ema"] or {"model": {}})["model"]}
    return {f"{part}.{name}": tensor for part, state in both.items() for name, tensor in state.items()}


def records(folder: Path) -> list[dict[str, float]]:
    """Return the lines of metrics.json after the cut, without their times."""
    lines = map(json.loads, (folder / "metrics.json").read_text().splitlines())
    return [{k: v for k, v in line.items() if k not in TIMES} for line in lines if line["iteration"] > CUT]


def how_it_ended(folder: Path) -> dict[str, Any]:
    """Return what two runs with the same bits have in common at their ends, as JSON takes it."""
    end = load_checkpoint(folder / "model_final.pth")
    return {
        "iteration": end["iteration"],
        "sha256": {part: sha256(end[part]) for part in ("model", "ema", "optimizer", "rng")},
        "scheduler": end["scheduler"],
        "hooks": {name: state for name, state in end["hooks"].items() if "best" in state},
        "best": load_checkpoint(folder / "model_best.pth")["iteration"],
        "records": records(folder),
    }


def train(run: str, folder: str, killed_at: int | None = None) -> None:
    """Train a run in `folder`, to its end or until kill -9 after `killed_at` updates."""
    os.chdir(folder)  # OUTPUT_DIR is relative: a checkpoint holds it
    torch.set_num_threads(1)
    step = Trainer.run_step

    def run_step(trainer: Trainer, *arguments: Any) -> Any:
        if killed_at == trainer.iteration + 1:
            time.sleep(1)  # a record may wait for the next one as long as they come fast
        if killed_at == trainer.iteration:
            finish_saves()
            os.kill(os.getpid(), signal.SIGKILL)
        return step(trainer, *arguments)

    Trainer.run_step = run_step  # type: ignore[method-assign]
    train_net.main(["--config-file", str(HERE / f"{run}.yaml"), *WORDS[run]])


def write(run: str) -> None:
    """Write RUN/, RUN.json and RUN.safetensors."""
    for killed_at in (KILLED, None):
        with tempfile.TemporaryDirectory() as folder:
            process = multiprocessing.get_context("spawn").Process(target=train, args=(run, folder, killed_at))
            process.start()
            process.join()
            assert process.exitcode == (0 if killed_at is None else -signal.SIGKILL)
            out = Path(folder) / run
            if killed_at is None:
                ended = {"machine": machine(), **how_it_ended(out)}
                (HERE / f"{run}.json").write_text(json.dumps(ended, indent=1) + "\n")
                save_file(weights(load_checkpoint(out / "model_final.pth")), HERE / f"{run}.safetensors")
            else:
                (HERE / run).mkdir(exist_ok=True)
                for name in KEPT:
                    shutil.copyfile(out / name, HERE / run / name)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for each in WORDS:
        write(each)
