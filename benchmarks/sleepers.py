"""Ranks whose computing takes no core: a model whose passes sleep, and its communication."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from warmstart.config import CfgNode
from warmstart.data import build_train_loader
from warmstart.engine import losses_of
from warmstart.engine.analysis.cost_model import MIB
from warmstart.engine.distributed.build import build_strategy
from warmstart.engine.distributed.fsdp import is_sharded_tensor
from warmstart.modeling import build_model
from warmstart.solver import build_ema, build_optimizer
from warmstart.tasks import build_task

# The newest torch has new names for these, and warns about the older ones.
all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


class Nap(torch.autograd.Function):
    """Returns its input after some time during which the rank's core is free."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, seconds: float) -> Tensor:
        """Sleep a third of the seconds."""
        ctx.weight, ctx.seconds = weight.shape, seconds
        time.sleep(seconds / 3)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        """Sleep two thirds; the weight's gradient is 1."""
        time.sleep(2 * ctx.seconds / 3)
        return grad, grad.new_ones(1).expand(ctx.weight), None


class Sleeper(nn.Module):
    """A layer with a weight of `numbers` values, whose passes take `seconds`."""

    def __init__(self, numbers: int, seconds: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(numbers))
        self._seconds = seconds

    def forward(self, x: Tensor) -> Tensor:
        """Return the input."""
        out: Tensor = Nap.apply(x, self.weight, self._seconds)
        return out


class Sleepers(nn.Sequential):
    """Layers that sleep; the logits are the first pixels."""

    def __init__(self, num_classes: int, in_channels: int, layers: int, mib: float, seconds: float) -> None:
        super().__init__(*(Sleeper(int(mib * MIB) // 4, seconds / layers) for _ in range(layers)))
        self._classes = num_classes

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        logits: Tensor = super().forward(x.flatten(1)[:, : self._classes])
        return logits


class Run:
    """Sleepers, wrapped as in training, with their optimizer and average.

    Args:
        cfg: resolved.
        mode: ddp; "ddp in two levels": within machines and between them; fsdp: overlaps communication with the
            passes if possible; "fsdp in turn": as torch does it over gloo.
        per_machine: ranks per machine.
    """

    def __init__(self, cfg: CfgNode, mode: str, per_machine: int) -> None:
        torch.manual_seed(cfg.SEED)
        model, self._sums = build_model(cfg).train(), None
        self._strategy = build_strategy(cfg)
        self._strategy.release(model)
        self.ema = build_ema(cfg, model)
        assert self.ema is not None
        self._strategy.prepare(model, self.ema.model)
        if mode == "fsdp" and self._strategy.is_sharded:
            self._sums = send_beside(model)
        self.model = self._strategy.forward(model)
        if isinstance(self.model, DistributedDataParallel) and mode == "ddp in two levels":
            levels = TwoLevels(per_machine)
            self.model.register_comm_hook(None, lambda state, bucket: levels.mean(bucket.buffer()))
        self.optimizer = build_optimizer(cfg, model)
        self._micro_batches = cfg.SOLVER.GRAD_ACCUM_STEPS
        task = build_task(cfg)
        self._losses = losses_of(model, task, self.model)
        self._batch = next(build_train_loader(cfg, task).batches())

    def update(self) -> float:
        """Return the seconds of an update."""
        begin = time.perf_counter()
        self.optimizer.zero_grad()
        with self._strategy.no_sync():
            for _ in range(self._micro_batches - 1):
                self._backward()
        self._backward()
        if self._sums is not None:
            self._sums.finish()
        self.optimizer.step()
        return time.perf_counter() - begin

    def held(self) -> dict[str, int]:
        """Return the bytes of weights, gradients, optimizer state and average that this rank holds."""
        parameters = [*self.model.parameters()]
        state = [value for each in self.optimizer.state.values() for value in each.values()]
        held: dict[str, list[Any]] = {
            "weights": parameters,
            "gradients": [it.grad for it in parameters],
            "optimizer": state,
            "average": [*self.ema.model.parameters()],
        }
        return {what: sum(local(tensor).nbytes for tensor in tensors) for what, tensors in held.items()}

    def gradient(self) -> float:
        """Return the mean of this rank's gradients, which are averaged over ranks: 1 for each micro-batch."""
        return torch.cat([local(it.grad) for it in self.model.parameters()]).mean().item()

    def _backward(self) -> None:
        losses = self._losses(self._batch)
        torch.stack([value for name, value in losses.items() if name.startswith("loss")]).sum().backward()


def local(tensor: Any) -> Tensor:
    """Return a tensor, or this rank's shard of a sharded one."""
    found: Tensor = tensor.to_local() if is_sharded_tensor(tensor) else tensor
    return found


def send_beside(model: nn.Module) -> Beside:
    """Make a sharded model overlap communication with its passes."""
    sums = Beside()
    units = [module for module in model.modules() if isinstance(module, FSDPModule)]
    layers = [module for module in units if module is not model]
    model._set_unshard_async_op(True)  # type: ignore[operator]
    for layer, following in pairwise(layers):
        layer.set_modules_to_forward_prefetch([following])
    for layer in layers:
        layer.set_custom_reduce_scatter(sums)  # type: ignore[arg-type]
    return sums


class TwoLevels:
    """Sums within machines, then between them, and broadcasts; for DistributedDataParallel's communication hook.

    Args:
        per_machine: ranks per machine.
    """

    def __init__(self, per_machine: int) -> None:
        self._inside, self._between = groups(per_machine)
        self._thread = ThreadPoolExecutor(1)

    def mean(self, bucket: Tensor) -> torch.futures.Future[Tensor]:
        """Queue a bucket after the earlier ones, and return a future of the mean over all ranks."""
        found: torch.futures.Future[Tensor] = torch.futures.Future()
        self._thread.submit(self._mean, bucket, found)
        return found

    def _mean(self, whole: Tensor, found: torch.futures.Future[Tensor]) -> None:
        inside = dist.get_world_size(self._inside)
        part = whole.new_empty(len(whole) // inside)
        reduce_scatter(part, whole, group=self._inside)
        dist.all_reduce(part, group=self._between)
        all_gather(whole, part.div_(dist.get_world_size()), group=self._inside)
        found.set_result(whole)


def groups(per_machine: int) -> tuple[dist.ProcessGroup, dist.ProcessGroup]:
    """Return the group of this rank's machine, and the group of its counterparts in other machines."""
    ranks = dist.get_world_size()
    machines = [list(range(first, first + per_machine)) for first in range(0, ranks, per_machine)]
    inside, _ = dist.new_subgroups_by_enumeration(machines)
    between, _ = dist.new_subgroups_by_enumeration([list(likes) for likes in zip(*machines, strict=True)])
    assert isinstance(inside, dist.ProcessGroup)
    assert isinstance(between, dist.ProcessGroup)
    return inside, between


class Beside:
    """A reduce-scatter that overlaps with the backward pass, as NCCL's does; for `set_custom_reduce_scatter`.

    gloo's is an all-reduce; here each rank sends every other rank its shard, which is as many bytes as a ring
    sends.
    """

    def __init__(self) -> None:
        self._under_way: tuple[Any, Tensor, Tensor] | None = None

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return memory for sending or receiving."""
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(
        self,
        output_tensor: Tensor,
        input_tensor: Tensor,
        group: dist.ProcessGroup,
        op: Any,
        async_op: bool = False,
    ) -> None:
        """Wait for the previous call, as FSDP2's streams do, and begin this one."""
        self.finish()
        received = torch.empty_like(input_tensor)
        work = dist.all_to_all_single(received, input_tensor, group=group, async_op=True)
        self._under_way = work, received, output_tensor

    def finish(self) -> None:
        """Wait for the pending call, and average what it has received."""
        if self._under_way is not None:
            work, received, output = self._under_way
            work.wait()
            torch.mean(received.view(-1, len(output)), dim=0, out=output)
            self._under_way = None
