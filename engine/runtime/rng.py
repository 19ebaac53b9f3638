"""Seeds and states of all random number generators that training draws from."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from warmstart.data import splitmix64

logger = logging.getLogger(__name__)


def seed_rank(seed: int, rank: int) -> None:
    """Seed the generators of each rank differently; rank 0 uses `seed` itself.

    >>> seed_rank(3, rank=0); a = torch.rand(1)
    >>> seed_all(3); torch.equal(a, torch.rand(1))
    True
    """
    seed_all(splitmix64(seed, rank) if rank else seed)


def seed_all(seed: int) -> None:
    """Seed the generators of Python, NumPy, torch and each accelerator.

    >>> seed_all(3); a = torch.rand(1)
    >>> seed_all(3); torch.equal(a, torch.rand(1))
    True
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def seed_generators(key: int, device: torch.device) -> None:
    """Seed torch's default generators of the CPU and the device; torch.manual_seed takes fifty times as long."""
    torch.default_generator.manual_seed(key)
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.default_generators[index].manual_seed(key)
    elif device.type != "cpu":
        torch.get_device_module(device).manual_seed(key)


def rng_state(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Return the states of the generators as plain values and tensors, for a checkpoint.

    Args:
        device: where training runs; the generators of other accelerators are left out.
    """
    kind = torch.device(device).type
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    others = {} if kind in ("cpu", "cuda") else {kind: torch.get_device_module(kind).get_rng_state()}
    return {
        "python": random.getstate(),
        "numpy": [name, keys.tolist(), position, has_gauss, cached],  # type: ignore[union-attr]
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if kind == "cuda" else None,
        **others,
    }


def set_rng_state(state: dict[str, Any], device: torch.device | str = "cpu") -> None:
    """Restore what `rng_state()` returned; an accelerator's state only if training still runs on one of its type.

    >>> state = rng_state()
    >>> a = random.random(), np.random.rand(), torch.rand(1).item()
    >>> set_rng_state(state)
    >>> a == (random.random(), np.random.rand(), torch.rand(1).item())
    True
    """
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    kind = torch.device(device).type
    if state["cuda"] is not None and kind == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
    elif kind not in ("cpu", "cuda") and kind in state:
        torch.get_device_module(kind).set_rng_state(state[kind])


def restore_rng(
    states: Sequence[dict[str, Any]], device: torch.device | str = "cpu", rank: int = 0, world_size: int = 1
) -> None:
    """Restore this rank's state from the states of all ranks; with another world size seed it again, and log it.

    The new seed is drawn from the state of rank 0, so that it follows from the states alone.
    """
    if len(states) == world_size:
        set_rng_state(states[rank], device)
        return
    set_rng_state(states[0], device)
    seed_rank(int(torch.randint(2**62, ())), rank)
    text = "processes: %d -> %d; batches stay the same, the random numbers of dropout and the like are new"
    logger.info(text, len(states), world_size)


@contextmanager
def preserved_rng(device: torch.device | str = "cpu") -> Iterator[None]:
    """Leave every generator as it was before the block.

    >>> seed_all(0); a = torch.rand(1); seed_all(0)
    >>> with preserved_rng():
    ...     _ = torch.rand(5)
    >>> torch.equal(a, torch.rand(1))
    True
    """
    state = rng_state(device)
    try:
        yield
    finally:
        set_rng_state(state, device)
