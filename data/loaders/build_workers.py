"""How many processes load: what DATALOADER.NUM_WORKERS says, or else what the cores do."""

from __future__ import annotations

import os

from warmstart.config import CfgNode

from ..datasets.registry import is_in_memory
from ..spec import DataSpec, device_of

# In the environment of a process to which a launcher has given some cores of its own: how many.
OWN_CORES = "WARMSTART_CORES"

_AT_MOST = 8  # more seldom help, and each takes memory of its own


def num_workers(cfg: CfgNode, data: DataSpec) -> int:
    """Return how many processes the worker loader of a config has; where NUM_WORKERS is null, one a core, up to 8.

    Then none, where the images lie in memory and the model computes on the CPU: an image takes less than a tenth
    of a millisecond there, and the model needs the cores itself.

    >>> from warmstart.config import get_cfg
    >>> from warmstart.data import data_spec
    >>> cfg = get_cfg()
    >>> cfg.merge_from_list(["MODEL.DEVICE", "cpu"])
    >>> num_workers(cfg, data_spec(cfg))
    0
    """
    if cfg.DATALOADER.NUM_WORKERS is not None:
        return int(cfg.DATALOADER.NUM_WORKERS)
    if cfg.INPUT.DECODER == "nvjpeg":  # which the training process alone can do
        return 0
    in_memory = all(map(is_in_memory, (*data.training_sets, *data.test_sets.values())))
    return 0 if in_memory and device_of(cfg) == "cpu" else min(usable_cores(), _AT_MOST)


def describe_workers(cfg: CfgNode, data: DataSpec) -> str:
    """Return the same for the log, and of how many cores it follows where it does.

    >>> from warmstart.config import get_cfg
    >>> from warmstart.data import data_spec
    >>> cfg = get_cfg()
    >>> cfg.merge_from_list(["DATALOADER.NUM_WORKERS", 3])
    >>> describe_workers(cfg, data_spec(cfg))
    '3 processes'
    """
    cores = "" if cfg.DATALOADER.NUM_WORKERS is not None else f" for {usable_cores()} cores"
    return f"{num_workers(cfg, data)} processes{cores}"


def usable_cores() -> int:
    """Return the cores that this process may use, its share where a launcher has started several on this machine.

    Where the system does not tell, all count.

    >>> 1 <= usable_cores() <= os.cpu_count()
    True
    """
    if OWN_CORES in os.environ:
        return int(os.environ[OWN_CORES])
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
