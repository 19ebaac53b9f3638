"""The measured profile of an update on one device: times, gradients in the order of the backward pass, memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from warmstart.data import Batch

from ..loop.forward import METRIC
from ..runtime.precision import LossScaler
from .cost_model import Profile, Unit, Work

Losses = Callable[[Any], Mapping[str, Tensor]]
_FEW = 8  # images in the update that measures sizes
_UNTIMED = 2  # warm-up updates before the timed ones


def profile_of(
    step: Step,
    images: int,
    rounds: int = 5,
    times: tuple[float, float, float] | None = None,
    **sharing: Any,
) -> Profile:
    """Return the profile of an update.

    Updates with all images and with a quarter of them separate the fixed part of a time from the part per image;
    times are medians. Activations are what autograd saves for the backward pass.

    Args:
        step: the update.
        images: images per micro-batch on one device.
        rounds: timed updates with either number of images.
        times: the seconds of the forward pass, the backward pass and the optimizer's step with `images` images, if
            they are known: nothing is timed then, and the passes are assumed proportional to the images.
        **sharing: fields of the profile for training on several devices: average, summed, gathered, reshard.
    """
    few = min(images, _FEW)
    gradients, ready, kept, units = step.sizes(few)
    if times is None:
        fewer = max(1, images // 4)
        all_of_them, part = step.times(images, rounds), step.times(fewer, rounds)
        forward, backward = (_line((images, all_of_them[k]), (fewer, part[k])) for k in (0, 1))
        update = all_of_them[2]
    else:
        forward, backward, update = Work(0.0, times[0] / images), Work(0.0, times[1] / images), times[2]
    buffers = _bytes(step.model.buffers())
    return Profile(
        gradients=gradients,
        ready=ready,
        forward=forward,
        backward=backward,
        update=update,
        weights=_bytes(step.model.parameters()) + buffers,
        buffers=buffers,
        state=_bytes(value for state in step.optimizer.state.values() for value in state.values()),
        activations=Work(0.0, kept / few),
        units=units,
        **sharing,
    )


class Step:
    """An update in three separately timed steps: forward pass, backward pass and optimizer step.

    Args:
        model: on its device, in training mode.
        optimizer: of its parameters.
        losses: two functions from a batch to its losses by name: eager, and compiled, which is the one timed.
        batch: any number of images, which are repeated if more are needed.
        device: the model's.
        scaler: as for `Trainer`.
        clip: as for `Trainer`.
        wrapped: modules that FSDP all-gathers one by one, outer ones first.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        losses: tuple[Losses, Losses],
        batch: Batch,
        device: torch.device,
        scaler: LossScaler | None,
        clip: Callable[[Iterable[nn.Parameter]], Tensor] | None,
        wrapped: Sequence[nn.Module],
    ) -> None:
        self.model, self.optimizer, self.device = model, optimizer, device
        self._eager, self._compiled = losses
        self._batch, self._scaler, self._clip = batch, scaler, clip
        # Inner modules come last, because a parameter belongs to the innermost.
        self._unit_of = {parameter: number for number, it in enumerate(wrapped) for parameter in it.parameters()}

    def sizes(self, images: int) -> tuple[tuple[int, ...], tuple[float, ...], int, tuple[Unit, ...]]:
        """Return the bytes of the gradients, when each was ready, bytes saved for the backward pass, and units."""
        self._loss(images, self._eager).backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()  # allocates the optimizer state; not by the scaler, which may skip the step
        self.optimizer.zero_grad()
        kept: dict[int, int] = {}
        found: list[tuple[Tensor, Any]] = []
        own = {tensor.untyped_storage().data_ptr() for tensor in (*self.model.parameters(), *self.model.buffers())}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = self._loss(images, self._eager)
        handles = [
            parameter.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
                lambda it: found.append((it, self._mark()))
            )
            for parameter in self.model.parameters()
            if parameter.requires_grad
        ]
        begin = self._mark()
        self._backward(loss)
        for handle in handles:
            handle.remove()
        seconds = [self._between(begin, mark) for _, mark in found]
        ready = tuple(each / seconds[-1] for each in seconds)
        units = self._units({it: share for (it, _), share in zip(found, ready, strict=True)})
        return tuple(it.nbytes for it, _ in found), ready, sum(kept.values()), units

    def _units(self, ready: dict[Tensor, float]) -> tuple[Unit, ...]:
        """Return the modules of MODEL.FSDP.WRAP as units, in the order in which their gradients were ready."""
        members: dict[int, list[Tensor]] = {}
        for parameter, number in self._unit_of.items():
            members.setdefault(number, []).append(parameter)
        units = [
            Unit(_bytes(unit), _bytes(it for it in unit if it in ready), max(ready.get(it, 0.0) for it in unit))
            for unit in members.values()
        ]
        return tuple(sorted(units, key=lambda unit: unit.ready))

    def times(self, images: int, rounds: int) -> list[float]:
        """Return the median seconds of the forward pass, the backward pass and the optimizer's step."""
        found = []
        for _ in range(_UNTIMED + rounds):
            marks = [self._mark()]
            loss = self._loss(images, self._compiled)
            marks.append(self._mark())
            self._backward(loss)
            marks.append(self._mark())
            self._update()
            marks.append(self._mark())
            found.append([self._between(before, after) for before, after in pairwise(marks)])
        return [statistics.median(each) for each in zip(*found[_UNTIMED:], strict=True)]

    def _loss(self, images: int, losses: Losses) -> Tensor:
        """Return the loss of a batch of `images` images, repeated if there are fewer."""
        values = losses(_resized(self._batch, images))
        return torch.stack([value for name, value in values.items() if not name.startswith(METRIC)]).sum()

    def _backward(self, loss: Tensor) -> None:
        (loss if self._scaler is None else self._scaler.scale(loss)).backward()  # type: ignore[no-untyped-call]

    def _update(self) -> None:
        if self._scaler is not None:
            self._scaler.unscale(self.optimizer)
        if self._clip is not None:
            self._clip(self.model.parameters())
        if self._scaler is None:
            self.optimizer.step()
        else:
            self._scaler.step(self.optimizer)
            self._scaler.update()
        self.optimizer.zero_grad()

    def _mark(self) -> Any:
        if self.device.type != "cuda":
            if self.device.type != "cpu":
                torch.accelerator.synchronize()
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def _between(self, before: Any, after: Any) -> float:
        if self.device.type != "cuda":
            return float(after - before)
        after.synchronize()
        return float(before.elapsed_time(after)) / 1000


def _resized(batch: Batch, images: int) -> Batch:
    """Return a batch of `images` images, repeated if there are fewer."""
    places = [index % len(batch) for index in range(images)]

    def chosen(field: Any) -> Any:
        if isinstance(field, Tensor):
            return field[torch.tensor(places, device=field.device)]
        if isinstance(field, dict):
            return {name: chosen(value) for name, value in field.items()}
        return [field[place] for place in places]

    return Batch(chosen(batch.images), chosen(batch.targets))


def _line(one: tuple[int, float], other: tuple[int, float]) -> Work:
    """Return the work that fits two measurements of (images, seconds), with neither part negative."""
    (images, seconds), (fewer, less) = one, other
    if images == fewer:
        return Work(0.0, seconds / images)
    each = min(max((seconds - less) / (images - fewer), 0.0), seconds / images)
    return Work(seconds - each * images, each)


def _bytes(values: Iterable[Any]) -> int:
    return sum(value.nbytes for value in values if isinstance(value, Tensor))
