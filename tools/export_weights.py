"""Write the weights of a checkpoint as a .safetensors file, to share them.

    python tools/export_weights.py output/digits/model_final.pth digits.safetensors

Such a file contains tensors under the model's parameter names, cannot run code, and can be read by many other
tools; MODEL.WEIGHTS accepts it too. If the score of the moving average has chosen a model_best.pth, the average is
written. The metadata contain the iteration, the names of the classes as a JSON list, and the versions of the
software that trained the model. An existing file of this name is replaced, as by torch.save, once the new one is
complete.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from warmstart.tools import interruptible

with interruptible(__name__):
    import torch
    from safetensors.torch import save
    from torch import Tensor

    from warmstart.config import ConfigError, Flag, parse_command_line, program
    from warmstart.engine import (
        classes_of,
        is_best_average,
        load_checkpoint,
        load_newest,
        refuse_ranks,
        run_tool,
        setup_logging,
    )
    from warmstart.engine.runtime import files

logger = logging.getLogger("warmstart.tools")

FLAGS = (
    Flag("--ema", "none", "write the moving average of the weights"),
    Flag("--model", "none", "write the model's weights even if the average's score chose this model_best.pth"),
    Flag("--trust-checkpoint", "none", "read a checkpoint even if that can run code in it"),
)
USAGE = "CHECKPOINT OUT.safetensors [--ema | --model] [--trust-checkpoint]"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool with the arguments of a command line and return its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if "--help" in argv or "-h" in argv:
        print(f"usage: {program(argv)} {USAGE}\n\n{__doc__}")
        print("CHECKPOINT may be a run's folder; its newest checkpoint is used then.\n")
        print("\n".join(f"  {flag.name:<24} {flag.help}" for flag in FLAGS))
        return 0
    flags, words = parse_command_line(argv, FLAGS)
    refuse_ranks("export_weights.py runs in one process")
    if len(words) != 2 or Path(words[1]).suffix != ".safetensors":
        raise ConfigError(f"command line: expected {USAGE}; got {' '.join(words) or 'nothing'}")
    source, target = map(Path, words)
    if target.is_symlink():
        raise ConfigError(f"command line: {target} is a symbolic link; name the file that it leads to")
    setup_logging()
    if flags["ema"] and flags["model"]:
        raise ConfigError("command line: --ema and --model contradict each other; give one of them")
    checkpoint = read_checkpoint(source, flags["trust_checkpoint"])
    ema = flags["ema"] or (not flags["model"] and is_best_average(source, checkpoint))
    part = "average" if ema else "weights"
    tensors = weights_of(checkpoint, ema, source)
    metadata = describe(checkpoint, part)
    try:
        files.write_atomically(target, lambda file: file.write(save(tensors, metadata)))
    except OSError as error:
        raise ConfigError(f"command line: cannot write {target}: {error.strerror}") from None
    logger.info("saved the %s after %s iterations in %s", part, f"{checkpoint['iteration']:,}", target)
    return 0


def read_checkpoint(source: Path, trust: bool = False) -> dict[str, Any]:
    """Return a checkpoint, or the newest one in a folder.

    Raises:
        ConfigError: there is no checkpoint, or it cannot be read.
    """
    if not source.is_dir():
        return load_checkpoint(source, trust)
    newest = load_newest(source, trust)
    if newest is None:
        raise ConfigError(f"command line: {source}: the folder holds no checkpoint")
    return newest[1]


def weights_of(checkpoint: Mapping[str, Any], ema: bool, source: Path) -> dict[str, Tensor]:
    """Return the tensors of the model or of its moving average; none of them share memory.

    Raises:
        ConfigError: the checkpoint has no moving average or no tensors, or the format does not support one.
    """
    average = checkpoint.get("ema")
    if ema and not average:
        raise ConfigError(f"command line: {source} has no moving average (SOLVER.EMA was off); leave --ema out")
    holder = average if ema else checkpoint
    state = holder.get("model") if isinstance(holder, Mapping) else None
    tensors = {name: t for name, t in state.items() if isinstance(t, Tensor)} if isinstance(state, Mapping) else {}
    if not tensors:
        raise ConfigError(f"command line: {source} holds no weights to write")
    for name, tensor in tensors.items():
        if problem := _misfit(name, tensor):
            raise ConfigError(f"command line: {source} cannot be written as .safetensors: {problem}")
    # The format supports neither shared memory, as of tied weights, nor strides.
    return {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}


def _misfit(name: object, tensor: Tensor) -> str:
    """Return why the format does not support a tensor; "" if it does."""
    if not isinstance(name, str):
        return f"the name {name!r} is not a string"
    if tensor.layout is not torch.strided:
        return f"{name} is sparse"
    try:
        save({"": torch.empty(0, dtype=tensor.dtype)})
    except (KeyError, RuntimeError):
        return f"{name} is of {tensor.dtype}"
    return ""


def describe(checkpoint: Mapping[str, Any], part: str) -> dict[str, str]:
    """Return the file's metadata as strings: iteration, part of the checkpoint, class names, versions.

    Raises:
        ConfigError: the checkpoint's versions are not a dict.

    >>> describe({"iteration": 800, "versions": {"torch": "2.15.0"}}, "weights")  # doctest: +ELLIPSIS
    {'format': 'pt', 'iteration': '800', 'part': 'weights', 'warmstart': '...', 'torch': '2.15.0'}
    """
    written_by = checkpoint.get("versions", {})
    if not isinstance(written_by, Mapping):
        raise ConfigError(f"the checkpoint's versions are not a dict, but {type(written_by).__name__}")
    own = {"iteration": str(checkpoint["iteration"]), "part": part, "warmstart": version("warmstart")}
    names = classes_of(checkpoint)
    classes = {"classes": json.dumps(names, ensure_ascii=False)} if names else {}
    return {"format": "pt", **own, **{str(name): str(value) for name, value in written_by.items()}, **classes}


if __name__ == "__main__":
    run_tool(main)
