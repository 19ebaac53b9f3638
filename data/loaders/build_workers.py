"""The number of worker processes: DATALOADER.NUM_WORKERS, or a number that follows from the cores."""

from __future__ import annotations

import os

from warmstart.config import CfgNode

from ..datasets.registry import is_in_memory
from ..spec import DataSpec, device_of

# Environment variable with the number of cores that a launcher has bound this process to.
OWN_CORES = "WARMSTART_CORES"

_AT_MOST = 8  # more workers seldom help, and each takes memory


def num_workers(cfg: CfgNode, data: DataSpec) -> int:
    """Return the number of worker processes of a config; if NUM_WORKERS is null, one per core, up to 8.

    With null there are none if the images are in memory and the model runs on the CPU: loading an image then takes
    less than a tenth of a millisecond, and the model needs the cores itself.

    >>> from warmstart.config import get_cfg
    >>> from warmstart.data import data_spec
    >>> cfg = get_cfg()
    >>> cfg.merge_from_list(["MODEL.DEVICE", "cpu"])
    >>> num_workers(cfg, data_spec(cfg))
    0
    """
    if cfg.DATALOADER.NUM_WORKERS is not None:
        return int(cfg.DATALOADER.NUM_WORKERS)
    if cfg.INPUT.DECODER == "nvjpeg":  # only the training process can decode with it
        return 0
    in_memory = all(map(is_in_memory, (*data.training_sets, *data.test_sets.values())))
    return 0 if in_memory and device_of(cfg) == "cpu" else min(usable_cores(), _AT_MOST)


def describe_workers(cfg: CfgNode, data: DataSpec) -> str:
    """Return the number of workers as text for the log, with the number of cores if it follows from it.

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
    """Return the cores that this process may use: its share if a launcher has started several on this machine.

    All cores count if the system does not report which may be used.

    >>> 1 <= usable_cores() <= os.cpu_count()
    True
    """
    if OWN_CORES in os.environ:
        return int(os.environ[OWN_CORES])
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
