"""Initial weights: from MODEL.WEIGHTS, or from training images for models that need them."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

from torch import nn

from warmstart.config import CfgNode
from warmstart.data import TrainLoader, build_train_loader, to_device
from warmstart.modeling import (
    ANY_TASK,
    BACKBONE,
    InitsFromImages,
    ModelTask,
    WeightsFile,
    build_model,
    read_weights_file,
    weights_path,
)
from warmstart.tasks import Task

from ..checkpoint import sharded as shards
from ..checkpoint.run_files import BEST, FINAL, NUMBERED, checkpoint_number
from ..distributed import comm
from ..distributed.build import build_strategy
from ..distributed.errors import local_rank_zero_first
from ..distributed.meta_device import without_weights
from ..runtime.rng import preserved_rng
from .scores import is_best_average


def weights_in(name: str) -> str:
    """Return the file for MODEL.WEIGHTS: in a run's folder the best checkpoint, else the final, else the newest.

    A `~` at the beginning is the home folder. Anything else than a folder with checkpoints is returned unchanged.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for file in ("model_0000009.pth", "model_0000099.pth"):
    ...         Path(folder, file).touch()
    ...     print(Path(weights_in(folder)).name)
    model_0000099.pth
    """
    if name.startswith(BACKBONE):
        return f"{BACKBONE}{weights_in(name.removeprefix(BACKBONE))}"
    folder = Path(os.path.expanduser(name))
    if not name or not folder.is_dir():
        return name
    numbered = [path for path in folder.glob("model_*.pth") if NUMBERED.fullmatch(path.name)]
    newest = sorted(numbered, key=lambda path: checkpoint_number(path.name))[-1:]
    found = (path for path in (folder / BEST, folder / FINAL, *newest) if path.is_file())
    return str(next(found, name))


def read_weights(cfg: CfgNode, trust: bool = False) -> WeightsFile | None:
    """Return the file that MODEL.WEIGHTS names, on the ranks that need it; of a sharded one all shards.

    What must be downloaded is, once a machine, by its local rank 0. Waits for all ranks.

    Args:
        cfg: resolved.
        trust: whether to read the file even if that can run code in it.

    Raises:
        ConfigError: the file is missing or damaged, cannot be downloaded, or contains more than tensors and plain
            values.
    """
    needed = build_strategy(cfg).has_weights
    if cfg.MODEL.WEIGHTS:
        arguments = cfg.MODEL.WEIGHTS, cfg.MODEL.NAME, cfg.label("MODEL.WEIGHTS")
        local_rank_zero_first(lambda: weights_path(*arguments) if needed else None)
    if not needed:
        return None
    found = read_weights_file(cfg, trust)
    if found is None:
        return None
    path, content, entry = found
    if isinstance(content, dict) and isinstance(content.get(shards.KEY), dict):
        folder = shards.verify(content, path)
        content = content if folder is None else shards.fill(content, folder)
    if entry == "auto" and is_best_average(path, content):
        entry = "ema"
    return WeightsFile(path, content, entry)


def build_for_ranks(
    cfg: CfgNode, trust: bool = False, weights: bool | WeightsFile = True, task: ModelTask = ANY_TASK
) -> nn.Module:
    """Return the model of `build_model`; if it will be sharded, only rank 0 has weights, and only if `weights`.

    Waits for all ranks if `weights` is True.

    Args:
        cfg: resolved.
        trust: whether to read MODEL.WEIGHTS even if that can run code in the file.
        weights: whether MODEL.WEIGHTS is read; or the result of `read_weights`.
        task: what the model is built for.
    """
    strategy = build_strategy(cfg)
    found = read_weights(cfg, trust) if weights is True else weights
    if not strategy.is_sharded or (weights and strategy.has_weights):
        return build_model(cfg, trust, found or False, task)
    try:
        with without_weights():
            return build_model(cfg, weights=False, task=task)
    except Exception:  # the builder computes with the weights, or fails in any case
        return build_model(cfg, weights=False, task=task)


def init_from_data(cfg: CfgNode, task: Task, model: nn.Module, loader: TrainLoader) -> None:
    """Let a model initialize weights from its training images, if it implements `InitsFromImages`.

    Nothing is done if MODEL.WEIGHTS gives the weights; a resumed run does not call this, because its checkpoint
    has all weights. The states of the random number generators are preserved, so that the initial weights depend
    only on the config.

    Args:
        cfg: resolved.
        task: makes samples and batches.
        model: on its device.
        loader: of the training set; the images come from a separate stream of it.
    """
    if cfg.MODEL.WEIGHTS or not isinstance(model, InitsFromImages):
        return
    device = next(model.parameters()).device
    if comm.world_size() > 1:  # full batches: weights do not depend on the number of ranks
        loader = build_train_loader(cfg, task)
    with preserved_rng(device), closing(loader.batches()) as batches:
        model.init_from_images(to_device(batch.images, device) for batch in batches)
