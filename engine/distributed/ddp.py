"""Data parallel training by torch's DistributedDataParallel: each rank holds the full model."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.distributed.distributed_c10d import PrefixStore, _get_default_store
from torch.nn.parallel import DistributedDataParallel

from warmstart.config import ConfigError

from . import comm
from .errors import _Shared
from .strategy import Strategy, with_sync_bn

_LAG = 5.0  # seconds by which a rank may find later than another that it lacks gradients


class DDP(Strategy):
    """Full replicas of the model, whose gradients are averaged over the ranks in the backward pass.

    The model itself, and so the names in checkpoints, stays as it is; rank 0 sends its weights and buffers to
    all ranks. In training each rank then updates its own buffers, such as BatchNorm's running statistics; those
    of rank 0 are evaluated and saved.

    Args:
        sync_bn: whether BatchNorm layers compute their statistics over the images of all ranks.
        static_graph: whether the same parameters get gradients in every update.
        unused_parameters: whether some parameters may get no gradient in an update.
        bf16_gradients: whether gradients are averaged in bfloat16.
        label: where the user sets `unused_parameters`, for messages.
        fix: what to set there.
    """

    counts_gradients = True

    def __init__(
        self,
        *,
        sync_bn: bool = False,
        static_graph: bool = False,
        unused_parameters: bool = False,
        bf16_gradients: bool = False,
        label: str = "unused_parameters",
        fix: str = "set it to true",
    ) -> None:
        self.sync_bn = sync_bn
        self.static_graph = static_graph
        self.unused_parameters = unused_parameters
        self.bf16_gradients = bf16_gradients
        self.label, self.fix = label, fix
        self._parallel: DistributedDataParallel | None = None

    def place(self, model: nn.Module, device: torch.device) -> nn.Module:
        """Return the model on its device, with synchronised BatchNorm layers if asked for."""
        return (with_sync_bn(model) if self.sync_bn else model).to(device)

    def forward(self, model: nn.Module) -> nn.Module:
        """Return the model wrapped in DistributedDataParallel; waits for all ranks."""
        device = next(model.parameters()).device
        if self._parallel is not None:  # its reducer would average the gradients once more
            del self._parallel.reducer, self._parallel.logger
        self._parallel = DistributedDataParallel(
            model,
            device_ids=[device] if device.type != "cpu" else None,
            gradient_as_bucket_view=True,
            static_graph=self.static_graph,
            find_unused_parameters=self.unused_parameters,
        )
        # Buffers are shared when they are evaluated: to do so in each step would take half as long as the step
        # itself for a small model on CPUs. Not as an argument, whose name differs between versions of torch.
        self._parallel.broadcast_buffers = False
        if self.bf16_gradients:
            self._parallel.register_comm_hook(None, bf16_compress_hook)
        return self._parallel

    def no_sync(self) -> AbstractContextManager[None]:
        """Return DistributedDataParallel's own context."""
        assert self._parallel is not None, "forward() comes first"
        return self._parallel.no_sync()

    def check_gradients(self) -> None:
        """Raise ConfigError, in microseconds, if gradients of this rank were not averaged.

        torch waits for a gradient of each parameter, and says so in its own words in the next forward pass; by
        then this update is done, with other gradients on each rank.
        """
        if self.unused_parameters or self.static_graph:
            return
        assert self._parallel is not None, "forward() comes first"
        try:
            self._parallel._check_reducer_finalized()  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            message = self._without_gradient(self._parallel.module, str(error))
        else:
            return
        raise _Shared(message) if _main_says_it() else ConfigError(message)

    def _without_gradient(self, model: nn.Module, text: str) -> str:
        """Return the message in place of torch's text, which has the numbers of the parameters."""
        names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        found = re.search(r"for rank \d+: ((?:\d+ ?)+)", text)
        unused = [names[int(number)] for number in found[1].split()] if found else []
        listed = ", ".join([*unused[:3], "..."] if len(unused) > 3 else unused)
        which = f" ({listed})" if listed else ""
        return (
            f"{self.label}: parameters got no gradient in this update{which}, and the other processes wait for"
            f" them; {self.fix}"
        )


def _main_says_it() -> bool:
    """Return whether rank 0 has come here too, so that no other rank needs to say what they have all found.

    By the store of the rendezvous: a rank that has all its gradients waits in its backward pass, not here.
    The store may be rank 0's own, which therefore leaves last.
    """
    store = PrefixStore("gradients", _get_default_store())
    others = comm.world_size() - 1
    if comm.is_main():
        store.set("main", "")
        _wait(lambda: store.add("others", 0) == others)
        return False
    came = _wait(lambda: store.check(["main"]))
    store.add("others", 1)
    return came


def _wait(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + _LAG
    while not (met := condition()) and time.monotonic() < end:
        time.sleep(0.02)
    return met
