"""The content of a checkpoint: plain values and tensors, copied to the CPU."""

from __future__ import annotations

import copy
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

_INT_BITS = 2039  # of a longer one torch.load(weights_only=True) does not know how it is pickled


def snapshot(content: Mapping[str, Any], spare: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return a copy on the CPU that no later update changes.

    Tensors that share their memory, such as tied weights, are copied once and share it again.

    Args:
        content: tensors and plain values.
        spare: what an earlier call returned and nobody needs any more; its memory is reused, because the
            system takes longer to allocate memory than to copy.

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
        value: a content, or an entry of it.
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
    """Return whether a tensor is strided over memory at an address; a sharded one has none."""
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
