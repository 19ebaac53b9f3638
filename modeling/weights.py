"""Starting from weights in a file, as many of them as fit."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from warmstart.config import ConfigError

_MOST_VALUES = 10**7  # of a file; a few references can stand for billions
_DEEPEST = 500  # levels of lists and mappings
_SHOWN = 3  # names of skipped tensors, of each kind, in the report


def load_weights(model: nn.Module, path: str | Path, label: str = "MODEL.WEIGHTS", trust: bool = False) -> str:
    """Copy into `model` the tensors of a file that it has under the same name and in the same shape.

    Args:
        model: keeps its own values where the file has none that fit: a new classifier, for example.
        path: a state dict, or a checkpoint that holds one as `model` or `state_dict`, written by
            torch.save, or a .safetensors file. Prefixes that DistributedDataParallel and torch.compile put
            before names do not count.
        label: the key that named the file, for errors.
        trust: whether code in the file may run, as --trust-checkpoint says.

    Returns:
        A sentence such as "loaded 120/122 tensors from FILE; skipped: fc.weight (1000, 512) does not fit
        (10, 512), fc.bias (1000,) does not fit (10,)".

    Raises:
        ConfigError: no such file, not a file of tensors, damaged, the weights lie in parts, or none fits.

    >>> import tempfile
    >>> old, new = nn.Linear(4, 3), nn.Linear(4, 2)
    >>> model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "old.pth"
    ...     torch.save(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3)).state_dict(), file)
    ...     print(load_weights(model, file).replace(folder, ""))
    loaded 2/4 tensors from /old.pth; skipped: 1.weight (3, 4) does not fit (2, 4), 1.bias (3,) does not fit (2,)
    """
    own = model.state_dict()
    found = _state(read_tensor_file(path, label, trust))
    if any(name in found and found[name] is None for name in own):
        raise ConfigError(
            f"{label}: the weights of {path} lie in parts beside it; write them into one file with "
            f"tools/export_weights.py {path} weights.safetensors, and give that one"
        )
    state = _tensors(found, own)
    misfits = {
        name: f"{name} {tuple(tensor.shape)} does not fit {tuple(own[name].shape)}"
        for name, tensor in state.items()
        if name in own and tensor.shape != own[name].shape
    }
    for name in misfits:
        del state[name]
    try:
        result = model.load_state_dict(state, strict=False)
    except RuntimeError as error:  # a tensor that the class renames, and that then does not fit
        raise ConfigError(f"{label}: {path} does not fit the model: {' '.join(str(error).split())}") from None
    loaded = len(own) - len(result.missing_keys)
    skipped = [
        list(misfits.values()),
        [f"{name} is not in the file" for name in result.missing_keys if name not in misfits],
        [f"{name} is not in the model" for name in result.unexpected_keys],
    ]
    listed = ", ".join(_shortened(kind) for kind in skipped if kind)
    if loaded == 0:
        raise ConfigError(f"{label}: no tensor of {path} fits the model: {listed or 'it has none'}")
    return f"loaded {loaded}/{len(own)} tensors from {path}" + (f"; skipped: {listed}" if listed else "")


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


def _state(content: Any) -> Mapping[str, Any]:
    """Return what a file's content has under the names of tensors."""
    state = content
    for entry in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(entry), Mapping):
            state = content[entry]
            break
    return state if isinstance(state, Mapping) else {}


def _tensors(state: Mapping[str, Any], own: dict[str, Any]) -> OrderedDict[str, Tensor]:
    """Return the tensors of a state by the names that the model has for them."""
    tensors = OrderedDict((_own_name(name, own), t) for name, t in state.items() if isinstance(t, Tensor))
    # Some of torchvision's classes read older files by the versions that this attribute of a state holds.
    versions = getattr(state, "_metadata", None)
    if versions is None:
        versions = own._metadata  # type: ignore[attr-defined]
    tensors._metadata = {_own_name(f"{n}.", own)[:-1]: v for n, v in versions.items()}  # type: ignore[attr-defined]
    return tensors


def _own_name(name: str, own: dict[str, Any]) -> str:
    if name in own:
        return name
    name = re.sub(r"^(module\.|_orig_mod\.)+", "", name)
    # torchvision's published DenseNets still have the names of 2017: norm.1 is norm1 today.
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.(\d)", r"\1\2", name)


def _shortened(items: list[str]) -> str:
    rest = len(items) - _SHOWN
    return ", ".join(items[:_SHOWN]) + (f" and {rest} more like it" if rest > 0 else "")
