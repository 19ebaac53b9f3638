"""From what the user wrote to what will run: everything checked, durations and sizes filled in.

Nothing is built and nothing is written before this has passed.
"""

from __future__ import annotations

from fractions import Fraction

import torch

from warmstart.config import CfgNode, ConfigError, gathering, resolve_durations
from warmstart.data import check_data, input_shape, train_info
from warmstart.modeling import check_model
from warmstart.solver import check_solver

SMALL_IMAGE = 32  # pixels a side, up to which MODEL.STEM auto takes the small stem


def resolve_config(cfg: CfgNode) -> CfgNode:
    """Return a frozen copy of `cfg` with every duration an integer and the model's sizes filled in.

    MODEL.NUM_CLASSES, MODEL.IN_CHANNELS and MODEL.STEM follow from the training set where they are 0
    or "auto". Resolving twice changes nothing.

    Raises:
        ConfigError: everything that is wrong with the config, at once.

    >>> from warmstart.config import get_cfg
    >>> cfg = get_cfg()
    >>> cfg.merge_from_list(["SOLVER.MAX_ITER", "2ep", "SOLVER.IMS_PER_BATCH", 100])
    >>> resolved = resolve_config(cfg)
    >>> resolved.SOLVER.MAX_ITER, resolved.MODEL.NUM_CLASSES, resolved.MODEL.STEM
    (29, 10, 'small')
    """
    problems: list[str] = []
    with gathering(problems):
        check_device(cfg)
    with gathering(problems):
        check_data(cfg)
    if problems:
        raise ConfigError(problems)
    info = train_info(cfg)
    resolved = resolve_durations(cfg, Fraction(info.size, cfg.SOLVER.IMS_PER_BATCH))
    resolved.defrost()
    with gathering(problems):
        _fill_model(resolved, info.num_classes)
    with gathering(problems):
        check_model(resolved)
    with gathering(problems):
        check_solver(resolved)
    if problems:
        raise ConfigError(problems)
    resolved.freeze()
    return resolved


def check_device(cfg: CfgNode) -> None:
    """Raise ConfigError where MODEL.DEVICE asks for what this machine has not."""
    name, label = cfg.MODEL.DEVICE, cfg.label("MODEL.DEVICE")
    kind, _, index = name.partition(":")
    if name in ("auto", "cpu"):
        return
    if kind != "cuda" or (":" in name and not index.isdigit()):
        raise ConfigError(f"{label}: expected auto, cpu, cuda or cuda:N; got {name!r}")
    if not torch.cuda.is_available():
        raise ConfigError(f"{label}: {name!r} asked for, but torch finds no CUDA device; use auto or cpu")
    if index and int(index) >= torch.cuda.device_count():
        raise ConfigError(f"{label}: {name!r} asked for, but there are {torch.cuda.device_count()} CUDA devices")


def get_device(cfg: CfgNode) -> torch.device:
    """Return the device that MODEL.DEVICE means on this machine."""
    if cfg.MODEL.DEVICE == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(cfg.MODEL.DEVICE)


def _fill_model(cfg: CfgNode, num_classes: int) -> None:
    """Fill in what follows from the data set; item access keeps the source of each value as it was."""
    model = cfg.MODEL
    channels, *sides = input_shape(cfg)
    if model.IN_CHANNELS not in (0, channels):
        raise ConfigError(
            f"{cfg.label('MODEL.IN_CHANNELS')}: the training images have {channels} channels, not "
            f"{model.IN_CHANNELS}; use 0 to follow the data set"
        )
    model["NUM_CLASSES"] = model.NUM_CLASSES or num_classes
    model["IN_CHANNELS"] = channels
    if model.STEM == "auto":
        model["STEM"] = "small" if max(sides) <= SMALL_IMAGE else "standard"
