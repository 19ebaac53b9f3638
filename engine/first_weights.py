"""First weights that follow from the training images, for models that ask for it."""

from __future__ import annotations

from contextlib import closing

from torch import nn

from warmstart.config import CfgNode
from warmstart.data import TrainLoader, build_train_loader
from warmstart.modeling import InitsFromImages

from . import comm
from .batches import to_device
from .rng import preserved_rng


def init_from_data(cfg: CfgNode, model: nn.Module, loader: TrainLoader) -> None:
    """Let a model set weights by the images it will be trained on, as `InitsFromImages` says.

    Nothing is done where the model has no such method, or where MODEL.WEIGHTS gives the weights. A resumed run
    does not come here: its checkpoint holds all weights. Random number generators are as before, and so the first
    weights follow from the config alone.

    Args:
        cfg: resolved.
        model: on its device.
        loader: training's; a stream of its own is taken from it.
    """
    if cfg.MODEL.WEIGHTS or not isinstance(model, InitsFromImages):
        return
    device = next(model.parameters()).device
    if comm.world_size() > 1:  # whole batches: weights do not depend on the number of ranks
        loader = build_train_loader(cfg)
    with preserved_rng(device), closing(loader.batches()) as batches:
        model.init_from_images(to_device(images, device) for images, _ in batches)
