"""The matching of a file's tensors to a model, by name and shape, regardless of wrappers around either."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from warmstart.config import ConfigError

from .head import head_parameters

_SHOWN = 3  # skipped tensors of each kind that the report names

# Entries under which programs save a model's state, and its moving average; ours are the first of each.
_MODEL = ("model", "state_dict", "model_state_dict")
_AVERAGE = ("ema", "model_ema", "state_dict_ema", "ema_state_dict")

_DEPTH = 4  # of nested entries

# Prefixes that a wrapper, a Lightning module or a self-supervised one adds to the names of the model inside it.
_OUTER = re.compile(r"^(?:(?:module|_orig_mod|model|backbone)\.)+")
# Infixes that torch's wrappers add to the names of inner modules.
_INNER = re.compile(r"(?<=\.)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# torchvision's published DenseNet weights still use the names of 2017: norm.1 is norm1 today.
_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.(\d)")


class WeightsFile(NamedTuple):
    """The contents of the file in MODEL.WEIGHTS.

    Args:
        path: path of the file.
        content: the result of `read_tensor_file`.
        entry: "model", "ema" for the moving average, or "auto": the model if the file has it, else the average.
    """

    path: Path
    content: Any
    entry: str = "auto"


def fit_weights(
    model: nn.Module,
    file: WeightsFile,
    label: str,
    partial: bool = False,
    num_classes: int | None = None,
    convert: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None,
) -> str:
    """Copy into `model` those tensors of a file whose names and shapes match.

    Args: see `load_weights`; and `convert`, which makes the names and shapes of a published file the model's.

    Returns:
        A sentence that says how many tensors were loaded, which prefix their names have in the file, and which
        were skipped.

    Raises:
        ConfigError: too little of the file fits the model, which may already have been modified.
    """
    found, average = _state(file, label)
    own: dict[str, Any] = model.state_dict(keep_vars=True)  # the tensors themselves: tied ones are the same object
    if convert is not None:  # a conversion may take names behind a prefix for those of another model
        found = max(convert(found), found, key=lambda each: _count_fitting(each, own))
    names = _own_names(found, own)
    if any(value is None and names[name] in own for name, value in found.items()):
        raise ConfigError(
            f"{label}: {file.path} is a sharded checkpoint; write its weights into one file with "
            f"tools/export_weights.py {file.path} weights.safetensors, and name that file"
        )
    state, problems = _fitting(found, names, own)
    state._metadata = _versions(found, own)  # type: ignore[attr-defined]
    try:
        result = model.load_state_dict(state, strict=False)
    except RuntimeError as error:  # a tensor that the class renames and that then does not fit
        reason = " ".join(str(error).split())
        raise ConfigError(f"{label}: {file.path} does not fit the model: {reason}") from None

    loaded = {id(own[name]) for name in own if name not in result.missing_keys}
    counted: dict[int, str] = {}  # first names of weights and statistics; tied ones count once
    for name, tensor in own.items():
        if _counts(tensor):
            counted.setdefault(id(tensor), name)
    told = loaded | {id(own[name]) for name in problems}
    file_names = {target: name for name, target in names.items()}
    skipped = [
        [*problems.values()],
        [f"{name} is not in the file" for key, name in counted.items() if key not in told],
        [f"{file_names[name]} is not in the model" for name in result.unexpected_keys if _counts(state[name])],
    ]
    listed = ", ".join(_shortened(kind) for kind in skipped if kind)
    source = f"the moving average in {file.path}" if average else str(file.path)
    if not average and isinstance(file.content, Mapping) and _first(file.content, _AVERAGE) is not None:
        source = f"the model in {file.path}"  # it has an average, too
    weights = [parameter for parameter in model.parameters() if id(parameter) in counted]
    too_little = _too_little(weights, loaded, head_parameters(model, num_classes), source)
    if too_little and not partial:
        raise ConfigError(
            f"{label}: {too_little}: {listed}; name a file of this model, or set MODEL.WEIGHTS_PARTIAL to true to"
            " load what fits"
        )
    prefixes = _removed([file_names[name] for name in state if name in own], names)
    report = f"loaded {len(loaded & counted.keys())}/{len(counted)} tensors from {source}{prefixes}"
    report = f"{report}; skipped: {listed}" if listed else report
    return f"{report}; {too_little} (MODEL.WEIGHTS_PARTIAL)" if too_little else report


def _too_little(
    weights: Sequence[nn.Parameter], loaded: set[int], head: Sequence[nn.Parameter], source: str
) -> str:
    """Return the problem if no parameter was loaded, or less than half of the values outside the head; else ""."""
    if weights and not any(id(each) in loaded for each in weights):
        return f"no parameter of {source} fits the model"
    in_head = {id(each) for each in head}
    sizes = {id(each): 0 if is_lazy(each) else each.numel() for each in weights if id(each) not in in_head}
    fitting, total = sum(size for key, size in sizes.items() if key in loaded), sum(sizes.values())
    if 2 * fitting >= total:
        return ""
    return f"only {fitting:,} of the model's {total:,} values without its classifier are in {source}"


def _state(file: WeightsFile, label: str) -> tuple[Mapping[str, Any], bool]:
    """Return the state dict in a file, and whether it is a moving average."""
    content, state, average = file.content, None, False
    if isinstance(content, Mapping):
        states = {kind: _first(content, kind) for kind in (_MODEL, _AVERAGE)}
        average = file.entry == "ema" or (file.entry == "auto" and states[_MODEL] is None)
        average = average and (states[_AVERAGE] is not None or file.entry == "ema")
        state = states[_AVERAGE] if average else states[_MODEL]
        if state is None and average:
            raise ConfigError(
                f"{label}: {file.path} has no moving average; set MODEL.WEIGHTS_ENTRY to auto or model"
            )
        state = content if state is None else state
        for _ in range(_DEPTH):
            state = _first(state, _MODEL) or state
    if not state or not any(value is None or _tensor(value) is not None for value in state.values()):
        entries = f", but {_shortened([*map(str, state)])}" if state else ""
        raise ConfigError(f"{label}: {file.path} holds no tensors by the names of a model{entries}")
    return state, average


def _first(content: Mapping[str, Any], entries: Iterable[str]) -> Mapping[str, Any] | None:
    return next((content[name] for name in entries if isinstance(content.get(name), Mapping)), None)


def _fitting(
    found: Mapping[str, Any], names: Mapping[str, str], own: Mapping[str, Any]
) -> tuple[OrderedDict[str, Any], dict[str, str]]:
    """Return the tensors of a file that fit the model, by their names in it, and the reasons why others do not."""
    state: OrderedDict[str, Any] = OrderedDict()
    problems: dict[str, str] = {}
    first: dict[int, str] = {}  # the name under which a tied tensor gets its values
    for file_name, value in found.items():
        name, tensor = names[file_name], _tensor(value)
        ours = own.get(name)
        if not isinstance(ours, Tensor) and name in own:  # extra state, from a module's get_extra_state
            state[name] = value
        elif tensor is None:
            if name in own:
                problems[name] = f"{name} is a {type(value).__name__}, not a tensor"
        elif ours is None or is_lazy(ours):  # the module itself renames it, or takes any shape
            state[name] = tensor
        elif tensor.shape != ours.shape:
            problems[name] = f"{name} {tuple(tensor.shape)} does not fit {tuple(ours.shape)}"
        elif ours.is_floating_point() and not tensor.is_floating_point():
            problems[name] = f"{name} has dtype {tensor.dtype}, not a floating-point type"
        elif first.setdefault(id(ours), name) != name and not torch.equal(tensor, state[first[id(ours)]]):
            problems[name] = f"{name} differs from {first[id(ours)]}, which it is tied to"
        else:
            state[name] = tensor
    return state, problems


def _count_fitting(found: Mapping[str, Any], own: Mapping[str, Any]) -> int:
    return len(_fitting(found, _own_names(found, own), own)[0].keys() & own.keys())


def _own_names(found: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, str]:
    """Return the model's name for each name in a file, or the name it would have if there were such a tensor."""
    by_core: dict[str, str | None] = {}
    for name in own:
        core = _core(name)
        by_core[core] = None if core in by_core else name
    prefixes = {match[0] if (match := _OUTER.match(name)) else "" for name in own}
    prefix = prefixes.pop() if len(prefixes) == 1 else ""
    names = {name: name for name in found if name in own}
    taken = set(names)
    for name in _best_first(found, own, by_core):
        if name in names:
            continue
        core = _file_core(name)
        target = by_core.get(core) or f"{prefix}{core}"
        names[name] = name if target in taken else target
        taken.add(names[name])
    return names


def _best_first(found: Mapping[str, Any], own: Mapping[str, Any], by_core: Mapping[str, str | None]) -> list[str]:
    """Return the names in a file, those behind the prefix that the most of the model's tensors have first.

    A file with a model under two prefixes, such as a student and a teacher, then fills the model from one of them.
    """
    fitting: dict[str, int] = {}
    for name, value in found.items():
        ours, prefix = own.get(by_core.get(_file_core(name)) or ""), _prefix(name)
        fits = isinstance(ours, Tensor) and not is_lazy(ours) and ours.shape == getattr(value, "shape", None)
        fitting[prefix] = fitting.get(prefix, 0) + fits
    return sorted(found, key=lambda name: -fitting[_prefix(name)])


def _prefix(name: Any) -> str:
    match = _OUTER.match(name) if isinstance(name, str) else None
    return match[0] if match else ""


def _file_core(name: Any) -> Any:
    return _DENSENET.sub(r"\1\2", _core(name)) if isinstance(name, str) else name


def _removed(loaded: Iterable[str], names: Mapping[str, str]) -> str:
    """Return in words which prefixes the names of loaded tensors have in the file, but not in the model."""
    removed = {_prefix(name).removesuffix(_prefix(names[name])) for name in loaded if names[name] != name}
    listed = " and ".join(sorted(filter(None, removed)))
    return f" (prefix {listed} removed)" if listed else ""


def _core(name: str) -> str:
    """Return a name without the parts that wrappers add to it.

    >>> _core("model._orig_mod.layer1._checkpoint_wrapped_module.conv.weight")
    'layer1.conv.weight'
    """
    return _INNER.sub("", _OUTER.sub("", name))


def _versions(found: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return the version of each module in a file; some of torchvision's classes use it to read older files."""
    own_versions: dict[str, Any] = own._metadata  # type: ignore[attr-defined]
    versions = getattr(found, "_metadata", None)
    if versions is None:
        return own_versions
    modules = {_core(f"{name}."): name for name in own_versions}
    return {modules[core]: version for name, version in versions.items() if (core := _core(f"{name}.")) in modules}


def _tensor(value: Any) -> Tensor | None:
    """Return a value as a tensor; None if it is neither a tensor nor an array that torch can convert."""
    if isinstance(value, (np.ndarray, np.generic)):
        try:
            return torch.as_tensor(value)
        except (TypeError, ValueError):  # an array of text or objects, or with negative strides
            return None
    return value if isinstance(value, Tensor) else None


def _counts(tensor: Any) -> bool:
    """Return whether a tensor is a weight or a statistic, not a counter such as num_batches_tracked."""
    return isinstance(tensor, Tensor) and (is_lazy(tensor) or tensor.ndim > 0 or tensor.is_floating_point())


def _shortened(items: list[str]) -> str:
    rest = len(items) - _SHOWN
    return ", ".join(items[:_SHOWN]) + (f" and {rest} more like it" if rest > 0 else "")
