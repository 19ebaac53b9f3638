"""Checkpoint files: whole or absent, and never code.

A checkpoint is a dict of tensors and plain values in one file. Files are named as in detectron2: after
1,000 updates `model_0000999.pth` holds `iteration: 1000`, and `last_checkpoint` holds that name.
"""

from __future__ import annotations

import copy
import logging
import math
import os
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from warmstart.config import ConfigError, read_small_text
from warmstart.modeling import read_tensor_file

from . import files, shards

logger = logging.getLogger(__name__)

POINTER = "last_checkpoint"
FINAL = "model_final.pth"
BEST = "model_best.pth"
NUMBERED = re.compile(r"model_(\d{7,})\.pth")
NAMES = "names"  # an entry of a checkpoint: what it is called in its folder besides its number
_NAME = re.compile(r"\w[\w. -]*\.pth", re.ASCII)
PARTS = ("model", "optimizer", "scheduler", "iteration", "hooks", "rng", "config")
PARTS_IN = "parts"  # an entry of what `load_checkpoint` returns
_INT_BITS = 2039  # of a longer one torch.load(weights_only=True) does not know how it is pickled


def checkpoint_name(iteration: int) -> str:
    """Return the file's name after `iteration` updates, numbered as detectron2 does.

    >>> checkpoint_name(1000)
    'model_0000999.pth'
    """
    return f"model_{iteration - 1:07d}.pth"


def checkpoint_number(name: str) -> int:
    """Return the number in a checkpoint's name, by which files are ordered: 9, 10, 100.

    >>> checkpoint_number("model_0000999.pth")
    999
    """
    found = NUMBERED.fullmatch(name)
    if found is None:
        raise ValueError(f"{name} is no numbered checkpoint, such as {checkpoint_name(1000)}")
    return int(found[1])


def snapshot(content: Mapping[str, Any], spare: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return a copy on the CPU that no later update changes: what a save of this instant needs to hold.

    Tensors that share their memory, such as tied weights, are copied once and share it again.

    Args:
        content: tensors and plain values.
        spare: what an earlier call returned and nobody needs any more; its memory is used again, since the
            system takes longer to give fresh memory than the copy does.

    Raises:
        TypeError: something in it is neither tensor nor plain value; the message names the key path.

    >>> weight = torch.zeros(2)
    >>> copied = snapshot({"model": {"weight": weight}})
    >>> _ = weight.add_(1)
    >>> copied
    {'model': {'weight': tensor([0., 0.])}}
    """
    require_plain(content)
    copies = _Copies(spare or {})
    copied = copies.of(dict(content))
    for device in copies.devices:
        torch.cuda.synchronize(device)  # the copies into pinned memory are under way until then
    return dict(copied)


def content_bytes(content: Any) -> int:
    """Return the size of the tensors in a content, tied ones once: a file of it is little larger.

    >>> weight = torch.zeros(10, 2)
    >>> content_bytes({"model": {"weight": weight, "tied": weight}, "iteration": 3})
    80
    """
    tensors = {_place(tensor) if _is_plain(tensor) else id(tensor): tensor for tensor in _tensors(content)}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def require_plain(value: Any, where: str = "") -> None:
    """Refuse what `load_checkpoint` would not read again.

    Args:
        value: what is to be saved.
        where: the key path to it.

    Raises:
        TypeError: something in it is neither tensor nor plain value; the message names the key path.

    >>> require_plain({"hooks": {"mine": [1, {2}]}})  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    TypeError: hooks.mine[1] is a set: a checkpoint holds only tensors and plain values (int, float, ...
    """
    kind, problem = type(value), ""
    if kind in (dict, OrderedDict, Counter):
        # torch hangs `_metadata` on a model's state; of other attributes a copy would keep what training changes.
        attributes = dict(getattr(value, "__dict__", {}))
        if kind is OrderedDict:
            require_plain(attributes.pop("_metadata", None), f"{where}._metadata")
        if attributes:
            problem = f"has attributes ({', '.join(attributes)})"
        for key, inner in value.items():
            require_plain(key, f"{where} (a key)")
            require_plain(inner, f"{where}.{key}" if where else str(key))
    elif kind in (list, tuple):
        for index, inner in enumerate(value):
            require_plain(inner, f"{where}[{index}]")
    elif kind is int and value.bit_length() > _INT_BITS:
        problem = f"has {value.bit_length():,} bits, of which torch reads {_INT_BITS:,}"
    elif kind is bytes and not value:
        problem = "is b'', which torch does not read; use None"
    elif value is not None and kind not in (int, float, str, bytes, bool, Tensor, Parameter):
        problem = f"is a {kind.__name__}"
    if problem:
        raise TypeError(
            f"{where} {problem}: a checkpoint holds only tensors and plain values "
            "(int, float, str, bytes, bool, None, list, tuple, dict)"
        )


def require_names(names: Any) -> None:
    """Refuse names under which a checkpoint could not be found, or that would leave its folder.

    Args:
        names: those besides its number, as `names` of a checkpoint or `trainer.save_as` lists them.

    Raises:
        ValueError: one of them is no file name such as model_best.pth; the message shows it.

    >>> require_names(["model_best.pth", "mine.pth"])
    >>> require_names(["../mine.pth"])
    Traceback (most recent call last):
    ValueError: '../mine.pth' cannot be the name of a checkpoint; one is such as model_best.pth
    """
    several = isinstance(names, (list, set))
    for name in names if several else [names]:
        if not several or not isinstance(name, str) or not _NAME.fullmatch(name) or NUMBERED.fullmatch(name):
            raise ValueError(f"{name!r:.99} cannot be the name of a checkpoint; one is such as {BEST}")


def save_checkpoint(
    content: Mapping[str, Any], path: Path, before_commit: Callable[[], object] | None = None
) -> None:
    """Write `content` so that a kill at any instant leaves the old file or the new one, never a part.

    Args:
        content: tensors and plain values.
        path: the file.
        before_commit: called when the new file is verified, right before it takes its name.

    Raises:
        TypeError: something in it is neither tensor nor plain value; the message names the key path.
        OSError: the disk is full, or failed, or what it gives back is not what was written.
    """
    require_plain(content)
    files.write_atomically(path, lambda file: torch.save(dict(content), file), True, before_commit)


def point_to(path: Path) -> None:
    """Make `path` the checkpoint that the next resume in its folder takes."""
    files.write_atomically(path.parent / POINTER, lambda file: file.write(path.name.encode()))


def pointed_to(folder: Path) -> str:
    """Return the name that the pointer in `folder` holds, of a file that may be gone; "" without a pointer."""
    try:
        name = read_small_text(folder / POINTER).strip()
    except (OSError, UnicodeDecodeError):
        return ""
    return name if name == Path(name).name else ""  # never a file elsewhere


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files of saves that a kill cut short; nobody may be saving into `folder`."""
    for path in folder.glob(f".*{files.TEMPORARY}"):
        if files.is_temporary(path.name):
            files.unlink(path)


def load_checkpoint(path: str | Path, trust: bool = False, whole: bool = True) -> dict[str, Any]:
    """Read a checkpoint onto the CPU: checksums verified, no code run, all parts there.

    Args:
        path: the file.
        trust: whether code in the file may run, as --trust-checkpoint says.
        whole: whether tensors that lie in parts (see shards.py) are put together; else None stands for them, and
            the entry `parts` holds the path of their folder.

    Raises:
        ConfigError: the file is missing, damaged, holds more than tensors and plain values, or is
            not a whole checkpoint.
    """
    content = read_tensor_file(path, "checkpoint", trust)
    kinds = {"iteration": int, "rng": list}  # all other parts are dicts
    missing = [
        part
        for part in PARTS
        if not isinstance(content, dict) or not isinstance(content.get(part), kinds.get(part, dict))
    ]
    if missing or type(content["iteration"]) is not int or content["iteration"] < 0:
        missing = missing or ["a number of updates as its iteration"]
        raise ConfigError(
            f"checkpoint: {path} is not whole, it lacks {', '.join(missing)}; to start a new run from its weights "
            f"use MODEL.WEIGHTS {path}"
        )
    try:
        require_names(content.get(NAMES, []))
    except ValueError as error:
        raise ConfigError(f"checkpoint: {path} is refused: {error}") from None
    folder = shards.verify(content, Path(path))
    if folder is None:
        return dict(content)
    return shards.fill(content, folder) if whole else content | {PARTS_IN: str(folder)}


def iteration_of(path: Path) -> float:
    """Return the iteration of a checkpoint: 0 where there is no file, infinite where it cannot be read."""
    if not path.is_file():
        return 0
    try:
        return int(load_checkpoint(path, whole=False)["iteration"])
    except ConfigError as error:
        logger.warning("%s", error)
        return math.inf


def has_checkpoints(folder: Path) -> bool:
    """Return whether a run has saved into `folder`."""
    return bool(_newest_first(folder))  # a pointer to nothing is no run


def refuse_used_folder(folder: Path) -> None:
    """Raise ConfigError where another run has saved into `folder`: two runs are never mixed."""
    if has_checkpoints(folder):
        raise ConfigError(
            f"{folder} holds the checkpoints of an earlier run; give --resume to continue it, "
            "--overwrite to replace it, or another folder with OUTPUT_DIR"
        )


def load_newest(folder: Path, trust: bool = False, whole: bool = True) -> tuple[Path, dict[str, Any]] | None:
    """Read the checkpoint that `last_checkpoint` names, else the newest that can be read.

    Args:
        folder: the run's.
        trust: whether code in a file may run, as --trust-checkpoint says.
        whole: as `load_checkpoint` takes it.

    Returns:
        Its path and content; None where the folder holds no checkpoint.

    Raises:
        ConfigError: there are files, but none can be read: starting anew would lose the run.
    """
    problems: list[str] = []
    for path in _candidates(folder):
        try:
            content = load_checkpoint(path, trust, whole)
        except ConfigError as error:
            problems.append(str(error))
            continue
        for problem in problems:
            logger.warning("%s; falling back to %s", problem, path.name)
        return path, content
    if problems:
        raise ConfigError([f"no checkpoint in {folder} can be read; nothing was started", *problems])
    return None


def set_aside(path: Path) -> None:
    """Rename a file to the first of NAME.cut, NAME.cut2, NAME.cut3 ... that is free."""
    aside, number = path.with_name(f"{path.name}.cut"), 1
    while os.path.lexists(aside):
        number += 1
        aside = path.with_name(f"{path.name}.cut{number}")
    files.replace(path, aside)
    logger.info("set aside: %s", aside)


def set_aside_after(folder: Path, iteration: int) -> None:
    """Make `iteration` the newest that `folder` holds: later checkpoints are set aside."""
    numbered = [path for path in _newest_first(folder) if NUMBERED.fullmatch(path.name)]
    later = [path for path in numbered if checkpoint_number(path.name) >= iteration]
    if not later:
        return
    # The pointer first: killed in between, the next resume still takes what this one took, and it finds work to
    # do here as long as a numbered file is later.
    own = folder / checkpoint_name(iteration)
    if own.exists():
        point_to(own)
    else:
        files.unlink(folder / POINTER)
    for path in (folder / FINAL, *later) if (folder / FINAL).exists() else later:
        set_aside(path)


def newest_name(folder: Path) -> str:
    """Return the name of the checkpoint that a resume in `folder` would read first; "" where there is none."""
    return next((path.name for path in _candidates(folder)), "")


def _candidates(folder: Path) -> list[Path]:
    """Return the checkpoints in `folder`, in the order in which a resume tries them."""
    candidates, name = _newest_first(folder), pointed_to(folder)
    if name and os.path.isfile(folder / name):
        return [folder / name, *(path for path in candidates if path.name != name)]
    return candidates  # a save was cut short between the pointer and the file that it names


def _newest_first(folder: Path) -> list[Path]:
    numbered = [path for path in folder.glob("model_*.pth") if NUMBERED.fullmatch(path.name) and path.is_file()]
    numbered.sort(key=lambda path: checkpoint_number(path.name), reverse=True)
    return [*numbered, *(path for path in (folder / FINAL, folder / BEST) if path.is_file())]


class _Copies:
    """Copies of the tensors of one content, each made once.

    Args:
        spare: the content of earlier copies, whose memory is free.
    """

    def __init__(self, spare: Mapping[str, Any]) -> None:
        self.devices: set[torch.device] = set()
        self._made: dict[Any, Tensor] = {}
        self._spare: dict[Any, list[Tensor]] = {}
        for tensor in {id(tensor): tensor for tensor in _tensors(spare) if _is_plain(tensor)}.values():
            self._spare.setdefault(_layout(tensor), []).append(tensor)

    def of(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self._of_tensor(value)
        if isinstance(value, dict):
            copied = copy.copy(value)  # with the attribute `_metadata` that torch hangs on a model's state
            for key, inner in value.items():  # no update(), with which a Counter adds
                copied[key] = self.of(inner)
            return copied
        return type(value)(self.of(inner) for inner in value) if isinstance(value, (list, tuple)) else value

    def _of_tensor(self, tensor: Tensor) -> Tensor:
        tensor = tensor.detach()
        if not _is_plain(tensor):
            return tensor.to("cpu", copy=True)
        key = _place(tensor)
        if key not in self._made:
            on_gpu = tensor.device.type == "cuda"
            fitting = self._spare.get(_layout(tensor))
            # Pinned memory is copied into several times faster.
            host = fitting.pop() if fitting else torch.empty_like(tensor, device="cpu", pin_memory=on_gpu)
            self._made[key] = host.copy_(tensor, non_blocking=on_gpu)
            if on_gpu:
                self.devices.add(tensor.device)
        return self._made[key]


def _is_plain(tensor: Tensor) -> bool:
    """Return whether a tensor is strides over memory, and its address says which; one in parts has none."""
    return tensor.layout is torch.strided and tensor.numel() > 0 and tensor.data_ptr() != 0


def _place(tensor: Tensor) -> tuple[Any, ...]:
    """Return what two plain tensors share only if they are the same numbers in the same memory."""
    return tensor.device, tensor.data_ptr(), tensor.is_conj(), tensor.is_neg(), *_layout(tensor)


def _layout(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.stride(), tensor.dtype


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (Mapping, list, tuple)):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(inner)
