"""Milliseconds that training waits for a checkpoint, as one JSON line a size and contender.

    python benchmarks/checkpoint.py --megabytes 10 100 1000
    python benchmarks/checkpoint.py --megabytes 200 --contenders ours ours+best+final

The checkpoint holds a model and the momentum of SGD, half of its size each. `stall_ms` is the median time until
training continues, `written_ms` until all files have their names on the disk; the next save begins after both. All
contenders take turns, `rounds` times. "copy" is the limit: the tensors copied into memory that is allocated
already. "ours+best+final" saves the same content under three names, as the last save of a run does;
`ratio_to_ours` compares its `written_ms` with one name in the same rounds. torch.save and fvcore's Checkpointer
neither sync the file to the disk nor read it back, nor do they look for NaN; "torch.save+fsync" adds the first.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from fvcore.common.checkpoint import Checkpointer
from torch import nn
from torch.optim.lr_scheduler import ConstantLR

from warmstart.engine import CheckpointHook, Trainer, finish_saves

MB = 10**6
LAYER = 512  # features; about 1 MB a weight

# Does one save, and calls its argument when training continues.
Contender = Callable[[Callable[[], None]], None]


def build_trainer(megabytes: int) -> Trainer:
    """Return a trainer whose state takes about so many megabytes, after its first update."""
    layers = max(1, round(megabytes * MB / 2 / (4 * LAYER * (LAYER + 1))))
    model = nn.Sequential(*[nn.Linear(LAYER, LAYER) for _ in range(layers)])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return Trainer(model, optimizer, ConstantLR(optimizer), [], max_iter=10**6)


def tensors_of(trainer: Trainer) -> list[torch.Tensor]:
    """Return what a checkpoint of this trainer has to hold."""
    momentum = [state["momentum_buffer"] for state in trainer.optimizer.state.values()]
    return [*trainer.model.state_dict().values(), *momentum]


def copy(trainer: Trainer, folder: Path) -> Contender:
    """Return the bare copy; nothing is written."""
    copies = [torch.zeros_like(tensor) for tensor in tensors_of(trainer)]

    def save(resume: Callable[[], None]) -> None:
        for copied, tensor in zip(copies, tensors_of(trainer), strict=True):
            copied.copy_(tensor)
        resume()

    return save


def torch_save(trainer: Trainer, folder: Path, sync: bool = False) -> Contender:
    """Return the idiom of a hand-written loop."""

    def save(resume: Callable[[], None]) -> None:
        content = {"model": trainer.model.state_dict(), "optimizer": trainer.optimizer.state_dict()}
        with open(folder / "torch.pth", "wb") as file:
            torch.save(content, file)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        resume()

    return save


def torch_save_fsync(trainer: Trainer, folder: Path) -> Contender:
    """Return the same, which a power failure does not undo."""
    return torch_save(trainer, folder, sync=True)


def fvcore(trainer: Trainer, folder: Path) -> Contender:
    """Return detectron2's way."""
    checkpointer = Checkpointer(trainer.model, str(folder), optimizer=trainer.optimizer)

    def save(resume: Callable[[], None]) -> None:
        checkpointer.save("fvcore")
        resume()

    return save


def ours(trainer: Trainer, folder: Path, names: tuple[str, ...] = ()) -> Contender:
    """Return the hook of each of our runs: copied, checked, then written, synced and read back in a thread."""
    hook = CheckpointHook(1, folder, {}, keep=1)

    def save(resume: Callable[[], None]) -> None:
        trainer.iteration += 1
        trainer.save_as.update(names)
        hook.after_step(trainer)
        resume()
        finish_saves()

    return save


def ours_best_final(trainer: Trainer, folder: Path) -> Contender:
    """Return the same with copies of the file under two other names."""
    (folder / "three").mkdir()
    return ours(trainer, folder / "three", ("model_best.pth", "model_final.pth"))


CONTENDERS: dict[str, Callable[[Trainer, Path], Contender]] = {
    "copy": copy,
    "torch.save": torch_save,
    "torch.save+fsync": torch_save_fsync,
    "fvcore": fvcore,
    "ours": ours,
    "ours+best+final": ours_best_final,
}


def measure(names: list[str], megabytes: int, rounds: int, folder: Path) -> dict[str, list[tuple[float, float]]]:
    """Return the milliseconds until training continues, and until all is written, of each contender and round."""
    trainer = build_trainer(megabytes)
    contenders = {name: CONTENDERS[name](trainer, folder) for name in names}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for _ in range(rounds):
        for name, save in contenders.items():
            stalled: list[float] = []
            start = time.perf_counter()
            save(lambda stalled=stalled: stalled.append(time.perf_counter()))  # type: ignore[misc]
            end = time.perf_counter()
            found[name].append(((stalled[0] - start) * 1e3, (end - start) * 1e3))
            os.sync()  # what one has left to the system is not charged to the next
    return found


def line(name: str, times: list[tuple[float, float]], copies: list[tuple[float, float]]) -> dict[str, Any]:
    """Return what is printed of a contender, but for the settings of the run."""
    stall, written = (statistics.median(column) for column in zip(*times, strict=True))
    limit = statistics.median(stalled for stalled, _ in copies)
    return {
        "stall_ms": round(stall, 2),
        "stall_min_ms": round(min(stalled for stalled, _ in times), 2),
        "stall_max_ms": round(max(stalled for stalled, _ in times), 2),
        "written_ms": round(written, 2) if name != "copy" else None,
        "ratio_to_copy": round(stall / limit, 2),
        "device": f"CPU, {os.cpu_count()} cores",
        "versions": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            **({"fvcore": version("fvcore")} if name == "fvcore" else {}),
        },
    }


def main() -> None:
    """Measure each size in turn and print its lines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--contenders", nargs="+", default=list(CONTENDERS), choices=CONTENDERS)
    parser.add_argument("--folder", type=Path, help="where the files go; default: the system's for temporary ones")
    arguments = parser.parse_args()
    logging.getLogger("fvcore").setLevel(logging.WARNING)
    names = [name for name in CONTENDERS if name in {"copy", *arguments.contenders}]  # ratios are to the copy
    for megabytes in arguments.megabytes:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            found = measure(names, megabytes, arguments.rounds, Path(folder))
        lines = {name: line(name, times, found["copy"]) for name, times in found.items()}
        for name, about in lines.items():
            if name == "ours+best+final" and "ours" in lines:
                about["ratio_to_ours"] = round(about["written_ms"] / lines["ours"]["written_ms"], 2)
            print(
                json.dumps({"contender": name, "megabytes": megabytes, "rounds": arguments.rounds} | about),
                flush=True,
            )


if __name__ == "__main__":
    main()
