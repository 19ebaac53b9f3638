"""Weights from files: reading them safely, and loading into a model those that fit."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from argparse import Namespace  # plain values: timm and torchvision keep their command line in checkpoints
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from warmstart.config import ConfigError

from .fitting import WeightsFile, fit_weights

_MOST_VALUES = 10**7  # of a file; repeated references can expand to billions
_DEEPEST = 500  # levels of lists and mappings


def load_weights(
    model: nn.Module,
    path: str | Path,
    label: str = "MODEL.WEIGHTS",
    trust: bool = False,
    *,
    entry: str = "auto",
    partial: bool = False,
    num_classes: int | None = None,
) -> str:
    """Copy into `model` those tensors of a file whose names and shapes match.

    Args:
        model: keeps its own values if the file has none that fit, for example in a new classifier.
        path: a state dict, or a checkpoint that holds one as `model` or `state_dict`, written by torch.save, or a
            .safetensors file. Prefixes that wrappers add to names (`module.`, `_orig_mod.`, `model.`, `backbone.`)
            are ignored, both in the file and in the model.
        label: the key that named the file, for errors.
        trust: whether code in the file may run, see --trust-checkpoint.
        entry: MODEL.WEIGHTS_ENTRY.
        partial: MODEL.WEIGHTS_PARTIAL.
        num_classes: number of outputs by which the classifier is recognised; None: it is the last layer.

    Returns:
        A sentence such as "loaded 120/122 tensors from FILE; skipped: fc.weight (1000, 512) does not fit
        (10, 512), fc.bias (1000,) does not fit (10,)". Tied tensors count once, and counters such as
        num_batches_tracked, which fit any model, are not counted.

    Raises:
        ConfigError: the file does not exist, does not hold tensors, is damaged or a sharded checkpoint; or, unless
            `partial`, no parameter fits, or less than half of the model's values without its classifier do.

    >>> import tempfile
    >>> model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "old.pth"
    ...     torch.save(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3)).state_dict(), file)
    ...     print(load_weights(model, file).replace(folder, ""))
    loaded 2/4 tensors from /old.pth; skipped: 1.weight (3, 4) does not fit (2, 4), 1.bias (3,) does not fit (2,)
    """
    file = WeightsFile(Path(path), read_tensor_file(path, label, trust), entry)
    return fit_weights(model, file, label, partial, num_classes)


def read_tensor_file(path: str | Path, label: str, trust: bool = False) -> Any:
    """Return the contents of a file that torch.save wrote, or the tensors of a .safetensors file, on the CPU.

    Checksums are verified if the format has them, and no code in the file is run unless `trust`.

    Args:
        path: the file.
        label: the key or option that named the file, for errors.
        trust: whether to unpickle arbitrary objects, which may run code, see --trust-checkpoint.

    Raises:
        ConfigError: the file does not exist, is damaged, or holds more than tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"{label}: no such file: {path}")
    safe = path.suffix == ".safetensors"
    try:
        if safe:
            return load_file(path)
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                _refuse_bomb(archive, path, label)
                bad = archive.testzip()  # torch.load does not verify the checksums
            if bad is not None:
                raise ConfigError(f"{label}: {path} is damaged: the checksum of {bad} is wrong")
        with warnings.catch_warnings(), torch.serialization.safe_globals([Namespace]):
            warnings.simplefilter("ignore")  # about files that it refuses anyway
            content = torch.load(path, map_location="cpu", weights_only=not trust)
        if _has_more_values(content, _MOST_VALUES):
            raise ConfigError(
                f"{label}: {path} is refused: it expands to more than {_MOST_VALUES:,} values, because it holds"
                " the same lists or mappings many times"
            )
        return content
    except ConfigError:
        raise
    except pickle.UnpicklingError:
        if not trust:
            raise ConfigError(
                f"{label}: {path} is refused: it holds more than tensors and plain values, and reading anything"
                " else could run code; save model.state_dict() with torch.save or, if you trust who wrote it, give"
                " --trust-checkpoint"
            ) from None
        problem = "UnpicklingError"
    except Exception as error:  # malformed files make the reader fail in any way
        problem = f"{type(error).__name__}: {error}" if trust else type(error).__name__
    writer = "safetensors" if safe else "torch.save"
    raise ConfigError(f"{label}: {path} is damaged or not a file that {writer} wrote ({problem})")


def peek_tensor_file(path: str | Path) -> Any:
    """Return the contents of a file that torch.save wrote, without reading its tensors; None for any other file.

    What is wrong with a file is left to `read_tensor_file`, which also verifies the checksums.
    """
    path = Path(path)
    if not path.is_file() or not zipfile.is_zipfile(path):  # a pipe would never end
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            _refuse_bomb(archive, path, "")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:
        return None


def _has_more_values(content: Any, limit: int) -> bool:
    """Return whether nested lists and mappings hold more than `limit` values, counting repeated ones each time."""
    count, rest = 0, [iter([content])]
    while 0 < len(rest) < _DEEPEST and count <= limit:
        for value in rest[-1]:
            count += 1
            if isinstance(value, (dict, list, tuple)):
                rest.append(iter(value.values() if isinstance(value, dict) else value))
                break
        else:
            rest.pop()
    return bool(rest)


def _refuse_bomb(archive: zipfile.ZipFile, path: Path, label: str) -> None:
    """Raise ConfigError if a zip archive unpacks to more than its own size; torch.save compresses nothing."""
    entries, size = archive.infolist(), path.stat().st_size
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > size or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ConfigError(
            f"{label}: {path} is refused: its {size:,} bytes unpack to {unpacked:,}, but torch.save does not"
            " compress; if you trust who wrote it, read it with torch.load and save it again"
        )
