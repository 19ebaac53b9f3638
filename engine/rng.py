"""The state of every random number generator that training draws from."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def seed_all(seed: int) -> None:
    """Seed python's, numpy's, torch's and each CUDA device's generator.

    >>> seed_all(3); a = torch.rand(1)
    >>> seed_all(3); torch.equal(a, torch.rand(1))
    True
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def rng_state() -> dict[str, Any]:
    """Return all generators' states as plain values and tensors, fit for a checkpoint."""
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": [name, keys.tolist(), position, has_gauss, cached],  # type: ignore[union-attr]
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Restore what `rng_state()` returned; CUDA states only for the devices that are here.

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
    for device, device_state in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(device_state, device)


@contextmanager
def preserved_rng() -> Iterator[None]:
    """Leave every generator as it was before the block.

    >>> seed_all(0); a = torch.rand(1); seed_all(0)
    >>> with preserved_rng():
    ...     _ = torch.rand(5)
    >>> torch.equal(a, torch.rand(1))
    True
    """
    state = rng_state()
    try:
        yield
    finally:
        set_rng_state(state)
