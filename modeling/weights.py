"""Starting from weights in a file, as many of them as fit."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from warmstart.config import ConfigError

from .fitting import WeightsFile, fit_weights

_MOST_VALUES = 10**7  # of a file; a few references can stand for billions
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
    """Copy into `model` the tensors of a file that it has under the same name and in the same shape.

    Args:
        model: keeps its own values where the file has none that fit: a new classifier, for example.
        path: a state dict, or a checkpoint that holds one as `model` or `state_dict`, written by torch.save, or a
            .safetensors file. What wrappers put before names (`module.`, `_orig_mod.`, `model.`, `backbone.`) does
            not count, neither in the file nor in the model.
        label: the key that named the file, for errors.
        trust: whether code in the file may run, as --trust-checkpoint says.
        entry: MODEL.WEIGHTS_ENTRY.
        partial: MODEL.WEIGHTS_PARTIAL.
        num_classes: outputs of the classifier, which tell it from the other layers; None: it is the last one.

    Returns:
        A sentence such as "loaded 120/122 tensors from FILE; skipped: fc.weight (1000, 512) does not fit
        (10, 512), fc.bias (1000,) does not fit (10,)". Tied tensors are one, and counters such as
        num_batches_tracked, which fit any model, are none.

    Raises:
        ConfigError: no such file, not a file of tensors, damaged, the weights lie in parts; or, unless `partial`,
            no parameter fits, or less than half of the model's values without its classifier do.

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
    """Return what torch.save wrote, or the tensors of a .safetensors file, on the CPU.

    Checksums are verified, where the format has them, and no code in the file is run.

    Args:
        path: the file.
        label: what asked for it, for errors.
        trust: whether anything that pickle can make is taken, which may run code, as --trust-checkpoint says.

    Raises:
        ConfigError: no such file, damaged, or more in it than tensors and plain values.
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
                bad = archive.testzip()  # torch.load does not look at the checksums
            if bad is not None:
                raise ConfigError(f"{label}: {path} is damaged: the checksum of {bad} is wrong")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about files that it then refuses
            content = torch.load(path, map_location="cpu", weights_only=not trust)
        if _has_more_values(content, _MOST_VALUES):
            raise ConfigError(
                f"{label}: {path} is refused: written out it has more than {_MOST_VALUES:,} values, since it"
                " holds lists or mappings again and again"
            )
        return content
    except ConfigError:
        raise
    except pickle.UnpicklingError:
        if not trust:
            raise ConfigError(
                f"{label}: {path} is refused: it is no file of tensors and plain values only, and reading anything"
                " else could run code; save model.state_dict() with torch.save or, if you trust who wrote it,"
                " give --trust-checkpoint"
            ) from None
        problem = "UnpicklingError"
    except Exception as error:  # bytes that are no such file make the reader fail in any way
        problem = f"{type(error).__name__}: {error}" if trust else type(error).__name__
    writer = "safetensors" if safe else "torch.save"
    raise ConfigError(f"{label}: {path} is damaged or not a file that {writer} wrote ({problem})")


def _has_more_values(content: Any, limit: int) -> bool:
    """Return whether nested lists and mappings hold more values than that, each counted as often as it is met."""
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
    """Raise ConfigError where a zip archive unpacks to more than it is; torch.save compresses nothing."""
    entries, size = archive.infolist(), path.stat().st_size
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > size or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ConfigError(
            f"{label}: {path} is refused: it has {size:,} bytes, which unpack to {unpacked:,}, and torch.save"
            " compresses nothing; read it with torch.load, if you trust who wrote it, and save it again"
        )
